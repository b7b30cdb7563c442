"""Symbolic links in a store are followed: labs keep large data elsewhere and link it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import dao_polars as dao
from dao_polars.errors import DaoError
from tests.conftest import study
from tests.storefab import part_path

FOLDERS = ["parts", "part", "part/zarr", "part/zarr/X", "versions"]
FILES = ["part/obs.parquet", "part/part.json", "versions/0000000001.json"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    dao.write_dataset(path, study(1, 20, ["g0", "g1"]), dataset="one", progress=False)
    return path


def place(store: Path, what: str) -> Path:
    """A path in the store; one that begins with `part` is in the part's folder."""
    folder, _, rest = what.partition("/")
    return part_path(store, "one") / rest if folder == "part" else store / what


@pytest.mark.parametrize("what", [*FOLDERS, *FILES, "versions/latest", "dao.json"])
def test_what_is_linked_reads_as_if_it_lay_there(what: str, store: Path, tmp_path: Path) -> None:
    elsewhere, here = tmp_path / "elsewhere", place(store, what)
    shutil.move(here, elsewhere)
    here.symlink_to(elsewhere)
    expected = study(1, 20, ["g0", "g1"])
    adata = dao.scan(store).dao.to_anndata()
    assert (adata.X != expected.X).nnz == 0
    assert adata.obs["score"].tolist() == expected.obs["score"].tolist()
    assert dao.load_store(store).verify().is_empty()


@pytest.mark.parametrize("what", [*FOLDERS, *FILES])
@pytest.mark.parametrize("loops", [True, False])
def test_links_to_nowhere_are_errors(what: str, loops: bool, store: Path, tmp_path: Path) -> None:
    here = place(store, what)
    shutil.move(here, tmp_path / "elsewhere")
    here.symlink_to(here.name if loops else "nowhere")

    def read() -> None:
        dao.scan(store).dao.to_anndata()

    with pytest.raises(DaoError):
        read()
    if not what.startswith("versions"):
        assert not dao.load_store(store).verify().is_empty()


@pytest.mark.parametrize("what", ["versions/latest", "dao.json"])
def test_what_opening_can_do_without_may_be_a_link_to_nowhere(what: str, store: Path) -> None:
    (store / what).unlink()
    (store / what).symlink_to("nowhere")
    assert dao.load_store(store).version == 1
    assert dao.load_store(store).verify().is_empty()
