"""Converting a large .h5ad out of core: seconds and peak memory.

    python benchmarks/convert.py [--cells 200000] [--shuffle] [--csc]

Makes the file first (see data.py), in a temporary folder. Then converts it in a process of its
own and reports that process's peak resident memory, and how much of it the imports take.
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

from data import make_h5ad

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--shuffle", action="store_true")
    parser.add_argument("--csc", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, store = Path(folder) / "big.h5ad", Path(folder) / "store"
        began = time.perf_counter()
        nnz = make_h5ad(path, args.cells, "lzf").nnz
        if args.csc:
            adata = ad.read_h5ad(path)
            adata.X = adata.X.tocsc()
            adata.write_h5ad(path)
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
