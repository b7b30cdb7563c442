"""Rows that are no cells any more: which rows the cells are, and the filter that leaves them out.

Owns the arithmetic between the two. Rows are numbers in tables that are read one after the other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

Ints = npt.NDArray[np.int64]


def rows_of_cells(removed: Ints, cells: Ints) -> Ints:
    """The rows of cells, which are counted without the removed rows (ascending)."""
    return cells + np.searchsorted(removed - np.arange(len(removed)), cells, side="right")


def is_cell(removed: Ints, name: str) -> pl.Expr:
    """Whether the row numbers in a column are not among the removed ones (ascending)."""

    def found(numbers: pl.Series) -> pl.Series:
        rows = numbers.to_numpy().astype(np.int64, copy=False)
        are_cells = np.ones(len(rows), np.bool_)
        if not len(rows):
            return pl.Series(are_cells)
        if (rows[1:] < rows[:-1]).any():
            return pl.Series(np.isin(rows, removed, invert=True))
        first, last = np.searchsorted(removed, (rows[0], rows[-1] + 1))
        some = removed[first:last]  # few, as rows come in pieces
        at = np.searchsorted(rows, some)
        are_cells[at[rows[at] == some]] = False
        return pl.Series(are_cells)

    return pl.col(name).map_batches(found, return_dtype=pl.Boolean(), is_elementwise=True)
