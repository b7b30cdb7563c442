"""The cell key: a type that names its store and survives what frames go through."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import dao_polars as dao
from dao_polars.scan import cell as cell_module
from dao_polars.scan.cell import Cell, cell_type, keys_of, make_keys
from tests.storefab import Study, make_store

C = pl.col
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> dao.Store:
    obs = pl.DataFrame({"kind": ["a", "b", "a", "c", "b"], "n": range(5)})
    studies = {"x": Study(obs), "y": Study(obs.head(3)), "z": Study(obs.tail(2))}
    return dao.load_store(make_store(tmp_path_factory.mktemp("cell") / "store", studies))


@pytest.fixture(scope="module")
def frame(store: dao.Store) -> pl.DataFrame:
    return store.scan().collect()


def keys(frame: pl.DataFrame) -> list[int]:
    return keys_of(frame).numpy().tolist()


def test_keys_and_their_store(store: dao.Store, frame: pl.DataFrame) -> None:
    cell, found = cell_type(frame.schema), keys_of(frame).numpy()
    assert (cell.uri, cell.id) == (store.uri, store.id)
    assert found.dtype == np.uint64
    assert found.tolist() == [*range(5), *range(1 << 32, (1 << 32) + 3), 2 << 32, (2 << 32) + 1]
    numbers, rows = found >> 32, found & 0xFFFFFFFF
    assert numbers.tolist() == [0] * 5 + [1] * 3 + [2] * 2
    assert rows.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1]
    assert make_keys(1, [0, 1, 2]).tolist() == found[5:8].tolist()
    assert make_keys(2**32 - 1, [2**32 - 2]).tolist() == [2**64 - 2]


def test_equal_stores_have_equal_types() -> None:
    assert Cell("/a", "1") == Cell("/a", "1")
    assert hash(Cell("/a", "1")) == hash(Cell("/a", "1"))
    assert Cell("/a", "1") != Cell("/b", "1") != Cell("/b", "2")
    assert Cell("/a", "1").ext_metadata() == '{"id": "1", "uri": "/a"}'
    assert pickle.loads(pickle.dumps(Cell("/ä b", "1"))) == Cell("/ä b", "1")


def test_it_survives_what_frames_go_through(frame: pl.DataFrame) -> None:
    cell, all_keys = cell_type(frame.schema), keys_of(frame).numpy()
    assert keys(frame.filter(C("kind") == "a")) == [all_keys[i] for i in (0, 2, 5, 7)]
    shuffled = frame.sample(fraction=1, shuffle=True, seed=3)
    assert sorted(keys(shuffled)) == all_keys.tolist()
    assert keys(shuffled.sort("dataset", "n")) == all_keys.tolist()
    assert keys(frame.reverse()) == all_keys[::-1].tolist()
    kinds = pl.DataFrame({"kind": ["c"], "x": [1]}, schema_overrides={"kind": frame["kind"].dtype})
    joined = frame.join(kinds, on="kind")
    assert keys(joined) == [all_keys[3], all_keys[8]]
    assert len(keys_of(frame.join(frame, on="cell"))) == 10
    assert len(keys_of(frame.join(shuffled.head(3), on="cell", how="semi"))) == 3
    firsts = frame.group_by("dataset", maintain_order=True).agg(C("cell").first())
    assert keys(firsts) == [0, 1 << 32, 2 << 32]
    lists = frame.group_by("kind", maintain_order=True).agg("cell").explode("cell")
    assert sorted(keys(lists)) == all_keys.tolist()
    assert len(keys_of(pl.concat([frame, frame.tail(1)]).unique("cell"))) == 10
    assert keys(frame.sort("cell", descending=True)) == all_keys[::-1].tolist()
    assert keys(frame.lazy().select("cell").collect(engine="streaming")) == all_keys.tolist()
    assert keys(pickle.loads(pickle.dumps(frame))) == all_keys.tolist()
    assert keys(frame.clear()) == []
    assert cell_type(frame.lazy().collect_schema()) == cell


@pytest.mark.parametrize("kind", ["parquet", "ipc"])
def test_files_keep_it_in_a_new_process(frame: pl.DataFrame, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "selection"
    selection = frame.filter(C("kind") == "b").select("cell", "n")
    getattr(selection, f"write_{kind}")(path)
    again = getattr(pl, f"read_{kind}")(path)
    assert again.schema == selection.schema
    assert cell_type(again.schema) == cell_type(selection.schema)
    code = (
        "import polars as pl\n"
        f"early = pl.read_{kind}({str(path)!r})  # before the type is registered\n"
        "import dao_polars as dao\n"
        "from dao_polars.scan.cell import cell_type, keys_of\n"
        f"late = pl.read_{kind}({str(path)!r})\n"
        "for frame in (early, late):\n"
        "    cell, keys = cell_type(frame.schema), keys_of(frame).numpy()\n"
        "    print(cell.uri, cell.id, keys.tolist())\n"
        "print(dao.load_store(cell.uri).scan().join(late.lazy(), on='cell', how='semi')"
        ".collect()['n'].to_list())\n"
    )
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    cell = cell_type(selection.schema)
    line = f"{cell.uri} {cell.id} {keys(selection)}"
    assert out.stdout.splitlines() == [line, line, "[1, 4, 1, 4]"], out.stderr


def test_frames_of_two_stores_do_not_mix(frame: pl.DataFrame, tmp_path: Path) -> None:
    path = make_store(tmp_path / "other", {"x": Study(pl.DataFrame({"n": [1]}))}, "another-id")
    other = dao.scan(path).collect()
    with pytest.raises(pl.exceptions.SchemaError, match="another-id"):
        pl.concat([frame.select("cell"), other.select("cell")])
    with pytest.raises(pl.exceptions.PolarsError):
        pl.concat([frame.lazy().select("cell"), other.lazy().select("cell")]).collect()
    with pytest.raises(pl.exceptions.SchemaError):
        frame.join(other, on="cell")


def test_no_cell_column(frame: pl.DataFrame) -> None:
    for schema in (frame.drop("cell").schema, frame.drop("cell").lazy().collect_schema()):
        with pytest.raises(dao.DaoValueError, match=r"no column 'cell'.*'dataset', 'obs_name'"):
            cell_type(schema)
    with pytest.raises(dao.DaoValueError, match="columns: none"):
        keys_of(pl.DataFrame())


def test_a_column_of_another_type(frame: pl.DataFrame) -> None:
    plain = frame.with_columns(C("cell").ext.storage())
    with pytest.raises(dao.DaoTypeError, match="found UInt64"):
        keys_of(plain)
    with pytest.raises(dao.DaoTypeError, match="exploded"):
        keys_of(frame.select(C("cell").implode()))
    with pytest.raises(dao.DaoTypeError, match="found String"):
        keys_of(frame.select(C("obs_name").alias("cell")))


def test_null_keys(frame: pl.DataFrame) -> None:
    frame = frame.with_columns(C("kind").cast(pl.String))
    left = pl.DataFrame({"kind": ["a", "none", "c"]}).join(frame, on="kind", how="left")
    with pytest.raises(dao.DaoValueError, match=r"1 null\(s\), the first in row 4.*drop_nulls"):
        keys_of(left)
    assert len(keys(left.drop_nulls("cell"))) == 6


def test_metadata_that_is_not_ours(frame: pl.DataFrame) -> None:
    odd = Cell.ext_from_params("dao.cell", pl.UInt64(), "no json")
    column = frame["cell"].ext.storage().ext.to(odd)
    cell = cell_type(pl.DataFrame([column]).schema)
    with pytest.raises(dao.DaoCorruptError, match="no json"):
        cell.uri  # noqa: B018


def test_the_module_can_be_loaded_twice(frame: pl.DataFrame) -> None:
    importlib.reload(cell_module)
    try:
        assert cell_module.keys_of(frame).numpy().size == 10
        assert isinstance(cell_module.cell_type(frame.schema), cell_module.Cell)
    finally:  # the class that the package has
        cell_module.Cell = Cell
        cell_module.register()
