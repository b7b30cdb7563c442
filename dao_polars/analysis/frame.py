"""The statistics of the ``.dao`` namespace.

Owns the names, defaults and docstrings of these methods; the work is in the modules beside
this one. Must not know the rest of the namespace, which is built on top of this class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from .._args import Column, listed
from ..genes.request import Duplicates, Genes
from .groups import CellGroups
from .marker_genes import Method, rank_genes_groups
from .pseudobulk import gene_stats, pseudobulk
from .variable_genes import highly_variable_genes

if TYPE_CHECKING:
    from anndata import AnnData

    from ..store.store import Store

__all__ = ["AnalysisFrame"]


class AnalysisFrame:
    """Statistics of genes over a frame's cells: what [`DaoFrame`][dao_polars.DaoFrame] inherits."""

    def __init__(self, frame: pl.LazyFrame | pl.DataFrame) -> None:
        # Polars caches this object on the frame: holding the frame itself would be a cycle.
        self._frame = frame.lazy().clone()

    def pseudobulk(
        self,
        by: Column | Iterable[Column],
        agg: str | Iterable[str] = "sum",
        *,
        genes: Genes = None,
        gene_key: str | None = None,
        duplicates: Duplicates = "error",
        layer: str | None = None,
        normalize: str | Mapping[str, Any] | None = None,
        as_anndata: bool = False,
        progress: bool | None = None,
        store: Store | str | None = None,
    ) -> pl.DataFrame | AnnData:
        """Genes added up over groups of cells, in one pass on all cores.

        Memory grows with groups × genes, not with cells (but for their keys and groups).

        Args:
            by: columns or expressions whose values make the groups.
            agg: ``"sum"``, ``"mean"``, ``"var"``, ``"std"`` (both with n - 1), ``"count_nonzero"``,
                ``"fraction"`` (of cells that are not zero), or several of them.
            genes: as in [`iter_batches`][]. A dataset that lacks a gene says nothing of it: its
                cells do not count there.
            gene_key: as in [`iter_batches`][].
            duplicates: as in [`iter_batches`][].
            layer: a layer's name; None: X.
            normalize: as in [`iter_batches`][], before anything is added up, in float64.
            as_anndata: an AnnData instead.
            progress: show a bar; None: where somebody looks on.
            store: where the store is now, if it moved.

        Returns:
            A row a group and gene, groups sorted (nulls last), genes in order: the columns of
            ``by``, ``gene``, ``n_cells`` (in which the gene was measured) and one for each
            ``agg``; null where too few cells were measured, NaN where values are. Or, groups ×
            genes, an AnnData: X the first ``agg``, layers the others, obs with ``n_cells`` (all of
            the group), NaN (sums and counts: 0) where none was measured. A cell that is twice in
            the frame counts twice.

        Raises:
            DaoImportError: ``as_anndata`` without anndata.
            Everything that [`iter_batches`][] raises for the same arguments.
        """
        grouped = self._grouped(by, genes, gene_key, duplicates, layer, normalize, store)
        return pseudobulk(grouped, agg, as_anndata=as_anndata, progress=progress)

    def gene_stats(
        self,
        by: Column | Iterable[Column] | None = None,
        *,
        ddof: int = 1,
        genes: Genes = None,
        gene_key: str | None = None,
        duplicates: Duplicates = "error",
        layer: str | None = None,
        normalize: str | Mapping[str, Any] | None = None,
        progress: bool | None = None,
        store: Store | str | None = None,
    ) -> pl.DataFrame:
        """Mean, variance and more of each gene, over all cells or groups of them, in one pass.

        Args:
            by: columns or expressions whose values make the groups; None: all cells are one.
            ddof: variances are divided by n - ddof.
            genes: as in [`pseudobulk`][].
            gene_key: as in [`pseudobulk`][].
            duplicates: as in [`pseudobulk`][].
            layer: as in [`pseudobulk`][].
            normalize: as in [`pseudobulk`][].
            progress: as in [`pseudobulk`][].
            store: as in [`pseudobulk`][].

        Returns:
            A row a group and gene as [`pseudobulk`][] has them, with ``n_cells``, ``n_expressing``
            (Int64, cells that are not zero), ``fraction`` (of these), ``total``, ``mean``,
            ``variance`` (Float64). Sums of integers are exact below 2**53; variances are computed
            without subtracting large numbers; all are the same in every run.

        Raises:
            As [`pseudobulk`][].
        """
        grouped = self._grouped(by, genes, gene_key, duplicates, layer, normalize, store)
        return gene_stats(grouped, ddof=ddof, progress=progress)

    def highly_variable_genes(
        self,
        n_top_genes: int = 2000,
        *,
        batch_key: Column | None = None,
        span: float = 0.3,
        genes: Genes = None,
        gene_key: str | None = None,
        duplicates: Duplicates = "error",
        layer: str | None = None,
        progress: bool | None = None,
        store: Store | str | None = None,
    ) -> pl.DataFrame:
        """The genes that vary more than their mean explains, as scanpy's ``flavor="seurat_v3"``.

        Two passes over the cells, of counts that are not normalized.

        Args:
            n_top_genes: how many to mark.
            batch_key: a column or expression of batches: genes are ranked in each, and by their
                median rank then.
            span: share of the genes that each point of the fit (loess, mean against variance) sees.
            genes: as in [`iter_batches`][]; every dataset must have them.
            gene_key: as in [`iter_batches`][].
            duplicates: as in [`iter_batches`][].
            layer: a layer's name; None: X.
            progress: as in [`pseudobulk`][].
            store: as in [`pseudobulk`][].

        Returns:
            A row a gene: ``gene``, ``means``, ``variances``, ``variances_norm``,
            ``highly_variable_rank`` (null past ``n_top_genes`` in every batch),
            ``highly_variable_nbatches``, ``highly_variable``.

        Raises:
            DaoImportError: scikit-misc is not installed.
            DaoValueError: no cells, or genes that some of the datasets lack.
            Everything that [`iter_batches`][] raises for the same arguments.
        """
        grouped = self._grouped(batch_key, genes, gene_key, duplicates, layer, None, store)
        return highly_variable_genes(grouped, n_top_genes, span=span, progress=progress)

    def rank_genes_groups(
        self,
        by: Column,
        *,
        reference: Any = "rest",
        method: Method = "t-test",
        genes: Genes = None,
        gene_key: str | None = None,
        duplicates: Duplicates = "error",
        layer: str | None = None,
        normalize: str | Mapping[str, Any] | None = "log1p_cp10k",
        progress: bool | None = None,
        store: Store | str | None = None,
    ) -> pl.DataFrame:
        """The genes that mark each group: Welch's t-tests, as scanpy's ``rank_genes_groups``.

        One pass over the cells.

        Args:
            by: a column or expression of groups; cells where it is null are left out.
            reference: what each group is held against: ``"rest"``, all other cells, or one value
                of ``by``.
            method: ``"t-test"``, or ``"t-test_overestim_var"``, which takes as many cells for the
                reference as the group has.
            genes: as in [`iter_batches`][].
            gene_key: as in [`iter_batches`][].
            duplicates: as in [`iter_batches`][].
            layer: a layer's name; None: X.
            normalize: what is done to counts first; None for values that are logarithms already.
            progress: as in [`pseudobulk`][].
            store: as in [`pseudobulk`][].

        Returns:
            A row a group and gene, groups sorted, scores descending: ``group``, ``names``,
            ``scores`` (t), ``logfoldchanges`` (base 2, of the means without their logarithm),
            ``pvals``, ``pvals_adj`` (Benjamini and Hochberg, over the group's genes).

        Raises:
            DaoValueError: fewer than two groups, a group of one cell, an unknown ``reference``.
            Everything that [`iter_batches`][] raises for the same arguments.
        """
        frame = self._frame
        for part in listed(by):
            if isinstance(part, (str, pl.Expr)):
                frame = frame.filter(
                    (pl.col(part) if isinstance(part, str) else part).is_not_null()
                )
        grouped = AnalysisFrame(frame)._grouped(
            by, genes, gene_key, duplicates, layer, normalize, store
        )
        return rank_genes_groups(grouped, reference=reference, method=method, progress=progress)

    def _grouped(
        self,
        by: Column | Iterable[Column] | None,
        genes: Genes,
        gene_key: str | None,
        duplicates: Duplicates,
        layer: str | None,
        normalize: str | Mapping[str, Any] | None,
        store: Store | str | None,
    ) -> CellGroups:
        return CellGroups(
            self._frame,
            by,
            genes=genes,
            gene_key=gene_key,
            duplicates=duplicates,
            layer=layer,
            normalize=normalize,
            store=store,
        )
