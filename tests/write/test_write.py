"""write_dataset: what is written is what to_anndata, zarr-python and anndata read back."""

from __future__ import annotations

import errno
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dao_polars as dao
from dao_polars import _progress
from dao_polars.sources import matrix_source
from tests.storefab import part_path

RNG = np.random.default_rng(11)
FORMS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}
KINDS = ["memory", "h5ad", "zarr"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(matrix_source, "BLOCK_BYTES", 1000)


def counts(n_obs=37, n_vars=19, dtype="float32", rng=RNG):
    return (rng.poisson(0.9, (n_obs, n_vars)) * (rng.random((n_obs, n_vars)) < 0.5)).astype(dtype)


def study(form="csr", n_obs=37, n_vars=19, dtype="float32"):
    dense = counts(n_obs, n_vars, dtype)
    obs = pd.DataFrame(
        {
            "type": pd.Categorical(RNG.choice(["b", "a"], n_obs), categories=["b", "a", "c"]),
            "donor": RNG.choice(["d1", "d2"], n_obs).astype(object),
            "depth": RNG.random(n_obs).astype("float32"),
            "flag": pd.array(RNG.choice([True, False, None], n_obs), dtype="boolean"),
        },
        index=pd.Index([f"cell{i % (n_obs - 1)}" for i in range(n_obs)], name="barcode"),
    )
    var = pd.DataFrame(
        {"gene_ids": [f"ENS{i}" for i in range(n_vars)], "mt": RNG.random(n_vars) < 0.2},
        index=[f"g{i}" for i in range(n_vars)],
    )
    return ad.AnnData(
        FORMS[form](dense),
        obs=obs,
        var=var,
        layers={"double": FORMS[form](dense * 2)},
        obsm={"X_pca": RNG.random((n_obs, 3))},
        uns={"id": "lung", "organism": "Homo sapiens", "nested": {"a": 1.5, "b": "x"}},
    )


def as_source(adata, kind, folder):
    path = folder / f"lung.{kind}"
    if kind == "memory":
        return adata
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(adata, f"write_{kind}")(path, convert_strings_to_categoricals=False)
    return path


def dense(matrix):
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)


def on_disk(store, dataset):
    """X of a dataset, read by zarr-python and anndata."""
    x = zarr.open_group(part_path(store, dataset) / "zarr", mode="r")["X"]
    return dense(ad.io.read_elem(x))


def whole(store, **kwargs):
    return store.scan().dao.to_anndata(**kwargs)


def check_equal(found, adata, rows=None):
    rows = slice(None) if rows is None else rows
    made = ["dataset", "organism", "id", "source_row"]
    pd.testing.assert_frame_equal(
        found.obs.drop(columns=made, errors="ignore"), adata.obs.iloc[rows]
    )
    pd.testing.assert_frame_equal(found.var, adata.var)
    np.testing.assert_array_equal(dense(found.X), dense(adata.X)[rows])
    assert set(found.layers) == set(adata.layers)
    for name in adata.layers:
        np.testing.assert_array_equal(dense(found.layers[name]), dense(adata.layers[name])[rows])
    for name in adata.obsm:
        np.testing.assert_array_equal(found.obsm[name], adata.obsm[name][rows])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_round_trip(form, kind, shuffle, tmp_path):
    adata = study(form)
    source = as_source(adata, kind, tmp_path)
    store = dao.write_dataset(
        tmp_path / "atlas", source, layers=True, obsm="X_pca", shuffle=shuffle, seed=5
    )
    assert store.datasets["id"].to_list() == ["lung"]
    found = whole(store, layers=["double"], obsm=["X_pca"])
    rows = None
    if shuffle:
        rows = np.random.Generator(np.random.PCG64(5)).permutation(adata.n_obs)
        assert found.obs["source_row"].tolist() == rows.tolist()
        assert found.obs["source_row"].dtype == "uint32"
    check_equal(found, adata, rows)
    assert store.uns("lung") == adata.uns
    assert store.verify().is_empty()


