"""Sources: what open_source gives equals what anndata and scanpy read, whatever the file."""

from __future__ import annotations

import itertools
import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

from dao_polars._core import MatrixName
from dao_polars.errors import (
    DaoCorruptError,
    DaoError,
    DaoFileNotFoundError,
    DaoIOError,
    DaoKeyError,
    DaoTypeError,
    DaoValueError,
)
from dao_polars.sources import matrix_source
from dao_polars.sources.hdf5_chunks import in_chunks
from dao_polars.sources.source import open_source

RNG = np.random.default_rng(7)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Many blocks even of small matrices."""
    monkeypatch.setattr(matrix_source, "BLOCK_BYTES", 400)


def counts(n_obs=23, n_vars=11, dtype="float32"):
    values = RNG.poisson(0.7, (n_obs, n_vars)) * (RNG.random((n_obs, n_vars)) < 0.6)
    values[n_obs // 2] = 0  # an empty row
    return values.astype(dtype)


def study(x, **parts):
    n_obs, n_vars = x.shape
    obs = pd.DataFrame(
        {
            "type": pd.Categorical(RNG.choice(["b", "a"], n_obs), categories=["b", "a", "c"]),
            "depth": RNG.random(n_obs),
        },
        index=[f"cell{i}" for i in range(n_obs)],
    )
    var = pd.DataFrame(
        {"id": [f"ENS{i}" for i in range(n_vars)]}, index=[f"g{i}" for i in range(n_vars)]
    )
    return ad.AnnData(x, obs=obs, var=var, uns={"id": "s", "nested": {"a": [1, 2]}}, **parts)


def assembled(matrix, order=None):
    """The whole matrix, dense, from its blocks; checks the blocks' own promises."""
    if matrix.layout == "dense":
        blocks = list(matrix.blocks() if order is None else matrix.blocks(order))
        assert all(b.flags.c_contiguous and b.dtype.isnative for b in blocks)
        return np.vstack([np.empty((0, matrix.shape[1])), *blocks])
    major, minor = matrix.shape if matrix.layout == "csr" else matrix.shape[::-1]
    dense, row = np.zeros((major, minor)), 0
    if order is not None:
        for starts, stops, indices, data in matrix.ranges(order):
            assert starts.dtype == stops.dtype == np.int64
            assert len(starts) > 0
            for start, stop in zip(starts, stops, strict=True):
                np.add.at(dense[row], indices[start:stop], data[start:stop])
                row += 1
        assert row == major
        return dense
    for indptr, indices, data in matrix.blocks():
        assert indptr.dtype == np.int64
        assert indptr[0] == 0
        assert indices.dtype in ("int32", "int64")
        assert len(indptr) > 1
        assert indptr[-1] == len(indices) == len(data)
        for start, stop in itertools.pairwise(indptr):
            np.add.at(dense[row], indices[start:stop], data[start:stop])
            row += 1
    assert row == major
    return dense if matrix.layout == "csr" else dense.T


def check_matrix(matrix, expected):
    expected = expected.toarray() if sp.issparse(expected) else np.asarray(expected)
    assert matrix.shape == expected.shape
    assert matrix.dtype == expected.dtype
    for _ in range(2):  # blocks can be asked for again
        np.testing.assert_array_equal(assembled(matrix), expected)
    values = np.concatenate([np.empty(0), *(v.ravel() for v in matrix.values())])
    stored = expected[expected != 0] if matrix.layout != "dense" else expected.ravel()
    np.testing.assert_array_equal(np.sort(values[values != 0]), np.sort(stored[stored != 0]))
    if matrix.reorders:
        order = RNG.permutation(matrix.shape[0])
        np.testing.assert_array_equal(assembled(matrix, order), expected[order])


