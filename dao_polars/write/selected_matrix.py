"""A matrix of a selection, to be written: read by the engine in runs of cells, in any order.

Owns in which number type it is read and stored, and in which order its rows are read. Knows no
tables.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from .._core import CellKeys, Genes, MatrixMeta, Reader, Sampler
from ..convert.arrays import MatrixForm
from ..convert.selected import common_names
from ..select.selection import Selection
from ..sources.matrix import Placed
from ..sources.matrix_source import BLOCK_BYTES

#: The bytes of what is read ahead.
_BUDGET = 4 * BLOCK_BYTES
#: The most cells of a block.
_MAX_STEP = 1 << 16


class SelectedMatrix:
    """X, a layer or an embedding of a selection's cells, in frame order; see ``Matrix``.

    Attributes:
        stored: the number type that holds every value; None where somebody has to look.
        nonzero: about how many values are not zero.
    """

    #: The engine reads ahead by itself.
    in_memory = True

    def __init__(
        self,
        selection: Selection,
        genes: Genes,
        form: MatrixForm,
        described: Sequence[MatrixMeta],
        *,
        dtype: str,
        looked_at: bool,
    ) -> None:
        """Opens the matrix in every part that has cells of the selection.

        Args:
            selection: the cells.
            genes: the columns of X and layers.
            form: which matrix, and its columns, layout and number type.
            described: the matrix in each of these parts.
            dtype: its number type at its source.
            looked_at: whether the form's number type holds every value.

        Raises:
            DaoKeyError: a part without such a matrix.
            DaoValueError: a part in which it has other columns.
            DaoFileNotFoundError, DaoCorruptError: one that is missing or damaged.
        """
        self._selection, self._genes, self._form = selection, genes, form
        self._reads_rows = self._open(selection.cells).reads_rows
        self.where = f"{form.name} of the selected cells"
        self.layout: str = form.layout
        self.shape = (len(selection.cells), form.n_columns)
        self.dtype = np.dtype(dtype)
        self.column_names = common_names(described)
        self.stored = form.dtype if looked_at else None
        cells = sum(matrix.shape[0] for matrix in described)
        known = [matrix.nnz for matrix in described if matrix.nnz is not None]
        self._per_row = float(form.n_columns)
        if len(known) == len(described):
            self._per_row = min(self._per_row, sum(known) / max(1, cells))
        self.nonzero = int(self._per_row * self.shape[0])
        self.size = self.nonzero if self.layout == "csr" else self.shape[0] * self.shape[1]

    def _open(self, cells: CellKeys) -> Reader:
        return Reader(self._selection.store._core, cells, self._genes, [self._form])

    def placed(self, order: np.ndarray | None) -> Placed:
        """The order to read rows in that become those in ``order``, and the place of each.

        Rows that cost no more alone than among their neighbours are read in the order they are
        wanted in. Others, in a chunk of many or a request away, are read as they lie, each once,
        and the writer brings them to their places.
        """
        keys = self._selection.keys if order is None else self._selection.keys[order]
        if self._reads_rows or bool((keys[1:] >= keys[:-1]).all()):
            return order, None
        places = np.argsort(keys, kind="stable")
        return (places if order is None else order[places]), places.astype(np.uint32)

    def blocks(self, order: np.ndarray | None = None) -> Generator[Any]:
        """The rows in ``order``, about 32 MB at a time, as the reader gives them.

        Yields ``(data, indices, indptr)``, or an array of (rows, columns) for a dense layout.

        Raises:
            DaoCorruptError: damage that is found on the way.
        """
        n_rows = self.shape[0]
        if not n_rows:
            return
        cells = self._selection.cells
        if order is not None:
            cells = CellKeys([self._selection.keys[order]])
        plan = Sampler(n_rows, self._step()).plan(0)
        # A reader of its own, whose buffers go with it.
        epoch = self._open(cells).epoch(plan, budget=_BUDGET)
        try:
            for _, (block,), _ in epoch:
                yield block
        finally:
            epoch.close()

    def values(self) -> Generator[np.ndarray]:
        """The values alone, about 32 MB at a time, for a look at their range."""
        for block in self.blocks():
            yield block if self.layout == "dense" else block[0]

    def _step(self) -> int:
        """The rows of a block."""
        size = np.dtype(self._form.dtype).itemsize
        dense = self.layout == "dense"
        row_bytes = self.shape[1] * size if dense else self._per_row * (4 + size)
        return int(min(max(1, BLOCK_BYTES // max(1, row_bytes)), _MAX_STEP))


def common_type(described: Sequence[MatrixMeta]) -> str:
    """The narrowest number type that holds every value of matrices as they are stored.

    Integers beyond 2**53 among negative or fractional numbers have none; reading them is an error.
    """
    stored = [(np.dtype(matrix.dtype or "float64"), matrix.max_abs) for matrix in described]
    whole = [(dtype, most) for dtype, most in stored if dtype.kind in "iu"]
    largest = max((_largest(dtype, most) for dtype, most in whole), default=0)
    if len(whole) < len(stored) or not stored:
        wide = largest > 2**24 or any(dtype == np.float64 for dtype, _ in stored)
        return "float64" if wide else "float32"
    signed = [dtype.itemsize for dtype, _ in whole if dtype.kind == "i"]
    if not signed:
        return max((dtype for dtype, _ in whole), key=lambda dtype: dtype.itemsize).name
    unsigned = max((_largest(d, most) for d, most in whole if d.kind == "u"), default=0)
    for candidate in map(np.dtype, ("int8", "int16", "int32", "int64")):
        if candidate.itemsize >= max(signed) and unsigned <= np.iinfo(candidate).max:
            return candidate.name
    return "float64"


def _largest(dtype: np.dtype[Any], most: float | None) -> int:
    return int(np.iinfo(dtype).max if most is None else most)
