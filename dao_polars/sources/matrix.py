"""What whoever writes a matrix asks of it, whatever it comes from.

Owns the words for orders of rows. Reads nothing.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol

import numpy as np

#: An order to read rows in (None: the source's), and the rows that they become where these differ.
Placed = tuple[np.ndarray | None, np.ndarray | None]


class Matrix(Protocol):
    """Any matrix to be written. Whoever writes it knows its blocks.

    Attributes:
        where: file and group, for errors.
        layout: ``"csr"``, ``"csc"`` or ``"dense"``.
        shape: ``(rows, columns)``.
        dtype: as at its source.
        size: the number of values that are read, about.
        in_memory: whether blocks need no waiting, or are read ahead anyway.
        column_names: of an embedding's columns, where its source was a table; else None.
    """

    where: str
    layout: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    size: int
    in_memory: bool
    column_names: list[str] | None

    def values(self) -> Generator[np.ndarray]:
        """The values alone, about 32 MB at a time, for a look at their range."""

    def placed(self, order: np.ndarray | None) -> Placed:
        """The order to read rows in that become those in ``order``, and the place of each."""


def placed(order: np.ndarray | None, reorders: bool) -> Placed:
    """How rows come into ``order``: read so where the source ``reorders``, or by their writer."""
    if order is None or reorders:
        return order, None
    rows = np.empty(len(order), dtype=np.uint32)
    rows[order] = np.arange(len(order), dtype=np.uint32)
    return None, rows
