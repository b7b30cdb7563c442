"""obs and var: pandas to polars when written, polars to pandas when read.

Owns what each pandas dtype becomes in a store (a polars column and a small JSON note) and how
the note brings it back. No I/O; knows neither stores nor AnnData. pyarrow is needed only for
columns that pyarrow itself holds.

A column's note, `ColumnMeta.pandas`, is::

    {"kind": "numpy" | "nullable" | "zoned" | "string" | "object" | "category" | "arrow",
     ...what else the kind needs}

Strings and categoricals hold missing values as null; a float NaN stays NaN.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from .._core import ColumnMeta, TableMeta
from ..errors import DaoTypeError, DaoValueError
from ..scan.dtypes import dtype_from_name, dtype_name

if TYPE_CHECKING:
    import pandas as pd

Note = dict[str, Any]

_STRING_LIKE = (pl.String, pl.Enum, pl.Categorical)
_OBJECTS = {  # what pandas sees in an object column -> how it is stored
    "string": pl.String(),
    "boolean": pl.Boolean(),
    "integer": pl.Int64(),
    "floating": pl.Float64(),
    "mixed-integer-float": pl.Float64(),
    "date": pl.Date(),
    "empty": pl.Null(),
}
_NULLABLE = {"boolean", "Float32", "Float64"} | {
    f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)
}
_AS_STRINGS = "convert it to strings (`df[name] = df[name].astype(str)`) or drop it"


@dataclass(frozen=True)
class Table:
    """A frame as stored, and the description that turns it back into the pandas frame it was.

    ``frame``: the index (String) first, then the columns, in the order they had.
    ``meta``: what the index and each column were.
    """

    frame: pl.DataFrame
    meta: TableMeta


def from_pandas(df: pd.DataFrame, *, index_name: str, reserved: set[str], where: str) -> Table:
    """A pandas obs or var as a store holds it.

    Args:
        df: any number of rows and columns; its index need not be unique and is stored as text.
        index_name: name of the index column, ``"obs_name"`` or ``"var_name"``.
        reserved: names a column may not have; such a column (and one without a name) is stored
            as ``obs_<name>``.
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
        if name == index_name or name in reserved or not name:  # polars finds no column ""
            while name in taken:
                name = f"{index_name.split('_')[0]}_{name}"
            taken.add(name)
        stored, note = _to_polars(df.iloc[:, position], f"{where}, column {source!r}")
        series.append(stored.alias(name))
        dtype = dtype_name(stored.dtype)
        columns.append(ColumnMeta(name, source, dtype, note))
    label = df.index.name
    meta = TableMeta(None if label is None else str(label), index_note, columns)
    return Table(pl.DataFrame(series), meta)


def to_pandas(frame: pl.DataFrame, tables: Sequence[TableMeta], *, complete: bool) -> pd.DataFrame:
    """The pandas frame of stored rows, with every column's pandas dtype restored.

    Args:
        frame: column ``obs_name`` (or ``var_name``) becomes the index; the others, a user's own
            too, become columns. String-like columns may be Enum, Categorical or String.
        tables: of each dataset that the rows come from (see [`Table`][]).
        complete: the rows are whole datasets, so that unused categories are kept; otherwise
            they are dropped, as AnnData does when it takes a subset.

    A column that the datasets hold alike comes back exactly as it was, except that integers and
    bools become pandas' nullable ones when some dataset lacks the column. Where the datasets
    differ: categoricals keep their categories if these are identical and get the sorted union
    (unordered) otherwise; other text becomes object; numbers keep the frame's dtype.
    """
    import pandas as pd

    index_name = next((n for n in ("obs_name", "var_name") if n in frame.columns), None)
    by_name: dict[str, list[ColumnMeta]] = {}
    for table in tables:
        for note in table.columns:
            by_name.setdefault(note.name, []).append(note)

    names = [name for name in frame.columns if name != index_name]
    labels = _source_names(names, by_name)
    values = [_restore(frame[name], by_name.get(name, []), complete) for name in names]
    if index_name is None:
        index = pd.RangeIndex(frame.height).astype(str)
    else:
        index = _index_to_pandas(frame[index_name], tables)
    df = pd.DataFrame(dict(enumerate(values)), index=index)
    df.columns = pd.Index(labels, dtype=object) if not labels else pd.Index(labels)
    return df


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
    seen: set[str] = set()
    repeated = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    if repeated:
        raise DaoValueError(
            f"{where}: column name {repeated[0]!r} occurs more than once (integer names count "
            "as their digits); rename or drop all but one"
        )
    return names


