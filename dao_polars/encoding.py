"""obs as arrays of numbers, the same way in every batch: what tensors are made of.

Owns how a column's type becomes an array's. Knows no framework.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from .errors import DaoValueError

__all__ = ["ObsEncoder"]


@dataclass(frozen=True)
class _Column:
    #: "codes", "numbers" or "objects".
    kind: str
    dtype: np.dtype[Any]


class ObsEncoder:
    """Columns of obs as arrays: numbers and booleans as they are, dates as the integers behind them,
    categories as int64 codes into ``classes`` (null: -1), text and all else as lists.

    Numbers that are null somewhere in the selection are float64, NaN where they are.

    Attributes:
        classes: for each categorical column its labels, (n_classes,), by code.
    """

    def __init__(self, obs: list[pl.Series], reserved: tuple[str, ...]) -> None:
        self.classes: dict[str, NDArray[Any]] = {}
        self._columns: dict[str, _Column] = {}
        for column in obs:
            if column.name in reserved:
                raise DaoValueError(
                    f"an obs column is called {column.name!r}, as the batch's own entries "
                    f"{', '.join(map(repr, reserved))} are; rename it"
                )
            self._columns[column.name] = self._describe(column)

    def _describe(self, column: pl.Series) -> _Column:
        dtype = column.dtype
        if isinstance(dtype, (pl.Enum, pl.Categorical)):
            labels = column.cat.get_categories().to_list()
            self.classes[column.name] = np.array(labels, dtype=object)
            return _Column("codes", np.dtype(np.int64))
        if dtype.is_temporal():
            dtype = column.head(0).to_physical().dtype
        if dtype == pl.Boolean and not column.null_count():
            return _Column("numbers", np.dtype(bool))
        if dtype.is_numeric() and not dtype.is_decimal() and dtype != pl.Int128:
            if column.null_count():
                return _Column("numbers", np.dtype(np.float64))
            return _Column("numbers", pl.Series([], dtype=dtype).to_numpy().dtype)
        return _Column("objects", np.dtype(object))

    def dtypes(self) -> dict[str, np.dtype[Any]]:
        """Each column's number type; object where it is a list."""
        return {name: column.dtype for name, column in self._columns.items()}

    def encode(self, obs: pl.DataFrame) -> dict[str, NDArray[Any] | list[Any]]:
        """A batch's columns, (n_cells,) each, C-contiguous and writable."""
        return {name: self._encode(obs[name], kind) for name, kind in self._columns.items()}

    def _encode(self, column: pl.Series, described: _Column) -> NDArray[Any] | list[Any]:
        if described.kind == "objects":
            return column.to_list()
        physical = column.to_physical()
        if described.kind == "codes":
            physical = physical.cast(pl.Int64).fill_null(-1)
        # A copy: what polars shows is read-only, and tensors are not.
        return np.array(physical.to_numpy(), dtype=described.dtype)
