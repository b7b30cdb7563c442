"""What a store should hold, as plain tables and arrays: the truth that edits are held against."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import anndata as ad
import numpy as np
import polars as pl
import scipy.sparse as sp
from polars.testing import assert_frame_equal

import dao_polars as dao


@dataclass
class Cell:
    """A cell: its name, its obs values, its counts, its embeddings."""

    name: str
    obs: dict[str, Any]
    counts: np.ndarray
    obsm: dict[str, list[float]]


@dataclass
class Dataset:
    """A study: its cells in order, its genes, and the columns of obs that it has."""

    cells: list[Cell]
    var: pl.DataFrame
    columns: set[str] = field(default_factory=set)
    obsm: dict[str, int] = field(default_factory=dict)


Model = dict[str, Dataset]


def study(rng: np.random.Generator, tag: str, n: int, genes: list[str]) -> ad.AnnData:
    """A small study; names of cells are unique, whatever others there are."""
    counts = rng.poisson(1.0, (n, len(genes))).astype(np.float32)
    adata = ad.AnnData(sp.csr_matrix(counts))
    adata.obs_names = [f"{tag}_{i}" for i in range(n)]
    adata.var_names = genes
    adata.obs["score"] = rng.integers(0, 5, n).astype(np.int64)
    adata.obs["kind"] = rng.choice(["T", "B", "NK"], n)
    adata.obs["kind"] = adata.obs["kind"].astype(object)
    adata.obsm["X_pca"] = rng.normal(size=(n, 2)).astype(np.float32)
    return adata


def cells_of(adata: ad.AnnData) -> list[Cell]:
    counts = adata.X.toarray()
    return [
        Cell(
            name,
            adata.obs.loc[name].to_dict(),
            counts[i],
            {key: adata.obsm[key][i].tolist() for key in adata.obsm},
        )
        for i, name in enumerate(adata.obs_names)
    ]


def dataset_of(adata: ad.AnnData) -> Dataset:
    var = pl.DataFrame({"var_name": adata.var_names.to_list()})
    obsm = {key: adata.obsm[key].shape[1] for key in adata.obsm}
    return Dataset(cells_of(adata), var, set(adata.obs.columns), obsm)


def copied(model: Model) -> Model:
    return copy.deepcopy(model)


def obs_of(model: Model) -> pl.DataFrame:
    """The frame that a scan should give, without keys; text as String."""
    columns = sorted(set().union(*(d.columns for d in model.values())))
    rows = [
        {"dataset": name, "obs_name": cell.name, **{c: cell.obs.get(c) for c in columns}}
        for name, dataset in model.items()
        for cell in dataset.cells
    ]
    return pl.DataFrame(rows, infer_schema_length=None).sort("obs_name") if rows else pl.DataFrame()


def check(store: dao.Store, model: Model) -> None:
    """Holds all that can be read of a store against the truth."""
    frame = store.scan().collect()
    assert store.n_obs == frame.height == sum(len(d.cells) for d in model.values())
    assert set(store.datasets["id"]) == set(model)
    got = frame.drop("cell").with_columns(pl.col(pl.Enum, pl.Categorical).cast(pl.String))
    columns = set().union(*(d.columns for d in model.values())) | {"dataset", "obs_name"}
    if model:
        assert set(got.columns) == columns
    want = obs_of(model)
    if want.height:
        got = got.select(want.columns).sort("obs_name")
        assert_frame_equal(got, want, check_dtypes=False)
    for name, dtype in frame.schema.items():  # no category that no cell has
        if isinstance(dtype, pl.Enum) and name != "dataset":
            assert set(dtype.categories) == set(frame[name].drop_nulls().cast(pl.String)), name
    for name, dataset in model.items():
        _check_dataset(store, name, dataset)


def _check_dataset(store: dao.Store, name: str, dataset: Dataset) -> None:
    cells = store.scan().filter(pl.col("dataset") == name)
    counts = np.array([c.counts for c in dataset.cells]).reshape(-1, dataset.var.height)
    row = store.datasets.filter(pl.col("id") == name).row(0, named=True)
    assert (row["n_obs"], row["n_vars"]) == counts.shape
    assert row["nnz"] == np.count_nonzero(counts)
    assert_frame_equal(store.var(name), dataset.var)
    order = {cell.name: i for i, cell in enumerate(dataset.cells)}
    adata = cells.dao.to_anndata()
    at = [order[cell] for cell in adata.obs_names]
    np.testing.assert_array_equal(adata.X.toarray(), counts[at])
    for key, width in dataset.obsm.items():
        want = np.array([c.obsm.get(key, [np.nan] * width) for c in dataset.cells])
        np.testing.assert_array_equal(adata.obsm[key], want.reshape(-1, width)[at], key)
    assert set(adata.obsm) == set(dataset.obsm)
    found = [(x.toarray(), obs["obs_name"].to_list()) for x, obs in cells.dao.iter_batches(3)]
    for x, names in found:
        np.testing.assert_array_equal(x, counts[[order[n] for n in names]])
    assert sum(len(names) for _, names in found) == len(dataset.cells)
    gene = dataset.var["var_name"][0]
    read = cells.select("obs_name", g=dao.gene(gene)).collect()
    assert read["g"].to_list() == [counts[order[n], 0] for n in read["obs_name"]]
    if len(counts):
        stats = cells.dao.gene_stats()
        np.testing.assert_allclose(stats["total"], counts.sum(axis=0))
