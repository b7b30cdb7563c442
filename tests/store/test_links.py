"""Symbolic links in a store are followed: labs keep large data elsewhere and link it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import dao_polars as dao
from dao_polars.errors import DaoError
from tests.conftest import study


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    dao.write_dataset(path, study(1, 20, ["g0", "g1"]), dataset="one", progress=False)
    return path


@pytest.mark.parametrize("what", ["one", "one/zarr", "one/parquet/obs.parquet", "dao.json"])
def test_what_is_linked_reads_as_if_it_lay_there(what: str, store: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(store / what, elsewhere)
    (store / what).symlink_to(elsewhere)
    expected = study(1, 20, ["g0", "g1"])
    adata = dao.scan(store).dao.to_anndata()
    assert (adata.X != expected.X).nnz == 0
    assert adata.obs["score"].tolist() == expected.obs["score"].tolist()
    assert dao.load_store(store).verify().is_empty()


@pytest.mark.parametrize("what", ["one", "one/zarr/X", "one/parquet/obs.parquet", "dao.json"])
@pytest.mark.parametrize("loops", [True, False])
def test_links_to_nowhere_are_errors(what: str, loops: bool, store: Path, tmp_path: Path) -> None:
    shutil.move(store / what, tmp_path / "elsewhere")
    target = os.path.basename(what) if loops else "nowhere"
    (store / what).symlink_to(target)

    def read() -> None:
        dao.scan(store).dao.to_anndata()

    with pytest.raises(DaoError):
        read()
    if what != "dao.json":
        assert not dao.load_store(store).verify().is_empty()
