"""Statistics of cells that engines add up, piece by piece: beside one process, and numpy."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import anndata as ad
import numpy as np
import polars as pl
import pytest
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

import dao_polars as dao


@pytest.fixture(scope="module")
def client():
    """Two processes of dask, as a cluster has them."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


def same(found: pl.DataFrame, wanted: pl.DataFrame) -> None:
    """To the last digit, as all that is made of counts."""
    assert found.schema == wanted.schema
    for name in found.columns:
        assert found[name].equals(wanted[name], null_equal=True), name


def alike(found: pl.DataFrame, wanted: pl.DataFrame) -> None:
    """Texts as they are, and what is made of logarithms nearly."""
    assert found.schema == wanted.schema
    for name in found.columns:
        if found[name].dtype.is_float():
            a, b = found[name].to_numpy(), wanted[name].to_numpy()
            assert np.allclose(a, b, rtol=1e-6, atol=1e-12, equal_nan=True), name
        else:
            assert found[name].equals(wanted[name], null_equal=True), name


def human(store: dao.Store) -> pl.LazyFrame:
    return store.scan().filter(pl.col("dataset").is_in(["pbmc_human", "pancreas_human"]))


def test_a_cluster_gives_what_one_process_does(real_store, client):
    cells = human(real_store)
    options = {"genes": "union"}
    for engine in (client, client.cluster, "dask"):
        same(
            cells.dao.gene_stats(["dataset", "cell_type"], engine=engine, **options),
            cells.dao.gene_stats(["dataset", "cell_type"], **options),
        )
    agg = ["sum", "mean", "var", "std", "count_nonzero", "fraction"]
    same(
        cells.dao.pseudobulk("cell_type", agg, engine=client, **options),
        cells.dao.pseudobulk("cell_type", agg, **options),
    )
    one = real_store.scan().filter(pl.col("dataset") == "pbmc_human")
    alike(
        one.dao.rank_genes_groups("cell_type", engine=client),
        one.dao.rank_genes_groups("cell_type"),
    )
    other = real_store.scan().filter(pl.col("dataset") == "pancreas_human")
    same(
        other.dao.highly_variable_genes(500, batch_key="donor", engine=client),
        other.dao.highly_variable_genes(500, batch_key="donor"),
    )
    sets = {"mt": "^MT-"}
    mixed_up = one.collect().sample(fraction=0.7, shuffle=True, seed=5)
    found = mixed_up.dao.qc(sets, engine=client)
    assert found.equals(mixed_up.dao.qc(sets))
    assert found["cell"].equals(mixed_up["cell"])
    assert found.drop("cell").equals(mixed_up.select(dao.qc(sets).alias("q")).unnest("q"))


def test_an_array_is_computed_by_a_cluster(real_store, client):
    cells = real_store.scan().filter(pl.col("dataset") == "pbmc_human")
    x = cells.dao.to_dask(chunk_size=200)
    whole = cells.dao.to_anndata().X
    computed = client.compute(x).result()
    assert (computed != whole).nnz == 0
    doubled = client.compute(x.map_blocks(lambda rows: rows * 2)).result()
    assert (doubled != whole * 2).nnz == 0


def test_an_executor_of_processes_adds_up(real_store):
    cells = real_store.scan().filter(pl.col("dataset") == "pbmc_human")
    wanted = cells.dao.pseudobulk("cell_type")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as engine:
        assert cells.dao.pseudobulk("cell_type", engine=engine).equals(wanted)
    forks = multiprocessing.get_context("fork")
    with (
        ProcessPoolExecutor(2, mp_context=forks) as engine,
        pytest.raises(dao.DaoValueError, match="engine= forks its processes"),
    ):
        cells.dao.pseudobulk("cell_type", engine=engine)


def test_groups_mean_the_same_in_every_piece(mixed):
    """A column that is computed from all cells is not computed anew from a piece's."""
    lf = mixed[0].scan()
    by = (pl.col("score") > pl.col("score").median()).alias("high")
    with ThreadPoolExecutor(2) as engine:
        found = lf.dao.pseudobulk(by, genes="union", engine=engine)
    same(found, lf.dao.pseudobulk(by, genes="union"))
    assert found["n_cells"].max() > 3


