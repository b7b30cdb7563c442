"""A frame's cells in groups, and the statistics of genes over them.

Owns the grouping, the one pass over the cells' matrix, and what mean, variance and the rest mean
where cells have no value (zero) or their dataset has no such gene (not measured).
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from .._args import Column, Normalize, codes, columns_of, listed, normalization
from .._core import Genes as ResolvedGenes
from .._core import Reader
from .._progress import progress_bar
from ..convert.arrays import MatrixForm
from ..errors import DaoKeyError, DaoValueError
from ..genes.request import Duplicates, Genes
from ..select.counts import check_counts
from ..select.selection import (
    Missing,
    Selection,
    StoreLike,
    matrix_name,
    select,
    stored_types,
)

Floats = NDArray[np.float64]

#: The stored types whose every value is a float32: reading as float32 is faster.
_NARROW = {"uint8", "int8", "uint16", "int16", "float32"}


def per_cell(values: NDArray[Any], cells: NDArray[np.int64]) -> Floats:
    """The values by numbers of cells; NaN where these are 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray(values / cells)


@dataclass(frozen=True)
class Moments:
    """The moments of groups × genes: count, total and squared deviations, zeros included.

    Attributes:
        cells: cells of which the gene was measured.
        total: their sum.
        m2: their squared deviations from their mean, summed.
    """

    cells: NDArray[np.int64]
    total: Floats
    m2: Floats

    @property
    def mean(self) -> Floats:
        """The mean; NaN where no cell was measured."""
        return per_cell(self.total, self.cells)

    def variance(self, ddof: int = 1) -> Floats:
        """The variance; NaN where there are no more than ``ddof`` cells."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.cells > ddof, self.m2 / (self.cells - ddof), np.nan)

    def __or__(self, other: Moments) -> Moments:
        """The moments of the cells of both (Chan, Golub and LeVeque 1979)."""
        cells = self.cells + other.cells
        both = (self.cells > 0) & (other.cells > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            apart = np.where(both, other.mean - self.mean, 0)
            between = np.where(both, apart**2 * self.cells * other.cells / cells, 0)
        return Moments(cells, self.total + other.total, self.m2 + other.m2 + between)

    def __getitem__(self, groups: Any) -> Moments:
        return Moments(self.cells[groups], self.total[groups], self.m2[groups])


@dataclass(frozen=True)
class GroupSums:
    """The sums of groups × genes that one pass over the cells gave, zeros left out.

    Attributes:
        cells: cells of which the gene was measured.
        count: those whose value is not zero, nor above a limit.
        total: their sum.
        m2: squared deviations of these values from their own mean, summed.
        exact: the sum of their squares where it is exact, as that of counts is; else NaN.
        above: cells whose value is above the limit; None where there were no limits.
    """

    cells: NDArray[np.int64]
    count: NDArray[np.integer[Any]]
    total: Floats
    m2: Floats
    exact: Floats
    above: NDArray[np.integer[Any]] | None = None

    def clipped(self, limits: Floats) -> tuple[Floats, Floats]:
        """The sum of all values and that of their squares, where those above a limit count as it.

        Of counts the same however the cells were divided: what is added up before is exact.
        """
        assert self.above is not None
        with np.errstate(invalid="ignore", divide="ignore"):
            rounded = np.where(self.count > 0, self.m2 + self.total**2 / self.count, 0)
        squares = np.where(np.isnan(self.exact), rounded, self.exact)
        return self.total + self.above * limits, squares + self.above * limits**2

    @property
    def moments(self) -> Moments:
        """The moments with the zeros included, as ``Moments``."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            between = self.total / self.count
            between *= self.total
            between *= (self.cells - self.count) / self.cells
        between[self.count == self.cells] = 0
        between[self.count == 0] = 0
        between += self.m2
        return Moments(self.cells, self.total, between)


@dataclass(frozen=True)
class Request:
    """What is read of the cells, beside which genes: sums of different requests have no sum."""

    by: tuple[str, ...]
    layer: str | None
    gene_key: str | None
    duplicates: Duplicates
    normalize: tuple[float | None, bool] | None


