"""Names of polars data types in the store's JSON, and back.

Owns the spelling. Knows nothing of stores or tables.
"""

from __future__ import annotations

import re
from typing import Literal, cast

import polars as pl

from ..errors import DaoValueError

_INTEGERS = [f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)]
_PLAIN: dict[str, pl.DataType] = {
    name: getattr(pl, name)()
    for name in ("String", "Boolean", *_INTEGERS, "Float32", "Float64", "Date", "Time", "Null")
}
_TIMED = re.compile(r"(Datetime|Duration)\((ns|us|ms)(?:,(.+))?\)")


def is_storable(dtype: pl.DataType) -> bool:
    """Whether a store holds columns of a type: no lists, structs, decimals, ..."""
    return isinstance(dtype, pl.Datetime | pl.Duration) or str(dtype) in _PLAIN


def dtype_name(dtype: pl.DataType) -> str:
    """The store's name of a polars dtype, such as ``"Int64"`` or ``"Datetime(us,UTC)"``.

    Raises:
        DaoValueError: a dtype that a store does not hold.
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
    """The polars dtype of a store's name; the inverse of ``dtype_name``.

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
    dtype = pl.Duration(unit) if kind == "Duration" else pl.Datetime(unit, zone)
    try:
        pl.Series([], dtype=dtype)
    except pl.exceptions.PolarsError as error:  # a zone that it does not know
        raise DaoValueError(f"{name!r} is no dtype that polars knows: {error}") from error
    return dtype
