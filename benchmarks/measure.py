"""One measurement of one contender, in this process; prints one line of JSON.

    python measure.py CONTENDER list
    python measure.py CONTENDER write SETTING --data FOLDER --store PATH
    python measure.py CONTENDER read PATTERN SETTING --data FOLDER --store PATH [--cold]

Runs in the contender's own environment (Python 3.9 too), so imports nothing but the standard
library and numpy. What a contender does is in ``peers/CONTENDER.py``; this owns what is the same
for all: the untimed pass that warms the cache and sums the counts, the timed pass, and memory.

``peers/CONTENDER.py`` has TITLE, PACKAGES, and by setting

    WRITES      what writes its store; may return what is to be timed, when it has prepared for it
    READS       by pattern: what opens the store, and gives a function that begins an epoch: batches
                ``(x, samples)``, where samples are the obs column ``sample`` of the batch or, where
                none are delivered, a function that says them (which is not called while timed)
    PARTS       by pattern and setting: cells of an epoch to be content with
    KINDS       what it can hold of data.KINDS; counts and sparse where it says nothing
    FROM_SOURCE that it reads the .h5ad though it writes a store; who writes none does so anyway
    CLOUDS      what is read over a network; see remote.py
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

WHOLE = "to_anndata"  # reads one object
FRESH = 1 << 30  # bytes, of all that a first epoch asks for
FIRST = "first epoch"  # of a process: opening is part of it, and nothing was read before
SMALL = "batches of 256"
LONG = 60  # seconds after which an epoch is left


class Task:
    """What a contender is given.

    ``source``: the .h5ad; ``store``: the contender's own; ``data``: what data.py knows of the
    cells; ``batch``: how many of them come together.
    """

    obs = ("cell_type", "sample")

    def __init__(self, folder: Path, store: Path, pattern: str) -> None:
        self.batch = 256 if pattern == SMALL else 1024
        self.source = folder / "data.h5ad"
        self.store = store
        self.data = json.loads((folder / "data.json").read_text())
        self.cell_type = self.data["cell_type"]
        self.panel = self.data["panel"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("contender")
    parser.add_argument("what", choices=["list", "write", "read"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--cold", action="store_true")
    args = parser.parse_args()
    peer = load(args.contender)
    if args.what == "list":
        print(json.dumps(listing(peer)))
        return
    task = Task(args.data, args.store, args.names[0])
    imports = {"imports": memory("VmHWM"), "imports_anon": memory("RssAnon")}
    result = write(peer, task, *args.names) if args.what == "write" else read(peer, task, args)
    print(json.dumps({**result, **imports}))


def load(name: str):
    """The module peers/NAME.py. Under a name of its own: the file is called like the package."""
    path = Path(__file__).parent / "peers" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"contender_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listing(peer) -> dict:
    return {
        "title": peer.TITLE,
        "note": " ".join(peer.__doc__.split()),
        "versions": {name: importlib.metadata.version(name) for name in peer.PACKAGES},
        "reads": {pattern: list(settings) for pattern, settings in peer.READS.items()},
        "clouds": {
            pattern: list(settings) for pattern, settings in getattr(peer, "CLOUDS", {}).items()
        },
        "writes": list(peer.WRITES),
        "kinds": list(getattr(peer, "KINDS", ("counts", "sparse"))),
    }


def write(peer, task: Task, setting: str) -> dict:
    warm(task.source)
    with Sampled(0.05) as sampled:
        began = time.perf_counter()
        prepared = peer.WRITES[setting](task)
        if callable(prepared):
            began = time.perf_counter()
            prepared()
        seconds = time.perf_counter() - began
    counts = getattr(peer, "counts_bytes", None)
    return {
        "cells": task.data["cells"],
        "seconds": seconds,
        "peak": memory("VmHWM"),
        "anon": sampled.peak,
        "bytes": sum(file.stat().st_size for file in files(task.store)),
        "counts_bytes": counts(task) if counts else None,
    }


def read(peer, task: Task, args: argparse.Namespace) -> dict:
    """Opening is timed on its own, then whole epochs; a part of one where the peer is slow
    (``PARTS`` says how many cells, or the time is up)."""
    pattern, setting = args.names
    part = getattr(peer, "PARTS", {}).get((pattern, setting))
    part = part if part is not None and part < task.data["cells"] else None
    places = [task.source if getattr(peer, "FROM_SOURCE", not peer.WRITES) else task.store]
    for place in places:
        cool(place) if args.cold else warm(place)
    if pattern == FIRST:
        warm_memory(FRESH)
    began = time.perf_counter()
    epoch = peer.READS[pattern][setting](task)
    opening = time.perf_counter() - began
    sums = Sums()
    passes = []
    if pattern == FIRST:
        passes.append((drain(epoch(), part, None)[0], time.perf_counter() - began))
    elif args.cold:
        # Before all else: what a process has mapped stays in the page cache.
        for place in places:
            cool(place)
        if pattern != WHOLE:
            passes.append(drain(epoch(), part, None))
    if pattern == WHOLE:  # the one object that is read is summed after the clock stopped
        warm_memory(16 * task.data["nnz"])  # twice what X takes
        kept: list = []
        with Sampled(0.05) as sampled:
            passes.append(drain(epoch(), None, lambda *batch: kept.append(batch)))
        peak = memory("VmHWM")
        sums.add(*kept[0])
    else:
        with Sampled(0.005) as sampled:
            summed = drain(epoch(), part, sums.add)
        # What is short is read again, up to a second in all.
        while not passes or (
            pattern != FIRST and not args.cold and sum(seconds for _, seconds in passes) < 1
        ):
            passes.append(drain(epoch(), part, None))
        peak = memory("VmHWM")
        if part is None and any(seconds > LONG for _, seconds in [summed, *passes]):
            part = min(cells for cells, _ in [summed, *passes])
    check(task.data, pattern, sums, None if part else [cells for cells, _ in passes])
    return {
        "cells": passes[0][0],
        "seconds": float(np.median([seconds for _, seconds in passes])),
        "passes": len(passes),
        "opening": opening,
        "part": part is not None,
        "peak": peak,
        "anon": sampled.peak,
        "diversity": None if pattern == WHOLE else sums.diversity(),
    }


def drain(batches, part: int | None, use) -> tuple[int, float]:
    """Cells and seconds of a pass, or of its first ``part`` cells."""
    cells, began = 0, time.perf_counter()
    for x, samples in batches:
        cells += x.shape[0]
        if use is not None:
            use(x, samples)
        if (part is not None and cells >= part) or time.perf_counter() - began > LONG:
            break
    return cells, time.perf_counter() - began


class Sums:
    """Cells and values that were delivered, and how mixed they were."""

    def __init__(self) -> None:
        self.cells, self.total = 0, 0.0
        self.batches, self.mixed = 0, 0.0  # and the sum of their entropies
        self.samples: Counter = Counter()  # cells by sample

    def count(self, x) -> None:
        """Without looking at how mixed they are."""
        values = x if isinstance(x, np.ndarray) else x.data
        self.cells += x.shape[0]
        self.total += float(values.sum(dtype=np.float64))

    def add(self, x, samples) -> None:
        self.count(x)
        named = np.asarray(samples() if callable(samples) else samples).astype(str)
        if len(named) != x.shape[0]:
            raise SystemExit(f"a batch of {x.shape[0]} cells came with {len(named)} rows of obs")
        cells = Counter(named.tolist())
        self.batches += 1
        self.mixed += entropy(cells)
        self.samples.update(cells)

    def diversity(self) -> float:
        """The mean entropy of samples within a batch, by that of all that was delivered: what
        dao_polars' ``batch_diversity("sample")`` is."""
        whole = entropy(self.samples)
        return self.mixed / self.batches / whole if whole else 1.0


