"""Versions: each change is one, and each stays what it was."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import anndata as ad
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import dao_polars as dao
from tests.conftest import study
from tests.storefab import checksum, last_version, read_version

GENES = ["a", "b", "c"]


@pytest.fixture
def edited(tmp_path: Path) -> list[dao.Store]:
    """A store at each of its versions."""
    lung = dao.write_dataset(tmp_path, study(1, 30, GENES), dataset="lung")
    heart = dao.write_dataset(tmp_path, study(2, 20, GENES), dataset="heart")
    renamed = heart.rename_dataset("lung", "air", message="as the lab says")
    removed = renamed.remove_dataset("heart")
    restored = removed.restore(2)
    return [lung, heart, renamed, removed, restored]


def test_versions_are_listed(edited: list[dao.Store]) -> None:
    for number, store in enumerate(edited, 1):
        assert store.version == number
        assert repr(store).startswith(f"Store {store.uri!r}: version {number}, ")
        assert f"version {number}, " in store._repr_html_()
    found = edited[0].versions()
    assert found.schema == {
        "version": pl.UInt64,
        "time": pl.Datetime("ms", "UTC"),
        "operation": pl.String,
        "message": pl.String,
        "datasets": pl.UInt64,
        "cells": pl.UInt64,
        "author": pl.String,
        "package": pl.String,
        "source": pl.String,
        "source_bytes": pl.UInt64,
        "source_checksum": pl.String,
    }
    assert found["version"].to_list() == [1, 2, 3, 4, 5]
    operations = ["write_dataset"] * 2 + ["rename_dataset", "remove_dataset", "restore"]
    assert found["operation"].to_list() == operations
    messages = ["'lung'", "'heart'", "as the lab says", "'heart'", "version 2"]
    assert found["message"].to_list() == messages
    assert found["datasets"].to_list() == [1, 2, 2, 1, 2]
    assert found["cells"].to_list() == [30, 50, 50, 30, 50]
    assert found["time"].is_sorted()


def test_each_version_stays_what_it_was(edited: list[dao.Store]) -> None:
    names = [{"lung"}, {"lung", "heart"}, {"air", "heart"}, {"air"}, {"lung", "heart"}]
    uri = edited[0].uri
    for store, expected in zip(edited, names, strict=True):
        frame = store.scan().collect()
        assert set(frame["dataset"]) == expected
        assert frame.schema["dataset"] == pl.Enum(sorted(expected))
        for again in (
            dao.load_store(uri, version=store.version),
            pickle.loads(pickle.dumps(store)),
        ):
            assert again.version == store.version
            assert_frame_equal(
                again.scan().drop("cell").collect(), frame.drop("cell"), check_exact=True
            )
            assert again.verify().is_empty()
    assert (
        dao.load_store(uri).version
        == dao.scan(uri, version=5).select("cell").collect().schema["cell"].version
    )


def test_cells_are_the_same_in_all_versions(edited: list[dao.Store]) -> None:
    first, *_, last = edited
    selected = first.scan().filter(pl.col("cell_type") == "T").collect()
    expected = selected.dao.to_anndata(store=first).X.toarray()
    for store in edited:
        np.testing.assert_array_equal(selected.dao.to_anndata(store=store).X.toarray(), expected)
        joined = selected.select("cell").lazy().join(store.scan(), on="cell").collect()
        assert joined.height == selected.height
    np.testing.assert_array_equal(selected.dao.to_anndata().X.toarray(), expected)
    assert last.scan().collect_schema() == edited[1].scan().collect_schema()


def test_a_version_that_is_asked_for_is_in_the_cells(edited: list[dao.Store]) -> None:
    uri = edited[0].uri
    pinned = dao.scan(uri, version=2)
    cell = pinned.collect_schema()["cell"]
    assert cell.version == 2
    assert edited[1].scan().collect_schema()["cell"].version is None
    heart = pinned.filter(pl.col("dataset") == "heart")
    edited[-1].remove_dataset("heart")
    wanted = study(2, 20, GENES).X.toarray()
    np.testing.assert_array_equal(heart.dao.to_anndata().X.toarray(), wanted)
    column = heart.select(dao.gene("b", dtype="float64")).collect().to_series()
    np.testing.assert_array_equal(column.to_numpy(), wanted[:, 1])
    saved = Path(uri).parent / "selection.parquet"
    heart.select("cell").collect().write_parquet(saved)
    loaded = pl.read_parquet(saved)
    np.testing.assert_array_equal(loaded.dao.to_anndata().X.toarray(), wanted)
    with pytest.raises(dao.DaoValueError, match="20 of 20 cells are no longer"):
        edited[1].scan().filter(pl.col("dataset") == "heart").collect().dao.to_anndata()


def test_a_lazy_frame_holds_its_version(edited: list[dao.Store]) -> None:
    """Cells of it are there though they were removed since, in its obs and in its matrices."""
    _, heart, *_, last = edited
    lf = heart.scan().filter(pl.col("dataset") == "heart").with_row_index()
    last.remove_dataset("heart")
    wanted = study(2, 20, GENES).X.toarray()
    np.testing.assert_array_equal(lf.dao.to_anndata().X.toarray(), wanted)
    loader = lf.dao.iter_batches(8)
    again = pickle.loads(pickle.dumps(loader))
    for batches in (loader, again):
        found = np.vstack([batch.x.toarray() for batch in batches])
        np.testing.assert_array_equal(found, wanted)
    state = loader.state_dict()
    assert state["store_version"] == 2
    newer = edited[1].scan().filter(pl.col("dataset") == "lung").dao.iter_batches(8)
    older = edited[0].scan().with_columns(dataset=pl.lit("lung")).dao.iter_batches(8)
    newer.load_state_dict(older.state_dict())
    both = pl.concat([lf.select("cell"), edited[0].scan().select("cell")])
    assert both.dao.to_anndata().n_obs == 50
    # Collected, they are cells of the store as it is.
    with pytest.raises(dao.DaoValueError, match="20 of 20 cells are no longer"):
        lf.collect().dao.to_anndata()


def test_what_is_no_version(edited: list[dao.Store], tmp_path: Path) -> None:
    uri = edited[0].uri
    for version in (6, 2**40):
        with pytest.raises(dao.DaoValueError, match="1 to 5"):
            dao.load_store(uri, version=version)
        with pytest.raises(dao.DaoValueError, match="1 to 5"):
            edited[0].restore(version)
    for version in (0, -1):
        with pytest.raises(dao.DaoValueError, match="version"):
            dao.load_store(uri, version=version)
    for version in ("1", 1.0, True):
        with pytest.raises(dao.DaoTypeError, match="version"):
            dao.load_store(uri, version=version)  # type: ignore[arg-type]
    assert dao.load_store(uri).version == 5


def test_a_last_version_that_is_lost_is_noticed(edited: list[dao.Store]) -> None:
    """Without it the store would be an older one, and its number would be given again."""
    path = Path(edited[0].uri)
    last_version(path).unlink()
    for use in (
        dao.load_store,
        lambda uri: dao.load_store(uri, version=4),
        lambda uri: edited[0].remove_dataset("lung"),
    ):
        with pytest.raises(dao.DaoFileNotFoundError, match=r"0000000005\.json"):
            use(path)
    (path / "versions" / "latest").unlink()
    assert dao.load_store(path).version == 4


def test_names_that_are_not_there_or_taken(edited: list[dao.Store]) -> None:
    store = edited[-1]
    with pytest.raises(dao.DaoKeyError, match="no dataset 'air'"):
        store.rename_dataset("air", "x")
    with pytest.raises(dao.DaoFileExistsError, match="'heart' is already"):
        store.rename_dataset("lung", "heart")
    with pytest.raises(dao.DaoValueError, match="cannot name a dataset"):
        store.rename_dataset("lung", "a/b")
    with pytest.raises(dao.DaoKeyError, match="no dataset 'air'"):
        store.remove_dataset("air")
    assert dao.load_store(store.uri).version == 5
    # Of a store that others changed meanwhile, what is there now counts.
    store.remove_dataset("heart")
    with pytest.raises(dao.DaoKeyError, match="no dataset 'heart'"):
        store.rename_dataset("heart", "x")


def test_sfairas_stores_have_no_versions() -> None:
    store = dao.load_store(Path(__file__).parent.parent / "data" / "sfaira_store")
    assert store.version is None
    assert store.versions().is_empty()
    assert "version" not in repr(store)
    with pytest.raises(dao.DaoValueError, match="sfaira wrote"):
        store.remove_dataset(store.datasets["id"][0])
    with pytest.raises(dao.DaoValueError, match="versions"):
        dao.load_store(store.uri, version=1)


def test_many_versions_of_many_datasets_stay_small(tmp_path: Path) -> None:
    """A change of one dataset among many costs about that one, and a look at two files."""
    adata = study(1, 3, GENES)
    for i in range(12):
        store = dao.write_dataset(tmp_path, adata, dataset=f"d{i:02}")
    sizes = []
    for i in range(30):
        store = store.rename_dataset(*(f"x{i}" if i else "d05", f"x{i + 1}"))
        sizes.append(last_version(tmp_path).stat().st_size)
        found = read_version(tmp_path)
        assert {part["dataset"] for part in found["parts"]} == set(store.datasets["id"])
        assert len(found["parts"]) == 12
    assert sum(sizes) < 30 * max(sizes) / 3  # the largest has all parts
    assert store.verify().is_empty()
    assert len(store.versions()) == 42


def rename(uri: str, name: str, rounds: int) -> None:
    for i in range(rounds):
        now, then = (name if n == 0 else f"{name}-{n}" for n in (i, i + 1))
        dao.load_store(uri).rename_dataset(now, then)


def test_editors_at_once_lose_nothing(tmp_path: Path) -> None:
    uri = str(tmp_path / "s")
    names, rounds = ["a", "b", "c", "d"], 25
    for seed, name in enumerate(names):
        dao.write_dataset(uri, study(seed, 5, GENES), dataset=name)
    context = multiprocessing.get_context("spawn")
    all_ = [context.Process(target=rename, args=(uri, name, rounds)) for name in names]
    for process in all_:
        process.start()
    for process in all_:
        process.join()
    assert [process.exitcode for process in all_] == [0] * 4
    store = dao.load_store(uri)
    assert store.version == 4 + 4 * rounds
    assert store.datasets["id"].to_list() == [f"{name}-{rounds}" for name in names]
    assert store.versions()["version"].to_list() == list(range(1, 5 + 4 * rounds))
    for seed, name in enumerate(store.datasets["id"]):
        adata: ad.AnnData = store.scan().filter(pl.col("dataset") == name).dao.to_anndata()
        np.testing.assert_array_equal(adata.X.toarray(), study(seed, 5, GENES).X.toarray())


def test_a_version_says_what_made_it(tmp_path: Path) -> None:
    adata, path = study(1, 30, GENES), tmp_path / "lung.h5ad"
    adata.write_h5ad(path)
    adata.write_zarr(tmp_path / "lung.zarr")
    uri = tmp_path / "s"
    dao.write_dataset(uri, path, author="ada", message="from the lab")
    dao.write_dataset(uri, tmp_path / "lung.zarr", dataset="b")
    store = dao.write_dataset(uri, adata, dataset="c")
    store.scan().dao.write_dataset(uri, dataset="d", author="bob")
    rows = store.versions().rows(named=True)
    assert [row["author"] for row in rows] == ["ada", None, None, "bob"]
    assert [row["source"] for row in rows] == ["lung.h5ad", "lung.zarr", None, None]
    assert rows[0]["source_bytes"] == path.stat().st_size
    assert rows[0]["source_checksum"] == checksum(path.read_bytes())
    assert (rows[0]["message"], rows[0]["package"]) == ("from the lab", "dao-polars 0.1.0")
    files = [p for p in (tmp_path / "lung.zarr").rglob("*") if p.is_file()]
    assert rows[1]["source_bytes"] == sum(p.stat().st_size for p in files)
    assert rows[1]["source_checksum"] is None
    with pytest.raises(dao.DaoTypeError, match="author=3"):
        dao.write_dataset(uri, path, dataset="e", author=3)
