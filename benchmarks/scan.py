"""How much slower is a query on a store's scan than on the parquet files themselves?

Makes a store of synthetic obs (10 million cells in 200 datasets unless told otherwise; manifest
and tables, no matrices) and runs each query on `dao.scan` and on a plain `pl.scan_parquet` of
the same files, in turns. Prints medians and their ratio; and the first run, in which the columns
that no query before has read are checked too.

    python benchmarks/scan.py [--cells 10_000_000] [--datasets 200] [--repeats 11] [--keep FOLDER]

With `--manifest` instead: what a manifest of many datasets costs in time and memory.

    python benchmarks/scan.py --manifest 300_000
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import google_crc32c
import numpy as np
import polars as pl
from measure import memory

import dao_polars as dao
from dao_polars import _core

CELL_TYPES = [f"cell type {i:03d}" for i in range(80)]
TISSUES = [f"tissue {i:02d}" for i in range(30)]
C = pl.col

Result = TypeVar("Result")


def synthetic_obs(rng: np.random.Generator, number: int, n: int) -> pl.DataFrame:
    """One dataset's obs: 20 of 80 cell types, 12 donors of its own, one tissue, barcodes."""

    def pick(values: list[str], codes: np.ndarray) -> pl.Series:
        return pl.Series(values, dtype=pl.String).gather(codes.astype(np.uint32))

    types = rng.choice(len(CELL_TYPES), 20, replace=False)
    shares = rng.dirichlet(np.ones(20))
    barcodes = pl.Series(rng.integers(0, 1 << 40, n)).cast(pl.String)
    return pl.DataFrame(
        {
            "obs_name": f"{number:03d}-" + barcodes,
            "cell_type": pick(CELL_TYPES, types[rng.choice(20, n, p=shares)]),
            "donor": pick(
                [f"donor {number}_{i}" for i in range(12)], np.sort(rng.integers(0, 12, n))
            ),
            "tissue": pick(TISSUES, np.full(n, number % 30)),
            "sex": pick(["female", "male"], rng.integers(0, 2, n)),
            "n_counts": pl.Series(rng.integers(500, 50_000, n)),
            "pct_mito": pl.Series(rng.random(n)),
        }
    )


def make_store(path: Path, cells: int, datasets: int) -> list[str]:
    """Writes the store; gives the paths of its obs files."""
    rng = np.random.default_rng(0)
    entries, files = [], []
    words: dict[str, dict[str, int]] = {}
    for number in range(datasets):
        n = cells * (number + 1) // datasets - cells * number // datasets
        obs = synthetic_obs(rng, number, n)
        name = f"study_{number:03d}"
        file = path / "parts" / name / "obs.parquet"
        file.parent.mkdir(parents=True)
        obs.write_parquet(file, row_group_size=65_536, statistics=True)
        files.append(str(file))
        text = [c for c, t in obs.schema.items() if t == pl.String and c != "obs_name"]
        for column in text:
            known = words.setdefault(column, {})
            known.update({word: known.get(word, 0) + 1 for word in obs[column].unique()})
        entries.append(
            {
                "number": number,
                "dataset": name,
                "path": f"parts/{name}",
                "description": "part.json",
                "obs_path": "obs.parquet",
                "n_obs": n,
                "n_vars": 0,
                "nnz": 0,
                "layout": "csr",
                "dtype": "uint16",
                "bytes": file.stat().st_size,
                "checksum": "crc32c:00000000",  # of its description, which no scan reads
                "obs": [[c, str(t)] for c, t in obs.schema.items() if c != "obs_name"],
                "obs_file": json.loads(_core.TableFile.of(str(file)).json),
                "constants": {"organism": "Mus musculus" if number % 4 == 0 else "Homo sapiens"},
                "var_id": "none",
                "layers": [],
                "obsm": [],
            }
        )
    write_manifest(path, entries, words)
    return files


def write_manifest(
    path: Path, entries: list[dict[str, Any]], categories: dict[str, dict[str, int]]
) -> None:
    """Writes the one version of a store; docs/format.md."""
    manifest = {
        "format": "dao-version",
        "version": 2,
        "store": "00000000-0000-0000-0000-000000000000",
        "number": 1,
        "since_base": 0,
        "oldest": 1,
        "next_number": len(entries),
        "operation": "benchmark",
        "message": "synthetic",
        "time": "2026-01-01T00:00:00.000Z",
        "package": "none",
        "attempt": "none",
        "n_datasets": len(entries),
        "n_obs": sum(entry["n_obs"] for entry in entries),
        "parts": entries,
        "categories": {c: {"unlisted": 0, "values": values} for c, values in categories.items()},
    }
    rest = json.dumps(manifest).removeprefix("{")
    checksum = f"crc32c:{google_crc32c.value(rest.encode()):08x}"
    (path / "versions").mkdir()
    (path / "versions" / f"{1:010}.json").write_text(f'{{"checksum":"{checksum}",{rest}')
    (path / "versions" / "latest").write_text("1")


