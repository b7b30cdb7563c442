"""Statistics of genes over groups of cells, and the tables made of them.

Owns the grouping of a frame's cells, the one pass over their matrices, and what mean, variance and
the rest mean where cells have no value (zero) or their dataset has no such gene (not measured).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from .._core import Reader
from .._extras import require
from .._progress import progress_bar
from ..batches.matrices import normalization
from ..batches.sampling import Column, codes, columns_of, integer, listed
from ..convert.tables import to_pandas
from ..errors import DaoKeyError, DaoValueError
from ..genes.request import Genes, Resolved
from ..select.selection import Selection, matrix_name, select, stored_types
from ..store.store import Store

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Counted", "Grouped", "Moments", "gene_stats", "pseudobulk"]

Floats = NDArray[np.float64]

#: Stored types whose every value is a float32, which is read faster.
_NARROW = {"uint8", "int8", "uint16", "int16", "float32"}


def _per_cell(values: NDArray[Any], cells: NDArray[np.int64]) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.asarray(values / cells)


@dataclass(frozen=True)
class Moments:
    """Count, mean and squared deviations of groups × genes, zeros among them.

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
        """NaN where no cell was measured."""
        return _per_cell(self.total, self.cells)

    def variance(self, ddof: int = 1) -> Floats:
        """NaN where there are no more than ``ddof`` cells."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.cells > ddof, self.m2 / (self.cells - ddof), np.nan)

    def __or__(self, other: Moments) -> Moments:
        """Of the cells of both (Chan, Golub and LeVeque 1979)."""
        cells = self.cells + other.cells
        both = (self.cells > 0) & (other.cells > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            apart = np.where(both, other.mean - self.mean, 0)
            between = np.where(both, apart**2 * self.cells * other.cells / cells, 0)
        return Moments(cells, self.total + other.total, self.m2 + other.m2 + between)

    def __getitem__(self, groups: Any) -> Moments:
        return Moments(self.cells[groups], self.total[groups], self.m2[groups])


@dataclass(frozen=True)
class Counted:
    """What a pass over the cells gave, groups × genes.

    Attributes:
        cells: cells of which the gene was measured.
        count: those whose value is not zero.
        total: their sum.
        m2: squared deviations of what is not zero from its own mean, summed.
    """

    cells: NDArray[np.int64]
    count: NDArray[np.uint32]
    total: Floats
    m2: Floats

    @property
    def fraction(self) -> Floats:
        """Of the cells, those whose value is not zero; NaN where none was measured."""
        return _per_cell(self.count, self.cells)

    @property
    def mean(self) -> Floats:
        """NaN where none was measured."""
        return _per_cell(self.total, self.cells)

    @property
    def moments(self) -> Moments:
        """With the zeros: as [`Moments`][] of both together, in little more memory."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            between = self.total / self.count
            between *= self.total
            between *= (self.cells - self.count) / self.cells
        between[self.count == self.cells] = 0
        between[self.count == 0] = 0
        between += self.m2
        return Moments(self.cells, self.total, between)


