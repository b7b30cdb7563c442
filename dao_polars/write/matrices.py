"""One matrix from its source to the writer: looked at, begun, sent block by block.

Owns which number type and layout are asked for, and who brings rows to their places. Knows no
tables and no stores.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np

from .._core import MatrixName, PartWriter
from ..sources.matrix import Matrix
from ..sources.matrix_source import DenseSource, SparseSource, work_through
from .alignment import Alignment
from .selected_matrix import SelectedMatrix

_DENSE_ABOVE = 0.5  # share of non-zero values from which a dense X stays dense


def work_of(matrix: Matrix) -> int:
    """About how many values ``write_matrix`` tells of: all of them, twice if it looks at them."""
    return matrix.size * (2 if _known_type(matrix) is None else 1)


def _known_type(matrix: Matrix) -> str | None:
    return matrix.stored if isinstance(matrix, SelectedMatrix) else None


def write_matrix(
    writer: PartWriter,
    name: MatrixName,
    matrix: Matrix,
    alignment: Alignment,
    order: np.ndarray | None,
    portable: bool,
    advance: Callable[[int], object],
) -> str | None:
    """Writes a matrix with its rows in ``order``; ``advance`` is told of values that are done.

    Returns:
        The values in it that expression does not have, in words: NaN, infinite, negative ones.

    Raises:
        DaoCorruptError, DaoIOError: a source that is damaged, or a full disk.
    """
    told = 0

    def tell(values: int) -> None:
        nonlocal told
        told += values
        advance(values)

    stored, nonzero = _known_type(matrix), 0

    def scan(values: np.ndarray) -> None:
        nonlocal nonzero
        nonzero = writer.scan(values)
        tell(values.size)

    if isinstance(matrix, SelectedMatrix) and stored is not None:
        nonzero = matrix.nonzero
    else:
        with closing(matrix.values()) as values:
            work_through(values, matrix, scan)
    of_genes = name.is_of_genes
    odd = _odd_values(name, writer) if of_genes and stored is None else None
    # dense stays so for embeddings, and where CSR would be larger
    dense = matrix.layout == "dense" and 0 not in matrix.shape
    dense = dense and not (of_genes and nonzero <= _DENSE_ABOVE * matrix.size)
    order, rows = matrix.placed(order)
    writer.begin_matrix(
        name,
        "dense" if dense else "csr",
        (matrix.shape[0], alignment.var.frame.height if of_genes else matrix.shape[1]),
        matrix.dtype.name,
        portable=portable,
        columns=alignment.columns if of_genes else None,
        most_summed=alignment.most_summed if of_genes else 1,
        rows=rows,
        known=None if stored is None else (stored, nonzero),
        column_names=None if of_genes else matrix.column_names,
    )
    _send(writer, matrix, order, tell)
    writer.finish_matrix()
    advance(max(0, work_of(matrix) - told))  # what was an estimate
    return odd


def _odd_values(name: MatrixName, writer: PartWriter) -> str | None:
    nan, infinite, least = writer.odd_values()
    found = [f"{n:,} {what}" for n, what in ((nan, "NaN"), (infinite, "infinite values")) if n]
    found += [f"negative values, down to {least:g}"] if least < 0 else []
    return f"{name} has {' and '.join(found)}" if found else None


def _send(
    writer: PartWriter,
    matrix: Matrix,
    order: np.ndarray | None,
    tell: Callable[[int], object],
) -> None:
    """Pushes all rows of a matrix, in ``order``."""

    def push_rows(rows: np.ndarray) -> None:
        writer.push_dense(rows)
        tell(rows.size)

    def push_sparse(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> None:
        writer.push_sparse(matrix.layout == "csc", indptr, indices, data)
        tell(data.size)

    def push_block(block: tuple[Any, Any, Any]) -> None:
        push_sparse(*block)

    def push_read(block: tuple[Any, Any, Any]) -> None:
        push_sparse(*block[::-1])

    if isinstance(matrix, SelectedMatrix):
        push = push_rows if matrix.layout == "dense" else push_read
        with closing(matrix.blocks(order)) as blocks:  # what reads ahead ends when writing fails
            work_through(blocks, matrix, push)
    elif isinstance(matrix, DenseSource):
        work_through(matrix.blocks(order), matrix, push_rows)
    elif isinstance(matrix, SparseSource) and order is not None:
        for starts, stops, indices, data in matrix.ranges(order):
            writer.push_ranges(starts, stops, indices, data)
            tell(int((stops - starts).sum()))
    elif isinstance(matrix, SparseSource):
        work_through(matrix.blocks(), matrix, push_block)
