"""Several who edit one store: what lands, and what is a conflict that says what the other did."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import dao_polars as dao
from dao_polars.write import part
from tests.conftest import study
from tests.whole.left import unnamed

GENES = ["a", "b", "c"]
Edit = Callable[[dao.Store], dao.Store]


@pytest.fixture
def store(tmp_path: Path) -> dao.Store:
    dao.write_dataset(tmp_path, study(1, 6, GENES), dataset="lung")
    store = dao.write_dataset(tmp_path, study(2, 4, GENES), dataset="heart")
    return store.update_obs(store.scan().select("cell", n=pl.int_range(pl.len())))


def first_cells(store: dao.Store, rows: slice) -> pl.DataFrame:
    """Some of the cells that the store of each test begins with."""
    return dao.scan(store.uri, version=3).select("cell").collect()[rows]


def put(value: int, rows: slice = slice(None), column: str = "n") -> Edit:
    """An edit of some cells of lung."""

    def edit(store: dao.Store) -> dao.Store:
        cells = first_cells(store, rows)
        return store.update_obs(cells.with_columns(pl.lit(value, pl.Int64).alias(column)))

    return edit


def obsm(value: float, rows: slice) -> Edit:
    def edit(store: dao.Store) -> dao.Store:
        cells = first_cells(store, rows)
        array = pl.lit([value, 1.0], dtype=pl.Array(pl.Float64, 2))
        return store.update_obsm("X_new", cells.with_columns(v=array))

    return edit


def var(symbol: str, gene: str) -> Edit:
    return lambda s: s.update_var(pl.DataFrame({"var_name": [gene], "symbol": [symbol]}))


def remove(rows: slice) -> Edit:
    return lambda s: s.remove_cells(first_cells(s, rows))


def append(store: dao.Store) -> dao.Store:
    return dao.write_dataset(store.uri, study(3, 2, GENES), dataset="lung", mode="append")


def replace(store: dao.Store) -> dao.Store:
    return dao.write_dataset(store.uri, study(3, 2, GENES), dataset="lung", mode="replace")


LANDS = {
    "other cells": (put(7, slice(0, 2)), put(8, slice(2, 4))),
    "other columns": (put(7), put(8, column="m")),
    "a new column of other cells": (put(7, slice(0, 2), "m"), put(8, slice(2, 4), "m")),
    "values, then a new name": (put(7), lambda s: s.rename_obs({"n": "m"})),
    "a column dropped, another changed": (lambda s: s.drop_obs("score"), put(8)),
    "a dataset renamed": (lambda s: s.rename_dataset("lung", "air"), put(8)),
    "datasets renamed": (
        lambda s: s.rename_dataset("lung", "air"),
        lambda s: s.rename_dataset("heart", "x"),
    ),
    "another dataset removed": (lambda s: s.remove_dataset("heart"), put(8, slice(0, 6))),
    "cells added": (append, put(8)),
    "cells removed that were changed": (put(7), remove(slice(0, 2))),
    "the same cells removed": (remove(slice(0, 3)), remove(slice(1, 4))),
    "other cells removed": (remove(slice(0, 2)), put(8, slice(2, 4))),
    "embeddings of other cells": (obsm(1, slice(0, 2)), obsm(2, slice(2, 4))),
    "other genes": (var("A", "a"), var("B", "b")),
    "a gene index": (lambda s: s.add_gene_index() and s, put(8)),
}


@pytest.mark.parametrize("name", LANDS)
def test_what_does_not_meet_lands(store: dao.Store, name: str) -> None:
    first, second = LANDS[name]
    mine, theirs = dao.load_store(store.uri), dao.load_store(store.uri)
    first(theirs)
    both = second(mine)
    assert both.verify().is_empty()
    assert not unnamed(Path(store.uri))
    # As if one had waited for the other.
    alone = dao.load_store(store.uri).restore(store.version)
    first(alone)
    after = second(dao.load_store(store.uri))
    got, want = both.scan().collect(), after.scan().collect()
    as_text = pl.col(pl.Enum).cast(pl.String)
    if name == "cells added":
        got, want = got.drop("cell"), want.drop("cell")
        if "n" in got.columns:  # the second sees the new cells, too, when it comes later
            got, want = got.drop("n"), want.drop("n")
    got, want = got.with_columns(as_text), want.with_columns(as_text)
    assert got.select(pl.all().sort_by("obs_name")).equals(
        want.select(pl.all().sort_by("obs_name"))
    )


CONFLICTS = {
    "the same values": (put(7), put(7), "changed obs column 'n' in 6 of the cells"),
    "the same cells": (
        put(7),
        put(8, slice(3, 5)),
        r"changed obs column .n. in 2 of the cells, .*row 3 of .lung., from 3 to 7, which this "
        "edit makes 8",
    ),
    "a new column of the same cells": (
        put(7, slice(0, 2), "m"),
        put(8, slice(1, 4), "m"),
        r"'m' in 1 of the cells",
    ),
    "a column that is gone": (
        lambda s: s.drop_obs("n"),
        put(8),
        "dropped or renamed obs column 'n'",
    ),
    "a column renamed": (
        lambda s: s.rename_obs({"n": "m"}),
        put(8),
        "dropped or renamed obs column 'n'",
    ),
    "a column renamed twice": (
        lambda s: s.rename_obs({"n": "m"}),
        lambda s: s.rename_obs({"n": "k"}),
        "dropped or renamed obs column 'n'",
    ),
    "a name that was taken": (
        put(8, column="m"),
        lambda s: s.rename_obs({"n": "m"}),
        "added obs column 'm'",
    ),
    "values that would be lost": (
        put(7, slice(0, 2)),
        lambda s: s.drop_obs("n"),
        "changed obs column 'n' in 2 cells",
    ),
    "cells that were removed": (remove(slice(0, 2)), put(8), "removed 2 of the cells, of 'lung'"),
    "a dataset removed": (
        lambda s: s.remove_dataset("lung"),
        put(8),
        "removed dataset 'lung', or replaced it",
    ),
    "a dataset replaced": (replace, put(8), "removed dataset 'lung', or replaced it"),
    "a dataset renamed twice": (
        lambda s: s.rename_dataset("lung", "a"),
        lambda s: s.rename_dataset("lung", "b"),
        "renamed dataset 'lung' to 'a'",
    ),
    "a dataset that was changed": (
        put(7),
        lambda s: s.remove_dataset("lung"),
        "changed dataset 'lung'",
    ),
    "a dataset that has more cells": (
        append,
        lambda s: s.remove_dataset("lung"),
        "added cells to it",
    ),
    "embeddings": (
        obsm(1, slice(0, 2)),
        obsm(2, slice(1, 4)),
        "obsm 'X_new' in 1 of the cells, of 'lung'",
    ),
    "genes": (
        var("A", "a"),
        var("B", "a"),
        r"var column 'symbol' in 1 of the genes of '\w+', such as 'a'",
    ),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_what_meets_is_a_conflict(store: dao.Store, name: str) -> None:
    first, second, what = CONFLICTS[name]
    mine, theirs = dao.load_store(store.uri), dao.load_store(store.uri)
    first(theirs)
    before = store.versions()
    with pytest.raises(dao.DaoConflictError, match=what) as error:
        second(mine)
    assert f"version {before['version'][-1]}, {before['operation'][-1]}" in str(error.value)
    assert store.versions().equals(before)
    assert not unnamed(Path(store.uri))
    # Who looks at what is there can do it, unless it is gone.
    if name in ("the same cells", "values that would be lost", "genes", "embeddings"):
        second(dao.load_store(store.uri))


def test_ones_own_edits_are_no_conflict(store: dao.Store) -> None:
    for value in range(3):
        put(value)(store)
    store.rename_obs({"n": "m"})
    store.drop_obs("m")
    put(5)(store)
    store.remove_dataset("heart")
    with pytest.raises(dao.DaoKeyError, match="no dataset 'heart'"):
        store.rename_dataset("heart", "x")
    # Nor when others came between, who changed other things.
    lung = slice(0, 6)
    put(1, lung, "other")(dao.load_store(store.uri))
    put(6, lung)(store)
    put(7, lung)(store)
    found = dao.load_store(store.uri).scan().collect()
    assert found["n"].to_list() == [7] * 6
    assert found["other"].to_list() == [1] * 6
    put(2, lung)(dao.load_store(store.uri))
    with pytest.raises(dao.DaoConflictError, match="from 7 to 2"):
        put(8, lung)(store)


def test_what_others_did_may_not_be_known(store: dao.Store) -> None:
    mine = dao.load_store(store.uri)
    frame = mine.scan().select("cell", n=pl.lit(8, pl.Int64)).collect()
    put(7)(dao.load_store(store.uri))
    store.vacuum(older_than=timedelta(0), dry_run=False)
    with pytest.raises(dao.DaoConflictError, match="is not known any more"):
        mine.update_obs(frame)
    dao.load_store(store.uri).update_obs(frame)


def test_cells_that_are_appended_have_the_var_of_now(
    store: dao.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = part._write_tables

    def changed_meanwhile(*args: Any) -> None:
        written(*args)
        var("CD19", "b")(dao.load_store(store.uri))

    monkeypatch.setattr(part, "_write_tables", changed_meanwhile)
    both = append(store)
    assert both.var("lung")["symbol"].to_list() == [None, "CD19", None]
    found = both.scan().select("obs_name", dao.gene("CD19", gene_key="symbol")).collect()
    want = np.concatenate([study(i, n, GENES).X.toarray() for i, n in ((1, 6), (3, 2), (2, 4))])
    np.testing.assert_array_equal(found.to_series(1), want[:, 1])
    assert both.verify().is_empty()
    assert not unnamed(Path(store.uri))


def at_once(target: Callable[..., None], arguments: list[tuple[Any, ...]]) -> None:
    """Runs a function in a process for each of some arguments, all at once."""
    spawn = multiprocessing.get_context("spawn")
    all_of_them = [spawn.Process(target=target, args=args) for args in arguments]
    for process in all_of_them:
        process.start()
    for process in all_of_them:
        process.join()
        assert process.exitcode == 0


def _edits(uri: str, who: int, rounds: int) -> None:
    """Edits of one of several: its column, its dataset's name, its rows of a column of all."""
    for i in range(rounds):
        store = dao.load_store(uri)
        cells = store.scan().filter(pl.col("who") == who).select("cell")
        if i % 3 == 0:
            store.update_obs(cells.with_columns(pl.lit(i).alias(f"own{who}")))
        elif i % 3 == 1:
            store.update_obs(cells.with_columns(shared=pl.lit(i)))
        else:
            name = next(n for n in store.datasets["id"] if n.startswith(f"d{who}"))
            store.rename_dataset(name, f"d{who}-{i}")