class Grouped:
    """A frame's cells in groups, and the matrix that is asked of them.

    Attributes:
        labels: the values that name each group, (n_groups, columns of ``by``), sorted, nulls last.
        n_cells: cells of each group.
        genes: names, (n_genes,).
        matrix: what the matrix is called, for progress bars.
    """

    def __init__(
        self,
        frame: pl.LazyFrame,
        by: Column | Iterable[Column] | None,
        *,
        genes: Genes,
        gene_key: str | None,
        layer: str | None,
        normalize: str | Mapping[str, Any] | None,
        store: Store | str | None,
    ) -> None:
        by = None if by is None else listed(by)
        _check_columns(frame, by)
        selection = select(frame, store, False, columns_of(by))
        self._codes, self.labels = _groups(selection.frame, by)
        n_groups = self.labels.height
        self.n_cells = np.bincount(self._codes, minlength=n_groups).astype(np.int64)
        resolved, parts = selection.resolve(genes, gene_key)
        named = resolved.names
        self.genes = _all_names(selection, gene_key, resolved) if named is None else named
        self.matrix = matrix_name(layer)
        normalized = normalization(normalize, "float64")
        target_sum, log1p = normalized or (None, False)
        stored = stored_types(selection.store, selection.datasets(), self.matrix)
        narrow = normalized is None and _NARROW.issuperset(stored)
        self.measured = _measured(selection, self._codes, n_groups, parts, len(self.genes))
        self._reader = Reader(
            selection.store._core,
            selection.keys,
            parts if len(selection.keys) else [],
            matrix=self.matrix,
            n_columns=len(self.genes),
            dtype="float32" if narrow else "float64",
            target_sum=target_sum,
            log1p=log1p,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Groups and genes."""
        return self.labels.height, len(self.genes)

    def counted(
        self, *, clip: Floats | None = None, progress: bool | None = None, label: str
    ) -> Counted:
        """One pass over the cells.

        Args:
            clip: (n_groups, n_genes), ≥ 0: larger values count as this.
            progress: show a bar; None: where somebody looks on.
            label: what the bar says.
        """
        with progress_bar(progress, total=len(self._codes), unit="cell", label=label) as advance:
            count, total, m2 = self._reader.moments(
                self._codes,
                self.shape[0],
                clip=None if clip is None else np.ascontiguousarray(clip).ravel(),
                advance=advance,
            )
        shape = self.shape
        return Counted(self.measured, count.reshape(shape), total.reshape(shape), m2.reshape(shape))


def _check_columns(frame: pl.LazyFrame, by: list[Column] | None) -> None:
    names = frame.collect_schema().names()
    for name in columns_of(by):
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:10]
            raise DaoKeyError(
                f"by= names column {name!r}, which the frame does not have; the nearest: "
                f"{', '.join(map(repr, near))}"
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
    order = labels.with_row_index("\0code").sort(names, nulls_last=True, maintain_order=True)
    rank = np.empty(labels.height, np.uint32)
    rank[order["\0code"].to_numpy()] = np.arange(labels.height, dtype=np.uint32)
    return rank[found], order.drop("\0code")


def _all_names(selection: Selection, gene_key: str | None, resolved: Resolved) -> pl.Series:
    """Names of all genes of the one feature space."""
    entries = selection.datasets()
    if not entries or entries[0].n_vars != resolved.n_genes:
        return pl.Series("gene", [], dtype=pl.String)
    return selection.store.var(entries[0].name)[gene_key or "var_name"].cast(pl.String)


def _measured(
    selection: Selection,
    groups: NDArray[np.uint32],
    n_groups: int,
    parts: list[tuple[int, NDArray[np.int32] | None]],
    n_genes: int,
) -> NDArray[np.int64]:
    """Cells of each group whose dataset has the gene, (n_groups, n_genes); read-only."""
    if all(columns is None for _, columns in parts):
        cells = np.bincount(groups, minlength=n_groups)[:, None]
        return np.broadcast_to(cells, (n_groups, n_genes))
    measured = np.zeros((n_groups, n_genes), np.int64)
    numbers = selection.keys >> np.uint64(32)
    for number, columns in parts:
        cells = np.bincount(groups[numbers == number], minlength=n_groups)
        if columns is None:
            measured += cells[:, None]
        else:
            measured[:, columns[columns >= 0]] += cells[:, None]
    return measured


# --- tables

#: Values, groups × genes, and how many cells must have been measured for them to mean something.
_Column = tuple[NDArray[Any], int]


def gene_stats(grouped: Grouped, *, ddof: int = 1, progress: bool | None = None) -> pl.DataFrame:
    """See [`DaoFrame.gene_stats`][]."""
    ddof = integer("ddof", ddof, 0, 2**31)
    _check_names(grouped, {"gene", *_STATISTICS})
    counted = grouped.counted(progress=progress, label="gene_stats")
    values: list[_Column] = [
        (counted.cells, 0),
        (counted.count.astype(np.int64), 1),
        (counted.fraction, 1),
        (counted.total, 1),
        (counted.mean, 1),
        (counted.moments.variance(ddof), ddof + 1),
    ]
    return _tidy(grouped, dict(zip(_STATISTICS, values, strict=True)))


_STATISTICS = ("n_cells", "n_expressing", "fraction", "total", "mean", "variance")


def _check_names(grouped: Grouped, own: set[str]) -> None:
    if taken := own & set(grouped.labels.columns):
        raise DaoValueError(
            f"by= has columns of the result's own names: {', '.join(map(repr, sorted(taken)))}; "
            'rename them: pl.col("…").alias("…")'
        )


_AGGREGATES: dict[str, Callable[[Counted], _Column]] = {
    "sum": lambda counted: (counted.total, 1),
    "mean": lambda counted: (counted.mean, 1),
    "var": lambda counted: (counted.moments.variance(), 2),
    "std": lambda counted: (np.sqrt(counted.moments.variance()), 2),
    "count_nonzero": lambda counted: (counted.count.astype(np.int64), 1),
    "fraction": lambda counted: (counted.fraction, 1),
}


def pseudobulk(
    grouped: Grouped,
    agg: str | Iterable[str],
    *,
    as_anndata: bool = False,
    progress: bool | None = None,
) -> pl.DataFrame | AnnData:
    """See [`DaoFrame.pseudobulk`][]."""
    names = [agg] if isinstance(agg, str) else list(agg)
    for name in names:
        if name not in _AGGREGATES:
            known = ", ".join(map(repr, _AGGREGATES))
            raise DaoValueError(f"agg={name!r}; expected one or several of {known}")
    if not names or len(set(names)) < len(names):
        raise DaoValueError(f"agg={agg!r}; expected each aggregate once, and at least one")
    if not grouped.labels.columns:
        raise DaoValueError("by=None makes no groups; for all cells together: gene_stats()")
    _check_names(grouped, {"n_cells"} | ({"obs_name"} if as_anndata else {"gene", *names}))
    anndata = require("anndata", "pseudobulk(as_anndata=True)") if as_anndata else None
    counted = grouped.counted(progress=progress, label="pseudobulk")
    columns = {name: _AGGREGATES[name](counted) for name in names}
    if anndata is None:
        return _tidy(grouped, {"n_cells": (counted.cells, 0), **columns})
    obs = grouped.labels.with_columns(n_cells=pl.Series(grouped.n_cells))
    layers = {name: values.astype(np.float64, copy=False) for name, (values, _) in columns.items()}
    x = layers.pop(names[0])
    obs_names = grouped.labels.select(
        pl.concat_str(pl.all().cast(pl.String).fill_null("null"), separator="_")
    ).to_series()
    adata = anndata.AnnData(
        X=x,
        obs=to_pandas(obs.insert_column(0, obs_names.alias("obs_name")), [], complete=True),
        var=to_pandas(pl.DataFrame({"var_name": grouped.genes}), [], complete=True),
        layers=layers,
    )
    adata.obs_names_make_unique()
    return adata


def _tidy(grouped: Grouped, columns: Mapping[str, _Column]) -> pl.DataFrame:
    """A row a group and gene; what is not defined is null."""
    labels, (n_groups, n_genes) = grouped.labels, grouped.shape
    frame = pl.DataFrame(
        {
            "gene": grouped.genes.gather(np.tile(np.arange(n_genes, dtype=np.uint32), n_groups)),
            **{name: values.ravel() for name, (values, _) in columns.items()},
        }
    )
    least = grouped.measured.min(initial=1 << 62)
    for name, (_, needed) in columns.items():
        if least < needed:
            defined = pl.Series((grouped.measured >= needed).ravel())
            frame = frame.with_columns(pl.when(defined).then(pl.col(name)))
    if not labels.columns:
        return frame
    rows = np.repeat(np.arange(n_groups, dtype=np.uint32), n_genes)
    return pl.concat([labels.select(pl.all().gather(rows)), frame], how="horizontal")
