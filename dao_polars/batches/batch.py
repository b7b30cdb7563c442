"""A mini-batch: some cells, their matrices and their rows of obs.

Owns what a batch has and what it is called. Reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import polars as pl

from . import show
from .tokens import Tokens

X = TypeVar("X")


@dataclass(frozen=True, slots=True, repr=False)
class Batch(Generic[X]):
    """Some cells: ``x, obs = batch``.

    Attributes:
        x: expression, (n_cells, n_genes): scipy CSR with sorted int32 indices, or a C-contiguous
            numpy array.
        obs: the frame's other columns, (n_cells, n_columns), row ``i`` belonging to row ``i`` of x.
        cells: the cell keys, (n_cells,), of the frame's ``cell`` type.
        layers: those asked for, by name, as x.
        obsm: those asked for, by name, (n_cells, n_columns), numpy.
        tokens: with ``encode``, what foundation models read of the cells.
        pair: with ``pair_with``, the control cells: row ``i`` is of the same group as row ``i``.
    """

    x: X
    obs: pl.DataFrame
    cells: pl.Series
    layers: dict[str, Any] = field(default_factory=dict)
    obsm: dict[str, Any] = field(default_factory=dict)
    tokens: Tokens | None = None
    pair: Batch[X] | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.x, self.obs))

    def __len__(self) -> int:
        return len(self.cells)

    def matrices(self) -> dict[str, Any]:
        """The matrices of the batch by name: ``"X"``, ``"layers/…"``, ``"obsm/…"``."""
        layers = {f"layers/{name}": x for name, x in self.layers.items()}
        return {"X": self.x, **layers, **{f"obsm/{name}": x for name, x in self.obsm.items()}}

    def arrays(self) -> dict[str, Any]:
        """The matrices and the arrays of tokens by name."""
        return self.matrices() | ({} if self.tokens is None else self.tokens.entries())

    def __repr__(self) -> str:
        return show.batch_text(self)

    def _repr_html_(self) -> str:
        return show.batch_html(self)
