"""The columns of a store's frame: their names, their types, and where their values are.

Owns how the obs tables of many datasets become one schema: union of columns, supertypes, Enums
over the store's categories, reserved names. Does no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import polars as pl

from .._core import Part, TableFile
from .cell import Cell
from .dtypes import dtype_from_name

MAX_CATEGORIES = 65_536
_MAX_UNIQUE_CATEGORIES = 100
RESERVED = ("cell", "dataset", "obs_name")
#: The column that says which store a cell is of, where several are scanned: reserved then.
STORE = "store"

_TRUTHS = {"true": True, "false": False}

Scalar = str | bool | int | float


@dataclass(frozen=True)
class FileColumn:
    """A column of one obs.parquet: its name there and the type that polars reads.

    Without a name it is pandas' range index: ``start + step * row``, as text.
    """

    name: str | None
    dtype: pl.DataType
    start: int = 0
    step: int = 1


@dataclass(frozen=True, slots=True)
class ScannedPart:
    """A part of a dataset as the scan sees it; ``name`` is the dataset's.

    ``obs_path``: of its table, relative to the store. ``columns``: by their names in the frame,
    ``obs_name`` first. ``constants``: the values that all its cells share. What is in neither is
    null in this part. ``obs_file``: the checksums of its file, None for sfaira's. ``n_obs``: the
    rows of its file. ``removed``: the file of those that are no cells any more, its checksum and
    their number. ``store``: the place of its store among those that are scanned together.
    """

    number: int
    name: str
    obs_path: str
    n_obs: int
    columns: Mapping[str, FileColumn]
    constants: Mapping[str, Scalar] = field(default_factory=dict)
    obs_file: TableFile | None = None
    removed: tuple[str, str, int] | None = None
    store: int = 0

    @property
    def n_cells(self) -> int:
        """The number of rows that are cells."""
        return self.n_obs - (0 if self.removed is None else self.removed[2])


def free_name(name: str, taken: Iterable[str]) -> str:
    """The name a column has in the frame: ``obs_<name>`` if it is reserved."""
    taken = {*taken, *RESERVED}
    while name in taken:
        name = f"obs_{name}"
    return name


def is_pattern(name: str) -> bool:
    """Whether polars takes a column's name for a pattern that others match."""
    return name == "*" or (name.startswith("^") and name.endswith("$"))


def scanned_parts(parts: Iterable[Part]) -> list[ScannedPart]:
    """Parts whose obs columns the manifest names, as the scan sees them, in the same order.

    Equal columns are one object.
    """
    tables: dict[int, Mapping[str, FileColumn]] = {}
    found = []
    for d in parts:
        obs = d.obs  # of a store's datasets one object where it is equal, so its id will do
        if id(obs) not in tables:
            tables[id(obs)] = {"obs_name": FileColumn("obs_name", pl.String())} | {
                name: FileColumn(name, dtype_from_name(kind)) for name, kind in obs
            }
        columns = tables[id(obs)]
        wide = d.constants
        if not (columns.keys().isdisjoint(wide) and wide.keys().isdisjoint(RESERVED)):
            wide = {n: v for n, v in wide.items() if n not in columns and n not in RESERVED}
        found.append(
            ScannedPart(d.number, d.name, d.obs_path, d.n_obs, columns, wide, d.obs_file, d.removed)
        )
    return found


def frame_schema(
    parts: Sequence[ScannedPart],
    categories: Mapping[str, Sequence[str] | None],
    cell: Cell,
    stores: Sequence[str] = (),
) -> pl.Schema:
    """The frame's schema: the reserved columns, the union of obs columns, then of constants.

    Args:
        parts: of the store, in the order of the frame's rows.
        categories: of each string-like column the sorted union of its values over the datasets,
            None if there are too many of them.
        cell: the type of the column ``cell``.
        stores: where there are several, what the column ``store`` calls each, in their order.
    """
    kinds: dict[str, dict[pl.DataType, None]] = {}
    for columns in {id(part.columns): part.columns for part in parts}.values():
        for name, column in columns.items():
            kinds.setdefault(name, {})[column.dtype] = None
    # By type: to Python True, 1 and 1.0 are one value. Datasets are many, types and names are few.
    constants: dict[type[Scalar], dict[str, set[Scalar]]] = {}
    for part in parts:
        for name, value in part.constants.items():
            of_type = constants.setdefault(type(value), {})
            if name not in of_type:
                of_type[name] = set()
                kinds.setdefault(name, {})
            of_type[name].add(value)
    for of_type in constants.values():
        for name, values in of_type.items():
            # Where a type has two dtypes, as int has, the extremes have them.
            kinds[name] |= dict.fromkeys(map(_scalar_dtype, (min(values), max(values))))
    words = cast(dict[str, set[str]], constants.get(str, {}))
    kinds.pop("obs_name", None)

    names = _enum(sorted({part.name for part in parts}))
    schema = pl.Schema({"cell": cell, "dataset": names})
    if stores:
        kinds.pop(STORE, None)
        schema[STORE] = pl.Enum(stores)
    schema["obs_name"] = pl.String()
    for name, dtypes in kinds.items():
        dtype, known = supertype(list(dtypes)), categories.get(name, ())
        if dtype == pl.String and known is not None:
            texts = {*known, *words.get(name, ())}
            others = [d for d in dtypes if not is_text(d) and d != pl.Null]
            if not others:
                dtype = _enum(sorted(texts))
            elif others == [pl.Boolean()] and all(text.lower() in _TRUTHS for text in texts):
                dtype = pl.Boolean()
        schema[name] = dtype
    return schema


