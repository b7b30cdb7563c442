"""The form of obs and var in a store: a polars frame, and notes that bring the pandas frame back.

Owns the notes that ``from_pandas`` makes and
``to_pandas`` reads. No I/O; knows neither stores nor AnnData.

A column's note, `ColumnMeta.pandas`, is::

    {"kind": "numpy" | "nullable" | "zoned" | "string" | "object" | "category" | "arrow",
     ...what else the kind needs}

Strings and categoricals hold missing values as null; a float NaN stays NaN. Text that spells
truth values has them in ``"truths"``: where another dataset has bools, the frame's are bools too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import polars as pl

from .._core import TableMeta

Note = dict[str, Any]

_TRUTHS = {"false": "False", "true": "True"}


@dataclass(frozen=True)
class Table:
    """A frame as stored, and the description that turns it back into the pandas frame it was.

    ``frame``: the index (String) first, then the columns, in the order they had.
    ``meta``: what the index and each column were.
    """

    frame: pl.DataFrame
    meta: TableMeta


def to_json(s: pl.Series) -> list[Any]:
    """Values as JSON that every reader gets exactly: floats as text, times as integers."""
    if s.dtype.is_float():
        return [repr(value) for value in s.to_list()]
    return s.to_physical().to_list()


def from_json(values: list[Any], dtype: pl.DataType) -> pl.Series:
    """The inverse of ``to_json``."""
    if dtype.is_float():
        return pl.Series([float(value) for value in values], dtype=dtype)
    if dtype.is_temporal():
        return pl.Series(values, dtype=pl.Int64).cast(dtype)
    return pl.Series(values, dtype=dtype)


def truths_of(values: pl.Series) -> dict[str, str]:
    """How a text column spells its truth values, by their lower case; empty for other text."""
    first = values.drop_nulls().head(1)
    if first.is_empty() or first[0].lower() not in _TRUTHS:
        return {}
    found = values.drop_nulls().unique().to_list()
    spelled = {text.lower(): text for text in found}
    return spelled if spelled.keys() <= _TRUTHS.keys() else {}


def spelled(truths: pl.Series, notes: Iterable[Note]) -> pl.Series:
    """Bools as the text that they were in the tables with these notes."""
    spellings = [_TRUTHS | note.get("truths", {}) for note in notes]
    alike = all(spelling == spellings[0] for spelling in spellings)
    words = spellings[0] if alike and spellings else _TRUTHS
    return truths.replace_strict(
        [False, True], [words["false"], words["true"]], return_dtype=pl.String
    )
