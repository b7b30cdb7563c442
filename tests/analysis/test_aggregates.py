"""Pseudobulk and gene statistics, held against numpy and scanpy."""

from __future__ import annotations

import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scanpy as sc
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import dao_polars as dao
from dao_polars.analysis.groups import CellGroups
from tests.conftest import DATA, study


def oracle(x: np.ndarray, ddof: int = 1) -> dict[str, np.ndarray]:
    """Cells × genes, NaN where a gene was not measured."""
    measured = ~np.isnan(x)
    n = measured.sum(0)
    with np.errstate(all="ignore"):
        mean = np.nansum(x, 0) / n
        deviations = np.nansum((x - mean) ** 2, 0)
        return {
            "n_cells": n,
            "n_expressing": np.where(n > 0, (np.nan_to_num(x) != 0).sum(0), np.nan),
            "fraction": (np.nan_to_num(x) != 0).sum(0) / n,
            "total": np.where(n > 0, np.nansum(x, 0), np.nan),
            "mean": mean,
            "variance": np.where(n > ddof, deviations / (n - ddof), np.nan),
        }


def check(found: pl.DataFrame, wanted: dict[str, np.ndarray], rtol: float = 1e-9) -> None:
    for name, values in wanted.items():
        column = found[name].cast(pl.Float64).to_numpy()
        np.testing.assert_allclose(column, values, rtol=rtol, atol=1e-12, err_msg=name)


def whole(mixed, genes: list[str]) -> tuple[pl.DataFrame, np.ndarray]:
    """All cells of the mixed store, and their values with NaN where a dataset lacks a gene."""
    store, studies = mixed
    parts = []
    for adata in studies.values():
        part = np.full((adata.n_obs, len(genes)), np.nan)
        for i, gene in enumerate(genes):
            if gene in adata.var_names:
                part[:, i] = adata[:, gene].X.toarray().ravel()
        parts.append(part)
    return store.scan().collect(), np.concatenate(parts)


def test_statistics_of_all_cells_are_numpys(real_store, real):
    for name in ("pbmc_human", "heart_human"):
        found = real_store.scan().filter(pl.col("dataset") == name).dao.gene_stats()
        assert found["gene"].to_list() == list(real[name].var_names)
        check(found, oracle(real[name].X.toarray().astype(np.float64)))


@given(
    rows=st.lists(st.integers(0, 100), max_size=150),
    groups=st.integers(1, 6),
    genes=st.lists(
        st.sampled_from([f"g{i}" for i in range(30)] + ["x", "y"]),
        min_size=1,
        max_size=8,
        unique=True,
    ),
    ddof=st.integers(0, 2),
)
def test_statistics_of_groups_are_numpys(mixed, rows, groups, genes, ddof):
    """Repeated and shuffled cells, across datasets that lack some of the genes."""
    cells, x = whole(mixed, genes)
    frame = cells[rows].with_columns(
        group=pl.Series([None if r % groups == 5 else r % groups for r in rows], dtype=pl.Int64)
    )
    found = frame.dao.gene_stats("group", genes=genes, ddof=ddof)
    keys = frame["group"].unique().sort(nulls_last=True).to_list()
    assert found.select("group").to_series().to_list() == [k for k in keys for _ in genes]
    assert found["gene"].to_list() == genes * len(keys)
    for at, key in enumerate(keys):
        members = [r for r, g in zip(rows, frame["group"], strict=True) if g == key]
        check(found[at * len(genes) : (at + 1) * len(genes)], oracle(x[members], ddof))


