"""Splits and subsamples: hashes that stay, groups kept together, shares as asked for."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import dao_polars as dao
from tests.conftest import study

THREE = {"train": 0.8, "val": 0.1, "test": 0.1}


@pytest.fixture(scope="module")
def cells(real_store) -> pl.LazyFrame:
    return real_store.scan()


def keys(frame: pl.LazyFrame | pl.DataFrame) -> set[int]:
    return set(frame.lazy().select(pl.col("cell").ext.storage()).collect().to_series())


@given(seed=st.integers(0, 2**64 - 1))
def test_every_cell_is_in_one_part(cells, seed):
    parts = {name: keys(part) for name, part in cells.dao.split(THREE, seed=seed).items()}
    assert list(parts) == list(THREE)
    assert set().union(*parts.values()) == keys(cells)
    assert sum(map(len, parts.values())) == len(keys(cells))


def test_shares_are_met_up_to_chance(cells):
    n = len(keys(cells))
    sizes = [len(keys(part)) for part in cells.dao.split(THREE).values()]
    assert stats.chisquare(sizes, [n * f for f in THREE.values()]).pvalue > 1e-3
    rest = cells.dao.split({"a": 0.25, "b": 0.5})
    sizes = [len(keys(part)) for part in rest.values()]
    sizes.append(n - sum(sizes))
    assert stats.chisquare(sizes, [n / 4, n / 2, n / 4]).pvalue > 1e-3


def test_parts_are_lazy_and_pushed_down(cells):
    part = cells.dao.split(THREE, by="dataset", seed=1)["train"]
    assert isinstance(part, pl.LazyFrame)
    plan = part.explain()
    assert "SELECTION" in plan
    assert "FILTER" not in plan
    assert part.collect().equals(part.collect(engine="streaming"))


@pytest.mark.parametrize("by", ["cell_type", ["dataset", "cell_type"], "dataset"])
def test_groups_stay_together(cells, by):
    names = [by] if isinstance(by, str) else by
    seen = {}
    for seed in range(5):
        parts = cells.dao.split(THREE, by=by, seed=seed)
        groups = [part.select(names).unique().collect().rows() for part in parts.values()]
        flat = [group for some in groups for group in some]
        assert len(flat) == len(set(flat)) == cells.select(names).unique().collect().height
        assert sum(len(keys(part)) for part in parts.values()) == len(keys(cells))
        seen[seed] = groups
    assert len({str(groups) for groups in seen.values()}) > 1


def test_many_groups_have_their_shares(cells):
    groups = cells.select("obs_name").unique().collect().height
    parts = cells.dao.split(THREE, by="obs_name", seed=3)
    sizes = [part.select("obs_name").unique().collect().height for part in parts.values()]
    assert sum(sizes) == groups
    assert stats.chisquare(sizes, [groups * f for f in THREE.values()]).pvalue > 1e-3


def test_cells_stay_where_they_were_when_the_store_grows_and_whatever_is_selected(tmp_path):
    genes = [f"g{i}" for i in range(4)]
    store = dao.write_dataset(tmp_path / "s", study(1, 300, genes), dataset="a", progress=False)
    by_cell = {name: keys(part) for name, part in store.scan().dao.split(THREE).items()}
    by_type = {n: keys(p) for n, p in store.scan().dao.split(THREE, by="cell_type").items()}
    store = dao.write_dataset(tmp_path / "s", study(2, 200, genes), dataset="b", progress=False)
    grown = store.scan()
    old = keys(grown.filter(pl.col("dataset") == "a"))
    for name in THREE:
        assert keys(grown.dao.split(THREE)[name]) & old == by_cell[name]
        assert keys(grown.dao.split(THREE, by="cell_type")[name]) & old == by_type[name]
        some = grown.filter(pl.col("score") > 0.5)
        assert keys(some.dao.split(THREE)[name]) <= keys(grown.dao.split(THREE)[name])


def test_the_hash_is_the_same_everywhere():
    """As splitmix64 is written down, in Python's integers; and pinned."""
    from dao_polars.select.splits import _digest, cell_hash

    mask = 2**64 - 1

    def mix(key: int) -> int:
        z = ((key ^ _digest(7, "cell")) + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    values = [0, 1, 2**32, 2**63 + 5, mask]
    from dao_polars.scan.cell import Cell

    column = pl.Series("cell", values, pl.UInt64).ext.to(Cell("somewhere", "id"))
    frame = pl.DataFrame([column])
    found = frame.select(cell_hash(7, as_integer=True)).to_series().to_list()
    assert found == [mix(value) for value in values]
    assert frame.select(cell_hash(7)).to_series().to_list() == [(v >> 11) / 2**53 for v in found]
    assert _digest(7, "cell") == PINNED
    assert _digest(0, None, "é", 1.5, True) == PINNED_GROUP


PINNED = 8084756898057177234
PINNED_GROUP = 4315998366237761682


def test_another_process_splits_alike(real_store):
    code = (
        "import sys, dao_polars as dao\n"
        "lf = dao.scan(sys.argv[1]).dao.split({'a': .3, 'b': .7}, by='cell_type', seed=5)['a']\n"
        "print(sorted(lf.collect()['cell_type'].unique().drop_nulls()))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, real_store.uri], capture_output=True, text=True, check=True
    )
    here = real_store.scan().dao.split({"a": 0.3, "b": 0.7}, by="cell_type", seed=5)["a"]
    assert out.stdout.strip() == str(sorted(here.collect()["cell_type"].unique().drop_nulls()))


def test_a_part_that_lacks_a_value_is_told(cells):
    with pytest.warns(UserWarning, match="has no cells of cell_type"):
        cells.dao.split({"train": 0.999, "val": 0.001}, stratify="cell_type")
    common = cells.filter(pl.col("cell_type").is_in(["alpha", "beta"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts = common.dao.split({"train": 0.5, "val": 0.5}, stratify="cell_type")
    whole = dict(common.collect()["cell_type"].value_counts().iter_rows())
    for part in parts.values():
        for name, count in part.collect()["cell_type"].value_counts().iter_rows():
            assert stats.binomtest(count, whole[name], 0.5).pvalue > 1e-3


@pytest.mark.parametrize("n", [0, 1, 25, 10**6])
def test_a_sample_has_at_most_so_many_of_each_group(cells, n):
    part = cells.dao.sample(n, by=["dataset", "cell_type"], seed=1)
    assert isinstance(part, pl.LazyFrame)
    found = {
        tuple(row[:2]): row[2]
        for row in part.group_by("dataset", "cell_type").len().collect().rows()
    }
    whole = cells.group_by("dataset", "cell_type").len().collect().rows()
    assert found == {(d, t): min(n, count) for d, t, count in whole if min(n, count)}
    order = part.select(pl.col("cell").ext.storage()).collect().to_series().to_list()
    assert order == sorted(order)


def test_samples_are_random_and_stay(cells):
    one = keys(cells.dao.sample(30, by="cell_type", seed=1))
    assert one == keys(cells.dao.sample(30, by="cell_type", seed=1))
    assert one != keys(cells.dao.sample(30, by="cell_type", seed=2))
    assert one <= keys(cells.dao.sample(60, by="cell_type", seed=1))
    # each cell of a group is as likely
    group = cells.filter(pl.col("cell_type") == "delta").collect()
    times = np.zeros(group.height)
    place = {key: i for i, key in enumerate(group["cell"].ext.storage())}
    for seed in range(400):
        for key in keys(group.lazy().dao.sample(10, by="cell_type", seed=seed)):
            times[place[key]] += 1
    expected = times.sum() / group.height
    # draws within a seed exclude each other, so that counts vary less than chi-square has it
    assert stats.chisquare(times, np.full(group.height, expected)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda f: f.dao.split({}), dao.DaoTypeError, "dict of split"),
        (lambda f: f.dao.split({"a": 0.7, "b": 0.7}), dao.DaoValueError, "add up to 1.4"),
        (lambda f: f.dao.split({"a": "x"}), dao.DaoTypeError, "expected a number"),
        (lambda f: f.dao.split({"a": -0.5}), dao.DaoValueError, "0 to 1"),
        (lambda f: f.dao.split({"a": 1}, by="no"), dao.DaoKeyError, "by='no'"),
        (lambda f: f.dao.split({"a": 1}, stratify="no"), dao.DaoKeyError, "stratify='no'"),
        (lambda f: f.drop("cell").dao.split({"a": 1}), dao.DaoValueError, "cell"),
        (lambda f: f.dao.sample(-1, by="cell_type"), dao.DaoValueError, "at least 0"),
        (lambda f: f.dao.sample(1, by=[]), dao.DaoValueError, "names no column"),
        (lambda f: f.dao.split({"a": 1}, seed=-1), dao.DaoValueError, "seed"),
    ],
)
def test_bad_arguments_are_told(cells, call, error, match):
    with pytest.raises(error, match=match):
        call(cells)


def test_a_part_without_groups_is_told(cells):
    """Few groups may all fall to one part."""
    with pytest.warns(UserWarning, match="split 'test' has no cells: none of the 1 values of one"):
        parts = cells.with_columns(one=1).dao.split({"train": 0.999, "test": 0.001}, by="one")
    assert parts["test"].collect().is_empty()
