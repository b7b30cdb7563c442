"""Cells added to a dataset, and datasets replaced, beside what anndata says of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import numpy as np
import polars as pl
import pytest

import dao_polars as dao
from tests.conftest import study
from tests.storefab import part_path

GENES = [f"g{i}" for i in range(12)]


@contextmanager
def no_warning() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def values(adata: ad.AnnData) -> np.ndarray:
    return adata.X.toarray()


@pytest.fixture
def first() -> ad.AnnData:
    adata = study(1, 40, GENES)
    adata.uns = {"organism": "human", "day": 3}
    adata.var["symbol"] = [gene.upper() for gene in GENES]
    return adata


def test_added_cells_are_the_datasets(tmp_path: Path, first: ad.AnnData) -> None:
    more, other = study(2, 25, GENES), study(3, 9, ["g1", "x"])
    more.obs["cell_type"] = more.obs["cell_type"].cat.rename_categories({"NK": "plasma"})
    dao.write_dataset(tmp_path, first, dataset="a")
    before = dao.write_dataset(tmp_path, other, dataset="b")
    kept = before.scan().collect()
    with no_warning():
        store = dao.write_dataset(tmp_path, more, dataset="a", mode="append")
    assert (before.version, store.version) == (2, 3)
    assert store.datasets["id"].to_list() == ["a", "b"]
    assert store.datasets["n_obs"].to_list() == [65, 9]
    assert store.datasets["nnz"].to_list() == [first.X.nnz + more.X.nnz, other.X.nnz]
    assert "65" in repr(store)
    assert "a " in repr(store)
    assert store.verify().is_empty()
    # The dataset's cells follow each other, those that were there first.
    frame = store.scan().collect()
    assert frame["dataset"].to_list() == ["a"] * 65 + ["b"] * 9
    names = [*first.obs_names, *more.obs_names]
    assert frame["obs_name"].to_list()[:65] == names
    assert frame["organism"].to_list() == ["human"] * 65 + [None] * 9
    assert frame.schema["cell_type"] == pl.Enum(["B", "NK", "T", "plasma"])
    cells = store.scan().filter(pl.col("dataset") == "a")
    adata = cells.dao.to_anndata()
    np.testing.assert_array_equal(values(adata), np.vstack([values(first), values(more)]))
    assert adata.var["symbol"].tolist() == first.var["symbol"].tolist()
    assert adata.uns["day"] == 3
    assert adata.obs_names.tolist() == names
    # In batches, and by another name of a gene.
    x = np.vstack([b.x.toarray() for b in cells.dao.iter_batches(16)])
    np.testing.assert_array_equal(x, values(adata))
    column = cells.select(dao.gene("G4", gene_key="symbol", dtype="float64")).collect()
    np.testing.assert_array_equal(column.to_series().to_numpy(), values(adata)[:, 4])
    # Cells that were selected before are the same cells.
    np.testing.assert_array_equal(
        kept.filter(pl.col("dataset") == "a").dao.to_anndata().X.toarray(), values(first)
    )


def test_genes_in_another_order(tmp_path: Path, first: ad.AnnData) -> None:
    dao.write_dataset(tmp_path, first, dataset="a")
    order = np.random.default_rng(0).permutation(len(GENES))
    more = study(2, 25, GENES)
    with no_warning():
        store = dao.write_dataset(tmp_path, more[:, order].copy(), dataset="a", mode="append")
    found = store.scan().dao.to_anndata()
    np.testing.assert_array_equal(values(found)[40:], values(more))


def test_other_genes_are_an_error_or_aligned(tmp_path: Path, first: ad.AnnData) -> None:
    store = dao.write_dataset(tmp_path, first, dataset="a")
    more = study(2, 25, [*GENES[1:], "new"])
    with pytest.raises(dao.DaoValueError, match=r"1 of its 12 genes.*1 of the source's 12.*'g0'"):
        dao.write_dataset(tmp_path, more, dataset="a", mode="append")
    with pytest.raises(dao.DaoValueError, match="genes= are not the genes of the dataset"):
        dao.write_dataset(tmp_path, more, dataset="a", mode="append", genes=GENES[1:])
    assert dao.load_store(tmp_path).version == 1
    with pytest.warns(UserWarning, match=r"1 genes of the source.*1 of genes= are not"):
        store = dao.write_dataset(tmp_path, more, dataset="a", mode="append", genes=store.var("a"))
    found = values(store.scan().dao.to_anndata())[40:]
    np.testing.assert_array_equal(found[:, 1:], values(more)[:, :-1])
    assert not found[:, 0].any()
    assert store.verify().is_empty()


def test_what_is_not_added_is_named(tmp_path: Path, first: ad.AnnData) -> None:
    dao.write_dataset(tmp_path, first, dataset="a")
    more = study(2, 25, GENES)
    more.uns = {"organism": "mouse"}
    with pytest.warns(UserWarning, match=r"not kept: uns \(the dataset has its own\)"):
        store = dao.write_dataset(tmp_path, more, dataset="a", mode="append")
    assert set(store.scan().collect()["organism"]) == {"human"}
    assert dict(store.uns("a")) == first.uns


def test_names_that_repeat(tmp_path: Path) -> None:
    """Genes of one name are the same where all of them come in the same order."""
    genes = ["a", "b", "a", "c"]
    adata = study(1, 9, genes)
    with no_warning():
        dao.write_dataset(tmp_path, adata, dataset="a")
        store = dao.write_dataset(tmp_path, adata, dataset="a", mode="append")
    np.testing.assert_array_equal(
        values(store.scan().dao.to_anndata()), np.vstack([values(adata)] * 2)
    )


def test_a_dataset_is_replaced(tmp_path: Path, first: ad.AnnData) -> None:
    old = dao.write_dataset(tmp_path, first, dataset="a")
    selected = old.scan().collect()
    other = study(4, 7, ["x", "y"])
    store = dao.write_dataset(tmp_path, other, dataset="a", mode="replace")
    found = store.scan().dao.to_anndata()
    np.testing.assert_array_equal(values(found), values(other))
    assert store.datasets["n_obs"].to_list() == [7]
    assert store.verify().is_empty()
    # Numbers are not given again: what was selected is no longer there, and is in its version.
    with pytest.raises(dao.DaoValueError, match="40 of 40 cells are no longer"):
        selected.dao.to_anndata()
    pinned = dao.scan(tmp_path, version=1).dao.to_anndata()
    np.testing.assert_array_equal(values(pinned), values(first))
    again = selected.dao.to_anndata(store=old)
    np.testing.assert_array_equal(values(again), values(first))


@pytest.mark.parametrize("mode", ["append", "replace"])
def test_a_dataset_that_is_not_there_is_new(tmp_path: Path, first: ad.AnnData, mode) -> None:
    store = dao.write_dataset(tmp_path, first, dataset="a", mode=mode)
    np.testing.assert_array_equal(values(store.scan().dao.to_anndata()), values(first))
    assert store.version == 1


def test_no_such_mode(tmp_path: Path, first: ad.AnnData) -> None:
    with pytest.raises(dao.DaoValueError, match="mode='overwrite'"):
        dao.write_dataset(tmp_path, first, dataset="a", mode="overwrite")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_the_gene_index_is_of_each_part(tmp_path: Path, first: ad.AnnData) -> None:
    more = study(2, 25, GENES)
    dao.write_dataset(tmp_path, first, dataset="a", gene_index=True, progress=False)
    store = dao.write_dataset(tmp_path, more, dataset="a", mode="append", progress=False)
    assert not store.has_gene_index("a")
    wanted = store.scan().select(dao.gene("g3")).collect()
    assert store.add_gene_index(progress=False) == ["a"]
    store = dao.load_store(tmp_path)
    assert store.has_gene_index("a")
    assert store.verify().is_empty()
    assert store.scan().select(dao.gene("g3")).collect().equals(wanted)
    assert list(part_path(tmp_path, "a").glob("gene_index-*"))