def _source_names(names: list[str], by_name: dict[str, list[ColumnMeta]]) -> list[str]:
    """The names that columns had before they were stored, where that is unambiguous."""
    labels = []
    for name in names:
        sources = {note.source for note in by_name.get(name, [])}
        source = sources.pop() if len(sources) == 1 else name
        labels.append(name if source != name and source in names else source)
    return labels


def _index_to_polars(index: pd.Index, name: str, where: str) -> tuple[pl.Series, Note]:
    import pandas as pd

    if isinstance(index, pd.MultiIndex):
        raise DaoTypeError(
            f"{where}: the index has {index.nlevels} levels; give it one, for example "
            "df.index = df.index.map('_'.join)"
        )
    where = f"{where}, index"
    if isinstance(index.dtype, pd.CategoricalDtype) or not _is_text(index):
        index = index.astype(str)
    stored, note = _to_polars(index.to_series(), where)
    return stored.cast(pl.String).fill_null("nan").alias(name), note


def _is_text(index: pd.Index) -> bool:
    import pandas as pd

    return isinstance(index.dtype, pd.StringDtype) or (
        index.dtype == object and pd.api.types.infer_dtype(index, skipna=False) == "string"
    )


def _index_to_pandas(s: pl.Series, tables: Sequence[TableMeta]) -> pd.Index:
    import pandas as pd

    names = {table.index_name for table in tables}
    name = names.pop() if len(names) == 1 else None
    kinds = [table.index or {} for table in tables]
    strings = kinds and kinds[0].get("kind") == "string" and all(k == kinds[0] for k in kinds)
    s = s.cast(pl.String)
    if strings:
        return pd.Index(_from_polars(s, kinds[0]), name=name)
    return pd.Index(s.to_numpy(), dtype=object, name=name)


# --- pandas -> polars, one column


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
        if dtype.kind in "biuf" and dtype.itemsize <= 8:
            values = column.to_numpy().astype(dtype.newbyteorder("="), copy=False)
            if dtype.name == "float16":
                values = values.astype(np.float32)
            return pl.Series(np.ascontiguousarray(values)), {"kind": "numpy", "dtype": dtype.name}
        if dtype.kind in "mM":
            values = column.to_numpy()
            if values.dtype == f"{dtype.kind}8[s]":
                values = values.astype(f"{dtype.kind}8[ms]")
            return pl.Series(np.ascontiguousarray(values)), {"kind": "numpy", "dtype": dtype.name}
    if dtype.name in _NULLABLE:
        filled = column.array.to_numpy(dtype.numpy_dtype, na_value=dtype.type(0))
        missing = pl.Series(column.isna().to_numpy(dtype=bool))
        return pl.Series(filled).set(missing, None), {"kind": "nullable", "dtype": str(dtype)}
    if isinstance(dtype, pd.ArrowDtype):
        return _arrow_to_polars(column, where), {"kind": "arrow", "dtype": str(dtype)}
    raise DaoTypeError(f"{where}: pandas dtype {dtype} cannot be stored; {_advice(dtype)}")


def _advice(dtype: Any) -> str:
    name = str(dtype).lower()
    if "interval" in name:
        return _AS_STRINGS
    if "period" in name:
        return "convert it to datetimes (`df[name].dt.to_timestamp()`) or strings, or drop it"
    if "complex" in name:
        return "split it into its real and imaginary part, or drop it"
    if "sparse" in name:
        return "make it dense (`df[name] = df[name].sparse.to_dense()`)"
    if "float128" in name or "longdouble" in name:
        return "convert it to float64"
    return _AS_STRINGS


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
        note["missing"] = _missing_name(values[missing.argmax()])
        values = values.copy()
        values[missing] = None
    if found == "string":
        return _text(values, where), note
    if found == "empty":
        return pl.Series([None] * len(values), dtype=pl.Null), note
    stored = pl.Series(values.tolist(), dtype=_OBJECTS[found], strict=False)
    if stored.null_count() > missing.sum():
        raise DaoValueError(f"{where}: a value does not fit {_OBJECTS[found]}; {_AS_STRINGS}")
    return stored, note


