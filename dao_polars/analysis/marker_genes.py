"""Genes that mark groups of cells: t-tests, from the statistics of one pass.

Owns the tests as scanpy's ``rank_genes_groups`` has them:
<https://scanpy.readthedocs.io/en/stable/api/generated/scanpy.tl.rank_genes_groups.html>.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from .._args import Column, Normalize, listed
from ..engines.run import Engine
from ..errors import DaoKeyError, DaoValueError
from ..genes.request import Duplicates, Genes
from ..select.selection import Missing, StoreLike
from .groups import Groups, Moments
from .spread import grouped

Method = Literal["t-test", "t-test_overestim_var"]

_TINY = 1e-9  # keeps fold changes of genes that are zero finite


def rank_genes_groups(
    frame: pl.LazyFrame,
    by: Column,
    *,
    reference: Any = "rest",
    method: Method = "t-test",
    genes: Genes = None,
    gene_key: str | None = None,
    duplicates: Duplicates = "error",
    layer: str | None = None,
    normalize: Normalize = "log1p_cp10k",
    progress: bool | None = None,
    missing: Missing = "error",
    store: StoreLike | None = None,
    engine: Engine | None = None,
) -> pl.DataFrame:
    """The genes that mark each group: Welch's t-tests, as scanpy's ``rank_genes_groups``.

    One pass over the cells.

    Args:
        frame: the one before ``.dao``.
        by: a column or expression of groups; cells where it is null are left out.
        reference: what each group is held against: ``"rest"``, all other cells, or one value
            of ``by``.
        method: ``"t-test"``, or ``"t-test_overestim_var"``, which takes as many cells for the
            reference as the group has.
        genes: None: all, and the datasets selected must share one feature space. Names: these, in
            this order. ``"intersection"`` or ``"union"`` of the datasets' genes.
        gene_key: the var column that genes are matched on, instead of the index.
        duplicates: what a name means that several genes of a dataset have: an ``"error"``; the
            ``"first"`` of them; the ``"sum"`` of their values; or ``"drop"``: none.
        layer: a layer's name; None: X.
        normalize: what is done to counts first; None for values that are logarithms already.
        progress: show a bar; None: where somebody looks on.
        missing: cells that were removed from the store: an ``"error"``, or ``"drop"``.
        store: where the store is now, if it moved.
        engine: who makes the sums, piece by piece of the cells, and hands them back: a
            ``dask.distributed`` client or cluster, ``"dask"`` (the client there is), ``"ray"``,
            or an executor of ``concurrent.futures``; None: this process. All must see the store.

    Returns:
        A row a group and gene, groups sorted, scores descending: ``group``, ``names``,
        ``scores`` (t), ``logfoldchanges`` (base 2, of the means without their logarithm),
        ``pvals``, ``pvals_adj`` (Benjamini and Hochberg, over the group's genes).

    Raises:
        DaoValueError: fewer than two groups, a group of one cell, an unknown ``reference``.
        Everything that ``iter_batches`` raises for the same arguments.
    """
    _check_method(method)
    for part in listed(by):
        if isinstance(part, (str, pl.Expr)):
            frame = frame.filter((pl.col(part) if isinstance(part, str) else part).is_not_null())
    groups = grouped(
        frame, by, genes, gene_key, duplicates, layer, normalize, missing, store, engine
    )
    return rank_genes_groups_of(groups, reference, method, progress)


def _check_method(method: str) -> None:
    if method not in get_args(Method):
        raise DaoValueError(f"method={method!r}; expected one of {', '.join(get_args(Method))}")


def rank_genes_groups_of(
    groups: Groups, reference: Any, method: Method, progress: bool | None
) -> pl.DataFrame:
    """The table of ``rank_genes_groups`` of these groups."""
    _check_method(method)
    if groups.labels.width != 1:
        raise DaoValueError("by= names several columns; expected one: pl.concat_str makes one")
    names = groups.labels.to_series()
    if len(names) < 2:
        raise DaoValueError(
            f"the cells are in {len(names)} group(s) of {names.name!r}; expected at least two"
        )
    if (groups.n_cells < 2).any():
        single = names.filter(pl.Series(groups.n_cells < 2)).to_list()
        raise DaoValueError(
            f"groups of one cell have no variance: {', '.join(map(str, single[:5]))}; filter them "
            "out first"
        )
    values = names.to_list()
    if reference != "rest" and reference not in values:
        known = ", ".join(map(repr, values[:10]))
        raise DaoKeyError(f"reference={reference!r} is no group of {names.name!r}: {known}")
    against = None if reference == "rest" else values.index(reference)
    moments = groups.counted("rank_genes_groups", progress).moments
    each = [moments[i] for i in range(len(names))]
    rests = _rests(each) if against is None else [each[against]] * len(each)
    tables = [
        _test(each[i], rests[i], groups.genes, method).select(
            pl.lit(names[i], dtype=names.dtype).alias("group"), pl.all()
        )
        for i in range(len(each))
        if i != against
    ]
    return pl.concat(tables)


def _rests(groups: list[Moments]) -> list[Moments]:
    """The moments of all other groups, for each group, merged from both ends."""
    before = [None, *accumulate(groups[:-1], Moments.__or__)]
    after = [None, *accumulate(groups[:0:-1], Moments.__or__)][::-1]
    pairs = zip(before, after, strict=True)
    return [b if a is None else a if b is None else b | a for b, a in pairs]  # type: ignore[misc]


def _test(group: Moments, rest: Moments, genes: pl.Series, method: Method) -> pl.DataFrame:
    from scipy import stats  # not when dao_polars is imported: it takes as long as all the rest

    cells = group.cells if method == "t-test_overestim_var" else rest.cells
    tested = (group.cells > 1) & (rest.cells > 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores, pvals = stats.ttest_ind_from_stats(
            group.mean,
            np.sqrt(group.variance()),
            group.cells,
            rest.mean,
            np.sqrt(rest.variance()),
            cells,
            equal_var=False,
        )
        change = np.log2((np.expm1(group.mean) + _TINY) / (np.expm1(rest.mean) + _TINY))
    # Means that are the same, without variance: no difference. (NaN among the values is none.)
    same = tested & (group.mean == rest.mean) & (group.variance() + rest.variance() == 0)
    scores, pvals = np.where(same, 0.0, scores), np.where(same, 1.0, pvals)
    adjusted = np.full(len(pvals), np.nan)
    known = tested & ~np.isnan(pvals)
    if known.any():
        adjusted[known] = stats.false_discovery_control(pvals[known])
    columns = {"scores": scores, "logfoldchanges": change, "pvals": pvals, "pvals_adj": adjusted}
    frame = pl.DataFrame({"names": genes, **columns})
    frame = frame.with_columns(pl.when(pl.Series(tested)).then(pl.col(*columns)))
    return frame.sort("scores", descending=True, nulls_last=True, maintain_order=True)
