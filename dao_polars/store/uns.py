"""uns: AnnData's unstructured part, as JSON text and back.

Owns the tags that JSON needs for what it lacks: an object ``{"__dao__": kind, ...}`` stands for
a tuple, bytes, an array, a frame. Arrays of numbers are base64 of their little-endian bytes. No
I/O; nothing is ever executed while decoding. pandas and scipy are imported only when a value
needs them.
"""

from __future__ import annotations

import base64
import importlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import DaoCorruptError, DaoTypeError, DaoValueError

TAG = "__dao__"
MAX_DEPTH = 100
"""How deep values may lie in each other: Python's own recursion must suffice wherever the caller
is. Of the JSON, in which a tagged value has up to three levels, three times as much is read."""
Tagged = dict[str, Any]
_ADVICE = (
    "replace it by plain data (numbers, strings, lists, dicts, numpy arrays, frames), delete it, "
    "or leave uns out (uns=False)"
)
_DTYPE = re.compile(r"O|[<>=|]?[biufcmMSU][0-9]{1,9}(\[[0-9]{0,9}[a-zA-Z]{1,2}\])?")
ZONED = re.compile(r"datetime64\[[a-z]{1,2}, [^\]]+\]")
"""The names of pandas' types of times with a zone."""
_SPARSE = ("csr", "csc", "coo", "bsr", "dia", "lil", "dok")


def encode(uns: Mapping[str, Any], where: str) -> str:
    """``uns`` as JSON text, from which ``decode`` gives back equal values of the same types.

    Takes None, bools, integers of any size, floats (NaN and infinities too), strings, bytes,
    lists, tuples, dicts, numpy scalars and arrays (numbers, bools, text, datetimes, structured
    and record arrays), pandas Categorical, Index, Series and DataFrame, scipy sparse matrices
    and arrays.

    Raises:
        DaoTypeError: any other value, named like ``uns['a']['b']``.
        DaoValueError: a value that contains itself, values more than 100 deep in each other, or
            text that is not valid unicode.
    """
    try:
        value = _encode(uns, f"{where}: uns", ())
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except RecursionError:  # from within the caller's own recursion
        raise DaoValueError(f"{where}: uns is nested too deeply; {_ADVICE}") from None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = error.object[max(0, error.start - 20) : error.end]
        raise DaoValueError(
            f"{where}: uns holds text that is not valid unicode, near {found!r}; replace it, or "
            "leave uns out (uns=False)"
        ) from None
    return text


def decode(text: str | bytes) -> dict[str, Any]:
    """The ``uns`` that ``encode`` wrote.

    Raises:
        DaoCorruptError: the text is not what ``encode`` writes.
    """
    try:
        value = _decode(json.loads(text))
    except Exception as error:  # whatever numpy, scipy and pandas raise for parts that do not fit
        raise DaoCorruptError(
            f"uns is not the JSON that dao-polars writes: {error or type(error).__name__}"
        ) from error
    if type(value) is not dict:  # which scipy's dok is too
        raise DaoCorruptError(f"uns must be an object, found {type(value).__name__}")
    return value


# --- encoding


