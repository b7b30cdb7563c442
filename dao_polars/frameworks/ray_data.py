"""Cells as a ``ray.data.Dataset``: what ``.dao.to_ray`` gives.

Owns the datasource, a read task a piece of the selection, and the columns of its Arrow blocks.
Imports ray: only ``frame`` imports this, when asked to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from scipy.sparse import csr_matrix

from ..batches.batch import Batch
from ..batches.batches import BatchIterable
from ..scan.cell import COLUMN
from ..select.partitions import Pieces

#: The batches of a piece of the selection.
Read = Callable[[pl.LazyFrame], BatchIterable[Any]]


class CellsSource(ray.data.Datasource):
    """The cells of a selection, for ``ray.data.read_datasource``: a read task a piece."""

    def __init__(self, cut: Callable[[int], Pieces], read: Read, n_bytes: int) -> None:
        self._cut, self._read, self._bytes = cut, read, n_bytes

    def get_name(self) -> str:
        """The name in Ray's plans."""
        return "dao"

    def estimate_inmemory_data_size(self) -> int:
        """About the bytes of all blocks."""
        return self._bytes

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[Any]:
        """The read tasks, at most ``parallelism``; none of a piece without cells."""
        cut = self._cut(parallelism)
        numbers = cut.numbers()
        sizes = np.bincount(numbers, minlength=len(cut.frames))
        tasks = []
        for piece, size in zip(cut.frames, sizes.tolist(), strict=True):
            if size:
                n_bytes = self._bytes * size // len(numbers)
                metadata = BlockMetadata(num_rows=size, size_bytes=n_bytes, exec_stats=None)
                tasks.append(ray.data.ReadTask(partial(_blocks, self._read, piece), metadata))
        return tasks


def _blocks(read: Read, piece: pl.LazyFrame) -> Iterator[pa.Table]:
    """The blocks of a piece."""
    yield from map(block, read(piece))


def block(batch: Batch[Any]) -> pa.Table:
    """A batch as an Arrow table, a row a cell.

    ``cell`` (uint64, the key), the columns of obs (categories as text), then of each matrix: dense
    ``X`` (a fixed-size list), or sparse ``X/indices`` (lists of int32) and ``X/data``; layers and
    obsm by their names likewise.
    """
    obs = batch.obs.with_columns(cs.by_dtype(pl.Categorical, pl.Enum).cast(pl.String))
    cells = pl.Series(COLUMN, batch.cells.ext.storage())
    table = obs.insert_column(0, cells).to_arrow()
    columns: dict[str, Any] = dict(zip(table.column_names, table.columns, strict=True))
    for name, x in batch.matrices().items():
        if isinstance(x, csr_matrix):
            ends = pa.array(x.indptr.astype(np.int64, copy=False))
            columns[f"{name}/indices"] = pa.LargeListArray.from_arrays(
                ends, pa.array(x.indices.astype(np.int32, copy=False))
            )
            columns[f"{name}/data"] = pa.LargeListArray.from_arrays(ends, pa.array(x.data))
        else:
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    return pa.table(columns)