def check_like(source, adata, **matrices):
    assert (source.n_obs, source.n_vars) == adata.shape
    pd.testing.assert_frame_equal(source.obs, adata.obs)
    pd.testing.assert_frame_equal(source.var, adata.var)
    for name, expected in matrices.items():
        check_matrix(source.matrices[MatrixName.parse(name.replace("__", "/"))], expected)


FORMS = {
    "csr_matrix": sp.csr_matrix,
    "csc_matrix": sp.csc_matrix,
    "csr_array": sp.csr_array,
    "csc_array": sp.csc_array,
    "dense": np.asarray,
    "fortran": np.asfortranarray,
}
DTYPES = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_in_memory(form, dtype):
    dense = counts(dtype=dtype)
    adata = study(FORMS[form](dense), layers={"raw_counts": sp.csr_matrix(dense)})
    with open_source(adata, layers=True) as source:
        assert source.name is None
        assert source.uns["nested"] == {"a": [1, 2]}
        check_like(source, adata, X=dense, layers__raw_counts=dense)


def test_float16_and_other_byte_orders_are_widened():
    dense = counts()
    with open_source(study(dense.astype("float16"))) as source:
        assert source.matrices[MatrixName.parse("X")].dtype == np.float16
        assert next(source.matrices[MatrixName.parse("X")].blocks()).dtype == np.float32
    adata = study(dense)
    adata.X = dense.astype(">f4")
    with open_source(adata) as source:
        np.testing.assert_array_equal(assembled(source.matrices[MatrixName.parse("X")]), dense)


def test_numpy_matrix_and_views():
    dense = counts()
    adata = study(sp.csr_matrix(dense))
    rows, columns = [5, 3, 20, 4], [2, 0, 10]
    view = adata[rows, columns]
    with open_source(view) as source:
        check_like(source, view, X=dense[np.ix_(rows, columns)])
    with open_source(ad.AnnData(np.matrix(dense))) as source:
        check_matrix(source.matrices[MatrixName.parse("X")], dense)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0), (1, 1), (5, 1), (1, 6)])
@pytest.mark.parametrize("form", FORMS)
def test_empty_and_tiny(shape, form, tmp_path):
    dense = RNG.poisson(1, shape).astype("float32")
    adata = study(FORMS[form](dense))
    adata.write_h5ad(tmp_path / "a.h5ad")
    for given in (adata, tmp_path / "a.h5ad"):
        with open_source(given) as source:
            assert (source.n_obs, source.n_vars) == shape
            check_matrix(source.matrices[MatrixName.parse("X")], dense)


def test_obs_without_columns(tmp_path):
    adata = ad.AnnData(sp.csr_matrix(counts()))
    adata.write_h5ad(tmp_path / "bare.h5ad")
    with open_source(tmp_path / "bare.h5ad") as source:
        assert source.obs.shape == (23, 0)
        assert list(source.obs.index[:2]) == ["0", "1"]


def test_raw_and_layers(tmp_path):
    dense, wide = counts(), counts(n_vars=17)
    adata = study(wide.astype("float64"))
    adata.raw = adata
    adata = adata[:, :11].copy()
    adata.X, adata.layers["counts"] = dense, sp.csc_matrix(dense * 2)
    adata.write_h5ad(tmp_path / "r.h5ad")
    adata.write_zarr(tmp_path / "r.zarr")
    for given in (adata, tmp_path / "r.h5ad", str(tmp_path / "r.zarr")):
        with open_source(given, layer="raw") as source:
            assert source.n_vars == 17
            assert list(source.var.index) == [f"g{i}" for i in range(17)]
            check_matrix(source.matrices[MatrixName.parse("X")], wide.astype("float64"))
        with open_source(given, layer="counts", layers="counts") as source:
            check_matrix(source.matrices[MatrixName.parse("X")], dense * 2)
            check_matrix(source.matrices[MatrixName.parse("layers/counts")], dense * 2)
        with pytest.raises(DaoValueError, match="genes of its own"):
            open_source(given, layer="raw", layers=True)
        with pytest.raises(DaoKeyError, match=r"no layers 'spliced'; there are: 'counts'"):
            open_source(given, layers=["spliced"])
    del adata.raw
    with pytest.raises(DaoKeyError, match="no layers 'raw'"):
        open_source(adata, layer="raw")
    adata.layers["raw"] = adata.X
    with open_source(adata, layer="raw") as source:
        check_matrix(source.matrices[MatrixName.parse("X")], dense)


