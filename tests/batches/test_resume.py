"""Resuming in the middle of an epoch, ranks and workers: always the cells of one sequence, once."""

from __future__ import annotations

import json
import pickle

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import dao_polars as dao


def content(batch: dao.Batch) -> tuple:
    x = batch.x
    parts = (x.indptr, x.indices, x.data) if hasattr(x, "indptr") else (x,)
    return (
        tuple(part.tobytes() for part in parts),
        tuple(batch.obs.rows()),
        tuple(batch.cells.ext.storage().to_list()),
    )


SETTINGS = st.fixed_dictionaries(
    {"batch_size": st.integers(2, 20), "drop_last": st.booleans(), "seed": st.just(11)},
    optional={
        "shuffle": st.sampled_from([True, False, "block"]),
        "group_by": st.just("cell_type"),
    },
) | st.fixed_dictionaries(
    {"batch_size": st.integers(2, 20), "balance": st.just("cell_type"), "seed": st.just(3)}
)


@pytest.fixture(scope="module")
def cells(mixed) -> pl.DataFrame:
    return mixed[0].scan().filter(pl.col("dataset") != "c").collect()


def loader(cells: pl.DataFrame, options: dict, **more) -> dao.BatchIterable:
    return cells.dao.iter_batches(genes="union", **options, **more)


@given(options=SETTINGS, epochs=st.integers(0, 2), data=st.data())
def test_the_rest_of_an_epoch_and_all_later_ones_are_bit_for_bit(cells, options, epochs, data):
    whole = loader(cells, options)
    for _ in range(epochs):
        list(whole)
    stop = data.draw(st.integers(0, len(whole)))
    iterator = iter(whole)
    for _ in range(stop):
        next(iterator)
    state = json.loads(json.dumps(whole.state_dict()))
    assert len(json.dumps(state)) < 1500
    rest = [content(batch) for batch in iterator]
    later = [content(batch) for batch in whole]

    resumed = loader(cells, options)
    resumed.load_state_dict(state)
    over = stop == len(whole)
    if not over:
        assert resumed.epoch == epochs
        assert [content(batch) for batch in resumed] == rest
    assert resumed.epoch == epochs + 1
    assert [content(batch) for batch in resumed] == later


def test_what_was_skipped_is_not_read(real_store, monkeypatch):
    cells = real_store.scan().filter(pl.col("dataset") == "pbmc_human")
    batches = cells.dao.iter_batches(100, shuffle=True, seed=0)
    first = next(iter(batches))
    state = batches.state_dict()
    batches.load_state_dict(state)
    plan = batches.sampling.sampler.plan(0, rounds=state["rounds"])
    positions = plan.order(0, 10**6)
    keys = batches.rows.cells.numpy()[positions]
    assert not set(keys) & set(first.cells.ext.storage())
    assert len(keys) == batches.n_obs - 100


def test_a_seed_that_was_drawn_comes_with_the_state(cells):
    whole = cells.dao.iter_batches(8, shuffle=True, genes="union")
    iterator = iter(whole)
    next(iterator)
    state = whole.state_dict()
    other = cells.dao.iter_batches(8, shuffle=True, genes="union")
    assert other.seed != whole.seed
    other.load_state_dict(state)
    assert other.seed == whole.seed
    assert [content(b) for b in other] == [content(b) for b in iterator]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"batch_size": 9}, "batch_size was 8 and is 9"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"shuffle": "block"}, "shuffle was True and is 'block'"),
        ({"genes": ["g7"]}, "genes was"),
        ({"layout": "dense"}, "layout was 'csr' and is 'dense'"),
        ({"normalize": "cp10k"}, "normalize was None"),
        ({"drop_last": True}, "drop_last"),
        ({"weights": "score"}, "weights was None"),
    ],
)
def test_the_state_of_something_else_is_refused(cells, change, match):
    options = {"batch_size": 8, "shuffle": True, "seed": 0, "genes": "union"}
    state = cells.dao.iter_batches(**options).state_dict()
    with pytest.raises(dao.DaoValueError, match=match):
        cells.dao.iter_batches(**options | change).load_state_dict(state)
    with pytest.raises(dao.DaoValueError, match="cells selected"):
        cells.head(50).dao.iter_batches(**options).load_state_dict(state)
    with pytest.raises(dao.DaoTypeError, match="state_dict"):
        cells.dao.iter_batches(**options).load_state_dict({"version": 99})
    with pytest.raises(dao.DaoTypeError, match="rounds"):
        cells.dao.iter_batches(**options).load_state_dict(state | {"rounds": "x"})


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"seed": None}, dao.DaoValueError),
        ({"seed": "x"}, dao.DaoTypeError),
        ({"seed": -1}, dao.DaoValueError),
        ({"settings": 3}, dao.DaoTypeError),
        ({"rounds": 2**63}, dao.DaoValueError),
        ({"epoch": -1}, dao.DaoValueError),
        ({"world_size": 0}, dao.DaoValueError),
    ],
)
def test_a_broken_state_is_refused_and_changes_nothing(cells, change, error):
    drawn = cells.dao.iter_batches(8, shuffle=True, genes="union")
    seed, before = drawn.seed, [content(b) for b in drawn]
    drawn.set_epoch(0)
    with pytest.raises(error):
        drawn.load_state_dict(drawn.state_dict() | change)
    assert drawn.seed == seed
    assert [content(b) for b in drawn] == before


