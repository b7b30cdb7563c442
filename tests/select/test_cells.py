"""Which cells a frame selects: their keys are held against the store."""

import pickle

import numpy as np
import polars as pl
import pytest

import dao_polars as dao
from dao_polars._core import CellKeys
from dao_polars.scan.cell import cells, make_keys
from tests.conftest import study


def frame_of(store: dao.Store, *keys: int) -> pl.LazyFrame:
    column = cells(np.array(keys, np.uint64), store.scan().collect_schema()["cell"])
    return pl.DataFrame([column]).lazy()


def test_keys_that_the_store_does_not_have(mixed) -> None:
    store, _ = mixed
    (first, *_, last) = [make_keys(d.number, [0]).item() for d in store._core.parts]
    kept = frame_of(store, last + 10, first)
    assert kept.dao.iter_batches(genes=["g7"]).n_obs == 2
    lost = frame_of(store, last + 10, last + 11, first, last + 12)
    gone = frame_of(store, first, 77 << 32)
    for read in (
        lambda lf: lf.dao.iter_batches(genes=["g7"]),
        lambda lf: lf.dao.to_anndata(genes=["g7"]),
        lambda lf: lf.dao.pseudobulk(None, genes=["g7"]),
    ):
        with pytest.raises(
            dao.DaoValueError, match=r"2 of 4 keys .* in row 1, is cell 11 of .* has 11 cells"
        ):
            read(lost)
        with pytest.raises(
            dao.DaoValueError, match=r"1 of 2 keys .* number 77, which is not there"
        ):
            read(gone)


def test_keys_are_shared_and_cannot_be_changed() -> None:
    pieces = [np.array([3, 1], np.uint64), np.array([], np.uint64), np.arange(6, dtype=np.uint64)]
    keys = CellKeys([*pieces, pieces[2][::2]])  # one that is not contiguous
    expected = [3, 1, 0, 1, 2, 3, 4, 5, 0, 2, 4]
    array = keys.numpy()
    assert (len(keys), array.tolist(), array.dtype) == (11, expected, np.uint64)
    assert np.shares_memory(array, keys.numpy())
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    again = pickle.loads(pickle.dumps(keys))
    del keys
    assert array.tolist() == again.numpy().tolist() == expected
    assert CellKeys([]).numpy().tolist() == []


def test_keys_that_follow_each_other_are_held_as_runs() -> None:
    """As an array they are made anew, and the same."""
    first, second = (
        np.arange(5, 105, dtype=np.uint64),
        np.arange(2**32, 2**32 + 50, dtype=np.uint64),
    )
    expected = np.concatenate([first, second, first])
    keys = CellKeys([first, second, first])
    for found in (keys, pickle.loads(pickle.dumps(keys))):
        assert not np.shares_memory(found.numpy(), found.numpy())
        assert np.array_equal(found.numpy(), expected)
        assert not found.numpy().flags.writeable
        positions = np.array([249, 0, 99, 100, 149, 150], np.uint32)
        assert np.array_equal(found.take(positions), expected[positions])
        assert np.array_equal(found.slice(90, 160), expected[90:160])
    for wrong in (lambda: keys.take(np.array([250], np.uint32)), lambda: keys.slice(3, 251)):
        with pytest.raises(dao.DaoValueError, match="position"):
            wrong()


def test_another_store_is_not_called_a_missing_version(tmp_path):
    for name in ("one", "two"):
        store = dao.write_dataset(tmp_path / "a", study(1, 5, ["g"]), dataset=name)
    dao.write_dataset(tmp_path / "b", study(1, 5, ["g"]), dataset="one")
    with pytest.raises(dao.DaoValueError, match="the cells are of store"):
        store.scan().dao.iter_batches(store=tmp_path / "b")