def test_missing_x(tmp_path):
    adata = study(counts())
    adata.layers["counts"] = adata.X
    adata.X = None
    adata.write_h5ad(tmp_path / "n.h5ad")
    adata.write_zarr(tmp_path / "n.zarr")
    for given in (adata, tmp_path / "n.h5ad", tmp_path / "n.zarr"):
        with pytest.raises(DaoValueError, match=r"X: is missing.*layer='counts'"):
            open_source(given)
        with open_source(given, layer="counts") as source:
            assert source.n_obs == 23


def test_obsm(tmp_path):
    adata = study(counts())
    index = adata.obs_names
    adata.obsm["X_pca"] = RNG.random((23, 3))
    adata.obsm["sparse"] = sp.csc_matrix(counts(n_vars=5))
    adata.obsm["frame"] = pd.DataFrame({"a": np.arange(23), "b": RNG.random(23)}, index=index)
    adata.write_h5ad(tmp_path / "o.h5ad")
    for given in (adata, tmp_path / "o.h5ad"):
        with open_source(given, obsm=True) as source:
            check_matrix(source.matrices[MatrixName.parse("obsm/X_pca")], adata.obsm["X_pca"])
            check_matrix(source.matrices[MatrixName.parse("obsm/sparse")], adata.obsm["sparse"])
            check_matrix(
                source.matrices[MatrixName.parse("obsm/frame")], adata.obsm["frame"].to_numpy()
            )
    adata.obsm["text"] = pd.DataFrame({"a": ["x"] * 23}, index=index)
    with pytest.raises(DaoTypeError, match=r"adata.obsm\['text'\]: column 'a'"):
        open_source(adata, obsm="text")
    adata.obsm["bad/name"] = adata.obsm["X_pca"]
    with pytest.raises(DaoValueError, match="cannot name a folder"):
        open_source(adata, obsm="bad/name")


@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "dense"])
@pytest.mark.parametrize("kind", ["h5ad", "chunked.h5ad", "v2.zarr", "v3.zarr", "backed"])
def test_files(form, kind, tmp_path):
    dense = counts(40, 30)
    adata = study(FORMS[form](dense), layers={"c": FORMS[form](dense * 3)})
    adata.obsm["X_pca"] = RNG.random((40, 3))
    path = tmp_path / f"study.{kind.split('.')[-1] if kind != 'backed' else 'h5ad'}"
    if path.suffix == ".zarr":
        with ad.settings.override(zarr_write_format=int(kind[1])), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adata.write_zarr(path, chunks=(7, 30)) if form == "dense" else adata.write_zarr(path)
    else:
        adata.write_h5ad(path, compression="gzip")
        if kind == "chunked.h5ad" and form == "dense":
            with h5py.File(path, "r+") as f:
                attrs = dict(f["X"].attrs)
                del f["X"]
                f.create_dataset("X", data=dense, chunks=(7, 4)).attrs.update(attrs)
    given = ad.read_h5ad(path, backed="r") if kind == "backed" else path
    with open_source(given, layers=True, obsm=True) as source:
        assert source.name == (None if kind == "backed" else "study")
        check_like(source, adata, X=dense, layers__c=dense * 3, obsm__X_pca=adata.obsm["X_pca"])
        assert source.uns["id"] == "s"
        if kind != "backed":
            assert not source.matrices[MatrixName.parse("X")].reorders


