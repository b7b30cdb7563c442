"""Obs tables behind a web server: polars gets what was checked, and asks no server itself."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import dao_polars as dao
from dao_polars import _core
from dao_polars.scan.columns import FileColumn, ScannedPart
from dao_polars.scan.plan import ScanGroup
from tests.memory import MEMORY
from tests.storefab import (
    Study,
    make_store,
    part_path,
    plain_cells,
    read_version,
    write_version,
)
from tests.webserver import Handler, Server, serving

C = pl.col
AUTHORIZED = "Basic bWU6aHVzaCBodXNo"  # me, hush hush
OBS = "obs.parquet"
SFAIRA = Path(__file__).parents[1] / "data" / "sfaira_store"


def every_type() -> pl.DataFrame:
    """A column of each type that obs may have, with nulls, not sorted; and some sorted ones."""
    n = 50
    at = [(i * 37) % n for i in range(n)]
    numbers = pl.Series(at)
    first = datetime(2020, 1, 1)
    frame = pl.DataFrame(
        {
            "sorted": range(n),
            "word": [f"w{i % 7}" for i in at],
            "label": [f"a rather long label of number {i:05d}" for i in at],
            "truth": [i % 3 == 0 for i in at],
            **{
                str(kind): (numbers.cast(kind) if kind != pl.Boolean else numbers > 9)
                for kind in (
                    *(pl.Int8, pl.Int16, pl.Int32, pl.Int64),
                    *(pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
                    *(pl.Float32, pl.Float64),
                )
            },
            "nan": [float("nan") if i % 5 == 0 else i / 7 for i in at],
            "date": [date(2020, 1, 1) + timedelta(i) for i in at],
            "zoned": pl.Series([first + timedelta(hours=i) for i in at]).dt.replace_time_zone(
                "UTC"
            ),
            "nanoseconds": pl.Series([first + timedelta(i) for i in at]).cast(pl.Datetime("ns")),
            "lasted": pl.Series([timedelta(seconds=i) for i in at]).cast(pl.Duration("ms")),
            "time": [(first + timedelta(minutes=i)).time() for i in at],
            "constant": ["same"] * n,
            "nothing": pl.Series([None] * n, dtype=pl.Null),
            "no text": pl.Series([None] * n, dtype=pl.String),
        }
    )
    gaps = pl.int_range(pl.len()) % 11 == 4
    return frame.with_columns(
        pl.when(gaps).then(None).otherwise(C(name)).alias(name)
        for name in frame.columns
        if name not in ("sorted", "nothing", "no text")
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    obs = every_type()
    studies = {
        "one": Study(obs, {"year": 2001}),
        "two": Study(obs.reverse(), {"year": 2002}, row_group_size=13),
        "few": Study(obs.select("word", "sorted")[:3], {"year": 2003}),
        "none": Study(obs.select("word")[:0]),
    }
    return make_store(tmp_path / "s", studies)


@pytest.fixture
def server(path: Path) -> Iterator[Server]:
    with serving(path.parent, "s") as server:
        yield server


QUERIES: dict[str, Callable[[pl.LazyFrame], pl.LazyFrame]] = {
    "all": lambda lf: lf,
    "one column": lambda lf: lf.select("label"),
    "the last column": lambda lf: lf.select("no text"),
    "columns in another order": lambda lf: lf.select("nan", "word", "obs_name", "cell"),
    "a filter": lambda lf: lf.filter(C("sorted") > 40).select("word", "cell"),
    "a filter of text": lambda lf: lf.filter(C("word") == "w3"),
    "a filter that nothing passes": lambda lf: lf.filter(C("Int64") > 1000).select("word"),
    "nulls": lambda lf: lf.filter(C("date").is_null()),
    "a constant": lambda lf: lf.filter(C("year") == 2002, C("truth")).select("zoned"),
    "head": lambda lf: lf.head(60),
    "head of a filter": lambda lf: lf.filter(C("Float64") > 3).head(5).select("lasted"),
    "tail": lambda lf: lf.tail(7),
    "groups": lambda lf: lf.group_by("word").agg(C("Int32").sum(), C("time").max()).sort("word"),
    "a count": lambda lf: lf.filter(C("UInt8") < 9).select(pl.len()),
}


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_values_are_those_of_the_files(server: Server, path: Path, engine: str) -> None:
    near, far = dao.scan(path), dao.scan(server.url)
    for name, query in QUERIES.items():
        expected = plain_cells(query(near).collect(engine=engine))
        for lf in (far, dao.scan(server.url)):  # one that keeps columns, and one that has none
            found = plain_cells(query(lf).collect(engine=engine))
            assert found.equals(expected), name
    kept = plain_cells(far.collect())
    assert kept.equals(plain_cells(near.collect()))


def test_each_column_by_itself(server: Server, path: Path) -> None:
    near = dao.scan(path).collect()
    for name in near.columns:
        if name != "cell":
            assert dao.scan(server.url).select(name).collect().equals(near.select(name)), name


def test_sorted_columns_and_statistics_are_those_of_the_file(server: Server, path: Path) -> None:
    for low in (-1, 0, 12, 13, 25, 49, 50):
        for part in (C("sorted") >= low, C("sorted") < low, C("sorted") == low):
            queries = (
                lf.filter(part).select("sorted") for lf in (dao.scan(server.url), dao.scan(path))
            )
            found, expected = (query.collect()["sorted"].to_list() for query in queries)
            assert found == expected


def test_polars_asks_no_server(server: Server, path: Path) -> None:
    """A small table is asked for at once, and then nothing more."""
    lf = dao.scan(server.url)
    query = lf.filter(C("dataset") == "two").select("word", "label")
    first = query.collect()
    assert server.asked_for(OBS) == ["/s/parts/two/obs.parquet"]
    for again in (query, query.filter(C("word") == "w1"), query.select("label")):
        assert first.height >= again.collect().height > 0
    assert len(server.asked_for(OBS)) == 1
    query.select("word").join(lf.select("word", "date"), on="word").collect()
    assert len(server.asked_for(OBS)) > 1  # dates were not among the columns


def test_of_a_large_table_the_columns_are_read_that_a_query_needs(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).random((200_000, 2))
    obs = pl.DataFrame({"a": numbers[:, 0], "n": np.arange(200_000), "b": numbers[:, 1]})
    path = make_store(tmp_path / "s", {"d": Study(obs, {}, row_group_size=100_000)})
    size = (part_path(path, "d") / OBS).stat().st_size
    with serving(tmp_path, "s") as server:
        assert dao.scan(server.url).select("n").collect().equals(obs.select("n"))
        # Its tail, and columns; its size is in the version.
        assert len(server.asked_for(OBS)) <= 6
        assert server.sent < size / 2


def test_no_request_after_the_check(server: Server, path: Path) -> None:
    """A server that answers what the check asks, and falls silent then, is not missed."""
    server.wrong = server.silent(OBS, 2)
    query = dao.scan(server.url).filter(C("dataset") == "one").select("word", "nan")
    assert query.collect().height == 50
    assert not server.silenced.is_set()


def locked(handler: Handler) -> bool:
    if handler.headers.get("Authorization") == AUTHORIZED:
        return False
    handler.reply(401, b"")
    return True


@pytest.mark.parametrize("way", ["url", "options"])
@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_obs_behind_a_password(server: Server, path: Path, way: str, engine: str) -> None:
    server.wrong = locked
    url, options = server.url.replace("//", "//me:hush%20hush@"), {}
    if way == "options":
        url, options = server.url, {"username": "me", "password": "hush hush"}
    store = dao.load_store(url, storage_options=options)
    expected = plain_cells(dao.scan(path).collect())
    assert plain_cells(store.scan().collect(engine=engine)).equals(expected)
    again = pickle.loads(pickle.dumps(store)).scan()
    assert plain_cells(again.collect(engine=engine)).equals(expected)
    with pytest.raises(dao.DaoIOError, match="401"):
        dao.load_store(server.url)


@pytest.mark.parametrize("request_number", [1, 2])
def test_silence_has_a_deadline(server: Server, request_number: int) -> None:
    lf = dao.scan(server.url, storage_options={"retry_timeout_ms": "1500", "max_retries": "1"})
    server.wrong = server.silent(OBS, request_number)
    begun = time.monotonic()
    with pytest.raises(dao.DaoIOError, match=r"dataset '(one|two)'.*no answer in"):
        lf.select("label").collect()
    assert time.monotonic() - begun < 15


SCRIPT = """
import sys, time
import dao_polars as dao
lf = dao.scan(sys.argv[1])
try:
    try:
        lf.select("label").collect(engine=sys.argv[2])
    except Exception:  # of polars, which wraps errors; Python's own follows it at once
        for _ in range(1000):
            pass
        print("an error")
