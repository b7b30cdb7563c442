"""Edits of obs: values of cells, names of columns, columns dropped.

Owns what each does to a part's table of cells, and which edits of others it conflicts with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from .. import _core
from .._core import ColumnMeta
from ..errors import DaoKeyError, DaoTypeError, DaoValueError
from ..scan.columns import RESERVED, is_pattern
from ..scan.dtypes import dtype_from_name
from ..tables.merge import merged
from .frames import CellColumns
from .operations import (
    ConflictError,
    both,
    changed_parts,
    differ,
    listed,
    numbers_of,
    wholly_given,
)
from .part import PartDraft, Rows, read_obs

if TYPE_CHECKING:
    from ..store.store import Store


class UpdateObs:
    """New values of columns of obs in some cells. The same cells' other changes conflict."""

    name = "update_obs"

    def __init__(self, values: CellColumns) -> None:
        self._values = values
        self._whole = set[int]()

    @property
    def said(self) -> str:
        return f"{listed(self._values.columns)} of {len(self._values.keys):,} cells"

    @cached_property
    def _parts(self) -> dict[int, tuple[Rows, Rows]]:
        return self._values.by_part()

    def numbers(self, store: Store, touched: Set[int]) -> Iterable[int]:
        self._whole = wholly_given(store, self._parts)
        return self._parts

    def check(self, before: Store, after: Store) -> None:
        for part, then, rows, at in changed_parts(before, after, self._parts):
            for column, (values, _) in self._values.columns.items():
                mine = values.gather(at)
                self._check_column(before, part, after, then, column, rows, mine)

    def _check_column(
        self,
        before: Store,
        part: _core.Part,
        after: Store,
        then: _core.Part,
        column: str,
        rows: Rows,
        mine: pl.Series,
    ) -> None:
        if column in dict(part.obs) and column not in dict(then.obs):
            raise ConflictError(f"dropped or renamed obs column {column!r} of {part.name!r}")
        old, new = _column(before, part, column, rows), _column(after, then, column, rows)
        # Also to the same value: who counted up from what was there would count once for two.
        changed = differ(old, new)
        if changed.any():
            at = changed.arg_max() or 0
            raise ConflictError(
                f"changed obs column {column!r} in {changed.sum():,} of the cells, such as row "
                f"{rows[at]} of {part.name!r}, from {old[at]!r} to {new[at]!r}, which this edit "
                f"makes {mine[at]!r}"
            )

    def apply(self, part: PartDraft) -> None:
        rows, at = self._parts[part.part.number]
        if not part.are_cells[rows].all():
            raise DaoValueError(f"{part.where}: cells to be updated were removed in the same edit")
        for column, (values, meta) in self._values.columns.items():
            where = f"update_obs, {part.where}: column {column!r}"
            old_meta, constant = part.form_of(column), part.constant(column)
            if column in part.obs_columns:
                old = part.obs[column]
            elif constant is not None or old_meta is None:
                old = pl.Series(column, [constant]).new_from_index(0, part.part.n_obs)
            else:
                dtype = dtype_from_name(old_meta.dtype)
                old = pl.Series(column, [None], dtype=dtype).new_from_index(0, part.part.n_obs)
            result, new_meta = merged(
                old,
                None if constant is not None else old_meta,
                rows,
                values.gather(at),
                meta,
                whole=part.part.number in self._whole,
                of_pandas=self._values.of_pandas,
                where=where,
            )
            same = old.dtype == result.dtype and not differ(old, result).any()
            kept = part.obs_columns.get(column)
            if same and (_alike(kept, new_meta) or constant is not None):
                continue
            part.put_obs(result, new_meta)

    def finish(self) -> None:
        pass


