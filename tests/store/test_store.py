"""What a store tells of itself: datasets, var, uns, verify, repr."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import dao_polars as dao
from dao_polars.store.show import human_size
from tests.storefab import (
    STORE_ID,
    Study,
    describe,
    entry,
    make_store,
    part_path,
    read_description,
    read_version,
    relist,
    seal,
    take_as_written,
    write_version,
)

OBS = pl.DataFrame({"cell_type": ["T", "B", None], "n": [1, 2, 3], "ok": [True, False, None]})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    studies = {
        "lung_2021": Study(OBS, {"organism": "Homo sapiens"}),
        "liver_2020": Study(OBS.head(2), {"organism": "Mus musculus", "doi": "x"}),
        "lung_2019": Study(OBS.head(1)),
    }
    return make_store(tmp_path / "atlas", studies)


def edit(path: Path, **values: object) -> None:
    """Changes fields of the first part in the version."""
    manifest = read_version(path)
    part = entry(manifest, "lung_2021")
    part |= values
    part["obs_file"]["rows"] = part["n_obs"]
    write_version(path, manifest)


def test_what_is_in_it(path: Path) -> None:
    store = dao.load_store(path)
    assert store.uri == str(path.resolve())
    assert store.id == STORE_ID
    assert store.n_obs == 6
    expected = {
        "id": ["lung_2021", "liver_2020", "lung_2019"],
        "organism": ["Homo sapiens", "Mus musculus", None],
        "n_obs": [3, 2, 1],
        "n_vars": [2, 2, 2],
        "nnz": [0, 0, 0],
        "layout": ["csr"] * 3,
        "bytes": [1234] * 3,
    }
    assert_frame_equal(store.datasets, pl.DataFrame(expected))
    assert store.schema == store.scan().collect_schema()


def test_paths_of_all_kinds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    stores = [dao.load_store(p) for p in (path, str(path), f"{path}/", "atlas", Path("atlas"))]
    assert {store.uri for store in stores} == {str(path.resolve())}
    assert {str(store.schema["cell"]) for store in stores} == {str(stores[0].schema["cell"])}


def test_opening_reads_the_version_alone(path: Path) -> None:
    shutil.rmtree(path / "parts")
    (path / "dao.json").unlink()
    assert dao.scan(path).collect_schema() == dao.load_store(path).schema
    assert dao.load_store(path).n_obs == 6


def test_a_store_whose_versions_are_missing(path: Path) -> None:
    shutil.rmtree(path / "versions")
    with pytest.raises(dao.DaoFileNotFoundError, match="the store's versions are missing"):
        dao.load_store(path)
    (path / "dao.json").unlink()
    with pytest.raises(dao.DaoFileNotFoundError, match="no store at"):
        dao.load_store(path)


@pytest.mark.parametrize("version", [1, 3])
def test_a_store_of_another_format_version(path: Path, version: int) -> None:
    write_version(path, {**read_version(path), "version": version})
    with pytest.raises(dao.DaoValueError, match=rf"format version 2, found version {version}"):
        dao.load_store(path)
    shutil.rmtree(path / "versions")
    identity = {"format": "dao-store", "version": version, "id": STORE_ID}
    (path / "dao.json").write_text(seal(identity))
    with pytest.raises(dao.DaoValueError, match=rf"format version 2, found version {version}"):
        dao.load_store(path)


def test_a_store_without_write_permission(path: Path) -> None:
    before = sorted(path.rglob("*"))
    for folder in [path, *[p for p in before if p.is_dir()]]:
        folder.chmod(0o555)
    try:
        store = dao.load_store(path)
        assert store.scan().collect().height == 6
        store.var("lung_2021")
        repr(store)
    finally:
        for folder in [path, *[p for p in before if p.is_dir()]]:
            folder.chmod(0o755)
    assert sorted(path.rglob("*")) == before


def test_var_and_uns(path: Path) -> None:
    store = dao.load_store(path)
    expected = pl.DataFrame({"var_name": ["g0", "g1"]})
    assert_frame_equal(store.var(), expected)
    assert_frame_equal(store.var("lung_2019"), expected)
    uns = store.uns("liver_2020")
    assert uns == {"organism": "Mus musculus", "doi": "x"}
    assert uns.refused == []
    assert store.uns("lung_2019") == {}


def test_feature_spaces_that_differ(tmp_path: Path) -> None:
    studies = {
        "a": Study(OBS, genes=("x", "y")),
        "b": Study(OBS, genes=("x", "y")),
        "c": Study(OBS, genes=("y", "x", "z")),
    }
    store = dao.load_store(make_store(tmp_path / "s", studies))
    words = r"2 feature spaces: 2 dataset\(s\) with 2 genes, such as 'a'; 1 .* 3 genes.*'union'"
    with pytest.raises(dao.DaoValueError, match=words):
        store.var()
    assert store.var("c")["var_name"].to_list() == ["y", "x", "z"]
    empty = dao.load_store(make_store(tmp_path / "e", {}))
    with pytest.raises(dao.DaoValueError, match=r"no datasets"):
        empty.var()
    assert empty.datasets.height == empty.n_obs == 0
    assert "0 datasets, 0 cells" in repr(empty)


def test_unknown_datasets_name_the_nearest(path: Path) -> None:
    store = dao.load_store(path)
    for ask in (store.var, store.uns):
        with pytest.raises(KeyError, match=r"no dataset 'lung_2020'.*'lung_2021', 'lung_2019'"):
            ask("lung_2020")
        with pytest.raises(dao.DaoKeyError, match=r"store\.datasets"):
            ask("")


def test_files_that_changed(path: Path) -> None:
    store = dao.load_store(path)
    file = part_path(path, "lung_2021") / "var.parquet"
    pl.DataFrame({"var_name": ["g0"]}).write_parquet(file)
    with pytest.raises(dao.DaoCorruptError, match=r"'lung_2021'.*var\.parquet.*truncated"):
        store.var("lung_2021")
    relist(path, "lung_2021")
    store = dao.load_store(path)
    with pytest.raises(dao.DaoCorruptError, match=r"'lung_2021'.*var\.parquet.*expected 2 rows"):
        store.var("lung_2021")
    file.write_bytes(b"PAR1 no")
    with pytest.raises(dao.DaoCorruptError, match=r"'lung_2021'.*var\.parquet"):
        store.var("lung_2021")
    file.unlink()
    with pytest.raises(dao.DaoFileNotFoundError, match=r"var\.parquet"):
        store.var("lung_2021")
    (part_path(path, "lung_2021") / "uns.json").write_text("[1, 2")
    with pytest.raises(dao.DaoCorruptError, match=r"'lung_2021'.*uns\.json"):
        store.uns("lung_2021")


def test_a_checksum_that_does_not_match(path: Path) -> None:
    described = read_description(path, "lung_2021")
    for name in ("var.parquet", "uns.json"):
        described["files"][name]["checksum"] = "crc32c:00000000"
    describe(path, "lung_2021", described)
    store = dao.load_store(path)
    with pytest.raises(dao.DaoCorruptError, match=r"var\.parquet.*checksum"):
        store.var("lung_2021")
    with pytest.raises(dao.DaoCorruptError, match=r"uns\.json.*checksum"):
        store.uns("lung_2021")
    store.var("lung_2019")


def test_verify(path: Path) -> None:
    store = dao.load_store(path)
    assert store.verify().schema == dict.fromkeys(("dataset", "path", "problem"), pl.String)
    assert store.verify().is_empty()
    obs = part_path(path, "lung_2021") / "obs.parquet"
    pl.read_parquet(obs).tail(2).write_parquet(obs)
    (part_path(path, "liver_2020") / "var.parquet").unlink()
    frame = pl.read_parquet(part_path(path, "lung_2019") / "obs.parquet")
    frame.drop("n").write_parquet(part_path(path, "lung_2019") / "obs.parquet")
    # What nothing lists is nobody's.
    (part_path(path, "liver_2020") / "notes.txt").write_text("mine")
    expected = [
        ("lung_2021", "parts/lung_2021/obs.parquet"),
        ("liver_2020", "parts/liver_2020/var.parquet"),
        ("lung_2019", "parts/lung_2019/obs.parquet"),
    ]
    assert store.verify().select("dataset", "path").rows() == expected
    # Files that are whole, and do not fit to what the manifest says of them.
    for name in ("lung_2021", "lung_2019"):
        take_as_written(path, name)
    problems = dao.load_store(path).verify()
    assert problems.select("dataset", "path").rows() == expected
    assert "expected 3 rows" in problems["problem"][0]
    assert "'n'" in problems["problem"][2]


def test_a_real_store_is_well(real_store: dao.Store) -> None:
    assert real_store.verify().is_empty()


def test_it_pickles_by_place(path: Path) -> None:
    store = pickle.loads(pickle.dumps(dao.load_store(path, storage_options={"timeout": "9s"})))
    assert store.uri == str(path.resolve())
    assert store._storage_options == {"timeout": "9s"}


def test_repr(path: Path) -> None:
    edit(path, bytes=1_234_567_890, dataset="<b>lung & co", n_obs=1_234_567)
    store = dao.load_store(path)
    lines = repr(store).splitlines()
    summary = "version 1, 3 datasets, 1,234,570 cells, 1.2 GB"
    assert lines[0] == f"Store '{path.resolve()}': {summary}"
    assert lines[1].split() == ["dataset", "organism", "cells", "genes", "layout", "size"]
    assert lines[2].split("  ")[1] == "<b>lung & co"
    assert lines[2].endswith("1,234,567      2  csr     1.2 GB")
    assert lines[-1] == (
        "obs: cell_type (2 categories), n (Int64), ok (Boolean), organism (2 categories), "
        "doi (1 category)"
    )
    page = store._repr_html_()
    assert "&lt;b&gt;lung &amp; co" in page
    assert "<b>lung" not in page
    assert "1.2 GB" in page


def test_the_repr_of_many_datasets_is_short(tmp_path: Path) -> None:
    obs = pl.DataFrame({f"c{i}": [i] for i in range(50)})
    path = make_store(tmp_path / "s", {f"d{i}": Study(obs) for i in range(30)})
    store = dao.load_store(path)
    lines = repr(store).splitlines()
    assert len(lines) == 1 + 1 + 20 + 1 + 1 + 3
    assert max(len(line) for line in lines[1:]) <= 100
    assert "… and 10 more" in repr(store)
    assert "… and 30 more" in repr(store).splitlines()[-1]
    assert "… and 10 more" in store._repr_html_()


def test_sizes_that_people_read() -> None:
    sizes = [0, 999, 1000, 1_234_567, 999_999_999, 5 * 10**12, 10**18]
    assert [human_size(size) for size in sizes] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.2 MB",
        "1000.0 MB",
        "5.0 TB",
        "1000.0 PB",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_table_that_may_not_be_read(path: Path) -> None:
    file = part_path(path, "lung_2021") / "obs.parquet"
    file.chmod(0)
    with pytest.raises(dao.DaoError, match=r"'lung_2021'.*obs\.parquet"):
        dao.scan(path).collect()


def test_a_store_at_home(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(path.parent))
    assert dao.load_store(f"~/{path.name}").uri == str(path.resolve())


@pytest.mark.parametrize(("uri", "error"), [(None, TypeError), (3, TypeError), ("", ValueError)])
def test_what_is_no_uri(uri: object, error: type[Exception]) -> None:
    for act in (dao.load_store, dao.scan, lambda u: dao.write_dataset(u, None)):
        with pytest.raises(error, match="uri=") as caught:
            act(uri)
        assert isinstance(caught.value, dao.DaoError)
