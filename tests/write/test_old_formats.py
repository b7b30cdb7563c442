"""Files from before anndata 0.7: what is read equals what anndata reads."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

import dao_polars as dao
from dao_polars._core import MatrixName
from dao_polars.errors import DaoCorruptError
from dao_polars.sources.source import open_source

N_OBS, N_VARS = 7, 4
X = sp.csr_matrix(np.arange(N_OBS * N_VARS).reshape(N_OBS, N_VARS) % 3, dtype="float32")
CODES = [1, 0, -1, 2, 1, 0, 0]
CATEGORIES = {
    "text": np.array(["b cell", "a", "T"]),
    "int": np.array([7, 3, 5], dtype="int16"),
    "float": np.array([0.5, 0.25, 2.0]),
}


def oracle(path: Path) -> ad.AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)


def is_like_the_oracle(path: Path, **options: object) -> ad.AnnData:
    expected = oracle(path)
    raw = options.get("layer") == "raw"
    with open_source(path, **options) as source:
        pd.testing.assert_frame_equal(source.obs, expected.obs)
        pd.testing.assert_frame_equal(source.var, expected.raw.var if raw else expected.var)
        assert source.uns.keys() == expected.uns.keys()
        x = (expected.raw if raw else expected).X
        blocks = list(source.matrices[MatrixName.X].blocks())
        assert sum(np.asarray(b[2] if isinstance(b, tuple) else b).sum() for b in blocks) == x.sum()
        obsm = {n.name for n in source.matrices if n.group == "obsm"}
        assert obsm == set(expected.obsm)
        for name in obsm:
            found = np.vstack(list(source.matrices[MatrixName.obsm(name)].blocks()))
            np.testing.assert_array_equal(found, expected.obsm[name])
    return expected


def records(index: str, text: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """obs and var as record arrays, their text in numpy's or HDF5's type ``text``."""
    string = h5py.string_dtype() if text == "vlen" else np.dtype(text)
    obs = np.empty(
        N_OBS,
        dtype=[(index, string), ("type", "i1"), ("batch", "i4"), ("note", string), ("n", "<f4")],
    )
    obs[index] = [f"cell{i}" for i in range(N_OBS)]
    obs["type"], obs["batch"] = CODES, np.arange(N_OBS) % 2
    obs["note"], obs["n"] = list("xyzxyzx"), np.arange(N_OBS) / 2
    var = np.empty(N_VARS, dtype=[(index, string), ("type", "i8"), ("means", ">f8"), ("hv", "?")])
    var[index], var["type"] = list("ABCA"), 100 if kind == "text" else [0, 2, 1, 1]
    var["means"], var["hv"] = np.arange(N_VARS), [True, False, True, True]
    return obs, var


def put_sparse(root, name: str, matrix: sp.spmatrix, text: type) -> None:
    group = root.create_group(name)
    group.attrs["h5sparse_format"] = text(matrix.format)
    group.attrs["h5sparse_shape"] = list(matrix.shape)
    for part in ("data", "indices", "indptr"):
        put(group, part, getattr(matrix, part))


def put(group, name: str, values: np.ndarray) -> None:
    if isinstance(group, h5py.Group):
        group.create_dataset(name, data=values)
    else:
        group.create_array(name, data=values)


@pytest.mark.parametrize("kind", CATEGORIES)
@pytest.mark.parametrize("index", ["index", "_index"])
@pytest.mark.parametrize("text", ["S8", "vlen"])
@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix])
def test_h5ad(kind: str, index: str, text: str, form: type, tmp_path: Path) -> None:
    path = tmp_path / "old.h5ad"
    obs, var = records(index, text, kind)
    categories = CATEGORIES[kind]
    with h5py.File(path, "w") as file:
        file["obs"], file["var"] = obs, var
        file["uns/type_categories"] = categories.astype("S") if kind == "text" else categories
        file["uns/batch_categories"] = np.array([b"one", b"two"])
        file["uns/other_categories"] = [1, 2]
        file["obsm"] = np.array(
            [((i, i + 1), (i,) * 3) for i in range(N_OBS)],
            dtype=[("X_pca", "f4", (2,)), ("X_umap", "f8", (3,))],
        )
        file["varm"] = np.array([((i, i),) for i in range(N_VARS)], dtype=[("PCs", "f4", (2,))])
        put_sparse(file, "X", form(X), str)
        put_sparse(file, "raw.X", form(X), str)
        file["raw.var"] = var
    expected = is_like_the_oracle(path)
    assert list(expected.obs["type"].cat.categories) == list(categories)
    is_like_the_oracle(path, layer="raw")
    with open_source(path) as source:
        assert "varm 'PCs'" in source.left_out

    with pytest.warns(UserWarning, match=r"not kept: raw .*; varm 'PCs'$"):
        store = dao.write_dataset(tmp_path / "store", path)
    found = store.scan().dao.to_anndata()
    pd.testing.assert_frame_equal(found.obs.drop(columns="dataset"), expected.obs)
    assert (found.X != X).nnz == 0


@pytest.mark.parametrize("kind", CATEGORIES)
@pytest.mark.parametrize("index", ["index", "_index"])
@pytest.mark.parametrize("text", ["S8", "U8"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr(kind: str, index: str, text: str, zarr_format: int, tmp_path: Path) -> None:
    path = tmp_path / "old.zarr"
    obs, var = records(index, text, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
        put(root, "obs", obs)
        put(root, "var", var)
        uns = root.create_group("uns")
        put(uns, "type_categories", CATEGORIES[kind])
        put(uns, "batch_categories", np.array(["one", "two"]))
        put_sparse(root, "X", X, str)
        put_sparse(root, "raw.X", X, str)
        put(root, "raw.var", var)
    is_like_the_oracle(path)
    is_like_the_oracle(path, layer="raw")
    with pytest.warns(UserWarning, match="not kept: raw"):
        store = dao.write_dataset(tmp_path / "store", path)
    if kind == "text":
        assert store.schema["type"].categories.to_list() == ["T", "a", "b cell"]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(
    ("kind", "file"), list(itertools.product(CATEGORIES, ["h5ad", "2.zarr", "3.zarr"]))
)
def test_a_group_of_categories(kind: str, ordered: bool, file: str, tmp_path: Path) -> None:
    """anndata 0.7: codes in the frame's group, categories in its ``__categories``."""
    path = tmp_path / f"old.{file}"
    codes = np.array(CODES)
    expected = pd.Categorical.from_codes(codes, CATEGORIES[kind], ordered=ordered)
    index = pd.Index([f"cell{i}" for i in range(N_OBS)], name="barcode")
    obs = pd.DataFrame({"n": np.arange(N_OBS)}, index=index)
    var = pd.DataFrame({"id": list("wxyz")}, index=list("ABCD"))
    adata = ad.AnnData(X, obs=obs, var=var)
    adata.raw = adata
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if file == "h5ad":
            adata.write_h5ad(path)
            root = h5py.File(path, "r+")
        else:
            with ad.settings.override(zarr_write_format=int(file[0])):
                adata.write_zarr(path)
            root = zarr.open_group(path, mode="r+", use_consolidated=False)
        group = root["obs"]
        group.attrs["encoding-version"] = "0.1.0"
        group.attrs["column-order"] = ["n", "type"]
        values = CATEGORIES[kind]
        put(group, "type", codes.astype("int8"))
        categories = group.create_group("__categories")
        if file == "h5ad":
            put(
                categories, "type", values.astype(h5py.string_dtype()) if kind == "text" else values
            )
            group["type"].attrs["categories"] = categories["type"].ref
            categories["type"].attrs["ordered"] = ordered
            root.close()
        else:
            put(categories, "type", values)
            group["type"].attrs["categories"] = "__categories/type"
            categories["type"].attrs["ordered"] = ordered
            zarr.consolidate_metadata(root.store)
    found = is_like_the_oracle(path)
    assert found.obs["type"].array.equals(expected)
    assert found.obs["type"].cat.ordered == ordered
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = dao.write_dataset(tmp_path / "store", path)
    back = store.scan().dao.to_anndata().obs["type"]
    pd.testing.assert_series_equal(back, found.obs["type"])


