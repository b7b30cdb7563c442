"""to_anndata against anndata's own readers, and scanpy on what comes out."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scanpy as sc
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dao_polars as dao
from tests.conftest import STUDIES, study


def assert_same_x(a, b) -> None:
    a, b = (m.toarray() if sp.issparse(m) else np.asarray(m) for m in (a, b))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", STUDIES)
def test_real_studies_come_back_equal(real_store, real, name):
    source = real[name]
    out = real_store.scan().filter(pl.col("dataset") == name).dao.to_anndata()
    assert sp.issparse(out.X)
    assert out.X.format == "csr"
    assert out.X.dtype == np.float32
    assert_same_x(out.X, source.X)
    pd.testing.assert_frame_equal(out.obs[source.obs.columns], source.obs)
    pd.testing.assert_frame_equal(out.var, source.var)
    assert out.uns == dict(source.uns)
    extra = [c for c in out.obs if c not in source.obs]
    assert extra[0] == "dataset"
    assert set(extra) <= {"dataset", *source.uns}


def test_a_subset_is_what_anndata_gives(real_store, real):
    source = real["pancreas_human"]
    mask = (source.obs["donor"] == "human2") & source.obs["cell_type"].isin(["alpha", "beta"])
    expected = source[mask, ["GCG", "INS", "SST"]].copy()
    out = (
        real_store.scan()
        .filter(
            pl.col("dataset") == "pancreas_human",
            pl.col("donor") == "human2",
            pl.col("cell_type").is_in(["alpha", "beta"]),
        )
        .dao.to_anndata(genes=["GCG", "INS", "SST"])
    )
    assert out.shape[0] > 50
    assert_same_x(out.X, expected.X)
    pd.testing.assert_frame_equal(out.obs[expected.obs.columns], expected.obs)
    pd.testing.assert_frame_equal(out.var, expected.var)


def test_scanpy_runs_on_it(real_store, real):
    out = real_store.scan().filter(pl.col("dataset") == "pbmc_human").dao.to_anndata()
    source = real["pbmc_human"].copy()
    for adata in (out, source):
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        sc.pp.highly_variable_genes(adata, n_top_genes=500)
        sc.pp.pca(adata, n_comps=10)
    assert_same_x(out.X, source.X)
    assert (out.var["highly_variable"] == source.var["highly_variable"]).all()
    np.testing.assert_allclose(out.obsm["X_pca"], source.obsm["X_pca"], rtol=1e-3, atol=1e-3)


MATRICES = {
    "csr": sp.csr_matrix,
    "csc": sp.csc_matrix,
    "csr_array": sp.csr_array,
    "dense": np.asarray,
}


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.tuples(st.integers(0, 40), st.integers(1, 30)),
    kind=st.sampled_from(list(MATRICES)),
    dtype=st.sampled_from(
        ["bool", "uint8", "int16", "int32", "int64", "uint32", "float16", "float32", "float64"]
    ),
    fractional=st.booleans(),
    shuffle=st.booleans(),
    seed=st.integers(0, 1000),
    as_file=st.sampled_from([None, "h5ad", "zarr"]),
)
def test_what_is_written_comes_back(
    tmp_path_factory, shape, kind, dtype, fractional, shuffle, seed, as_file
):
    if dtype == "float16":  # scipy has no sparse matrix of these, h5py and zarr no portable one
        kind, as_file = "dense", None
    rng = np.random.default_rng(seed)

    def matrix(high: int) -> np.ndarray:
        values = rng.integers(0, high, shape) * (rng.random(shape) < 0.4)
        if np.dtype(dtype).kind == "f" and fractional:
            values = values / 3
        if dtype in ("int16", "int32", "int64"):
            values = values * rng.choice([-1, 1], shape)
        return values.astype(dtype)

    adata = ad.AnnData(
        MATRICES[kind](matrix(100)),
        obs=pd.DataFrame({"n": range(shape[0])}, index=[f"c{i}" for i in range(shape[0])]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(shape[1])]),
    )
    adata.layers["other"] = MATRICES[kind](matrix(2))
    adata.obsm["X_emb"] = rng.normal(size=(shape[0], 3)).astype(np.float32)
    tmp = tmp_path_factory.mktemp("round")
    source: object = adata
    if as_file:
        source = tmp / f"file.{as_file}"
        (adata.write_h5ad if as_file == "h5ad" else adata.write_zarr)(source)
    store = dao.write_dataset(
        tmp / "store",
        source,
        dataset="d",
        layers=True,
        obsm=True,
        shuffle=shuffle,
        seed=seed,
        progress=False,
    )
    assert store.verify().height == 0
    out = store.scan().dao.to_anndata()
    order = out.obs["source_row"].to_numpy() if shuffle else np.arange(shape[0])
    if shuffle:
        assert sorted(order) == list(range(shape[0]))
    assert_same_x(out.X, adata.X[order].astype(out.X.dtype))
    assert_same_x(out.layers["other"], adata.layers["other"][order])
    np.testing.assert_array_equal(out.obsm["X_emb"], adata.obsm["X_emb"][order])
    assert out.obs["n"].to_list() == list(order)
    assert out.obs_names.to_list() == [f"c{i}" for i in order]


def test_several_datasets(mixed):
    store, studies = mixed
    out = store.scan().dao.to_anndata(genes="intersection")
    expected = ad.concat(list(studies.values()), join="inner")
    assert set(out.var_names) == set(expected.var_names)
    assert_same_x(out[:, expected.var_names].X, expected.X)
    assert list(out.obs["cell_type"]) == list(expected.obs["cell_type"])
    assert out.obs["dataset"].dtype == "category"
    union = store.scan().dao.to_anndata(genes="union")
    expected = ad.concat(list(studies.values()), join="outer", fill_value=0)
    assert_same_x(union[:, expected.var_names].X, expected.X)


def test_var_columns_follow_the_genes(real_store, real):
    source = real["heart_human"]
    genes = list(source.var_names[[500, 3, 40]])
    out = real_store.scan().filter(pl.col("dataset") == "heart_human").dao.to_anndata(genes=genes)
    assert out.var_names.to_list() == genes
    assert list(out.var["feature_name"]) == list(source[:, genes].var["feature_name"])
    symbols = list(source[:, genes].var["feature_name"])
    by_symbol = (
        real_store.scan()
        .filter(pl.col("dataset") == "heart_human")
        .dao.to_anndata(genes=symbols, gene_key="feature_name")
    )
    assert by_symbol.var_names.to_list() == symbols
    assert_same_x(by_symbol.X, out.X)


def test_a_gene_key_keeps_every_column_of_var(tmp_path):
    var = pd.DataFrame(
        {"name": ["t", "v"], "var_name": ["p", "q"], "__key__": [1, 2]}, index=["g0", "g1"]
    )
    adata = ad.AnnData(np.array([[1, 2]], np.float32), var=var)
    store = dao.write_dataset(tmp_path / "s", adata, dataset="d", progress=False)
    out = store.scan().dao.to_anndata(genes=["v", "t"], gene_key="name")
    assert out.var_names.to_list() == ["v", "t"]
    assert out.var["name"].to_list() == ["v", "t"]
    assert out.var["var_name"].to_list() == ["q", "p"]
    assert out.var["__key__"].to_list() == [2, 1]
    assert out.var["source_var_name"].to_list() == ["g1", "g0"]
    assert_same_x(out.X, np.array([[2, 1]]))


def test_datasets_without_cells_or_genes_keep_the_rest(tmp_path):
    adata = ad.AnnData(
        np.zeros((0, 2), np.float32), var=pd.DataFrame({"n": [1, 2]}, index=["a", "b"])
    )
    adata.uns["k"] = 1
    store = dao.write_dataset(tmp_path / "s", adata, dataset="d", progress=False)
    out = store.scan().dao.to_anndata()
    assert out.uns == {"k": 1}
    assert out.var["n"].to_list() == [1, 2]
    none = ad.AnnData(np.zeros((2, 0), np.float32), var=pd.DataFrame({"n": np.zeros(0)}))
    store = dao.write_dataset(tmp_path / "t", none, dataset="d", progress=False)
    out = store.scan().dao.to_anndata()
    assert out.shape == (2, 0)
    assert list(out.var.columns) == ["n"]


def test_a_gene_that_only_other_datasets_have_keeps_its_name(mixed):
    store, _ = mixed
    out = store.scan().filter(pl.col("dataset") == "a").dao.to_anndata(genes=["x", "g3"])
    assert out.var_names.to_list() == ["x", "g3"]
    assert out.X[:, 0].nnz == 0


def test_any_order_and_repeats(mixed):
    store, studies = mixed
    frame = store.scan().filter(pl.col("dataset") == "b").collect()
    picks = [5, 2, 2, 50, 0]
    out = frame[picks].dao.to_anndata()
    assert_same_x(out.X, studies["b"].X[picks])


TIMES = pd.DatetimeIndex(
    [pd.Timestamp("2020-01-01"), None, pd.Timestamp("1999-12-31 23:59:59.123456789")]
)


@pytest.mark.parametrize(
    "values",
    [
        [True, False, True],
        pd.array([True, None, False], dtype="boolean"),
        pd.Categorical([True, False, None]),
        [1, 2, 3],
        pd.array([1, None, 3], dtype="Int64"),
        [0.1, np.nan, 1e300],
        TIMES,
        TIMES.tz_localize("Europe/Berlin"),
    ],
    ids=str,
)
def test_a_column_that_is_text_elsewhere_keeps_its_type(tmp_path, values):
    numbers, text = study(0, 3, ["a"]), study(1, 2, ["a"])
    numbers.obs["f"], text.obs["f"] = values, ["yes", "no"]
    dao.write_dataset(tmp_path / "s", numbers, dataset="n", progress=False)
    store = dao.write_dataset(tmp_path / "s", text, dataset="t", progress=False)
    out = store.scan().filter(pl.col("dataset") == "n").dao.to_anndata()
    pd.testing.assert_series_equal(out.obs["f"], numbers.obs["f"])


def test_names_of_cells_survive_a_frame_without_them(mixed):
    store, studies = mixed
    frame = store.scan().filter(pl.col("dataset") == "b").select("cell", "score").collect()
    out = frame.sample(fraction=1, shuffle=True, seed=0).dao.to_anndata()
    source = studies["b"][out.obs_names]
    assert list(out.obs["score"]) == list(source.obs["score"])
    assert_same_x(out.X, source.X)


@pytest.mark.parametrize("genes", [None, ["g7"]])
def test_cells_alone_are_a_frame_of_cells(mixed, genes):
    """A frame of no other column has nothing that says how many rows obs has."""
    store, studies = mixed
    a = store.scan().filter(pl.col("dataset") == "a").select("cell")
    names, frame = list(studies["a"].obs_names), a.collect()
    selections = [
        (a, names),
        (frame, names),
        (a.head(1), names[:1]),
        (a.head(0), []),
        (frame[[3, 3, 1]], [names[3], names[3], names[1]]),
        (frame.sample(fraction=1, shuffle=True, seed=0), None),
    ]
    for cells, expected in selections:
        adata = cells.dao.to_anndata(genes=genes or list(studies["a"].var_names))
        assert expected is None or list(adata.obs_names) == expected
        assert adata.obs.shape == (adata.n_obs, 0)
        wanted = studies["a"][adata.obs_names, adata.var_names].X
        assert (wanted != adata.X).nnz == 0
    everything = store.scan().select("cell").dao.to_anndata(genes="union")
    assert list(everything.obs_names) == [n for s in studies.values() for n in s.obs_names]


def test_layers_and_obsm_are_chosen(tmp_path):
    adata = study(0, 10, ["a", "b", "c"])
    adata.layers["x2"] = adata.X * 2
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(size=(10, 2))
    store = dao.write_dataset(
        tmp_path / "s", adata, dataset="d", layers=["x2"], obsm="X_pca", progress=False
    )
    lf = store.scan()
    full = lf.dao.to_anndata()
    assert set(full.layers) - {None} == {"x2"}  # anndata 0.13 lists X among layers
    assert full.obsm["X_pca"].dtype == np.float64
    np.testing.assert_array_equal(full.obsm["X_pca"], adata.obsm["X_pca"])
    bare = lf.dao.to_anndata(layers=[], obsm=[])
    assert not set(bare.layers) - {None}
    assert not bare.obsm
    swapped = lf.dao.to_anndata(layer="x2")
    assert_same_x(swapped.X, adata.layers["x2"])
    assert_same_x(swapped.layers["x2"], adata.layers["x2"])
    assert lf.dao.to_anndata(dtype="int32").X.dtype == np.int32
    with pytest.raises(dao.DaoKeyError, match="no layer 'nope'"):
        lf.dao.to_anndata(layers=["nope"])
    with pytest.raises(dao.DaoKeyError, match="no obsm 'nope'"):
        lf.dao.to_anndata(obsm=["nope"])


def test_empty_selection(mixed):
    store, _ = mixed
    none = store.scan().filter(pl.col("score") > 2)
    assert none.dao.to_anndata(genes=["g3", "x"]).shape == (0, 2)
    assert none.dao.to_anndata().shape[0] == 0


def test_dtype_is_exact_by_default(tmp_path):
    wide = ad.AnnData(np.array([[2**24 + 1, 1]], np.int64))
    store = dao.write_dataset(tmp_path / "s", wide, dataset="wide", progress=False)
    out = store.scan().dao.to_anndata()
    assert out.X.dtype == np.float64
    assert_same_x(out.X, wide.X)
    huge = ad.AnnData(np.array([[2**53 + 1, 1]], np.int64))
    store = dao.write_dataset(tmp_path / "h", huge, dataset="huge", progress=False)
    assert store.verify().height == 0
    assert_same_x(store.scan().dao.to_anndata().X, huge.X)
    logs = ad.AnnData(np.array([[0.1, 1 / 3]]))
    store = dao.write_dataset(tmp_path / "t", logs, dataset="logs", progress=False)
    assert_same_x(store.scan().dao.to_anndata().X, logs.X)
    for special in ([np.nan, 1.0], [np.inf, 0.0], [-0.5, 0.0]):
        adata = ad.AnnData(np.array([special], np.float32))
        store = dao.write_dataset(tmp_path / str(special[0]), adata, dataset="d", progress=False)
        assert_same_x(store.scan().dao.to_anndata().X, adata.X)
