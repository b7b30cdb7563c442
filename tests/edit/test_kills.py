"""kill -9 at any moment of any edit: the store is at one version or the next; the next edit works.

``DAO_KILLS`` says how many; a thousand take about half an hour.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from pathlib import Path

import polars as pl
import pytest

import dao_polars as dao
from tests.conftest import study
from tests.whole.left import unnamed

KILLS = int(os.environ.get("DAO_KILLS", "12"))
GENES = ["a", "b", "c"]


def step(store: dao.Store) -> None:
    """The edit that follows a version: which it is, depends on the version alone."""
    version = store.version
    cells = store.scan().select("cell", "dataset", "obs_name").collect()
    some = cells.filter(pl.col("dataset") == "lung").select("cell")
    match version % 8:
        case 0:
            store.update_obs(some.with_columns(step=pl.lit(version)))
        case 1:
            row = pl.lit([version, 1], dtype=pl.Array(pl.Int64, 2))
            store.update_obsm("X_step", some.with_columns(v=row))
        case 2:
            store.update_var(pl.DataFrame({"var_name": ["b"], "symbol": [f"s{version}"]}))
        case 3:
            more = study(version, 3, GENES)
            dao.write_dataset(store.uri, more, dataset="heart", mode="append", progress=False)
        case 4:
            store.remove_cells(cells.filter(pl.col("obs_name") == f"s{version - 1}-1"))
        case 5:
            store.rename_dataset("lung", "air")
        case 6:
            with store.edit() as edit:
                edit.rename_dataset("air", "lung")
                edit.rename_obs(
                    {"score": "other"} if "score" in store.schema else {"other": "score"}
                )
        case 7:
            dao.write_dataset(store.uri, study(version, 4, GENES), dataset="new", mode="replace")


def expected(version: int) -> tuple[set[str], set[str], int | None, str | None]:
    """What a version holds: datasets, names of cells, the last step, the last symbol."""
    lung, heart, new = {f"s1-{i}" for i in range(6)}, {f"s2-{i}" for i in range(4)}, set()
    name, steps, symbol = "lung", None, None
    for before in range(2, version):
        match before % 8:
            case 0:
                steps = before
            case 2:
                symbol = f"s{before}"
            case 3:
                heart |= {f"s{before}-{i}" for i in range(3)}
            case 4:
                heart -= {f"s{before - 1}-1"}
            case 5:
                name = "air"
            case 6:
                name = "lung"
            case 7:
                new = {f"s{before}-{i}" for i in range(4)}
    return {name, "heart"} | ({"new"} if new else set()), lung | heart | new, steps, symbol


def check(store: dao.Store) -> None:
    datasets, cells, steps, symbol = expected(store.version)
    frame = store.scan().collect()
    assert set(store.datasets["id"]) == datasets
    assert set(frame["obs_name"]) == cells
    assert len(cells) == frame.height == store.n_obs
    if steps is not None:
        assert frame["step"].drop_nulls().to_list() == [steps] * 6
    for dataset in datasets - {"new"}:
        var = store.var(dataset)
        assert symbol is None or var["symbol"].to_list() == [None, symbol, None]
    assert store.verify().is_empty()


def edits(uri: str) -> None:
    while True:
        step(dao.load_store(uri))


def test_a_kill_at_any_moment(tmp_path: Path) -> None:
    uri = tmp_path / "s"
    dao.write_dataset(uri, study(1, 6, GENES), dataset="lung", progress=False)
    dao.write_dataset(uri, study(2, 4, GENES), dataset="heart", progress=False)
    rng = random.Random(KILLS)
    spawn = multiprocessing.get_context("spawn")
    for _ in range(KILLS):
        before = dao.load_store(uri).version
        process = spawn.Process(target=edits, args=(str(uri),))
        process.start()
        while dao.load_store(uri).version == before and process.is_alive():
            time.sleep(0.01)
        time.sleep(rng.random() * 0.4)
        process.kill()
        process.join()
        assert process.exitcode == -9
        store = dao.load_store(uri)
        check(store)
        step(store)
        check(dao.load_store(uri))
        store.vacuum(dry_run=False)
        assert not {path for path in unnamed(uri) if not path.startswith("versions/.new-")}
    for version in store.versions()["version"][-10:]:
        check(dao.load_store(uri, version=version))


@pytest.mark.parametrize("versions", [20])
def test_the_steps_are_what_is_expected(tmp_path: Path, versions: int) -> None:
    uri = tmp_path / "s"
    dao.write_dataset(uri, study(1, 6, GENES), dataset="lung", progress=False)
    store = dao.write_dataset(uri, study(2, 4, GENES), dataset="heart", progress=False)
    for _ in range(versions):
        step(store)
        store = dao.load_store(uri)
        check(store)
