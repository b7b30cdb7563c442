"""uns: AnnData's unstructured part, as JSON text and back.

Owns the tags that JSON needs for what it lacks: an object ``{"__dao__": kind, ...}`` stands for
a tuple, bytes, an array, a frame. Arrays of numbers are base64 of their little-endian bytes. No
I/O; nothing is ever executed while decoding. pandas and scipy are imported only when a value
needs them.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import DaoCorruptError, DaoTypeError, DaoValueError

TAG = "__dao__"
Tagged = dict[str, Any]
_ADVICE = (
    "replace it by plain data (numbers, strings, lists, dicts, numpy arrays, frames), delete it, "
    "or leave uns out (uns=False)"
)
_SPARSE = ("csr", "csc", "coo", "bsr", "dia", "lil", "dok")


def encode(uns: Mapping[str, Any], where: str) -> str:
    """``uns`` as JSON text, from which [`decode`][] gives back equal values of the same types.

    Takes None, bools, integers of any size, floats (NaN and infinities too), strings, bytes,
    lists, tuples, dicts, numpy scalars and arrays (numbers, bools, text, datetimes, structured
    and record arrays), pandas Categorical, Index, Series and DataFrame, scipy sparse matrices
    and arrays.

    Raises:
        DaoTypeError: any other value, named like ``uns['a']['b']``.
        DaoValueError: a value that contains itself, or text that is not valid unicode.
    """
    value = _encode(uns, "uns", where, ())
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
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
    """The ``uns`` that [`encode`][] wrote.

    Raises:
        DaoCorruptError: the text is not what ``encode`` writes.
    """
    try:
        value = _decode(json.loads(text))
    except (ValueError, TypeError, KeyError, binascii.Error, RecursionError) as error:
        raise DaoCorruptError(f"uns is not the JSON that dao-polars writes: {error}") from error
    if not isinstance(value, dict):
        raise DaoCorruptError(f"uns must be an object, found {type(value).__name__}")
    return value


# --- encoding


def _encode(value: Any, path: str, where: str, parents: tuple[int, ...]) -> Any:
    """One value as JSON data. ``parents``: ids of the containers it is in."""
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, np.generic) and not isinstance(value, str | bytes):
        return {**_array(np.asarray(value), path, where, parents), "scalar": True}
    if isinstance(value, float):
        return value if math.isfinite(value) else {TAG: "float", "value": repr(float(value))}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int) and type(value).__module__ == "builtins":
        return value
    if isinstance(value, bytes | bytearray):
        return {TAG: "bytes", "data": _base64(bytes(value))}
    if id(value) in parents:
        raise DaoValueError(f"{where}: {path} contains itself; {_ADVICE}")
    parents = (*parents, id(value))
    if isinstance(value, Mapping) and not hasattr(value, "nnz"):  # scipy's dok is a dict too
        return _mapping(value, path, where, parents)
    if isinstance(value, list | tuple):
        items = [_encode(v, f"{path}[{i}]", where, parents) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {TAG: "tuple", "items": items}
    if isinstance(value, np.ndarray):
        return _array(value, path, where, parents)
    encoded = _sparse(value, path, where, parents)
    if encoded is None:
        encoded = _pandas(value, path, where, parents)
    if encoded is None:
        raise _unsupported(value, path, where)
    return encoded


def _unsupported(value: Any, path: str, where: str) -> DaoTypeError:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return DaoTypeError(f"{where}: {path} is a {name}, which cannot be stored; {_ADVICE}")


def _mapping(value: Mapping[Any, Any], path: str, where: str, parents: tuple[int, ...]) -> Any:
    pairs = [(key, _encode(v, f"{path}[{key!r}]", where, parents)) for key, v in value.items()]
    if all(isinstance(key, str) for key, _ in pairs) and TAG not in value:
        return {str(key): encoded for key, encoded in pairs}
    keys = [_encode(key, f"{path}.keys()", where, parents) for key, _ in pairs]
    return {TAG: "dict", "keys": keys, "values": [encoded for _, encoded in pairs]}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _array(value: np.ndarray, path: str, where: str, parents: tuple[int, ...]) -> dict[str, Any]:
    if isinstance(value, np.ma.MaskedArray):
        raise _unsupported(value, path, where)
    shape = list(value.shape)
    if value.dtype.names is not None:
        fields = [
            [name, _array(np.asarray(value[name]), f"{path}[{name!r}]", where, parents)]
            for name in value.dtype.names
        ]
        kind = "records" if isinstance(value, np.recarray) else "structured"
        return {TAG: kind, "shape": shape, "fields": fields}
    if isinstance(value, np.matrix):
        return {TAG: "matrix", "array": _array(np.asarray(value), path, where, parents)}
    if value.dtype.kind in "OUT":
        dtype = value.dtype.str if value.dtype.kind == "U" else "O"
        items = [_encode(v, path, where, parents) for v in value.ravel().tolist()]
        return {TAG: "array", "dtype": dtype, "shape": shape, "items": items}
    if value.dtype.kind not in "biufcmMS" or value.dtype.name in ("float128", "complex256"):
        raise _unsupported(value, f"{path} (dtype {value.dtype})", where)
    little = value.astype(value.dtype.newbyteorder("<"))
    data = _base64(little.tobytes())
    return {TAG: "array", "dtype": little.dtype.str, "shape": shape, "data": data}


def _sparse(value: Any, path: str, where: str, parents: tuple[int, ...]) -> Any:
    import scipy.sparse

    if not scipy.sparse.issparse(value):
        return None
    if value.ndim != 2:
        raise _unsupported(value, path, where)
    compressed = value if value.format in ("csr", "csc") else value.tocsr()
    parts = {
        name: _array(getattr(compressed, name), path, where, parents)
        for name in ("data", "indices", "indptr")
    }
    return {
        TAG: "sparse",
        "format": value.format,
        "compressed": compressed.format,
        "array": isinstance(value, scipy.sparse.sparray),
        "shape": list(value.shape),
        **parts,
    }


def _pandas(value: Any, path: str, where: str, parents: tuple[int, ...]) -> Any:
    try:
        import pandas as pd
    except ImportError:
        return None

    def part(item: Any, name: str = "") -> Any:
        return _encode(item, path + name, where, parents)

    if isinstance(value, pd.DataFrame):
        columns = [
            [part(label), part(_values(value.iloc[:, i]), f"[{label!r}]")]
            for i, label in enumerate(value.columns)
        ]
        return {
            TAG: "frame",
            "index": part(value.index, ".index"),
            "columns": columns,
            "label": part(value.columns.name),
        }
    if isinstance(value, pd.Series):
        index, name = part(value.index, ".index"), part(value.name, ".name")
        return {TAG: "series", "index": index, "name": name, "values": part(_values(value))}
    if isinstance(value, pd.RangeIndex):
        bounds = [value.start, value.stop, value.step]
        return {TAG: "range", "bounds": bounds, "name": part(value.name, ".name")}
    if isinstance(value, pd.Index) and not isinstance(value, pd.MultiIndex):
        return {TAG: "index", "name": part(value.name, ".name"), "values": part(_values(value))}
    if isinstance(value, pd.Categorical):
        return {
            TAG: "categorical",
            "codes": part(np.asarray(value.codes)),
            "categories": part(value.categories, ".categories"),
            "ordered": bool(value.ordered),
        }
    if isinstance(value, pd.api.extensions.ExtensionArray):
        return _extension(value, path, where, part)
    if value is pd.NA or value is pd.NaT:
        return {TAG: "missing", "value": "NA" if value is pd.NA else "NaT"}
    return None


def _values(column: Any) -> Any:
    """The array behind a Series or Index: numpy's own where there is one."""
    return column.to_numpy() if isinstance(column.dtype, np.dtype) else column.array