@given(n=st.integers(1, 9), seed=st.integers(0, 99), data=st.data())
def test_partial_sums_merge_to_those_of_all(mixed, n, seed, data):
    store, studies = mixed
    frame = store.scan().collect().sample(fraction=0.7, shuffle=True, seed=seed)
    frame = frame.with_columns(
        group=pl.when(pl.col("score") < 0.8).then((pl.col("score") * 4).cast(pl.Int32))
    )
    names = [f"g{i}" for i in data.draw(st.sets(st.integers(0, 29), min_size=1))]
    parts = [
        piece.dao.partial("group", genes=names)
        for piece in frame.dao.partitions(n)
        if piece.collect().height
    ]
    merged = dao.merge(pickle.loads(pickle.dumps(parts)))
    same(merged.gene_stats(), frame.dao.gene_stats("group", genes=names))
    # And beside numpy, on the studies themselves.
    together = ad.concat([studies[name] for name in ("a", "b", "c")], join="outer", fill_value=0)
    x = together[frame["obs_name"].to_list()].to_df().reindex(columns=names).fillna(0)
    wanted = x.groupby(frame["group"].to_pandas().to_numpy(), dropna=False).sum()
    found = merged.pseudobulk().pivot("gene", index="group", values="sum", maintain_order=True)
    assert np.array_equal(found.select(names).fill_null(0).to_numpy(), wanted.to_numpy())


def test_variable_genes_by_hand(real_store):
    cells = real_store.scan().filter(pl.col("dataset") == "pancreas_human")
    pieces = cells.dao.partitions(3)
    first = dao.merge([piece.dao.partial("donor") for piece in pieces])
    clip = first.clip()
    second = dao.merge([piece.dao.partial("donor", clip=clip) for piece in pieces])
    same(
        first.highly_variable_genes(second, 400),
        cells.dao.highly_variable_genes(400, batch_key="donor"),
    )
    cells = real_store.scan().filter(pl.col("dataset") == "pbmc_human")
    pieces = cells.dao.partitions(3)
    ranked = dao.merge(
        [piece.dao.partial("cell_type", normalize="log1p_cp10k") for piece in pieces]
    )
    alike(ranked.rank_genes_groups(), cells.dao.rank_genes_groups("cell_type"))
    with pytest.raises(dao.DaoValueError, match="second pass"):
        second.gene_stats()
    with pytest.raises(dao.DaoValueError, match="with and without clip="):
        first | second
    with pytest.raises(dao.DaoValueError, match="made without clip="):
        first.highly_variable_genes(first, 400)
    assert repr(ranked).startswith("Partial of 1,336 cells: 11 groups × 11,180 genes")


def test_merging_is_the_same_in_every_grouping(real_store):
    cells = real_store.scan().filter(pl.col("dataset") == "pbmc_human")
    a, b, c, d = [p.dao.partial("cell_type") for p in cells.dao.partitions(4)]
    ways = (a | b | c | d, (a | b) | (c | d), (d | c) | (b | a))
    found = [m.gene_stats() for m in ways]
    same(found[1], found[0])
    same(found[2], found[0])


def test_what_is_wrong_is_said(mixed, real_store):
    lf = mixed[0].scan()
    a = lf.dao.partial(genes=["g7"])
    with pytest.raises(dao.DaoValueError, match="different requests"):
        dao.merge([a, lf.dao.partial(genes=["g8"])])
    with pytest.raises(dao.DaoValueError, match="different requests"):
        dao.merge([a, lf.dao.partial(genes=["g7"], normalize="log1p")])
    with pytest.raises(dao.DaoValueError, match="no partial sums"):
        dao.merge([])
    with pytest.raises(dao.DaoTypeError, match=r"expected what .dao.partial gives"):
        dao.merge([a, 3])
    with pytest.raises(dao.DaoTypeError, match="engine=3; expected a dask client"):
        lf.dao.gene_stats(genes="union", engine=3)
    with pytest.raises(dao.DaoTypeError, match="clip=4"):
        lf.dao.partial(genes=["g7"], clip=4)
    with ThreadPoolExecutor(1) as engine:
        with pytest.raises(dao.DaoValueError, match="feature space"):
            real_store.scan().dao.gene_stats(engine=engine)
        with pytest.raises(dao.DaoKeyError, match="nope"):
            lf.dao.gene_stats(genes=["nope"], engine=engine)


def test_no_cells(mixed):
    none = mixed[0].scan().filter(pl.lit(False))
    with ThreadPoolExecutor(2) as engine:
        alike(
            none.dao.gene_stats("cell_type", genes=["g7"], engine=engine),
            none.dao.gene_stats("cell_type", genes=["g7"]),
        )


def test_an_error_in_a_piece_is_the_error(mixed, tmp_path):
    store = dao.copy(mixed[0].uri, tmp_path / "copy")
    for shard in (tmp_path / "copy").rglob("X/data/c/*"):
        shard.write_bytes(b"\xff" * shard.stat().st_size)
    with ThreadPoolExecutor(2) as engine, pytest.raises(dao.DaoCorruptError, match="dataset"):
        store.scan().dao.gene_stats(genes="union", engine=engine)