@pytest.mark.parametrize("by", [["donor", "cell_type"], ["cell_type"]])
def test_pseudobulk_is_scanpys(real_store, real, by):
    adata = real["pancreas_human"]
    aggregates = ["sum", "mean", "var", "count_nonzero"]
    wanted = sc.get.aggregate(adata, by=by, func=aggregates)
    lf = real_store.scan().filter(pl.col("dataset") == "pancreas_human")
    found = lf.dao.pseudobulk(by, aggregates, as_anndata=True)
    assert list(found.var_names) == list(adata.var_names)
    assert list(found.obs_names) == ["_".join(row) for row in found.obs[by].astype(str).to_numpy()]
    wanted = wanted[list(found.obs_names)]
    sizes = adata.obs.groupby(by, observed=True).size()
    expected = [
        sizes[k if len(by) > 1 else k[0]] for k in found.obs[by].itertuples(index=False, name=None)
    ]
    assert found.obs["n_cells"].to_list() == expected
    several = found.obs["n_cells"].to_numpy() > 1
    for name in aggregates:
        values = found.X if name == "sum" else found.layers[name]
        np.testing.assert_allclose(
            values[several], wanted.layers[name][several], rtol=1e-5, atol=1e-6, err_msg=name
        )
    tidy = lf.dao.pseudobulk(by, aggregates)
    assert tidy.columns == [*by, "gene", "n_cells", *aggregates]
    assert np.array_equal(tidy["sum"].to_numpy().reshape(found.shape), found.X)
    assert tidy["n_cells"].gather_every(adata.n_vars).to_list() == expected


def test_sums_of_counts_are_exact(real_store, real):
    adata = real["pancreas_mouse"]
    lf = real_store.scan().filter(pl.col("dataset") == "pancreas_mouse")
    found = lf.dao.pseudobulk("donor", as_anndata=True)
    for donor, row in zip(found.obs["donor"], found.X, strict=True):
        wanted = adata[adata.obs.donor == donor].X.toarray().astype(np.int64).sum(0)
        assert np.array_equal(row, wanted)


