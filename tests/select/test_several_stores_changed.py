"""Cells of several stores that change, move, are of sfaira, or are others than was said."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

import dao_polars as dao
from tests.conftest import SFAIRA
from tests.several import PANEL, SHIFT, rows_of, values_of_each, write_pair

C = pl.col


def test_removed_cells_are_told_or_left_out(tmp_path: Path) -> None:
    uris = write_pair(tmp_path)
    frame = dao.scan(uris).select("cell", "obs_name").collect()
    b = dao.load_store(uris[1])
    b.remove_cells(b.scan().filter(dataset="heart_human").head(3))
    name = frame["obs_name"][900]
    with pytest.raises(dao.DaoValueError, match=r"3 of 1744 cells are no longer in stores") as e:
        frame.dao.iter_batches(genes=PANEL)
    assert f"{name!r} of dataset 'heart_human' (row 900)" in str(e.value)
    assert f"{uris[1]!r} (version 6)" in str(e.value)
    left = frame.dao.iter_batches(genes=PANEL, missing="drop")
    assert left.n_obs == 1741
    with pytest.raises(pl.exceptions.ComputeError, match="no longer in the store"):
        frame.select(dao.gene("INS"))
    a = dao.load_store(uris[0])
    a.remove_dataset("pbmc_human")
    with pytest.raises(dao.DaoValueError, match="503 of 1744 cells are no longer"):
        frame.dao.iter_batches(genes=PANEL)


def test_a_frame_keeps_the_versions_that_it_was_scanned_at(tmp_path: Path) -> None:
    uris = write_pair(tmp_path)
    old = dao.scan(uris, version=[1, 3])
    assert old.collect()["store"].value_counts().sort("store")["count"].to_list() == [500, 800]
    lf = dao.scan(uris)
    b = dao.load_store(uris[1])
    b.remove_cells(b.scan().filter(dataset="heart_human"))
    assert lf.dao.iter_batches(genes=PANEL).n_obs == 1744  # as scanned
    assert lf.dao.iter_batches(genes=PANEL).state_dict()["store_version"] == [2, 5]
    assert dao.scan(uris).dao.iter_batches(genes=PANEL).n_obs == 1544
    assert old.dao.to_anndata(genes=["B2M", "Gcg"], progress=False).n_obs == 1300
    with pytest.raises(dao.DaoKeyError, match="unknown gene 'INS'"):
        old.dao.iter_batches(genes=["INS"])  # of a dataset that came later
    saved = old.select("cell").collect()
    values = values_of_each(PANEL, *uris)[1]
    assert saved.dao.iter_batches(genes=["B2M"]).state_dict()["store_version"] == [1, 3]
    b2m = saved.select(dao.gene("B2M")).to_series().fill_null(0).to_numpy()
    assert np.array_equal(b2m[:500], values[:500, PANEL.index("B2M")])
    assert len(b2m) == 1300


def test_stores_that_moved_are_named(
    pair: tuple[str, str], expected: dict[int, np.ndarray], tmp_path: Path
) -> None:
    uris = [str(shutil.copytree(uri, tmp_path / Path(uri).name)) for uri in pair]
    frame = dao.scan(uris).select("cell").collect()
    moved = str(tmp_path / "moved")
    shutil.move(uris[1], moved)
    wanted = rows_of(frame, expected)
    with pytest.raises(dao.DaoFileNotFoundError, match="name its new place"):
        frame.dao.iter_batches(genes=PANEL)
    places = [uris[0], Path(moved)]
    for store in (places, dao.load_store(places)):
        found = frame.dao.to_anndata(genes=PANEL, store=store, progress=False)
        assert np.array_equal(found.X.toarray(), wanted)
        b2m = frame.select(dao.gene("B2M", store=store)).to_series().fill_null(0)
        assert np.array_equal(b2m.to_numpy(), wanted[:, PANEL.index("B2M")])
    for store in (places[::-1], [moved, uris[0]]):
        with pytest.raises(dao.DaoValueError, match="the cells are of store"):
            frame.dao.iter_batches(genes=PANEL, store=store)
        with pytest.raises(pl.exceptions.ComputeError, match="the cells are of store"):
            frame.select(dao.gene("B2M", store=store))
    for store in (uris[0], dao.load_store(uris[0]), [uris[0]]):
        with pytest.raises(dao.DaoValueError, match=r"of 2 stores.*expected 2 stores, found 1"):
            frame.dao.iter_batches(genes=PANEL, store=store)
    with pytest.raises(pl.exceptions.ComputeError, match=r"of 2 stores.*load_store\(\["):
        frame.select(dao.gene("B2M", store=moved))


def test_cells_of_others_are_refused(pair: tuple[str, str]) -> None:
    a, b = (dao.load_store(uri) for uri in pair)
    both = dao.load_store(pair)
    frame = both.scan().filter(C("store") == pair[0]).select("cell").with_columns(x=1)
    with pytest.raises(dao.DaoValueError, match=r"of 2 stores that were opened as one.*dao\.scan"):
        a.update_obs(frame)
    with pytest.raises(dao.DaoValueError, match=r"dao\.scan\(\['"):
        a.update_obs(b.scan().head(2).select("cell").with_columns(x=1))
    with pytest.raises(dao.DaoValueError, match=r"of one store.*Open that one alone"):
        a.scan().dao.iter_batches(genes=PANEL, store=both)
    keys = pl.Series("cell", [2 * SHIFT], pl.UInt64).ext.to(both.schema["cell"]).to_frame()
    with pytest.raises(dao.DaoValueError, match="no cells of the store"):
        keys.dao.iter_batches(genes=PANEL)


def test_cells_of_sfaira_and_of_ours(pair: tuple[str, str]) -> None:
    uris = (pair[0], str(dao.load_store(SFAIRA).uri))
    panel = ["INS", "GCG", "B2M"]
    values = values_of_each(panel, *uris)
    expected = dict(zip(values[0].tolist(), values[1], strict=True))
    frame = dao.scan(uris).collect()
    order = np.random.default_rng(1).permutation(frame.height)[:300]
    found = frame[order].dao.to_anndata(genes=panel, progress=False)
    assert np.array_equal(found.X.toarray(), rows_of(frame[order], expected))
    gene = frame[order].select(dao.gene("INS"))
    assert np.array_equal(
        gene.to_series().fill_null(0).to_numpy(), rows_of(frame[order], expected)[:, 0]
    )
    some = dao.load_store(uris[1]).var(dao.load_store(uris[1]).datasets["id"][0])["var_name"][:3]
    alone = dao.scan(uris[1]).dao.to_anndata(genes=some.to_list(), progress=False)
    of_sfaira = frame.filter(C("store") == uris[1]).dao.to_anndata(
        genes=some.to_list(), progress=False
    )
    columns = alone.obs.columns
    pd.testing.assert_frame_equal(of_sfaira.obs[columns], alone.obs, check_categorical=False)
