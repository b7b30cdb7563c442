"""Aggregates beside scanpy's and numpy's own, from the files that the store was written from.

What is held against the result comes from anndata's reading of the .h5ad alone: never from a store,
and so not from our own AnnData either.
"""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scanpy as sc
import zarr
from packaging.version import Version

import dao_polars as dao
from tests.conftest import SFAIRA

#: The human studies: a column of groups, and one of batches where there is one.
HUMAN = {
    "pbmc_human": ("cell_type", "lane"),
    "pancreas_human": ("cell_type", "donor"),
    "heart_human": ("cell_type", None),
}
AGGREGATES = ("sum", "mean", "var", "count_nonzero")


def cells(store: dao.Store, name: str) -> pl.LazyFrame:
    return store.scan().filter(pl.col("dataset") == name)


def logarithms(adata: ad.AnnData) -> ad.AnnData:
    """The study as scanpy normalizes it, in float64."""
    adata = adata.copy()
    adata.X = adata.X.astype(np.float64)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def large_groups(adata: ad.AnnData, by: str, least: int = 6) -> list[str]:
    sizes = adata.obs[by].value_counts()
    return sorted(sizes[sizes >= least].index)


def wide(found: pl.DataFrame, by: str, value: str) -> pd.DataFrame:
    """A tidy result as groups × genes."""
    columns = found.select(pl.col(by).cast(pl.String), "gene", value)
    return columns.to_pandas().pivot(index=by, columns="gene", values=value)


@pytest.mark.parametrize("name", HUMAN)
def test_pseudobulk_is_scanpys_aggregate(real_store, real, name):
    adata, by = real[name].copy(), HUMAN[name][0]
    adata.X = adata.X.astype(np.float64)
    wanted = sc.get.aggregate(adata, by=by, func=list(AGGREGATES))
    found = cells(real_store, name).dao.pseudobulk(by, AGGREGATES)
    assert found["gene"].unique(maintain_order=True).to_list() == list(adata.var_names)
    several = adata.obs[by].value_counts()
    several = sorted(several[several > 1].index)
    for agg in AGGREGATES:
        theirs = wanted[several].to_df(layer=agg)
        ours = wide(found, by, agg).loc[several, adata.var_names]
        exact = agg in ("sum", "count_nonzero")  # of whole numbers
        np.testing.assert_allclose(
            ours, theirs, rtol=0 if exact else 1e-9, atol=0 if exact else 1e-9, err_msg=agg
        )


@pytest.mark.parametrize("name", HUMAN)
def test_pseudobulk_of_normalized_counts_is_scanpys(real_store, real, name):
    by = HUMAN[name][0]
    adata = logarithms(real[name])
    wanted = sc.get.aggregate(adata, by=by, func=["sum", "mean"])
    found = cells(real_store, name).dao.pseudobulk(by, ["sum", "mean"], normalize="log1p_cp10k")
    for agg in ("sum", "mean"):
        theirs = wanted.to_df(layer=agg)
        ours = wide(found, by, agg).loc[theirs.index, theirs.columns]
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", HUMAN)
@pytest.mark.parametrize("grouped", [False, True])
def test_gene_stats_are_numpys(real_store, real, name, grouped):
    adata, by = real[name], HUMAN[name][0]
    found = cells(real_store, name).dao.gene_stats(by if grouped else None)
    groups = large_groups(adata, by, 1) if grouped else [None]
    assert found.height == len(groups) * adata.n_vars
    for group in groups:
        here = found if group is None else found.filter(pl.col(by).cast(pl.String) == group)
        rows = np.ones(adata.n_obs, bool) if group is None else (adata.obs[by] == group).to_numpy()
        x = adata.X[rows].toarray().astype(np.float64)
        assert here["gene"].to_list() == list(adata.var_names)
        assert set(here["n_cells"]) == {len(x)}
        assert np.array_equal(here["n_expressing"], (x != 0).sum(0))
        assert np.array_equal(here["total"], x.sum(0))
        np.testing.assert_allclose(here["fraction"], (x != 0).mean(0), rtol=1e-14)
        np.testing.assert_allclose(here["mean"], x.mean(0), rtol=1e-12)
        if len(x) > 1:
            np.testing.assert_allclose(here["variance"], x.var(0, ddof=1), rtol=1e-9, atol=1e-12)
        else:
            assert here["variance"].null_count() == adata.n_vars


