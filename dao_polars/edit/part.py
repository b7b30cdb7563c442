"""A part that is being edited: its tables as they become, until they are written.

Owns what is read of a part for an edit, and what has to be written of it after. Each table is read
when an edit first asks for it, and written once.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from .. import _core
from .._core import ColumnMeta, MatrixName, TableMeta
from ..scan import obs_files
from ..scan.columns import RESERVED, FileColumn, categories_of
from ..scan.constants import constants, organism_of
from ..scan.dtypes import dtype_from_name
from ..tables.parquet import write_table

if TYPE_CHECKING:
    from ..store.store import Store

Rows = npt.NDArray[np.int64]


class PartDraft:
    """A part of a store in one version, changed in memory; ``write`` ends it."""

    def __init__(self, store: Store, part: _core.Part) -> None:
        self.store, self.part = store, part
        description = store._core.description(part.number)
        self.obs_columns = {column.name: column for column in description.obs.columns}
        self.var_columns = {column.name: column for column in description.var.columns}
        self.removed = np.zeros(0, np.int64)
        self.obsm: dict[str, npt.NDArray[Any]] = {}
        self._description = description
        self._changed_obs: set[str] = set()
        self._left_out: set[str] = set()
        self._changed_var = False

    @property
    def where(self) -> str:
        """The part's dataset, for errors."""
        return f"dataset {self.part.name!r}"

    @cached_property
    def obs(self) -> dict[str, pl.Series]:
        """The table of cells by column, ``obs_name`` first: a value a row, of removed ones too."""
        frame = read_obs(self.store, self.part, ["obs_name", *self.obs_columns])
        return {name: frame[name] for name in frame.columns}

    @cached_property
    def var(self) -> dict[str, pl.Series]:
        """The table of genes by column, ``var_name`` first."""
        frame = self.store._tables.var(self.part)
        return {name: frame[name] for name in frame.columns}

    @cached_property
    def are_cells(self) -> npt.NDArray[np.bool_]:
        """Whether each row is a cell."""
        cells = np.ones(self.part.n_obs, np.bool_)
        cells[self.store._core.removed(self.part.number)] = False
        cells[self.removed] = False
        return cells

    def constant(self, name: str) -> Any:
        """The value that all cells have where obs lacks the column; None if there is none."""
        return None if name in self.obs_columns else self.part.constants.get(name)

    def form_of(self, column: str) -> ColumnMeta | None:
        """The note of an obs column, of the dataset's other parts where this one lacks it."""
        if column in self.obs_columns:
            return self.obs_columns[column]
        if column in self._left_out:
            return None
        for part in self.store._core.parts:
            if part.number == self.part.number or part.name != self.part.name:
                continue
            if dict(part.obs).get(column, "Null") != "Null":
                described = self.store._core.description(part.number).obs.columns
                return next(meta for meta in described if meta.name == column)
        return None

    def put_obs(self, values: pl.Series, meta: ColumnMeta) -> None:
        """Puts a column of obs in the place of one of its name, or last."""
        self.obs[meta.name], self.obs_columns[meta.name] = values, meta
        self._changed_obs.add(meta.name)

    def replace_obs(self, columns: dict[str, pl.Series], metas: dict[str, ColumnMeta]) -> None:
        """Has other columns in obs, such as some of them under other names."""
        self._changed_obs |= metas.keys() ^ self.obs_columns.keys()
        self._left_out |= self.obs_columns.keys() - metas.keys()
        self._changed_obs |= {n for n in metas if columns[n] is not self.obs.get(n)}
        self.__dict__["obs"], self.obs_columns = columns, metas

    def put_var(self, values: pl.Series, meta: ColumnMeta) -> None:
        """Puts a column of var in the place of one of its name, or last."""
        self.var[meta.name], self.var_columns[meta.name] = values, meta
        self._changed_var = True

    def remove(self, rows: Rows) -> None:
        """Removes rows; some may be removed already."""
        known = self.store._core.removed(self.part.number)
        self.removed = np.setdiff1d(np.union1d(self.removed, rows), known)
        self.__dict__.pop("are_cells", None)

    def write(self, edit: _core.Edit) -> None:
        """Writes what has changed, if anything has."""
        number, options = self.part.number, dict[str, Any]()
        if self._changed_obs:
            frame = pl.DataFrame([s.alias(name) for name, s in self.obs.items()])
            options["obs"] = self._table(edit, "obs", frame, self.obs_columns)
        if self._changed_var:
            frame = pl.DataFrame([s.alias(name) for name, s in self.var.items()])
            options["var"] = self._table(edit, "var", frame, self.var_columns)
        if self._changed_obs or len(self.removed):
            options["categories"] = self._categories()
        if self._has_other_columns():
            uns = dict(self.store.uns(self.part.name))
            options["constants"] = constants(uns, {*self.obs_columns, *RESERVED})
            cells = pl.Series(self.are_cells)
            named = self.obs["organism"].filter(cells) if "organism" in self.obs_columns else None
            options["organism"] = (organism_of(uns, named),)
        for name, values in self.obsm.items():
            stored = np.ascontiguousarray(values)
            edit.write_obsm(number, name, stored, stored.dtype.name, self._obsm_columns(name))
        if len(self.removed):
            options["removed"] = self.removed.astype(np.uint32)
        if options or self.obsm:
            edit.change(self.store._core, number, **options)

    def _obsm_columns(self, name: str) -> list[str] | None:
        """The names of an embedding's columns, where it keeps them: of those it had before."""
        before = self._description.matrices.get(MatrixName.obsm(name))
        kept = before is not None and before.shape[1] == self.obsm[name].shape[1]
        return before.columns if before is not None and kept else None

    def _table(
        self, edit: _core.Edit, kind: str, frame: pl.DataFrame, columns: dict[str, ColumnMeta]
    ) -> tuple[str, TableMeta]:
        before = self._description.obs if kind == "obs" else self._description.var
        name, path = edit.new_table(self.part.number, kind)
        write_table(frame, Path(path))
        return name, TableMeta(before.index_name, before.index, list(columns.values()))

    def _categories(self) -> dict[str, list[str] | None]:
        """The values of each text column in the cells; those that cannot have changed as before."""
        found = dict[str, list[str] | None]()
        for name, meta in self.obs_columns.items():
            if dtype_from_name(meta.dtype) != pl.String:
                continue
            if name in self._changed_obs or len(self.removed):
                found[name] = categories_of(self.obs[name].filter(pl.Series(self.are_cells)))
            else:
                found[name] = self._description.categories.get(name)
        return found

    def _has_other_columns(self) -> bool:
        """Whether the constants may be others, or the organism."""
        before = {column.name for column in self._description.obs.columns}
        counts = "organism" in self._changed_obs or len(self.removed) > 0
        return before != set(self.obs_columns) or ("organism" in self.obs_columns and counts)


def read_obs(store: Store, part: _core.Part, names: list[str]) -> pl.DataFrame:
    """Columns of a part's table of cells as stored, all its rows, checked before.

    Raises:
        DaoFileNotFoundError, DaoIOError, DaoCorruptError: naming the dataset and the file.
    """
    scanned = store._scanned.by_number[part.number]
    columns = {name: scanned.columns[name] for name in names}
    try:
        return obs_files.scan(
            store._scanned, [scanned], columns, schema=_schema(columns), extra_columns="ignore"
        ).collect()
    except obs_files.FAILURES:
        obs_files.explain(store._scanned, [scanned], columns)
        raise


def _schema(columns: dict[str, FileColumn]) -> dict[str, pl.DataType]:
    return {column.name: column.dtype for column in columns.values() if column.name is not None}
