"""What a manifest must say of each dataset, and what many datasets cost to list."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import dao_polars as dao
from tests.conftest import study
from tests.memory import MEMORY
from tests.storefab import (
    Study,
    checksum,
    entry,
    last_version,
    make_store,
    read_version,
    write_version,
)

Entry = dict[str, Any]


def changed(path: Path, change: Callable[[Entry], object]) -> None:
    """Changes the version's entry of the second dataset; its checksum holds."""
    manifest = read_version(path)
    change(entry(manifest, "two"))
    write_version(path, manifest)


@pytest.fixture(params=["made by hand", "written"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "store"
    if request.param == "written":
        for seed, name in enumerate(["one", "two"]):
            dao.write_dataset(path, study(seed, 9, ["a", "b"]), dataset=name, progress=False)
        return path
    obs = pl.DataFrame({"n": range(9)})
    return make_store(path, {"one": Study(obs), "two": Study(obs)})


def rows(n: int) -> Callable[[Entry], object]:
    return lambda entry: entry["obs_file"].update(rows=n)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: e.pop("checksum"), "lacks the checksum of this dataset's description"),
        (lambda e: e.update(checksum=None), "lacks the checksum of this dataset's description"),
        (lambda e: e.pop("obs_file"), "lacks the checksums of .*obs_file"),
        (lambda e: e.update(obs_file=None), "lacks the checksums of .*obs_file"),
        (lambda e: e.update(n_obs=0), "expected 0 rows, one a cell, found 9"),
        (lambda e: e.update(n_obs=8), "expected 8 rows, one a cell, found 9"),
        (rows(0), "expected 9 rows, one a cell, found 0"),
    ],
)
def test_an_entry_that_nothing_vouches_for(
    path: Path, change: Callable[[Entry], object], words: str
) -> None:
    assert dao.load_store(path).n_obs == 18
    changed(path, change)
    with pytest.raises(dao.DaoCorruptError, match=f"'two'.*{words}.*[Rr]estore") as caught:
        dao.load_store(path)
    assert str(last_version(path)) in str(caught.value)


@pytest.mark.parametrize("key", ["rows", "size", "tail", "tail_crc32c", "columns"])
def test_a_note_of_obs_that_lacks_something(path: Path, key: str) -> None:
    changed(path, lambda entry: entry["obs_file"].pop(key))
    with pytest.raises(dao.DaoCorruptError, match=f"missing field `{key}`"):
        dao.load_store(path)


def test_cells_that_entry_and_note_both_hide(path: Path) -> None:
    """Right checksums over a lie: a scan cannot see the rows, and `verify` names the file."""
    changed(path, lambda entry: (entry.update(n_obs=0), rows(0)(entry)))
    store = dao.load_store(path)
    problems = store.verify().filter(dataset="two")
    part = entry(read_version(path), "two")
    assert f"{part['path']}/obs.parquet" in problems["path"].to_list()


def test_two_parts_of_a_name_are_one_dataset(path: Path) -> None:
    changed(path, lambda entry: entry.update(dataset="one"))
    store = dao.load_store(path)
    assert store.datasets.select("id", "n_obs").rows() == [("one", 18)]
    assert store.scan().collect()["dataset"].cast(pl.String).to_list() == ["one"] * 18
    assert store.verify().is_empty()


def test_a_constant_twice_is_no_constant(path: Path) -> None:
    changed(path, lambda entry: entry.update(constants={"year": 1}))
    file = last_version(path)
    text = file.read_text().replace('"year": 1', '"year": 1, "year": 2')
    rest = text.split(",", 1)[1]
    file.write_text(f'{{"checksum":"{checksum(rest.encode())}",{rest}')
    with pytest.raises(dao.DaoCorruptError, match="'year' is there twice"):
        dao.load_store(path)


def test_constants_of_all_kinds(tmp_path: Path) -> None:
    constants = {"text": "é", "yes": True, "n": -(2**63), "big": 2**64 - 1, "x": 0.1, "one": 1.0}
    path = make_store(tmp_path / "s", {"a": Study(pl.DataFrame({"k": [1]}), constants)})
    store = dao.load_store(path)
    found = store._core.parts[0].constants
    assert found == constants
    assert [type(value) for value in found.values()] == [type(v) for v in constants.values()]
    assert store.scan().select(list(constants)).collect().row(0) == tuple(constants.values())


def test_bools_and_numbers_that_are_equal_to_python(tmp_path: Path) -> None:
    obs = pl.DataFrame({"k": [1]})
    values = [True, 1, 1.0, "1"]
    studies = {f"d{i}": Study(obs, {"v": value}) for i, value in enumerate(values)}
    found = dao.scan(make_store(tmp_path / "s", studies)).select("v").collect()
    assert found["v"].cast(pl.String).to_list() == ["True", "1", "1.0", "1"]
    numbers = {f"d{i}": Study(obs, {"v": value}) for i, value in enumerate([1, 2**64 - 1])}
    frame = dao.scan(make_store(tmp_path / "n", numbers)).select("v").collect()
    assert frame["v"].to_list()[0] == 1


MANY = 20_000
OPENED = f"""
import sys
import dao_polars as dao
{MEMORY}
before = memory("VmHWM")
store = dao.load_store(sys.argv[1])
assert store.datasets.height == int(sys.argv[2])
print((memory("VmHWM") - before) / int(sys.argv[2]))
"""


def test_what_many_datasets_have_alike_is_in_memory_once(tmp_path: Path) -> None:
    obs = pl.DataFrame({f"column_{i:04d}": [i] for i in range(200)})
    path = make_store(tmp_path / "s", {"one": Study(obs, {f"constant_{i}": i for i in range(9)})})
    manifest = read_version(path)
    part = entry(manifest, "one")
    part["obs_file"]["columns"] = []
    manifest["parts"] = [{**part, "number": i, "dataset": f"d{i}"} for i in range(MANY)]
    manifest["next_number"] = MANY
    write_version(path, manifest)
    listed = last_version(path).stat().st_size / MANY
    command = [sys.executable, "-c", OPENED, str(path), str(MANY)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    # The text of the manifest is there while it is read. 200 columns by themselves are 20 kB.
    assert float(ran.stdout) < listed + 3000
