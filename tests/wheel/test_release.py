"""What is said of a release in several places is the same in all of them."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib

from packaging.version import Version

import dao_polars as dao
from tests.conftest import ROOT

CARGO = tomllib.loads((ROOT / "Cargo.toml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = CARGO["package"]["version"]


def test_cargo_says_the_version():
    assert "version" in PROJECT["dynamic"]
    assert "version" not in PROJECT
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    assert [package["version"] for package in lock if package["name"] == "dao-polars"] == [VERSION]


def test_the_package_knows_its_version():
    assert Version(dao.__version__) == Version(VERSION)
    assert Version(importlib.metadata.version("dao-polars")) == Version(VERSION)


def test_the_recipe_is_of_this_version():
    recipe = (ROOT / "conda" / "recipe.yaml").read_text()
    assert re.search(r'^  version: "(.*)"$', recipe, re.MULTILINE)[1] == str(Version(VERSION))


def test_the_recipe_needs_what_the_package_needs():
    recipe = (ROOT / "conda" / "recipe.yaml").read_text()
    run = recipe.split("\n  run:\n")[1].split("\ntests:")[0]
    listed = [line.strip("- ") for line in run.splitlines()]
    assert [need.replace(" ", "") for need in listed if not need.startswith("python")] == [
        need.replace(" ", "") for need in PROJECT["dependencies"]
    ]
    assert f"python >={PROJECT['requires-python'].removeprefix('>=')}" in listed


def test_the_changelog_begins_with_what_is_unreleased_and_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    heads = re.findall(r"^## \[(.+?)\](.*)$", changelog, re.MULTILINE)
    assert heads[0] == ("Unreleased", "")
    version, date = heads[1]
    assert version == VERSION
    assert re.fullmatch(r" - \d{4}-\d{2}-\d{2}", date)
    assert len({version for version, _ in heads}) == len(heads)


def test_every_python_that_is_promised_is_tested():
    promised = {
        line.rsplit(" ", 1)[1]
        for line in PROJECT["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", line)
    }
    assert (
        f"3.{min(int(python.split('.')[1]) for python in promised)}" in PROJECT["requires-python"]
    )
    workflow = (ROOT / ".github" / "workflows" / "wheels.yml").read_text()
    tested = set(re.findall(r'"(3\.\d+)"', workflow))
    assert promised == tested


def test_the_oldest_rust_is_the_one_that_is_tested():
    rust = CARGO["package"]["rust-version"]
    for name in ("ci.yml", "wheels.yml"):
        workflow = (ROOT / ".github" / "workflows" / name).read_text()
        assert set(re.findall(r'toolchain: "(.+?)"', workflow)) == {rust}, name
    recipe = (ROOT / "conda" / "recipe.yaml").read_text()
    assert f"rust >={rust}" in recipe


def test_what_others_wrote_for_the_workflows_is_named_by_its_commit():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        used = re.findall(r"uses: (.+)$", path.read_text(), re.MULTILINE)
        assert used
        for action in used:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", action), action


def test_types_are_shipped():
    assert (ROOT / "dao_polars" / "py.typed").read_text() == ""
    assert (ROOT / "dao_polars" / "_core.pyi").is_file()
