"""Rows of a store as a pandas frame: polars to pandas, every column as the notes say it was.

Owns how each note brings its pandas dtype back, and what becomes of columns that datasets hold
differently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from .._core import ColumnMeta, TableMeta
from ..errors import DaoCorruptError, DaoError
from ..scan.columns import converted_series, is_text
from ..scan.dtypes import dtype_from_name
from ..store.uns import ZONED, nullable_array
from ..tables.table import Note, from_json, spelled

if TYPE_CHECKING:
    import pandas as pd

# The names of pandas' types in notes, by their kind; see `from_pandas`.
_NUMBERS = re.compile(r"bool|(u?int|float)(8|16|32|64)|(datetime|timedelta)64\[[a-z]{1,2}\]")
_NULLABLE = re.compile(r"boolean|(U?Int|Float)(8|16|32|64)")


def to_pandas(
    frame: pl.DataFrame, tables: Sequence[TableMeta], *, index: str = "obs_name", complete: bool
) -> pd.DataFrame:
    """The pandas frame of stored rows, with every column's pandas dtype restored.

    Args:
        frame: its columns, a user's own too. String-like ones may be Enum, Categorical or String.
        tables: of each dataset that the rows come from (see ``Table``).
        index: the column that becomes the index; without it the rows are numbered.
        complete: the rows are whole datasets, so that unused categories are kept; otherwise
            they are dropped, as AnnData does when it takes a subset.

    A column that the datasets hold alike comes back exactly as it was, except that integers and
    bools become pandas' nullable ones when some dataset lacks the column. Where the datasets
    differ: categoricals keep their categories if these are identical and get the sorted union
    (unordered) otherwise; other text becomes object; numbers keep the frame's dtype.
    """
    import pandas as pd

    by_name: dict[str, list[ColumnMeta]] = {}
    for table in tables:
        for note in table.columns:
            by_name.setdefault(note.name, []).append(note)

    names = [name for name in frame.columns if name != index]
    labels = _source_names(names, by_name)
    values = []
    for name in names:
        with _notes_of(f"column {name!r}"):
            values.append(_restore(frame[name], by_name.get(name, []), complete))
    if index not in frame.columns:
        rows = pd.RangeIndex(frame.height).astype(str)
    else:
        with _notes_of("the index"):
            rows = _index_to_pandas(frame[index], tables)
    df = pd.DataFrame(dict(enumerate(values)), index=rows)
    df.columns = pd.Index(labels, dtype=object) if not labels else pd.Index(labels)
    return df


@contextmanager
def _notes_of(what: str) -> Iterator[None]:
    """Blames the notes for what pandas and polars raise: a store's JSON may say anything."""
    try:
        yield
    except (DaoError, ImportError, MemoryError):
        raise
    except Exception as error:  # they have no common base, and pandas asserts
        raise DaoCorruptError(
            f"{what}: its form in pandas, as its datasets' descriptions say it, cannot be made: "
            f"{error!r}; restore them from a copy, or write the dataset again"
        ) from error


# --- names and index


def _source_names(names: list[str], by_name: dict[str, list[ColumnMeta]]) -> list[str]:
    """The names that columns had before they were stored, where that is unambiguous."""
    labels = []
    for name in names:
        sources = {note.source for note in by_name.get(name, [])}
        source = sources.pop() if len(sources) == 1 else name
        labels.append(name if source != name and source in names else source)
    return labels


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


# --- one column


def _restore(s: pl.Series, notes: list[ColumnMeta], complete: bool) -> Any:
    """A pandas array or numpy array for one column, from the notes of the datasets that have it."""
    if isinstance(s.dtype, pl.BaseExtension):
        s = s.ext.storage()
    typed = [note for note in notes if note.dtype != "Null"] or notes
    if not typed:
        return _plain_to_pandas(s)
    if s.dtype == pl.Boolean and all("truths" in note.pandas for note in typed):
        s = spelled(s, [note.pandas for note in typed])
    first = typed[0]
    alike = all(n.pandas == first.pandas and n.dtype == first.dtype for n in typed)
    stored = _back_to(s, dtype_from_name(first.dtype)) if alike else None
    kinds = {note.pandas["kind"] for note in typed}
    if kinds == {"category"}:
        return _categorical_to_pandas(s, stored, typed, complete)
    if stored is not None:
        return _from_polars(stored, first.pandas)
    if kinds == {"nullable"} and (s.dtype.is_numeric() or s.dtype == pl.Boolean):
        return _nullable(s)
    if is_text(s.dtype):
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
        same = converted_series(cast, s.dtype).eq_missing(s).all()
    except pl.exceptions.PolarsError:
        return None
    return cast if same else None