@pytest.mark.parametrize(
    ("name", "batch"), [*((n, None) for n in HUMAN), *((n, b) for n, (_, b) in HUMAN.items() if b)]
)
def test_variable_genes_are_scanpys_seurat_v3(real_store, real, name, batch):
    adata, lf = real[name], cells(real_store, name)
    try:
        wanted = sc.pp.highly_variable_genes(
            adata, n_top_genes=1000, flavor="seurat_v3", batch_key=batch, inplace=False
        )
    except ValueError:  # no curve can be fitted: a lane of pbmc_human has too few cells
        with pytest.raises(dao.DaoValueError, match="no curve can be fitted"):
            lf.dao.highly_variable_genes(1000, batch_key=batch)
        return
    found = lf.dao.highly_variable_genes(1000, batch_key=batch)
    assert found["gene"].to_list() == list(adata.var_names)
    for column in ("means", "variances"):
        np.testing.assert_allclose(found[column], wanted[column], rtol=1e-5, atol=1e-9)
    # A batch's means have other last digits in scanpy 1.12; a change of 1e-15 is enough for loess
    # to fit parts of the curve elsewhere, 0.002 in log10 away.
    jumps = batch is not None and Version(sc.__version__) >= Version("1.12")
    np.testing.assert_allclose(
        found["variances_norm"], wanted["variances_norm"], rtol=5e-3 if jumps else 1e-6, atol=1e-9
    )
    assert found["highly_variable"].sum() == 1000
    # Genes that vary alike (one count in a batch) may change places at the end of the list.
    columns = ["highly_variable", "highly_variable_nbatches"] if batch else ["highly_variable"]
    for column in columns:
        assert (found[column].to_numpy() == wanted[column].to_numpy()).mean() > 0.999


@pytest.mark.parametrize("name", HUMAN)
@pytest.mark.parametrize("reference", ["rest", "the first"])
def test_marker_genes_are_scanpys_t_test(real_store, real, name, reference):
    by = HUMAN[name][0]
    adata = logarithms(real[name])
    kept = large_groups(adata, by)
    adata = adata[adata.obs[by].isin(kept)].copy()
    reference = kept[0] if reference == "the first" else reference
    sc.tl.rank_genes_groups(adata, by, method="t-test", reference=reference)
    theirs = sc.get.rank_genes_groups_df(adata, None).astype({"group": str})
    wanted = pl.from_pandas(theirs)
    lf = cells(real_store, name).filter(pl.col(by).cast(pl.String).is_in(kept))
    found = lf.dao.rank_genes_groups(by, reference=reference)
    found = found.with_columns(pl.col("group").cast(pl.String))
    assert found.columns == wanted.columns
    both = wanted.join(found, on=["group", "names"], validate="1:1")
    assert both.height == wanted.height == found.height
    for column, tolerance in (
        ("scores", 1e-4),
        ("logfoldchanges", 1e-3),
        ("pvals", 1e-6),
        ("pvals_adj", 1e-6),
    ):
        np.testing.assert_allclose(
            both[f"{column}_right"], both[column], rtol=tolerance, atol=tolerance, err_msg=column
        )


def test_statistics_of_sfairas_stores_are_numpys():
    """Dense, chunked along genes, in groups of no order; held against zarr's own reading."""
    lf = dao.scan(SFAIRA)
    for number, path in enumerate(sorted(SFAIRA.iterdir())):
        x = zarr.open_array(path / "zarr" / "X", mode="r")[...].astype(np.float64)
        here = lf.filter(pl.col("cell").ext.storage() // 2**32 == number)
        here = here.with_columns(pl.int_range(pl.len()).mod(7).alias("group"))
        found = here.dao.gene_stats("group")
        for group in range(7):
            mine, rows = found.filter(group=group), x[group::7]
            assert set(mine["n_cells"]) == {len(rows)}
            assert np.array_equal(mine["total"], rows.sum(0))
            np.testing.assert_allclose(mine["variance"], rows.var(0, ddof=1), rtol=1e-7, atol=1e-12)
