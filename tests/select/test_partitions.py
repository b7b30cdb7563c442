"""Pieces of a selection: which rows each has, what they cost, what they read and pickle to."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dao_polars as dao
from dao_polars.scan import source
from tests.conftest import study


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Datasets of very different depth and size, one of them in two parts."""
    uri = tmp_path_factory.mktemp("uneven") / "store"
    genes = [f"g{i}" for i in range(400)]
    for i, (n, density) in enumerate([(300, 0.9), (1000, 0.02), (40, 0.5), (700, 0.3)]):
        dao.write_dataset(uri, study(i, n, genes, density=density), dataset=f"d{i}", progress=False)
    more = study(9, 150, genes, density=0.6)
    return dao.write_dataset(uri, more, dataset="d0", mode="append", progress=False)


def keys(frame: pl.LazyFrame) -> np.ndarray:
    return frame.select(pl.col("cell").ext.storage()).collect()["cell"].to_numpy()


def costs(store: dao.Store, pieces: list[pl.LazyFrame]) -> tuple[np.ndarray, np.ndarray]:
    """The cells and the stored values of each piece, as AnnData has them."""
    x = [piece.dao.to_anndata().X for piece in pieces]
    return np.array([m.shape[0] for m in x]), np.array([m.nnz for m in x])


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20])
def test_pieces_are_the_selection_and_cost_alike(uneven, n):
    lf = uneven.scan().filter(pl.col("score") < 0.9)
    pieces = lf.dao.partitions(n)
    assert len(pieces) == n
    assert all(isinstance(piece, pl.LazyFrame) for piece in pieces)
    rows = [piece.collect() for piece in pieces]
    whole = lf.collect()
    assert pl.concat(rows).sort("obs_name").equals(whole.sort("obs_name"))
    n_cells, nnz = costs(uneven, pieces)
    cost = nnz + 512 * n_cells
    assert np.ptp(cost) <= 0.2 * cost.mean() + 2 * (512 + 400)
    ranges = [np.sort(keys(piece)) for piece in pieces]
    assert all(a[-1] < b[0] for a, b in itertools.pairwise(ranges))


def test_cuts_fall_between_datasets_that_are_near(tmp_path):
    genes = [f"g{i}" for i in range(50)]
    for i in range(4):
        one = study(i, 250 + i, genes)
        store = dao.write_dataset(tmp_path / "s", one, dataset=f"d{i}", progress=False)
    found = [p.collect()["dataset"].unique().to_list() for p in store.scan().dao.partitions(4)]
    assert [len(names) for names in found] == [1, 1, 1, 1]


@given(n=st.integers(1, 12), data=st.data())
def test_any_rows_in_any_order_are_each_in_one_piece(mixed, n, data):
    frame = mixed[0].scan().collect()
    rows = data.draw(st.lists(st.integers(0, frame.height - 1), max_size=60))
    chosen = frame[rows].with_columns(at=pl.Series(range(len(rows)), dtype=pl.Int64))
    pieces = [p.collect() for p in chosen.dao.partitions(n)]
    assert len(pieces) == n
    together = pl.concat(pieces)
    assert sorted(together["at"]) == list(range(len(rows)))
    assert together.sort("at").equals(chosen)
    assert all(piece["at"].is_sorted() for piece in pieces)  # each in the frame's order


def test_a_piece_reads_its_own_datasets_alone(uneven, monkeypatch):
    read = []

    def plan(*arguments):
        made = make_plan(*arguments)
        read.append({part.name for group in made.groups for part in group.parts})
        return made

    make_plan = source.make_plan
    monkeypatch.setattr(source, "make_plan", plan)
    pieces = uneven.scan().dao.partitions(5)
    read.clear()
    for piece in pieces:
        names = set(piece.select("dataset").collect()["dataset"])
        assert read.pop() == names


def test_pieces_pickle_small_and_run_elsewhere(uneven, tmp_path):
    lf = uneven.scan().filter(pl.col("score") > 0.5)
    pieces = lf.dao.partitions(6)
    for at, piece in enumerate(pieces):
        pickled = pickle.dumps(piece)
        assert len(pickled) < 60_000  # the schema and the parts, no cells
        (tmp_path / str(at)).write_bytes(pickled)
    code = (
        "import pickle, sys, dao_polars\n"
        "for path in sys.argv[1:]:\n"
        "    adata = pickle.load(open(path, 'rb')).dao.to_anndata()\n"
        "    print(adata.n_obs, int(adata.X.sum(dtype='f8')))\n"
    )
    paths = [str(tmp_path / str(at)) for at in range(6)]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sums = np.array([line.split() for line in done.stdout.splitlines()], dtype=np.int64)
    whole = lf.dao.to_anndata()
    assert sums.sum(axis=0).tolist() == [whole.n_obs, int(whole.X.sum(dtype="f8"))]


def test_cells_of_several_stores_are_cut_too(uneven, mixed):
    lf = dao.scan([uneven.uri, mixed[0].uri])
    pieces = lf.dao.partitions(3)
    assert np.array_equal(
        np.sort(np.concatenate([keys(piece) for piece in pieces])), np.sort(keys(lf))
    )


def test_a_piece_stays_in_its_version(tmp_path):
    store = dao.write_dataset(tmp_path / "s", study(1, 90, ["a", "b"]), dataset="x", progress=False)
    pieces = store.scan().dao.partitions(2)
    store.remove_dataset("x")
    assert sum(piece.collect().height for piece in pieces) == 90
    assert sum(piece.dao.to_anndata().n_obs for piece in pieces) == 90


def test_few_cells_leave_empty_pieces(mixed):
    pieces = mixed[0].scan().head(2).dao.partitions(5)
    assert sorted(piece.collect().height for piece in pieces) == [0, 0, 0, 1, 1]
    none = mixed[0].scan().filter(pl.lit(False)).dao.partitions(3)
    assert [piece.collect().height for piece in none] == [0, 0, 0]


def test_what_is_wrong_is_said(mixed):
    lf = mixed[0].scan()
    with pytest.raises(dao.DaoValueError, match="n=0; expected an integer of at least 1"):
        lf.dao.partitions(0)
    with pytest.raises(dao.DaoTypeError, match="n='2'"):
        lf.dao.partitions("2")
    with pytest.raises(dao.DaoValueError, match="cell"):
        lf.select("dataset").dao.partitions(2)
