"""The tables of stores that sfaira wrote: pandas' parquet files and `uns.pickle`.

Owns where pandas puts an index in parquet, and which of its types a frame can hold. Gives what the
tables of our own stores give, so that nobody else need know who wrote a store.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import polars as pl

from .. import _core
from .._warn import warn
from ..errors import DaoCorruptError
from ..scan.columns import (
    RESERVED,
    FileColumn,
    ScannedPart,
    categories_of,
    free_name,
    is_text,
)
from ..scan.constants import constants
from ..scan.dtypes import is_storable
from .unpickle import load


class SfairaTables:
    """The tables of a store that sfaira wrote.

    Raises:
        DaoCorruptError: a table whose rows are not the matrix's, a file that cannot be read; names
            dataset and file.
    """

    def __init__(self, core: _core.Store) -> None:
        self._core = core

    @cached_property
    def _obs(self) -> tuple[list[ScannedPart], dict[str, list[str] | None]]:
        """The datasets as a scan sees them, and the categories of their text columns."""
        found: list[ScannedPart] = []
        texts: dict[str, set[str] | None] = {}
        for d in self._core.parts:
            obs = self._table(d, "obs")
            columns = obs.columns("obs_name", RESERVED)
            texts_here = [n for n, c in columns.items() if is_text(c.dtype) and n != "obs_name"]
            for name in texts_here:
                known = texts.setdefault(name, set())
                if known is not None:
                    stored = obs.frame.select(columns[name].name).collect().to_series()
                    values = categories_of(stored)
                    texts[name] = None if values is None else known.union(values)
            self._table(d, "var")  # whose rows must be the matrix's columns
            wide = constants(self.uns(d)[0], {*columns, *RESERVED})
            found.append(ScannedPart(d.number, d.name, d.obs_path, d.n_obs, columns, wide))
        return found, {n: None if v is None else sorted(v) for n, v in texts.items()}

    def parts(self) -> list[ScannedPart]:
        """The datasets as a scan sees them, in the order of their numbers."""
        return self._obs[0]

    def categories(self) -> Mapping[str, Sequence[str] | None]:
        """The sorted union of the values of each text column of obs; None: too many."""
        return self._obs[1]

    def organism(self, part: _core.Part) -> str | None:
        """The organism that a dataset's uns names."""
        value = self.uns(part)[0].get("organism")
        return value if isinstance(value, str) else None

    def var_name(self, part: _core.Part) -> str:
        """The file of a part's var, relative to the part."""
        return self._core.description(part.number).var_name

    def uns_name(self, part: _core.Part) -> str:
        """The file of a part's uns, relative to the part."""
        return "pickle/uns.pickle"

    def check_obs(self, part: _core.Part) -> None:
        """Raises a DaoCorruptError where a dataset's obs has not a row a cell."""
        self._table(part, "obs")

    def var(self, part: _core.Part) -> pl.DataFrame:
        """A dataset's var: ``var_name`` first, text, then its columns."""
        table = self._table(part, "var")
        rows = pl.int_range(table.height, dtype=pl.Int64())

        def values(name: str, column: FileColumn) -> pl.Expr:
            if column.name is None:
                return (column.start + column.step * rows).cast(pl.String)
            is_string = name == "var_name" or is_text(column.dtype)
            return pl.col(column.name).cast(pl.String) if is_string else pl.col(column.name)

        columns = table.columns("var_name", ("var_name",)).items()
        return table.frame.select(values(name, c).alias(name) for name, c in columns).collect()

    def uns(self, part: _core.Part) -> tuple[dict[Any, Any], list[str]]:
        """A dataset's uns and what was refused in its pickle."""
        where, data = self._core.read_file(part.number, self.uns_name(part))
        return load(data, where)

    def _table(self, part: _core.Part, name: Literal["obs", "var"]) -> PandasTable:
        where, data = self._core.read_file(part.number, f"parquet/{name}.parquet")
        table = PandasTable(data, where)
        n_rows, what = (part.n_obs, "cells") if name == "obs" else (part.n_vars, "genes")
        if table.height != n_rows:
            raise DaoCorruptError(
                f"{where}: expected {n_rows} rows, as the matrix has so many {what}, found "
                f"{table.height}; restore the file that is not the dataset's"
            )
        return table