def _extension(value: Any, path: str, where: str, part: Callable[..., Any]) -> dict[str, Any]:
    import pandas as pd

    dtype = value.dtype
    if isinstance(dtype, pd.DatetimeTZDtype):
        instants = value.tz_convert("UTC").tz_localize(None).to_numpy(dtype=f"M8[{dtype.unit}]")
        return {TAG: "zoned", "dtype": str(dtype), "instants": part(instants)}
    if isinstance(dtype, pd.StringDtype):
        nan = isinstance(getattr(dtype, "na_value", pd.NA), float)
        items = value.to_numpy(object, na_value=None).tolist()
        return {TAG: "strings", "nan": nan, "items": part(items)}
    numpy_dtype = getattr(dtype, "numpy_dtype", None)
    if numpy_dtype is None or numpy_dtype.kind not in "biuf" or isinstance(dtype, pd.ArrowDtype):
        raise _unsupported(value, f"{path} (dtype {dtype})", where)
    mask = np.asarray(pd.isna(value))
    filled = value.to_numpy(numpy_dtype, na_value=dtype.type(0))
    return {TAG: "nullable", "values": part(filled), "mask": part(mask)}


# --- decoding


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if TAG not in value:
        return {key: _decode(item) for key, item in value.items()}
    kind = value[TAG]
    if kind not in _DECODERS:
        raise ValueError(f"{kind!r} is no kind of value that this version of dao-polars knows")
    return _DECODERS[kind](value)


def _decode_dict(value: Tagged) -> dict[Any, Any]:
    return dict(zip(_decode(value["keys"]), _decode(value["values"]), strict=True))