def test_backed_view_and_sparse_datasets_in_memory(tmp_path):
    dense = counts()
    study(sp.csr_matrix(dense)).write_h5ad(tmp_path / "b.h5ad")
    backed = ad.read_h5ad(tmp_path / "b.h5ad", backed="r")
    with open_source(backed[3:9]) as source:
        check_matrix(source.matrices[MatrixName.parse("X")], dense[3:9])
    with h5py.File(tmp_path / "b.h5ad") as file:
        adata = study(dense)
        adata.layers["disk"] = ad.io.sparse_dataset(file["X"])
        with open_source(adata, layers="disk") as source:
            check_matrix(source.matrices[MatrixName.parse("layers/disk")], dense)


def test_blocks_are_bounded(tmp_path):
    """No block of a file holds more than its share, and none splits a row."""
    dense = counts(200, 50)
    study(sp.csr_matrix(dense)).write_h5ad(tmp_path / "a.h5ad")
    with open_source(tmp_path / "a.h5ad") as source:
        sizes = [i.nbytes + d.nbytes for _, i, d in source.matrices[MatrixName.parse("X")].blocks()]
        assert len(sizes) > 20
        assert max(sizes) <= 400
        assert max(v.nbytes for v in source.matrices[MatrixName.parse("X")].values()) <= 400


# --- chunks of HDF5 that the core decompresses

PIPELINES = {
    "lzf": {"compression": "lzf"},
    "gzip": {"compression": "gzip"},
    "shuffled": {"compression": "gzip", "shuffle": True},
    "lzf, shuffled": {"compression": "lzf", "shuffle": True},
}


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint16", "int8"])
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_compressed_chunks_are_what_hdf5_reads(tmp_path, pipeline, dtype):
    values = np.concatenate([np.zeros(500), RNG.integers(0, 120, 777)]).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        options = {"chunks": (100,), **PIPELINES[pipeline]}
        dataset = file.create_dataset("x", data=values, **options)
        # noise does not shrink, so lzf leaves that chunk as it is
        dataset[600:700] = np.frombuffer(RNG.bytes(100 * values.itemsize), dtype)
        found = in_chunks(dataset)
        assert found is not dataset
        for start, stop in [(0, 1277), (0, 0), (99, 101), (250, 1276), (1200, 5000)]:
            np.testing.assert_array_equal(found[start:stop], dataset[start:stop])


def test_chunks_that_the_core_does_not_know_are_hdf5s(tmp_path):
    values = np.arange(1000, dtype="int32")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, data, options in [
            ("contiguous", values, {}),
            ("plain", values, {"chunks": (100,)}),
            ("checked", values, {"chunks": (100,), "compression": "gzip", "fletcher32": True}),
            ("big", values.astype(">i4"), {"chunks": (100,), "compression": "gzip"}),
            ("half", values.astype("float16"), {"chunks": (100,), "compression": "gzip"}),
            ("two", values.reshape(10, 100), {"chunks": (5, 50), "compression": "gzip"}),
        ]:
            dataset = file.create_dataset(name, data=data, **options)
            assert in_chunks(dataset) is dataset, name
        # chunks that were never written are the fill value
        holes = file.create_dataset("holes", (1000,), "int32", chunks=(100,), compression="gzip")
        holes[150:250] = 7
        np.testing.assert_array_equal(in_chunks(holes)[50:950], holes[50:950])


