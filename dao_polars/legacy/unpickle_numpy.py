"""What numpy puts into a pickle, checked and built by us: dtypes, scalars, arrays.

Owns the layout of numpy's pickle states (numpy 1 and 2). Every size is held against the bytes
that are there before anything is allocated, and no function of numpy's unpickling is called.
Knows nothing of opcodes; ``NotImplemented`` says that a value is to be refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

NUMPY_TYPES = ("numpy.ndarray", "numpy.recarray", "numpy.record", "numpy.void")

_MAX_NESTING = 16  # structured dtypes in structured dtypes
_CODE = re.compile(r"[<>=|]?(?:[bBhHiIlLqQefdgFDG?O]|[biufcOSUV][0-9]{1,9}|[mM]8?)")
_TIME_UNITS = {"generic", "Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"}


class MalformedError(Exception):
    """The pickle contradicts itself."""


_Spend = Callable[[int], None]


class PendingDtype:
    """A dtype that is not complete yet: numpy pickles its name first and the details as a state."""

    def __init__(self, dtype: np.dtype, nesting: int = 0) -> None:
        self.dtype, self.nesting = dtype, nesting

    def set_state(self, state: Any) -> None:
        """Completes the dtype from ``(version, byte order, subarray, names, fields, …)``."""
        if not isinstance(state, tuple) or len(state) < 5:
            raise MalformedError("a dtype's state is not as numpy writes it")
        _, order, subarray, names, fields, *rest = state
        pending = []
        if isinstance(subarray, tuple):
            inner, shape = subarray
            pending = [inner]
            dtype = np.dtype((_dtype(inner), _shape(shape)))
        elif names is not None:
            parts = [fields[name] for name in names]
            pending = [part[0] for part in parts]
            layout: dict[str, Any] = {
                "names": [str(name) for name in names],
                "formats": [_dtype(each) for each in pending],
                "offsets": [int(part[1]) for part in parts],
            }
            titles = [part[2] if len(part) > 2 else None for part in parts]
            if any(isinstance(title, str) for title in titles):
                layout["titles"] = titles
            layout["itemsize"] = int(rest[0])
            dtype = np.dtype(layout)  # type: ignore[call-overload]
        else:
            dtype = self.dtype
            if dtype.kind in "mM" and len(state) > 8:
                dtype = _with_unit(dtype, state[8])
            if order in ("<", ">") and dtype.itemsize:
                dtype = dtype.newbyteorder(order)
        self.nesting = 1 + max((each.nesting for each in pending), default=-1)
        if self.nesting > _MAX_NESTING:
            raise MalformedError("a dtype is nested too deeply")
        self.dtype = dtype


def _with_unit(dtype: np.dtype, detail: Any) -> np.dtype:
    unit, number, *_ = detail[-1]
    unit = unit.decode() if isinstance(unit, bytes) else unit
    if unit not in _TIME_UNITS or type(number) is not int or not 0 < number < 2**31:
        raise MalformedError("a time dtype has no known unit")
    return dtype if unit == "generic" else np.dtype(f"{dtype.kind}8[{number}{unit}]")


def new_dtype(code: Any = None, *_flags: Any) -> Any:
    """The dtype of ``numpy.dtype(code, …)``; ``NotImplemented`` if the code is not a plain one."""
    if getattr(code, "name", None) in NUMPY_TYPES:  # numpy.record: the state has the fields
        code = "V0"
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        return NotImplemented
    return PendingDtype(np.dtype(code))


def scalar(spend: _Spend, pending: Any, raw: Any = None) -> Any:
    """A numpy scalar out of its bytes."""
    dtype = _dtype(pending)
    if dtype.hasobject:
        return NotImplemented
    values = _values(spend, raw, dtype, (), "C")
    return values if values is NotImplemented else values[()]


def frombuffer(
    spend: _Spend, raw: Any, pending: Any, shape: Any, order: Any, axes: Any = None
) -> Any:
    """An array as protocol 5 pickles it: complete at once."""
    values = _values(spend, raw, _dtype(pending), _shape(shape), "F" if order == "F" else "C")
    if values is NotImplemented:
        return values
    result = PendingArray(spend, 0)
    result.array = values.transpose(axes) if order == "K" and axes is not None else values
    return result


class PendingArray:
    """An array that is not complete yet: numpy pickles an empty one first, then values as a state.

    ``array`` is None while there are no values, and stays so when they are refused (``why``).
    """

    def __init__(self, spend: _Spend, file_size: int) -> None:
        self.array: np.ndarray | None = None
        self.why = "numpy.ndarray"
        self.fortran = False
        self._spend, self._file_size = spend, file_size

    def set_state(self, state: Any) -> None:
        """Completes the array from ``(version, shape, dtype, Fortran order, bytes or objects)``."""
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise MalformedError("an array's state is not as numpy writes it")
        shape, pending, self.fortran, values = state[-4:]
        dtype, shape = _dtype(pending), _shape(shape)
        order = "F" if self.fortran else "C"
        built = (
            self._objects(values, dtype, shape)
            if isinstance(values, list)
            else _values(self._spend, values, dtype, shape, order)
        )
        self.array = None if built is NotImplemented else built

    def ordered(self, array: np.ndarray) -> np.ndarray:
        """The array in the memory order that this one had."""
        return np.asfortranarray(array) if self.fortran else array

    def _objects(self, values: list[Any], dtype: np.dtype, shape: tuple[int, ...]) -> Any:
        if len(values) != prod(shape):
            raise MalformedError(f"an array of shape {shape} has {len(values)} values")
        fields = [dtype[name] for name in dtype.names or ()]
        if not (dtype.kind == "O" or (dtype.hasobject and fields)):
            raise MalformedError(f"an array of dtype {dtype} has a list of values")
        if any(field.hasobject and field.kind != "O" for field in fields):
            return NotImplemented
        self._spend(len(values) * dtype.itemsize)
        array = np.empty(len(values), dtype)
        try:
            for i, value in enumerate(values):
                array[i] = value
        except (TypeError, ValueError):  # a field that cannot hold its value
            return NotImplemented
        return array.reshape(shape)


def _values(spend: _Spend, raw: Any, dtype: np.dtype, shape: tuple[int, ...], order: str) -> Any:
    """The array that lies in some bytes, which must be as many as shape and dtype say."""
    if isinstance(raw, str):
        raw = raw.encode("latin1")
    if not isinstance(raw, bytes | bytearray) or dtype.hasobject:
        return NotImplemented
    if prod(shape) * dtype.itemsize != len(raw):
        raise MalformedError(f"an array of {dtype} and shape {shape} has {len(raw)} bytes")
    if not dtype.itemsize:
        return NotImplemented
    spend(len(raw))
    flat = np.frombuffer(bytearray(raw), dtype) if raw else np.empty(0, dtype)
    _check_values(flat)
    return flat.reshape(shape, order=order)  # type: ignore[call-overload]


def _check_values(array: np.ndarray) -> None:
    """Refuses values that numpy takes and then fails to show."""
    for name in array.dtype.names or ():
        _check_values(array[name])
    generic = array.dtype.kind == "M" and np.datetime_data(array.dtype)[0] == "generic"
    if array.size and (generic or array.dtype.kind == "U"):
        code = "i8" if generic else "u4"
        numbers = np.ascontiguousarray(array).reshape(-1).view(f"{array.dtype.byteorder}{code}")
        if generic and (numbers != np.iinfo(np.int64).min).any():
            raise MalformedError("times have no unit")
        if not generic and numbers.max() > 0x10FFFF:
            raise MalformedError("text has characters that do not exist")


def _dtype(pending: Any) -> np.dtype:
    if not isinstance(pending, PendingDtype):
        raise MalformedError(f"a {type(pending).__name__} stands where a dtype should")
    return pending.dtype


def _shape(shape: Any) -> tuple[int, ...]:
    sizes: tuple[Any, ...] = shape if isinstance(shape, tuple) else (shape,)
    if len(sizes) > 32 or any(type(n) is not int or not 0 <= n < 2**62 for n in sizes):
        raise MalformedError("an array has no possible shape")
    return sizes
