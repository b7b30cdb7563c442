"""Stores that sfaira wrote: what their manifest lacks, out of pandas' parquet files and uns.pickle.

Owns where pandas puts an index in parquet, and which of its types a frame can hold. Gives a
completed manifest, after which nobody need know that the store is sfaira's.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from . import uns
from .errors import DaoCorruptError
from .frame_schema import MAX_CATEGORIES, RESERVED, FileColumn, free_name
from .genes import feature_space_id
from .schema import dtype_name
from .unpickle import load

Read = Callable[[str], bytes]
"""A file's bytes, by its path relative to the store."""


def complete(manifest: Mapping[str, Any], uri: str, read: Read) -> dict[str, Any]:
    """The manifest with all that stores of this package have in theirs.

    Adds ``categories``, and to each dataset ``obs``, ``constants``, ``var_id`` and ``files``: the
    columns of its obs.parquet by their names in the frame.

    Raises:
        DaoCorruptError: a table whose rows are not the matrix's, a file that cannot be read;
            names dataset and file.
    """
    datasets, words = [], _Words()
    for entry in manifest["datasets"]:
        obs, where = read_obs(read, entry, uri)
        files = frame_columns(obs, where)
        values, _ = read_uns(read, entry, uri)
        organism = values.get("organism")
        datasets.append(
            entry
            | {
                "files": files,
                "obs": [
                    (name, _shown(column.dtype))
                    for name, column in files.items()
                    if name != "obs_name"
                ],
                "organism": organism if isinstance(organism, str) else None,
                "constants": uns.constants(values, {*files, *RESERVED}),
                "var_id": feature_space_id(read_var(read, entry, uri)["var_name"]),
            }
        )
        words.add(obs.frame, files)
    return {**manifest, "datasets": datasets, "categories": words.categories()}


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


def read_obs(read: Read, entry: Mapping[str, Any], uri: str) -> tuple[PandasTable, str]:
    """A dataset's obs as it lies in its file, and what to call it in errors."""
    path = f"{entry['path']}/parquet/obs.parquet"
    where = f"dataset {entry['id']!r}, '{uri}/{path}'"
    return _table(read(path), where, entry["n_obs"], "cells"), where


def read_var(read: Read, entry: Mapping[str, Any], uri: str) -> pl.DataFrame:
    """A dataset's var: ``var_name`` first, text, then its columns."""
    path = f"{entry['path']}/parquet/var.parquet"
    where = f"dataset {entry['id']!r}, '{uri}/{path}'"
    table = _table(read(path), where, entry["n_vars"], "genes")
    columns = frame_columns(table, where, index_name="var_name", reserved=("var_name",))
    return table.frame.select(
        _as_text(column, table.height).alias(name)
        if name == "var_name" or _is_text(column.dtype)
        else pl.col("" if column.name is None else column.name).alias(name)
        for name, column in columns.items()
    ).collect()


def read_uns(read: Read, entry: Mapping[str, Any], uri: str) -> tuple[dict[Any, Any], list[str]]:
    """A dataset's uns and what was refused in its pickle."""
    path = f"{entry['path']}/pickle/uns.pickle"
    return load(read(path), f"dataset {entry['id']!r}, '{uri}/{path}'")


def _table(data: bytes, where: str, n_rows: int, what: str) -> PandasTable:
    table = PandasTable(data, where)
    if table.height != n_rows:
        raise DaoCorruptError(
            f"{where}: expected {n_rows} rows, as the matrix has so many {what}, found "
            f"{table.height}; restore the file that is not the dataset's"
        )
    return table


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


class _Words:
    """Gathers the distinct values of text columns over the datasets."""

    def __init__(self) -> None:
        self._values: dict[str, set[str] | None] = {}

    def add(self, frame: pl.LazyFrame, columns: Mapping[str, FileColumn]) -> None:
        for name, column in columns.items():
            if name == "obs_name" or column.name is None or not _is_text(column.dtype):
                continue
            known = self._values.setdefault(name, set())
            if known is not None:
                values = frame.select(pl.col(column.name).cast(pl.String).drop_nulls().unique())
                known.update(values.collect().to_series())
                if len(known) > MAX_CATEGORIES:
                    self._values[name] = None

    def categories(self) -> dict[str, list[str] | None]:
        return {n: None if v is None else sorted(v) for n, v in self._values.items()}


def _is_text(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.String | pl.Categorical | pl.Enum)


def _shown(dtype: pl.DataType) -> str:
    """The name of the type that a column has as far as the manifest is concerned."""
    if _is_text(dtype):
        return "String"
    return "Float32" if dtype == pl.Float16 else dtype_name(dtype)


def _as_text(column: FileColumn, height: int) -> pl.Expr:
    if column.name is not None:
        return pl.col(column.name).cast(pl.String)
    stop = column.start + column.step * height
    return pl.int_range(column.start, stop, column.step, dtype=pl.Int64()).cast(pl.String)
