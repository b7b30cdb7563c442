"""to_anndata: normalize=, obs=, cell=, tables among obsm; the frame that has no cells."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scanpy as sc
from numpy.testing import assert_array_equal

import dao_polars as dao
from tests.conftest import study

GENES = ["INS", "GCG", "SST", "not", "CD3E"]


@pytest.fixture
def curated(tmp_path) -> tuple[dao.Store, ad.AnnData]:
    """A study with embeddings of both kinds, to be changed by tests."""
    adata = study(3, 40, ["a", "b", "c", "d"])
    rng = np.random.default_rng(3)
    proteins = rng.random((40, 3)).astype(np.float32)
    adata.obsm["protein"] = pd.DataFrame(
        proteins, index=adata.obs_names, columns=["CD3", "CD4", "CD8"]
    )
    adata.obsm["pca"] = rng.random((40, 2))
    return dao.write_dataset(tmp_path / "atlas", adata, dataset="s"), adata


@pytest.mark.parametrize(("name", "total"), [("log1p_cp10k", 1e4), ("log1p_cpm", 1e6)])
def test_values_are_normalized_as_scanpy_does(real_store, real, name, total):
    cells = real_store.scan().filter(pl.col("dataset") == "pbmc_human").dao
    expected = real["pbmc_human"].copy()
    sc.pp.normalize_total(expected, target_sum=total)
    sc.pp.log1p(expected)
    found = cells.to_anndata(normalize=name)
    np.testing.assert_allclose(found.X.toarray(), expected.X.toarray(), rtol=1e-5)
    some = list(expected.var_names[[5, 100, 7]])  # totals are over all genes all the same
    found = cells.to_anndata(normalize=name, genes=some)
    np.testing.assert_allclose(found.X.toarray(), expected[:, some].X.toarray(), rtol=1e-5)


def test_layers_stay_as_they_are(tmp_path):
    adata = study(1, 20, ["a", "b", "c"])
    adata.layers["counts"] = adata.X.copy()
    store = dao.write_dataset(tmp_path / "s", adata, dataset="s", layers=True)
    found = store.scan().dao.to_anndata(normalize="cp10k")
    assert_array_equal(found.layers["counts"].toarray(), adata.X.toarray())
    has_some = adata.X.toarray().sum(axis=1) > 0
    np.testing.assert_allclose(found.X.toarray()[has_some].sum(axis=1), 1e4, rtol=1e-5)
    with pytest.raises(dao.DaoValueError, match="gives no integers"):
        store.scan().dao.to_anndata(normalize="cp10k", dtype="uint16")


def test_chosen_columns_are_obs(curated):
    store, adata = curated
    found = store.scan().with_columns(twice=pl.col("score") * 2).dao.to_anndata(obs=["twice"])
    assert list(found.obs) == ["twice"]
    assert list(found.obs_names) == list(adata.obs_names)
    assert_array_equal(found.obs["twice"], adata.obs["score"] * 2)
    none = store.scan().dao.to_anndata(obs=False)
    assert none.obs.shape == (40, 0)
    assert list(none.obs_names) == list(adata.obs_names)
    with pytest.raises(dao.DaoKeyError, match="obs='no' is no column"):
        store.scan().dao.to_anndata(obs=["no"])


def test_results_find_their_way_back_by_the_cell(real_store, tmp_path):
    """After h5ad, in another order, of several datasets whose cells have the same names."""
    first, second = study(1, 30, ["a", "b"]), study(2, 20, ["a", "b"])
    second.obs_names = first.obs_names[:20]
    for name, adata in (("one", first), ("two", second)):
        store = dao.write_dataset(tmp_path / "atlas", adata, dataset=name)
    adata = store.scan().dao.to_anndata(cell=True)
    adata.obs_names_make_unique()
    order = np.random.default_rng(0).permutation(50)
    adata = adata[order[:45]].copy()
    adata.obs["leiden"] = pd.Categorical([str(i % 4) for i in order[:45]])
    adata.write_h5ad(tmp_path / "result.h5ad")
    result = ad.read_h5ad(tmp_path / "result.h5ad").obs
    expected = [None] * 50
    for i in order[:45]:
        expected[i] = str(i % 4)
    for update in (result[["cell", "leiden"]], pl.from_pandas(result[["cell", "leiden"]])):
        updated = store.update_obs(update)
        assert updated.scan().collect()["leiden"].cast(pl.String).to_list() == expected
        store = updated.drop_obs("leiden")
    # the column dataset, as to_anndata gives it, is no new column
    updated = store.update_obs(result[["dataset", "cell", "leiden"]])
    assert updated.scan().collect()["leiden"].count() == 45
    with pytest.raises(dao.DaoValueError, match="expected cells of store"):
        real_store.update_obs(result[["cell", "leiden"]])
    broken = result[["cell", "leiden"]].assign(cell="c1")
    with pytest.raises(dao.DaoValueError, match="'c1' in row 0"):
        store.update_obs(broken)
    with pytest.raises(dao.DaoValueError, match="another one names, too"):
        store.update_obs(pd.concat([result, result])[["cell", "leiden"]])
    with pytest.raises(dao.DaoValueError, match="names cells of dataset 'two', too"):
        store.update_obs(result[["cell", "leiden"]], dataset="one")
    with pytest.raises(dao.DaoValueError, match=r"to_anndata\(cell=True\)"):
        store.update_obs(result[["leiden"]])


def test_a_table_among_obsm_keeps_its_columns(curated, tmp_path):
    store, adata = curated
    order = np.random.default_rng(1).permutation(40)
    frame = store.scan().collect()[order]
    found = frame.dao.to_anndata()
    pd.testing.assert_frame_equal(found.obsm["protein"], adata.obsm["protein"].iloc[order])
    assert_array_equal(found.obsm["pca"], adata.obsm["pca"][order])
    batch = next(iter(frame.dao.iter_batches(40, obsm=True)))
    assert_array_equal(batch.obsm["protein"], adata.obsm["protein"].to_numpy()[order])
    # a selection that is written keeps them, and so does a study from a file
    selected = frame.dao.write_dataset(tmp_path / "other", dataset="t").scan().dao.to_anndata()
    assert list(selected.obsm["protein"]) == ["CD3", "CD4", "CD8"]
    adata.write_h5ad(tmp_path / "study.h5ad")
    written = dao.write_dataset(tmp_path / "third", tmp_path / "study.h5ad").scan()
    pd.testing.assert_frame_equal(written.dao.to_anndata().obsm["protein"], adata.obsm["protein"])
    # other rows are given to it under the same names, another width has none
    rows = frame.select("cell", pl.lit([1.0, 2.0, 3.0], pl.Array(pl.Float32, 3)).alias("x"))
    again = store.update_obsm("protein", rows.head(3)).scan().dao.to_anndata()
    assert list(again.obsm["protein"]) == ["CD3", "CD4", "CD8"]
    narrow = frame.select("cell", pl.lit([1.0], pl.Array(pl.Float32, 1)).alias("x"))
    again = store.update_obsm("protein", narrow).scan().dao.to_anndata()
    assert isinstance(again.obsm["protein"], np.ndarray)


def test_embeddings_of_other_columns_are_arrays(tmp_path):
    for i, names in enumerate((["x", "y"], ["x", "z"])):
        adata = study(i, 10, ["a", "b"])
        adata.obsm["m"] = pd.DataFrame(np.ones((10, 2)), index=adata.obs_names, columns=names)
        store = dao.write_dataset(tmp_path / "s", adata, dataset=f"d{i}")
    assert isinstance(store.scan().dao.to_anndata().obsm["m"], np.ndarray)


@pytest.mark.parametrize("genes", [None, "union"])
def test_no_cells_have_all_genes(real_store, real, genes):
    """Of which dataset they would be, nobody knows."""
    none = real_store.scan().filter(pl.col("cell_type") == "no such type")
    with pytest.warns(UserWarning, match="the frame has no cells"):
        found = none.dao.to_anndata(genes=genes)
    everywhere = set().union(*(adata.var_names for adata in real.values()))
    assert found.shape == (0, len(everywhere))
    assert set(found.var_names) == everywhere
    assert list(none.dao.to_anndata(genes=["INS", "GCG"]).var_names) == ["INS", "GCG"]


def test_no_cells_of_one_feature_space_have_its_genes(curated):
    store, adata = curated
    found = store.scan().head(0).dao.to_anndata()
    assert found.shape == (0, 4)
    assert list(found.var_names) == list(adata.var_names)


def test_what_is_no_count_is_not_normalized_silently(tmp_path):
    adata = study(1, 20, ["a", "b", "c"])
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    cells = dao.write_dataset(tmp_path / "s", adata, dataset="s", layers=True).scan()
    for use in (
        lambda: cells.dao.to_anndata(normalize="log1p_cp10k"),
        lambda: cells.dao.iter_batches(8, normalize="log1p_cp10k"),
        lambda: cells.dao.pseudobulk("cell_type", normalize="log1p_cp10k"),
    ):
        with pytest.warns(UserWarning, match="X of dataset 's' has values that are none") as told:
            use()
        assert len(told) == 1
        assert told[0].filename == __file__


@pytest.mark.filterwarnings("error")
def test_counts_are_normalized_without_a_word(curated):
    store, _ = curated
    store.scan().dao.to_anndata(normalize="log1p_cp10k")
    store.scan().dao.iter_batches(8, normalize="log1p_cp10k")


def test_a_column_of_its_own_is_not_replaced(tmp_path):
    adata = study(1, 10, ["a", "b"])
    adata.obs["cell"] = "mine"
    lf = dao.write_dataset(tmp_path / "s", adata, dataset="s").scan()
    with pytest.raises(dao.DaoValueError, match=r"a column 'cell' of its own \(obs_cell"):
        lf.dao.to_anndata(cell=True)
    assert list(lf.dao.to_anndata(cell=True, obs=["cell_type"]).obs) == ["cell_type", "cell"]
    assert list(lf.dao.to_anndata().obs["cell"].unique()) == ["mine"]
