"""Broken stores: an error that says what and where, never a wrong number, never a panic."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import dao_polars as dao
from tests.conftest import study
from tests.storefab import (
    STORE_ID,
    describe,
    description_path,
    last_version,
    part_path,
    read_description,
    seal,
)

GENES = [f"g{i}" for i in range(200)]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    uri = tmp_path_factory.mktemp("faults") / "s"
    for i in range(2):
        dao.write_dataset(uri, study(i, 400, GENES), dataset=f"d{i}", progress=False)
    return uri


@pytest.fixture
def uri(good, tmp_path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "copy"))


def epoch(uri: Path) -> float:
    return sum(float(x.sum()) for x, _ in dao.scan(uri).dao.iter_batches(64, shuffle=True, seed=0))


def shard(uri: Path, array: str) -> Path:
    (path,) = (p for p in (part_path(uri, "d1") / "zarr" / "X" / array / "c").iterdir())
    return path


@pytest.mark.parametrize("array", ["data", "indices", "indptr"])
def test_a_missing_shard(uri, array):
    path = shard(uri, array)
    path.unlink()
    with pytest.raises(dao.DaoFileNotFoundError, match=r"dataset 'd1'.*shard is missing") as caught:
        epoch(uri)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    problems = dao.load_store(uri).verify()
    assert problems["dataset"].to_list() == ["d1"]


@pytest.mark.parametrize("array", ["data", "indices", "indptr"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_shard(uri, array, keep):
    path = shard(uri, array)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(dao.DaoError, match="d1"):
        epoch(uri)
    assert dao.load_store(uri).verify().height


@pytest.mark.parametrize("array", ["data", "indices", "indptr"])
def test_every_flipped_bit_is_noticed(uri, array):
    path = shard(uri, array)
    whole = path.read_bytes()
    good_sum = epoch(uri)
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 60):
        broken = bytearray(whole)
        broken[at] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        with pytest.raises(dao.DaoError, match="d1"):
            epoch(uri)
    path.write_bytes(whole)
    assert epoch(uri) == good_sum


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_manifest(uri, keep):
    path = last_version(uri)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(dao.DaoCorruptError, match="manifest"):
        dao.load_store(uri)


def test_missing_versions(uri):
    shutil.rmtree(uri / "versions")
    with pytest.raises(dao.DaoFileNotFoundError, match=r"versions': .*versions are missing"):
        dao.load_store(uri)
    (uri / "dao.json").unlink()
    with pytest.raises(dao.DaoFileNotFoundError, match="nothing in it is a dataset"):
        dao.load_store(uri)


def test_a_missing_identity(uri):
    expected = epoch(uri)
    (uri / "dao.json").unlink()
    assert epoch(uri) == expected
    store = dao.write_dataset(uri, study(5, 3, GENES), dataset="new", progress=False)
    assert json.loads((uri / "dao.json").read_text())["id"] == store.id


def test_a_newer_store(uri):
    path = last_version(uri)
    manifest = json.loads(path.read_text())
    path.write_text(seal({**manifest, "version": 3}))
    with pytest.raises(dao.DaoValueError, match=r"newer dao-polars.*version 3.*pip install"):
        dao.load_store(uri)
    with pytest.raises(dao.DaoValueError, match="newer dao-polars"):
        dao.write_dataset(uri, study(5, 3, GENES), dataset="new", progress=False)


@pytest.mark.parametrize(("version", "what"), [(1, "before its first release"), (3, "newer dao")])
def test_a_store_of_another_format(tmp_path, version, what):
    """What it has instead of versions is not known: its dao.json says that it is another."""
    manifest = {"format": "dao-store", "version": version, "id": STORE_ID, "datasets": []}
    (tmp_path / "dao.json").write_text(seal(manifest))
    with pytest.raises(dao.DaoValueError, match=rf"{what}.*version 2, found version {version}"):
        dao.load_store(tmp_path)
    with pytest.raises(dao.DaoValueError, match=what):
        dao.write_dataset(tmp_path, study(5, 3, GENES), dataset="new", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["dao.json"]


def test_a_newer_dataset(uri):
    meta = {**read_description(uri, "d1"), "version": 3}
    description_path(uri, "d1").write_text(seal(meta))
    # The manifest notices that the file is another one before its version is looked at.
    with pytest.raises(dao.DaoCorruptError, match=r"d1.*checksum mismatch"):
        epoch(uri)
    describe(uri, "d1", meta)
    with pytest.raises(dao.DaoValueError, match=r"d1.*newer dao-polars"):
        epoch(uri)


@pytest.mark.parametrize("name", ["part.json", "var.parquet", "uns.json"])
def test_a_changed_small_file(uri, name):
    path = part_path(uri, "d1") / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    store = dao.load_store(uri)
    use = {
        "part.json": lambda: epoch(uri),
        "var.parquet": lambda: store.var("d1"),
        "uns.json": lambda: store.uns("d1"),
    }
    with pytest.raises(dao.DaoCorruptError, match=r"d1.*checksum mismatch.*crc32c"):
        use[name]()


@pytest.mark.parametrize("shape", [2**45, 2**60, 10**30])
def test_metadata_that_claims_too_much(uri, shape):
    for array in ("data", "indices", "indptr"):
        path = part_path(uri, "d1") / "zarr" / "X" / array / "zarr.json"
        good = path.read_text()
        path.write_text(json.dumps({**json.loads(good), "shape": [shape]}))
        with pytest.raises(dao.DaoError, match="d1"):
            epoch(uri)
        path.write_text(good)


def test_a_missing_dataset_folder(uri):
    shutil.rmtree(part_path(uri, "d1"))
    assert dao.load_store(uri).n_obs == 800
    with pytest.raises(dao.DaoFileNotFoundError, match="d1"):
        epoch(uri)
    # The other one is as good as ever.
    assert dao.scan(uri).filter(pl.col("dataset") == "d0").dao.to_anndata().shape == (400, 200)


def test_swapped_matrices_are_noticed(uri):
    for array in ("data", "indices", "indptr"):
        a, b = (part_path(uri, d) / "zarr" / "X" / array for d in ("d0", "d1"))
        shutil.rmtree(b)
        shutil.copytree(a, b)
    problems = dao.load_store(uri).verify()
    assert set(problems["dataset"]) == {"d1"}


def test_no_store_there(tmp_path):
    with pytest.raises(dao.DaoFileNotFoundError, match="no such folder"):
        dao.scan(tmp_path / "nothing")
    with pytest.raises(dao.DaoFileNotFoundError, match="nothing in it is a dataset"):
        dao.scan(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(dao.DaoFileNotFoundError, match="it is a file"):
        dao.scan(tmp_path / "file")
    with pytest.raises(dao.DaoValueError, match="ftp"):
        dao.scan("ftp://host/store")


def test_a_frame_without_cells(uri):
    with pytest.raises(dao.DaoValueError, match="no column 'cell'"):
        dao.scan(uri).select("score").dao.iter_batches()
    with pytest.raises(dao.DaoTypeError, match="cell keys"):
        pl.DataFrame({"cell": [1]}).dao.iter_batches()


def test_an_unknown_column(uri):
    with pytest.raises(pl.exceptions.ColumnNotFoundError, match="nope"):
        dao.scan(uri).filter(pl.col("nope") == 1).dao.iter_batches()


def test_cells_of_another_store(uri, good, tmp_path):
    frame = dao.scan(uri).collect()
    other = tmp_path / "other"
    dao.write_dataset(other, study(0, 400, GENES), dataset="d0", progress=False)
    with pytest.raises(dao.DaoValueError, match="the cells are of store"):
        frame.dao.iter_batches(store=other)
    # A store that moved is the same store.
    moved = shutil.move(uri, tmp_path / "moved")
    with pytest.raises(dao.DaoFileNotFoundError, match=r"no such folder[\s\S]*store=") as caught:
        frame.dao.iter_batches()
    assert str(uri) in str(caught.value)
    assert sum(len(b) for b in frame.dao.iter_batches(store=moved)) == 800
    assert sum(len(b) for b in frame.dao.iter_batches(store=dao.load_store(moved))) == 800
    # A store written again at the same place is another one.
    dao.write_dataset(uri, study(9, 400, GENES), dataset="d0", progress=False)
    with pytest.raises(dao.DaoValueError, match="written again"):
        frame.dao.to_anndata()


def test_a_store_without_write_permission(uri):
    before = sorted(p for p in uri.rglob("*"))
    for path in [uri, *uri.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        store = dao.load_store(uri)
        assert epoch(uri) > 0
        assert store.verify().height == 0
        store.scan().dao.to_anndata()
        store.var()
        store.uns("d0")
        assert sorted(p for p in uri.rglob("*")) == before
    finally:
        for path in [uri, *uri.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
