"""Quality control of a frame's cells as a table, made here or by an engine.

Owns the way of the pieces' rows back into the frame's order. What is measured is ``qc``'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl

from ..engines.run import Engine, Tasks
from ..scan.cell import COLUMN
from ..select.partitions import pieces
from ..select.selection import StoreLike
from .expressions import qc as qc_of


def qc(
    frame: pl.LazyFrame,
    sets: Mapping[str, str | Iterable[str] | pl.Expr] | Iterable[str] | None = None,
    *,
    layer: str | None = None,
    gene_key: str | None = None,
    prefix: str = "",
    store: StoreLike | None = None,
    engine: Engine | None = None,
) -> pl.DataFrame:
    """Quality control of the frame's cells, as ``dao.qc`` has it: a row a cell.

    Args:
        frame: the one before ``.dao``.
        sets: of genes, as in ``dao.qc``.
        layer: a layer's name; None: X.
        gene_key: the column of var that holds the names of ``sets``; None: its index.
        prefix: of the columns' names.
        store: where the store is now, if it moved.
        engine: who computes it, piece by piece of the cells: a ``dask.distributed`` client or
            cluster, ``"dask"`` (the client there is), ``"ray"``, or an executor of
            ``concurrent.futures``; None: this process. All must see the store.

    Returns:
        ``cell``, and the fields of ``dao.qc`` as columns, in the order of the frame.

    Raises:
        As ``dao.qc``, and as ``iter_batches`` for cells that are none.
    """
    metrics = qc_of(sets, layer=layer, gene_key=gene_key, prefix=prefix, store=store).alias("\0qc")
    if engine is None:
        cut = pieces(frame.select(COLUMN), 1, "error", store)
        cells = pl.Series(COLUMN, cut.selection.keys).ext.to(cut.selection.cell)
        return _table(pl.LazyFrame([cells]), metrics)
    tasks = Tasks(engine)
    cut = pieces(frame.select(COLUMN), tasks.n_tasks, "error", store)
    found: pl.DataFrame = pl.concat(list(tasks.run(_table, cut.filled or cut.frames[:1], metrics)))
    # The pieces' rows, one piece after the other, back into the frame's order.
    place = np.empty(found.height, np.uint32)
    place[np.argsort(cut.numbers(), kind="stable")] = np.arange(found.height, dtype=np.uint32)
    return found[place]


def _table(piece: pl.LazyFrame, metrics: pl.Expr) -> pl.DataFrame:
    return piece.select(COLUMN, metrics).unnest("\0qc").collect()