class Groups(ABC):
    """Cells in groups, and the sums of their genes, wherever these come from.

    Attributes:
        labels: the values that name each group, (n_groups, columns of ``by``), sorted, nulls last.
        n_cells: cells of each group.
        genes: names, (n_genes,).
    """

    labels: pl.DataFrame
    n_cells: NDArray[np.int64]
    genes: pl.Series

    @property
    @abstractmethod
    def measured(self) -> NDArray[np.int64]:
        """Cells of each group whose dataset has the gene, (n_groups, n_genes); read-only."""

    @abstractmethod
    def counted(self, label: str, progress: bool | None, clip: Floats | None = None) -> GroupSums:
        """The sums of all groups.

        Values above ``clip``, (n_groups, n_genes), ≥ 0, are in none, but counted. A bar says
        ``label``.
        """

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of groups and genes."""
        return self.labels.height, len(self.genes)


class CellGroups(Groups):
    """A frame's cells in groups, and the matrix that is read of them, in one pass each time."""

    def __init__(
        self,
        frame: pl.LazyFrame,
        by: Column | Iterable[Column] | None,
        genes: Genes,
        gene_key: str | None,
        duplicates: Duplicates,
        layer: str | None,
        normalize: Normalize,
        missing: Missing,
        store: StoreLike | None,
        threads: int | None = None,
    ) -> None:
        by = None if by is None else listed(by)
        self._threads = threads
        columns, known = columns_of(by), frame.collect_schema().names()
        for name in [column for column in columns if column not in known]:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known[:10]
            raise DaoKeyError(
                f"by= names column {name!r}, which the frame does not have; the nearest: "
                f"{', '.join(map(repr, near))}"
            )
        selection = select(frame, store, False, columns, missing)
        self._codes, self.labels = _groups(selection.frame, by)
        n_groups = self.labels.height
        self.n_cells = np.bincount(self._codes, minlength=n_groups).astype(np.int64)
        resolved = selection.resolve(genes, gene_key, duplicates)
        self.genes = selection.gene_names(resolved, gene_key)
        matrix = matrix_name(layer)
        normalized = normalization(normalize, "float64")
        check_counts(selection, matrix, normalized)
        stored = stored_types(selection.store, selection.parts(), matrix)
        # Not as float32 where duplicates are summed: a sum may need more digits than it has.
        narrow = normalized is None and duplicates != "sum" and _NARROW.issuperset(stored)
        dtype = "float32" if narrow else "float64"
        form = MatrixForm(matrix, len(self.genes), dtype=dtype, normalize=normalized)
        self._measured = _measured(selection, self._codes, n_groups, resolved)
        self._reader = Reader(selection.store._core, selection.cells, resolved, [form])
        self.request = Request(tuple(self.labels.columns), layer, gene_key, duplicates, normalized)

    @property
    def measured(self) -> NDArray[np.int64]:  # noqa: D102  (described above)
        return self._measured

    def counted(  # noqa: D102  (described above)
        self, label: str, progress: bool | None, clip: Floats | None = None
    ) -> GroupSums:
        with progress_bar(progress, total=len(self._codes), unit="cell", label=label) as advance:
            count, total, m2, exact, above = self._reader.moments(
                self._codes,
                self.shape[0],
                clip=None if clip is None else np.ascontiguousarray(clip).ravel(),
                advance=advance,
                threads=self._threads,
            )
        shape = self.shape
        return GroupSums(
            self.measured,
            count.reshape(shape),
            total.reshape(shape),
            m2.reshape(shape),
            exact.reshape(shape),
            None if clip is None else above.reshape(shape),
        )


def _groups(
    frame: pl.DataFrame, by: list[Column] | None
) -> tuple[NDArray[np.uint32], pl.DataFrame]:
    if by is None:
        return np.zeros(frame.height, np.uint32), pl.DataFrame({"": [None]}).drop("")
    names = [part if isinstance(part, str) else part.meta.output_name() for part in by]
    if len(set(names)) < len(names):
        raise DaoValueError(f"by= has columns of one name: {', '.join(map(repr, names))}")
    found, labels = codes(frame, by, "by")
    labels = labels.rename(dict(zip(labels.columns, names, strict=True)))
    order = _order(labels)
    rank = np.empty(labels.height, np.uint32)
    rank[order.to_numpy()] = np.arange(labels.height, dtype=np.uint32)
    return rank[found], labels[order]


def in_order(labels: pl.DataFrame) -> pl.DataFrame:
    """The labels of groups as results have them: sorted, nulls last."""
    return labels[_order(labels)]


def _order(labels: pl.DataFrame) -> pl.Series:
    sorting = pl.arg_sort_by(labels.columns, nulls_last=True, maintain_order=True)
    return labels.select(sorting).to_series()


def _measured(
    selection: Selection, groups: NDArray[np.uint32], n_groups: int, genes: ResolvedGenes
) -> NDArray[np.int64]:
    """The cells of each group whose dataset has the gene, (n_groups, n_genes); read-only."""
    columns = {number: genes.columns(number) for number in selection.numbers}
    if all(found is None for found in columns.values()):
        cells = np.bincount(groups, minlength=n_groups)[:, None]
        return np.broadcast_to(cells, (n_groups, genes.n_genes))
    measured = np.zeros((n_groups, genes.n_genes), np.int64)
    numbers = selection.keys >> np.uint64(32)
    for number, found in columns.items():
        cells = np.bincount(groups[numbers == number], minlength=n_groups)
        measured[:, slice(None) if found is None else found >= 0] += cells[:, None]
    return measured
