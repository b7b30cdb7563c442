"""Names of polars data types in the store's JSON, and back.

Owns the spelling. Knows nothing of stores or tables.
"""

from __future__ import annotations

import re
from typing import Literal, cast

import polars as pl

from ..errors import DaoValueError

_PLAIN: dict[str, pl.DataType] = {
    str(t): t()
    for t in (
        pl.String,
        pl.Boolean,
        pl.Int8,
        pl.Int16,
        pl.Int32,
        pl.Int64,
        pl.UInt8,
        pl.UInt16,
        pl.UInt32,
        pl.UInt64,
        pl.Float32,
        pl.Float64,
        pl.Date,
        pl.Time,
        pl.Null,
    )
}
_TIMED = re.compile(r"(Datetime|Duration)\((ns|us|ms)(?:,(.+))?\)")


def dtype_name(dtype: pl.DataType) -> str:
    """The store's name of a polars dtype, such as ``"Int64"`` or ``"Datetime(us,UTC)"``.

    Raises:
        DaoValueError: a dtype that a store does not hold (lists, structs, decimals, ...).
    """
    if isinstance(dtype, pl.Datetime):
        zone = f",{dtype.time_zone}" if dtype.time_zone else ""
        return f"Datetime({dtype.time_unit}{zone})"
    if isinstance(dtype, pl.Duration):
        return f"Duration({dtype.time_unit})"
    name = str(dtype)
    if name not in _PLAIN:
        raise DaoValueError(
            f"polars dtype {dtype} cannot be stored; "
            f"cast it to one of {', '.join(_PLAIN)}, Datetime, Duration"
        )
    return name


def dtype_from_name(name: str) -> pl.DataType:
    """The polars dtype of a store's name; the inverse of [`dtype_name`][].

    Raises:
        DaoValueError: no such name (a damaged manifest, or one of a newer version).
    """
    if name in _PLAIN:
        return _PLAIN[name]
    match = _TIMED.fullmatch(name)
    if match is None or (match[1] == "Duration" and match[3]):
        raise DaoValueError(f"{name!r} is no dtype that this version of dao-polars knows")
    kind, unit, zone = match.groups()
    unit = cast(Literal["ns", "us", "ms"], unit)
    return pl.Duration(unit) if kind == "Duration" else pl.Datetime(unit, zone)