def test_tables_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "empty.h5ad"
    with h5py.File(path, "w") as file:
        file["obs"] = np.empty(0, dtype=[("index", "S3"), ("type", "i1")])
        file["var"] = np.array([(b"A",)], dtype=[("index", "S3")])
        file["X"] = np.empty((0, 1), "f4")
        file["uns/type_categories"] = np.array([b"x", b"y"])
    is_like_the_oracle(path)


@pytest.mark.parametrize(
    ("codes", "categories", "message"),
    [
        ([0, 1], [b"x", b"x"], "categories of column 'type' repeat"),
        ([0, -2], [b"x", b"y"], "codes are below -1"),
    ],
)
def test_damaged_categories(
    codes: list[int], categories: list[bytes], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.h5ad"
    with h5py.File(path, "w") as file:
        file["obs"] = np.array(
            list(zip([b"a", b"b"], codes, strict=True)), dtype=[("index", "S3"), ("type", "i1")]
        )
        file["var"] = np.array([(b"A",)], dtype=[("index", "S3")])
        file["X"] = np.ones((2, 1), "f4")
        file["uns/type_categories"] = np.array(categories)
    with pytest.raises(DaoCorruptError, match=message):
        open_source(path)


def test_text_that_is_no_unicode(tmp_path: Path) -> None:
    path = tmp_path / "latin.h5ad"
    with h5py.File(path, "w") as file:
        file["obs"] = np.array([(b"c", b"\xe9")], dtype=[("index", "S3"), ("note", "S3")])
        file["var"] = np.array([(b"A",)], dtype=[("index", "S3")])
        file["X"] = np.ones((1, 1), "f4")
    with pytest.raises(DaoCorruptError, match=r"obs: field 'note': .* not valid UTF-8"):
        open_source(path)