def test_a_state_of_one_worker_is_not_taken_for_all(cells):
    options = {"batch_size": 8, "shuffle": True, "seed": 0}
    worker = loader(cells, options)
    next(worker.iterate(0, 2))
    alone = loader(cells, options)
    alone.load_state_dict(worker.state_dict())
    for _ in range(2):  # and not the second time either
        with pytest.raises(dao.DaoValueError, match="worker 0 of 2"):
            iter(alone)


def test_the_state_is_of_the_epoch_that_comes(cells):
    batches = loader(cells, {"batch_size": 8, "shuffle": True, "seed": 0})
    for _ in range(3):
        list(batches)
    batches.set_epoch(1)
    state = batches.state_dict()
    assert (state["epoch"], state["rounds"]) == (1, 0)
    next(iter(batches))
    batches.set_epoch(7)
    assert (batches.state_dict()["epoch"], batches.state_dict()["rounds"]) == (7, 0)


def test_set_epoch_is_as_in_torch(cells):
    options = {"batch_size": 16, "shuffle": True, "seed": 4}
    epochs = loader(cells, options)
    orders = [[content(b) for b in epochs] for _ in range(3)]
    assert orders[0] != orders[1] != orders[2]
    again = loader(cells, options)
    again.set_epoch(2)
    assert [content(b) for b in again] == orders[2]
    assert again.epoch == 3
    # a resumed epoch that is set again goes on where it was
    iterator = iter(again)
    next(iterator)
    state = again.state_dict()
    resumed = loader(cells, options)
    resumed.load_state_dict(state)
    resumed.set_epoch(resumed.epoch)
    assert [content(b) for b in resumed] == [content(b) for b in iterator]
    resumed.load_state_dict(state)
    resumed.set_epoch(0)
    assert [content(b) for b in resumed] == orders[0]


