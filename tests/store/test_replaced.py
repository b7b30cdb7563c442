"""Objects that are replaced while a store is open: an error, and never a mixture of two."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import dao_polars as dao
from tests.buckets import READING, Bucket
from tests.conftest import study

GENES = [f"g{i}" for i in range(400)]


@pytest.fixture(params=sorted(set(READING) - {"rclone"}))
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bucket]:
    (tmp_path / "served").mkdir()
    with READING[request.param](tmp_path / "served") as bucket:
        yield bucket


def other_values(adata: ad.AnnData) -> ad.AnnData:
    """The same study, with the counts of each cell at others of its genes."""
    x = sp.csr_matrix(adata.X)
    data = x.data.copy()
    for row in range(x.shape[0]):
        span = slice(x.indptr[row], x.indptr[row + 1])
        data[span] = np.roll(data[span], 1)
    moved = sp.csr_matrix((data, x.indices, x.indptr), x.shape)
    return ad.AnnData(moved, obs=adata.obs, var=adata.var)


def the_shard(store: Path) -> Path:
    """The one shard of the counts of a store of one study."""
    (shard,) = (p for p in store.glob("parts/*/zarr/X/data/c/**/*") if p.is_file())
    return shard


def tag_of(shard: Path) -> bytes:
    """What binds a shard to its array, as it stands in the shard."""
    (folder,) = (p for p in shard.parents if p.name == "data")
    attributes = json.loads((folder / "zarr.json").read_text())["attributes"]
    return int(attributes["dao_polars.shard_tag"], 16).to_bytes(8, "little")


def epoch(batches: dao.BatchIterable) -> list[tuple[object, ...]]:
    return [(b.obs["obs_name"].to_list(), b.x.toarray().tolist()) for b in batches]


def test_by_one_of_the_same_size_whose_checksums_hold(bucket: Bucket, tmp_path: Path) -> None:
    """And with the same index and tag: nothing but the server's word says that it is another."""
    adata = study(5, 3000, GENES, high=200)
    dao.write_dataset(tmp_path / "atlas", adata, dataset="d", progress=False)
    dao.write_dataset(tmp_path / "other", other_values(adata), dataset="d", progress=False)
    old, other = the_shard(tmp_path / "atlas"), the_shard(tmp_path / "other")
    data = other.read_bytes()
    assert data.count(tag_of(other)) == 1
    data = data.replace(tag_of(other), tag_of(old))
    assert len(data) == old.stat().st_size
    assert data != old.read_bytes()

    uri = bucket.put(tmp_path / "atlas", "atlas")
    cells = dao.load_store(uri, storage_options=bucket.options).scan()
    batches = cells.dao.iter_batches(256, shuffle=True, seed=0)
    expected = epoch(batches)
    batches.set_epoch(0)
    assert epoch(batches) == expected
    bucket.replace(f"atlas/{old.relative_to(tmp_path / 'atlas').as_posix()}", data)
    batches.set_epoch(0)
    with pytest.raises(dao.DaoCorruptError, match=r"dataset 'd'.*/zarr/X/data/c/0.*was replaced"):
        epoch(batches)


def test_by_one_that_is_shorter(bucket: Bucket, tmp_path: Path) -> None:
    dao.write_dataset(tmp_path / "atlas", study(5, 1000, GENES), dataset="d", progress=False)
    uri = bucket.put(tmp_path / "atlas", "atlas")
    batches = dao.load_store(uri, storage_options=bucket.options).scan().dao.iter_batches(64)
    assert len(epoch(batches)) == 16
    shard = the_shard(tmp_path / "atlas")
    data = shard.read_bytes()
    bucket.replace(
        f"atlas/{shard.relative_to(tmp_path / 'atlas').as_posix()}", data[: len(data) // 2]
    )
    with pytest.raises(dao.DaoError, match=r"dataset 'd'.*/zarr/X/data/c/0"):
        epoch(batches)
