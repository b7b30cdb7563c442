"""What users hand to an edit: values of cells or genes, from polars or pandas.

Owns which rows a frame speaks of, and that its columns can be stored. Each cell or gene is named
once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from .. import _core
from .._core import CellKeys, ColumnMeta
from ..errors import DaoKeyError, DaoTypeError, DaoValueError
from ..scan.cell import COLUMN, Keys, cell_type, keys_of, keys_of_texts, make_keys
from ..scan.columns import RESERVED, is_pattern
from ..tables.from_pandas import from_pandas
from ..tables.from_polars import from_polars
from .part import read_obs

if TYPE_CHECKING:
    from ..store.store import Store

Columns = dict[str, tuple[pl.Series, ColumnMeta]]
"""Columns as stored, and their notes."""


@dataclass(frozen=True)
class CellColumns:
    """Columns of cells: ``keys`` (n,), each once, and of each column (n,) values.

    ``of_pandas``: whether the columns have a form in pandas.
    """

    keys: Keys
    columns: Columns
    of_pandas: bool = False

    def by_part(self) -> dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """By the number of each part: rows in it, and positions of their values."""
        if not len(self.keys):
            return {}
        order = np.argsort(self.keys, kind="stable")
        keys = self.keys[order]
        numbers, starts = np.unique((keys >> np.uint64(32)).astype(np.int64), return_index=True)
        rows = (keys & np.uint64(2**32 - 1)).astype(np.int64)
        stops = [*starts[1:], len(keys)]
        return {
            int(number): (rows[start:stop], order[start:stop])
            for number, start, stop in zip(numbers, starts, stops, strict=True)
        }


def cells_of(store: Store, frame: Any, what: str) -> tuple[Keys, pl.DataFrame]:
    """The keys of a polars frame's cells, each once, and its other columns.

    Raises:
        DaoTypeError: no polars frame, or a ``cell`` column that holds something else.
        DaoValueError: no ``cell`` column, nulls in it, cells that are there twice, are no cells of
            the store, or are no longer in it.
    """
    if not isinstance(frame, pl.DataFrame | pl.LazyFrame):
        raise _no_frame(what, f"a polars frame with column {COLUMN!r}", frame)
    collected = frame.lazy().collect()
    if collected.schema.get(COLUMN) == pl.String:  # of an AnnData's obs
        keys = keys_of_texts(collected[COLUMN], store.id)
    else:
        cell = cell_type(collected.schema)
        store._core.check_is([(s.uri, s.id) for s in cell.stores])
        keys = keys_of(collected).numpy()
    _check_each_once(keys, what)
    return keys, collected.drop(COLUMN)


def _check_each_once(keys: Keys, what: str) -> None:
    if (repeated := pl.Series(keys).is_duplicated()).any():
        raise DaoValueError(
            f"{what}: {repeated.sum()} rows name a cell that another one names, too, the first in "
            f"row {repeated.arg_max()}; a cell has one value: .unique({COLUMN!r})"
        )


def check_cells(store: Store, keys: Keys, what: str) -> None:
    """Refuses keys whose cells are not, or no longer, in the store as it was opened."""
    _, gone = store._core.locate(CellKeys([keys]))
    if len(gone):
        raise DaoValueError(
            f"{what}: {len(gone)} of {len(keys)} cells are no longer in the store, the first in "
            f"row {gone[0]}; take the cells from a scan of the store as it is now"
        )


def cell_columns(store: Store, frame: Any, dataset: str | None) -> CellColumns:
    """The columns of cells that `update_obs` was given.

    Raises:
        DaoTypeError: no frame, or a column that cannot be stored.
        DaoValueError: columns with reserved names, and as ``cells_of``.
        DaoKeyError: no such dataset, or names that are not among its cells.
    """
    if _is_pandas(frame):
        return _pandas_cells(store, frame, dataset)
    if dataset is not None and isinstance(frame, pl.DataFrame | pl.LazyFrame):
        raise DaoTypeError(
            "update_obs: dataset= is for a pandas frame, whose rows are found by obs name; a "
            f"polars frame names its cells in column {COLUMN!r}"
        )
    if not isinstance(frame, pl.DataFrame | pl.LazyFrame):
        raise _no_frame("update_obs", "a polars frame with column 'cell' or a pandas one", frame)
    keys, values = cells_of(store, frame, "update_obs")
    check_cells(store, keys, "update_obs")
    _check_names(values.columns, "update_obs", RESERVED)
    return CellColumns(keys, {s.name: from_polars(_own(s), "update_obs") for s in values})


def _pandas_cells(store: Store, frame: Any, dataset: str | None) -> CellColumns:
    by_key = COLUMN in frame.columns
    if dataset is None and not by_key:
        raise DaoValueError(
            "update_obs: a pandas frame names cells by obs names, which are those of one dataset: "
            "say which, dataset=…; or by a column 'cell', as to_anndata(cell=True) gives it"
        )
    where = "update_obs" if dataset is None else f"update_obs, dataset {dataset!r}"
    if by_key:
        texts = from_pandas(frame[[COLUMN]], index_name="obs_name", reserved=set(), where=where)
        keys = keys_of_texts(texts.frame[COLUMN], store.id)
        _check_each_once(keys, where)
        check_cells(store, keys, where)
        frame = frame.drop(columns=COLUMN)
    table = from_pandas(frame, index_name="obs_name", reserved=set(RESERVED), where=where)
    if not by_key:
        keys = _named_cells(store, store._dataset(str(dataset)), table.frame["obs_name"], where)
    numbers = keys >> np.uint64(32)
    parts = [store._by_number[int(number)] for number in np.unique(numbers)]
    names = {part.number: part.name for part in parts}
    if dataset is not None and (other := set(names.values()) - {dataset}):
        raise DaoValueError(f"{where}: column 'cell' names cells of dataset {min(other)!r}, too")
    stored_as = {
        column.source: column.name
        for part in parts
        for column in store._core.description(part.number).obs.columns
    }
    columns: Columns = {}
    for meta in table.meta.columns:
        values = table.frame[meta.name]
        if meta.source == "dataset" and values.cast(pl.String).to_list() == [
            names[int(number)] for number in numbers
        ]:
            continue  # as an AnnData has it
        name = stored_as.get(meta.source, meta.source)
        _check_names([name], where, RESERVED)
        columns[name] = _own(values), ColumnMeta(name, meta.source, meta.dtype, meta.pandas)
    _check_names(columns, where, ())
    return CellColumns(keys, columns, of_pandas=True)


def _named_cells(store: Store, parts: Sequence[_core.Part], names: pl.Series, where: str) -> Keys:
    """The keys of a dataset's cells of these names."""
    found = []
    for part in parts:
        rows = np.delete(np.arange(part.n_obs), store._core.removed(part.number))
        obs_names = read_obs(store, part, ["obs_name"])["obs_name"].gather(rows)
        found.append(pl.DataFrame({"name": obs_names, "key": make_keys(part.number, rows)}))
    _check_once(names, f"{where}: the frame's index", "obs names")
    known = pl.concat(found).filter(pl.col("name").is_in(names.implode()))
    _check_once(known["name"], f"{where}: the dataset", "obs names")
    joined = (
        names.alias("name").to_frame().join(known, on="name", how="left", maintain_order="left")
    )
    _check_known(names, joined["key"], where, "cells of the dataset")
    return joined["key"].to_numpy()


