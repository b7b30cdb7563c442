"""A store behind HTTP, served from this machine by a server that knows byte ranges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

import dao_polars as dao
from tests.conftest import study
from tests.webserver import serving

OPTIONS = {"allow_http": "true"}


@pytest.fixture(scope="module")
def url(real_store) -> Iterator[str]:
    path = Path(real_store.uri)
    with serving(path.parent, path.name, etag='"1"') as server:
        yield server.url


def test_a_store_behind_a_url(url, real_store):
    store = dao.load_store(url + "/", storage_options=OPTIONS)
    assert store.uri == url
    assert store.id == real_store.id
    assert store.datasets.equals(real_store.datasets)
    assert store.uns("pbmc_human") == real_store.uns("pbmc_human")
    cells = [
        s.scan().filter(pl.col("dataset") == "pbmc_human", pl.col("cell_type") == "Monocytes")
        for s in (store, real_store)
    ]
    remote, local = (c.drop("cell").collect() for c in cells)
    assert remote.equals(local)
    remote, local = (c.dao.to_anndata(genes=["CD14", "LYZ"]) for c in cells)
    assert remote.n_obs > 50
    assert (remote.X != local.X).nnz == 0
    assert (remote.obs == local.obs).all().all()


def test_nothing_behind_a_url(url):
    with pytest.raises(dao.DaoError, match="no store"):
        dao.load_store(url + "/nothing", storage_options=OPTIONS)
    with pytest.raises(dao.DaoError, match=r"127\.0\.0\.1:9/x"):
        dao.load_store("http://127.0.0.1:9/x", storage_options={**OPTIONS, "timeout": "2s"})
    with pytest.raises(dao.DaoValueError, match="cannot write to"):
        dao.write_dataset(url, study(0, 3, ["a"]), dataset="d", progress=False)
