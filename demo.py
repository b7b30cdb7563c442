"""The main job on the real cells in data/: studies -> store -> query -> mini-batches, AnnData.

python demo.py               in a temporary folder
python demo.py --keep atlas  leaves the store in ./atlas

Every number is checked against anndata's own reading of the files; the exit code is 1 if one
is off.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import numpy as np
import polars as pl

import dao_polars as dao

DATA = Path(__file__).parent / "data"
STUDIES = ["pbmc_human", "pancreas_human", "pancreas_mouse", "heart_human"]
HORMONES = ["INS", "GCG", "SST", "Ins2", "Gcg", "Sst"]  # human names, then the mouse's


def main() -> None:
    """Run the demo in the folder that the command line names, or in a temporary one."""
    parser = argparse.ArgumentParser(description="dao-polars' main job on the cells in data/")
    parser.add_argument("--keep", metavar="PATH", type=Path, help="write the store here, keep it")
    keep = parser.parse_args().keep
    if keep is not None and keep.exists():
        parser.error(f"{keep} is there already; choose a new folder")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        demo(keep or Path(folder) / "atlas", Path(folder) / "islets.parquet")
    print(f"\nEvery count is as anndata reads it; {time.perf_counter() - began:.1f} s in all.")
    if keep is not None:
        print(f'The store is in {keep}: dao.scan("{keep}")')


def demo(uri: Path, selection: Path) -> None:
    """The main job in five steps; the arguments are where the store and a selection go."""
    studies = {name: ad.read_h5ad(DATA / f"{name}.h5ad") for name in STUDIES}

    with step("Write four studies into a store"):
        for name in STUDIES:
            store = dao.write_dataset(uri, DATA / f"{name}.h5ad")
    print(store)
    check("cells of the store", store.n_obs, sum(adata.n_obs for adata in studies.values()))
    check("non-zero values", store.datasets["nnz"].to_list(), [a.X.nnz for a in studies.values()])

    lf = dao.scan(uri)  # a pl.LazyFrame, one row a cell
    with step("Query them as one lazy polars frame: the cell types, by study"):
        types = lf.group_by("dataset", "cell_type").len("cells").collect()
    print(types.sort("cells", descending=True))
    expected = Counter(
        (name, cell_type) for name, adata in studies.items() for cell_type in adata.obs["cell_type"]
    )
    check("cell types", {(name, kind): n for name, kind, n in types.iter_rows()}, dict(expected))

    two = lf.filter(pl.col("dataset").is_in(["pbmc_human", "pancreas_human"]))
    with step("Shuffled mini-batches of two studies, on the genes that both have"):
        batches = two.dao.iter_batches(512, shuffle=True, seed=0, genes="intersection")
        epoch = list(batches)  # a training loop would take them one by one
    print(batches)
    for x, obs in epoch:
        mixed = ", ".join(f"{n} of {name}" for name, n in sorted(Counter(obs["dataset"]).items()))
        print(f"  x {x.shape}, {x.nnz:,} values; obs {obs.shape}: {mixed}")
        check_rows(x, obs, batches.genes.to_list(), studies)
    check("cells of an epoch", sum(len(batch) for batch in epoch), batches.n_obs)

    islets = lf.filter(
        pl.col("organ") == "Pancreas", pl.col("cell_type").is_in(["alpha", "beta", "delta"])
    )
    with step("The hormone cells of two species as an AnnData with six genes"):
        adata = islets.dao.to_anndata(genes=HORMONES)
    by = [adata.obs["organism"], adata.obs["cell_type"]]
    means = adata.to_df().groupby(by, observed=True).mean()
    print("mean counts a cell:", means.to_string(float_format="{:.1f}".format), sep="\n")
    obs = pl.DataFrame({"dataset": [*adata.obs["dataset"]], "obs_name": [*adata.obs_names]})
    check_rows(adata.X, obs, HORMONES, studies)
    check("hormone cells", adata.n_obs, sum(map(hormone_cells, studies.values())))

    with step("A selection is data: saved, loaded, read again"):
        islets.select("cell", "cell_type").sink_parquet(selection)
        again = pl.scan_parquet(selection).dao.to_anndata(genes=HORMONES)
    print(f"{selection.stat().st_size:,} bytes name {again.n_obs:,} cells")
    check("values read again that differ", (again.X != adata.X).nnz, 0)


def hormone_cells(adata: ad.AnnData) -> int:
    """How many alpha, beta and delta cells a study has."""
    return int(adata.obs["cell_type"].isin(["alpha", "beta", "delta"]).sum())


def check_rows(x, obs: pl.DataFrame, genes: list[str], studies: dict[str, ad.AnnData]) -> None:
    """See that each row of ``x`` holds the counts of the cell in the same row of ``obs``."""
    for name in obs["dataset"].unique().to_list():
        rows = np.flatnonzero((obs["dataset"] == name).to_numpy())
        cells = studies[name][obs["obs_name"].gather(rows).to_list()]
        here = [i for i, gene in enumerate(genes) if gene in cells.var_names]
        counts = cells[:, [genes[i] for i in here]].X
        check(f"counts of {name}", (x[rows][:, here] != counts).nnz, 0)
        check(f"genes that {name} lacks", x[rows].sum(), counts.sum())


def check(what: str, found: object, expected: object) -> None:
    """Stop with exit code 1 if something is off."""
    if found != expected:
        sys.exit(f"WRONG: {what}: found {found}, expected {expected}")


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print what is done and how long it took."""
    began = time.perf_counter()
    yield
    print(f"\n== {title} ({time.perf_counter() - began:.2f} s)")


if __name__ == "__main__":
    main()
