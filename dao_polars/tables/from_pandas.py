"""obs and var as a store holds them: pandas to polars, with the notes that bring them back.

Owns what each pandas dtype becomes. pyarrow is needed only for columns that pyarrow itself holds.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from .._core import ColumnMeta, TableMeta
from ..errors import DaoTypeError, DaoValueError
from ..scan.columns import is_pattern
from ..scan.dtypes import dtype_name, is_storable
from .table import Note, Table, to_json, truths_of

if TYPE_CHECKING:
    import pandas as pd

_OBJECTS = {  # what pandas sees in an object column -> how it is stored
    "string": pl.String(),
    "boolean": pl.Boolean(),
    "integer": pl.Int64(),
    "floating": pl.Float64(),
    "mixed-integer-float": pl.Float64(),
    "date": pl.Date(),
    "empty": pl.Null(),
}
_WIDER = {"float16": "f4", "datetime64[s]": "M8[ms]", "timedelta64[s]": "m8[ms]"}
_NULLABLE = {"boolean", "Float32", "Float64"} | {
    f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)
}
_AS_STRINGS = "convert it to strings (`df[name] = df[name].astype(str)`) or drop it"
_ADVICE = {  # by what a dtype's name has in it
    "period": "convert it to datetimes (`df[name].dt.to_timestamp()`) or strings, or drop it",
    "complex": "split it into its real and imaginary part, or drop it",
    "sparse": "make it dense (`df[name] = df[name].sparse.to_dense()`)",
    "float128": "convert it to float64",
    "longdouble": "convert it to float64",
    "": _AS_STRINGS,
}


def from_pandas(df: pd.DataFrame, *, index_name: str, reserved: set[str], where: str) -> Table:
    """A pandas obs or var as a store holds it.

    Args:
        df: any number of rows and columns; its index need not be unique and is stored as text.
        index_name: name of the index column, ``"obs_name"`` or ``"var_name"``.
        reserved: names a column may not have; such a column (and one without a name, or one
            that polars takes for a pattern) is stored as ``obs_<name>``.
        where: what the table is, for errors: ``"obs of dataset 'lung'"``.

    Raises:
        DaoTypeError: a column of mixed or unsupported type, named.
        DaoValueError: column names that repeat, or text that is not valid unicode.
    """
    sources = _column_names(df, where)
    index, index_note = _index_to_polars(df.index, index_name, where)
    series, columns = [index], []
    taken = {index_name, *sources, *reserved}
    for position, source in enumerate(sources):
        name = source
        # polars finds no column "", and takes some names for patterns
        if name == index_name or name in reserved or not name or is_pattern(name):
            while name in taken:
                name = f"{index_name.split('_')[0]}_{name}"
            taken.add(name)
        stored, note = _to_polars(df.iloc[:, position], f"{where}, column {source!r}")
        if stored.dtype == pl.String and (truths := truths_of(stored)):
            note["truths"] = truths
        series.append(stored.alias(name))
        dtype = dtype_name(stored.dtype)
        columns.append(ColumnMeta(name, source, dtype, note))
    label = df.index.name
    meta = TableMeta(None if label is None else str(label), index_note, columns)
    return Table(pl.DataFrame(series), meta)


# --- names and index


def _column_names(df: pd.DataFrame, where: str) -> list[str]:
    """Column names as text; integers among them become their digits."""
    names = []
    for label in df.columns:
        if isinstance(label, bool) or not isinstance(label, str | int | np.integer):
            raise DaoTypeError(
                f"{where}: column name {label!r} is a {type(label).__name__}, not a string; "
                "rename it: df.columns = df.columns.map(str)"
            )
        names.append(str(label))
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise DaoValueError(
            f"{where}: column name {repeated[0]!r} occurs more than once (integer names count "
            "as their digits); rename or drop all but one"
        )
    return names


def _index_to_polars(index: pd.Index, name: str, where: str) -> tuple[pl.Series, Note]:
    import pandas as pd

    if isinstance(index, pd.MultiIndex):
        raise DaoTypeError(
            f"{where}: the index has {index.nlevels} levels; give it one, for example "
            "df.index = df.index.map('_'.join)"
        )
    where = f"{where}, index"
    of_text = isinstance(index.dtype, pd.StringDtype) or (
        index.dtype == object and pd.api.types.infer_dtype(index, skipna=False) == "string"
    )
    stored, note = _to_polars((index if of_text else index.astype(str)).to_series(), where)
    return stored.cast(pl.String).fill_null("nan").alias(name), note


# --- one column


def _to_polars(column: pd.Series, where: str) -> tuple[pl.Series, Note]:
    """The stored values of a column, and its note's ``pandas`` part."""
    import pandas as pd

    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _categorical_to_polars(column.array, where)
    if isinstance(dtype, pd.StringDtype):
        nan = isinstance(getattr(dtype, "na_value", pd.NA), float)
        note = {"kind": "string", "storage": dtype.storage, "na": "nan" if nan else "NA"}
        return _text(column.array.to_numpy(object, na_value=None), where), note
    if isinstance(dtype, pd.DatetimeTZDtype):
        return _zoned_to_polars(column, dtype), {"kind": "zoned", "dtype": str(dtype)}
    if isinstance(dtype, np.dtype):
        if dtype.kind == "O":
            return _object_to_polars(column.to_numpy(), where)
        if dtype.kind in "biufmM" and dtype.itemsize <= 8:
            stored = _WIDER.get(dtype.name, dtype.newbyteorder("="))
            values = np.ascontiguousarray(column.to_numpy().astype(stored, copy=False))
            return pl.Series(values), {"kind": "numpy", "dtype": dtype.name}
    if dtype.name in _NULLABLE:
        filled = column.array.to_numpy(dtype.numpy_dtype, na_value=dtype.type(0))
        missing = pl.Series(column.isna().to_numpy(dtype=bool))
        return pl.Series(filled).set(missing, None), {"kind": "nullable", "dtype": str(dtype)}
    if isinstance(dtype, pd.ArrowDtype):
        return _arrow_to_polars(column, where), {"kind": "arrow", "dtype": str(dtype)}
    advice = next(text for word, text in _ADVICE.items() if word in str(dtype).lower())
    raise DaoTypeError(f"{where}: pandas dtype {dtype} cannot be stored; {advice}")


