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
from .from_polars import note_of
from .table import Note, from_json, to_json, truths_of


def merged(
    old: pl.Series,
    old_meta: ColumnMeta | None,
    rows: npt.NDArray[np.int64],
    new: pl.Series,
    new_meta: ColumnMeta,
    *,
    whole: bool,
    of_pandas: bool,
    where: str,
) -> tuple[pl.Series, ColumnMeta]:
    """A stored column in which ``rows`` (n,), each once, have the ``new`` values (n,).

    Args:
        old: the column, a value a row; nulls where there was none.
        old_meta: its note; None where there was none.
        rows: positions in ``old``.
        new: values as stored.
        new_meta: their note.
        whole: whether these are all values that count.
        of_pandas: whether the new values have a form in pandas, which is the column's if they are
            all values; otherwise its form stays.
        where: what the column is, for errors.

    Raises:
        DaoTypeError: values of another type than the column's.
    """
    new = fitted(new, old.dtype, where)
    old = old if old.dtype == new.dtype else old.cast(new.dtype)
    source = np.arange(len(old))
    source[rows] = np.arange(len(old), len(old) + len(rows))
    values = pl.concat([old, new.alias(old.name)]).gather(source)
    kept, named = new_meta, new_meta
    if old_meta is not None:
        kept = new_meta if old_meta.dtype == "Null" or (whole and of_pandas) else old_meta
        named = old_meta
    if kept.dtype != dtype_name(values.dtype):
        note = note_of(values.dtype)  # its own is of the type that the values had before
    else:
        note = kept.pandas if kept is new_meta else _widened(kept.pandas, values.dtype)
    note = _with_values(note, values, replaced=old if whole else None)
    meta = ColumnMeta(named.name, named.source, dtype_name(values.dtype), note)
    return values.alias(meta.name), meta


def _widened(note: Note, dtype: pl.DataType) -> Note:
    """A column's note without a pandas type that is narrower than the stored one.

    What is new may not fit into a half float, or into seconds.
    """
    if note["kind"] == "category":
        return {**note, "of": _widened(note["of"], dtype)}
    name = note.get("dtype", "")
    is_narrow = name == "float16" or "64[s" in name
    return note_of(dtype) if note["kind"] in ("numpy", "zoned") and is_narrow else note


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
    zones = [getattr(of, "time_zone", None) is None for of in (new.dtype, dtype)]
    if numeric or (new.dtype.is_temporal() and dtype.is_temporal() and zones[0] == zones[1]):
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
        "or drop the column first (drop_obs, in one edit with this). Where datasets have a column "
        "of several types, change it dataset by dataset"
    )


def _with_values(note: Note, values: pl.Series, replaced: pl.Series | None) -> Note:
    """A column's note once it has these values; ``replaced`` are those of before, if all are."""
    found: dict[str, Any] = {key: value for key, value in note.items() if key != "truths"}
    if found["kind"] == "category" and found["categories"] is not None:
        known = from_json(found["categories"], values.dtype)
        used = values.drop_nulls().unique()
        if replaced is not None:  # a category that only replaced values had is gone
            known = known.filter(known.is_in(used.implode()) | ~known.is_in(replaced.implode()))
        more = used.filter(~used.is_in(known.implode())).sort()
        found["categories"] = to_json(pl.concat([known, more]))
    if values.dtype == pl.String and (truths := truths_of(values)):
        found["truths"] = truths
    return found