class RenameObs:
    """Other names for columns of obs. Other changes of their names conflict."""

    name = "rename_obs"

    def __init__(self, names: Mapping[str, str], of: Sequence[int] | None) -> None:
        if not isinstance(names, Mapping) or not names:
            raise DaoTypeError(f"rename_obs: expected {{old: new, …}}, found {names!r}")
        for old, new in names.items():
            if not isinstance(old, str) or not isinstance(new, str):
                raise DaoTypeError(f"rename_obs: {old!r}: {new!r}; expected names of columns (str)")
            if new in RESERVED or old in RESERVED or not new or is_pattern(new):
                raise DaoValueError(f"rename_obs: {old!r}: {new!r}; that name is reserved")
        if len(set(names.values())) < len(names):
            raise DaoValueError("rename_obs: two columns would have one name")
        self._names, self._of = dict(names), of
        self._found = set[str]()

    @property
    def said(self) -> str:
        return ", ".join(f"{old!r} to {new!r}" for old, new in self._names.items())

    def numbers(self, store: Store, touched: Set[int]) -> Iterable[int]:
        return _having(store, self._of, self._names, touched)

    def check(self, before: Store, after: Store) -> None:
        for number in _having(before, self._of, self._names):
            pair = both(before, after, number)
            if pair is None:
                continue
            had, has = dict(pair[0].obs), dict(pair[1].obs)
            for old, new in self._names.items():
                if old in had and old not in has:
                    raise ConflictError(
                        f"dropped or renamed obs column {old!r} of {pair[0].name!r}"
                    )
                if old in had and new not in had and new in has:
                    raise ConflictError(f"added obs column {new!r} to {pair[0].name!r}")

    def apply(self, part: PartDraft) -> None:
        here = {old: new for old, new in self._names.items() if old in part.obs_columns}
        self._found |= here.keys()
        if not here:
            return
        kept = part.obs_columns.keys() - here.keys()
        if taken := [new for new in here.values() if new in kept]:
            raise DaoValueError(
                f"rename_obs, {part.where}: obs has a column {taken[0]!r} already; drop or rename "
                "that one, too"
            )
        columns = {here.get(name, name): s for name, s in part.obs.items()}
        metas = {}
        for name, meta in part.obs_columns.items():
            if name in here:
                meta = ColumnMeta(here[name], here[name], meta.dtype, meta.pandas)
            metas[meta.name] = meta
        part.replace_obs(columns, metas)

    def finish(self) -> None:
        _check_found("rename_obs", self._names, self._found)


class DropObs:
    """Columns of obs left out. Other changes of their values conflict."""

    name = "drop_obs"

    def __init__(self, columns: Sequence[str], of: Sequence[int] | None) -> None:
        if not columns:
            raise DaoValueError("drop_obs: no column is named")
        for column in columns:
            if not isinstance(column, str):
                raise DaoTypeError(f"drop_obs: {column!r}; expected names of columns (str)")
            if column in RESERVED:
                raise DaoValueError(f"drop_obs: {column!r} is the frame's own and stays")
        self._columns, self._of = list(columns), of
        self._found = set[str]()

    @property
    def said(self) -> str:
        return listed(self._columns)

    def numbers(self, store: Store, touched: Set[int]) -> Iterable[int]:
        return _having(store, self._of, self._columns, touched)

    def check(self, before: Store, after: Store) -> None:
        for number in _having(before, self._of, self._columns):
            pair = both(before, after, number)
            if pair is None:
                continue
            part, then = pair
            rows = np.arange(part.n_obs)
            for column in self._columns:
                if column not in dict(part.obs):
                    continue
                if column not in dict(then.obs):
                    raise ConflictError(
                        f"dropped or renamed obs column {column!r} of {part.name!r}"
                    )
                old, new = _column(before, part, column, rows), _column(after, then, column, rows)
                if (changed := differ(old, new)).any():
                    raise ConflictError(
                        f"changed obs column {column!r} in {changed.sum():,} cells of {part.name!r}"
                    )

    def apply(self, part: PartDraft) -> None:
        here = part.obs_columns.keys() & set(self._columns)
        self._found |= here
        if here:
            columns = {name: s for name, s in part.obs.items() if name not in here}
            metas = {name: m for name, m in part.obs_columns.items() if name not in here}
            part.replace_obs(columns, metas)

    def finish(self) -> None:
        _check_found("drop_obs", self._columns, self._found)


def _having(
    store: Store, of: Sequence[int] | None, columns: Iterable[str], touched: Set[int] = frozenset()
) -> list[int]:
    """The parts that have some of these columns, or that an earlier operation changes."""
    names, parts = set(columns), store._by_number
    return [
        number
        for number in numbers_of(store, of)
        if number in touched or not names.isdisjoint(name for name, _ in parts[number].obs)
    ]


def _column(store: Store, part: _core.Part, column: str, rows: Rows) -> pl.Series:
    """Values of a column in some rows, nulls or the constant where a part has none."""
    if column in dict(part.obs):
        return read_obs(store, part, [column])[column].gather(rows)
    return pl.Series(column, [part.constants.get(column)]).new_from_index(0, len(rows))


def _alike(old: ColumnMeta | None, new: ColumnMeta) -> bool:
    return old is not None and (old.dtype, old.pandas) == (new.dtype, new.pandas)


def _check_found(what: str, columns: Iterable[str], found: Set[str]) -> None:
    if missing := [column for column in columns if column not in found]:
        raise DaoKeyError(
            f"{what}: no dataset has an obs column {missing[0]!r} (a value of uns, which is a "
            "column of the frame, too, is none)"
        )