def _text(values: np.ndarray, where: str) -> pl.Series:
    """Strings, or None, as a String column."""
    try:
        return pl.Series(values.tolist(), dtype=pl.String)  # an object array may become Object
    except UnicodeEncodeError as error:
        raise DaoValueError(
            f"{where}: {error.object!r} is not valid unicode text; decode the file's text with the "
            "right encoding, or replace the value"
        ) from None


def _object_to_polars(values: np.ndarray, where: str) -> tuple[pl.Series, Note]:
    import pandas as pd

    found = pd.api.types.infer_dtype(values, skipna=True)
    if found not in _OBJECTS:
        raise DaoTypeError(
            f"{where}: an object column must hold one kind of value, strings best, and this one "
            f"holds {_examples(values)}; {_AS_STRINGS}"
        )
    missing = pd.isna(values)
    note: Note = {"kind": "object", "of": found}
    if missing.any():
        first = str(values[missing.argmax()])
        note["missing"] = {"None": "None", "<NA>": "NA", "NaT": "NaT"}.get(first, "nan")
        values = values.copy()
        values[missing] = None
    if found == "string":
        return _text(values, where), note
    stored = pl.Series(values.tolist(), dtype=_OBJECTS[found], strict=False)
    if stored.null_count() > missing.sum():
        raise DaoValueError(f"{where}: a value does not fit {_OBJECTS[found]}; {_AS_STRINGS}")
    return stored, note


def _examples(values: np.ndarray) -> str:
    """``"str ('B') and int (3)"``: the first value of each of the first types."""
    first: dict[str, Any] = {}
    for value in values[:10_000]:
        first.setdefault(type(value).__name__, value)
    return " and ".join(f"{kind} ({value!r:.40})" for kind, value in list(first.items())[:3])


def _zoned_to_polars(column: pd.Series, dtype: pd.DatetimeTZDtype) -> pl.Series:
    unit = "ms" if dtype.unit == "s" else dtype.unit
    instants = column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
    s = pl.Series(instants.astype(f"M8[{unit}]")).dt.replace_time_zone("UTC")
    zone = getattr(dtype.tz, "key", None) or getattr(dtype.tz, "zone", None) or str(dtype.tz)
    try:
        return s.dt.convert_time_zone(zone)
    except pl.exceptions.PolarsError:  # a fixed offset: the note alone remembers it
        return s


def _arrow_to_polars(column: pd.Series, where: str) -> pl.Series:
    s = pl.Series(column.array.__arrow_array__())
    if isinstance(s.dtype, pl.Categorical | pl.Enum):
        s = s.cast(pl.String)
    if not is_storable(s.dtype):
        raise DaoTypeError(f"{where}: pandas dtype {column.dtype} cannot be stored; {_AS_STRINGS}")
    return s


def _categorical_to_polars(values: pd.Categorical, where: str) -> tuple[pl.Series, Note]:
    """A categorical's values, and a note with its categories unless sorting would give them."""
    ordered = bool(values.ordered)
    categories, of = _to_polars(values.categories.to_series(), f"{where}, categories")
    codes = pl.Series(values.codes.astype(np.int64))
    if categories.len() == 0:  # no categories have no type
        stored = pl.Series([None] * len(codes), dtype=pl.Null)
    else:
        stored = categories.gather(codes.set(codes < 0, None))
    derived = (
        not ordered
        and categories.dtype == pl.String
        and categories.is_sorted()
        and codes.filter(codes >= 0).n_unique() == categories.len()
    )
    listed = None if derived else to_json(categories)
    return stored, {"kind": "category", "categories": listed, "ordered": ordered, "of": of}
