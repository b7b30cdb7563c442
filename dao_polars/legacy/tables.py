"""The tables of stores that sfaira wrote: pandas' parquet files and `uns.pickle`.

Owns where pandas puts an index in parquet, and which of its types a frame can hold. Gives what
[`OwnTables`][dao_polars.store.tables.OwnTables] gives, so that nobody else need know who wrote a
store.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import polars as pl

from .. import _core
from ..errors import DaoCorruptError
from ..scan.columns import (
    MAX_CATEGORIES,
    RESERVED,
    FileColumn,
    ScannedDataset,
    categories_of,
    free_name,
)
from ..scan.constants import constants
from ..scan.dtypes import dtype_name
from .unpickle import load


class SfairaTables:
    """The tables of a store that sfaira wrote; see [`Tables`][dao_polars.store.tables.Tables].

    Raises:
        DaoCorruptError: a table whose rows are not the matrix's, a file that cannot be read; names
            dataset and file.
    """

    uns_path = "pickle/uns.pickle"

    def __init__(self, core: _core.Store) -> None:
        self._core = core

    @cached_property
    def _obs(self) -> tuple[list[ScannedDataset], dict[str, list[str] | None]]:
        """The datasets as a scan sees them, and the categories of their text columns."""
        found, categories = [], _Categories()
        for dataset in self._core.datasets:
            obs, where = self._read_obs(dataset)
            columns = frame_columns(obs, where)
            self._read_var(dataset)  # whose rows must be the matrix's columns
            values, _ = self.uns(dataset)
            found.append(
                ScannedDataset(
                    dataset.number,
                    dataset.name,
                    dataset.path,
                    dataset.n_obs,
                    columns,
                    constants(values, {*columns, *RESERVED}),
                )
            )
            categories.add(obs.frame, columns)
        return found, categories.union()

    def datasets(self) -> list[ScannedDataset]:
        """The datasets as a scan sees them, in the order of their numbers."""
        return self._obs[0]

    def categories(self) -> Mapping[str, Sequence[str] | None]:
        """The sorted union of the values of each text column of obs; None: too many."""
        return self._obs[1]

    def organism(self, dataset: _core.Dataset) -> str | None:
        """The organism that a dataset's uns names."""
        value = self.uns(dataset)[0].get("organism")
        return value if isinstance(value, str) else None

    def check_obs(self, dataset: _core.Dataset) -> None:
        """Raises a DaoCorruptError where a dataset's obs has not a row a cell."""
        self._read_obs(dataset)

    def _read_obs(self, dataset: _core.Dataset) -> tuple[PandasTable, str]:
        """A dataset's obs as it lies in its file, and what to call it in errors."""
        return self._table(dataset, "parquet/obs.parquet", dataset.n_obs, "cells")

    def _read_var(self, dataset: _core.Dataset) -> tuple[PandasTable, str]:
        """A dataset's var as it lies in its file, and what to call it in errors."""
        return self._table(dataset, "parquet/var.parquet", dataset.n_vars, "genes")

    def var(self, dataset: _core.Dataset) -> pl.DataFrame:
        """A dataset's var: ``var_name`` first, text, then its columns."""
        table, where = self._read_var(dataset)
        columns = frame_columns(table, where, index_name="var_name", reserved=("var_name",))
        return table.frame.select(
            _as_text(column, table.height).alias(name)
            if name == "var_name" or _is_text(column.dtype)
            else pl.col("" if column.name is None else column.name).alias(name)
            for name, column in columns.items()
        ).collect()

    def uns(self, dataset: _core.Dataset) -> tuple[dict[Any, Any], list[str]]:
        """A dataset's uns and what was refused in its pickle."""
        where, data = self._read(dataset, self.uns_path)
        return load(data, where)

    def _read(self, dataset: _core.Dataset, path: str) -> tuple[str, bytes]:
        where = f"dataset {dataset.name!r}, '{self._core.uri}/{dataset.path}/{path}'"
        return where, self._core.get_bytes(dataset.name, path)

    def _table(
        self, dataset: _core.Dataset, path: str, n_rows: int, what: str
    ) -> tuple[PandasTable, str]:
        where, data = self._read(dataset, path)
        table = PandasTable(data, where)
        if table.height != n_rows:
            raise DaoCorruptError(
                f"{where}: expected {n_rows} rows, as the matrix has so many {what}, found "
                f"{table.height}; restore the file that is not the dataset's"
            )
        return table, where


