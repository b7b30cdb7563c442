"""The main job with the installed package: studies -> store -> query -> batches, AnnData.

Run by the Python of an environment with dao-polars[anndata], from outside the checkout. Every
number is held against anndata's own reading of the files.

python job.py path/to/data
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import polars as pl

import dao_polars as dao

STUDIES = ["pancreas_human", "pancreas_mouse"]


def main(data: Path) -> None:
    """The job on two of the studies in the folder ``data``."""
    here = Path(dao.__file__).resolve()
    assert Path(sys.prefix).resolve() in here.parents, f"not the installed package: {here}"
    studies = {name: ad.read_h5ad(data / f"{name}.h5ad") for name in STUDIES}
    with tempfile.TemporaryDirectory() as folder:
        uri = Path(folder) / "atlas of two"  # with spaces
        for name in STUDIES:
            store = dao.write_dataset(uri, data / f"{name}.h5ad", progress=False, gene_index=True)
        assert store.verify().is_empty(), store.verify()
        assert store.datasets["nnz"].to_list() == [study.X.nnz for study in studies.values()]
        cells = dao.scan(uri)
        beta = cells.filter(pl.col("cell_type") == "beta")
        batches(beta, studies)
        expression(beta, studies)
        to_anndata(beta.filter(dataset="pancreas_human"), studies["pancreas_human"])
        changes(store)
        another_process(uri)
        command_line(uri)
    print(f"dao-polars {dao.__version__}, Python {sys.version.split()[0]}: every number is right")


def batches(beta: pl.LazyFrame, studies: dict[str, ad.AnnData]) -> None:
    """An epoch has each cell once, with its own counts."""
    panel = ["INS", "IAPP", "Ins1", "Ins2", "Iapp"]
    loader = beta.dao.iter_batches(256, shuffle=True, seed=0, genes=panel)
    seen = 0
    for x, obs in loader:
        for i, (name, cell) in enumerate(obs.select("dataset", "obs_name").iter_rows()):
            study = studies[name]
            genes = [gene for gene in panel if gene in study.var_names]
            expected = study[cell, genes].X.toarray()[0]
            found = x[[i]].toarray()[0][[panel.index(gene) for gene in genes]]
            assert np.array_equal(found, expected), f"{name}, {cell}"
            seen += 1
    expected_cells = sum(
        int((study.obs["cell_type"] == "beta").sum()) for study in studies.values()
    )
    assert seen == len(set(range(seen))) == loader.n_obs == expected_cells


def expression(beta: pl.LazyFrame, studies: dict[str, ad.AnnData]) -> None:
    """Polars finds the plugin in the installed extension, and it reads the right counts."""
    found = beta.filter(dataset="pancreas_human").select(dao.gene("INS").sum()).collect().item()
    human = studies["pancreas_human"]
    assert found == human[human.obs["cell_type"] == "beta", "INS"].X.sum()


def to_anndata(cells: pl.LazyFrame, study: ad.AnnData) -> None:
    """A selection is what anndata selects."""
    found = cells.dao.to_anndata(progress=False)
    expected = study[found.obs_names]
    assert list(found.var_names) == list(study.var_names)
    assert (found.X != expected.X).nnz == 0
    assert set(expected.obs_names) == set(study.obs_names[study.obs["cell_type"] == "beta"])


def changes(store: dao.Store) -> None:
    """Versions, edits and vacuum, while a file of the store is open."""
    reading = iter(store.scan().dao.iter_batches(64, genes="union"))
    next(reading)
    store = store.rename_dataset("pancreas_mouse", "mouse")
    first = store.scan().filter(dataset="mouse").head(5)
    store = store.update_obs(first.select("cell", checked=pl.lit(True)))
    assert store.scan().select(pl.col("checked").sum()).collect().item() == 5
    store = store.remove_dataset("mouse")
    assert store.restore(2).n_obs == dao.load_store(store.uri, version=2).n_obs
    reading.close()
    store.vacuum(dry_run=False)


def another_process(uri: Path) -> None:
    """A selection that was saved is read by another Python of the environment."""
    selection = uri.parent / "selection.parquet"
    human = dao.scan(uri).filter(dataset="pancreas_human")
    human.select("cell").head(100).sink_parquet(selection)
    code = (
        "import sys, polars as pl, dao_polars\n"
        "cells = pl.scan_parquet(sys.argv[1])\n"
        "print(cells.dao.to_anndata(genes=['INS'], progress=False).n_obs)"
    )
    run = [sys.executable, "-c", code, os.fspath(selection)]
    found = subprocess.run(run, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) == 100


def command_line(uri: Path) -> None:
    """The script that was installed runs, and finds the store whole."""
    script = Path(sysconfig.get_path("scripts"), "dao-polars").with_suffix(
        ".exe" if os.name == "nt" else ""
    )
    found = subprocess.run([script, "verify", uri], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


if __name__ == "__main__":
    main(Path(sys.argv[1]))
