"""A selection in pieces that cost about the same to read, each a query of its own.

Owns what a piece is: the query, and which keys of it. Where the cuts lie is the core's to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from .._args import integer
from .._core import CellKeys
from ..scan.cell import COLUMN
from ..scan.source import is_scanned
from .selection import Missing, Selection, StoreLike, select


def partitions(
    frame: pl.LazyFrame,
    n: int,
    *,
    missing: Missing = "error",
    store: StoreLike | None = None,
) -> list[pl.LazyFrame]:
    """The frame's cells in ``n`` frames, for as many machines, processes or tasks.

    Together they have every row of the frame, each in one of them. They cost about the same to
    read: of cells and of their stored values of X each has about an ``n``-th, within a tenth where
    single cells do not weigh more. Each has the cells of one range of keys, in the order that they
    have in the frame; the ranges ascend. Cuts fall where datasets end, or shards of their
    matrices, if such a place is near, so that hardly a byte is read for two of them.

    Of a query on ``dao.scan`` they are queries, which pickle small and run where they are
    collected: each reads of the obs tables only what its own datasets have. The query is run here
    once, for its cells. What is drawn at random in it would be drawn anew for each: collect such
    a frame first. Of a collected frame they have the rows.

    Args:
        frame: the one before ``.dao``.
        n: how many; some are empty where there are fewer cells.
        missing: cells that were removed from the store since they were selected: an ``"error"``,
            or ``"drop"``: they do not count here, and say so again where a piece is read.
        store: where the store is now, if it moved.

    Raises:
        DaoValueError: no ``cell`` column, another store's cells.
        DaoTypeError: ``n`` is no number.
        DaoFileNotFoundError, DaoCorruptError: a broken store.
    """
    return pieces(frame, integer("n", n, 1, 2**20), missing, store).frames


@dataclass(frozen=True)
class Pieces:
    """A selection and its pieces.

    Attributes:
        selection: the cells of all, without columns.
        frames: the pieces.
        ends: the first key of each but the first, ascending; above all keys for empty ones.
    """

    selection: Selection
    frames: list[pl.LazyFrame]
    ends: NDArray[np.uint64]

    @property
    def filled(self) -> list[pl.LazyFrame]:
        """The pieces that have cells."""
        numbers = np.unique(self.numbers())
        return [self.frames[number] for number in numbers]

    def numbers(self) -> NDArray[np.intp]:
        """The number of each cell's piece, (n_cells,)."""
        return np.searchsorted(self.ends, self.selection.keys, side="right")


def pieces(frame: pl.LazyFrame, n: int, missing: Missing, store: StoreLike | None) -> Pieces:
    """The frame's cells in ``n`` pieces, as ``partitions`` has them."""
    is_query = is_scanned(frame)
    if not is_query:
        frame = frame.collect().lazy()
    selection = select(frame, store, False, missing=missing)
    keys = np.sort(selection.keys)
    cuts = selection.store._core.cut(CellKeys([keys]), n)
    none = np.array([np.iinfo(np.uint64).max], np.uint64)
    ends = np.concatenate([keys, none])[cuts[1:-1]]
    bounds: list[int | None] = [None, *ends.tolist(), None]
    frames = [_between(frame, low, high) for low, high in pairwise(bounds)]
    if not is_query:
        frames = [piece.collect().lazy() for piece in frames]
    return Pieces(selection, frames, ends)


def _between(frame: pl.LazyFrame, low: int | None, high: int | None) -> pl.LazyFrame:
    """The rows with keys from ``low`` on and below ``high``."""
    key = pl.col(COLUMN).ext.storage()
    if low is not None:
        frame = frame.filter(key >= pl.lit(low, pl.UInt64))
    if high is not None:
        frame = frame.filter(key < pl.lit(high, pl.UInt64))
    return frame