def _encode(value: Any, path: str, parents: tuple[int, ...]) -> Any:
    """One value as JSON data. ``parents``: ids of the containers it is in."""
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, np.generic) and not isinstance(value, str | bytes):
        return {**_array(np.asarray(value), path, parents), "scalar": True}
    if isinstance(value, float):
        return value if math.isfinite(value) else {TAG: "float", "value": repr(float(value))}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes | bytearray):
        return {TAG: "bytes", "data": _base64(bytes(value))}
    if id(value) in parents:
        raise DaoValueError(f"{path} contains itself; {_ADVICE}")
    if len(parents) > MAX_DEPTH:
        at = f"{path[:100]}…"
        raise DaoValueError(f"{at}: uns has values more than {MAX_DEPTH} deep; {_ADVICE}")
    parents = (*parents, id(value))
    if isinstance(value, Mapping) and not hasattr(value, "nnz"):  # scipy's dok is a dict too
        return _mapping(value, path, parents)
    if isinstance(value, list | tuple):
        items = [_encode(v, f"{path}[{i}]", parents) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {TAG: "tuple", "items": items}
    if isinstance(value, np.ndarray):
        return _array(value, path, parents)
    kind, parts = _sparse_parts(value) or _pandas_parts(value) or ("", {})
    if not kind:
        raise _unsupported(value, path)
    encoded: Tagged = {TAG: kind}
    for name, part in parts.items():
        if name == "columns":
            encoded[name] = [
                [_encode(label, path, parents), _encode(column, f"{path}[{label!r}]", parents)]
                for label, column in part
            ]
        else:
            shown = f"{path}.{name}" if name in ("index", "name", "categories") else path
            encoded[name] = _encode(part, shown, parents)
    return encoded


def _unsupported(value: Any, path: str) -> DaoTypeError:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    of = f" of dtype {value.dtype}" if hasattr(value, "dtype") else ""
    return DaoTypeError(f"{path} is a {name}{of}, which cannot be stored; {_ADVICE}")


def _mapping(value: Mapping[Any, Any], path: str, parents: tuple[int, ...]) -> Any:
    values = [_encode(v, f"{path}[{key!r}]", parents) for key, v in value.items()]
    if all(isinstance(key, str) for key in value) and TAG not in value:
        return {str(key): encoded for key, encoded in zip(value, values, strict=True)}
    keys = [_encode(key, f"{path}.keys()", parents) for key in value]
    return {TAG: "dict", "keys": keys, "values": values}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _array(value: np.ndarray, path: str, parents: tuple[int, ...]) -> Tagged:
    if isinstance(value, np.ma.MaskedArray):
        raise _unsupported(value, path)
    shape = list(value.shape)
    if value.dtype.names is not None:
        fields = [
            [name, _array(np.asarray(value[name]), f"{path}[{name!r}]", parents)]
            for name in value.dtype.names
        ]
        kind = "records" if isinstance(value, np.recarray) else "structured"
        return {TAG: kind, "shape": shape, "fields": fields}
    if isinstance(value, np.matrix):
        return {TAG: "matrix", "array": _array(np.asarray(value), path, parents)}
    if value.dtype.kind in "OUT":
        dtype = value.dtype.str if value.dtype.kind == "U" else "O"
        items = [_encode(v, path, parents) for v in value.ravel().tolist()]
        return {TAG: "array", "dtype": dtype, "shape": shape, "items": items}
    if value.dtype.kind not in "biufcmMS" or value.dtype.name in ("float128", "complex256"):
        raise _unsupported(value, path)
    little = value.astype(value.dtype.newbyteorder("<"))
    data = _base64(little.tobytes())
    return {TAG: "array", "dtype": little.dtype.str, "shape": shape, "data": data}


def _sparse_parts(value: Any) -> tuple[str, Tagged] | None:
    """The kind and the parts of a sparse matrix; None for anything else."""
    import scipy.sparse

    if not scipy.sparse.issparse(value) or value.ndim != 2:
        return None
    compressed = value if value.format in ("csr", "csc") else value.tocsr()
    return "sparse", {
        "format": value.format,
        "compressed": compressed.format,
        "array": isinstance(value, scipy.sparse.sparray),
        "shape": list(value.shape),
        **{name: getattr(compressed, name) for name in ("data", "indices", "indptr")},
    }


def _pandas_parts(value: Any) -> tuple[str, Tagged] | None:
    """The kind and the parts of what is pandas'; None for anything else."""
    try:
        import pandas as pd
    except ImportError:
        return None
    if isinstance(value, pd.DataFrame):
        columns = [(label, _values(value.iloc[:, i])) for i, label in enumerate(value.columns)]
        return "frame", {"index": value.index, "columns": columns, "label": value.columns.name}
    if isinstance(value, pd.Series):
        return "series", {"index": value.index, "name": value.name, "values": _values(value)}
    if isinstance(value, pd.RangeIndex):
        return "range", {"bounds": [value.start, value.stop, value.step], "name": value.name}
    if isinstance(value, pd.Index) and not isinstance(value, pd.MultiIndex):
        return "index", {"name": value.name, "values": _values(value)}
    if isinstance(value, pd.Categorical):
        codes, ordered = np.asarray(value.codes), bool(value.ordered)
        return "categorical", {"codes": codes, "categories": value.categories, "ordered": ordered}
    if value is pd.NA or value is pd.NaT:
        return "missing", {"value": "NA" if value is pd.NA else "NaT"}
    if not isinstance(value, pd.api.extensions.ExtensionArray):
        return None
    dtype = value.dtype
    if isinstance(dtype, pd.DatetimeTZDtype):
        instants = value.tz_convert("UTC").tz_localize(None).to_numpy(dtype=f"M8[{dtype.unit}]")
        return "zoned", {"dtype": str(dtype), "instants": instants}
    if isinstance(dtype, pd.StringDtype):
        nan = isinstance(getattr(dtype, "na_value", pd.NA), float)
        return "strings", {"nan": nan, "items": value.to_numpy(object, na_value=None).tolist()}
    numpy_dtype = getattr(dtype, "numpy_dtype", None)
    if numpy_dtype is None or numpy_dtype.kind not in "biuf" or isinstance(dtype, pd.ArrowDtype):
        return None
    filled = value.to_numpy(numpy_dtype, na_value=dtype.type(0))
    return "nullable", {"values": filled, "mask": np.asarray(pd.isna(value))}


def _values(column: Any) -> Any:
    """The array behind a Series or Index: numpy's own where there is one."""
    return column.to_numpy() if isinstance(column.dtype, np.dtype) else column.array


# --- decoding


def _decode(value: Any, depth: int = 0) -> Any:
    if depth > 3 * MAX_DEPTH:
        raise ValueError(f"values lie more than {MAX_DEPTH} deep in each other")
    if isinstance(value, list):
        return [_decode(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    parts = {name: _decode(part, depth + 1) for name, part in value.items() if name != TAG}
    if TAG not in value:
        return parts
    kind = value[TAG]
    if kind not in _DECODERS:
        raise ValueError(f"{kind!r} is no kind of value that this version of dao-polars knows")
    for name, part in parts.items():
        # Of what has an index of its own, some bytes can stand for any number of values.
        wrong = hasattr(part, "rename") and name not in ("index", "categories")
        if wrong or not isinstance(part, _TYPES.get(name, object)):
            raise ValueError(f"{kind!r} has a {type(part).__name__} for its {name[:100]!r}")
    return _DECODERS[kind](**parts)


# The types of parts, where all kinds of values that have a part of this name agree.
_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("dtype", "format", "compressed"), str),
    **dict.fromkeys(("items", "keys", "shape", "fields", "columns", "bounds"), list),
    **dict.fromkeys(("scalar", "ordered", "nan"), bool),
    **dict.fromkeys(("codes", "instants", "mask", "indices", "indptr"), np.ndarray),
    "array": (bool, np.ndarray),
    "data": (str, type(None), np.ndarray),
}


def _decoded_dict(keys: list[Any], values: list[Any]) -> Any:
    if not isinstance(values, list):
        raise ValueError(f"a {type(values).__name__} is no list of values")
    return dict(zip(keys, values, strict=True))


def _shape(shape: list[int]) -> list[int]:
    """A shape, of numbers alone: text or a list times a number would be as much of it."""
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{shape!r:.100} is no shape")
    return shape


def _decoded_array(
    dtype: str,
    shape: list[int],
    items: Sequence[Any] = (),
    data: str | None = None,
    scalar: bool = False,
) -> Any:
    if not _DTYPE.fullmatch(dtype):  # numpy reads a language of them
        raise ValueError(f"{dtype!r:.100} is no dtype of an array")
    stored, shape = np.dtype(dtype), _shape(shape)
    if data is None:
        if math.prod(shape) != len(items):
            raise ValueError(f"an array of shape {shape} has {len(items)} items")
        array = np.empty(math.prod(shape), stored)
        for i, item in enumerate(items):
            if stored.kind != "O" and not isinstance(item, int | float | str):
                raise ValueError(f"a {type(item).__name__} is no item of an array of {dtype}")
            array[i] = item  # one by one: an item may be an array
    else:
        raw = base64.b64decode(data, validate=True)
        array = np.frombuffer(raw, stored) if stored.itemsize else np.empty(shape, stored)
        array = array.astype(stored.newbyteorder("="))
    array = array.reshape(shape)
    return array[()] if scalar else array


def _decoded_records(shape: list[int], fields: list[Any], scalar: bool = False) -> Any:
    shape = _shape(shape)
    for name, field in fields:  # before anything of such a shape is made
        if not isinstance(field, np.ndarray) or field.shape[: len(shape)] != tuple(shape):
            raise ValueError(f"field {name!r:.100} is no array of records of shape {shape}")
    dtype = [(name, field.dtype, field.shape[len(shape) :]) for name, field in fields]
    array = np.empty(shape, dtype=np.dtype(dtype))
    for name, field in fields:
        array[name] = field
    return array[()] if scalar else array


def _decoded_sparse(
    format: str, compressed: str, array: bool, shape: list[int], **parts: np.ndarray
) -> Any:
    import scipy.sparse

    # To turn one of the two into the other takes as much memory as its shape claims.
    if format not in _SPARSE or compressed != ("csc" if format == "csc" else "csr"):
        raise ValueError(f"{format!r} is no sparse format that is stored as {compressed!r}")
    build = getattr(scipy.sparse, f"{compressed}_{'array' if array else 'matrix'}")
    arrays = (parts["data"], parts["indices"], parts["indptr"])
    if not all(isinstance(part, np.ndarray) and part.ndim == 1 for part in arrays):
        raise ValueError("a sparse matrix is made of three arrays")
    matrix = build(arrays, shape=tuple(_shape(shape)))
    matrix.check_format(full_check=True)  # scipy trusts indices, and writes where they say
    return matrix.asformat(format)


def _column(pd: Any, values: Any, index: Any) -> Any:
    """A column of as many values as there are rows: pandas would repeat one for all of them."""
    if hasattr(values, "rename") or len(values) != len(_index(pd, index)):
        raise ValueError(f"a column is no array of {len(index)} values")
    return values


def _index(pd: Any, index: Any) -> Any:
    if not isinstance(index, pd.Index):  # of a list of them pandas would make levels
        raise ValueError(f"a {type(index).__name__} is no index")
    return index


def _decoded_frame(pd: Any, index: Any, columns: list[Any], label: Any) -> Any:
    checked = {i: _column(pd, values, index) for i, (_, values) in enumerate(columns)}
    frame = pd.DataFrame(checked, index=_index(pd, index))
    labels = [name for name, _ in columns]
    for name in labels:
        hash(name)  # or pandas could not show the frame
    frame.columns = pd.Index(labels, name=label, dtype=None if labels else object)
    return frame


def _decoded_range(pd: Any, bounds: list[int], name: Any) -> Any:
    start, stop, step = bounds
    if not all(type(bound) is int for bound in bounds):
        raise ValueError(f"{bounds!r:.100} are no bounds of a range")
    index = pd.RangeIndex(start, stop, step, name=name)
    len(index)  # or pandas could not show it
    return index


def _decoded_zoned(pd: Any, dtype: str, instants: np.ndarray) -> Any:
    if not ZONED.fullmatch(dtype):
        raise ValueError(f"{dtype!r:.100} is no dtype of times with a zone")
    zone = pd.api.types.pandas_dtype(dtype).tz
    return pd.DatetimeIndex(instants, tz="UTC").tz_convert(zone).array


def _decoded_strings(pd: Any, nan: bool, items: list[Any]) -> Any:
    options: dict[str, Any] = {"na_value": np.nan} if nan else {}
    return pd.array(items, dtype=pd.StringDtype("python", **options))


def nullable_array(values: np.ndarray, mask: np.ndarray) -> Any:
    """The nullable array of pandas that has some values but where the mask is true."""
    import pandas as pd

    arrays = {"b": pd.arrays.BooleanArray, "f": pd.arrays.FloatingArray}
    return arrays.get(values.dtype.kind, pd.arrays.IntegerArray)(values, mask)


def _by_pandas(build: Callable[..., Any]) -> Callable[..., Any]:
    """A decoder that is given pandas, which is imported when there is something to decode."""
    return lambda **parts: build(importlib.import_module("pandas"), **parts)


_DECODERS: dict[str, Callable[..., Any]] = {
    "float": lambda value: float(value),
    "bytes": lambda data: base64.b64decode(data, validate=True),
    "tuple": lambda items: tuple(items),
    "dict": _decoded_dict,
    "array": _decoded_array,
    "matrix": lambda array: np.matrix(array),  # of text numpy would read Python
    "structured": _decoded_records,
    "records": lambda **parts: _decoded_records(**parts).view(np.recarray),
    "sparse": _decoded_sparse,
    "frame": _by_pandas(_decoded_frame),
    "series": _by_pandas(
        lambda pd, index, name, values: pd.Series(
            _column(pd, values, index), index, values.dtype, name
        )
    ),
    "range": _by_pandas(_decoded_range),
    "index": _by_pandas(lambda pd, name, values: pd.Index(values, name=name, dtype=values.dtype)),
    "categorical": _by_pandas(lambda pd, codes, **how: pd.Categorical.from_codes(codes, **how)),
    "zoned": _by_pandas(_decoded_zoned),
    "strings": _by_pandas(_decoded_strings),
    "nullable": nullable_array,
    "missing": _by_pandas(lambda pd, value: {"NA": pd.NA, "NaT": pd.NaT}[value]),
}
