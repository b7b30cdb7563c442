"""What is on disk is zarr v3 and anndata's encoding: other readers agree.

Packed stores need the codec dao_polars.pfor, which installing dao-polars brings to zarr-python;
portable ones need nothing of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import zarr

import dao_polars as dao
from tests.conftest import STUDIES
from tests.storefab import part_path

# Runs the code in sys.argv[1] as if dao-polars were not installed.
WITHOUT_DAO = """
import importlib.metadata, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "dao_polars":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

all_of_them = importlib.metadata.entry_points

def entry_points(**params):
    groups = all_of_them()
    found = [entry for group in groups.groups for entry in groups.select(group=group)]
    others = [entry for entry in found if not entry.value.startswith("dao_polars")]
    assert len(others) < len(found)
    return importlib.metadata.EntryPoints(others).select(**params)

sys.meta_path.insert(0, Absent())
importlib.metadata.entry_points = entry_points
exec(sys.argv[1])
"""


def without_dao(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_DAO, code, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)
    x = sp.random(500, 300, 0.3, "csr", np.float32, rng, lambda n: rng.integers(1, 2000, n))
    adata = ad.AnnData(x)
    adata.layers["log"] = x.log1p()
    adata.obsm["X_pca"] = rng.normal(size=(500, 7))
    return adata


@pytest.fixture(scope="module", params=["packed", "portable"])
def written(request, source, tmp_path_factory):
    """The store, its source, the folder of its zarr and the profile."""
    uri = tmp_path_factory.mktemp("interop") / request.param
    store = dao.write_dataset(
        uri,
        source,
        dataset="d",
        layers=True,
        obsm=True,
        profile=request.param,
        progress=False,
    )
    return store, source, part_path(uri, "d") / "zarr", request.param


def test_zarr_python_opens_it(written):
    _, adata, path, _ = written
    group = zarr.open_group(path, mode="r")
    x = group["X"]
    assert dict(x.attrs) == {
        "encoding-type": "csr_matrix",
        "encoding-version": "0.1.0",
        "shape": [500, 300],
    }
    assert x["data"].dtype == np.uint16
    assert x["indices"].dtype == np.uint16
    assert x["indptr"].dtype == np.int64
    matrix = sp.csr_matrix((x["data"][:], x["indices"][:], x["indptr"][:]), shape=(500, 300))
    assert (matrix != adata.X).nnz == 0
    np.testing.assert_array_equal(group["obsm/X_pca"][:], adata.obsm["X_pca"])


def test_anndata_opens_it(written):
    _, adata, path, _ = written
    group = zarr.open_group(path, mode="r")
    assert (ad.io.read_elem(group["X"]) != adata.X).nnz == 0
    backed = ad.io.sparse_dataset(group["X"])
    assert backed.shape == (500, 300)
    assert (backed[3:77] != adata.X[3:77]).nnz == 0
    rows = np.array([400, 2, 77])
    np.testing.assert_array_equal(backed[rows].toarray(), adata.X[rows].toarray())
    np.testing.assert_array_equal(
        ad.io.read_elem(group["layers/log"]).toarray(), adata.layers["log"].toarray()
    )


@pytest.mark.parametrize("name", STUDIES)
def test_anndata_opens_real_cells(real_store, real, name):
    x = zarr.open_group(part_path(Path(real_store.uri), name) / "zarr", mode="r")["X"]
    expected = real[name].X
    assert (ad.io.read_elem(x) != expected).nnz == 0
    backed = ad.io.sparse_dataset(x)
    rows = np.sort(np.random.default_rng(0).choice(expected.shape[0], 50, replace=False))
    assert (backed[rows] != expected[rows]).nnz == 0
    assert (backed[100:300] != expected[100:300]).nnz == 0


def test_codecs(written):
    _, _, path, profile = written
    core = ["bytes", "blosc", "crc32c"]
    for array, delta in (("X/data", False), ("X/indices", True), ("X/indptr", True)):
        (sharding,) = json.loads((path / array / "zarr.json").read_text())["codecs"]
        inner = sharding["configuration"]["codecs"]
        assert sharding["name"] == "sharding_indexed"
        if profile == "packed":
            assert inner == [{"name": "dao_polars.pfor", "configuration": {"delta": delta}}]
        else:
            assert [codec["name"] for codec in inner] == core
    (sharding,) = json.loads((path / "obsm/X_pca/zarr.json").read_text())["codecs"]
    assert [codec["name"] for codec in sharding["configuration"]["codecs"]] == core


@pytest.mark.parametrize("written", ["packed"], indirect=True)
@pytest.mark.parametrize("name", ["X/data", "X/indices", "X/indptr", "layers/log/data"])
def test_zarr_python_writes_the_same_chunks(written, name):
    _, _, path, _ = written
    array = zarr.open_array(path / name, mode="r")
    (size,) = array.chunks
    again = zarr.storage.MemoryStore()
    zarr.create_array(
        again,
        shape=-(-array.shape[0] // size) * size,  # ours fill the last chunk up with zeros, too
        dtype=array.dtype,
        chunks=array.chunks,
        serializer=array.metadata.codecs[0].codecs[0],
        compressors=None,
    )[: array.shape[0]] = array[:]
    shard = (path / name / "c" / "0").read_bytes()
    n = array.shards[0] // size
    index = np.frombuffer(shard[-16 * n - 4 : -4], "<u8").reshape(n, 2).tolist()
    chunks = [shard[offset : offset + length] for offset, length in index]
    assert chunks == [again._store_dict[f"c/{i}"].to_bytes() for i in range(n)]


def test_without_dao_polars(written):
    _, adata, path, profile = written
    code = "import zarr; print(zarr.open_group(sys.argv[2], mode='r')['X/data'][:].sum())"
    found = without_dao(code, path)
    if profile == "portable":
        assert (found.returncode, found.stderr) == (0, "")
        assert int(found.stdout) == adata.X.sum(dtype=np.float64)
    else:
        assert found.returncode == 1
        assert "'dao_polars.pfor'" in found.stderr.splitlines()[-1]


def test_tables_are_plain_parquet(written):
    _, adata, path, _ = written
    tables = path.parent
    assert pl.read_parquet(tables / "obs.parquet")["obs_name"].to_list() == list(adata.obs_names)
    assert pl.read_parquet(tables / "var.parquet")["var_name"].to_list() == list(adata.var_names)


def test_verify_is_silent_on_a_good_store(written):
    store, _, _, _ = written
    assert store.verify().height == 0
