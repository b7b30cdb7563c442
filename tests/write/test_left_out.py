"""One warning names what of a source is not kept; a bug of ours is not blamed on the source."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import dao_polars as dao
from dao_polars.errors import DaoCorruptError, DaoInternalError, DaoTypeError, DaoValueError
from dao_polars.sources import source as sources
from dao_polars.sources.matrix_source import reading
from tests.write.test_write_sources import write_10x

N_OBS, N_VARS = 9, 5
KINDS = ["memory", "view", "h5ad", "zarr", "backed"]


def plain() -> ad.AnnData:
    x = sp.csr_matrix(np.arange(N_OBS * N_VARS).reshape(N_OBS, N_VARS) % 4, dtype="float32")
    obs = pd.DataFrame({"n": np.arange(N_OBS)}, index=[f"c{i}" for i in range(N_OBS)])
    var = pd.DataFrame({"id": list("vwxyz")}, index=list("ABCDE"))
    return ad.AnnData(x, obs=obs, var=var)


def full() -> ad.AnnData:
    adata = plain()
    adata.raw = adata
    adata.raw.varm["loadings"] = np.ones((N_VARS, 2))
    adata.layers["counts"], adata.layers["spliced"] = adata.X, adata.X
    adata.obsm["X_pca"], adata.obsm["X_umap"] = np.ones((N_OBS, 3)), np.zeros((N_OBS, 2))
    adata.varm["PCs"] = np.ones((N_VARS, 3))
    adata.obsp["distances"] = sp.csr_matrix(np.eye(N_OBS))
    adata.varp["corr"] = np.eye(N_VARS)
    return adata


def given(adata: ad.AnnData, kind: str, folder: Path) -> object:
    path = folder / f"s.{'zarr' if kind == 'zarr' else 'h5ad'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "zarr":
            adata.write_zarr(path)
        elif kind in ("h5ad", "backed"):
            adata.write_h5ad(path)
        if kind == "backed":
            return ad.read_h5ad(path, backed="r")
    return {"memory": adata, "view": adata[:, :]}.get(kind, path)


def told(source: object, folder: Path, **options: object) -> str | None:
    """What the one warning says is not kept; None where there is none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dao.write_dataset(folder / "store", source, dataset="s", **options)
    ours = [w for w in caught if "not kept" in str(w.message)]
    assert len(ours) < 2
    if not ours:
        return None
    assert ours[0].category is UserWarning
    assert ours[0].filename == __file__
    return str(ours[0].message).removeprefix("dataset 's': not kept: ")


RAW, OTHERS = "raw (layer='raw' writes it as X); ", "obsp 'distances'; varp 'corr'; varm 'PCs'"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, f"{RAW}layers 'counts', 'spliced' (layers=True keeps them); {OTHERS}"),
        ({"layers": True}, RAW + OTHERS),
        ({"layers": "counts"}, f"{RAW}layers 'spliced' (layers=True keeps them); {OTHERS}"),
        (
            {"layers": True, "obsm": "X_pca"},
            f"{RAW}{OTHERS}; obsm 'X_umap' (obsm=True keeps them)",
        ),
        (
            {"layers": True, "obsm": False},
            f"{RAW}{OTHERS}; obsm 'X_pca', 'X_umap' (obsm=True keeps them)",
        ),
        (
            {"layer": "counts"},
            f"X; {RAW}layers 'spliced' (layers=True keeps them); {OTHERS}",
        ),
        ({"layer": "raw"}, f"X; layers 'counts', 'spliced'; {OTHERS}; raw/varm 'loadings'"),
    ],
)
def test_what_is_not_kept_is_named(
    kind: str, options: dict[str, object], expected: str, tmp_path: Path
) -> None:
    assert told(given(full(), kind, tmp_path), tmp_path, **options) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_no_warning_where_all_is_kept(kind: str, tmp_path: Path) -> None:
    adata = plain()
    adata.layers["counts"], adata.obsm["X_pca"] = adata.X, np.arange(N_OBS * 2.0).reshape(-1, 2)
    source = given(adata, kind, tmp_path)
    assert told(source, tmp_path, layers=True) is None
    found = dao.scan(tmp_path / "store").dao.to_anndata()
    np.testing.assert_array_equal(found.obsm["X_pca"], adata.obsm["X_pca"])
    np.testing.assert_array_equal(found.layers["counts"].toarray(), adata.X.toarray())


