"""The cells of a selection as batches have them: keys and rows of obs in a plan's order, and the
reader of their matrices.

Owns what a forked child has to make anew. Knows no epochs.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import polars as pl

from .._core import EpochPlan, Reader
from ..scan.cell import COLUMN
from ..select.selection import Selection
from .batch import Batch
from .matrices import Matrices
from .tokens import Tokens

#: Rows of obs that are put in an epoch's order at a time: few at first, so that batches come soon.
_FIRST_REORDERED, _REORDERED = 1 << 12, 1 << 16


class Rows:
    """A selection's cells, their obs and their matrices. Pickles, with its store by path or URL.

    Attributes:
        store: that of the cells.
        cells: their keys.
        obs: the chosen columns, (n_cells,) each, in frame order.
        matrices: what is read of the cells.
    """

    def __init__(self, selection: Selection, matrices: Matrices) -> None:
        self.store, self.cells, self.matrices = selection.store, selection.cells, matrices
        # Series by series: a frame's own methods use polars' threads, which a forked child lacks.
        self.obs = [selection.frame[name] for name in selection.obs_names]
        self._cell = selection.cell
        self._opened: tuple[int, Reader] | None = (os.getpid(), matrices.open(self.store))

    def reader(self) -> Reader:
        """The reader of all the cells' matrices, this process's own."""
        if self._opened is None or self._opened[0] != os.getpid():
            # A forked child has its parent's memory and not its threads: locks that one of them
            # held stay shut. So it opens everything for itself.
            self._opened = os.getpid(), self.matrices.open(self.store._again())
        return self._opened[1]

    def in_order(self, plan: EpochPlan) -> Iterator[tuple[pl.Series, pl.DataFrame]]:
        """The cells of each batch of a plan, and their rows of obs."""
        ends = plan.ends().astype(np.int64)
        first = plan.first()
        step = _FIRST_REORDERED
        start = at = end = 0
        for i, stop in enumerate(ends.tolist()):
            if start >= end:
                # Done for many batches at a time, since each call has a fixed cost.
                last = int(np.searchsorted(ends, start + step, side="right")) - 1
                end = int(ends[max(last, i)])
                step = min(2 * step, _REORDERED)
                if first is None:
                    rows: Any = plan.order(start, end)
                    keys = self.cells.take(rows)
                else:
                    rows = slice(first + start, first + end)
                    keys = self.cells.slice(rows.start, rows.stop)
                # Series by series: a frame's rows are gathered in polars' threads, which a forked
                # child lacks. It slices without them.
                cells = pl.Series(COLUMN, keys).ext.to(self._cell)
                obs, at = pl.DataFrame([column[rows] for column in self.obs]), 0
            yield cells.slice(at, stop - start), obs.slice(at, stop - start)
            at += stop - start
            start = stop

    def batches(
        self, plan: EpochPlan, epoch: int, budget: int, threads: int | None
    ) -> Generator[Batch[Any], None, None]:
        """The batches of an epoch's plan, read ahead within so many bytes."""
        encode = self.matrices.encode(epoch)
        read = self.reader().epoch(plan, encode=encode, budget=budget, threads=threads)
        try:
            for (cells, obs), (n_rows, arrays, made) in zip(self.in_order(plan), read, strict=True):
                x, layers, obsm = self.matrices.shaped(n_rows, arrays)
                tokens = None if made is None else Tokens(*made)
                yield Batch(x, obs, cells, layers, obsm, tokens)
        finally:
            read.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}
