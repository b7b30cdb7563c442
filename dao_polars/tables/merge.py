"""A column of a table with new values in some of its rows.

Owns which values fit a column, and what its note is then. Does no I/O.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from .._core import ColumnMeta
from ..errors import DaoTypeError
from ..scan.dtypes import dtype_name
from .table import Note, from_json, to_json, truths_of


def merged(
    old: pl.Series,
    old_meta: ColumnMeta | None,
    rows: npt.NDArray[np.int64],
    new: pl.Series,
    new_meta: ColumnMeta,
    *,
    whole: bool,
    where: str,
) -> tuple[pl.Series, ColumnMeta]:
    """A stored column in which ``rows`` (n,), each once, have the ``new`` values (n,).

    Args:
        old: the column, a value a row; nulls where there was none.
        old_meta: its note; None where there was none.
        rows: positions in ``old``.
        new: values as stored.
        new_meta: their note.
        whole: whether these are all values that count, so that the column's form in pandas is
            that of the new ones; otherwise it stays.
        where: what the column is, for errors.

    Raises:
        DaoTypeError: values of another type than the column's.
    """
    new = fitted(new, old.dtype, where)
    old = old if old.dtype == new.dtype else old.cast(new.dtype)
    source = np.arange(len(old))
    source[rows] = np.arange(len(old), len(old) + len(rows))
    values = pl.concat([old, new.alias(old.name)]).gather(source)
    kept = old_meta if old_meta is not None and not whole and old_meta.dtype != "Null" else new_meta
    named = new_meta if old_meta is None else old_meta
    note = _with_values(kept.pandas, values)
    meta = ColumnMeta(named.name, named.source, dtype_name(values.dtype), note)
    return values.alias(meta.name), meta


def fitted(new: pl.Series, dtype: pl.DataType, where: str) -> pl.Series:
    """Values in a column's type, each the same as before.

    Raises:
        DaoTypeError: values that the type does not have.
    """
    if new.dtype == dtype or dtype == pl.Null:
        return new
    if new.null_count() == len(new):
        return pl.Series(new.name, [None] * len(new), dtype=dtype)
    numeric = new.dtype.is_numeric() and dtype.is_numeric()
    if numeric or (new.dtype.is_temporal() and dtype.is_temporal()):
        try:
            cast = new.cast(dtype, strict=False)
            if cast.cast(new.dtype, strict=False).eq_missing(new).all():
                return cast
        except pl.exceptions.PolarsError:  # times of another kind
            pass
        example = "which does not have all of these values"
    else:
        example = "which is another type"
    raise DaoTypeError(
        f"{where}: values of type {new.dtype}, for a column of type {dtype}, {example}; cast them, "
        "or drop the column first (drop_obs, in one edit with this)"
    )


def _with_values(note: Note, values: pl.Series) -> Note:
    """A column's note once it has these values."""
    found: dict[str, Any] = {key: value for key, value in note.items() if key != "truths"}
    if found["kind"] == "category" and found["categories"] is not None:
        known = from_json(found["categories"], values.dtype)
        more = values.drop_nulls().unique()
        more = more.filter(~more.is_in(known.implode())).sort()
        found["categories"] = to_json(pl.concat([known, more]))
    if values.dtype == pl.String and (truths := truths_of(values)):
        found["truths"] = truths
    return found
