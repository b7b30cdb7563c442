"""Cells removed from a store.

Owns which rows of each part these are. The matrices keep their rows, and older versions the cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import TYPE_CHECKING, Any

import polars as pl

from .._core import CellKeys
from ..scan.cell import cell_type
from .frames import CellColumns, cells_of
from .part import PartDraft

if TYPE_CHECKING:
    from ..store.store import Store


class RemoveCells:
    """Cells removed; those that are gone already do no harm, whoever removed them."""

    name = "remove_cells"

    def __init__(self, store: Store, frame: Any) -> None:
        if isinstance(frame, pl.DataFrame | pl.LazyFrame):
            cell_type(frame.collect_schema())
            frame = frame.lazy().select("cell").unique()
        keys, _ = cells_of(store, frame, "remove_cells")
        cells = CellColumns(keys, {})
        store._core.locate(CellKeys([keys]))  # an error for what never were cells
        self._n, self._parts = len(keys), cells.by_part()

    @property
    def said(self) -> str:
        return f"{self._n:,} cells"

    def numbers(self, store: Store, touched: Set[int]) -> Iterable[int]:
        return self._parts.keys() & store._by_number.keys()

    def check(self, before: Store, after: Store) -> None:
        pass  # it wins, in turn

    def apply(self, part: PartDraft) -> None:
        part.remove(self._parts[part.part.number][0])

    def finish(self) -> None:
        pass
