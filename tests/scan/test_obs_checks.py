"""Damaged obs tables: exact values or a DaoError in every way of reading, never an abort."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import dao_polars as dao
from tests.conftest import STUDIES
from tests.storefab import Study, make_store, part_path, take_as_written

C = pl.col

# Run by itself under a limit of memory: an allocation that a file decides ends it. Reads the store
# in each way after each change of one byte of an obs table; prints how often each way noticed.
READER = textwrap.dedent(
    """
    import json, os, resource, sys
    os.environ["POLARS_MAX_THREADS"] = "2"
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    import numpy as np
    import polars as pl
    import dao_polars as dao

    uri, study, kind = sys.argv[1:4]
    path = sys.argv[4]
    good = open(path, "rb").read()
    rng = np.random.default_rng(len(good))
    if kind == "flips":
        places = rng.integers(0, len(good), 24).tolist()
        changes = [(at, good[at] ^ (1 << rng.integers(8))) for at in places]
    else:  # the length of something, as polars sees it, becomes enormous
        changes = [(at, 0x8B) for at in range(len(good)) if good[at] == 0xF8]

    lf = dao.scan(uri).filter(pl.col("dataset") == study)
    last = pl.read_parquet(path).columns[-1]

    WAYS = {
        "scan": lambda lf: lf.collect(),
        "streaming": lambda lf: lf.collect(engine="streaming"),
        "filter": lambda lf: lf.filter(pl.col("obs_name") > "M").select("obs_name", last).collect(),
        "one column": lambda lf: lf.select(last).collect(),
        "batches": lambda lf: pl.concat([b.obs for b in lf.dao.iter_batches(512)]),
        "to_anndata": lambda lf: pl.from_pandas(lf.dao.to_anndata().obs.astype(str)),
    }
    expected = {name: way(lf) for name, way in WAYS.items()}
    columns = pl.read_parquet(path).columns
    assert expected["scan"]["obs_name"].equals(pl.read_parquet(path)["obs_name"])
    noticed = dict.fromkeys([*WAYS, "verify"], 0)
    for turn, (at, byte) in enumerate(changes):
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes([byte]))
        for name, way in WAYS.items():
            if name in ("batches", "to_anndata") and turn % 4:
                continue
            try:
                found = way(lf)
            except dao.DaoError as error:
                assert f"dataset '{study}'" in str(error) and path in str(error), str(error)
                noticed[name] += 1
            else:
                assert found.equals(expected[name]), f"{name}: another value after byte {at}"
        if turn % 4 == 0:
            problems = dao.load_store(uri).verify()
            assert problems["path"].to_list() == [path.removeprefix(f"{uri}/")], problems
            noticed["verify"] += 1
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(good[at : at + 1])
    assert lf.collect().equals(expected["scan"])
    print(json.dumps([len(changes), noticed]))
    """
)


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("kind", ["flips", "lengths"])
def test_a_changed_byte_is_no_value(
    real_store: dao.Store, tmp_path: Path, study: str, kind: str
) -> None:
    uri = shutil.copytree(real_store.uri, tmp_path / "atlas")
    ran = subprocess.run(
        [sys.executable, "-c", READER, str(uri), study, kind, str(file(uri, study))],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    changes, noticed = json.loads(ran.stdout.splitlines()[-1])
    # All of the file is under some checksum, and all columns are read here.
    assert noticed["scan"] == noticed["streaming"] == changes
    assert noticed["verify"] == (changes + 3) // 4


@pytest.fixture
def obs() -> pl.DataFrame:
    return pl.DataFrame({"a": range(5000), "b": ["x", "y"] * 2500, "c": [0.5, 1.5] * 2500})


@pytest.fixture
def twins(tmp_path: Path, obs: pl.DataFrame) -> Path:
    """A store of two datasets whose obs files are of one size."""
    other = obs.with_columns(b=C("b").reverse())
    path = make_store(
        tmp_path / "s",
        {"one": Study(obs, row_group_size=1000), "two": Study(other, row_group_size=1000)},
    )
    assert len({file(path, name).stat().st_size for name in ("one", "two")}) == 1
    return path


def file(store: Path, name: str) -> Path:
    return part_path(store, name) / "obs.parquet"


def test_the_file_of_a_twin_is_noticed(twins: Path) -> None:
    one, two = file(twins, "one"), file(twins, "two")
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(kept)
    for query in (lambda lf: lf, lambda lf: lf.select("b"), lambda lf: lf.filter(C("a") > 7)):
        with pytest.raises(dao.DaoCorruptError, match=r"dataset 'one'.*checksum mismatch.*crc32c"):
            query(dao.scan(twins)).collect()


def in_place(path: Path, data: bytes) -> None:
    """Overwrites a file and puts its times back: same size, time of change, inode."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path, data: bytes) -> None:
    """Puts another file in its place, of the same size and time."""
    before = path.stat()
    new = path.with_suffix(".new")
    new.write_bytes(data)
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(path)