def _missing_name(value: Any) -> str:
    import pandas as pd

    if value is None:
        return "None"
    return "NA" if value is pd.NA else "NaT" if value is pd.NaT else "nan"


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
    try:
        return s.dt.convert_time_zone(_zone_name(dtype.tz))
    except pl.exceptions.PolarsError:  # a fixed offset: the note alone remembers it
        return s


def _zone_name(zone: Any) -> str:
    return getattr(zone, "key", None) or getattr(zone, "zone", None) or str(zone)


def _arrow_to_polars(column: pd.Series, where: str) -> pl.Series:
    s = pl.Series(column.array.__arrow_array__())
    if isinstance(s.dtype, pl.Categorical | pl.Enum):
        s = s.cast(pl.String)
    try:
        dtype_name(s.dtype)
    except DaoValueError:
        raise DaoTypeError(
            f"{where}: pandas dtype {column.dtype} cannot be stored; {_AS_STRINGS}"
        ) from None
    return s


def _categorical_to_polars(values: pd.Categorical, where: str) -> tuple[pl.Series, Note]:
    """Values, not codes; the note lists the categories unless they are what sorting would give."""
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
    listed = None if derived else _to_json(categories)
    return stored, {"kind": "category", "categories": listed, "ordered": ordered, "of": of}


def _to_json(s: pl.Series) -> list[Any]:
    """Exact in any JSON reader: floats as text, times as integers."""
    if s.dtype.is_float():
        return [repr(value) for value in s.to_list()]
    return s.to_physical().to_list()


def _from_json(values: list[Any], dtype: pl.DataType) -> pl.Series:
    if dtype.is_float():
        return pl.Series([float(value) for value in values], dtype=dtype)
    if dtype.is_temporal():
        return pl.Series(values, dtype=pl.Int64).cast(_physical(dtype)).cast(dtype)
    return pl.Series(values, dtype=dtype)


def _physical(dtype: pl.DataType) -> pl.DataType:
    return pl.Series([], dtype=dtype).to_physical().dtype


# --- polars -> pandas, one column


def _restore(s: pl.Series, notes: list[ColumnMeta], complete: bool) -> Any:
    """A pandas array or numpy array for one column, from the notes of the datasets that have it."""
    if isinstance(s.dtype, pl.BaseExtension):
        s = s.ext.storage()
    typed = [note for note in notes if note.dtype != "Null"] or notes
    if not typed:
        return _plain_to_pandas(s)
    kinds = {note.pandas["kind"] for note in typed}
    if kinds == {"category"}:
        return _categorical_to_pandas(s, typed, complete)
    first = typed[0]
    if all(n.pandas == first.pandas and n.dtype == first.dtype for n in typed):
        stored = _back_to(s, dtype_from_name(first.dtype))
        if stored is not None:
            return _from_polars(stored, first.pandas)
    if kinds == {"nullable"} and (s.dtype.is_numeric() or s.dtype == pl.Boolean):
        return _nullable(s)
    if isinstance(s.dtype, _STRING_LIKE):
        return _as_objects(s.cast(pl.String), "None")
    return _plain_to_pandas(s)


def _back_to(s: pl.Series, dtype: pl.DataType) -> pl.Series | None:
    """``s`` in the dtype it was stored in, or None where that would change a value."""
    if isinstance(s.dtype, pl.Enum | pl.Categorical):
        s = s.cast(pl.String)
    if s.dtype == dtype:
        return s
    if dtype == pl.Null:
        return pl.Series([None] * s.len(), dtype=dtype) if s.null_count() == s.len() else None
    try:
        cast = _parsed(s, dtype) if s.dtype == pl.String else s.cast(dtype, strict=False)
        same = cast.cast(s.dtype, strict=False).eq_missing(s).all()
    except pl.exceptions.PolarsError:
        return None
    return cast if same else None


