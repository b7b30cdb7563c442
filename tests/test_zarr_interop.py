"""What is on disk is plain zarr v3 and anndata's encoding: other readers agree."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import zarr

import dao_polars as dao


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    rng = np.random.default_rng(0)
    x = sp.random(500, 300, 0.3, "csr", np.float32, rng, lambda n: rng.integers(1, 2000, n))
    adata = ad.AnnData(x)
    adata.layers["log"] = x.log1p()
    adata.obsm["X_pca"] = rng.normal(size=(500, 7))
    uri = tmp_path_factory.mktemp("interop") / "s"
    store = dao.write_dataset(uri, adata, dataset="d", layers=True, obsm=True, progress=False)
    return store, adata, uri / "d" / "zarr"


def test_zarr_python_opens_it(written):
    _, adata, path = written
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
    _, adata, path = written
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


def test_only_core_codecs_and_checksums(written):
    _, _, path = written
    for array in ("X/data", "X/indices", "X/indptr", "obsm/X_pca"):
        (sharding,) = json.loads((path / array / "zarr.json").read_text())["codecs"]
        inner = [codec["name"] for codec in sharding["configuration"]["codecs"]]
        assert (sharding["name"], inner) == ("sharding_indexed", ["bytes", "blosc", "crc32c"])


def test_tables_are_plain_parquet(written):
    _, adata, path = written
    tables = path.parent / "parquet"
    assert pl.read_parquet(tables / "obs.parquet")["obs_name"].to_list() == list(adata.obs_names)
    assert pl.read_parquet(tables / "var.parquet")["var_name"].to_list() == list(adata.var_names)


def test_verify_is_silent_on_a_good_store(written):
    store, _, _ = written
    assert store.verify().height == 0
