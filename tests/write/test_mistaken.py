"""write_dataset and load_store with what a newcomer gives them first."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp

import dao_polars as dao
from tests.conftest import DATA, SFAIRA, study


@pytest.fixture
def store(tmp_path) -> dao.Store:
    return dao.write_dataset(tmp_path / "atlas", study(1, 10, ["a", "b"]), dataset="s")


def test_a_store_and_a_study_in_each_others_place(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(dao.DaoTypeError, match=r"found an AnnData.*the store comes first"):
        dao.write_dataset(study(2, 5, ["a"]), "atlas")
    with pytest.raises(dao.DaoValueError, match="is a file, and a store is a folder"):
        dao.write_dataset(DATA / "pbmc_human.h5ad", "atlas")
    with pytest.raises(dao.DaoValueError, match=r"source 'atlas' is a store.*dao\.copy"):
        dao.write_dataset("other", "atlas")
    study(1, 5, ["a"]).write_zarr("s.zarr")
    before = sorted(path.name for path in (tmp_path / "s.zarr").iterdir())
    with pytest.raises(
        dao.DaoValueError, match=r"is a study, an AnnData \.zarr.*store comes first"
    ):
        dao.write_dataset("s.zarr", DATA / "pbmc_human.h5ad")
    assert sorted(path.name for path in (tmp_path / "s.zarr").iterdir()) == before
    assert not (tmp_path / "other").exists()
    assert dao.load_store("atlas").version == store.version


def test_a_folder_inside_of_a_store(store):
    [part] = (store_path := DATA.__class__(store.uri)).glob("parts/*")
    for inside in (part, part / "zarr", store_path / "parts", store_path / "versions"):
        with pytest.raises(dao.DaoFileNotFoundError, match=f"inside of the store '{store.uri}'"):
            dao.load_store(inside)
    [study_folder] = [path for path in SFAIRA.iterdir() if path.is_dir()][:1]
    with pytest.raises(dao.DaoFileNotFoundError, match=f"open its parent '{SFAIRA}'"):
        dao.load_store(study_folder)


def test_a_study_is_no_store(tmp_path):
    with pytest.raises(dao.DaoFileNotFoundError, match=r"it is a study; .*dao\.write_dataset"):
        dao.scan(DATA / "pbmc_human.h5ad")
    study(1, 5, ["a"]).write_zarr(tmp_path / "s.zarr")
    with pytest.raises(dao.DaoFileNotFoundError, match="it is a study"):
        dao.scan(tmp_path / "s.zarr")
    with pytest.raises(dao.DaoFileNotFoundError, match="there is no such folder"):
        dao.scan(tmp_path / "nothing")


def test_a_damaged_store_is_not_called_something_else(store):
    """One inside of another store's folder, too."""
    inner = f"{store.uri}/inner"
    dao.write_dataset(inner, study(1, 10, ["a", "b"]), dataset="s")
    (DATA.__class__(inner) / "versions" / "0000000001.json").write_text("{")
    with pytest.raises(dao.DaoCorruptError, match="not a readable manifest"):
        dao.load_store(inner)


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("counts.csv", "scanpy.read_csv"),
        ("counts.tsv.gz", "scanpy.read_text"),
        ("atlas.rds", "anndataR"),
        ("10x", "scanpy.read_10x_mtx"),
    ],
)
def test_a_path_that_is_no_anndata_says_who_reads_it(tmp_path, name, reader):
    path = tmp_path / name
    if "." in name:
        path.write_text("a,b\n1,2\n")
    else:
        path.mkdir()
        (path / "matrix.mtx.gz").write_bytes(b"")
    with pytest.raises(dao.DaoError, match=reader):
        dao.write_dataset(tmp_path / "store", path)


def test_a_missing_layer_is_called_a_layer(store, tmp_path):
    with pytest.raises(dao.DaoKeyError, match=r"dataset 's' has no layer 'counts'; it has: none"):
        store.scan().dao.iter_batches(5, layer="counts")
    adata = study(1, 10, ["a", "b"])
    adata.layers["spliced"] = adata.X
    other = dao.write_dataset(tmp_path / "o", adata, dataset="o", layers=True)
    with pytest.raises(dao.DaoKeyError, match=r"no layer 'counts'; it has: 'spliced'"):
        other.scan().dao.to_anndata(layer="counts")


@pytest.mark.parametrize("dense", [False, True])
def test_values_that_are_no_expression_are_told_once(tmp_path, dense):
    adata = study(1, 300, [f"g{i}" for i in range(50)], density=0.6)
    x = adata.X.toarray()
    x[x > 250] = np.nan
    x[(x > 200) & (x < 240)] *= -1.5
    x[0, :2] = np.inf
    adata.X = x if dense else sp.csr_matrix(x)
    least = np.min(x[np.isfinite(x)])
    said = f"X has {np.isnan(x).sum():,} NaN and 2 infinite values and negative values, down to"
    with pytest.warns(UserWarning, match="kept as they are") as told:
        store = dao.write_dataset(tmp_path / "s", adata, dataset="s")
    assert [str(w.message) for w in told] == [
        f"dataset 's': {said} {least:g}. They are kept as they are"
    ]
    assert told[0].filename == __file__
    np.testing.assert_array_equal(store.scan().dao.to_anndata().X.toarray(), x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # who writes a selection was told before
        store.scan().dao.write_dataset(tmp_path / "t")


@pytest.mark.filterwarnings("error")
def test_counts_and_embeddings_are_written_without_a_word(tmp_path):
    adata = study(1, 30, ["a", "b"])
    adata.obsm["pca"] = np.random.default_rng(0).normal(size=(30, 2))
    dao.write_dataset(tmp_path / "s", adata, dataset="s")