def _parsed(s: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Text that polars made of values of ``dtype``, as these values again; else null."""
    if dtype == pl.Boolean:
        return s.replace_strict(["true", "false"], [True, False], default=None, return_dtype=dtype)
    if dtype == pl.Date:
        return s.str.to_date("%Y-%m-%d", strict=False)
    if isinstance(dtype, pl.Datetime):
        zone = dtype.time_zone
        form = "%Y-%m-%d %H:%M:%S%.f" + ("%z" if zone else "")
        instants = s.str.to_datetime(form, time_unit=dtype.time_unit, strict=False)
        return instants.dt.convert_time_zone(zone) if zone else instants
    return s.cast(dtype, strict=False)


def _from_polars(s: pl.Series, note: Note) -> Any:
    """Values in their stored dtype as the pandas kind that the note names (not categoricals)."""
    import pandas as pd

    kind = note["kind"]
    if kind == "numpy":
        return _numbers(s, np.dtype(note["dtype"]))
    if kind == "nullable":
        return _nullable(s).astype(note["dtype"])
    if kind == "zoned":
        return (
            _instants(s)
            .as_unit(_unit(note["dtype"]))
            .tz_convert(pd.api.types.pandas_dtype(note["dtype"]).tz)
        )
    if kind == "string":
        return pd.array(s.to_numpy(), dtype=_string_dtype(note))
    if kind == "arrow":
        return pd.array(s.to_arrow(), dtype=_arrow_dtype(note["dtype"]))
    return _as_objects(s, note.get("missing", "None"))


def _unit(dtype: str) -> str:
    return dtype[dtype.index("[") + 1 :].split(",")[0].rstrip("]")


def _string_dtype(note: Note) -> pd.StringDtype:
    import pandas as pd

    options: dict[str, Any] = {"na_value": np.nan} if note["na"] == "nan" else {}
    for storage in (note["storage"], "python"):
        try:
            return pd.StringDtype(storage, **options)
        except ImportError:  # written where pyarrow was, read where it is not
            continue
    raise AssertionError("unreachable: python storage needs nothing")


def _arrow_dtype(name: str) -> pd.ArrowDtype:
    import pandas as pd
    import pyarrow as pa

    if zoned := re.fullmatch(r"timestamp\[(\w+), tz=(.+)\]\[pyarrow\]", name):
        return pd.ArrowDtype(pa.timestamp(*zoned.groups()))
    if name == "string[pyarrow]":  # this name alone means StringDtype to pandas
        return pd.ArrowDtype(pa.string())
    return pd.ArrowDtype.construct_from_string(name)


def _numbers(s: pl.Series, dtype: np.dtype) -> Any:
    """Values as numpy; integers and bools with nulls as pandas' nullable arrays."""
    if dtype.kind in "mM":
        return s.to_numpy().astype(dtype)
    if s.null_count() and dtype.kind in "biu":
        return _nullable(s)
    return s.to_numpy().astype(dtype, copy=False)


def _nullable(s: pl.Series) -> Any:
    import pandas as pd

    mask = s.is_null().to_numpy()
    zero: Any = False if s.dtype == pl.Boolean else 0
    values = s.fill_null(zero).to_numpy().copy()
    if s.dtype == pl.Boolean:
        return pd.arrays.BooleanArray(values, mask)
    if s.dtype.is_float():
        return pd.arrays.FloatingArray(values, mask)
    return pd.arrays.IntegerArray(values, mask)


def _instants(s: pl.Series) -> pd.DatetimeIndex:
    """A zoned column as pandas instants in UTC."""
    import pandas as pd

    instants = s.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return pd.DatetimeIndex(instants.to_numpy(writable=True), tz="UTC")


def _as_objects(s: pl.Series, missing: str) -> np.ndarray:
    import pandas as pd

    if s.dtype == pl.String:
        values = np.array(s.to_numpy(), dtype=object)
    else:
        values = np.empty(s.len(), dtype=object)
        values[:] = s.to_list()
    if missing != "None" and s.null_count():
        fill = {"NA": pd.NA, "NaT": pd.NaT, "nan": np.nan}[missing]
        values[s.is_null().to_numpy()] = fill
    return values


def _plain_to_pandas(s: pl.Series) -> Any:
    """A column that no note describes: a user's own, or a constant of a dataset."""
    dtype = s.dtype
    if isinstance(dtype, pl.Enum | pl.Categorical):
        used = s.drop_nulls().unique()
        order = used.to_physical() if isinstance(dtype, pl.Enum) else used.cast(pl.String)
        categories = used.cast(pl.String).gather(order.arg_sort())
        return _from_codes(s, categories, {"kind": "object"}, ordered=False)[0]
    if dtype == pl.Date:
        return s.cast(pl.Datetime("ms")).to_numpy()
    if isinstance(dtype, pl.Decimal):
        s = s.cast(pl.Float64)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        return _instants(s).tz_convert(dtype.time_zone)
    if s.dtype.is_numeric() or s.dtype == pl.Boolean:
        name = "bool" if s.dtype == pl.Boolean else str(s.dtype).lower()
        return _numbers(s, np.dtype(name)) if name != "int128" else _as_objects(s, "None")
    if isinstance(dtype, pl.Datetime | pl.Duration):
        return s.to_numpy()
    return _as_objects(s, "None")


def _categorical_to_pandas(s: pl.Series, notes: list[ColumnMeta], complete: bool) -> Any:
    """Every dataset says category: its own categories if all agree, else the sorted union."""
    first = notes[0]
    same = all(n.pandas == first.pandas and n.dtype == first.dtype for n in notes)
    if same:
        stored = _back_to(s, dtype_from_name(first.dtype))
        if stored is not None:
            note = first.pandas
            # the Enum that arrived is quicker to take codes from than the text it stands for
            coded = s if isinstance(s.dtype, pl.Enum) and stored.dtype == pl.String else stored
            if note["categories"] is None:
                categories = _used(coded)
            else:
                categories = _from_json(note["categories"], stored.dtype)
            result, strays = _from_codes(coded, categories, note["of"], note["ordered"])
            if not strays:
                return result if complete else result.remove_unused_categories()
    if isinstance(s.dtype, pl.Categorical):
        s = s.cast(pl.String)
    parts = [_used(s)]
    if complete:
        for column in notes:
            if column.pandas["categories"] is not None:
                listed = _from_json(column.pandas["categories"], dtype_from_name(column.dtype))
                parts.append(listed.cast(parts[0].dtype, strict=False))
    union = pl.concat(parts).drop_nulls().unique().sort()
    ofs = [note.pandas["of"] for note in notes]
    of = ofs[0] if all(o == ofs[0] for o in ofs) and _all_stored_as(union, notes) else None
    return _from_codes(s, union, of, ordered=False)[0]


def _all_stored_as(s: pl.Series, notes: list[ColumnMeta]) -> bool:
    """Whether every dataset stores the column in the dtype of ``s``."""
    return all(note.dtype == dtype_name(s.dtype) for note in notes)


def _used(s: pl.Series) -> pl.Series:
    """The values that occur, sorted; text for an Enum."""
    used = s.drop_nulls().unique()
    return (used.cast(pl.String) if isinstance(s.dtype, _STRING_LIKE) else used).sort()


def _from_codes(
    s: pl.Series, categories: pl.Series, of: Note | None, ordered: bool
) -> tuple[pd.Categorical, bool]:
    """``s`` as a pandas categorical, and whether it has values outside the categories."""
    import pandas as pd

    codes = _codes(s, categories)
    strays = codes.null_count() > s.null_count()
    values = _plain_to_pandas(categories) if of is None else _from_polars(categories, of)
    result = pd.Categorical.from_codes(
        codes.fill_null(-1).to_numpy(writable=True), categories=pd.Index(values), ordered=ordered
    )
    return result, strays


def _codes(s: pl.Series, categories: pl.Series) -> pl.Series:
    """Position of each value among the categories (Int32), null where it is not there."""
    if categories.len() == 0 or s.dtype == pl.Null:
        return pl.Series([None] * s.len(), dtype=pl.Int32)
    if isinstance(s.dtype, pl.Enum):
        return _codes(s.dtype.categories, categories).gather(s.to_physical())
    if isinstance(s.dtype, pl.Categorical):
        s = s.cast(pl.String)
    positions = pl.Series(np.arange(categories.len(), dtype=np.int32))
    return s.replace_strict(categories, positions, default=None, return_dtype=pl.Int32)