def test_variances_far_from_zero_are_right(tmp_path):
    rng = np.random.default_rng(0)
    x = 1e8 + rng.normal(size=(5000, 3))
    x[::7, 1] = 0
    adata = ad.AnnData(sp.csr_matrix(x), obs=pd.DataFrame(index=[str(i) for i in range(5000)]))
    lf = dao.write_dataset(tmp_path, adata, dataset="s", progress=False).scan()
    found = lf.dao.gene_stats()
    np.testing.assert_allclose(found["variance"].to_numpy(), x.var(0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(found["mean"].to_numpy(), x.mean(0), rtol=1e-14)


def test_nan_and_infinity_stay_what_they_are(tmp_path):
    x = np.array([[1, np.nan, np.inf], [2, 3, 1], [0, 1, 1]])
    adata = ad.AnnData(sp.csr_matrix(x))
    lf = dao.write_dataset(tmp_path, adata, dataset="s", progress=False).scan()
    found = lf.dao.gene_stats()
    assert found["total"].to_list()[0] == 3
    assert np.isnan(found["mean"].to_numpy()[1])
    assert np.isnan(found["variance"].to_numpy()[1:]).all()
    assert found["total"].to_list()[2] == np.inf
    assert found.null_count().select(pl.sum_horizontal(pl.all())).item() == 0


def test_the_same_in_every_run_and_on_any_number_of_threads(real_store):
    lf = real_store.scan().filter(pl.col("dataset").is_in(["pbmc_human", "pancreas_human"]))
    options = {"genes": "intersection", "normalize": "log1p_cp10k"}
    first = lf.dao.gene_stats("cell_type", **options)
    for _ in range(3):
        assert lf.dao.gene_stats("cell_type", **options).equals(first)
    settings = ("intersection", None, "error", None, "log1p_cp10k", "error", None)
    grouped = CellGroups(lf, "cell_type", *settings)
    n, g = grouped.shape
    for threads in (1, 2, 7):
        count, total, m2, _, _ = grouped._reader.moments(grouped._codes, n, threads=threads)
        assert np.array_equal(
            total[first["n_cells"].to_numpy() > 0], first["total"].drop_nulls().to_numpy()
        )
        assert count.shape == m2.shape == (n * g,)


def test_normalized_statistics_are_scanpys(real_store, real):
    adata = real["pbmc_human"].copy()
    adata.X = adata.X.astype(np.float64)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    lf = real_store.scan().filter(pl.col("dataset") == "pbmc_human")
    genes = ["CD3E", *adata.var_names[[5, 3000]]]
    found = lf.dao.gene_stats(genes=genes, normalize="log1p_cp10k")
    check(found, oracle(adata[:, genes].X.toarray()), rtol=1e-9)


def test_dense_and_chunked_matrices():
    """sfaira's stores: chunks of many rows, cells in the order of rows."""
    store = dao.load_store(DATA.parent / "tests" / "data" / "sfaira_store")
    name = store.datasets["id"][0]
    lf = store.scan().filter(pl.col("dataset") == name)
    adata = lf.dao.to_anndata()
    by = pl.int_range(pl.len()).mod(5).alias("group")
    found = lf.with_columns(by).dao.gene_stats("group")
    x = adata.X.toarray().astype(np.float64)
    for group in range(5):
        check(found.filter(group=group), oracle(x[group::5]), rtol=1e-7)


def test_genes_that_were_not_measured_do_not_count(mixed):
    cells, x = whole(mixed, ["g7", "x"])
    found = cells.dao.pseudobulk(
        "dataset", ["sum", "mean", "var", "std", "fraction"], genes=["g7", "x"]
    )
    for name, n in (("a", 37), ("b", 53), ("c", 11)):
        rows = x[cells["dataset"].cast(pl.String).to_numpy() == name]
        wanted = oracle(rows)
        here = found.filter(dataset=name)
        check(here, {"n_cells": wanted["n_cells"], "sum": wanted["total"], "mean": wanted["mean"]})
        check(here, {"var": wanted["variance"], "std": np.sqrt(wanted["variance"])})
        assert here.filter(gene="x")["sum"].is_null().item() == (name != "c")
        assert here.filter(gene="g7")["n_cells"].item() == n
    adata = cells.dao.pseudobulk("dataset", ["sum", "mean"], genes=["g7", "x"], as_anndata=True)
    assert adata.X[0, 1] == 0 or np.isnan(adata.X[0, 1])
    assert adata.obs["n_cells"].to_list() == [37, 53, 11]


def test_groups_by_expressions_and_odd_names(mixed):
    cells, x = whole(mixed, ["g7"])
    found = cells.dao.pseudobulk((pl.col("score") > 0.5).alias("high"), "mean", genes=["g7"])
    assert found.columns == ["high", "gene", "n_cells", "mean"]
    high = cells["score"].to_numpy() > 0.5
    np.testing.assert_allclose(found["mean"], [x[~high].mean(), x[high].mean()])
    with_gene = cells.dao.pseudobulk((dao.gene("g7") > 0).alias("on"), genes=["g7"])
    np.testing.assert_allclose(with_gene["sum"].to_list(), [0, x.sum()])


def test_no_cells_at_all(mixed):
    none = mixed[0].scan().filter(pl.col("score") > 9)
    found = none.dao.gene_stats(genes=["g7", "x"])
    assert found["n_cells"].to_list() == [0, 0]
    assert found["mean"].null_count() == 2
    assert none.dao.gene_stats("cell_type", genes=["g7"]).height == 0
    assert none.dao.pseudobulk("cell_type", genes=["g7"], as_anndata=True).shape == (0, 1)


def test_bad_arguments_are_refused(mixed):
    lf = mixed[0].scan()
    for call, error in [
        (lambda: lf.dao.pseudobulk("cell_type", "median", genes=["g7"]), dao.DaoValueError),
        (lambda: lf.dao.pseudobulk("cell_type", [], genes=["g7"]), dao.DaoValueError),
        (lambda: lf.dao.pseudobulk("cell_type"), dao.DaoValueError),  # several feature spaces
        (lambda: lf.dao.pseudobulk("nope", genes=["g7"]), dao.DaoKeyError),
        (lambda: lf.dao.pseudobulk([], genes=["g7"]), dao.DaoValueError),
        (lambda: lf.dao.pseudobulk("cell_type", genes=["nope"]), dao.DaoKeyError),
        (lambda: lf.dao.pseudobulk(pl.col("score").alias("gene"), genes=["g7"]), dao.DaoValueError),
        (lambda: lf.dao.gene_stats(ddof=-1, genes=["g7"]), dao.DaoValueError),
        (lambda: lf.drop("cell").dao.gene_stats(genes=["g7"]), dao.DaoValueError),
        (
            lambda: lf.dao.rank_genes_groups("cell_type", method="wilcoxon", genes=["g7"]),
            dao.DaoValueError,
        ),
        (
            lambda: lf.dao.rank_genes_groups("cell_type", reference="Q", genes=["g7"]),
            dao.DaoKeyError,
        ),
        (
            lambda: lf.dao.rank_genes_groups(["cell_type", "dataset"], genes=["g7"]),
            dao.DaoValueError,
        ),
        (
            lambda: lf.filter(cell_type="T").dao.rank_genes_groups("cell_type", genes=["g7"]),
            dao.DaoValueError,
        ),
        (lambda: lf.dao.highly_variable_genes(genes=["g7", "x"]), dao.DaoValueError),
        (lambda: lf.dao.highly_variable_genes(0, genes=["g7"]), dao.DaoValueError),
    ]:
        with pytest.raises(error):
            call()


def test_a_progress_callback_may_stop_it(mixed):
    grouped = CellGroups(mixed[0].scan(), None, ["g7"], None, "error", None, None, "error", None)

    def stop(cells: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(dao.DaoKeyError, match="the nearest: 'cell_type'"):
        mixed[0].scan().dao.gene_stats("cel_typ", genes=["g7"])
    with pytest.raises(KeyboardInterrupt):
        grouped._reader.moments(grouped._codes, 1, advance=stop)


def test_more_groups_than_memory_holds_are_an_error(mixed):
    grouped = CellGroups(mixed[0].scan(), None, ["g7"], None, "error", None, None, "error", None)
    with pytest.raises(dao.DaoValueError, match="do not fit into memory"):
        grouped._reader.moments(grouped._codes, 2**46)


def test_names_of_groups_in_an_anndata(mixed):
    """Columns with the result's names are refused; equal names are told apart."""
    lf = mixed[0].scan()
    for by in ("n_cells", "obs_name"):
        named = lf.with_columns(pl.col("cell_type").alias(by))
        with pytest.raises(dao.DaoValueError, match="the result's own names"):
            named.dao.pseudobulk(by, genes=["g7"], as_anndata=True)
    with pytest.raises(dao.DaoValueError, match="by=None"):
        lf.dao.pseudobulk(None, genes=["g7"])
    two = lf.head(2).with_columns(a=pl.Series(["a", "a_b"]), b=pl.Series(["b_c", "c"])).collect()
    adata = two.dao.pseudobulk(["a", "b"], genes=["g7"], as_anndata=True)
    assert adata.obs_names.is_unique


# --- what the statistics suffice for


def test_variable_genes_that_no_curve_fits_are_refused(real_store):
    """The library that fits would write where it must not."""
    lf = real_store.scan().filter(pl.col("dataset") == "pbmc_human")
    genes = real_store.var("pbmc_human")["var_name"].head(900).to_list()
    for n, span in [(3, 0.3), (3, 1.0), (10, 0.05), (40, 0), (40, 1.5)]:
        with pytest.raises(dao.DaoValueError, match=r"no curve can be fitted|span="):
            lf.dao.highly_variable_genes(genes=genes[:n], span=span)
    assert lf.dao.highly_variable_genes(5, genes=genes)["highly_variable"].sum() == 5
    batch = (pl.col("obs_name") == pl.col("obs_name").first()).alias("batch")
    with pytest.raises(dao.DaoValueError, match="batch of one cell"):
        lf.with_columns(batch).dao.highly_variable_genes(batch_key="batch")


def test_nan_is_no_difference_of_zero(tmp_path):
    adata = study(1, 60, ["a", "b"])
    adata.X = adata.X.toarray()
    adata.X[3, 0] = np.nan
    lf = dao.write_dataset(tmp_path, adata, dataset="s", progress=False).scan()
    found = lf.dao.rank_genes_groups("cell_type", normalize=None)
    nan = found.filter(pl.col("names") == "a").select("scores", "pvals", "pvals_adj")
    assert all(np.isnan(column.to_numpy()).all() for column in nan)
    assert found.filter(pl.col("names") == "b")["pvals_adj"].is_finite().all()


@pytest.mark.parametrize("name", ["pancreas_human", "pbmc_human"])
def test_variable_genes_are_scanpys(real_store, real, name):
    lf = real_store.scan().filter(pl.col("dataset") == name)
    found = lf.dao.highly_variable_genes(1500)
    wanted = sc.pp.highly_variable_genes(
        real[name], n_top_genes=1500, flavor="seurat_v3", inplace=False
    )
    assert found["gene"].to_list() == list(wanted.index)
    assert found["highly_variable"].sum() == 1500
    # Genes that vary alike may change places at the end of the list.
    last = np.sort(wanted["variances_norm"])[-1500]
    other = found["highly_variable"].to_numpy() != wanted["highly_variable"].to_numpy()
    np.testing.assert_allclose(wanted["variances_norm"][other], last, rtol=1e-9)
    for column in ("means", "variances", "variances_norm"):
        np.testing.assert_allclose(found[column], wanted[column], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("method", ["t-test", "t-test_overestim_var"])
@pytest.mark.parametrize("reference", ["rest", "beta"])
def test_marker_genes_are_scanpys(real_store, real, method, reference):
    adata = real["pancreas_human"].copy()
    adata.X = adata.X.astype(np.float64)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sizes = adata.obs["cell_type"].value_counts()
    kept = list(sizes[sizes > 5].index)
    adata = adata[adata.obs["cell_type"].isin(kept)].copy()
    sc.tl.rank_genes_groups(adata, "cell_type", method=method, reference=reference)
    wanted = pl.from_pandas(sc.get.rank_genes_groups_df(adata, None).astype({"group": str}))
    lf = real_store.scan().filter(
        pl.col("dataset") == "pancreas_human", pl.col("cell_type").is_in(kept)
    )
    found = lf.dao.rank_genes_groups("cell_type", method=method, reference=reference)
    assert found.columns == wanted.columns
    found = found.with_columns(pl.col("group").cast(pl.String))
    both = wanted.join(found, on=["group", "names"], validate="1:1")
    assert both.height == wanted.height == found.height
    for column, tolerance in [
        ("scores", 1e-4),
        ("logfoldchanges", 1e-3),
        ("pvals", 1e-6),
        ("pvals_adj", 1e-6),
    ]:
        np.testing.assert_allclose(
            both[f"{column}_right"], both[column], rtol=tolerance, atol=tolerance, err_msg=column
        )
    for group in kept[:3]:
        if group != reference:
            top = found.filter(group=group)["names"].head(20).to_list()
            assert top == wanted.filter(group=group)["names"].head(20).to_list()


def test_statistics_are_not_loaded_before_they_are_asked_for():
    code = "import sys, dao_polars; sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_engine_that_is_not_there_is_said(mixed):
    with pytest.raises(dao.DaoValueError, match="engine='dask' found no client; make one first"):
        mixed[0].scan().dao.gene_stats(genes="union", engine="dask")
