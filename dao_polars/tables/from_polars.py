"""obs and var as a store holds them: columns of a polars frame, with the notes for pandas.

Owns what each polars dtype becomes: the pandas type that polars users would expect of it.
"""

from __future__ import annotations

import polars as pl

from .._core import ColumnMeta
from ..errors import DaoTypeError
from ..scan.dtypes import dtype_name, is_storable
from .table import Note, to_json, truths_of

_TEXT: Note = {"kind": "object", "of": "string"}


def from_polars(s: pl.Series, where: str) -> tuple[pl.Series, ColumnMeta]:
    """A polars column as a store holds it, and its note.

    Args:
        s: any column; Enums and Categoricals are stored as text, and become categoricals.
        where: what the column is of, for errors: ``"update_obs"``.

    Raises:
        DaoTypeError: a dtype that a store does not hold.
    """
    dtype, name = s.dtype, s.name
    if isinstance(dtype, pl.Enum | pl.Categorical):
        stored = s.cast(pl.String)
        note: Note = {"kind": "category", "categories": None, "ordered": False, "of": _TEXT}
        if isinstance(dtype, pl.Enum) and not dtype.categories.is_sorted():
            note["categories"] = to_json(dtype.categories)  # sorting would not give them
    elif isinstance(dtype, pl.BaseExtension) or not is_storable(dtype):
        raise DaoTypeError(
            f"{where}: column {name!r} is of type {dtype}, which a table does not hold; cast it "
            "to Int64, Float32, Float64, Boolean, String, an Enum, dates or times"
        )
    else:
        stored, note = s, note_of(dtype)
    if stored.dtype == pl.String and (truths := truths_of(stored)):
        note["truths"] = truths
    return stored, ColumnMeta(name, name, dtype_name(stored.dtype), note)


def note_of(dtype: pl.DataType) -> Note:
    """The note of a stored column that pandas never saw."""
    if dtype.is_numeric() or dtype == pl.Boolean:
        name = "bool" if dtype == pl.Boolean else str(dtype).lower()
        return {"kind": "numpy", "dtype": name}
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone:
            return {"kind": "zoned", "dtype": f"datetime64[{dtype.time_unit}, {dtype.time_zone}]"}
        return {"kind": "numpy", "dtype": f"datetime64[{dtype.time_unit}]"}
    if isinstance(dtype, pl.Duration):
        return {"kind": "numpy", "dtype": f"timedelta64[{dtype.time_unit}]"}
    return {"kind": "object", "of": {pl.Date(): "date", pl.Null(): "empty"}.get(dtype, "string")}
