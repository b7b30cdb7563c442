"""A store of 100,000,000 cells in 1,000 datasets: what opening, querying and training on it take.

    python benchmarks/scale.py                everything; results/ gets scale.md and scale.json
    python benchmarks/scale.py --datasets 20 --cells 10000 --results /tmp/small

The store is really written, once, into `.work`: cells of few values (FEW of data.py), so that it
fits a disk of 20 GB; obs has a type, a donor and a number. Each measurement is a process of its
own, after the files that it reads were read once. README.md beside this says what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from data import FEW

HERE = Path(__file__).parent
GENES = 20_000
BATCH = 1024
N_TYPES = 40
RANKS = (1, 2, 4, 8)
#: Batches of a rank that are timed, after the first.
BATCHES = 300


def study(number: int, n_cells: int) -> Any:
    """A dataset: FEW counts a cell, of genes in a window that its type has."""
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp

    rng = np.random.default_rng(number)
    kinds = rng.integers(0, N_TYPES, n_cells)
    window = GENES // N_TYPES // FEW
    first = kinds[:, None] * (GENES // N_TYPES) + np.arange(FEW) * window
    indices = (first + rng.integers(0, window, (n_cells, FEW))).astype(np.int32)
    counts = rng.geometric(0.5, n_cells * FEW).astype(np.float32)
    x = sp.csr_matrix(
        (counts, indices.ravel(), np.arange(n_cells + 1, dtype=np.int64) * FEW), (n_cells, GENES)
    )
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(kinds, [f"type {k:02}" for k in range(N_TYPES)]),
            "donor": pd.Categorical.from_codes(
                rng.integers(0, 8, n_cells), [f"donor {number % 250:03}-{i}" for i in range(8)]
            ),
            "n_counts": counts.reshape(n_cells, FEW).sum(axis=1),
        },
        index=pd.RangeIndex(n_cells).astype(str),
    )
    return ad.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(GENES)]))


def write(store: Path, n_datasets: int, n_cells: int) -> float:
    """Writes the store, a dataset a version; the seconds that it took, without making the cells."""
    import dao_polars as dao

    took = 0.0
    partial = store.with_name(store.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for number in range(n_datasets):
        cells = study(number, n_cells)
        begun = time.perf_counter()
        dao.write_dataset(partial, cells, dataset=f"study {number:04}", progress=False)
        took += time.perf_counter() - begun
        if (number + 1) % 50 == 0:
            print(f"  {number + 1} datasets, {took:.0f} s", flush=True)
    partial.rename(store)
    return took


def resident() -> tuple[int, int]:
    """The process's anonymous memory now, and the most that it had resident, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    return kib["RssAnon"] * 1024, kib["VmHWM"] * 1024


def opening(store: str) -> dict[str, Any]:
    """From the import on: opening, the lazy frame, its schema, a query of metadata."""
    import polars as pl

    import dao_polars as dao

    steps: dict[str, Any] = {}
    begun = time.perf_counter()
    lf = dao.scan(store)
    lf.collect_schema()
    steps["open"] = time.perf_counter() - begun
    begun = time.perf_counter()
    table = lf.group_by("cell_type").agg(pl.len(), pl.col("n_counts").mean()).collect()
    steps["group_by"] = time.perf_counter() - begun
    steps["cells"] = int(table["len"].sum())
    begun = time.perf_counter()
    one = lf.filter(pl.col("dataset") == "study 0007").select(pl.col("n_counts").sum()).collect()
    steps["one_dataset"] = time.perf_counter() - begun
    steps["one_sum"] = float(one.item())
    return steps


def loading(store: str, pattern: str, rank: int, world: int, part: str) -> dict[str, Any]:
    """A loader of all cells, or of one type's: ready, the first batch, the next ones; memory."""
    import polars as pl

    import dao_polars as dao

    lf = dao.scan(store).select("cell", "cell_type")
    if part != "all":
        lf = lf.filter(pl.col("cell_type") == part)
    before = resident()[0]
    begun = time.perf_counter()
    shuffle: Any = {"order": False, "random": True, "blocks": "block"}[pattern]
    obs = ["cell_type"]
    loader = lf.dao.iter_batches(
        BATCH, shuffle=shuffle, seed=0, obs=obs, rank=rank, world_size=world
    )
    ready = time.perf_counter() - begun
    batches = iter(loader)
    next(batches)
    first = time.perf_counter() - begun
    anonymous, peak = resident()
    begun, n = time.perf_counter(), 0
    for batch in batches:
        n += len(batch)
        if n >= BATCHES * BATCH:
            break
    rate = n / (time.perf_counter() - begun)
    return {
        "cells": loader.n_obs,
        "ready": ready,
        "first": first,
        "rate": rate,
        "bytes_a_cell": (anonymous - before) / max(1, loader.n_obs),
        "peak": peak,
    }


