"""Mini-batches: a sized, re-iterable view of a selection's expression.

Owns epochs and the pairing of matrix rows with obs rows. Reading, decoding and
shuffling are the Rust core's.
"""

from __future__ import annotations

import operator
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix

from ._core import Epoch, Reader
from .cell import COLUMN
from .errors import DaoTypeError, DaoValueError
from .genes import Genes
from .selection import Selection, matrix_name, number_type

__all__ = ["Batch", "BatchIterable", "as_csr"]

Layout = Literal["csr", "dense"]

#: Rows of obs that are put in an epoch's order at a time.
_REORDERED = 1 << 16


@dataclass(frozen=True, slots=True)
class Batch:
    """Some cells: ``x, obs = batch``.

    Attributes:
        x: expression, (n_cells, n_genes): scipy CSR with sorted int32 indices, or a C-contiguous
            numpy array.
        obs: the frame's other columns, (n_cells, n_columns), row ``i`` belonging to row ``i`` of x.
        cells: the cell keys, (n_cells,), of the frame's ``cell`` type.
    """

    x: Any
    obs: pl.DataFrame
    cells: pl.Series

    def __iter__(self) -> Iterator[Any]:
        return iter((self.x, self.obs))

    def __len__(self) -> int:
        return len(self.cells)


class BatchIterable:
    """What ``.dao.iter_batches`` returns: ``len()`` batches, and each ``iter()`` is an epoch.

    Attributes:
        genes: the names of the columns of ``batch.x`` where genes were asked for by name,
            (n_genes,) String; None where they are the feature space of the datasets.
        n_obs: cells an epoch (before ``drop_last``).
        n_vars: columns of ``batch.x``.
        seed: what fixes the order; drawn at random if none was given. None without shuffle.
        epoch: how many epochs have begun.
    """

    def __init__(
        self,
        selection: Selection,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int | None,
        genes: Genes,
        gene_key: str | None,
        layer: str | None,
        layout: Layout,
        dtype: Any,
        drop_last: bool,
        prefetch_bytes: int,
        num_threads: int | None,
    ) -> None:
        self._batch_size = _integer("batch_size", batch_size, 1, 2**32 - 1)
        if not isinstance(shuffle, (bool, np.bool_)):
            raise DaoTypeError(f"shuffle={shuffle!r}; expected True or False")
        if seed is not None:
            seed = _integer("seed", seed, 0, 2**64 - 1)
        if layout not in ("csr", "dense"):
            raise DaoValueError(f"layout={layout!r}; expected 'csr' or 'dense'")
        if not isinstance(drop_last, (bool, np.bool_)):
            raise DaoTypeError(f"drop_last={drop_last!r}; expected True or False")
        self._drop_last = bool(drop_last)
        self._budget = _integer("prefetch_bytes", prefetch_bytes, 0, 2**63)
        self._threads = None
        if num_threads is not None:
            self._threads = _integer("num_threads", num_threads, 1, 1024)
        resolved, parts = selection.resolve(genes, gene_key)
        self.genes = resolved.names
        self.n_vars = resolved.n_genes
        self.n_obs = len(selection.keys)
        self.seed = (secrets.randbits(63) if seed is None else seed) if shuffle else None
        self.epoch = 0
        self._layout = layout
        self._obs = selection.frame.drop(COLUMN)
        self._cells = selection.frame[COLUMN]
        self._reader = Reader(
            selection.store.core,
            selection.keys,
            parts if self.n_obs else [],
            matrix=matrix_name(layer),
            n_columns=self.n_vars,
            layout=layout,
            dtype=number_type(dtype),
        )

    def __len__(self) -> int:
        whole, rest = divmod(self.n_obs, self._batch_size)
        return whole + (rest > 0 and not self._drop_last)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch
        self.epoch += 1
        return self._batches(epoch)

    def _batches(self, epoch: int) -> Iterator[Batch]:
        core = self.start(epoch)
        obs, cells = self._obs, self._cells
        start = first = 0
        end = self.n_obs if self.seed is None else 0
        try:
            for n_rows, x in core:
                if start >= end:
                    obs, cells = self._reordered(core, start, n_rows)
                    first, end = start, start + len(cells)
                if self._layout == "csr":
                    x = as_csr(x, (n_rows, self.n_vars))
                at = start - first
                yield Batch(x, obs.slice(at, n_rows), cells.slice(at, n_rows))
                start += n_rows
        finally:
            core.close()

    def _reordered(self, core: Epoch, start: int, n_rows: int) -> tuple[pl.DataFrame, pl.Series]:
        """Obs and cells of the epoch's next batches, in its order.

        Of many batches at a time: polars works on threads of its own, and each time they are
        woken costs as much as a batch.
        """
        whole = max(1, _REORDERED // n_rows) * n_rows
        positions = core.order(start, start + whole)
        assert positions is not None  # the epoch was started with a seed
        return self._obs[positions], self._cells[positions]

    def start(self, epoch: int) -> Epoch:
        """Begin reading an epoch; yields (rows, parts of x), see ``_core.Epoch``."""
        return self._reader.epoch(
            self._batch_size,
            seed=self.seed,
            epoch=epoch,
            drop_last=self._drop_last,
            budget=self._budget,
            threads=self._threads,
        )

    def __repr__(self) -> str:
        order = "in frame order" if self.seed is None else f"shuffled, seed {self.seed}"
        count = f"{len(self):,} {'batch' if len(self) == 1 else 'batches'} of {self._batch_size:,}"
        return f"{count} from {self.n_obs:,} cells × {self.n_vars:,} genes, {self._layout}, {order}"


def as_csr(parts: Any, shape: tuple[int, int]) -> csr_matrix:
    """Scipy's matrix on ``(data, indices, indptr)``, without a copy; its rows are canonical."""
    matrix = csr_matrix(parts, shape=shape)
    matrix.has_sorted_indices = True
    matrix.has_canonical_format = True
    return matrix


def _integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """``value`` as an int. A bool, a float (NaN too) or a string is none.

    Raises:
        DaoTypeError: it is no integer.
        DaoValueError: it is out of range.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    bounds = f"an integer of at least {least}" + ("" if most is None else f" and at most {most}")
    if number is None or isinstance(value, (bool, np.bool_)):
        raise DaoTypeError(f"{name}={value!r}; expected {bounds}")
    if number < least or (most is not None and number > most):
        raise DaoValueError(f"{name}={value!r}; expected {bounds}")
    return number
