"""Converting a large .h5ad out of core: seconds and peak memory.

    python benchmarks/convert.py [--cells 200000] [--shuffle] [--csc]

Makes the file first, in a temporary folder: cells of data/pancreas_human.h5ad drawn with
replacement, each thinned binomially (a rate a cell, uniform 0.4 to 0.9), so that sparsity and
gene-gene structure are real. Then converts it in a process of its own and reports that process's
peak resident memory, and how much of it the imports take.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import scipy.sparse as sp

SOURCE = Path(__file__).parent.parent / "data" / "pancreas_human.h5ad"

CONVERT = """
import json, re, sys, time
import anndata, h5py, dao_polars as dao
# getrusage would report the parent's peak, which a child starts from.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
imports, began = peak(), time.perf_counter()
dao.write_dataset(sys.argv[1], sys.argv[2], dataset="big", shuffle=sys.argv[3] == "True", seed=0,
                  progress=False)
print(json.dumps({"seconds": time.perf_counter() - began, "peak": peak(), "imports": imports}))
"""


def thinned(counts: sp.csr_matrix, rng: np.random.Generator, n: int) -> sp.csr_matrix:
    """``n`` cells drawn with replacement, thinned."""
    x = counts[rng.integers(0, counts.shape[0], n)]
    rates = np.repeat(rng.uniform(0.4, 0.9, n), np.diff(x.indptr))
    x.data = rng.binomial(x.data.astype(np.int64), rates).astype(np.float32)
    x.eliminate_zeros()
    return x


def make_file(path: Path, n_cells: int, csc: bool) -> int:
    """Writes the file piece by piece; the number of stored values."""
    source = ad.read_h5ad(SOURCE)
    rng = np.random.default_rng(0)
    if csc:
        parts = [
            thinned(source.X, rng, min(20_000, n_cells - at)) for at in range(0, n_cells, 20_000)
        ]
        x = sp.vstack(parts, "csc")
        ad.AnnData(x, var=source.var).write_h5ad(path)
        return int(x.nnz)
    ad.AnnData(
        obs=source.obs.iloc[rng.integers(0, source.n_obs, n_cells)].reset_index(drop=True),
        var=source.var,
    ).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        group = file.create_group("X")
        group.attrs["encoding-type"] = "csr_matrix"
        group.attrs["encoding-version"] = "0.1.0"
        group.attrs["shape"] = (n_cells, source.n_vars)
        make = {"maxshape": (None,), "chunks": (1 << 18,), "compression": "lzf"}
        data = group.create_dataset("data", (0,), np.float32, **make)
        indices = group.create_dataset("indices", (0,), np.int32, **make)
        indptr = [np.zeros(1, np.int64)]
        for at in range(0, n_cells, 10_000):
            x = thinned(source.X, rng, min(10_000, n_cells - at))
            start = len(data)
            for target, values in ((data, x.data), (indices, x.indices)):
                target.resize((start + x.nnz,))
                target[start:] = values
            indptr.append(x.indptr[1:].astype(np.int64) + start)
        group["indptr"] = np.concatenate(indptr)
        return len(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--shuffle", action="store_true")
    parser.add_argument("--csc", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, store = Path(folder) / "big.h5ad", Path(folder) / "store"
        began = time.perf_counter()
        nnz = make_file(path, args.cells, args.csc)
        size = path.stat().st_size / 1e6
        print(f"{args.cells:,} cells, {nnz / 1e6:.0f} M non-zeros, {size:,.0f} MB", end=" ")
        print(f"(made in {time.perf_counter() - began:.0f} s)")
        done = subprocess.run(
            [sys.executable, "-c", CONVERT, store, path, str(args.shuffle)],
            check=True,
            capture_output=True,
            text=True,
        )
        result = json.loads(done.stdout)
        written = sum(f.stat().st_size for f in store.rglob("*") if f.is_file()) / 1e6
        print(
            f"converted in {result['seconds']:.1f} s ({args.cells / result['seconds']:,.0f} cells "
            f"a second) to {written:,.0f} MB; peak memory {result['peak']:.0f} MB, of which "
            f"imports {result['imports']:.0f} MB"
        )


if __name__ == "__main__":
    main()