def entropy(cells: Counter) -> float:
    shares = np.array(list(cells.values())) / sum(cells.values())
    return float(-(shares * np.log(shares)).sum())


def check(data: dict, pattern: str, sums: Sums, timed: list | None) -> None:
    """Whoever read all (``timed``: cells of each pass) must have delivered all; a part must look
    like one."""
    cells, total = data["cells"], data["total"]
    if pattern == "selection":
        cells, total = data["selected"], data["selected_total"]
    if pattern == "dense":
        total = data["panel_total"]
    if timed is None:
        mean, expected = sums.total / sums.cells, total / cells
        if abs(mean / expected - 1) > 0.1:
            raise SystemExit(f"{mean:.1f} counts a cell were delivered, not {expected:.1f}")
    # Sums of counts are exact in any order, those of floats are not.
    elif (
        sums.cells != cells
        or abs(sums.total - total) > (1e-9 * total if data["kind"] == "floats" else 0)
        or set(timed) != {cells}
    ):
        raise SystemExit(
            f"{sums.cells:,} cells with {sums.total:,.0f} counts, then {timed} cells were "
            f"delivered, not {cells:,} with {total:,.0f}"
        )


def memory(field: str) -> int:
    """Bytes, of /proc/self/status. (getrusage would report the parent's peak.)"""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+)", status)[1]) * 1024


class Sampled(contextlib.AbstractContextManager):
    """The most anonymous memory (``RssAnon``) while it is entered, of which the kernel keeps no
    peak: what the process allocated, without the mapped pages of files, which are the page
    cache's."""

    def __init__(self, every: float) -> None:
        self.every, self.peak = every, 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def look(self) -> None:
        while True:
            self.peak = max(self.peak, memory("RssAnon"))
            if self.over.wait(self.every):
                return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self.over.set()
        self.thread.join()
        self.peak = max(self.peak, memory("RssAnon"))


def files(place: Path) -> list:
    if place.is_file():
        return [place]
    return [file for file in sorted(place.rglob("*")) if file.is_file()]


def warm(place: Path) -> None:
    """Into the page cache."""
    for file in files(place):
        with open(file, "rb", buffering=0) as stream:
            while stream.read(1 << 20):
                pass


def warm_memory(size: int) -> None:
    """Has a virtual machine's host hand out so many bytes beforehand.

    Where it takes back what is free, whoever comes first would pay for all who come after.
    """
    # Not forked: this process would look its own pages up anew.
    touch = "import mmap, sys\nspace = mmap.mmap(-1, int(sys.argv[1]))\n"
    touch += "for page in range(0, len(space), mmap.PAGESIZE):\n    space[page] = 1"
    subprocess.run([sys.executable, "-S", "-c", touch, str(size)], check=True)


def cool(place: Path) -> None:
    """Out of the page cache."""
    for file in files(place):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


if __name__ == "__main__":
    main()