@pytest.mark.parametrize("kind", ["memory", "h5ad", "zarr"])
def test_obsm_that_are_no_matrices(kind: str, tmp_path: Path) -> None:
    adata = plain()
    adata.obsm["X_pca"] = np.ones((N_OBS, 2))
    adata.obsm["cube"] = np.ones((N_OBS, 2, 2))
    adata.obsm["text"] = pd.DataFrame({"a": ["x"] * N_OBS}, index=adata.obs_names)
    adata.obsm["words"] = np.array([["x"]] * N_OBS, dtype=object)
    source = given(adata, kind, tmp_path)
    for obsm in (True, None):
        options = {} if obsm is None else {"obsm": obsm}
        said = told(source, tmp_path / str(obsm), **options)
        assert [part.split(" (")[0] for part in said.split("; ")] == [
            "obsm 'cube'",
            "obsm 'text'",
            "obsm 'words'",
        ]
        kept = dao.scan(tmp_path / str(obsm) / "store").dao.to_anndata().obsm
        assert list(kept) == ["X_pca"]
    for name in ("cube", "text", "words"):
        with pytest.raises((DaoTypeError, DaoValueError), match=name):
            dao.write_dataset(tmp_path / "other", source, dataset="s", obsm=["X_pca", name])


def test_names_that_are_no_folders(tmp_path: Path) -> None:
    adata = plain()
    adata.obsm["a/b"] = np.ones((N_OBS, 2))
    assert told(adata, tmp_path).startswith("obsm 'a/b' (the AnnData: obsm 'a/b' cannot name")


@pytest.mark.parametrize("version", [2, 3])
def test_10x(version: int, tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    write_10x(path, version, np.eye(11, dtype="int32"), list("abcdefghijk"))
    assert told(path, tmp_path / "a") is None
    if version == 3:
        with h5py.File(path, "r+") as file:
            file["matrix/features/target_sets/panel"] = np.arange(3)
        assert told(path, tmp_path / "b") == "/matrix/features/target_sets"


def test_a_bug_of_ours_is_not_blamed_on_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = given(plain(), "h5ad", tmp_path)

    def broken(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(sources, "_left_out", broken)
    # pytest's own frames lie between; the function is called from this package's code
    with pytest.raises(DaoInternalError, match="bug in dao-polars") as error:
        dao.write_dataset(tmp_path / "store", path)
    assert isinstance(error.value.__cause__, KeyError)
    assert isinstance(error.value, RuntimeError)
    assert not (tmp_path / "store").exists()


def test_what_readers_of_files_raise_is_the_files(tmp_path: Path) -> None:
    path = given(plain(), "h5ad", tmp_path)
    with h5py.File(path, "r+") as file:
        with pytest.raises(DaoCorruptError, match="f: cannot be read") as error, reading("f"):
            file["nothing"]
        assert isinstance(error.value.__cause__, KeyError)
        del file["X/indices"]
        file.create_group("X/indices")
    with pytest.raises(DaoCorruptError, match="'indices' is a group"):
        dao.write_dataset(tmp_path / "store", path)
    with pytest.raises(DaoCorruptError, match="no disk"), reading("f"):
        raise OSError("no disk")
    with pytest.raises(DaoInternalError), reading("f"):
        np.asarray([1, 2]).reshape(3)


@pytest.mark.parametrize("name", ["X/indptr", "X/data", "obs/n", "obs/_index", "var/id", "uns"])
def test_parts_of_another_kind(name: str, tmp_path: Path) -> None:
    path = given(plain(), "h5ad", tmp_path)
    for value in (b"text", np.zeros((2, 2)), np.array(["a", "b"], dtype="S1")):
        with h5py.File(path, "r+") as file:
            del file[name]
            file[name] = value
        with pytest.raises((DaoCorruptError, DaoTypeError, DaoValueError)):
            dao.write_dataset(tmp_path / "store", path)
