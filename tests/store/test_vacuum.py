"""Vacuum: what it removes, and what it must leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import dao_polars as dao
from dao_polars._core import PartWriter
from tests.conftest import study
from tests.storefab import part_path

GENES = ["a", "b", "c"]
NOW = timedelta(0)


@pytest.fixture
def edited(tmp_path: Path) -> dao.Store:
    """A store of five versions, of which the last has one of two datasets, replaced."""
    dao.write_dataset(tmp_path, study(1, 30, GENES), dataset="lung")
    dao.write_dataset(tmp_path, study(2, 20, GENES), dataset="heart", gene_index=True)
    dao.write_dataset(tmp_path, study(3, 10, GENES), dataset="lung", mode="replace")
    return dao.load_store(tmp_path).remove_dataset("heart")


def files(path: Path) -> set[str]:
    return {str(f.relative_to(path)) for f in path.rglob("*") if f.is_file()}


def test_nothing_is_removed_of_a_store_that_needs_all(edited: dao.Store) -> None:
    path = Path(edited.uri)
    before = files(path)
    for dry_run in (True, False):
        assert edited.vacuum(dry_run=dry_run).is_empty()
        assert edited.vacuum(older_than=timedelta(days=1), dry_run=dry_run).is_empty()
    assert files(path) == before
    assert dao.load_store(path).version == 5


def test_old_versions_are_given_up(edited: dao.Store) -> None:
    path = Path(edited.uri)
    before = files(path)
    (path / "parts" / "notes.txt").write_text("mine")
    (part_path(path, "lung") / "notes.txt").write_text("mine")
    told = edited.vacuum(older_than=NOW)
    assert files(path) == before | {"parts/notes.txt"} | {
        f for f in files(path) if f.endswith("notes.txt")
    }
    removed = edited.vacuum(older_than=NOW, dry_run=False)
    assert removed.equals(told)
    assert removed["bytes"].sum() > 0
    left = files(path)
    assert not set(removed["path"]) & left
    assert {f for f in left if f.startswith("parts/heart")} == set()
    assert len(list((path / "parts").glob("lung-*"))) == 1
    assert sum(f.endswith("notes.txt") for f in left) == 2
    store = dao.load_store(path)
    assert (store.version, store.versions()["version"].to_list()) == (6, [5, 6])
    assert store.versions()["operation"].to_list() == ["remove_dataset", "vacuum"]
    assert store.verify().is_empty()
    x = store.scan().dao.to_anndata().X.toarray()
    np.testing.assert_array_equal(x, study(3, 10, GENES).X.toarray())
    for gone in (1, 2, 3, 4):
        with pytest.raises(dao.DaoValueError, match="5 to 6"):
            dao.load_store(path, version=gone)
        with pytest.raises(dao.DaoValueError, match=r"5"):
            store.restore(gone)
    assert dao.load_store(path, version=5).verify().is_empty()
    # Numbers are not given again.
    last = store.scan().select(pl.col("cell").ext.storage() // 2**32).collect().max().item()
    more = dao.write_dataset(path, study(4, 5, GENES), dataset="more")
    new = more.scan().filter(pl.col("dataset") == "more")
    assert new.select(pl.col("cell").ext.storage() // 2**32).collect().min().item() > last


def test_a_version_that_was_given_up_and_is_a_base_is_not_opened(tmp_path: Path) -> None:
    for i in range(6):
        dao.write_dataset(tmp_path, study(i, 3, GENES), dataset=f"d{i}")
    store = dao.load_store(tmp_path).rename_dataset("d0", "x")
    store.vacuum(older_than=NOW, dry_run=False)
    kept = dao.load_store(tmp_path).versions()["version"].to_list()
    for number in range(1, kept[0]):
        with pytest.raises(dao.DaoValueError, match="no version"):
            dao.load_store(tmp_path, version=number)
    for number in kept:
        assert dao.load_store(tmp_path, version=number).verify().is_empty()
    for i in range(20):
        store = store.rename_dataset("x" if i == 0 else f"x{i}", f"x{i + 1}")
    assert store.vacuum(dry_run=False).is_empty()
    store.vacuum(older_than=NOW, dry_run=False)
    assert len(dao.load_store(tmp_path).versions()) == 2
    assert dao.load_store(tmp_path).verify().is_empty()


def test_what_a_running_writer_is_about_to_name_stays(edited: dao.Store) -> None:
    path = Path(edited.uri)
    writer = PartWriter.begin(str(path), "new", "error")
    (Path(writer.staging) / "obs.parquet").write_bytes(b"about to be named")
    edited.vacuum(older_than=NOW, dry_run=False)
    assert (Path(writer.staging) / "obs.parquet").exists()
    assert len(list((path / "writing").iterdir())) == 1
    writer.abort()
    assert not list((path / "writing").iterdir())


WRITER = """
import sys, numpy as np, anndata as ad, scipy.sparse as sp, dao_polars as dao
adata = ad.AnnData(sp.random(50_000, 800, 0.2, format="csr", dtype=np.float32, random_state=0))
print("go", flush=True)
dao.write_dataset(sys.argv[1], adata, dataset="killed", shuffle=True, progress=False)
"""


@pytest.mark.parametrize("after", [0.0, 0.05, 0.1])
def test_what_a_killed_writer_left_goes(tmp_path: Path, after: float) -> None:
    dao.write_dataset(tmp_path, study(1, 30, GENES), dataset="lung")
    clean = files(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    child.stdout.readline()
    while not list((tmp_path / "parts").glob("killed-*")) and child.poll() is None:
        time.sleep(0.001)
    time.sleep(after)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    store = dao.load_store(tmp_path)
    assert store.version == 1
    left = files(tmp_path) - clean
    assert any(f.startswith("writing/") for f in left)
    assert set(store.vacuum()["path"]) == left
    store.vacuum(dry_run=False)
    assert files(tmp_path) == clean
    assert not list((tmp_path / "parts").glob("killed-*/*"))
    assert store.vacuum().is_empty()
    again = dao.write_dataset(tmp_path, study(2, 5, GENES), dataset="killed")
    assert again.verify().is_empty()


def test_folders_without_a_file_go_when_their_writer_is_dead(edited: dao.Store) -> None:
    path = Path(edited.uri)
    dead, mine = path / "parts" / "new-05d628ee3ad8", path / "parts" / "mine"
    index = part_path(path, "lung") / "gene_index-05d628ee3ad8"
    for folder in (dead / "zarr" / "totals" / "X" / "n_genes_by_counts", index / "c", mine):
        folder.mkdir(parents=True)
    writer = PartWriter.begin(str(path), "alive", "error")
    alive = Path(writer.staging) / "zarr" / "X"
    alive.mkdir(parents=True)
    edited.vacuum(older_than=NOW)
    assert dead.exists()
    edited.vacuum(older_than=NOW, dry_run=False)
    assert not dead.exists()
    assert not index.exists()
    assert mine.exists()
    assert alive.exists()
    writer.abort()


def test_what_is_no_age(edited: dao.Store) -> None:
    with pytest.raises(dao.DaoTypeError, match="timedelta"):
        edited.vacuum(older_than=7)  # type: ignore[arg-type]
    sfaira = dao.load_store(Path(__file__).parent.parent / "data" / "sfaira_store")
    with pytest.raises(dao.DaoValueError, match="sfaira wrote"):
        sfaira.vacuum(dry_run=False)