def test_a_damaged_chunk_is_named_by_its_file(tmp_path):
    path = tmp_path / "a.h5ad"
    study(sp.csr_matrix(counts(300, 40))).write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        at = file["X/data"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(at + 20)
        file.write(bytes(40))
    with (
        open_source(path) as source,
        pytest.raises(DaoCorruptError, match=r"a\.h5ad: X: cannot be read"),
    ):
        list(source.matrices[MatrixName.parse("X")].blocks())


# --- old files


def test_anndata_0_6_file(tmp_path):
    """Record arrays for obs, var and obsm, categories in uns, h5sparse attributes, raw.X."""
    x = sp.csr_matrix(counts(4, 3))
    path = tmp_path / "old.h5ad"
    with h5py.File(path, "w") as f:
        obs = np.array(
            [(f"cell{i}".encode(), [1, 0, -1, 1][i], i / 2) for i in range(4)],
            dtype=[("index", "S8"), ("type", "i1"), ("depth", "f8")],
        )
        f["obs"] = obs
        var = np.empty(3, dtype=[("index", h5py.string_dtype()), ("ids", h5py.string_dtype())])
        var["index"], var["ids"] = ["gé", "gb", "gb"], ["1", "2", "3"]
        f["var"] = var
        f["obsm"] = np.array([((i, i + 1),) for i in range(4)], dtype=[("X_pca", "f4", (2,))])
        f["uns/type_categories"] = np.array([b"B", b"T"])
        f["uns/method"] = "x"
        for name in ("X", "raw.X"):
            group = f.create_group(name)
            group.attrs["h5sparse_format"] = b"csr" if name == "X" else "csr"
            group.attrs["h5sparse_shape"] = x.shape
            for part in ("data", "indices", "indptr"):
                group[part] = getattr(x, part)
        f["raw.var"] = var
    for layer in (None, "raw"):
        with open_source(path, layer=layer, obsm=True) as source:
            expected = pd.Categorical(["T", "B", None, "T"], categories=["B", "T"])
            assert list(source.obs.index) == [f"cell{i}" for i in range(4)]
            assert source.obs["type"].array.equals(expected)
            assert source.obs["depth"].tolist() == [0, 0.5, 1, 1.5]
            assert list(source.var.index) == ["gé", "gb", "gb"]
            assert source.uns == {"method": "x"}
            check_matrix(source.matrices[MatrixName.parse("X")], x)
            check_matrix(
                source.matrices[MatrixName.parse("obsm/X_pca")],
                np.array([[0, 1], [1, 2], [2, 3], [3, 4]], "f4"),
            )


def test_anndata_0_7_file(tmp_path):
    """Categories under obs/__categories."""
    path = tmp_path / "old.h5ad"
    study(sp.csr_matrix(counts())).write_h5ad(path)
    expected = ad.read_h5ad(path).obs
    with h5py.File(path, "r+") as f:
        obs = f["obs"]
        obs.attrs["encoding-version"] = "0.1.0"
        codes, categories = obs["type/codes"][:], obs["type/categories"][:]
        del obs["type"]
        obs["__categories/type"] = categories
        obs["__categories/type"].attrs["ordered"] = False
        obs["type"] = codes
        obs["type"].attrs["categories"] = obs["__categories/type"].ref
    with open_source(path) as source:
        pd.testing.assert_frame_equal(source.obs, expected)


# --- 10x


def write_10x(path, version, x, symbols, dtype="int32", **features):
    """The layout that Cell Ranger writes: features by barcodes, by column."""
    columns = sp.csc_matrix(x.T)
    with h5py.File(path, "w") as f:
        group = f.create_group("matrix" if version == 3 else "GRCh38")
        group["barcodes"] = np.array([f"AAAC{i}-1".encode() for i in range(x.shape[0])])
        group["data"] = columns.data.astype(dtype)
        group["indices"] = columns.indices.astype("int64")
        group["indptr"] = columns.indptr.astype("int64")
        group["shape"] = np.array(columns.shape, dtype="int32")
        ids = np.array([f"ENSG{i}".encode() for i in range(x.shape[1])])
        names = np.array([s.encode() for s in symbols])
        if version == 2:
            group["genes"], group["gene_names"] = ids, names
            return
        group["features/id"], group["features/name"] = ids, names
        group["features/feature_type"] = np.array([b"Gene Expression"] * len(ids))
        group["features/genome"] = np.array([b"GRCh38"] * len(ids))
        group["features/_all_tag_keys"] = np.array([b"genome"])
        for name, values in features.items():
            group[f"features/{name}"] = values


@pytest.mark.parametrize("version", [2, 3])
def test_10x_is_what_scanpy_reads(version, tmp_path):
    scanpy = pytest.importorskip("scanpy")
    dense = counts(dtype="int32")
    symbols = ["A", "B", "A", *(f"G{i}" for i in range(8))]
    path = tmp_path / "filtered_feature_bc_matrix.h5"
    write_10x(path, version, dense, symbols)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = scanpy.read_10x_h5(path)
    with open_source(path) as source:
        assert source.name == "filtered_feature_bc_matrix"
        assert source.uns == {}
        check_like(source, expected, X=dense)
        with pytest.raises(DaoKeyError, match="no layers 'counts'; there are: none"):
            open_source(path, layer="counts")


def test_10x_probes_and_filtered_barcodes(tmp_path):
    scanpy = pytest.importorskip("scanpy")
    path = tmp_path / "p.h5"
    probes = np.array([f"ENSG{i // 2}".encode() for i in range(11)])
    write_10x(path, 3, counts(), list("abcdefghijk"), gene_id=probes, filtered=np.arange(11) > 3)
    with h5py.File(path, "r+") as f:
        f["matrix/filtered_barcodes"] = np.arange(23) % 2
    with open_source(path) as source:
        expected = scanpy.read_10x_h5(path)
        pd.testing.assert_frame_equal(source.var, expected.var)
        pd.testing.assert_frame_equal(source.obs, expected.obs)


def test_10x_keeps_all_feature_types(tmp_path):
    path = tmp_path / "cite.h5"
    write_10x(path, 3, counts(), list("abcdefghijk"))
    with h5py.File(path, "r+") as f:
        del f["matrix/features/feature_type"]
        f["matrix/features/feature_type"] = [*["Gene Expression"] * 10, "Antibody Capture"]
    with open_source(path) as source:
        assert source.n_vars == 11
        assert source.var["feature_types"].iloc[10] == "Antibody Capture"


def test_10x_with_two_genomes_says_what_to_do(tmp_path):
    path = tmp_path / "barnyard.h5"
    write_10x(path, 2, counts(), list("abcdefghijk"))
    with h5py.File(path, "r+") as f:
        f.copy("GRCh38", "mm10")
    with pytest.raises(DaoValueError, match=r"GRCh38, mm10.*genome="):
        open_source(path)


# --- what cannot be written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x["indices"].__setitem__(3, 11), "index 11 .* out of range.* 11 columns"),
        (lambda x: x["indices"].__setitem__(3, -1), "index -1 .* out of range"),
        (lambda x: x["indptr"].__setitem__(5, 0), "never decrease"),
        (lambda x: x["indptr"].__setitem__(0, 1), "start at 0"),
        (lambda x: x["indptr"].__setitem__(-1, 10**6), "indptr promises"),
        (lambda x: x["data"].resize((5,)), "indptr promises"),
        (lambda x: x["indptr"].resize((5,)), "indptr must have 24"),
        (lambda x: x.attrs.__setitem__("shape", [22, 11]), "indptr must have 23"),
        (lambda x: x.attrs.__setitem__("shape", [23, 12]), "11 genes in var"),
        (lambda x: x.attrs.__setitem__("shape", [np.inf, 11.0]), "no shape"),
        (lambda x: x.__delitem__("data"), "X: cannot be read"),
    ],
)
def test_damaged_sparse_matrix(change, message, tmp_path):
    path = tmp_path / "a.h5ad"
    study(sp.csr_matrix(counts())).write_h5ad(path)
    with h5py.File(path, "r+") as f:
        change(f["X"])
    with pytest.raises(DaoCorruptError, match=message) as error, open_source(path) as source:
        list(source.matrices[MatrixName.parse("X")].blocks())
    assert str(path) in str(error.value)


