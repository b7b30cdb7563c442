"""How batches, loaders and the namespace show themselves; what is told when a loader is made."""

from __future__ import annotations

import inspect
import pickle
import warnings

import numpy as np
import polars as pl
import pytest

import dao_polars as dao
from tests.conftest import study


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> pl.LazyFrame:
    adata = study(1, 40, ["a", "b", "c"])
    adata.layers["raw"] = adata.X
    adata.obsm["pca"] = np.ones((40, 2), np.float32)
    adata.obs["<b>"] = "x&y"
    uri = tmp_path_factory.mktemp("show") / "atlas"
    return dao.write_dataset(uri, adata, dataset="s", layers=True).scan()


def test_a_batch_in_a_few_lines(cells):
    batch = next(iter(cells.dao.iter_batches(16, layers=True, obsm=True)))
    nnz = f"{batch.x.nnz:,}"
    assert repr(batch) == "\n".join(
        [
            "Batch of 16 cells",
            f"  x: 16 × 3, csr float32, {nnz} values",
            "  obs: dataset, obs_name, cell_type, score, <b>",
            f"  layers 'raw': 16 × 3, csr float32, {nnz} values",
            "  obsm 'pca': 16 × 2, dense float32",
        ]
    )
    dense = next(iter(cells.dao.iter_batches(4, layout="dense", obs=False)))
    assert repr(dense) == "Batch of 4 cells\n  x: 4 × 3, dense float32\n  obs: no columns"


def test_a_batch_in_a_notebook(cells):
    batch = next(iter(cells.dao.iter_batches(16, obsm=True)))
    shown = batch._repr_html_()
    assert "16 × 3, csr float32" in shown
    assert "<code>pca</code> 16 × 2, dense" in shown
    assert "x&amp;y" in shown
    assert "&lt;b&gt;" in shown
    assert shown.count("<tr>") == 2 + 5  # names and types, and the first five cells


def test_a_loader(cells):
    batches = cells.dao.iter_batches(16, shuffle=True, seed=3, obsm="pca")
    assert repr(batches) == "3 batches of 16 from 40 cells × 3 genes, csr, shuffled, seed 3"
    next(iter(batches))
    shown = batches._repr_html_()
    for part in (
        "3 batches of 16",
        "shuffled, seed 3; epoch 1 is next",
        "obsm/pca (float32, dense",
    ):
        assert part in shown
    assert "&lt;b&gt;" in shown


def test_a_store(tmp_path):
    first, second = study(1, 10, ["a", "b"]), study(2, 5, ["a", "b"])
    first.layers["raw"], second.layers["raw"] = first.X, second.X
    first.obsm["<pca>"] = np.ones((10, 2))
    for name, adata in (("one", first), ("two", second)):
        store = dao.write_dataset(tmp_path / "s", adata, dataset=name, layers=True)
    beside = ["version 2: write_dataset, 'two'", "layers: raw", "obsm: <pca> (of 1 of 2 datasets)"]
    lines = repr(store).splitlines()
    assert all(line in lines for line in beside)
    shown = store._repr_html_()
    for part in (
        "<b>layers</b> raw",
        "&lt;pca&gt; (of 1 of 2 datasets)",
        "<b>version 2</b> write_",
    ):
        assert part in shown


def test_the_namespace(cells):
    uri = cells.collect_schema()["cell"].uri
    shown = repr(cells.dao)
    assert shown.startswith(f"DaoFrame: cells of store '{uri}', 6 columns\n.dao has: iter_batches,")
    for verb in ("to_torch", "to_anndata", "write_dataset", "rank_genes_groups", "split"):
        assert verb in shown
    assert repr(cells.collect().dao) == shown
    assert "no column 'cell'" in repr(cells.select("score").dao)
    assert "cannot be planned" in repr(cells.select("no").dao)


def test_help_tells_of_the_arguments_that_there_are(cells):
    for name in ("to_anndata", "write_dataset", "pseudobulk", "gene_stats", "split", "sample"):
        method = getattr(cells.dao, name)
        assert "frame:" not in (method.__doc__ or "frame:")
        for argument in inspect.signature(method).parameters:
            assert f"    {argument}:" in method.__doc__, (name, argument)


def test_genes_are_known_whatever_was_asked_for(cells, real_store, real):
    batches = cells.dao.iter_batches(8)
    assert batches.genes.to_list() == ["a", "b", "c"]
    again = pickle.loads(pickle.dumps(batches))
    assert again.genes.to_list() == ["a", "b", "c"]
    assert cells.dao.iter_batches(8, genes=["c", "a"]).genes.to_list() == ["c", "a"]
    pbmc = real_store.scan().filter(pl.col("dataset") == "pbmc_human").dao.iter_batches(8)
    assert pbmc.genes.to_list() == list(real["pbmc_human"].var_names)
    assert len(pbmc.genes) == pbmc.n_vars


def test_no_cells_are_told_once(cells):
    with pytest.warns(UserWarning, match="the frame has no cells") as told:
        batches = cells.filter(pl.col("score") > 2).dao.iter_batches(8)
    assert len(told) == 1
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(batches) == []
        assert len(batches) == 0
        assert batches.n_vars == 3


def test_an_intersection_of_next_to_nothing_is_told(real_store):
    islets = real_store.scan().filter(pl.col("dataset").is_in(["pancreas_human", "pancreas_mouse"]))
    with pytest.warns(UserWarning, match=r"leaves 8 genes of the 14,877.*Mus musculus") as told:
        batches = islets.dao.iter_batches(8, genes="intersection")
    assert batches.n_vars == 8
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match="leaves 8 genes"):
        islets.dao.pseudobulk("donor", genes="intersection")
    human = real_store.scan().filter(pl.col("dataset").is_in(["pancreas_human", "pbmc_human"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        human.dao.iter_batches(8, genes="intersection")