def make_manifest(path: Path, datasets: int) -> None:
    """Writes the manifest of many datasets, and no files of them."""
    rng = random.Random(0)
    columns = [[name, "String"] for name in ("cell_type", "donor", "tissue", "sex", "disease")]
    columns += [["n_counts", "Int64"], ["pct_mito", "Float64"]]
    entries = []
    for number in range(datasets):
        obs = columns if number % 3 else columns[:-2]
        organism = "Homo sapiens" if number % 4 else "Mus musculus"
        checksums = [rng.getrandbits(32) for _ in obs]
        entries.append(
            {
                "number": number,
                "dataset": f"study_{number:06d}",
                "path": f"parts/study_{number:06d}",
                "description": "part.json",
                "obs_path": "obs.parquet",
                "n_obs": 10,
                "n_vars": 20_000,
                "nnz": 5_000,
                "layout": "csr",
                "dtype": "uint16",
                "bytes": 50_000,
                "checksum": f"crc32c:{rng.getrandbits(32):08x}",
                "organism": organism,
                "obs": obs,
                "obs_file": {
                    "size": 9_000,
                    "rows": 10,
                    "tail": 1_000,
                    "tail_crc32c": rng.getrandbits(32),
                    "columns": [*checksums, 0],
                },
                "constants": {
                    "organism": organism,
                    "title": f"The study of number {number}",
                    "year": 2000 + number % 24,
                    "assay": ["10x 3' v3", "Smart-seq2"][number % 2],
                },
                "var_id": f"{number % 4:064x}",
                "layers": ["counts"],
                "obsm": ["X_pca", "X_umap"],
            }
        )
    write_manifest(path, entries, {})


def run_manifest(path: Path) -> None:
    """Times what a manifest of many datasets costs, and the most memory up to then."""

    def step(name: str, function: Callable[[], Result]) -> Result:
        start = time.perf_counter()
        result = function()
        took = time.perf_counter() - start
        most = memory("VmHWM") / 1e6
        print(f"{name:44}{took:>8.2f} s{most:>8.0f} MB")
        return result

    print(f"{'':44}{'time':>10}{'at most':>11}")
    step("nothing yet", lambda: None)
    store = step("dao.load_store", lambda: dao.load_store(path))
    lf = step("store.scan()", store.scan)
    step("store.datasets", lambda: store.datasets)
    studies = lf.filter(C("organism") == "Mus musculus", C("year") == 2008)
    step("the keys of one organism and year", lambda: studies.select("cell").collect())
    step("all keys", lambda: lf.select("cell").collect())


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


QUERIES: dict[str, Callable[[pl.LazyFrame], pl.LazyFrame]] = {
    "rare cell type, by donor": lambda lf: (
        lf.filter(C("cell_type") == "cell type 003")
        .group_by("donor")
        .agg(pl.len(), C("n_counts").mean())
    ),
    "deep cells, by cell type": lambda lf: (
        lf.filter(C("n_counts") > 20_000).group_by("cell_type").agg(pl.len(), C("pct_mito").mean())
    ),
    "two conditions, by tissue": lambda lf: (
        lf.filter(C("cell_type").is_in(CELL_TYPES[:10]), C("sex") == "female")
        .group_by("tissue")
        .agg(C("pct_mito").mean())
    ),
    "one donor, by cell type": lambda lf: (
        lf.filter(C("donor") == "donor 17_3").group_by("cell_type").len()
    ),
    "no filter, by cell type": lambda lf: lf.group_by("cell_type").len(),
}
OWN = {
    "one organism, by dataset and cell type": lambda lf: (
        lf.filter(C("organism") == "Mus musculus").group_by("dataset", "cell_type").len()
    ),
    "one dataset": lambda lf: lf.filter(C("dataset") == "study_007").select("obs_name"),
    "rare cell type, its keys and all columns": lambda lf: lf.filter(
        C("cell_type") == "cell type 003"
    ),
    "all keys": lambda lf: lf.select("cell"),
    "count": lambda lf: lf.select(pl.len()),
}


def run(path: Path, files: list[str], repeats: int) -> None:
    store = str(path)
    first = seconds(lambda: dao.scan(store))
    times = [seconds(lambda: dao.scan(store)) for _ in range(repeats)]
    print(
        f"open and build the LazyFrame: {median(times) * 1e3:.1f} ms (first {first * 1e3:.1f} ms)"
    )
    print(f"{'':44}{'first':>9}{'scan':>9}{'parquet':>9}{'ratio':>7}")
    for name, query in QUERIES.items():
        ours = lambda: query(dao.scan(store)).collect()  # noqa: B023, E731
        plain = lambda: query(pl.scan_parquet(files)).collect()  # noqa: B023, E731
        plain()  # so that the files are in memory for both
        cold = seconds(ours) * 1e3
        pairs = [(seconds(ours), seconds(plain)) for _ in range(repeats)]
        mine, theirs = (median(column) * 1e3 for column in zip(*pairs, strict=True))
        print(f"{name:44}{cold:>6.0f} ms{mine:>6.0f} ms{theirs:>6.0f} ms{mine / theirs:>7.2f}")
    for name, query in OWN.items():
        ours = lambda: query(dao.scan(store)).collect()  # noqa: B023, E731
        cold = seconds(ours) * 1e3
        warm = median(seconds(ours) for _ in range(repeats)) * 1e3
        print(f"{name:44}{cold:>6.0f} ms{warm:>6.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=int, default=10_000_000)
    parser.add_argument("--datasets", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--keep", type=Path, help="make the store here, or use the one here")
    parser.add_argument("--manifest", type=int, help="datasets of a manifest to open instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if args.manifest:
            make_manifest(Path(temporary), args.manifest)
            run_manifest(Path(temporary))
            return
        path = args.keep or Path(temporary) / "store"
        if (path / "versions").exists():
            files = sorted(map(str, path.glob("parts/*/obs.parquet")))
        else:
            files = make_store(path, args.cells, args.datasets)
        size = sum(Path(file).stat().st_size for file in files)
        print(f"{args.cells:,} cells in {len(files)} datasets, {size / 1e6:.0f} MB of obs")
        run(path, files, args.repeats)


if __name__ == "__main__":
    main()