class PandasTable:
    """A table that pandas wrote.

    ``frame``: what lies in the file, ``schema`` its types, ``height`` its rows. ``index``: of
    each index level the name of its column, or a range, which has none. ``where``: the file, for
    errors.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self.where = where
        try:
            self.frame = pl.scan_parquet(io.BytesIO(data))
            self.schema = self.frame.collect_schema()
            self.height = self.frame.select(pl.len()).collect().item()
            note = json.loads(pl.read_parquet_metadata(io.BytesIO(data)).get("pandas", "{}"))
        except (pl.exceptions.PolarsError, OSError, ValueError, RecursionError) as error:
            raise DaoCorruptError(
                f"{where}: not a parquet file that can be read: {error}"
            ) from error
        index = _index_levels(note, self.schema, where)
        if not self.schema and index and isinstance(index[0], range):
            self.height = len(index[0])  # a table of no columns has no rows in parquet
        # A range of another length says nothing of these rows: pandas passes it over too.
        self.index = [x for x in index if isinstance(x, str) or len(x) == self.height]

    def columns(self, index_name: str, reserved: Sequence[str]) -> dict[str, FileColumn]:
        """The columns by their names in the frame, the (first level of the) index first.

        Columns of types that a frame does not hold (lists, bytes, ...) are left out with a warning.
        """
        dtypes = self.schema
        first, *levels = self.index or [range(self.height)]
        columns = {
            index_name: FileColumn(first, dtypes[first])
            if isinstance(first, str)
            else FileColumn(None, pl.Null(), first.start, first.step)
        }
        left_out = []
        for name, dtype in dtypes.items():
            if name == first:
                continue
            if not (is_text(dtype) or dtype == pl.Float16 or is_storable(dtype)):
                left_out.append(f"{name!r} ({dtype})")
                continue
            unnamed = name.startswith("__index_level_") and name in levels
            shown = f"level_{levels.index(name) + 1}" if unnamed else name
            if shown in reserved or shown in columns:
                shown = free_name(shown, (*dtypes, *columns))
            columns[shown] = FileColumn(name, dtype)
        if left_out:
            warn(
                f"{self.where}: left out columns of types that a frame does not hold: "
                f"{', '.join(left_out)}"
            )
        return columns


def _index_levels(note: Any, schema: Mapping[str, pl.DataType], where: str) -> list[str | range]:
    """Where pandas' note says that the levels of an index are: columns that are there, or ranges.

    Raises:
        DaoCorruptError: the note says nothing of the kind; pandas did not write it.
    """
    listed = note.get("index_columns") if isinstance(note, dict) else note
    unnamed = [name for name in schema if name.startswith("__index_level_")]
    levels: list[str | range] = []
    for item in listed or unnamed if isinstance(listed, list | None) else [listed]:
        bounds = [item.get(n) for n in ("start", "stop", "step")] if isinstance(item, dict) else []
        whole = [n for n in bounds if type(n) is int and abs(n) < 2**62]
        if len(whole) == 3 and whole[2]:
            levels.append(range(*whole))
        elif not isinstance(item, str):
            raise DaoCorruptError(
                f"{where}: its note of pandas should list index_columns, names or ranges with "
                f"start, stop and step; found {item!r:.100}; restore the file from a copy"
            )
        elif item in schema:
            levels.append(item)
    return levels


def truth_notes(part: ScannedPart, schema: Mapping[str, pl.DataType]) -> _core.TableMeta:
    """Notes for pandas on the columns of a dataset that are text and among the frame's bools.

    Text of sfaira's stores comes back as categories, and so does this.
    """
    text = {"kind": "object", "of": "string"}
    note = {"kind": "category", "categories": None, "ordered": False, "of": text, "truths": {}}
    columns = [
        _core.ColumnMeta(name, name, "String", note)
        for name, column in part.columns.items()
        if is_text(column.dtype) and schema.get(name) == pl.Boolean
    ]
    return _core.TableMeta(None, None, columns)