@pytest.mark.parametrize("n", [2, 4, 8])
def test_editors_at_once_lose_nothing(tmp_path: Path, n: int) -> None:
    for who in range(n):
        adata = study(who, 5, GENES)
        adata.obs["who"] = who
        store = dao.write_dataset(tmp_path, adata, dataset=f"d{who}")
    rounds = 24 // n * 3
    at_once(_edits, [(store.uri, who, rounds) for who in range(n)])
    last = dao.load_store(store.uri)
    assert last.version == store.version + n * rounds
    frame = last.scan().collect()
    assert frame["shared"].to_list() == [rounds - 2] * 5 * n
    for who in range(n):
        mine = pl.col("who") == who
        assert frame.filter(mine)[f"own{who}"].to_list() == [rounds - 3] * 5
        assert frame.filter(~mine)[f"own{who}"].is_null().all()
    assert set(frame["dataset"]) == {f"d{who}-{rounds - 1}" for who in range(n)}
    assert last.verify().is_empty()
    assert not unnamed(tmp_path)


def _counts(uri: str, rounds: int) -> None:
    """Adds one to every cell's number, as often as it takes."""
    for _ in range(rounds):
        while True:
            store = dao.load_store(uri)
            try:
                store.update_obs(store.scan().select("cell", count=pl.col("count") + 1))
                break
            except dao.DaoConflictError:
                continue


def test_editors_of_the_same_values_take_turns(store: dao.Store) -> None:
    start = store.update_obs(store.scan().select("cell", count=pl.lit(0)))
    at_once(_counts, [(store.uri, 15)] * 4)
    last = dao.load_store(store.uri)
    assert last.scan().collect()["count"].to_list() == [60] * 10
    assert last.version == start.version + 60