def _decode_array(value: Tagged) -> Any:
    shape = tuple(value["shape"])
    if "items" in value:
        array = np.empty(math.prod(shape), dtype=value["dtype"])
        _fill(array, (_decode(item) for item in value["items"]), len(value["items"]))
    else:
        raw = base64.b64decode(value["data"], validate=True)
        stored = np.dtype(value["dtype"])
        array = np.frombuffer(raw, dtype=stored) if stored.itemsize else np.empty(shape, stored)
        array = array.astype(stored.newbyteorder("="))
    array = array.reshape(shape)
    return array[()] if value.get("scalar") else array


def _fill(array: np.ndarray, items: Iterable[Any], count: int) -> None:
    """Fills an object array item by item, so that an item that is an array stays one item."""
    if count != array.size:
        raise ValueError(f"an array of {array.size} items has {count}")
    for i, item in enumerate(items):
        array[i] = item


def _decode_records(value: Tagged) -> np.ndarray:
    fields = [(name, _decode(field)) for name, field in value["fields"]]
    shape = tuple(value["shape"])
    dtype = [(name, field.dtype, field.shape[len(shape) :]) for name, field in fields]
    array = np.empty(shape, dtype=np.dtype(dtype))
    for name, field in fields:
        array[name] = field
    if value.get("scalar"):
        return array[()]
    return array.view(np.recarray) if value[TAG] == "records" else array


def _decode_sparse(value: Tagged) -> Any:
    import scipy.sparse

    flavour = "array" if value["array"] else "matrix"
    if value["format"] not in _SPARSE or value["compressed"] not in ("csr", "csc"):
        raise ValueError(f"{value['format']!r} is no sparse format")
    build = getattr(scipy.sparse, f"{value['compressed']}_{flavour}")
    parts = tuple(_decode_array(value[name]) for name in ("data", "indices", "indptr"))
    return build(parts, shape=tuple(value["shape"])).asformat(value["format"])


def _decode_frame(value: Tagged) -> Any:
    import pandas as pd

    columns = [_decode(item) for _, item in value["columns"]]
    frame = pd.DataFrame(dict(enumerate(columns)), index=_decode(value["index"]))
    labels = [_decode(label) for label, _ in value["columns"]]
    dtype = object if not labels else None
    frame.columns = pd.Index(labels, name=_decode(value["label"]), dtype=dtype)
    return frame


def _decode_series(value: Tagged) -> Any:
    import pandas as pd

    index, name = _decode(value["index"]), _decode(value["name"])
    values = _decode(value["values"])
    return pd.Series(values, index=index, name=name, dtype=values.dtype)


def _decode_range(value: Tagged) -> Any:
    import pandas as pd

    return pd.RangeIndex(*value["bounds"], name=_decode(value["name"]))


def _decode_index(value: Tagged) -> Any:
    import pandas as pd

    values = _decode(value["values"])
    return pd.Index(values, name=_decode(value["name"]), dtype=values.dtype)


def _decode_categorical(value: Tagged) -> Any:
    import pandas as pd

    codes, categories = _decode(value["codes"]), _decode(value["categories"])
    return pd.Categorical.from_codes(codes, categories=categories, ordered=value["ordered"])


def _decode_zoned(value: Tagged) -> Any:
    import pandas as pd

    dtype = pd.api.types.pandas_dtype(value["dtype"])
    return pd.DatetimeIndex(_decode(value["instants"]), tz="UTC").tz_convert(dtype.tz).array


def _decode_strings(value: Tagged) -> Any:
    import pandas as pd

    options: dict[str, Any] = {"na_value": np.nan} if value["nan"] else {}
    return pd.array(_decode(value["items"]), dtype=pd.StringDtype("python", **options))


def _decode_nullable(value: Tagged) -> Any:
    import pandas as pd

    values, mask = _decode(value["values"]), _decode(value["mask"])
    arrays = {"b": pd.arrays.BooleanArray, "f": pd.arrays.FloatingArray}
    return arrays.get(values.dtype.kind, pd.arrays.IntegerArray)(values, mask)


def _decode_missing(value: Tagged) -> Any:
    import pandas as pd

    return {"NA": pd.NA, "NaT": pd.NaT}[value["value"]]


_DECODERS: dict[str, Callable[[Tagged], Any]] = {
    "float": lambda value: float(value["value"]),
    "bytes": lambda value: base64.b64decode(value["data"], validate=True),
    "tuple": lambda value: tuple(_decode(value["items"])),
    "dict": _decode_dict,
    "array": _decode_array,
    "matrix": lambda value: np.matrix(_decode_array(value["array"])),
    "structured": _decode_records,
    "records": _decode_records,
    "sparse": _decode_sparse,
    "frame": _decode_frame,
    "series": _decode_series,
    "range": _decode_range,
    "index": _decode_index,
    "categorical": _decode_categorical,
    "zoned": _decode_zoned,
    "strings": _decode_strings,
    "nullable": _decode_nullable,
    "missing": _decode_missing,
}
