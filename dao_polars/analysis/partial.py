"""Sums over groups of cells as users hold them: of a piece of a selection, and merged.

Owns the public way to do by hand what ``engine=`` does. The statistics are their modules'.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from .._args import Column, Normalize, integer
from ..errors import DaoTypeError, DaoValueError
from ..genes.request import Duplicates, Genes
from ..select.selection import Missing, StoreLike
from .groups import CellGroups
from .marker_genes import Method, rank_genes_groups_of
from .merged import Clip, Merged, merged
from .pseudobulk import gene_stats_of, pseudobulk_of
from .spread import summed
from .variable_genes import Fit

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, eq=False, repr=False)
class Partial(Merged):
    """Counts, sums and squared deviations of groups × genes, over some cells or all.

    Made by ``.dao.partial`` and ``dao.merge``. Pickles; ``a | b`` merges two.

    Attributes:
        labels: the values that name each group, (n_groups, columns of ``by``), sorted, nulls last.
        n_cells: cells of each group, (n_groups,).
        genes: names, (n_genes,) String.
    """

    def gene_stats(self, *, ddof: int = 1) -> pl.DataFrame:
        """What ``.dao.gene_stats`` gives of all these cells together."""
        return gene_stats_of(self, ddof, False)

    def pseudobulk(
        self, agg: str | Iterable[str] = "sum", *, as_anndata: bool = False
    ) -> pl.DataFrame | AnnData:
        """What ``.dao.pseudobulk`` gives of all these cells together."""
        return pseudobulk_of(self, agg, as_anndata, False)

    def rank_genes_groups(
        self, *, reference: Any = "rest", method: Method = "t-test"
    ) -> pl.DataFrame:
        """What ``.dao.rank_genes_groups`` gives of all these cells together.

        Of sums of ``partial(by, normalize="log1p_cp10k")`` of cells where ``by`` is not null.
        """
        return rank_genes_groups_of(self, reference, method, False)

    def clip(self, *, span: float = 0.3) -> Clip:
        """The limits of the second pass of ``highly_variable_genes``: ``partial(…, clip=…)``.

        Raises:
            DaoImportError: scikit-misc is not installed.
            DaoValueError: groups or genes that have no curve.
        """
        return Clip(self.labels, Fit(self, span, False).clip)

    def highly_variable_genes(
        self, clipped: Partial, n_top_genes: int = 2000, *, span: float = 0.3
    ) -> pl.DataFrame:
        """What ``.dao.highly_variable_genes`` gives of all these cells together.

        Args:
            clipped: what ``dao.merge`` makes of the second pass, ``partial(…, clip=self.clip())``.
            n_top_genes: how many to mark.
            span: that of ``clip``.
        """
        if not isinstance(clipped, Partial) or not clipped.labels.equals(self.labels):
            raise DaoValueError(
                "clipped= has other groups; expected what dao.merge makes of partial(…, "
                "clip=merged.clip()) of the same cells"
            )
        if clipped.sums.above is None:
            raise DaoValueError("clipped= was made without clip=: partial(…, clip=merged.clip())")
        n_top_genes = integer("n_top_genes", n_top_genes, 1)
        return Fit(self, span, False).table(n_top_genes, clipped.sums)

    def __repr__(self) -> str:
        n_groups, n_genes = self.shape
        cells = int(self.n_cells.sum())
        return f"Partial of {cells:,} cells: {n_groups:,} groups × {n_genes:,} genes"


def partial(
    frame: pl.LazyFrame,
    by: Column | Iterable[Column] | None = None,
    *,
    genes: Genes = None,
    gene_key: str | None = None,
    duplicates: Duplicates = "error",
    layer: str | None = None,
    normalize: Normalize = None,
    clip: Clip | None = None,
    num_threads: int | None = None,
    progress: bool | None = None,
    missing: Missing = "error",
    store: StoreLike | None = None,
) -> Partial:
    """The sums over the frame's cells that all statistics are made of, to be merged with others.

    For engines that ``engine=`` does not know: each of ``frame.dao.partitions(n)`` is a task, which
    returns this, and ``dao.merge`` makes of them the sums of all cells: of counts those of one
    pass, digit for digit, variances too; of other numbers to the last digits.

    Args:
        frame: the one before ``.dao``: a piece of a selection.
        by: columns or expressions whose values make the groups; None: all cells are one. Of a
            piece they must be what they are of the whole: no ranks or quantiles of its cells.
        genes: None: all, and the datasets selected must share one feature space. Names: these, in
            this order; of a piece not ``"intersection"`` or ``"union"``, which are of its own
            datasets.
        gene_key: the var column that genes are matched on, instead of the index.
        duplicates: what a name means that several genes of a dataset have: an ``"error"``; the
            ``"first"`` of them; the ``"sum"`` of their values; or ``"drop"``: none.
        layer: a layer's name; None: X.
        normalize: what is done to counts first, as in ``gene_stats``.
        clip: the largest values that are added up, as ``Partial.clip`` says.
        num_threads: reading threads; None: one a core.
        progress: show a bar; None: where somebody looks on.
        missing: cells that were removed from the store: an ``"error"``, or ``"drop"``.
        store: where the store is now, if it moved.

    Raises:
        As ``gene_stats``.
    """
    if clip is not None and not isinstance(clip, Clip):
        raise DaoTypeError(f"clip={clip!r}; expected what Partial.clip gives")
    threads = None if num_threads is None else integer("num_threads", num_threads, 1, 1024)
    groups = CellGroups(
        frame, by, genes, gene_key, duplicates, layer, normalize, missing, store, threads
    )
    made = summed(groups, clip, progress, Partial)
    assert isinstance(made, Partial)
    return made


def merge(parts: Iterable[Partial]) -> Partial:
    """The sums over the cells of all parts, which ``.dao.partial`` made.

    Args:
        parts: merged in this order: the same order gives the same digits.

    Raises:
        DaoTypeError: something else among them.
        DaoValueError: no parts, or parts of other genes, groups or settings.
    """
    parts = list(parts)
    for part in parts:
        if not isinstance(part, Partial):
            raise DaoTypeError(f"parts= holds {part!r}; expected what .dao.partial gives")
    return merged(parts)