def partitioning(store: str, n: int) -> dict[str, Any]:
    """The pieces of all cells, how small they pickle, and how even they are."""
    import pickle

    import dao_polars as dao

    lf = dao.scan(store).select("cell")
    begun = time.perf_counter()
    pieces = lf.dao.partitions(n)
    return {
        "partitions": time.perf_counter() - begun,
        "pickled": max(len(pickle.dumps(piece)) for piece in pieces[:3]),
    }


STEPS = {"opening": opening, "loading": loading, "partitioning": partitioning}


def start(step: str, *arguments: Any) -> subprocess.Popen[str]:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, "--step", json.dumps([step, *arguments])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a measurement failed with {process.returncode}")
    return dict(json.loads(out.splitlines()[-1]))


def warm(store: Path) -> int:
    """Reads all files once; their bytes."""
    total = 0
    for file in sorted(store.rglob("*")):
        if file.is_file():
            with open(file, "rb") as opened:
                while piece := opened.read(1 << 24):
                    total += len(piece)
    return total


def measured(store: Path) -> dict[str, Any]:
    """All measurements of a store."""
    uri = str(store)
    found: dict[str, Any] = {"opening": result(start("opening", uri))}
    for part in ("type 07", "all"):
        for pattern in ("order", "blocks", "random"):
            found[f"loading {part}, {pattern}"] = result(start("loading", uri, pattern, 0, 1, part))
            print(part, pattern, found[f"loading {part}, {pattern}"], flush=True)
    for world in RANKS:
        ranks = [start("loading", uri, "random", r, world, "type 07") for r in range(world)]
        found[f"ranks {world}"] = [result(rank) for rank in ranks]
        print(world, found[f"ranks {world}"][0], flush=True)
    found["partitioning"] = result(start("partitioning", uri, 64))
    return found


def page(said: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    found, rows = said["found"], []
    opened = found["opening"]
    lines = [
        f"{said['machine']}. {said['datasets']:,} datasets of {said['cells']:,} cells × {GENES:,} "
        f"genes, {FEW} values a cell, {said['bytes'] / 1e9:.1f} GB in {said['files']:,} files"
        + (f", written in {said['writing']:,.0f} s." if said["writing"] else "."),
        "",
        "| | |",
        "|---|---:|",
        f"| opening, and the LazyFrame with its schema | {opened['open']:.2f} s |",
        f'| `group_by("cell_type")` of {opened["cells"]:,} cells, with a mean | '
        f"{opened['group_by']:.1f} s |",
        f"| a sum over one dataset | {opened['one_dataset']:.2f} s |",
        f"| `partitions(64)` of all cells | {found['partitioning']['partitions']:.1f} s |",
        f"| bytes of a pickled piece | {found['partitioning']['pickled']:,} |",
        "",
        "| loader of | order | cells | ready s | first batch s | cells/s then | bytes a cell | "
        "peak GB |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, one in found.items():
        if name.startswith("loading "):
            part, pattern = name.removeprefix("loading ").split(", ")
            rows.append(
                f"| {part} | {pattern} | {one['cells']:,} | {one['ready']:.1f} | "
                f"{one['first']:.1f} | {one['rate']:,.0f} | {one['bytes_a_cell']:.1f} | "
                f"{one['peak'] / 1e9:.2f} |"
            )
    lines += [*rows, "", "| ranks on this machine | cells/s together | slowest first batch s |"]
    lines += ["|---:|---:|---:|"]
    for world in RANKS:
        ranks = found[f"ranks {world}"]
        rate, first = sum(r["rate"] for r in ranks), max(r["first"] for r in ranks)
        lines.append(f"| {world} | {rate:,.0f} | {first:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--datasets", type=int, default=1000)
    parser.add_argument("--cells", type=int, default=100_000, help="of a dataset")
    parser.add_argument("--work", type=Path, default=HERE / ".work")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        step, *arguments = json.loads(args.step)
        print(json.dumps(STEPS[step](*arguments)))
        return
    store = args.work / f"scale-{args.datasets}x{args.cells}"
    args.work.mkdir(exist_ok=True)
    took = 0.0
    if not store.exists():
        print(f"writing {store.name}", flush=True)
        took = write(store, args.datasets, args.cells)
    n_bytes = warm(store)
    said = {
        "machine": f"{os.cpu_count()} cores, {os.sysconf('SC_PHYS_PAGES') * 4096 / 2**30:.0f} GiB",
        "datasets": args.datasets,
        "cells": args.cells,
        "bytes": n_bytes,
        "files": sum(file.is_file() for file in store.rglob("*")),
        "writing": took,
        "found": measured(store),
    }
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "scale.json").write_text(json.dumps(said, indent=1) + "\n")
    (args.results / "scale.md").write_text(page(said))
    print(page(said))


if __name__ == "__main__":
    main()
