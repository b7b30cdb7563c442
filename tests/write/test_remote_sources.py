"""Sources behind URLs: what is written equals what the same file gives on this machine."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import zarr

import dao_polars as dao
from dao_polars._core import Files
from dao_polars.sources import remote
from dao_polars.sources.remote import RemoteFile
from tests.buckets import Bucket, s3s_fs
from tests.cli import program
from tests.conftest import DATA, study
from tests.webserver import Handler, Server, serving

GENES = [f"g{i}" for i in range(50)]


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    return study(5, 400, GENES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, adata: ad.AnnData) -> Path:
    """The study as files of all kinds."""
    root = tmp_path_factory.mktemp("sources")
    adata.write_h5ad(root / "packed.h5ad", compression="gzip")
    adata.write_h5ad(root / "plain one.h5ad")
    adata.write_zarr(root / "a.zarr")
    zarr.consolidate_metadata(root / "a.zarr")
    csr = sp.csr_matrix(adata.X).astype(np.int32)
    with h5py.File(root / "filtered.h5", "w") as file:
        group = file.create_group("matrix")
        names = {"barcodes": list(adata.obs_names)}
        features = group.create_group("features")
        for name in ("id", "name"):
            features[name] = np.array(GENES, "S")
        features["feature_type"] = np.array(["Gene Expression"] * len(GENES), "S")
        group["barcodes"] = np.array(names["barcodes"], "S")
        group["shape"] = [len(GENES), adata.n_obs]
        for name in ("indptr", "indices", "data"):
            group[name] = getattr(csr, name)
    return root


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serving(folder) as server:
        # Names come with %20 for a space.
        server.wrong = decoded
        yield server


def decoded(handler: Handler) -> bool:
    handler.path = urllib.request.unquote(handler.path)
    return False


def written(uri: Path, source: object, **options: object) -> ad.AnnData:
    store = dao.write_dataset(uri, source, progress=False, **options)  # type: ignore[arg-type]
    return store.scan().dao.to_anndata(progress=False)


def check(found: ad.AnnData, expected: ad.AnnData) -> None:
    assert list(found.obs_names) == list(expected.obs_names)
    assert list(found.var_names) == list(expected.var_names)
    assert (found.X != expected.X).nnz == 0


@pytest.mark.parametrize("name", ["packed.h5ad", "plain%20one.h5ad", "a.zarr", "filtered.h5"])
def test_a_study_behind_a_web_server(
    server: Server, name: str, folder: Path, adata: ad.AnnData, tmp_path: Path
) -> None:
    url = f"{server.url}/{name}"
    check(written(tmp_path / "s", url), adata)
    store = dao.load_store(tmp_path / "s")
    stem = urllib.request.unquote(name).rpartition(".")[0]
    assert store.datasets["id"].to_list() == [stem]
    noted = store.versions().row(0, named=True)
    file = folder / urllib.request.unquote(name)
    expected = (None, None) if file.is_dir() else (file.name, file.stat().st_size)
    assert (noted["source"], noted["source_bytes"]) == expected


def test_a_real_study_is_read_as_from_a_file(tmp_path: Path) -> None:
    """And each byte once, of a file that is read in its order."""
    path = DATA / "pbmc_human.h5ad"
    with serving(DATA) as server:
        found = written(tmp_path / "far", f"{server.url}/{path.name}")
        sent = server.sent
    near = written(tmp_path / "near", path)
    check(found, near)
    assert found.obs.equals(near.obs)
    assert found.var.equals(near.var)
    size = path.stat().st_size
    assert sent < 1.3 * size + (4 << 20), f"{sent:,} bytes for {size:,}"


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    with s3s_fs(tmp_path) as bucket:
        yield bucket


def test_a_study_in_a_bucket(bucket: Bucket, folder: Path, adata: ad.AnnData) -> None:
    assert bucket.files is not None
    for path in folder.iterdir():
        target = bucket.files / path.name
        if path.is_dir():
            for file in path.rglob("*"):
                if file.is_file():
                    at = target / file.relative_to(path)
                    at.parent.mkdir(parents=True, exist_ok=True)
                    at.write_bytes(file.read_bytes())
        else:
            target.write_bytes(path.read_bytes())
    for i, name in enumerate(("packed.h5ad", "a.zarr", "filtered.h5")):
        store = dao.write_dataset(
            bucket.uri,
            f"s3://bucket/{name}",
            dataset=f"d{i}",
            storage_options=bucket.options,
            progress=False,
        )
        check(store.scan().filter(pl.col("dataset") == f"d{i}").dao.to_anndata(), adata)
    with pytest.raises(dao.DaoFileNotFoundError, match="no such file, and no zarr group"):
        dao.write_dataset(bucket.uri, "s3://bucket/none", storage_options=bucket.options)
    nobody = {
        "endpoint_url": f"http://{bucket.address}",
        "max_retries": 0,
        "metadata_endpoint": "http://127.0.0.1:9",
    }
    with pytest.raises(dao.DaoError, match="none are in storage_options"):
        dao.write_dataset(
            bucket.uri,
            "s3://bucket/packed.h5ad",
            dataset="other",
            storage_options=bucket.options,
            source_options=nobody,
        )


def test_the_command_line_takes_urls(server: Server, adata: ad.AnnData, tmp_path: Path) -> None:
    ran = program.run("write", tmp_path / "s", f"{server.url}/packed.h5ad")
    assert "packed: 400 cells" in ran.stdout, ran.stderr
    check(dao.scan(tmp_path / "s").dao.to_anndata(progress=False), adata)


@pytest.mark.parametrize("after", [2, 6, 12])
def test_a_server_that_fails_is_not_a_damaged_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Some answers come, and then none."""
    monkeypatch.setattr(remote, "_BLOCK", 1000)

    def wrong(handler: Handler) -> bool:
        if len(server.asked) > after:
            handler.reply(500, b"", {"Connection": "close"})
            return True
        return decoded(handler)

    server.wrong = wrong
    for name in ("packed.h5ad", "a.zarr"):
        server.asked.clear()
        with pytest.raises(dao.DaoIOError, match="500"):
            dao.write_dataset(
                tmp_path / "s",
                f"{server.url}/{name}",
                progress=False,
                source_options={"max_retries": 0},
            )