def categories_of(values: pl.Series) -> list[str] | None:
    """The sorted values of one dataset's text column, for the store's list of categories.

    None where the column is no set of categories: more than 65,536 values; nearly a value a cell,
    as barcodes are (more than 100 values, and more than half as many as cells); or truth values
    in two spellings (``"True"`` and ``"true"``), which a Boolean could not tell apart.
    """
    found = values.drop_nulls().unique().cast(pl.String).sort().to_list()
    nearly_unique = len(found) > max(_MAX_UNIQUE_CATEGORIES, len(values) // 2)
    lower = {text.lower() for text in found}
    ambiguous = lower <= _TRUTHS.keys() and len(lower) < len(found)
    return None if nearly_unique or ambiguous or len(found) > MAX_CATEGORIES else found


def converted(column: pl.Expr, stored: pl.DataType, dtype: pl.DataType) -> pl.Expr:
    """A column stored in one type as the frame has it: an elementwise expression.

    Truth values are spelled ``"True"`` and ``"False"`` as text, and text is read as truth values
    in any case. Text that is none is an error.
    """
    if stored == dtype:
        return column
    if dtype == pl.Boolean and is_text(stored):
        lower = column.cast(pl.String).str.to_lowercase()
        return lower.replace_strict(list(_TRUTHS), list(_TRUTHS.values()), return_dtype=dtype)
    if dtype == pl.String and stored == pl.Boolean:
        return column.cast(pl.String).str.to_titlecase()
    if dtype == pl.String and isinstance(stored, pl.Duration):
        return column.dt.to_string()  # which polars does not cast
    return column.cast(dtype)


def converted_series(values: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Values as the frame has them; see ``converted``."""
    return values.to_frame().select(converted(pl.first(), values.dtype, dtype)).to_series()


def supertype(dtypes: Sequence[pl.DataType]) -> pl.DataType:
    """The type that columns of these types meet at.

    All-null columns take the others' type and string-like ones count as String here. Numbers
    and bools meet at polars' supertype, and so do times of one kind; anything else, such as
    numbers with text or dates with numbers, meets as text. (Bools and the text of bools meet as
    Boolean, which ``frame_schema`` sees to, as it knows the text.)
    """
    found = list(dict.fromkeys(pl.String() if is_text(d) else d for d in dtypes))
    found = [dtype for dtype in found if dtype != pl.Null] or [pl.Null()]
    if len(found) == 1:
        return pl.Float32() if found[0] == pl.Float16 else found[0]
    alike = (
        all(dtype.is_numeric() or dtype == pl.Boolean for dtype in found)
        or all(isinstance(dtype, pl.Date | pl.Datetime) for dtype in found)
        or all(isinstance(dtype, pl.Duration) for dtype in found)
    )
    if alike:
        try:
            frames = [pl.DataFrame(schema={"": dtype}) for dtype in found]
            return pl.concat(frames, how="vertical_relaxed").schema[""]
        except pl.exceptions.SchemaError:  # time zones that differ
            pass
    return pl.String()


def constant_series(values: Sequence[Scalar | None], dtype: pl.DataType) -> pl.Series:
    """Constants of several datasets ``(len(values),)`` as values of a column of the frame."""
    kinds = {_scalar_dtype(value) for value in values if value is not None}
    if len(kinds) > 1:  # each by its own way to the common type: 1 and "a" meet as "1" and "a"
        return pl.concat([constant_series([value], dtype) for value in values])
    return converted_series(pl.Series(values, dtype=next(iter(kinds), pl.Null())), dtype)


def _scalar_dtype(value: Scalar) -> pl.DataType:
    if isinstance(value, int) and not isinstance(value, bool):
        return pl.Int64() if value < 2**63 else pl.UInt64()
    return {str: pl.String(), bool: pl.Boolean(), float: pl.Float64()}[type(value)]


def is_text(dtype: pl.DataType) -> bool:
    """Whether a column of this type holds text, be it as categories."""
    return isinstance(dtype, pl.String | pl.Categorical | pl.Enum)


def _enum(values: list[str]) -> pl.DataType:
    return pl.Enum(values) if len(values) <= MAX_CATEGORIES else pl.String()
