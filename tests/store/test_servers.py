"""Stores on real servers are what they are on a disk, however they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import dao_polars as dao
from tests.buckets import LISTING, READING, Bucket, rclone
from tests.conftest import SFAIRA, STUDIES

GOOD = sorted(set(READING) - {"rclone"})
"""Those that answer to ranges with ranges."""
PANCREAS = ["INS", "GCG", "SST", "PRSS1"]
ORDERS = {
    "in order": {},
    "shuffled": {"shuffle": True, "seed": 5},
    "by blocks": {"shuffle": "block", "seed": 5, "block_size": 16, "window": 8},
}


@dataclass
class Twins:
    """Stores of the same files, on a server and on a disk."""

    bucket: Bucket
    far: dao.Store
    near: dao.Store


@pytest.fixture(scope="module", params=GOOD)
def bucket(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bucket]:
    with READING[request.param](tmp_path_factory.mktemp("served")) as bucket:
        yield bucket


@pytest.fixture(scope="module")
def twins(bucket: Bucket, real_store: dao.Store) -> Twins:
    uri = bucket.put(Path(real_store.uri), "atlas")
    return Twins(bucket, dao.load_store(uri, storage_options=bucket.options), real_store)


def without_keys(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.drop("cell")


def of_human_pancreas(store: dao.Store) -> pl.LazyFrame:
    return store.scan().filter(pl.col("dataset") == "pancreas_human")


def assert_same_batches(twins: Twins, cells: Callable[[dao.Store], pl.LazyFrame], **options):
    """Batch by batch, to the last one; how many cells there were."""
    n = 0
    far, near = (cells(s).dao.iter_batches(300, **options) for s in (twins.far, twins.near))
    for ours, theirs in zip(far, near, strict=True):
        assert (ours.x != theirs.x).nnz == 0
        assert_frame_equal(ours.obs, theirs.obs)
        n += len(ours)
    return n


def test_the_store_and_its_tables(twins: Twins) -> None:
    far, near = twins.far, twins.near
    assert (far.id, far.version) == (near.id, near.version)
    assert far.datasets.equals(near.datasets)
    assert_frame_equal(without_keys(far.scan().collect()), without_keys(near.scan().collect()))
    few = [
        s.scan().filter(pl.col("cell_type") == "T cell").select("dataset", "obs_name").collect()
        for s in (far, near)
    ]
    assert_frame_equal(*few)
    for name in STUDIES:
        assert far.var(name).equals(near.var(name))
        assert far.uns(name) == near.uns(name)
    assert far.verify().is_empty()


@pytest.mark.parametrize("order", ORDERS)
def test_batches_of_one_study(twins: Twins, order: str) -> None:
    n = assert_same_batches(twins, of_human_pancreas, **ORDERS[order])
    assert n == of_human_pancreas(twins.near).select(pl.len()).collect().item()


@pytest.mark.parametrize("order", ORDERS)
def test_batches_of_all_studies(twins: Twins, order: str) -> None:
    """Their genes differ, and so do their types of numbers."""
    n = assert_same_batches(twins, dao.Store.scan, genes="union", **ORDERS[order])
    assert n == twins.near.n_obs


def test_anndata(twins: Twins) -> None:
    ours, theirs = (
        of_human_pancreas(s).dao.to_anndata(progress=False) for s in (twins.far, twins.near)
    )
    assert ours.n_obs > 1000
    assert (ours.X != theirs.X).nnz == 0
    assert ours.obs.equals(theirs.obs)
    assert ours.var.equals(theirs.var)


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_genes_in_a_query(twins: Twins, engine: str) -> None:
    genes = [dao.gene(gene).alias(gene) for gene in PANCREAS]
    found = [
        of_human_pancreas(s).select("obs_name", *genes).collect(engine=engine)
        for s in (twins.far, twins.near)
    ]
    assert_frame_equal(*found)
    assert (found[0].select(PANCREAS).sum().to_numpy() > 0).all()


def test_scattered_cells_and_few_genes(twins: Twins) -> None:
    """A permutation that is not its own inverse, of every seventh cell of all studies."""
    ours, theirs = (
        s.scan().select("cell", "obs_name").collect().gather_every(7)
        for s in (twins.far, twins.near)
    )
    order = np.random.default_rng(3).permutation(ours.height)
    assert (order[order] != np.arange(len(order))).any()
    a, b = (
        cells[order].dao.to_anndata(store=store, genes="union", progress=False)
        for cells, store in ((ours, twins.far), (theirs, twins.near))
    )
    assert list(a.obs_names) == list(b.obs_names)
    assert (a.X != b.X).nnz == 0


def test_pseudobulk(twins: Twins) -> None:
    ours, theirs = (
        of_human_pancreas(s).dao.pseudobulk("cell_type", progress=False)
        for s in (twins.far, twins.near)
    )
    assert_frame_equal(ours, theirs)
    assert ours["sum"].sum() > 0


@pytest.mark.parametrize("bucket", [name for name in GOOD if name in LISTING], indirect=True)
def test_what_sfaira_wrote(bucket: Bucket) -> None:
    """Its stores have no manifest: what datasets there are is known by a list."""
    uri = bucket.put(SFAIRA, "sfaira")
    far, near = dao.load_store(uri, storage_options=bucket.options), dao.load_store(SFAIRA)
    assert far.datasets["id"].to_list() == near.datasets["id"].to_list()
    frames = [without_keys(s.scan().collect()) for s in (far, near)]
    assert_frame_equal(*frames)
    for dataset in near.datasets["id"]:
        ours, theirs = (
            s.scan().filter(pl.col("dataset") == dataset).dao.to_anndata(progress=False)
            for s in (far, near)
        )
        assert (ours.X != theirs.X).nnz == 0
        assert ours.var.equals(theirs.var)
        np.testing.assert_equal(far.uns(dataset), near.uns(dataset))
    human = pl.col("organism") == "Homo sapiens"
    shuffled = [
        list(s.scan().filter(human).dao.iter_batches(100, shuffle=True, seed=2))
        for s in (far, near)
    ]
    for a, b in zip(*shuffled, strict=True):
        assert (a.x != b.x).nnz == 0
        assert_frame_equal(a.obs, b.obs)


def test_a_server_that_answers_ranges_with_all_of_it(real_store: dao.Store, tmp_path: Path) -> None:
    """rclone does where a range is all of a file: that is said, and no cells come."""
    with rclone(tmp_path) as bucket:
        uri = bucket.put(Path(real_store.uri), "atlas")
        store = dao.load_store(uri, storage_options=bucket.options)
        with pytest.raises(dao.DaoIOError, match=r"obs\.parquet.*range"):
            store.scan().collect()
