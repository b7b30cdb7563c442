"""Arguments that many public methods take: numbers, columns of a frame, normalization.

Owns their checks and the errors that these raise, and the methods of the namespaces that are
functions of their room. Knows no store and no cells.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from .errors import DaoKeyError, DaoTypeError, DaoValueError

P = ParamSpec("P")
R = TypeVar("R")

#: A column of a frame, by name or computed from others.
Column = str | pl.Expr

#: ``normalize=`` of the public methods.
Normalize = str | Mapping[str, Any] | None

#: The total that cells are brought to, and whether log(1 + x) is taken then, by name.
_NORMALIZE: dict[str, tuple[float | None, bool]] = {
    "cp10k": (1e4, False),
    "log1p_cp10k": (1e4, True),
    "cpm": (1e6, False),
    "log1p_cpm": (1e6, True),
    "log1p": (None, True),
}


#: The line of a docstring that is about the frame itself; from Python 3.13 it is indented less.
_SUBJECT = re.compile(r"^ +frame: the one before ``\.dao``\.\n", re.M)


def namespace_method(
    function: Callable[Concatenate[Any, P], R],
) -> Callable[Concatenate[Any, P], R]:
    """A namespace's method that is this function of its frame or expression, ``_subject``."""

    @functools.wraps(function)
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return function(self._subject, *args, **kwargs)

    # help() of the method tells nothing of an argument that it does not have.
    method.__doc__ = _SUBJECT.sub("", function.__doc__ or "")
    return method


def integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """An argument as an int of that range; a bool, a float (NaN too) or a string is refused."""
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


def optional_text(name: str, value: Any) -> None:
    """Refuses an argument that is neither text nor None."""
    if value is not None and not isinstance(value, str):
        raise DaoTypeError(f"{name}={value!r}; expected text or None")


def listed(columns: Any) -> list[Any]:
    """One column, or several, as a list of them."""
    single = isinstance(columns, (str, pl.Expr)) or not isinstance(columns, Iterable)
    return [columns] if single else list(columns)


def texts(values: Any, what: str, expected: str = "names") -> list[str]:
    """One text, or several, as a list of them; anything else is refused."""
    found = listed(values)
    for value in found:
        if not isinstance(value, str):
            raise DaoTypeError(f"{what}= holds {value!r}; expected {expected} (str)")
    return found


def columns_of(*settings: Column | Iterable[Column] | None) -> list[str]:
    """The frame's columns that settings name or are computed from."""
    names: list[str] = []
    for column in (c for setting in settings if setting is not None for c in listed(setting)):
        if isinstance(column, str):
            names.append(column)
        elif isinstance(column, pl.Expr):
            if column.meta.has_multiple_outputs():
                raise DaoValueError(f"{column} has several columns; give expressions of one each")
            names += column.meta.root_names()
    return names


def codes(
    frame: pl.DataFrame, columns: Column | Iterable[Column], what: str
) -> tuple[NDArray[np.uint32], pl.DataFrame]:
    """The code of each row's value (or tuple of several), in order of appearance, and the values.

    Nulls are a value like others.
    """
    parts = listed(columns)
    if not parts:
        raise DaoValueError(f"{what}=[] names no column")
    named = pl.DataFrame(
        [column_values(frame, part, what).alias(str(i)) for i, part in enumerate(parts)]
    )
    distinct = named.unique(maintain_order=True)
    numbered = distinct.with_row_index("code")
    found = named.join(
        numbered, on=named.columns, how="left", nulls_equal=True, maintain_order="left"
    )
    return found["code"].to_numpy().astype(np.uint32), distinct


def column_values(frame: pl.DataFrame, column: Any, what: str) -> pl.Series:
    """The values of a column or an expression over the frame, one a row."""
    if isinstance(column, str):
        if column not in frame.columns:
            raise DaoKeyError(
                f"{what}={column!r} is no column of the frame; its columns: "
                f"{', '.join(map(repr, frame.columns))}"
            )
        return frame[column]
    if not isinstance(column, pl.Expr):
        raise DaoTypeError(f"{what}={column!r}; expected a column's name or a polars expression")
    selected = frame.select(column)
    if selected.width != 1:
        raise DaoValueError(
            f"{what}= is an expression of {selected.width} columns; give expressions of one each"
        )
    values = selected.to_series()
    if len(values) == frame.height:
        return values
    if len(values) == 1:
        return values.new_from_index(0, frame.height)
    raise DaoValueError(
        f"{what}= gives {len(values)} values for the frame's {frame.height} rows; expected one each"
    )


def normalization(normalize: Normalize, dtype: str) -> tuple[float | None, bool] | None:
    """The total that cells are brought to, and whether log(1 + x) is taken; None for neither."""
    if normalize is None:
        return None
    if not dtype.startswith("float"):
        raise DaoValueError(f"normalize= gives no integers; dtype={dtype!r} is one")
    expected = (
        f"normalize={normalize!r}; expected one of {', '.join(map(repr, _NORMALIZE))}, or "
        "{'target_sum': a number or None, 'log1p': True or False}"
    )
    if isinstance(normalize, str):
        if normalize not in _NORMALIZE:
            raise DaoValueError(expected)
        return _NORMALIZE[normalize]
    if not isinstance(normalize, Mapping) or not {"target_sum", "log1p"} >= set(normalize) > set():
        raise DaoTypeError(expected)
    target = normalize.get("target_sum")
    if target is not None:
        if isinstance(target, bool) or not isinstance(target, (int, float, np.number)):
            raise DaoTypeError(f"normalize= has target_sum={target!r}; expected a number or None")
        target = float(target)
        if not (np.isfinite(target) and target > 0):
            raise DaoValueError(f"normalize= has target_sum={target!r}; expected one above 0")
    log1p = normalize.get("log1p", False)
    if not isinstance(log1p, (bool, np.bool_)):
        raise DaoTypeError(f"normalize= has log1p={log1p!r}; expected True or False")
    return target, bool(log1p)