def cut(path: Path, data: bytes) -> None:
    path.write_bytes(data[:-1])


@pytest.mark.parametrize("change", [in_place, replaced, cut])
def test_a_change_under_an_open_store_is_noticed(
    twins: Path, change: Callable[[Path, bytes], None]
) -> None:
    time.sleep(1.1)  # what changed within the last second is not remembered
    lf = dao.scan(twins)
    expected = lf.collect()
    path = file(twins, "two")
    good = path.read_bytes()
    at = len(good) // 3
    change(path, good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
    with pytest.raises(dao.DaoCorruptError, match="dataset 'two'"):
        lf.collect()
    path.write_bytes(good)
    assert lf.collect().equals(expected)


def test_damage_in_another_column_does_not_matter(twins: Path, obs: pl.DataFrame) -> None:
    import pyarrow.parquet as pq

    path = file(twins, "one")
    chunk = pq.read_metadata(path).row_group(3).column(3)
    assert chunk.path_in_schema == "c"
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + 20] ^= 1
    path.write_bytes(data)
    lf = dao.scan(twins).filter(C("dataset") == "one")
    assert lf.select("a").collect()["a"].equals(obs["a"])
    assert lf.filter(C("a") > 4000).select("b").collect()["b"].cast(str).equals(obs["b"][4001:])
    for query in (lf, lf.select("c"), lf.filter(C("c") > 1).select("a"), lf.select(C("c").sum())):
        with pytest.raises(dao.DaoCorruptError, match=r"'one'.*checksum mismatch in column 'c'"):
            query.collect()
    other = dao.scan(twins).filter(C("dataset") == "two")
    assert other.collect().height == 5000


def test_a_frame_that_travelled_checks_too(twins: Path) -> None:
    pytest.importorskip("cloudpickle")
    lf = dao.scan(twins)
    sent = pickle.dumps(lf)
    assert pickle.loads(sent).collect().equals(lf.collect())
    data = file(twins, "one").read_bytes()
    in_place(file(twins, "one"), data[:50] + bytes([data[50] ^ 1]) + data[51:])
    with pytest.raises(dao.DaoCorruptError, match="dataset 'one'"):
        pickle.loads(sent).collect()


def test_rows_that_are_not_the_datasets(twins: Path) -> None:
    path = file(twins, "one")
    pl.read_parquet(path)[:-1].write_parquet(path)
    take_as_written(twins, "one")
    with pytest.raises(dao.DaoCorruptError, match=r"'one'.*expected 5000 rows.*found 4999"):
        dao.scan(twins).select("a").collect()


def test_what_is_written_is_checked_though_polars_is_not_asked_for_rows(twins: Path) -> None:
    path = file(twins, "two")
    path.write_bytes(b"")
    lf = dao.scan(twins)
    assert lf.select(pl.len()).collect().item() == 10_000  # the manifest says it
    with pytest.raises(dao.DaoCorruptError, match=r"'two'.*found 0 bytes"):
        lf.filter(C("a") < 0).select(pl.len()).collect()
