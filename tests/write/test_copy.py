"""Datasets copied between stores: the same bytes, in a store that is sound by itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import dao_polars as dao
from tests.conftest import SFAIRA, study
from tests.memory import MEMORY
from tests.storefab import part_path, plain_cells, read_version
from tests.webserver import serving
from tests.whole.left import unnamed

GENES = [f"g{i}" for i in range(12)]


@pytest.fixture
def source(tmp_path: Path) -> dao.Store:
    """A dataset of two parts with a gene index, and two others."""
    uri = tmp_path / "source"
    for seed, name in [(1, "a"), (2, "b"), (3, "a"), (4, "c")]:
        adata = study(seed, 20 + seed, GENES if name != "c" else ["x", "g3"])
        adata.layers["twice"] = adata.X * 2
        adata.obsm["X_pca"] = np.random.default_rng(seed).normal(size=(adata.n_obs, 4))
        adata.uns["organism"] = name
        dao.write_dataset(uri, adata, dataset=name, mode="append", layers=True, gene_index=seed < 3)
    return dao.load_store(uri)


def parts(store: Path) -> dict[str, list[dict[str, Any]]]:
    """The entries of each dataset's parts, by number."""
    found: dict[str, list[dict[str, Any]]] = {}
    for part in read_version(store)["parts"]:
        found.setdefault(part["dataset"], []).append(part)
    return found