@pytest.mark.parametrize("keep", [0, 0.1, 0.5, 0.9, 0.99])
def test_truncated_file(keep, tmp_path):
    path = tmp_path / "a.h5ad"
    study(sp.csr_matrix(counts(300, 40))).write_h5ad(path, compression="gzip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DaoCorruptError, match=r"a\.h5ad"), open_source(path) as source:
        list(source.matrices[MatrixName.parse("X")].blocks())


@pytest.mark.parametrize("seed", range(60))
def test_any_damage_is_a_dao_error(seed, tmp_path):
    """Bytes overwritten at random: a Dao error or some numbers, never another error."""
    rng = np.random.default_rng(seed)
    path = tmp_path / "a.h5ad"
    study(sp.csr_matrix(counts(60, 20)), obsm={"e": np.ones((60, 2))}).write_h5ad(
        path, compression="gzip" if seed % 2 else None
    )
    content = bytearray(path.read_bytes())
    start = int(rng.integers(0, len(content) - 64))
    content[start : start + 64] = rng.bytes(64)
    path.write_bytes(bytes(content))
    try:
        with open_source(path, obsm=True) as source:
            for matrix in source.matrices.values():
                list(matrix.blocks())
            _ = source.uns
    except DaoError:
        pass


def test_zarr_with_a_broken_chunk(tmp_path):
    path = tmp_path / "a.zarr"
    study(sp.csr_matrix(counts())).write_zarr(path)
    group = zarr.open_group(str(path), mode="r")
    chunk = path / "X" / "data" / ("c/0" if group.metadata.zarr_format == 3 else "0")
    chunk.write_bytes(b"\x00\x01\x02")
    with pytest.raises(DaoCorruptError, match=r"a\.zarr: X"), open_source(path) as source:
        list(source.matrices[MatrixName.parse("X")].blocks())


def test_a_column_that_claims_more_than_memory(tmp_path):
    adata = ad.AnnData(np.ones((3, 2), np.float32), obs=pd.DataFrame({"n": [0.5, 1, 2]}))
    with ad.settings.override(zarr_write_format=2):
        adata.write_zarr(tmp_path / "x.zarr")
    (tmp_path / "x.zarr" / ".zmetadata").unlink()
    file = tmp_path / "x.zarr" / "obs" / "n" / ".zarray"
    file.write_text(file.read_text().replace("3", str(2**50)))
    with pytest.raises(DaoIOError, match="memory") as caught:
        open_source(tmp_path / "x.zarr")
    assert isinstance(caught.value.__cause__, MemoryError)


def test_paths_that_hold_something_else(tmp_path):
    with pytest.raises(DaoFileNotFoundError, match="no such file"):
        open_source(tmp_path / "none.h5ad")
    (tmp_path / "text.h5ad").write_text("hello")
    with pytest.raises(DaoCorruptError, match="not an HDF5 file"):
        open_source(tmp_path / "text.h5ad")
    with pytest.raises(DaoValueError, match="no zarr group"):
        open_source(tmp_path)
    with h5py.File(tmp_path / "other.h5", "w") as f:
        f["weights"] = [1, 2]
    with pytest.raises(DaoValueError, match="found weights"):
        open_source(tmp_path / "other.h5")
    with h5py.File(tmp_path / "m.h5mu", "w") as f:
        f.create_group("mod"), f.create_group("obs"), f.create_group("var")
    with pytest.raises(DaoValueError, match="MuData"):
        open_source(tmp_path / "m.h5mu")


def test_objects_that_cannot_be_written():
    for other in (np.ones((2, 2)), pd.DataFrame(), None, 3):
        with pytest.raises(DaoTypeError, match="expected an AnnData, or a path"):
            open_source(other)
    with pytest.raises(DaoTypeError, match="complex64"):
        open_source(study(counts(dtype="complex64")))
    dask = pytest.importorskip("dask.array")
    with pytest.raises(DaoTypeError, match=r"dask Array.*compute"):
        open_source(study(dask.from_array(counts())))
