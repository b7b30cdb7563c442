"""AnnData whose matrices are dask arrays: beside the one in memory, through scanpy, on workers."""

from __future__ import annotations

import pickle

import anndata as ad
import dask
import dask.array as da
import numpy as np
import polars as pl
import pytest
import scanpy as sc
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import dao_polars as dao
from tests.conftest import study

dask.config.set(scheduler="threads")


@pytest.fixture(scope="module")
def layered(tmp_path_factory):
    """Three datasets with a layer and two embeddings, one of half floats."""
    uri = tmp_path_factory.mktemp("layered") / "store"
    for i, n in enumerate([130, 61, 9]):
        one = study(i, n, [f"g{j}" for j in range(30)])
        one.layers["half"] = one.X.copy() / 2
        rng = np.random.default_rng(i)
        one.obsm["X_pca"] = rng.normal(size=(n, 5)).astype(np.float32)
        one.obsm["X_half"] = rng.normal(size=(n, 2)).astype(np.float16)
        store = dao.write_dataset(uri, one, dataset=f"d{i}", layers=True, obsm=True, progress=False)
    return store


def shuffled(store: dao.Store, seed: int) -> pl.DataFrame:
    return store.scan().collect().sample(fraction=0.8, shuffle=True, seed=seed)


def same(lazy: ad.AnnData, whole: ad.AnnData) -> None:
    assert isinstance(lazy.X, da.Array)
    assert not isinstance(whole.X, da.Array)
    assert lazy.obs.equals(whole.obs)
    assert lazy.var.equals(whole.var)
    for a, b in [
        (lazy.X, whole.X),
        *((lazy.layers[name], x) for name, x in whole.layers.items()),
        *((lazy.obsm[name], x) for name, x in whole.obsm.items()),
    ]:
        computed = a.compute(scheduler="threads")
        assert a.dtype == b.dtype == computed.dtype
        assert a.shape == b.shape == computed.shape
        assert type(computed) is type(b)
        assert np.array_equal(
            computed.toarray() if sp.issparse(b) else computed, b.toarray() if sp.issparse(b) else b
        )
    assert list(lazy.layers) == list(whole.layers)
    assert list(lazy.obsm) == list(whole.obsm)


@pytest.mark.parametrize("chunk_size", [None, 1, 37, 10_000])
def test_it_is_what_is_in_memory(layered, chunk_size):
    frame = shuffled(layered, 1)
    lazy = frame.dao.to_anndata(lazy=True, chunk_size=chunk_size)
    same(lazy, frame.dao.to_anndata())
    if chunk_size is not None:
        assert max(lazy.X.chunks[0]) == min(chunk_size, frame.height)
    assert lazy.X.chunks[0] == lazy.layers["half"].chunks[0] == lazy.obsm["X_pca"].chunks[0]


@given(rows=st.lists(st.integers(0, 199), max_size=40), chunk_size=st.integers(1, 9))
def test_any_cells_in_any_order(layered, rows, chunk_size):
    frame = layered.scan().collect()[rows]
    whole = frame.dao.to_anndata(genes=["g7", "g3"], normalize="log1p_cp10k").X
    x = frame.dao.to_dask(genes=["g7", "g3"], normalize="log1p_cp10k", chunk_size=chunk_size)
    assert x.shape == whole.shape
    assert x.dtype == whole.dtype
    assert np.array_equal(x.compute().toarray() if rows else whole.toarray(), whole.toarray())


def test_slices_read_no_more_than_their_chunks(layered):
    x = layered.scan().dao.to_dask(chunk_size=50)
    row = x[120].compute()
    assert np.array_equal(
        np.asarray(row.todense()).ravel() if sp.issparse(row) else row,
        layered.scan().dao.to_anndata().X[120].toarray().ravel(),
    )
    assert len(x[120:130].__dask_graph__().cull(x[120:130].__dask_keys__()).to_dict()) < 5


def test_the_graph_has_no_values(real_store):
    cells = real_store.scan().filter(pl.col("dataset") == "heart_human")
    x = cells.dao.to_dask(chunk_size=100)
    graph = dict(x.__dask_graph__())
    keys = [value for key, value in graph.items() if isinstance(key, tuple)]
    assert sum(len(pickle.dumps(value)) for value in keys) < 1000 * len(keys)
    assert x.nbytes > 10_000 * len(keys)


def test_scanpy_runs_on_it(real_store):
    cells = real_store.scan().filter(pl.col("dataset") == "pbmc_human")
    whole = cells.dao.to_anndata()
    lazy = cells.dao.to_anndata(lazy=True, chunk_size=301)
    for adata in (whole, lazy):
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        sc.pp.highly_variable_genes(adata, n_top_genes=300)
    assert isinstance(lazy.X, da.Array)
    computed = lazy.X.compute()
    assert np.allclose(computed.toarray(), whole.X.toarray(), rtol=1e-5, atol=0)
    assert (lazy.var["highly_variable"] == whole.var["highly_variable"]).all()
    for adata in (whole, lazy):
        sc.pp.pca(adata, n_comps=8, mask_var="highly_variable", svd_solver="covariance_eigh")
    ours, theirs = np.abs(np.asarray(lazy.obsm["X_pca"])), np.abs(whole.obsm["X_pca"])
    assert np.allclose(ours, theirs, rtol=1e-3, atol=1e-2)


def test_dense_matrices_and_unions(mixed):
    frame = shuffled(mixed[0], 3)
    same(
        frame.dao.to_anndata(genes="union", lazy=True, chunk_size=20),
        frame.dao.to_anndata(genes="union"),
    )


def test_it_is_pickled_by_place_and_version(tmp_path):
    store = dao.write_dataset(tmp_path / "s", study(1, 50, ["a", "b"]), dataset="x", progress=False)
    x = store.scan().dao.to_dask(chunk_size=20)
    wanted = x.compute().toarray()
    store.remove_dataset("x")
    again = pickle.loads(pickle.dumps(x))
    assert np.array_equal(again.compute().toarray(), wanted)


def test_no_cells(mixed):
    with pytest.warns(UserWarning, match="no cells"):
        adata = mixed[0].scan().filter(pl.lit(False)).dao.to_anndata(genes=["g7"], lazy=True)
    assert adata.shape == (0, 1)
    assert adata.X.compute().shape == (0, 1)


def test_what_is_wrong_is_said(mixed):
    lf = mixed[0].scan()
    with pytest.raises(dao.DaoValueError, match="chunk_size= is of chunks that lazy=True makes"):
        lf.dao.to_anndata(genes="union", chunk_size=5)
    with pytest.raises(dao.DaoValueError, match="chunk_size=0"):
        lf.dao.to_dask(genes="union", chunk_size=0)
    with pytest.raises(dao.DaoValueError, match="feature space"):
        lf.dao.to_dask()
