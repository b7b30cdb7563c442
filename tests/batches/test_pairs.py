"""Control cells beside each batch: of the same group, of the right values, the same everywhere."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dao_polars as dao
from tests.conftest import study

BY = ["line", "batch"]


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """A screen: three datasets, cells that are treated or controls, of lines and batches."""
    uri = tmp_path_factory.mktemp("screen") / "store"
    for i, n in enumerate([300, 170, 91]):
        one = study(i, n, [f"g{j}" for j in range(25)])
        one.layers["half"] = one.X.copy() / 2
        rng = np.random.default_rng(i)
        one.obs["line"] = rng.choice(["K562", "RPE1", "HeLa"], n)
        one.obs["batch"] = rng.integers(0, 3, n)
        one.obs["treated"] = rng.random(n) < 0.7
        store = dao.write_dataset(uri, one, dataset=f"d{i}", layers=True, progress=False)
    return store


@pytest.fixture(scope="module")
def halves(screen):
    lf = screen.scan()
    return lf.filter(pl.col("treated")), lf.filter(~pl.col("treated"))


def keys(series: pl.Series) -> list[int]:
    return series.ext.storage().to_list()


def pairs(batches) -> list[tuple[int, int]]:
    """The cells of an epoch and their controls."""
    return [
        pair
        for batch in batches
        for pair in zip(keys(batch.cells), keys(batch.pair.cells), strict=True)
    ]


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"shuffle": "block", "block_size": 9}])
def test_each_cell_has_a_control_of_its_group(screen, halves, options):
    treated, controls = halves
    batches = treated.dao.iter_batches(
        32, pair_with=controls, pair_by=BY, layers="half", seed=3, **options
    )
    whole = screen.scan().collect()
    at = {key: i for i, key in enumerate(keys(whole["cell"]))}
    adata = whole.dao.to_anndata(layers="half")
    seen = []
    for batch in batches:
        assert isinstance(batch.pair, dao.Batch)
        assert len(batch.pair) == len(batch)
        assert not batch.pair.obs["treated"].any()
        assert batch.pair.obs.select(BY).equals(batch.obs.select(BY))
        for part in (batch, batch.pair):
            rows = [at[key] for key in keys(part.cells)]
            assert (part.x != adata.X[rows]).nnz == 0
            assert (part.layers["half"] != adata.layers["half"][rows]).nnz == 0
            assert part.obs["obs_name"].to_list() == whole["obs_name"][rows].to_list()
        seen += keys(batch.cells)
    assert sorted(seen) == sorted(keys(treated.collect()["cell"]))


def test_all_controls_of_a_group_are_as_likely(halves):
    treated, controls = halves
    batches = treated.dao.iter_batches(64, pair_with=controls, pair_by=BY, seed=1, shuffle=True)
    drawn = [pairs(batches) for _ in range(60)]
    assert len({tuple(sorted(epoch)) for epoch in drawn}) == 60  # epochs differ
    counts = pl.DataFrame({"control": [c for epoch in drawn for _, c in epoch]})
    counts = counts.group_by("control").len()
    table = controls.select(*BY, control=pl.col("cell").ext.storage()).collect()
    table = table.join(counts, on="control", how="left").fill_null(0)
    wanted = pl.col("len").sum().over(BY) / pl.len().over(BY)
    chi = table.select(((pl.col("len") - wanted) ** 2 / wanted).sum()).item()
    free = table.height - table.select(BY).n_unique()
    assert abs(chi - free) < 5 * (2 * free) ** 0.5
    assert table["len"].min() > 0


def test_draws_are_what_is_written_down(halves):
    """The draws in words: SplitMix64's finisher of the seed, the epoch and the row."""
    treated, controls = halves
    batches = treated.dao.iter_batches(64, pair_with=controls, pair_by=BY, seed=77)
    list(batches)
    found = dict(pairs(batches))  # of epoch 1
    mask = (1 << 64) - 1
    frame, others = treated.collect(), controls.collect()
    for row, (key, line, batch) in enumerate(
        zip(keys(frame["cell"]), frame["line"], frame["batch"], strict=True)
    ):
        state = 77
        for number in (1, row):
            state = (state + number * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & mask
            state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
            state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
            state ^= state >> 31
        group = others.filter(pl.col("line").cast(pl.String) == line, pl.col("batch") == batch)
        place = ((state >> 32) * group.height) >> 32
        assert found[key] == keys(group["cell"])[place]


@given(
    world=st.integers(1, 4),
    batch=st.integers(1, 60),
    threads=st.integers(1, 4),
    shuffle=st.sampled_from([False, True, "block"]),
    budget=st.sampled_from([0, 1 << 16, 1 << 27]),
)
def test_ranks_threads_and_batches_change_no_pair(halves, world, batch, threads, shuffle, budget):
    treated, controls = halves
    options = {"pair_with": controls, "pair_by": BY, "seed": 5}
    wanted = sorted(pairs(treated.dao.iter_batches(100, **options)))
    found = [
        pair
        for rank in range(world)
        for pair in pairs(
            treated.dao.iter_batches(
                batch,
                rank=rank,
                world_size=world,
                num_threads=threads,
                shuffle=shuffle,
                prefetch_bytes=budget,
                **options,
            )
        )
    ]
    assert sorted(set(found)) == wanted  # a cell comes twice where ranks outnumber what is left


def test_an_epoch_goes_on_where_it_was(halves):
    treated, controls = halves

    def loader(**options):
        return treated.dao.iter_batches(
            16, shuffle=True, pair_with=controls, pair_by=BY, **{"seed": 9} | options
        )

    batches = loader()
    whole = [pairs([batch]) for batch in batches] + [pairs([batch]) for batch in batches]
    batches = loader()
    epoch = iter(batches)
    first = [pairs([batch]) for batch in itertools.islice(epoch, 5)]
    state = batches.state_dict()
    again = loader(seed=None)
    again.load_state_dict(state)
    rest = [pairs([batch]) for batch in again] + [pairs([batch]) for batch in again]
    assert first + rest == whole
    for other in (
        treated.dao.iter_batches(16, shuffle=True, pair_with=controls, pair_by="line", seed=9),
        treated.dao.iter_batches(
            16, shuffle=True, pair_with=controls.head(100), pair_by="line", seed=9
        ),
        treated.dao.iter_batches(16, shuffle=True, seed=9),
    ):
        with pytest.raises(dao.DaoValueError):
            other.load_state_dict(state)


def test_it_pickles(halves):
    treated, controls = halves
    batches = treated.dao.iter_batches(64, pair_with=controls, pair_by=BY)
    copy = pickle.loads(pickle.dumps(batches))
    assert pairs(copy) == pairs(batches)


def test_controls_of_another_store(screen, halves, tmp_path):
    treated, controls = halves
    other = controls.dao.write_dataset(tmp_path / "other", dataset="controls", progress=False)
    batches = treated.dao.iter_batches(
        64,
        pair_with=other.scan().collect(),
        pair_by=BY,
        seed=2,
        obs=["line", "batch"],
        layout="dense",
    )
    adata = other.scan().dao.to_anndata()
    at = {key: i for i, key in enumerate(keys(other.scan().collect()["cell"]))}
    for batch in batches:
        assert batch.pair.obs.columns == ["line", "batch"]
        assert batch.pair.obs["line"].cast(pl.String).equals(batch.obs["line"].cast(pl.String))
        rows = [at[key] for key in keys(batch.pair.cells)]
        assert np.array_equal(batch.pair.x, adata.X[rows].toarray())


@pytest.mark.parametrize("genes", [["g7", "x", "g3"], "intersection", "union"])
def test_both_have_the_same_genes(mixed, genes):
    lf = mixed[0].scan()
    cells, controls = lf.filter(pl.col("dataset") != "c"), lf.filter(pl.col("dataset") == "c")
    batches = cells.dao.iter_batches(
        20, pair_with=controls, pair_by="cell_type", unpaired="drop", genes=genes, seed=1
    )
    names = batches.genes.to_list()
    frame = controls.collect()
    adata = frame.dao.to_anndata(genes=names)
    at = {key: i for i, key in enumerate(keys(frame["cell"]))}
    for batch in batches:
        assert batch.x.shape[1] == batch.pair.x.shape[1] == len(names)
        rows = [at[key] for key in keys(batch.pair.cells)]
        assert (batch.pair.x != adata.X[rows]).nnz == 0
    expected = {"intersection": {"g7", "g19"}, "union": {f"g{i}" for i in range(30)} | {"x", "y"}}
    if isinstance(genes, str):
        assert set(names) == expected[genes]


def test_cells_without_controls(halves):
    treated, controls = halves
    few = controls.filter(pl.col("line") != "HeLa")
    n = treated.filter(pl.col("line") == "HeLa").collect().height
    with pytest.raises(dao.DaoValueError, match=rf"{n} of \d+ cells have no control .*HeLa"):
        treated.dao.iter_batches(8, pair_with=few, pair_by=BY)
    left = treated.dao.iter_batches(8, pair_with=few, pair_by=BY, unpaired="drop", seed=0)
    found = pl.concat(batch.obs for batch in left)
    assert found.equals(treated.filter(pl.col("line") != "HeLa").drop("cell").collect())
    # Null is no group, of cells and of controls.
    lost = treated.with_columns(line=pl.when(pl.col("batch") > 0).then("line"))
    both = controls.with_columns(line=pl.when(pl.col("batch") > 0).then("line"))
    some = lost.dao.iter_batches(8, pair_with=both, pair_by="line", unpaired="drop", seed=0)
    assert some.n_obs == treated.filter(pl.col("batch") > 0).collect().height
    assert all(batch.pair.obs["batch"].min() > 0 for batch in some)


def test_what_is_wrong_is_said(halves, mixed):
    treated, controls = halves
    iterate = treated.dao.iter_batches
    with pytest.raises(dao.DaoValueError, match="go together"):
        iterate(8, pair_by="line")
    with pytest.raises(dao.DaoValueError, match="go together"):
        iterate(8, pair_with=controls)
    with pytest.raises(dao.DaoTypeError, match="pair_with=3"):
        iterate(8, pair_with=3, pair_by="line")
    with pytest.raises(dao.DaoKeyError, match="pair_by='nope'"):
        iterate(8, pair_with=controls, pair_by="nope")
    with pytest.raises(dao.DaoValueError, match=r"pair_by=\[\] names no column"):
        iterate(8, pair_with=controls, pair_by=[])
    with pytest.raises(dao.DaoValueError, match="pair_with= has no cells"):
        iterate(8, pair_with=controls.filter(pl.lit(False)), pair_by="line")
    with pytest.raises(dao.DaoValueError, match="unpaired='no'"):
        iterate(8, pair_with=controls, pair_by="line", unpaired="no")
    with pytest.raises(dao.DaoTypeError, match="of type Int64 with one of type String"):
        iterate(8, pair_with=controls.with_columns(batch=pl.lit("0")), pair_by="batch")
    with pytest.raises(dao.DaoValueError, match="another feature space"):
        iterate(8, pair_with=mixed[0].scan().filter(pl.col("dataset") == "a"), pair_by="cell_type")
    with pytest.raises(dao.DaoValueError, match="no seed="):
        len(iterate(8, pair_with=controls, pair_by="line", rank=0, world_size=2))