def test_a_file_that_is_cut_short_is_damaged(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "plain one.h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "other.h5ad").write_bytes(b"no HDF5 at all" * 99)
    (tmp_path / "empty.h5ad").write_bytes(b"")
    with serving(tmp_path) as server:
        for name in ("cut", "other", "empty"):
            with pytest.raises(dao.DaoCorruptError, match=f"{name}.h5ad"):
                dao.write_dataset(tmp_path / "s", f"{server.url}/{name}.h5ad", progress=False)


def test_a_group_that_cannot_be_listed_says_what_to_do(adata: ad.AnnData, tmp_path: Path) -> None:
    adata.write_zarr(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / ".zmetadata").unlink()
    with (
        serving(tmp_path) as server,
        pytest.raises(dao.DaoValueError, match=r"zarr\.consolidate_metadata"),
    ):
        dao.write_dataset(tmp_path / "s", f"{server.url}/a.zarr", progress=False)


def test_a_server_that_refuses_to_tell_sizes_is_asked_for_a_byte(
    server: Server, adata: ad.AnnData, tmp_path: Path
) -> None:
    def wrong(handler: Handler) -> bool:
        if handler.command == "HEAD":
            handler.reply(403, b"", {"Connection": "close"})
            return True
        return False

    server.wrong = wrong
    check(written(tmp_path / "s", f"{server.url}/packed.h5ad"), adata)


def test_secrets_of_a_url_stay_secret(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("//", "//me:hush@")
    store = dao.write_dataset(tmp_path / "s", f"{url}/packed.h5ad", progress=False)
    everything = b"".join(p.read_bytes() for p in Path(store.uri).rglob("*") if p.is_file())
    assert b"hush" not in everything
    assert any(who and who.startswith("Basic ") for who in server.asked_as)
    with pytest.raises(dao.DaoError) as caught:
        dao.write_dataset(tmp_path / "s", f"{url}/none.h5ad", progress=False)
    assert "hush" not in str(caught.value)
    with pytest.raises(dao.DaoValueError, match=r"source 's3://…': names no file"):
        dao.write_dataset(tmp_path / "s", "s3://hush", progress=False)


def test_any_part_of_a_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against Python's own file, at random places, with small blocks of which few are kept."""
    monkeypatch.setattr(remote, "_BLOCK", 100)
    monkeypatch.setattr(remote, "_KEPT", 5)
    rng = np.random.default_rng(0)
    data = rng.bytes(4321)
    (tmp_path / "f").write_bytes(data)
    with serving(tmp_path) as server, (tmp_path / "f").open("rb") as near:
        far = RemoteFile(Files(server.url), "f", len(data))
        assert (far.seek(0, 2), far.tell(), far.read(9)) == (4321, 4321, b"")
        for _ in range(60):
            at, length = int(rng.integers(0, 4500)), int(rng.integers(0, 900))
            assert far.seek(at) == near.seek(at)
            assert far.read(length) == near.read(length)
            assert far.seek(-min(7, far.tell()), 1) == near.seek(-min(7, near.tell()), 1)
            assert far.read(10) == near.read(10)
        far.seek(0)
        before = len(server.asked)
        assert far.read() == data
        assert len(server.asked) - before <= 12