except KeyboardInterrupt:
    try:
        print("interrupted", time.monotonic(), flush=True)
    except KeyboardInterrupt:  # polars may have raised the first
        print("interrupted", time.monotonic())
"""


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
@pytest.mark.parametrize("request_number", [1, 2])
def test_ctrl_c_ends_the_wait_for_any_request(
    server: Server, request_number: int, engine: str
) -> None:
    server.wrong = server.silent(OBS, request_number)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, server.url, engine], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.silenced.wait(60), "nothing was asked for"
        time.sleep(0.3)
        begun = time.monotonic()  # a clock of the machine, so of the child too
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    said, at = out.split()[:2]
    assert said == "interrupted"
    assert float(at) - begun < 0.5


def test_damage_is_noticed_where_it_is_read(server: Server, path: Path) -> None:
    good = dao.scan(server.url)
    expected = good.select("word", "label").collect()
    file = part_path(path, "two") / OBS
    data = file.read_bytes()
    place = data.index(b"a rather long label")
    file.write_bytes(data[:place] + b"A" + data[place + 1 :])
    assert dao.scan(server.url).select("word").collect().equals(expected.select("word"))
    with pytest.raises(
        dao.DaoCorruptError, match=r"'two'.*http.*in column 'label'.*expected crc32c"
    ):
        dao.scan(server.url).select("label").collect()
    assert good.select("label").collect().equals(expected.select("label"))  # which it has
    store = dao.load_store(server.url)
    with pytest.raises(dao.DaoCorruptError, match="'two'"):
        store._tables.check_obs(store._dataset("two")[0])
    file.write_bytes(data[:-1])
    with pytest.raises(dao.DaoCorruptError, match=r"'two'.*object is truncated"):
        dao.scan(server.url).select("label").collect()
    file.unlink()
    with pytest.raises(dao.DaoFileNotFoundError, match=r"'two'.*http"):
        dao.scan(server.url).select("label").collect()


def test_a_frame_that_travelled(server: Server, path: Path) -> None:
    pytest.importorskip("cloudpickle")
    lf = dao.scan(server.url)
    expected = plain_cells(lf.collect())
    assert plain_cells(pickle.loads(pickle.dumps(lf)).collect()).equals(expected)


def test_an_excerpt_of_what_others_write(tmp_path: Path) -> None:
    """Columns of tables by pyarrow and pandas, with and without checksums, as polars reads them."""
    import pyarrow.parquet as pq

    folder = tmp_path / "s" / "d" / "parquet"
    folder.mkdir(parents=True)
    table = every_type().drop("nothing").to_arrow()
    numbers = {"sorted": "DELTA_BINARY_PACKED", "nan": "BYTE_STREAM_SPLIT", "label": "PLAIN"}
    ways: list[dict[str, Any]] = [
        {"row_group_size": 17, "write_page_index": True},
        {"use_dictionary": False, "data_page_version": "2.0", "compression": "zstd"},
        {"use_dictionary": ["word"], "column_encoding": numbers, "compression": "none"},
        {"write_statistics": False, "data_page_size": 64, "store_schema": False},
        {
            "sorting_columns": pq.SortingColumn.from_ordering(
                table.schema, [("sorted", "ascending")]
            )
        },
    ]
    written = sorted(SFAIRA.glob(f"*/parquet/{OBS}"))
    assert written
    with serving(tmp_path, "s") as server:
        for way in [*ways, *written]:
            if isinstance(way, Path):
                (folder / OBS).write_bytes(way.read_bytes())
            else:
                pq.write_table(table, folder / OBS, **way)
            expected = pl.read_parquet(folder / OBS)
            checksums = _core.TableFile.of(str(folder / OBS))
            names = expected.columns
            for columns in (names, names[:1], names[1::3], names[::-2]):
                for file in (checksums, None):
                    listed = [("d", f"d/parquet/{OBS}", expected.height, file)]
                    (found,) = _core.ObsTables(server.url).fetch(listed, columns)
                    assert pl.read_parquet_schema(io.BytesIO(found)) == expected.schema
                    assert pl.read_parquet(found, columns=columns).equals(expected[columns])
                    first = C(columns[0]).is_not_null()
                    lf = pl.scan_parquet(found).select(columns).filter(first)
                    assert lf.collect().equals(expected[columns].filter(first))


def test_parts_of_a_group() -> None:
    columns = {"a": FileColumn("a", pl.Int64()), "b": FileColumn("b", pl.Int64())}
    sizes = [5, 5, 1, 20, 3, 3, 3]
    datasets = [ScannedPart(i, f"d{i}", f"d{i}", n, columns) for i, n in enumerate(sizes)]
    for n_rows in (sum(sizes), 38, 34, 12, 11, 3):
        last = next(i for i in range(7) if sum(sizes[: i + 1]) >= n_rows)
        group = ScanGroup(datasets[: last + 1], n_rows, columns, None, C("a") > 1)
        parts = list(group.pieces(22))
        assert [d.number for part in parts for d in part.parts] == list(range(last + 1))
        assert sum(part.n_rows for part in parts) == n_rows
        assert all(not part.cut_short for part in parts[:-1])
        assert all(part.residual is group.residual for part in parts)
        for part in parts:
            assert len(part.parts) == 1 or sum(d.n_obs for d in part.parts) <= 11
    assert [
        len(part.parts) for part in ScanGroup(datasets, 40, columns, None, None).pieces(22)
    ] == [*(3, 1, 3)]


READER = f"""
import sys
import polars as pl
import dao_polars as dao
{MEMORY}
lf = dao.scan(sys.argv[1])
lf.filter(pl.col("dataset") == "d0").select(pl.col("x").sum()).collect()
before = memory("VmHWM")
total = lf.select((pl.col("x") / 2 + pl.col("y") / 2).sum()).collect(engine="streaming").item()
print(total, (memory("VmHWM") - before) / 2**20)
"""


def test_memory_is_that_of_what_is_read_ahead(tmp_path: Path) -> None:
    n, datasets = 1_000_000, 24  # of 16 MB each
    x = pl.Series(range(n)).hash(1).cast(pl.Float64)
    obs = pl.DataFrame({"x": x, "y": x.reverse()})
    path = make_store(tmp_path / "s", {"d0": Study(obs, row_group_size=250_000)})
    manifest = read_version(path)
    for i in range(1, datasets):
        (path / "parts" / f"d{i}").symlink_to(path / "parts" / "d0")
        part = {"number": i, "dataset": f"d{i}", "path": f"parts/d{i}"}
        manifest["parts"].append(manifest["parts"][0] | part)
    manifest["next_number"] = datasets
    write_version(path, manifest)
    # One arena, so that what threads have given back is not counted for each of them.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    with serving(tmp_path, "s") as server:
        command = [sys.executable, "-c", READER, server.url]
        ran = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
    total, more = map(float, ran.stdout.split())
    assert total == pytest.approx(datasets * x.sum())
    assert more < 256
