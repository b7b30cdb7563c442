"""Edits of var: values of genes.

Owns what they do to the tables of genes of a dataset's parts, which are the same in all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ..errors import DaoKeyError, DaoValueError
from ..tables.merge import merged
from .frames import Columns
from .operations import ConflictError, both, differ, listed, numbers_of
from .part import PartDraft, Rows

if TYPE_CHECKING:
    from ..store.store import Store


class UpdateVar:
    """New values of columns of var in some genes. The same genes' other changes conflict."""

    name = "update_var"

    def __init__(
        self, names: pl.Series, columns: Columns, of_pandas: bool, of: Sequence[int] | None
    ) -> None:
        self._names, self._columns, self._of = names, columns, of
        self._of_pandas = of_pandas
        self._found = np.zeros(len(names), np.bool_)

    @property
    def said(self) -> str:
        return f"{listed(self._columns)} of {len(self._names):,} genes"

    def numbers(self, store: Store, touched: Set[int]) -> Iterable[int]:
        return numbers_of(store, self._of)

    def check(self, before: Store, after: Store) -> None:
        for number in numbers_of(before, self._of):
            pair = both(before, after, number)
            if pair is None:
                continue
            old, new = (s._tables.var(p) for s, p in zip((before, after), pair, strict=True))
            rows, _ = self._rows(new["var_name"], pair[0].name)
            for column in self._columns:
                if column in old.columns and column not in new.columns:
                    raise ConflictError(f"dropped var column {column!r} of {pair[0].name!r}")
                was, now = (_column(frame, column, rows) for frame in (old, new))
                changed = differ(was, now)
                if changed.any():
                    first = changed.arg_max() or 0
                    raise ConflictError(
                        f"changed var column {column!r} in {changed.sum():,} of the genes of "
                        f"{pair[0].name!r}, such as {new['var_name'][int(rows[first])]!r}, from "
                        f"{was[first]!r} to {now[first]!r}"
                    )

    def apply(self, part: PartDraft) -> None:
        rows, at = self._rows(part.var["var_name"], part.part.name)
        self._found[at] = True
        if not len(rows):
            return
        whole = len(rows) == part.part.n_vars
        for column, (values, meta) in self._columns.items():
            where = f"update_var, {part.where}: column {column!r}"
            old_meta = part.var_columns.get(column)
            old = _column(pl.DataFrame(list(part.var.values())), column, None)
            new = values.gather(at)
            result, new_meta = merged(
                old, old_meta, rows, new, meta, whole=whole, of_pandas=self._of_pandas, where=where
            )
            same = old.dtype == result.dtype and not differ(old, result).any()
            if not same or old_meta is None or old_meta.pandas != new_meta.pandas:
                part.put_var(result, new_meta)

    def finish(self) -> None:
        if not self._found.all():
            unknown = self._names.filter(pl.Series(~self._found))
            raise DaoKeyError(
                f"update_var: {len(unknown)} of {len(self._names)} genes are in no dataset that is "
                f"meant, such as {listed(unknown.head(3))}"
            )

    def _rows(self, var_names: pl.Series, dataset: str) -> tuple[Rows, Rows]:
        """The rows of a table that are the genes named, and the positions of their values."""
        here = var_names.alias("name").to_frame().with_row_index("row")
        mine = self._names.alias("name").to_frame().with_row_index("at")
        found = here.join(mine, on="name", how="inner").sort("row")
        if (repeated := found["at"].is_duplicated()).any():
            raise DaoValueError(
                f"update_var: dataset {dataset!r} has gene "
                f"{found.filter(repeated)['name'][0]!r} more than once: nothing says which is meant"
            )
        return found["row"].to_numpy().astype(np.int64), found["at"].to_numpy().astype(np.int64)


def _column(frame: pl.DataFrame, column: str, rows: Rows | None) -> pl.Series:
    if column in frame.columns:
        return frame[column] if rows is None else frame[column].gather(rows)
    n = frame.height if rows is None else len(rows)
    return pl.Series(column, [None]).new_from_index(0, n)