@pytest.mark.parametrize("form", FORMS)
def test_other_readers_open_the_matrices(form, tmp_path):
    adata = study(form)
    dao.write_dataset(tmp_path / "atlas", adata, layers=True, obsm=True)
    group = zarr.open_group(part_path(tmp_path / "atlas", "lung") / "zarr", mode="r")
    x = ad.io.sparse_dataset(group["X"])
    assert group["X/data"].dtype == np.uint8
    np.testing.assert_array_equal(x.to_memory().toarray(), dense(adata.X))
    found = ad.io.read_elem(group["layers/double"])
    np.testing.assert_array_equal(dense(found), dense(adata.X) * 2)
    np.testing.assert_array_equal(group["obsm/X_pca"][:], adata.obsm["X_pca"])
    frame = pl.read_parquet(part_path(tmp_path / "atlas", "lung") / "obs.parquet")
    assert frame.columns == ["obs_name", "type", "donor", "depth", "flag"]
    assert frame["obs_name"].to_list() == list(adata.obs_names)


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([0, 255], "uint8"),
        ([0, 256], "uint16"),
        ([0, 70_000], "uint32"),
        ([-1, 3], "int8"),
        ([0.5, 1], "float32"),
        ([np.nan, 1], "float32"),
        ([True, False], "uint8"),
    ],
)
def test_narrowest_type(values, stored, tmp_path):
    dtype = bool if values[0] is True else "float32"
    x = np.array([values, values[::-1], values], dtype=dtype)
    store = dao.write_dataset(tmp_path, ad.AnnData(x), dataset="d")
    group = zarr.open_group(part_path(tmp_path, "d") / "zarr", mode="r")
    array = group["X/data"] if hasattr(group["X"], "keys") else group["X"]
    assert array.dtype == stored
    np.testing.assert_array_equal(dense(whole(store).X), x.astype("float32"))


