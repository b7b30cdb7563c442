"""The values of a dataset's uns that hold for every cell, and so are columns of the frame.

Owns which values these are, and which organism they say. Does no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import polars as pl


def constants(uns: Mapping[str, Any], obs_columns: Collection[str]) -> dict[str, Any]:
    """The top-level scalars of ``uns``, which hold for every cell: str, int, float and bool.

    numpy scalars count as what they hold. Names in ``obs_columns`` (which should include the
    reserved ones) are left out, as are NaN and infinities, integers beyond 64 bits and text that
    is not valid unicode.
    """
    found = {}
    for name, value in uns.items():
        if isinstance(value, np.generic):
            value = value.item()
        named = isinstance(name, str) and name not in obs_columns and _is_unicode(name)
        if named and _is_constant(value):
            found[name] = str(value) if isinstance(value, str) else value
    return found


def organism_of(uns: Mapping[str, Any], values: pl.Series | None) -> str | None:
    """The organism of all cells: as uns says it, or the one value of the column."""
    named = uns.get("organism")
    if named is None and values is not None and values.n_unique() == 1:
        named = values[0]
    return str(named) if isinstance(named, str) else None


def _is_constant(value: Any) -> bool:
    if isinstance(value, int):  # a bool too
        return -(2**63) <= value < 2**64
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str) and _is_unicode(value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