def ranks(cells, options, world_size, workers=1, state=None, stop=None):
    """What ranks and workers have, round by round; and the first rank's state after ``stop``."""
    steps, states = [], []
    for rank in range(world_size):
        mine = loader(cells, options, rank=rank, world_size=world_size)
        if state is not None:
            mine.load_state_dict(state)
        n = len(mine)
        if workers == 1:
            iterator = iter(mine)
            taken = []
            for _ in range(n if stop is None else stop):
                batch = next(iterator, None)
                if batch is None:
                    break
                taken.append(content(batch))
            states.append(mine.state_dict())
        else:
            shares = []
            for worker in range(workers):
                copy = pickle.loads(pickle.dumps(mine))
                shares.append([content(batch) for batch in copy.iterate(worker, workers)])
            taken = [shares[i % workers][i // workers] for i in range(sum(map(len, shares)))]
        steps.append(taken)
    assert len({len(taken) for taken in steps}) == 1, "ranks do as many steps"
    assert all(state == states[0] for state in states)
    return list(zip(*steps, strict=True)), states[:1]


def sequence(rounds) -> list[int]:
    return [key for step in rounds for batch in step for key in batch[2]]


@given(options=SETTINGS, world_size=st.integers(1, 5), workers=st.integers(1, 4))
def test_one_sequence_for_any_number_of_ranks_and_workers(cells, options, world_size, workers):
    alone, _ = ranks(cells, options, 1)
    shared, _ = ranks(cells, options, world_size, workers)
    if options.get("drop_last"):
        n = len(alone) // world_size * world_size
        assert sequence(shared) == sequence(alone[:n])
    else:
        assert sequence(shared) == sequence(alone)
    if workers > 1:
        assert shared == ranks(cells, options, world_size)[0]


@given(options=SETTINGS, first=st.integers(1, 4), then=st.integers(1, 4), data=st.data())
def test_a_run_goes_on_with_another_number_of_ranks(cells, options, first, then, data):
    whole, _ = ranks(cells, options, first)
    assume(whole)  # an epoch without a batch for each rank is over before it begins
    stop = data.draw(st.integers(0, len(whole) - 1))
    begun, states = ranks(cells, options, first, stop=stop)
    assert begun == whole[:stop]
    resumed, _ = ranks(cells, options, then, state=states[0])
    if first == then:
        assert resumed == whole[stop:]
        return
    left = sequence(ranks(cells, options, 1)[0])[len(sequence(begun)) :]
    found = sequence(resumed)
    if options.get("drop_last"):
        assert found == left[: len(found)]
        assert len(left) - len(found) < options["batch_size"] * then + options["batch_size"]
    elif len(left) >= then:
        assert found == left


def test_ranks_need_a_seed_in_common(cells, monkeypatch):
    alike = cells.dao.iter_batches(8, shuffle=True, genes="union", rank=0, world_size=2)
    with pytest.raises(dao.DaoValueError, match="seed"):
        iter(alike)
    with pytest.raises(dao.DaoValueError, match="seed"):
        len(alike)
    in_order = cells.dao.iter_batches(8, genes="union", rank=0, world_size=2)
    assert len(list(in_order)) == len(in_order) == 6


def test_ranks_are_found_in_the_environment(cells, monkeypatch):
    batches = cells.dao.iter_batches(10, shuffle=True, seed=0, genes="union")
    alone = [content(batch) for batch in batches]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    batches = cells.dao.iter_batches(10, shuffle=True, seed=0, genes="union")
    assert [content(batch) for batch in batches] == alone[1::3]
    assert batches.rank() == (1, 3)
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(dao.DaoValueError, match="RANK=3"):
        len(batches)


@pytest.mark.parametrize(
    ("given", "target", "log1p"),
    [
        ("log1p_cp10k", 1e4, True),
        ("cpm", 1e6, False),
        ("log1p", None, True),
        ({"target_sum": 500}, 500, False),
        ({"target_sum": 123.5, "log1p": True}, 123.5, True),
    ],
)
@pytest.mark.parametrize("layout", ["csr", "dense"])
def test_normalized_batches_equal_scanpys(real, real_store, given, target, log1p, layout):
    import scanpy as sc

    adata = real["pancreas_human"].copy()
    adata.X = adata.X.astype(np.float64)
    if target is not None:
        sc.pp.normalize_total(adata, target_sum=target)
    if log1p:
        sc.pp.log1p(adata)
    expected = adata.X.toarray()
    cells = real_store.scan().filter(pl.col("dataset") == "pancreas_human")
    genes = adata.var_names[3:500:7].to_list()
    columns = adata.var_names.get_indexer(genes)
    for chosen, wanted in ((None, expected), (genes, expected[:, columns])):
        batches = cells.dao.iter_batches(256, normalize=given, layout=layout, genes=chosen)
        found = np.vstack([x if layout == "dense" else x.toarray() for x, _ in batches])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        exact = cells.dao.iter_batches(
            256, normalize=given, layout=layout, genes=chosen, dtype="float64"
        )
        found = np.vstack([x if layout == "dense" else x.toarray() for x, _ in exact])
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_layers_and_obsm_come_with_their_cells(tmp_path):
    import anndata as ad
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    counts = sp.random(90, 12, 0.4, "csr", rng=rng, data_rvs=lambda n: rng.integers(1, 9, n))
    adata = ad.AnnData(counts.astype(np.float32))
    adata.layers["doubled"] = adata.X * 2
    adata.obsm["X_pca"] = rng.normal(size=(90, 3)).astype(np.float32)
    kept = {"layers": ["doubled"], "obsm": ["X_pca"]}
    store = dao.write_dataset(tmp_path / "s", adata, dataset="a", progress=False, **kept)
    batches = store.scan().dao.iter_batches(
        16, shuffle=True, seed=0, layers=["doubled"], obsm="X_pca", transform=lambda b: b
    )
    n = 0
    for batch in batches:
        rows = [int(name) for name in batch.obs["obs_name"]]
        np.testing.assert_array_equal(batch.x.toarray(), adata.X[rows].toarray())
        np.testing.assert_array_equal(
            batch.layers["doubled"].toarray(), adata.X[rows].toarray() * 2
        )
        np.testing.assert_array_equal(batch.obsm["X_pca"], adata.obsm["X_pca"][rows])
        n += len(batch)
    assert n == 90
    assert list(store.scan().dao.iter_batches(50, transform=len)) == [50, 40]