def test_a_full_dense_x_stays_dense(tmp_path):
    adata = ad.AnnData(RNG.normal(size=(30, 4)))
    store = dao.write_dataset(tmp_path, adata, dataset="d", shuffle=True, seed=1)
    assert store.datasets["layout"].to_list() == ["dense"]
    order = np.random.Generator(np.random.PCG64(1)).permutation(30)
    found = whole(store, dtype="float64")
    np.testing.assert_array_equal(dense(found.X), adata.X[order])


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (1, 1), (5, 1), (1, 6)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_empty_and_tiny(shape, form, shuffle, tmp_path):
    adata = ad.AnnData(FORMS[form](counts(*shape)))
    store = dao.write_dataset(tmp_path, adata, dataset="d", shuffle=shuffle, seed=0)
    assert (store.n_obs, store.var("d").height) == shape
    order = (
        np.random.Generator(np.random.PCG64(0)).permutation(shape[0]) if shuffle else slice(None)
    )
    np.testing.assert_array_equal(on_disk(tmp_path, "d"), dense(adata.X)[order])
    np.testing.assert_array_equal(dense(whole(store).X), dense(adata.X)[order])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_random_round_trips(data, tmp_path_factory):
    """Any shape, type, form, alignment and order; numpy is the oracle."""
    folder = tmp_path_factory.mktemp("s")
    n_obs, n_vars = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x = counts(n_obs, n_vars, data.draw(st.sampled_from(["float32", "int16", "uint8"])), rng)
    adata = ad.AnnData(FORMS[data.draw(st.sampled_from(sorted(FORMS)))](x))
    adata.var_names = [f"g{i}" for i in range(n_vars)]
    known = data.draw(st.lists(st.sampled_from(list(adata.var_names)), min_size=1, unique=True))
    extra = data.draw(st.lists(st.sampled_from(["n1", "n2"]), unique=True))
    genes = data.draw(st.permutations([*known, *extra]))
    aligned = data.draw(st.booleans())
    shuffle = data.draw(st.booleans())
    source = as_source(adata, data.draw(st.sampled_from(KINDS)), folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        store = dao.write_dataset(
            folder / "atlas", source, dataset="d", shuffle=shuffle, seed=3,
            genes=genes if aligned else None,
        )  # fmt: skip
    expected = x.astype("float32")
    if shuffle:
        expected = expected[np.random.Generator(np.random.PCG64(3)).permutation(n_obs)]
    if aligned:
        columns = {name: expected[:, i] for i, name in enumerate(adata.var_names)}
        expected = np.stack([columns.get(g, np.zeros(n_obs)) for g in genes], axis=1)
        assert store.var("d")["var_name"].to_list() == genes
    np.testing.assert_array_equal(on_disk(folder / "atlas", "d"), expected)
    np.testing.assert_array_equal(dense(whole(store).X), expected)


# --- alignment


def test_genes_align_the_columns(tmp_path):
    adata = study("csc")
    genes = ["new", "g7", "g0", "other", "g18"]
    with pytest.warns(UserWarning, match=r"16 genes of the source.*dropped; 2 of genes= .*zero"):
        store = dao.write_dataset(tmp_path, adata, genes=genes, layers=True)
    found = whole(store, layers=["double"])
    assert list(found.var_names) == genes
    expected = np.zeros((37, 5))
    expected[:, [1, 2, 4]] = dense(adata.X)[:, [7, 0, 18]]
    np.testing.assert_array_equal(dense(found.X), expected)
    np.testing.assert_array_equal(dense(found.layers["double"]), expected * 2)
    assert found.var["gene_ids"].tolist() == [None, "ENS7", "ENS0", None, "ENS18"]
    other = study("dense", n_vars=30)
    with pytest.warns(UserWarning, match="dropped"):
        store = dao.write_dataset(tmp_path, other, dataset="b", genes=store.var("lung"))
    assert store.var()["var_name"].to_list() == genes  # one feature space


def test_gene_key(tmp_path):
    adata = study()
    with pytest.warns(UserWarning, match="dropped"):
        store = dao.write_dataset(
            tmp_path, adata, genes=pl.Series(["ENS3", "ENS1"]), gene_key="gene_ids"
        )
    var = store.var("lung")
    assert var["var_name"].to_list() == ["ENS3", "ENS1"]
    assert var["source_var_name"].to_list() == ["g3", "g1"]
    np.testing.assert_array_equal(dense(whole(store).X), dense(adata.X)[:, [3, 1]])


def test_the_same_genes_need_no_warning(tmp_path):
    adata = study()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = dao.write_dataset(tmp_path, adata, genes=list(adata.var_names), layers=True)
        back = adata.var_names[::-1]
        dao.write_dataset(tmp_path, adata, genes=back, dataset="reversed", layers=True)
    np.testing.assert_array_equal(dense(whole(store).X), dense(adata.X))


def test_duplicated_gene_names(tmp_path):
    """Stored as they are; only an alignment that asks for one of them is refused."""
    adata = study("csc")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.var_names = ["g0", "g0", *adata.var_names[2:]]
        store = dao.write_dataset(tmp_path, adata)
        assert list(whole(store).var_names[:3]) == ["g0", "g0", "g2"]
    with pytest.raises(dao.DaoValueError, match=r"'g0' of genes= belong to several.*gene_key"):
        dao.write_dataset(tmp_path, adata, dataset="b", genes=["g0", "g4"])
    with pytest.warns(UserWarning, match="17 genes"):
        dao.write_dataset(tmp_path, adata, dataset="b", genes=["g5", "g4"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"genes": ["g1", "g1"]}, dao.DaoValueError, "'g1' more than once"),
        ({"genes": ["ENS1"]}, dao.DaoKeyError, r"'ENS1'.*'g0'.*gene_key="),
        ({"genes": "g1"}, dao.DaoTypeError, "expected a list of gene names"),
        ({"genes": ["g1", None]}, dao.DaoTypeError, "None"),
        ({"genes": ["g1"], "gene_key": "nope"}, dao.DaoKeyError, "no such column.*'gene_ids'"),
        ({"gene_key": "gene_ids"}, dao.DaoValueError, "needs genes="),
        ({"shuffle": True, "seed": -1}, dao.DaoValueError, "seed"),
        ({"shuffle": True, "seed": float("nan")}, dao.DaoValueError, "seed"),
        ({"shuffle": True, "seed": True}, dao.DaoValueError, "seed"),
        ({"organism": 9606}, dao.DaoTypeError, "organism"),
        ({"dataset": 3}, dao.DaoTypeError, "dataset"),
        ({"dataset": "a/b"}, dao.DaoValueError, "a/b"),
        ({"dataset": ""}, dao.DaoValueError, "dataset"),
        ({"dataset": ".."}, dao.DaoValueError, "dataset"),
        ({"layer": "nope"}, dao.DaoKeyError, "'double'"),
        ({"obsm": ["nope"]}, dao.DaoKeyError, "'X_pca'"),
    ],
)
def test_requests_that_cannot_be_met_write_nothing(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        dao.write_dataset(tmp_path / "atlas", study(), **options)
    assert not (tmp_path / "atlas").exists()


def test_tables_that_cannot_be_stored_write_nothing(tmp_path):
    adata = study()
    adata.obs["mixed"] = pd.Series(["a", 1] * 18 + ["a"], dtype=object).to_numpy()
    with pytest.raises(dao.DaoTypeError, match=r"dataset 'lung': obs, column 'mixed'"):
        dao.write_dataset(tmp_path / "atlas", adata)
    del adata.obs["mixed"]
    adata.uns["bad"] = {"f": print}
    with pytest.raises(dao.DaoTypeError, match=r"dataset 'lung': uns\['bad'\]\['f'\]"):
        dao.write_dataset(tmp_path / "atlas", adata)
    assert not (tmp_path / "atlas").exists()
    store = dao.write_dataset(tmp_path / "atlas", adata, dataset="lung", uns=False)
    assert store.uns("lung") == {}


def test_source_row_is_never_overwritten(tmp_path):
    adata = study()
    adata.obs["source_row"] = 1
    with pytest.raises(dao.DaoValueError, match=r"'source_row'.*rename"):
        dao.write_dataset(tmp_path / "atlas", adata, shuffle=True)
    assert not (tmp_path / "atlas").exists()
    dao.write_dataset(tmp_path / "atlas", adata)


def test_shuffle_differs_without_a_seed(tmp_path):
    adata = study(n_obs=200)
    store = dao.write_dataset(tmp_path, adata, dataset="a", shuffle=True)
    store = dao.write_dataset(tmp_path, adata, dataset="b", shuffle=True)
    rows = store.scan().select("dataset", "source_row").collect()
    a, b = (part["source_row"].to_list() for part in rows.partition_by("dataset"))
    assert sorted(a) == sorted(b) == list(range(200))
    assert a != b


# --- ids, constants, the store


def test_names_of_datasets(tmp_path):
    adata = study()
    del adata.uns["id"]
    with pytest.raises(dao.DaoValueError, match=r"dataset='\.\.\.'"):
        dao.write_dataset(tmp_path / "atlas", adata)
    adata.write_h5ad(tmp_path / "kidney.h5ad")
    store = dao.write_dataset(str(tmp_path / "atlas"), tmp_path / "kidney.h5ad")
    assert store.datasets["id"].to_list() == ["kidney"]
    with pytest.raises(dao.DaoFileExistsError, match="kidney"):
        dao.write_dataset(tmp_path / "atlas", adata, dataset="kidney")
    store = dao.write_dataset(tmp_path / "atlas", adata, dataset="second")
    assert store.datasets["id"].to_list() == ["kidney", "second"]
    assert store.n_obs == 74


def test_constants_and_categories(tmp_path):
    adata = study()
    adata.uns |= {"year": np.int64(2021), "rate": 0.5, "public": np.True_, "type": "in obs"}
    store = dao.write_dataset(tmp_path, adata, organism="Mus musculus")
    assert store._core.parts[0].constants == {
        "id": "lung", "organism": "Mus musculus", "year": 2021, "rate": 0.5, "public": True,
    }  # fmt: skip
    assert store._tables.categories() == {"type": ["a", "b"], "donor": ["d1", "d2"]}
    frame = store.scan().select("organism", "year", "type").collect()
    assert frame["organism"].unique().to_list() == ["Mus musculus"]
    assert store.uns("lung")["organism"] == "Mus musculus"


def test_too_many_values_for_categories(tmp_path):
    n = 70_000
    obs = pd.DataFrame({"barcode": [f"b{i}" for i in range(n)]})
    obs.index = obs["barcode"].to_numpy()
    adata = ad.AnnData(sp.csr_matrix((n, 2), dtype="float32"), obs=obs)
    store = dao.write_dataset(tmp_path, adata, dataset="d")
    assert store._tables.categories() == {"barcode": None}
    assert store.schema["barcode"] == pl.String
    footer = pl.read_parquet_metadata  # exists, so the file is a parquet with metadata
    assert footer(part_path(tmp_path, "d") / "obs.parquet") is not None
    pd.testing.assert_frame_equal(whole(store).obs[["barcode"]], obs)


def test_reserved_column_names(tmp_path):
    adata = study()
    adata.obs["cell"] = range(37)
    adata.obs["dataset"] = "mine"
    store = dao.write_dataset(tmp_path, adata)
    assert {"obs_cell", "obs_dataset"} <= set(store.scan().collect_schema().names())


def test_raw(tmp_path):
    adata = study()
    adata.raw = adata
    adata = adata[:, :5].copy()
    store = dao.write_dataset(tmp_path, adata, layer="raw")
    np.testing.assert_array_equal(dense(whole(store).X), dense(adata.raw.X))
    assert store.var("lung").height == 19


# --- failures while writing


def test_a_source_that_breaks_leaves_nothing_behind(tmp_path):
    path = tmp_path / "bad.h5ad"
    study(n_obs=300).write_h5ad(path)
    with h5py.File(path, "r+") as f:
        f["X/indices"][-1] = 10_000
    dao.write_dataset(tmp_path / "atlas", study(), dataset="good")
    before = sorted(p for p in (tmp_path / "atlas").rglob("*"))
    with pytest.raises(dao.DaoCorruptError, match=r"bad\.h5ad: X.*10000"):
        dao.write_dataset(tmp_path / "atlas", path)
    after = sorted(p for p in (tmp_path / "atlas").rglob("*"))
    assert after == before
    assert dao.load_store(tmp_path / "atlas").datasets["id"].to_list() == ["good"]
    dao.write_dataset(tmp_path / "atlas", study(), dataset="bad")


def test_a_full_disk_while_writing_tables(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(dao.DaoIOError, match=r"obs\.parquet.*No space left"):
        dao.write_dataset(tmp_path / "atlas", study())
    monkeypatch.undo()
    store = dao.write_dataset(tmp_path / "atlas", study())
    assert store.datasets["id"].to_list() == ["lung"]


FULL_DISK = """
import resource, signal, sys
import anndata, numpy as np, scipy.sparse as sp
import dao_polars as dao
from tests.storefab import part_path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
rng = np.random.default_rng(0)
x = sp.random(2000, 500, 0.5, format=sys.argv[2], dtype="float32", random_state=rng)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    dao.write_dataset(sys.argv[1], anndata.AnnData(x), dataset="d")
except dao.DaoIOError as error:
    print("DaoIOError", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limits")
@pytest.mark.parametrize("form", ["csr", "csc"])
def test_a_full_disk_while_writing_a_matrix(form, tmp_path):
    """A limit on file sizes stands in for the full disk."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "atlas"), form]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.stdout.startswith("DaoIOError"), result.stderr
    assert not list(Path(tmp_path / "atlas").rglob("*.parquet"))


@pytest.mark.parametrize("progress", [True, False, None])
def test_progress(progress, tmp_path, capsys):
    dao.write_dataset(tmp_path, study(), progress=progress)
    assert ("writing 'lung'" in capsys.readouterr().err) == (progress is True)


def test_bars_are_silenced_as_tqdms_are(monkeypatch):
    assert not _progress._is_watched()  # though some test may have imported ipykernel
    kernel = SimpleNamespace(kernel=True)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    assert _progress._is_watched()
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert not _progress._is_watched()


def test_progress_without_tqdm(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    dao.write_dataset(tmp_path, study(), progress=True)