class PandasTable:
    """A table that pandas wrote.

    ``frame``: what lies in the file, ``schema`` its types, ``height`` its rows. ``index``: of
    each index level the name of its column, or the bounds of a range, which has none.
    """

    def __init__(self, data: bytes, where: str) -> None:
        try:
            self.frame = pl.scan_parquet(io.BytesIO(data))
            self.schema = self.frame.collect_schema()
            self.height = self.frame.select(pl.len()).collect().item()
            note = json.loads(pl.read_parquet_metadata(io.BytesIO(data)).get("pandas", "{}"))
        except (pl.exceptions.PolarsError, OSError, ValueError) as error:
            raise DaoCorruptError(
                f"{where}: not a parquet file that can be read: {error}"
            ) from error
        index = note.get("index_columns") or [
            name for name in self.schema if name.startswith("__index_level_")
        ]
        self.index: list[str | dict[str, Any]] = [
            item for item in index if isinstance(item, dict) or item in self.schema
        ]
        if not self.schema and self.index and isinstance(self.index[0], dict):
            bounds = self.index[0]  # a table of no columns has no rows in parquet
            self.height = len(range(bounds["start"], bounds["stop"], bounds["step"]))


def frame_columns(
    table: PandasTable,
    where: str,
    *,
    index_name: str = "obs_name",
    reserved: tuple[str, ...] = RESERVED,
) -> dict[str, FileColumn]:
    """A table's columns by their names in the frame, the (first level of the) index first.

    Columns of types that a frame does not hold (lists, bytes, ...) are left out with a warning.
    """
    dtypes = table.schema
    first, *levels = table.index or [{"start": 0, "step": 1}]
    columns = {
        index_name: FileColumn(first, dtypes[first])
        if isinstance(first, str)
        else FileColumn(None, pl.Null(), int(first["start"]), int(first["step"]))
    }
    left_out = []
    for name, dtype in dtypes.items():
        if name == first:
            continue
        if not _is_text(dtype) and dtype != pl.Float16:
            try:
                dtype_name(dtype)
            except ValueError:
                left_out.append(f"{name!r} ({dtype})")
                continue
        unnamed = name.startswith("__index_level_") and name in levels
        shown = f"level_{levels.index(name) + 1}" if unnamed else name
        clash = shown in reserved or shown in columns
        columns[free_name(shown, (*dtypes, *columns)) if clash else shown] = FileColumn(name, dtype)
    if left_out:
        warnings.warn(
            f"{where}: left out columns of types that a frame does not hold: {', '.join(left_out)}",
            stacklevel=2,
        )
    return columns


def truth_notes(dataset: ScannedDataset, schema: Mapping[str, pl.DataType]) -> _core.TableMeta:
    """Notes for pandas on the columns of a dataset that are text and among the frame's bools.

    Text of sfaira's stores comes back as categories, and so does this.
    """
    text = {"kind": "object", "of": "string"}
    note = {"kind": "category", "categories": None, "ordered": False, "of": text, "truths": {}}
    columns = [
        _core.ColumnMeta(name, name, "String", note)
        for name, column in dataset.columns.items()
        if _is_text(column.dtype) and schema.get(name) == pl.Boolean
    ]
    return _core.TableMeta(None, None, columns)


class _Categories:
    """Gathers the distinct values of text columns over the datasets."""

    def __init__(self) -> None:
        self._values: dict[str, set[str] | None] = {}

    def add(self, frame: pl.LazyFrame, columns: Mapping[str, FileColumn]) -> None:
        """Takes a dataset's text columns into account."""
        for name, column in columns.items():
            if name == "obs_name" or column.name is None or not _is_text(column.dtype):
                continue
            known = self._values.setdefault(name, set())
            if known is not None:
                values = frame.select(pl.col(column.name)).collect().to_series()
                found = categories_of(values)
                known.update(found or ())
                if found is None or len(known) > MAX_CATEGORIES:
                    self._values[name] = None

    def union(self) -> dict[str, list[str] | None]:
        """The sorted values of each column; None where they are too many for categories."""
        return {n: None if v is None else sorted(v) for n, v in self._values.items()}


def _is_text(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.String | pl.Categorical | pl.Enum)


def _as_text(column: FileColumn, height: int) -> pl.Expr:
    if column.name is not None:
        return pl.col(column.name).cast(pl.String)
    stop = column.start + column.step * height
    return pl.int_range(column.start, stop, column.step, dtype=pl.Int64()).cast(pl.String)
