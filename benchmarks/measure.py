"""One measurement of one contender, in this process; prints one line of JSON.

    python measure.py CONTENDER list
    python measure.py CONTENDER write SETTING --data FOLDER --store PATH
    python measure.py CONTENDER read PATTERN SETTING --data FOLDER --store PATH [--cold]

Runs in the contender's own environment (Python 3.9 too), so imports nothing but the standard
library and numpy. What a contender does is in ``peers/CONTENDER.py``; this owns what is the same
for all: the untimed pass that warms the cache and sums the counts, the timed pass, and memory.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import mmap
import os
import re
import time
from pathlib import Path

import numpy as np

WHOLE = "to_anndata"  # reads one object


class Task:
    """What a contender is given.

    ``source``: the .h5ad; ``store``: the contender's own; ``data``: what data.py knows of the
    cells; ``report``: what the contender wants to tell of this measurement, by name: functions that
    are called when it is over.
    """

    batch = 1024
    obs = ("cell_type", "donor")

    def __init__(self, folder: Path, store: Path) -> None:
        self.source = folder / "data.h5ad"
        self.store = store
        self.data = json.loads((folder / "data.json").read_text())
        self.cell_type = self.data["cell_type"]
        self.panel = self.data["panel"]
        self.report: dict = {}


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
    task = Task(args.data, args.store)
    imports = memory("VmHWM")
    result = write(peer, task, *args.names) if args.what == "write" else read(peer, task, args)
    reported = {name: value() for name, value in task.report.items()}
    print(json.dumps({**result, "imports": imports, **reported}))


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
        "writes": list(peer.WRITES),
    }


def write(peer, task: Task, setting: str) -> dict:
    warm(task.source)
    began = time.perf_counter()
    peer.WRITES[setting](task)
    seconds = time.perf_counter() - began
    counts = getattr(peer, "counts_bytes", None)
    return {
        "cells": task.data["cells"],
        "seconds": seconds,
        "peak": memory("VmHWM"),
        "bytes": sum(file.stat().st_size for file in files(task.store)),
        "counts_bytes": counts(task) if counts else None,
    }


def read(peer, task: Task, args: argparse.Namespace) -> dict:
    """Opening is timed on its own, then whole epochs; a part of one where the peer is slow
    (``PARTS`` says how many cells)."""
    pattern, setting = args.names
    part = getattr(peer, "PARTS", {}).get((pattern, setting))
    part = part if part is not None and part < task.data["cells"] else None
    places = [place for place in (task.source, task.store) if place.exists()]
    if not args.cold:
        for place in places:
            warm(place)
    began = time.perf_counter()
    epoch = peer.READS[pattern][setting](task)
    opening = time.perf_counter() - began
    sums = Sums()
    passes = []
    if pattern == WHOLE:  # the one object that is read is summed after the clock stopped
        warm_memory(16 * task.data["nnz"])
        for place in places if args.cold else []:
            cool(place)
        kept: list = []
        passes.append(drain(epoch(), None, kept.append))
        peak = memory("VmHWM")
        sums.add(kept[0])
    else:
        drain(epoch(), part, sums.add)
        # What is short is read again, up to a second in all.
        while not passes or (not args.cold and sum(seconds for _, seconds in passes) < 1):
            for place in places if args.cold else []:
                cool(place)
            passes.append(drain(epoch(), part, None))
        peak = memory("VmHWM")
    check(task.data, pattern, sums, None if part else [cells for cells, _ in passes])
    return {
        "cells": passes[0][0],
        "seconds": float(np.median([seconds for _, seconds in passes])),
        "passes": len(passes),
        "opening": opening,
        "part": part is not None,
        "peak": peak,
    }


def drain(batches, part: int | None, use) -> tuple[int, float]:
    """Cells and seconds of a pass, or of its first ``part`` cells."""
    cells, began = 0, time.perf_counter()
    for x in batches:
        cells += x.shape[0]
        if use is not None:
            use(x)
        if part is not None and cells >= part:
            break
    return cells, time.perf_counter() - began


class Sums:
    """Cells and counts that were delivered."""

    def __init__(self) -> None:
        self.cells, self.total = 0, 0.0

    def add(self, x) -> None:
        values = x if isinstance(x, np.ndarray) else x.data
        self.cells += x.shape[0]
        self.total += float(values.sum(dtype=np.float64))


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
    elif (sums.cells, sums.total) != (cells, total) or set(timed) != {cells}:
        raise SystemExit(
            f"{sums.cells:,} cells with {sums.total:,.0f} counts, then {timed} cells were "
            f"delivered, not {cells:,} with {total:,.0f}"
        )


def memory(field: str) -> int:
    """Bytes, of /proc/self/status. (getrusage would report the parent's peak.)"""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+)", status)[1]) * 1024


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
    """Has a virtual machine's host hand out so many bytes, twice what X takes, beforehand.

    Where it takes back what is free, whoever comes first would pay for all who come after.
    """
    child = os.fork()
    if child == 0:
        space = mmap.mmap(-1, size)
        for page in range(0, size, mmap.PAGESIZE):
            space[page] = 1
        os._exit(0)
    os.waitpid(child, 0)


def cool(place: Path) -> None:
    """Out of the page cache."""
    for file in files(place):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


if __name__ == "__main__":
    main()