def files(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def assert_copied(source: Path, target: Path, datasets: list[str]) -> None:
    ours, theirs = parts(target), parts(source)
    for name in datasets:
        assert len(ours[name]) == len(theirs[name])
        for new, old in zip(ours[name], theirs[name], strict=True):
            listed = json.loads((source / old["path"] / old["description"]).read_text())["files"]
            there = files(source / old["path"])  # older descriptions, too
            own = [old["description"], old["outline"]["path"]]
            named = {file: there[file] for file in [*listed, *own]}
            assert files(target / new["path"]) == named
            differ = {key for key in old if old[key] != new[key]}
            assert differ <= {"number", "path"}
            assert re.fullmatch(rf"parts/{name}-(\d+-)?[0-9a-f]{{12}}", new["path"])
    assert dao.load_store(target).verify().is_empty()
    assert not unnamed(target)


def same_cells(source: dao.Store, target: dao.Store, dataset: str) -> None:
    ours, theirs = (s.scan().filter(pl.col("dataset") == dataset) for s in (target, source))
    found, expected = ours.dao.to_anndata(), theirs.dao.to_anndata()
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    np.testing.assert_array_equal(found.obsm["X_pca"], expected.obsm["X_pca"])
    np.testing.assert_array_equal(
        found.layers["twice"].toarray(), expected.layers["twice"].toarray()
    )
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    pd.testing.assert_frame_equal(found.var, expected.var)
    assert dict(found.uns) == dict(expected.uns)


def test_a_whole_store(source: dao.Store, tmp_path: Path) -> None:
    target = dao.copy(source.uri, tmp_path / "target", progress=False)
    assert (target.version, target.id != source.id) == (1, True)
    assert_copied(tmp_path / "source", tmp_path / "target", ["a", "b", "c"])
    for name in ("a", "b", "c"):
        same_cells(source, target, name)
    assert_frame_equal(target.datasets, source.datasets)
    assert_frame_equal(
        plain_cells(target.scan().collect()).drop("cell"),
        plain_cells(source.scan().collect()).drop("cell"),
    )
    assert target.scan().collect_schema()["cell_type"] == source.schema["cell_type"]
    made = target.versions().row(0, named=True)
    assert made["operation"] == "copy"
    assert made["message"] == f"'a', 'b', 'c' of {source.uri!r}"


def test_some_datasets_beside_others(source: dao.Store, tmp_path: Path) -> None:
    target = tmp_path / "target"
    adata = study(9, 7, GENES)
    adata.obs["cell_type"] = pd.Categorical(["plasma"] * 7)
    before = dao.write_dataset(target, adata, dataset="mine")
    copied = dao.copy(source.uri, target, ["c", "a", "c"], message="from there", progress=False)
    assert (copied.version, copied.id) == (2, before.id)
    assert copied.datasets["id"].to_list() == ["mine", "a", "c"]
    assert copied.versions()["message"].to_list()[-1] == "from there"
    assert [p["number"] for p in read_version(target)["parts"]] == [0, 1, 2, 3]
    assert_copied(tmp_path / "source", target, ["a", "c"])
    categories = copied.scan().collect_schema()["cell_type"].categories.to_list()
    assert categories == ["B", "NK", "T", "plasma"]
    assert not copied.has_gene_index("a")  # of its two parts one has it
    assert dao.copy(source.uri, target, "b").has_gene_index("b")
    # What comes after works as on any store.
    grown = dao.write_dataset(target, study(5, 6, GENES), dataset="b", mode="append")
    assert grown.datasets.filter(id="b")["n_obs"].to_list() == [28]
    assert grown.remove_dataset("a").vacuum().is_empty()
    assert grown.verify().is_empty()


def test_an_older_version(source: dao.Store, tmp_path: Path) -> None:
    dao.write_dataset(source.uri, study(7, 5, GENES), dataset="b", mode="replace")
    now = dao.copy(source.uri, tmp_path / "now", "b")
    then = dao.copy(source.uri, tmp_path / "then", "b", version=source.version)
    assert now.datasets["n_obs"].to_list() == [5]
    assert then.datasets["n_obs"].to_list() == [22]


def test_within_a_store_and_taken_names(source: dao.Store, tmp_path: Path) -> None:
    uri = tmp_path / "source"
    before = files(uri)
    for target in (uri, tmp_path / "other"):
        if target != uri:
            dao.write_dataset(target, study(5, 5, GENES), dataset="b")
        with pytest.raises(dao.DaoFileExistsError, match=r"'[ab]' is already in the store"):
            dao.copy(uri, target)
    assert files(uri) == before
    assert not unnamed(tmp_path / "other")
    renamed = source.rename_dataset("b", "d")
    copied = dao.copy(uri, uri, "b", version=source.version)
    assert copied.datasets["id"].to_list() == [*renamed.datasets["id"], "b"]
    assert copied.verify().is_empty()


@pytest.mark.parametrize(
    ("datasets", "error", "what"),
    [
        ("d", dao.DaoKeyError, "no dataset 'd'"),
        ([], dao.DaoValueError, "no datasets to copy"),
        ([1], dao.DaoTypeError, "datasets= holds 1"),
    ],
)
def test_what_is_not_there(source, tmp_path, datasets, error, what) -> None:
    with pytest.raises(error, match=what):
        dao.copy(source.uri, tmp_path / "target", datasets)
    assert not (tmp_path / "target").exists()


def test_stores_that_sfaira_wrote(source: dao.Store, tmp_path: Path) -> None:
    with pytest.raises(dao.DaoValueError, match=r"cannot be copied.*lf|dao\.write_dataset"):
        dao.copy(SFAIRA, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    with pytest.raises(dao.DaoFileNotFoundError, match="no store"):
        dao.copy(tmp_path / "nothing", tmp_path / "target")


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[:-1])
    elif how == "longer":
        path.write_bytes(data + b"\0")
    else:
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


@pytest.mark.parametrize("how", ["missing", "cut", "longer", "changed"])
@pytest.mark.parametrize(
    "file", ["obs.parquet", "uns.json", "zarr/X/data/c/0", "zarr/zarr.json", "part.json"]
)
def test_damage_is_noticed_before_anything_is_visible(
    source: dao.Store, tmp_path: Path, file: str, how: str
) -> None:
    path = part_path(tmp_path / "source", "c") / file
    damage(path, how)
    target = tmp_path / "target"
    dao.write_dataset(target, study(9, 7, GENES), dataset="mine")
    before = files(target)
    expected = dao.DaoFileNotFoundError if how == "missing" else dao.DaoCorruptError
    with pytest.raises(expected, match="dataset 'c'") as raised:
        dao.copy(source.uri, target, ["b", "c"])
    assert file in str(raised.value)
    assert files(target) == before
    assert not unnamed(target)
    dao.copy(source.uri, target, "b")


def test_a_target_that_is_not_written_to(source: dao.Store, tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        options = {"allow_http": "true"}
        with pytest.raises(dao.DaoError, match=re.escape(server.url)):
            dao.copy(source.uri, f"{server.url}/target", target_options=options)


def test_from_a_web_server(source: dao.Store, tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        options = {"allow_http": "true"}
        url = f"{server.url}/source"
        target = dao.copy(url, tmp_path / "target", ["a", "c"], source_options=options)
        assert url in target.versions()["message"][0]
        assert_copied(tmp_path / "source", tmp_path / "target", ["a", "c"])
        # And one that changes while it is read.
        path = part_path(tmp_path / "source", "b") / "zarr/X/indices/c/0"
        damage(path, "changed")
        with pytest.raises(dao.DaoCorruptError, match="indices"):
            dao.copy(url, tmp_path / "target", "b", source_options=options)
        assert not unnamed(tmp_path / "target")


def test_copies_race(source: dao.Store, tmp_path: Path) -> None:
    """Of two copies of one dataset one gets in; those of others all do."""
    results: list[object] = []

    def run(name: str) -> None:
        try:
            results.append(dao.copy(source.uri, tmp_path / "target", name).version)
        except dao.DaoFileExistsError as error:
            results.append(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in "abcabc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(r for r in results if isinstance(r, int)) == [1, 2, 3]
    assert len(results) == 6
    assert_copied(tmp_path / "source", tmp_path / "target", ["a", "b", "c"])


def test_an_error_of_the_bar_stops_it(source: dao.Store, tmp_path: Path) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        source._core.copy(str(tmp_path / "target"), {}, None, "m", None, stop)
    assert not [path for path in (tmp_path / "target").rglob("*") if path.is_file()]


SCRIPT = """
import sys
import dao_polars as dao

dao.copy(sys.argv[1], sys.argv[2], "small", progress=False)
before = memory("VmHWM")
dao.copy(sys.argv[1], sys.argv[2], "large", progress=False)
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.random((60_000, 300), dtype=np.float32)  # 72 MB that do not get smaller
    adata = ad.AnnData(values, var=pd.DataFrame(index=[f"g{i}" for i in range(300)]))
    dao.write_dataset(tmp_path / "s", adata[:10].copy(), dataset="small", progress=False)
    dao.write_dataset(tmp_path / "s", adata, dataset="large", progress=False)
    largest = max(
        json.loads((part_path(tmp_path / "s", "large") / "part.json").read_text())[
            "files"
        ].values(),
        key=lambda file: file["size"],
    )
    assert largest["size"] > 50 << 20
    command = [sys.executable, "-c", MEMORY + SCRIPT, str(tmp_path / "s"), str(tmp_path / "t")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stderr
    assert int(done.stdout) < 32 << 20
