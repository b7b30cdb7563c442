"""The house stays a house: rooms that say what they own, files that one can read at one go.

Which room may import which is import-linter's to check, in ``make check``.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dao_polars as dao
from dao_polars import _core
from tests.conftest import ROOT

PACKAGE = ROOT / "dao_polars"
ROOMS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
MOST_LINES = 500
MOST_FILES = 12


def test_there_are_rooms():
    assert {"batches", "scan", "store", "write"} <= {room.name for room in ROOMS}
    assert not list(PACKAGE.glob("*/*/*.py")), "one level of folders"


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_file_is_long(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_is_small_and_says_what_it_owns(room):
    assert len(list(room.glob("*.py"))) <= MOST_FILES
    head = ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
    assert head, "a room's head is the docstring of its __init__.py"
    assert re.search(r"\bOwns\b", head)
    assert re.search(r"\bMust\s+not\s+(know|execute)\b", head)


def core_map() -> list[str]:
    """The rooms of the core, as the head of lib.rs orders them."""
    return re.findall(r"^//! - `(\w+)`:", (ROOT / "src" / "lib.rs").read_text(), re.M)


def test_the_map_of_the_core_is_complete():
    rooms = {path.parent.name for path in (ROOT / "src").glob("*/mod.rs")}
    assert rooms <= set(core_map())
    for room in rooms:
        assert (ROOT / "src" / room / "mod.rs").read_text().startswith("//! "), room


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "src").glob("*/**/*.rs")),
    ids=lambda path: str(path.relative_to(ROOT / "src")),
)
def test_the_core_uses_nothing_that_stands_below_it(path):
    order = core_map()
    code = path.read_text().split("#[cfg(test)]\nmod tests")[0]
    code = re.sub(r"^\s*//.*$", "", code, flags=re.M)
    used = set(re.findall(r"\bcrate::(\w+)", code)) & set(order)
    room = path.relative_to(ROOT / "src").parts[0]
    allowed = set(order[: order.index(room) + 1])
    assert used <= allowed, f"{sorted(used - allowed)} stand below {room} in lib.rs's map"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_folders_that_a_guide_names_are_there(name):
    text = (ROOT / name).read_text()
    trees = re.findall(r"```(?:text)?\n(src/.*?)```", text, re.S)
    assert trees or "CONTRIBUTING.md" in text
    for tree in trees:
        top = ""
        for line in tree.splitlines():
            found = re.match(r"(  )?(\w+)/", line)
            if found and not found[1]:
                top = found[2]
                assert (ROOT / top).is_dir(), line
            elif found:
                assert (ROOT / top / found[2]).is_dir(), line


def test_public_methods_have_their_documentation():
    for name, method in inspect.getmembers(dao.DaoFrame, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.getdoc(method), name
            assert "Args:" in method.__doc__


def test_what_the_core_has_is_documented():
    for name in _core.__all__:
        thing = getattr(_core, name)
        assert thing.__doc__, name
        for member, value in vars(thing).items() if isinstance(thing, type) else ():
            assert member.startswith("_") or value.__doc__, f"{name}.{member}"


def test_importing_loads_what_is_needed_alone():
    heavy = ["anndata", "pandas", "scipy.stats", "zarr", "h5py", "torch", "tensorflow", "tqdm"]
    script = "import sys, dao_polars; print([m for m in sys.argv[1:] if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script, *heavy], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_package_is_where_the_tests_think():
    assert Path(dao.__file__).parent == PACKAGE
