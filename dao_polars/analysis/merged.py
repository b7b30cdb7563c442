"""Sums over groups of cells from several passes, each over some of the cells, merged.

Owns what of two passes is the same group, and the formula by which their sums become one.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from .._core import squared_deviations
from ..errors import DaoValueError
from .groups import Floats, Groups, GroupSums, Request, in_order

M = TypeVar("M", bound="Merged")

#: Sums of integers below this are exact.
_EXACT = 2.0**53


@dataclass(frozen=True)
class Clip:
    """The largest values that are added up: ``limits`` (n_groups, n_genes), ≥ 0."""

    labels: pl.DataFrame
    limits: Floats

    def of(self, labels: pl.DataFrame) -> Floats:
        """The limits of the groups that these labels name.

        Raises:
            DaoValueError: a group without limits.
        """
        rows = _rows(labels, self.labels)
        if (rows < 0).any():
            raise DaoValueError("clip= has no limits for some of the groups of these cells")
        return self.limits[rows]


@dataclass(frozen=True, eq=False)
class Merged(Groups):
    """The sums of groups × genes over all cells that were passed over.

    Attributes:
        sums: of all groups, as ``GroupSums``.
        request: what was read of the cells.
    """

    labels: pl.DataFrame
    n_cells: NDArray[np.int64]
    genes: pl.Series
    sums: GroupSums
    request: Request

    @property
    def measured(self) -> NDArray[np.int64]:
        """Cells of each group whose dataset has the gene, (n_groups, n_genes)."""
        return self.sums.cells

    def counted(self, label: str, progress: bool | None, clip: Floats | None = None) -> GroupSums:
        """The sums, which are known; of values above ``clip`` they are not."""
        if self.sums.above is not None:
            raise DaoValueError(
                "these are sums of the second pass of highly_variable_genes, without the values "
                "above its limits: statistics are of the first, partial(…) without clip="
            )
        if clip is not None:
            raise DaoValueError(
                "highly variable genes take a second pass: clipped= is what dao.merge makes of "
                "partial(…, clip=merged.clip())"
            )
        return self.sums

    def __or__(self: M, other: M) -> M:
        """The sums over the cells of both."""
        if self.request != other.request or not self.genes.equals(other.genes):
            raise DaoValueError(
                "partial sums of different requests cannot be merged: expected the same genes, "
                "layer, normalize, duplicates and columns of by in all of them"
            )
        labels = pl.concat([self.labels, other.labels])
        labels = labels if not labels.columns else in_order(labels.unique(maintain_order=True))
        labels = labels if labels.columns else self.labels
        if (self.sums.above is None) != (other.sums.above is None):
            raise DaoValueError("sums with and without clip= cannot be merged")
        ours, theirs = self._spread(labels), other._spread(labels)
        sums = _sum(ours.sums, theirs.sums)
        return replace(self, labels=labels, n_cells=ours.n_cells + theirs.n_cells, sums=sums)

    def _spread(self: M, labels: pl.DataFrame) -> M:
        """The same sums, with groups for all of these labels."""
        rows = _rows(self.labels, labels)
        n_groups = labels.height

        def spread(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
            wide = np.zeros((n_groups, *values.shape[1:]), dtype)
            wide[rows] = values
            return wide

        sums = self.sums
        wide = GroupSums(
            spread(sums.cells, np.int64),
            spread(sums.count, np.int64),
            spread(sums.total, np.float64),
            spread(sums.m2, np.float64),
            spread(sums.exact, np.float64),
            None if sums.above is None else spread(sums.above, np.int64),
        )
        return replace(self, labels=labels, n_cells=spread(self.n_cells, np.int64), sums=wide)


def merged(parts: Iterable[M]) -> M:
    """The sums over the cells of all parts, merged in their order.

    Raises:
        DaoValueError: no parts, or parts of different requests.
    """
    # One after the other as they come: an engine's results are not all in memory at once.
    left = iter(parts)
    if (first := next(left, None)) is None:
        raise DaoValueError("there are no partial sums to merge")
    return reduce(operator.or_, left, first)


def _sum(a: GroupSums, b: GroupSums) -> GroupSums:
    """The sums over the cells of both, of the same groups and genes.

    Of counts exact ones, else by the formula of Chan, Golub and LeVeque 1979.
    """
    count, total = a.count + b.count, a.total + b.total
    both = (a.count > 0) & (b.count > 0)
    m2 = a.m2 + b.m2
    apart = b.total[both] / b.count[both] - a.total[both] / a.count[both]
    m2[both] += apart * apart * a.count[both] * b.count[both] / count[both]
    exact = a.exact + b.exact
    exact[exact >= _EXACT] = np.nan
    counts = ~np.isnan(exact)
    m2[counts] = squared_deviations(count[counts].astype(np.uint64), total[counts], exact[counts])
    above = None if a.above is None or b.above is None else a.above + b.above
    return GroupSums(a.cells + b.cells, count, total, m2, exact, above)


def _rows(labels: pl.DataFrame, among: pl.DataFrame) -> NDArray[np.int64]:
    """The row of each label among others; -1 where it is none of them."""
    if not labels.columns:
        return np.zeros(labels.height, np.int64)
    numbered = among.with_columns(pl.int_range(pl.len()).alias("\0row"))
    found = labels.join(
        numbered, on=labels.columns, how="left", nulls_equal=True, maintain_order="left"
    )
    return found["\0row"].fill_null(-1).to_numpy().astype(np.int64)
