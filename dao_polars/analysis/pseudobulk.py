"""Tables of statistics: a row a group and gene, or an AnnData whose cells are groups.

Owns which statistics there are and what they are called. The numbers are ``groups``'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import numpy as np
import polars as pl
from numpy.typing import NDArray

from .._args import Column, Normalize, integer
from .._extras import require
from ..convert.to_pandas import to_pandas
from ..engines.run import Engine
from ..errors import DaoValueError
from ..genes.request import Duplicates, Genes
from ..select.selection import Missing, StoreLike
from .groups import Groups, GroupSums, per_cell
from .spread import grouped

if TYPE_CHECKING:
    from typing import Unpack

    from anndata import AnnData

#: Values, groups × genes, and how many cells must have been measured for them to mean something.
_Column = tuple[NDArray[Any], int]

#: What becomes of the sums of groups, and of ``ddof``.
_AGGREGATES: dict[str, Callable[[GroupSums, int], _Column]] = {
    "sum": lambda sums, ddof: (sums.total, 1),
    "mean": lambda sums, ddof: (per_cell(sums.total, sums.cells), 1),
    "var": lambda sums, ddof: (sums.moments.variance(ddof), ddof + 1),
    "std": lambda sums, ddof: (np.sqrt(sums.moments.variance(ddof)), ddof + 1),
    "count_nonzero": lambda sums, ddof: (sums.count.astype(np.int64), 1),
    "fraction": lambda sums, ddof: (per_cell(sums.count, sums.cells), 1),
}

#: The aggregates that ``gene_stats`` gives, by what it calls them.
_STATISTICS = {
    "n_expressing": "count_nonzero",
    "fraction": "fraction",
    "total": "sum",
    "mean": "mean",
    "variance": "var",
}


class _Options(TypedDict, total=False):
    """The options of ``pseudobulk`` that do not change the type of what it gives."""

    genes: Genes
    gene_key: str | None
    duplicates: Duplicates
    layer: str | None
    normalize: Normalize
    progress: bool | None
    missing: Missing
    store: StoreLike | None
    engine: Engine | None


def gene_stats(
    frame: pl.LazyFrame,
    by: Column | Iterable[Column] | None = None,
    *,
    ddof: int = 1,
    genes: Genes = None,
    gene_key: str | None = None,
    duplicates: Duplicates = "error",
    layer: str | None = None,
    normalize: Normalize = None,
    progress: bool | None = None,
    missing: Missing = "error",
    store: StoreLike | None = None,
    engine: Engine | None = None,
) -> pl.DataFrame:
    """Mean, variance and more of each gene, over all cells or groups of them, in one pass.

    Args:
        frame: the one before ``.dao``.
        by: columns or expressions whose values make the groups; None: all cells are one.
        ddof: variances are divided by n - ddof.
        genes: None: all, and the datasets selected must share one feature space. Names: these, in
            this order. ``"intersection"`` or ``"union"`` of the datasets' genes. A
            dataset that lacks a gene says nothing of it: its cells do not count there.
        gene_key: the var column that genes are matched on, instead of the index.
        duplicates: what a name means that several genes of a dataset have: an ``"error"``; the
            ``"first"`` of them; the ``"sum"`` of their values; or ``"drop"``: none.
        layer: a layer's name; None: X.
        normalize: what is done to counts first, cell by cell: ``"log1p_cp10k"`` (a total of
            10,000, then log(1 + x)), ``"cp10k"``, ``"log1p_cpm"`` (a million), ``"cpm"``,
            ``"log1p"``, or ``{"target_sum": …, "log1p": …}``; in float64.
        progress: show a bar; None: where somebody looks on.
        missing: cells that were removed from the store: an ``"error"``, or ``"drop"``.
        store: where the store is now, if it moved.
        engine: who makes the sums, piece by piece of the cells, and hands them back: a
            ``dask.distributed`` client or cluster, ``"dask"`` (the client there is), ``"ray"``,
            or an executor of ``concurrent.futures``; None: this process. All must see the store.

    Returns:
        A row a group and gene as ``pseudobulk`` has them, with ``n_cells``, ``n_expressing``
        (Int64, cells that are not zero), ``fraction`` (of these), ``total``, ``mean``,
        ``variance`` (Float64). Sums of integers are exact below 2**53; variances are computed
        without subtracting large numbers; all are the same in every run.

    Raises:
        As ``pseudobulk``.
    """
    groups = grouped(
        frame, by, genes, gene_key, duplicates, layer, normalize, missing, store, engine
    )
    return gene_stats_of(groups, ddof, progress)


def gene_stats_of(groups: Groups, ddof: int, progress: bool | None) -> pl.DataFrame:
    """The table of ``gene_stats`` of these groups."""
    ddof = integer("ddof", ddof, 0, 2**31)
    _check_names(groups, {"gene", "n_cells", *_STATISTICS})
    sums = groups.counted("gene_stats", progress)
    return _tidy(groups, {name: _AGGREGATES[agg](sums, ddof) for name, agg in _STATISTICS.items()})


@overload
def pseudobulk(
    frame: pl.LazyFrame,
    by: Column | Iterable[Column],
    agg: str | Iterable[str] = ...,
    *,
    as_anndata: Literal[False] = ...,
    **options: Unpack[_Options],
) -> pl.DataFrame: ...


@overload
def pseudobulk(
    frame: pl.LazyFrame,
    by: Column | Iterable[Column],
    agg: str | Iterable[str] = ...,
    *,
    as_anndata: Literal[True],
    **options: Unpack[_Options],
) -> AnnData: ...


def pseudobulk(
    frame: pl.LazyFrame,
    by: Column | Iterable[Column],
    agg: str | Iterable[str] = "sum",
    *,
    genes: Genes = None,
    gene_key: str | None = None,
    duplicates: Duplicates = "error",
    layer: str | None = None,
    normalize: Normalize = None,
    as_anndata: bool = False,
    progress: bool | None = None,
    missing: Missing = "error",
    store: StoreLike | None = None,
    engine: Engine | None = None,
) -> pl.DataFrame | AnnData:
    """Genes added up over groups of cells, in one pass on all cores.

    Memory grows with groups × genes, not with cells (but for their keys and groups).

    Args:
        frame: the one before ``.dao``.
        by: columns or expressions whose values make the groups.
        agg: ``"sum"``, ``"mean"``, ``"var"``, ``"std"`` (both with n - 1), ``"count_nonzero"``,
            ``"fraction"`` (of cells that are not zero), or several of them.
        genes: None: all, and the datasets selected must share one feature space. Names: these, in
            this order. ``"intersection"`` or ``"union"`` of the datasets' genes. A
            dataset that lacks a gene says nothing of it: its cells do not count there.
        gene_key: the var column that genes are matched on, instead of the index.
        duplicates: what a name means that several genes of a dataset have: an ``"error"``; the
            ``"first"`` of them; the ``"sum"`` of their values; or ``"drop"``: none.
        layer: a layer's name; None: X.
        normalize: what is done to counts first, cell by cell: ``"log1p_cp10k"`` (a total of
            10,000, then log(1 + x)), ``"cp10k"``, ``"log1p_cpm"`` (a million), ``"cpm"``,
            ``"log1p"``, or ``{"target_sum": …, "log1p": …}``; in float64.
        as_anndata: an AnnData instead.
        progress: show a bar; None: where somebody looks on.
        missing: cells that were removed from the store: an "error", or "drop".
        store: where the store is now, if it moved.
        engine: who makes the sums, piece by piece of the cells, and hands them back: a
            ``dask.distributed`` client or cluster, ``"dask"`` (the client there is), ``"ray"``,
            or an executor of ``concurrent.futures``; None: this process. All must see the store.

    Returns:
        A row a group and gene, groups sorted (nulls last), genes in order: the columns of
        ``by``, ``gene``, ``n_cells`` (in which the gene was measured) and one for each
        ``agg``; null where too few cells were measured, NaN where values are. Or, groups ×
        genes, an AnnData: X the first ``agg``, layers the others, obs with ``n_cells`` (all of
        the group), NaN (sums and counts: 0) where none was measured. A cell that is twice in
        the frame counts twice.

    Raises:
        DaoImportError: ``as_anndata`` without anndata.
        Everything that ``iter_batches`` raises for the same arguments.
    """
    groups = grouped(
        frame, by, genes, gene_key, duplicates, layer, normalize, missing, store, engine
    )
    return pseudobulk_of(groups, agg, as_anndata, progress)


def pseudobulk_of(
    groups: Groups, agg: str | Iterable[str], as_anndata: bool, progress: bool | None
) -> pl.DataFrame | AnnData:
    """The table of ``pseudobulk`` of these groups."""
    names = [agg] if isinstance(agg, str) else list(agg)
    for name in names:
        if name not in _AGGREGATES:
            known = ", ".join(map(repr, _AGGREGATES))
            raise DaoValueError(f"agg={name!r}; expected one or several of {known}")
    if not names or len(set(names)) < len(names):
        raise DaoValueError(f"agg={agg!r}; expected each aggregate once, and at least one")
    if not groups.labels.columns:
        raise DaoValueError("by=None makes no groups; for all cells together: gene_stats()")
    _check_names(groups, {"n_cells"} | ({"obs_name"} if as_anndata else {"gene", *names}))
    anndata = require("anndata", "pseudobulk(as_anndata=True)") if as_anndata else None
    sums = groups.counted("pseudobulk", progress)
    columns = {name: _AGGREGATES[name](sums, 1) for name in names}
    if anndata is None:
        return _tidy(groups, columns)
    layers = {name: values.astype(np.float64, copy=False) for name, (values, _) in columns.items()}
    x = layers.pop(names[0])
    joined = pl.concat_str(pl.all().cast(pl.String).fill_null("null"), separator="_")
    obs = groups.labels.select(
        joined.alias("obs_name"), pl.all(), n_cells=pl.Series(groups.n_cells)
    )
    adata = anndata.AnnData(
        X=x,
        obs=to_pandas(obs, [], complete=True),
        var=to_pandas(pl.DataFrame({"gene": groups.genes}), [], index="gene", complete=True),
        layers=layers,
    )
    adata.obs_names_make_unique()
    return adata


def _check_names(groups: Groups, own: set[str]) -> None:
    if taken := own & set(groups.labels.columns):
        raise DaoValueError(
            f"by= has columns of the result's own names: {', '.join(map(repr, sorted(taken)))}; "
            'rename them: pl.col("…").alias("…")'
        )


def _tidy(groups: Groups, columns: Mapping[str, _Column]) -> pl.DataFrame:
    """The table with one row for each group and gene; undefined values are null."""
    labels, (n_groups, n_genes) = groups.labels, groups.shape
    frame = pl.DataFrame(
        {
            "gene": groups.genes.gather(np.tile(np.arange(n_genes, dtype=np.uint32), n_groups)),
            "n_cells": groups.measured.ravel(),
            **{name: values.ravel() for name, (values, _) in columns.items()},
        }
    )
    least = groups.measured.min(initial=1 << 62)
    for name, (_, needed) in columns.items():
        if least < needed:
            defined = pl.Series((groups.measured >= needed).ravel())
            frame = frame.with_columns(pl.when(defined).then(pl.col(name)))
    if not labels.columns:
        return frame
    rows = np.repeat(np.arange(n_groups, dtype=np.uint32), n_genes)
    return pl.concat([labels.select(pl.all().gather(rows)), frame], how="horizontal")
