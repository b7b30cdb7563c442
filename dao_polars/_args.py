"""Checks of arguments that several rooms share: errors that name the argument and what it may be.

Must not know frames, stores or anything else of the package but its errors.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from .errors import DaoTypeError, DaoValueError

__all__ = ["integer"]


def integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """The value as an int. A bool, a float (NaN too) or a text is none.

    Raises:
        DaoTypeError: it is no integer.
        DaoValueError: it is out of range.
    """
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
