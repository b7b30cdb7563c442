"""What an epoch visits: drawn, balanced, grouped, in blocks; against counting and chi-square."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import dao_polars as dao


def visited(batches: dao.BatchIterable) -> list[np.ndarray]:
    """The cell keys of each batch of an epoch."""
    return [batch.cells.ext.storage().to_numpy() for batch in batches]


def loader(frame: pl.DataFrame, batch_size: int, **options) -> dao.BatchIterable:
    return frame.dao.iter_batches(batch_size, genes="union", **options)


def frame_keys(frame: pl.LazyFrame | pl.DataFrame) -> np.ndarray:
    return frame.lazy().select(pl.col("cell").ext.storage()).collect().to_series().to_numpy()


@pytest.fixture(scope="module")
def cells(real_store) -> pl.DataFrame:
    """Cells of two studies with few and many cells of a type."""
    lf = real_store.scan().filter(pl.col("dataset").is_in(["pancreas_human", "pancreas_mouse"]))
    return lf.select("cell", "dataset", "cell_type").collect()


def test_every_class_is_as_likely_over_any_filter(cells):
    some = cells.filter(pl.col("cell_type").is_in(["alpha", "beta", "ductal", "acinar"])).sample(
        fraction=0.7, shuffle=True, seed=3
    )
    batches = loader(some, 500, balance="cell_type", n_samples=20_000, seed=1)
    assert len(batches) == 40
    counts = pl.concat(b.obs for b in batches)["cell_type"].value_counts()["count"].to_numpy()
    assert stats.chisquare(counts).pvalue > 1e-3
    # within a class, each of its cells
    alpha = frame_keys(some.filter(pl.col("cell_type") == "alpha"))
    drawn = np.concatenate(visited(batches))
    drawn = drawn[np.isin(drawn, alpha)]
    observed = np.bincount(np.searchsorted(np.sort(alpha), drawn), minlength=len(alpha))
    assert stats.chisquare(observed).pvalue > 1e-3


def test_classes_are_as_likely_as_they_are_said_to_be(cells):
    some = cells.filter(pl.col("cell_type").is_in(["alpha", "beta", "ductal"]))
    wanted = {"alpha": 3, "beta": 1, "ductal": 0}
    batches = loader(some, 1000, balance="cell_type", class_weights=wanted, n_samples=8000, seed=2)
    counts = dict(pl.concat(b.obs for b in batches)["cell_type"].value_counts().iter_rows())
    assert set(counts) == {"alpha", "beta"}
    assert stats.chisquare([counts["alpha"], counts["beta"]], [6000, 2000]).pvalue > 1e-3


def test_weights_are_a_column_or_an_expression_over_columns_that_need_not_be_in_obs(cells):
    weight = pl.when(pl.col("dataset") == "pancreas_human").then(2.0).otherwise(1.0)
    batches = loader(cells, 1000, weights=weight, obs=["cell_type"], n_samples=12_000, seed=5)
    assert batches.n_obs == cells.height
    drawn = np.concatenate(visited(batches))
    human = frame_keys(cells.filter(pl.col("dataset") == "pancreas_human"))
    n_human, n_mouse = len(human), cells.height - len(human)
    of_human = int(np.isin(drawn, human).sum())
    expected = 12_000 * 2 * n_human / (2 * n_human + n_mouse)
    assert (
        stats.chisquare([of_human, 12_000 - of_human], [expected, 12_000 - expected]).pvalue > 1e-3
    )
    by_column = loader(
        cells.with_columns(w=weight), 1000, weights="w", obs=["cell_type"], n_samples=12_000, seed=5
    )
    assert next(iter(by_column)).obs.columns == ["cell_type"]
    by_column.set_epoch(0)
    np.testing.assert_array_equal(np.concatenate(visited(by_column)), drawn)


@given(seed=st.integers(0, 2**64 - 1), n=st.integers(0, 30), replacement=st.booleans())
def test_draws_keep_to_cells_that_have_a_weight(cells, seed, n, replacement):
    some = cells.head(40).with_columns(w=pl.int_range(pl.len()) % 3)
    batches = loader(some, 7, weights="w", n_samples=min(n, 26), replacement=replacement, seed=seed)
    drawn = np.concatenate([*visited(batches), np.empty(0, np.uint64)])
    assert len(drawn) == min(n, 26)
    assert set(drawn) <= set(frame_keys(some.filter(pl.col("w") > 0)))
    assert replacement or len(set(drawn)) == len(drawn)


def test_without_replacement_an_epoch_has_every_weighted_cell_once(cells):
    some = cells.head(300).with_columns(w=pl.int_range(pl.len()).cast(pl.Float64))
    batches = loader(some, 64, weights="w", replacement=False, seed=0)
    drawn = np.concatenate(visited(batches))
    np.testing.assert_array_equal(np.sort(drawn), np.sort(frame_keys(some)[1:]))
    # heavy ones come early
    weight = dict(zip(frame_keys(some), range(300), strict=True))
    places = [weight[key] for key in drawn]
    assert np.mean(places[:100]) > np.mean(places[200:]) + 50


def test_a_part_of_a_permutation_is_drawn(cells):
    batches = loader(cells, 50, n_samples=120, seed=4)
    first, second = visited(batches), visited(batches)
    assert [len(b) for b in first] == [50, 50, 20]
    assert len(np.unique(np.concatenate(first))) == 120
    assert set(np.concatenate(first)) != set(np.concatenate(second))


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_batch_is_of_one_group(cells, shuffle):
    batches = loader(cells, 64, group_by="cell_type", shuffle=shuffle, seed=8)
    groups = [batch.obs["cell_type"].unique().to_list() for batch in batches]
    assert all(len(group) == 1 for group in groups)
    assert len(groups) == len(batches)
    keys = np.concatenate(visited(batches))
    np.testing.assert_array_equal(np.sort(keys), np.sort(frame_keys(cells)))
    order = [group[0] for group in groups]
    runs = 1 + sum(a != b for a, b in itertools.pairwise(order))
    assert (runs > len(set(order))) == shuffle
    sizes = dict(cells["cell_type"].value_counts().iter_rows())
    assert len(groups) == sum(-(-size // 64) for size in sizes.values())
    whole = loader(cells, 64, group_by="cell_type", shuffle=shuffle, drop_last=True, seed=8)
    assert [len(batch) for batch in whole] == [64] * sum(size // 64 for size in sizes.values())


def test_groups_are_of_several_columns_and_of_nulls(cells):
    some = cells.with_columns(
        t=pl.when(pl.col("cell_type") == "beta").then(None).otherwise(pl.col("cell_type"))
    )
    batches = loader(some, 1000, group_by=["dataset", "t"], shuffle=True, seed=0)
    seen = [batch.obs.select("dataset", "t").unique() for batch in batches]
    assert all(groups.height == 1 for groups in seen)
    expected = some.select("dataset", "t").unique()
    assert pl.concat(seen).unique().height == expected.height


def test_blocks_keep_neighbours_near(cells):
    batches = loader(cells, 128, shuffle="block", block_size=16, window=8, seed=6)
    place = {key: i for i, key in enumerate(frame_keys(cells))}
    for keys in visited(batches)[:-1]:
        blocks = {place[key] // 16 for key in keys}
        assert len(blocks) <= 17
        assert [place[key] for key in keys] != sorted(place[key] for key in keys)
    keys = np.concatenate(visited(batches))
    np.testing.assert_array_equal(np.sort(keys), np.sort(frame_keys(cells)))


def test_diversity_tells_how_mixed_batches_are(cells):
    ordered = cells.sort("cell_type")
    options = {"shuffle": True, "seed": 0}
    whole = loader(ordered, 256, **options).batch_diversity("cell_type")
    blocks = loader(
        ordered, 256, **options | {"shuffle": "block"}, block_size=64, window=4
    ).batch_diversity("cell_type")
    sorted_ = loader(ordered, 256).batch_diversity("cell_type")
    assert 0.9 < whole <= 1.0
    assert sorted_ < blocks < whole

    # as numpy and scipy compute it
    batches = loader(ordered, 256, shuffle="block", block_size=64, window=4, seed=0)
    expected = np.mean(
        [stats.entropy(batch.obs["cell_type"].value_counts()["count"]) for batch in batches]
    ) / stats.entropy(ordered["cell_type"].value_counts()["count"])
    batches.set_epoch(0)
    assert batches.batch_diversity("cell_type") == pytest.approx(expected)
    assert batches.batch_diversity(pl.col("cell_type") == "no such") == 1.0
    with pytest.raises(dao.DaoKeyError, match="no_column"):
        batches.batch_diversity("no_column")


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"weights": "no"}, dao.DaoKeyError, "weights='no' is no column"),
        ({"weights": "cell_type"}, dao.DaoTypeError, "expected numbers"),
        ({"weights": pl.lit(-1.0)}, dao.DaoValueError, "weight of row 0 is -1"),
        ({"weights": pl.lit(None, pl.Float64)}, dao.DaoValueError, "none of them null"),
        ({"weights": pl.lit(1.0), "balance": "cell_type"}, dao.DaoValueError, "give one"),
        ({"weights": pl.lit(0.0)}, dao.DaoValueError, "nothing to draw"),
        ({"weights": pl.col("cell_type", "dataset")}, dao.DaoValueError, "several columns"),
        ({"group_by": pl.all()}, dao.DaoValueError, "several columns"),
        ({"block_size": -1}, dao.DaoValueError, "block_size"),
        ({"normalize": {}}, dao.DaoTypeError, "normalize"),
        ({"normalize": {"log1p": "no"}}, dao.DaoTypeError, "log1p"),
        ({"class_weights": {"a": 1}}, dao.DaoValueError, "balance="),
        ({"balance": "cell_type", "class_weights": {"a": 1}}, dao.DaoValueError, "'a'"),
        ({"n_samples": 10**6}, dao.DaoValueError, "cannot be drawn"),
        ({"n_samples": -1}, dao.DaoValueError, "at least 0"),
        ({"n_samples": 5, "shuffle": "block"}, dao.DaoValueError, "block"),
        ({"shuffle": "blocks"}, dao.DaoTypeError, "'block'"),
        ({"shuffle": "block", "block_size": 0}, dao.DaoValueError, "block_size"),
        ({"group_by": []}, dao.DaoValueError, "names no column"),
        ({"group_by": 3}, dao.DaoTypeError, "group_by"),
        ({"replacement": 1}, dao.DaoTypeError, "replacement"),
        ({"rank": 0}, dao.DaoValueError, "both or neither"),
        ({"rank": 2, "world_size": 2}, dao.DaoValueError, "rank"),
        ({"transform": 1}, dao.DaoTypeError, "transform"),
        ({"normalize": "log"}, dao.DaoValueError, "log1p_cp10k"),
        ({"normalize": "cp10k", "dtype": "int32"}, dao.DaoValueError, "integers"),
        ({"normalize": {"target_sum": 0}}, dao.DaoValueError, "above 0"),
        ({"obsm": "nothing"}, dao.DaoKeyError, "obsm 'nothing'"),
        ({"layers": "nothing"}, dao.DaoKeyError, "nothing"),
    ],
)
def test_bad_settings_are_told(cells, options, error, match):
    with pytest.raises(error, match=match):
        loader(cells, 10, **options)


def test_a_class_without_a_value_is_told(cells):
    some = cells.with_columns(t=pl.when(pl.col("dataset") == "pancreas_human").then(1))
    with pytest.raises(dao.DaoValueError, match="fill_null"):
        loader(some, 10, balance="t")
