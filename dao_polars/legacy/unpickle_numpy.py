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

TYPES = ("numpy.ndarray", "numpy.recarray", "numpy.record", "numpy.void")

_CODE = re.compile(r"[<>=|]?(?:[bBhHiIlLqQefdgFDG?O]|[biufcOSUV][0-9]{1,9}|[mM]8?)")
_TIME_UNITS = {"generic", "Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"}

Spend = Callable[[int], None]


class MalformedError(Exception):
    """The pickle contradicts itself."""


def new_dtype(_spend: Spend, state: Any, code: Any = None, *_flags: Any) -> Any:
    """The dtype of ``numpy.dtype(code, …)`` and its state, refused if the code is no plain one.

    ``state`` is ``(version, byte order, subarray, names, fields, size, …)``; None if there is none.
    """
    if getattr(code, "name", None) in TYPES:  # numpy.record: the state has the fields
        code = "V0"
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        return NotImplemented
    dtype = np.dtype(code)
    if state is None:
        return dtype
    if not isinstance(state, tuple) or len(state) < 5:
        raise MalformedError("a dtype's state is not as numpy writes it")
    _, order, subarray, names, fields, *rest = state
    if isinstance(subarray, tuple):
        inner, shape = subarray
        return np.dtype((_dtype(inner), _shape(shape)))
    if names is not None:
        parts = [fields[name] for name in names]
        layout: dict[str, Any] = {
            "names": [str(name) for name in names],
            "formats": [_dtype(part[0]) for part in parts],
            "offsets": [int(part[1]) for part in parts],
            "itemsize": int(rest[0]),
        }
        titles = [part[2] if len(part) > 2 else None for part in parts]
        if any(isinstance(title, str) for title in titles):
            layout["titles"] = titles
        return np.dtype(layout)  # type: ignore[call-overload]
    if dtype.kind in "mM" and len(state) > 8:
        dtype = _with_unit(dtype, state[8])
    return dtype.newbyteorder(order) if order in ("<", ">") and dtype.itemsize else dtype


def _with_unit(dtype: np.dtype, detail: Any) -> np.dtype:
    unit, number, *_ = detail[-1]
    unit = unit.decode() if isinstance(unit, bytes) else unit
    if unit not in _TIME_UNITS or type(number) is not int or not 0 < number < 2**31:
        raise MalformedError("a time dtype has no known unit")
    return dtype if unit == "generic" else np.dtype(f"{dtype.kind}8[{number}{unit}]")


def scalar(spend: Spend, _state: Any, dtype: Any, raw: Any = None) -> Any:
    """A numpy scalar out of its bytes."""
    values = _values(spend, raw, _dtype(dtype), (), "C")
    return values if values is NotImplemented else values[()]


def frombuffer(
    spend: Spend, _state: Any, raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None
) -> Any:
    """An array as protocol 5 pickles it."""
    values = _values(spend, raw, _dtype(dtype), _shape(shape), "F" if order == "F" else "C")
    permuted = order == "K" and axes is not None and values is not NotImplemented
    return values.transpose(axes) if permuted else values


def new_array(spend: Spend, state: Any, cls: Any, *_args: Any) -> Any:
    """The array of ``(version, shape, dtype, Fortran order, bytes or objects)``, its state."""
    if cls.name not in TYPES or state is None:
        return NotImplemented
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        raise MalformedError("an array's state is not as numpy writes it")
    shape, dtype, fortran, values = state[-4:]
    order = "F" if fortran else "C"
    build = _objects if isinstance(values, list) else _values
    return build(spend, values, _dtype(dtype), _shape(shape), order)


def _objects(
    spend: Spend, values: list[Any], dtype: np.dtype, shape: tuple[int, ...], order: Any
) -> Any:
    """The array of some objects, listed in C order whatever its own order is."""
    if len(values) != prod(shape):
        raise MalformedError(f"an array of shape {shape} has {len(values)} values")
    fields = [dtype[name] for name in dtype.names or ()]
    if not (dtype.kind == "O" or (dtype.hasobject and fields)):
        raise MalformedError(f"an array of dtype {dtype} has a list of values")
    if any(field.hasobject and field.kind != "O" for field in fields):
        return NotImplemented
    spend(len(values) * dtype.itemsize)
    array = np.empty(len(values), dtype)
    try:
        for i, value in enumerate(values):
            array[i] = value
    except (TypeError, ValueError):  # a field that cannot hold its value
        return NotImplemented
    return array.reshape(shape).copy(order)


def _values(spend: Spend, raw: Any, dtype: np.dtype, shape: tuple[int, ...], order: Any) -> Any:
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
    return flat.reshape(shape, order=order)


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


def _dtype(dtype: Any) -> np.dtype:
    if not isinstance(dtype, np.dtype):
        raise MalformedError(f"a {type(dtype).__name__} stands where a dtype should")
    return dtype


def _shape(shape: Any) -> tuple[int, ...]:
    sizes: tuple[Any, ...] = shape if isinstance(shape, tuple) else (shape,)
    if len(sizes) > 32 or any(type(n) is not int or not 0 <= n < 2**62 for n in sizes):
        raise MalformedError("an array has no possible shape")
    return sizes
