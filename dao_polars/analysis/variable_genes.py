"""Highly variable genes, from the statistics of two passes.

Owns the formula of Seurat v3 (Stuart et al. 2019, <https://doi.org/10.1016/j.cell.2019.05.031>) as
scanpy has it: <https://scanpy.readthedocs.io/en/stable/api/generated/scanpy.pp.highly_variable_genes.html>.
"""

from __future__ import annotations

import warnings
from functools import reduce
from typing import Any

import numpy as np
import polars as pl

from .._args import Column, integer
from .._extras import require
from ..engines.run import Engine
from ..errors import DaoValueError
from ..genes.request import Duplicates, Genes
from ..select.selection import Missing, StoreLike
from .groups import Floats, Groups, GroupSums, Moments
from .spread import grouped

_LABEL = "highly_variable_genes"
_LEAST = 4  # genes that a point of the fit sees: it is a parabola


def highly_variable_genes(
    frame: pl.LazyFrame,
    n_top_genes: int = 2000,
    *,
    batch_key: Column | None = None,
    span: float = 0.3,
    genes: Genes = None,
    gene_key: str | None = None,
    duplicates: Duplicates = "error",
    layer: str | None = None,
    progress: bool | None = None,
    missing: Missing = "error",
    store: StoreLike | None = None,
    engine: Engine | None = None,
) -> pl.DataFrame:
    """The genes that vary more than their mean explains, as scanpy's ``flavor="seurat_v3"``.

    Two passes over the cells, of counts that are not normalized.

    Args:
        frame: the one before ``.dao``.
        n_top_genes: how many to mark.
        batch_key: a column or expression of batches: genes are ranked in each, and by their
            median rank then.
        span: share of the genes that each point of the fit (loess, mean against variance) sees.
        genes: None: all, and the datasets selected must share one feature space. Names: these, in
            this order. ``"intersection"`` or ``"union"`` of the datasets' genes. Every
            dataset must have them.
        gene_key: the var column that genes are matched on, instead of the index.
        duplicates: what a name means that several genes of a dataset have: an ``"error"``; the
            ``"first"`` of them; the ``"sum"`` of their values; or ``"drop"``: none.
        layer: a layer's name; None: X.
        progress: show a bar; None: where somebody looks on.
        missing: cells that were removed from the store: an ``"error"``, or ``"drop"``.
        store: where the store is now, if it moved.
        engine: who makes the sums, piece by piece of the cells, and hands them back: a
            ``dask.distributed`` client or cluster, ``"dask"`` (the client there is), ``"ray"``,
            or an executor of ``concurrent.futures``; None: this process. All must see the store.

    Returns:
        A row a gene: ``gene``, ``means``, ``variances``, ``variances_norm``,
        ``highly_variable_rank`` (null past ``n_top_genes`` in every batch),
        ``highly_variable_nbatches``, ``highly_variable``.

    Raises:
        DaoImportError: scikit-misc is not installed.
        DaoValueError: no cells, or genes that some of the datasets lack.
        Everything that ``iter_batches`` raises for the same arguments.
    """
    n_top_genes = integer("n_top_genes", n_top_genes, 1)
    require("skmisc.loess", "highly_variable_genes")
    groups = grouped(
        frame, batch_key, genes, gene_key, duplicates, layer, None, missing, store, engine
    )
    fit = Fit(groups, span, progress)
    clipped = groups.counted(_LABEL, progress, fit.clip)
    return fit.table(n_top_genes, clipped)


class Fit:
    """The curve of variance against mean in each group of cells, and how far genes lie above it.

    Attributes:
        clip: the value of each group and gene above which values count as that, ≥ 0.
    """

    def __init__(self, groups: Groups, span: float, progress: bool | None) -> None:
        loess = require("skmisc.loess", "highly_variable_genes").loess
        if not groups.n_cells.sum():
            raise DaoValueError("no cells are selected: no gene varies")
        if (groups.measured != groups.n_cells[:, None]).any():
            raise DaoValueError(
                "some of the datasets lack some of the genes, whose variances are then of other "
                'cells: pass genes="intersection"'
            )
        if (groups.n_cells < 2).any():
            raise DaoValueError("a batch of one cell has no variance; filter it out first")
        if isinstance(span, bool) or not isinstance(span, (int, float)) or not 0 < span <= 1:
            raise DaoValueError(f"span={span!r}; expected a number above 0 and at most 1")
        self._genes = groups.genes
        self._moments = groups.counted(_LABEL, progress).moments
        mean, variance = self._moments.mean, self._moments.variance()
        self._scale = np.stack(
            [_fit(loess, *batch, span) for batch in zip(mean, variance, strict=True)]
        )
        self._n = groups.n_cells[:, None].astype(np.float64)
        self.clip: Floats = self._scale * np.sqrt(self._n) + mean

    def table(self, n_top_genes: int, sums: GroupSums) -> pl.DataFrame:
        """The table of ``highly_variable_genes``, of the sums of clipped values."""
        moments, n = self._moments, self._n
        mean = moments.mean
        total, squares = sums.clipped(self.clip)
        with np.errstate(divide="ignore", invalid="ignore"):
            norm = (n * mean**2 + squares - 2 * total * mean) / ((n - 1) * self._scale**2)

        # Genes that vary alike keep their order.
        rank = np.argsort(np.argsort(-norm, axis=1, kind="stable"), axis=1).astype(np.float32)
        n_batches = (rank < n_top_genes).sum(axis=0)
        rank[rank >= n_top_genes] = np.nan
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about genes that are in no batch's list
            median = np.nanmedian(rank, axis=0)
        whole: Moments = reduce(Moments.__or__, (moments[i : i + 1] for i in range(len(mean))))
        # Genes in no batch's list come last, and genes that are alike keep their order.
        order = np.lexsort((-n_batches, median))
        top = np.zeros(len(median), bool)
        top[order[:n_top_genes]] = True
        return pl.DataFrame(
            {
                "gene": self._genes,
                "means": whole.mean[0],
                "variances": whole.variance()[0],
                "variances_norm": norm.mean(axis=0),
                "highly_variable_rank": pl.Series(median, dtype=pl.Float32).fill_nan(None),
                "highly_variable_nbatches": n_batches,
                "highly_variable": top,
            }
        )


def _fit(loess: Any, mean: Floats, variance: Floats, span: float) -> Floats:
    """The standard deviation that genes of such means have; 1 for genes that do not vary."""
    varies = variance > 0
    fitted = np.zeros(len(mean))
    if n := int(varies.sum()):
        try:
            if span * n < _LEAST:  # with fewer the library writes where it must not
                raise ValueError(f"each point of it should see at least {_LEAST}")
            model = loess(np.log10(mean[varies]), np.log10(variance[varies]), span=span, degree=2)
            model.fit()
        except ValueError as error:
            why = error.args[0].decode() if isinstance(error.args[0], bytes) else error
            raise DaoValueError(
                f"no curve can be fitted through {n} genes that vary with span={span} ({why}); "
                "take more genes or a larger span="
            ) from error
        fitted[varies] = model.outputs.fitted_values
    return np.asarray(np.sqrt(10**fitted))
