"""Groups of a frame's cells, whose sums are made here or by an engine, piece by piece.

Owns what a piece is asked for, so that the pieces' sums are those of the whole: groups and genes
mean the same in each.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import polars as pl

from .._args import Column, Normalize, listed
from ..engines.run import Engine, Tasks
from ..errors import DaoValueError
from ..genes.request import Duplicates, Genes
from ..scan.cell import COLUMN
from ..select.partitions import pieces
from ..select.selection import Missing, StoreLike
from .groups import CellGroups, Floats, Groups, GroupSums
from .merged import Clip, Merged, merged


@dataclass(frozen=True)
class _Asked:
    """What every piece is asked for."""

    by: list[str] | None
    genes: Genes
    gene_key: str | None
    duplicates: Duplicates
    layer: str | None
    normalize: Normalize
    missing: Missing
    store: StoreLike | None


class _SpreadGroups(Groups):
    """Groups of cells whose sums an engine makes."""

    def __init__(self, tasks: Tasks, pieces: list[pl.LazyFrame], asked: _Asked) -> None:
        self._tasks, self._pieces, self._asked = tasks, pieces, asked
        self._first = self._pass(None)
        self.labels, self.n_cells = self._first.labels, self._first.n_cells
        self.genes = self._first.genes

    @property
    def measured(self) -> Any:
        return self._first.measured

    def counted(self, label: str, progress: bool | None, clip: Floats | None = None) -> GroupSums:
        return self._first.sums if clip is None else self._pass(Clip(self.labels, clip)).sums

    def _pass(self, clip: Clip | None) -> Merged:
        made: Merged = merged(self._tasks.run(_sums, self._pieces, (self._asked, clip)))
        return made


def grouped(
    frame: pl.LazyFrame,
    by: Column | Iterable[Column] | None,
    genes: Genes,
    gene_key: str | None,
    duplicates: Duplicates,
    layer: str | None,
    normalize: Normalize,
    missing: Missing,
    store: StoreLike | None,
    engine: Engine | None,
) -> Groups:
    """The cells of a frame in groups; their sums are made by ``engine``, or here."""
    if engine is None:
        return CellGroups(frame, by, genes, gene_key, duplicates, layer, normalize, missing, store)
    tasks = Tasks(engine)
    names = None
    if by is not None:
        # Of the whole frame: what a column is computed from may be more than a piece has.
        by = listed(by)
        frame = frame.select(COLUMN, *by)
        names = [part if isinstance(part, str) else part.meta.output_name() for part in by]
        if len({COLUMN, *names}) <= len(names):
            raise DaoValueError(f"by= has columns of one name: {', '.join(map(repr, names))}")
    else:
        frame = frame.select(COLUMN)
    cut = pieces(frame, tasks.n_tasks, missing, store)
    found = cut.selection.resolve(genes, gene_key, duplicates).names
    genes = genes if found is None else found
    asked = _Asked(names, genes, gene_key, duplicates, layer, normalize, missing, store)
    return _SpreadGroups(tasks, cut.filled or cut.frames[:1], asked)


def _sums(piece: pl.LazyFrame, shared: tuple[_Asked, Clip | None]) -> Merged:
    """The sums of a piece, on one thread: engines count a task as one."""
    asked, clip = shared
    groups = CellGroups(
        piece,
        asked.by,
        asked.genes,
        asked.gene_key,
        asked.duplicates,
        asked.layer,
        asked.normalize,
        asked.missing,
        asked.store,
        threads=1,
    )
    return summed(groups, clip, progress=False)


def summed(
    groups: CellGroups, clip: Clip | None, progress: bool | None, kind: type[Merged] = Merged
) -> Merged:
    """The sums of groups, to be merged with those of other cells."""
    limits = None if clip is None else clip.of(groups.labels)
    sums = groups.counted("partial", progress, limits)
    return kind(groups.labels, groups.n_cells, groups.genes, sums, groups.request)