def _parsed(s: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Text that polars made of values of ``dtype``, as these values again; else null."""
    if dtype == pl.Boolean:
        return s.replace_strict(["True", "False"], [True, False], default=None, return_dtype=dtype)
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
        return _numbers(s, note["dtype"])
    if kind == "nullable":
        return _nullable(s).astype(_checked(note["dtype"], _NULLABLE))
    if kind == "zoned":
        return _instants(s).astype(_checked(note["dtype"], ZONED))
    if kind == "string":
        return pd.array(s.to_numpy(), dtype=_string_dtype(note))
    if kind == "arrow":
        return pd.array(s.to_arrow(), dtype=_arrow_dtype(note["dtype"]))
    return _as_objects(s, note.get("missing", "None"))


def _checked(dtype: Any, names: re.Pattern[str]) -> Any:
    """A type's name, if it is one of these: numpy and pandas would read much more into a text."""
    if not isinstance(dtype, str) or not names.fullmatch(dtype):
        raise ValueError(f"{dtype!r:.100} is not the name of a type that it may have")
    return dtype


def _string_dtype(note: Note) -> pd.StringDtype:
    import pandas as pd

    options: dict[str, Any] = {"na_value": np.nan} if note["na"] == "nan" else {}
    try:
        return pd.StringDtype(note["storage"], **options)
    except ImportError:  # written where pyarrow was, read where it is not
        return pd.StringDtype("python", **options)


def _arrow_dtype(name: str) -> pd.ArrowDtype:
    import pandas as pd
    import pyarrow as pa

    if zoned := re.fullmatch(r"timestamp\[(\w+), tz=(.+)\]\[pyarrow\]", name):
        found = pd.ArrowDtype(pa.timestamp(*zoned.groups()))
    elif name == "string[pyarrow]":  # this name alone means StringDtype to pandas
        found = pd.ArrowDtype(pa.string())
    else:
        found = pd.ArrowDtype.construct_from_string(name)
    if zone := getattr(found.pyarrow_dtype, "tz", None):
        pd.DatetimeTZDtype(tz=zone)  # or pandas could not show the column
    return found


def _numbers(s: pl.Series, dtype: str | None = None) -> Any:
    """Values as numpy; integers and bools with nulls as pandas' nullable arrays."""
    if s.null_count() and (s.dtype.is_integer() or s.dtype == pl.Boolean):
        return _nullable(s)
    if dtype is None:
        return s.to_numpy()
    return s.to_numpy().astype(_checked(dtype, _NUMBERS), copy=False)


def _nullable(s: pl.Series) -> Any:
    zero: Any = False if s.dtype == pl.Boolean else 0
    return nullable_array(s.fill_null(zero).to_numpy(writable=True), s.is_null().to_numpy())


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
        categories = s.drop_nulls().unique().sort().cast(pl.String)  # an Enum's in its order
        return _from_codes(s, categories, {"kind": "object"}, ordered=False)[0]
    if dtype == pl.Date:
        return s.cast(pl.Datetime("ms")).to_numpy()
    if isinstance(dtype, pl.Decimal):
        s = s.cast(pl.Float64)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        return _instants(s).tz_convert(dtype.time_zone)
    if s.dtype.is_numeric() or s.dtype == pl.Boolean:
        return _numbers(s) if s.dtype != pl.Int128 else _as_objects(s, "None")
    if isinstance(dtype, pl.Datetime | pl.Duration):
        return s.to_numpy()
    return _as_objects(s, "None")


def _categorical_to_pandas(
    s: pl.Series, stored: pl.Series | None, notes: list[ColumnMeta], complete: bool
) -> Any:
    """A categorical, if every dataset has one: with their categories if equal, else the union.

    ``stored`` is ``s`` in the dtype in which all datasets store it, if there is one.
    """
    if stored is not None:
        note = notes[0].pandas
        # the Enum that arrived is quicker to take codes from than the text it stands for
        coded = s if isinstance(s.dtype, pl.Enum) and stored.dtype == pl.String else stored
        listed = note["categories"]
        categories = _used(coded) if listed is None else from_json(listed, stored.dtype)
        result, strays = _from_codes(coded, categories, note["of"], note["ordered"])
        if not strays:
            return result if complete else result.remove_unused_categories()
    parts = [_used(s)]
    for column in notes if complete else ():
        if column.pandas["categories"] is not None:
            values = from_json(column.pandas["categories"], dtype_from_name(column.dtype))
            parts.append(values.cast(parts[0].dtype, strict=False))
    union = pl.concat(parts).drop_nulls().unique().sort()
    of = notes[0].pandas["of"]
    alike = all(
        note.pandas["of"] == of and dtype_from_name(note.dtype) == union.dtype for note in notes
    )
    return _from_codes(s, union, of if alike else None, ordered=False)[0]


def _used(s: pl.Series) -> pl.Series:
    """The values that occur, sorted; text for an Enum."""
    used = s.drop_nulls().unique()
    return (used.cast(pl.String) if is_text(s.dtype) else used).sort()


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
