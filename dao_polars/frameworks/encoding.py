"""obs as arrays of numbers, the same way in every batch: what tensors are made of.

Owns how a column's type becomes an array's. Knows no framework. Columns are brought into shape
once, beforehand: most of what polars does with a batch's would need its threads, which a forked
worker lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ..errors import DaoValueError

if TYPE_CHECKING:
    from ..batches.rows import Rows


class ObsEncoder:
    """An encoder of the obs of some cells, which is brought into shape for it, as arrays.

    Numbers and booleans as they are, dates as the integers behind them, categories as int64 codes
    into ``classes`` (null: -1), text and all else as lists.

    Numbers that are null somewhere in the selection are float64, NaN where they are (a list, where
    that would round integers).

    Attributes:
        classes: for each categorical column its labels, (n_classes,), by code.
        dtypes: by column the number type of its array; object where it is a list.

    Raises:
        DaoValueError: a column is called as another entry of a batch.
    """

    def __init__(self, rows: Rows) -> None:
        self.classes: dict[str, NDArray[Any]] = {}
        self.dtypes: dict[str, np.dtype[Any]] = {}
        reserved = rows.matrices.names()
        columns: list[pl.Series] = []
        for column in rows.obs:
            if column.name in reserved:
                raise DaoValueError(
                    f"an obs column is called {column.name!r}, as the batch's own entries "
                    f"{', '.join(map(repr, reserved))} are; rename it"
                )
            values, self.dtypes[column.name] = self._prepared(column)
            columns.append(values)
        rows.obs = columns

    def _prepared(self, column: pl.Series) -> tuple[pl.Series, np.dtype[Any]]:
        dtype = column.dtype
        if isinstance(dtype, pl.Categorical):
            dtype = pl.Enum(column.cast(pl.String).drop_nulls().unique().sort())
            column = column.cast(dtype)
        if isinstance(dtype, pl.Enum):
            self.classes[column.name] = np.array(dtype.categories.to_list(), dtype=object)
            codes = column.to_physical()
            if codes.null_count():
                codes = codes.cast(pl.Int64).fill_null(-1)
            return codes, np.dtype(np.int64)
        if dtype.is_temporal():
            column = column.to_physical()
        dtype = column.dtype
        if dtype == pl.Boolean and not column.null_count():
            return column, np.dtype(bool)
        if dtype.is_numeric() and not dtype.is_decimal() and dtype != pl.Int128:
            if column.null_count():
                if dtype.is_integer() and _largest(column) > 2**53:
                    return column, np.dtype(object)
                column = column.cast(pl.Float64).fill_null(float("nan"))
            return column, column.head(0).to_numpy().dtype
        return column, np.dtype(object)

    def encode(self, obs: pl.DataFrame) -> dict[str, NDArray[Any] | list[Any]]:
        """A batch's columns, (n_cells,) each, C-contiguous and writable."""
        return {
            # Copied, since the array that polars gives is read-only and tensors are writable.
            name: obs[name].to_list()
            if dtype.hasobject
            else np.array(obs[name].to_numpy(), dtype=dtype)
            for name, dtype in self.dtypes.items()
        }


def _largest(column: pl.Series) -> int:
    bounds = [column.min(), column.max()]
    return max((abs(int(bound)) for bound in bounds if bound is not None), default=0)  # type: ignore[arg-type]
