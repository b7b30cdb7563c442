"""Matrices into a group of h5py or zarr, block by block, as anndata lays them out.

Owns the arrays of a matrix and how they grow. Knows no tables and no places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..write.selected_matrix import SelectedMatrix

#: The values of a chunk: small enough for a reader of some rows, large enough to compress.
_CHUNK = 1 << 18

#: Makes an array of a group: its name, shape, number type, chunks, and whether it grows.
Make = Callable[[Any, str, tuple[int, ...], np.dtype[Any], tuple[int, ...], bool], Any]


def write_matrix(
    group: Any,
    name: str,
    matrix: SelectedMatrix,
    dtype: np.dtype[Any],
    make: Make,
    advance: Callable[[int], object],
) -> None:
    """A matrix under its name in a group, in frame order; one block of it is held.

    Raises:
        DaoCorruptError: damage that is found on the way.
        OSError: what the disk says.
    """
    write = _csr if matrix.layout == "csr" else _dense
    write(group, name, matrix, dtype, make, advance)


def _csr(
    group: Any,
    name: str,
    matrix: SelectedMatrix,
    dtype: np.dtype[Any],
    make: Make,
    advance: Callable[[int], object],
) -> None:
    into = group.create_group(name)
    into.attrs["encoding-type"] = "csr_matrix"
    into.attrs["encoding-version"] = "0.1.0"
    into.attrs["shape"] = list(matrix.shape)
    data = make(into, "data", (0,), dtype, (_CHUNK,), True)
    columns = make(into, "indices", (0,), np.dtype(np.int32), (_CHUNK,), True)
    ends, row, n_values = np.zeros(matrix.shape[0] + 1, np.int64), 0, 0
    for values, indices, indptr in matrix.blocks():
        n_rows, end = len(indptr) - 1, n_values + len(values)
        ends[row + 1 : row + n_rows + 1] = n_values + indptr[1:].astype(np.int64)
        if end > n_values:
            for array, block in ((data, values.astype(dtype, copy=False)), (columns, indices)):
                array.resize((end,))
                array[n_values:end] = block
        row, n_values = row + n_rows, end
        advance(n_rows)
    # As scipy has it: 32 bits while they are enough.
    kind = np.dtype(np.int32 if n_values < 2**31 else np.int64)
    chunks = (min(len(ends), _CHUNK),)
    make(into, "indptr", ends.shape, kind, chunks, False)[:] = ends.astype(kind)


def _dense(
    group: Any,
    name: str,
    matrix: SelectedMatrix,
    dtype: np.dtype[Any],
    make: Make,
    advance: Callable[[int], object],
) -> None:
    n_rows, n_columns = matrix.shape
    chunks = (max(1, min(n_rows, _CHUNK // max(1, n_columns))), max(1, n_columns))
    array = make(group, name, matrix.shape, dtype, chunks, False)
    array.attrs["encoding-type"] = "array"
    array.attrs["encoding-version"] = "0.2.0"
    row = 0
    for block in matrix.blocks():
        array[row : row + len(block)] = block.astype(dtype, copy=False)
        row += len(block)
        advance(len(block))