def gene_columns(frame: Any, where: str) -> tuple[pl.Series, Columns, bool]:
    """The names of genes that `update_var` was given, each once, its columns, and if it is pandas'.

    Raises:
        DaoTypeError: no frame, or a column that cannot be stored.
        DaoValueError: no column ``var_name``, or names that are there twice.
    """
    if _is_pandas(frame):
        table = from_pandas(frame, index_name="var_name", reserved=set(), where=where)
        names = table.frame["var_name"]
        columns = {meta.name: (_own(table.frame[meta.name]), meta) for meta in table.meta.columns}
        _check_names([meta.source for meta in table.meta.columns], where, ("var_name",))
    elif isinstance(frame, pl.DataFrame | pl.LazyFrame):
        values = frame.lazy().collect()
        if "var_name" not in values.columns:
            raise DaoValueError(
                f"{where}: no column 'var_name', which says which genes these are; the frame has "
                f"{', '.join(map(repr, values.columns[:10]))}"
            )
        names = values["var_name"].cast(pl.String)
        values = values.drop("var_name")
        _check_names(values.columns, where, ())
        columns = {s.name: from_polars(_own(s), where) for s in values}
    else:
        raise _no_frame(where, "a polars or pandas frame", frame)
    if names.null_count():
        raise DaoValueError(f"{where}: {names.null_count()} nulls among the names of genes")
    _check_once(names, f"{where}: the frame", "names of genes")
    return names, columns, _is_pandas(frame)


def _is_pandas(frame: Any) -> bool:
    return type(frame).__module__.split(".")[0] == "pandas" and hasattr(frame, "columns")


def _no_frame(where: str, expected: str, found: Any) -> DaoTypeError:
    """The error for something else than a frame."""
    kind = f"{type(found).__module__}.{type(found).__name__}"
    hint = "; pass its .obs or .var" if hasattr(found, "obs_names") else ""
    hint = "; .to_frame() makes one" if hasattr(found, "to_frame") else hint
    return DaoTypeError(f"{where}: expected {expected}, found a {kind}{hint}")


def _own(values: pl.Series) -> pl.Series:
    """A copy of numbers, which may lie in an array of the caller's that is written to later."""
    return values.gather(np.arange(len(values))) if values.dtype.is_numeric() else values


def _check_names(names: Iterable[str], where: str, reserved: Sequence[str]) -> None:
    """Refuses no columns at all, and those whose names are the frame's own."""
    names = list(names)
    if not names:
        raise DaoValueError(f"{where}: the frame has no columns to write")
    if taken := [n for n in names if n in reserved or not n or is_pattern(n)]:
        raise DaoValueError(
            f"{where}: column {taken[0]!r} has a reserved name; select the columns to be changed, "
            "or rename it"
        )


def _check_once(names: pl.Series, where: str, what: str) -> None:
    repeated = names.filter(names.is_duplicated()).unique(maintain_order=True)
    if len(repeated):
        raise DaoValueError(
            f"{where} has {len(repeated)} {what} more than once, such as {repeated[0]!r}: nothing "
            "says which is meant. Name cells by their keys: a polars frame with column 'cell'"
            if what == "obs names"
            else f"{where} has {len(repeated)} {what} more than once, such as {repeated[0]!r}"
        )


def _check_known(names: pl.Series, found: pl.Series, where: str, what: str) -> None:
    if found.null_count():
        unknown = names.filter(found.is_null())
        raise DaoKeyError(
            f"{where}: {len(unknown)} of {len(names)} names are no {what}, such as "
            f"{', '.join(map(repr, unknown.head(3)))}"
        )
