"""What does an edit cost: of a large store's obs, and to those who scan it after?

Makes a store of synthetic obs (10 million cells in 100 datasets unless told otherwise, of one gene)
and prints seconds and the peak memory of: a new column for all cells, one for one dataset, cells
removed, cells appended; and a query before 50 edits and after them, in turns with each other.

    python benchmarks/edits.py [--cells 10_000_000] [--datasets 100] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import anndata as ad
import numpy as np
import polars as pl
import scipy.sparse as sp
from measure import memory
from scan import synthetic_obs

import dao_polars as dao

C = pl.col


def study(rng: np.random.Generator, number: int, n: int, genes: int = 1) -> ad.AnnData:
    """One dataset: synthetic obs, and counts of which one in twenty is not zero."""
    obs = synthetic_obs(rng, number, n).to_pandas().set_index("obs_name")
    counts = sp.random(n, genes, 0.05, "csr", np.float32, rng, lambda k: rng.integers(1, 9, k))
    return ad.AnnData(counts, obs=obs)


def timed(what: str, run: Callable[[], Any]) -> Any:
    before = memory("VmRSS")
    start = time.perf_counter()
    result = run()
    took = time.perf_counter() - start
    print(f"{what:45s} {took:8.3f} s   resident {before >> 20} to {memory('VmRSS') >> 20} MiB")
    return result


def query(store: dao.Store) -> float:
    """Seconds of a query that reads a column of all datasets, and one of some."""
    start = time.perf_counter()
    lf = store.scan().filter(C("cell_type") == "cell type 007")
    lf.group_by("donor").agg(C("n_counts").mean()).collect()
    return time.perf_counter() - start


def run(path: Path, cells: int, datasets: int) -> None:
    rng = np.random.default_rng(0)
    each = cells // datasets
    for number in range(datasets):
        adata = study(rng, number, each)
        store = dao.write_dataset(path, adata, dataset=f"study_{number:03d}", progress=False)
    print(f"{store.n_obs:,} cells in {datasets} datasets, version {store.version}")
    keys = store.scan().select("cell").collect()
    column = keys.with_columns(cluster=pl.Series(rng.integers(0, 40, keys.height)).cast(pl.String))
    store = timed("update_obs, a column of text of all cells", lambda: store.update_obs(column))
    one = store.scan().filter(C("dataset") == "study_001").select("cell", score=C("n_counts") * 2.0)
    store = timed("update_obs, a column of one dataset", lambda: store.update_obs(one))
    some = keys.sample(keys.height // 1000, seed=0)
    store = timed("remove_cells, one in a thousand of all", lambda: store.remove_cells(some))
    more = study(rng, 999, 200_000, 2000)
    more.var_names = more.var_names.astype(str)

    def write(mode: Any) -> dao.Store:
        return dao.write_dataset(path, more, dataset="more", mode=mode, progress=False)

    timed("write_dataset, 200,000 cells × 2,000 genes", lambda: write("error"))
    store = timed("the same appended to it", lambda: write("append"))
    first = store
    for i in range(50):
        name = f"study_{i % datasets:03d}"
        of_one = store.scan().filter(C("dataset") == name).head(1000)
        store = store.update_obs(of_one.select("cell", n_counts=C("n_counts") + 1))
    print(f"version {store.version} after 50 edits of 1,000 cells each")
    pairs = [(query(first), query(store)) for _ in range(11)][1:]
    before, after = (median(times) for times in zip(*pairs, strict=True))
    print(f"query before {before:.3f} s, after {after:.3f} s, ratio {after / before:.2f}")
    opened = median(seconds(lambda: dao.load_store(path)) for _ in range(11))
    print(f"opening {1000 * opened:.1f} ms")


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=10_000_000)
    parser.add_argument("--datasets", type=int, default=100)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    if args.keep:
        return run(args.keep, args.cells, args.datasets)
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder) / "store", args.cells, args.datasets)
    return None


if __name__ == "__main__":
    main()
