"""Holds obs.parquet files against the manifest, and explains why reading one failed.

Owns when a file is checked (its checksums, and that it has as many rows as its dataset has cells,
without which keys would name the wrong ones), and the errors of polars that name dataset and path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import polars as pl

from ..errors import DaoCorruptError, DaoFileNotFoundError, DaoIOError
from .columns import converted_series

if TYPE_CHECKING:
    from .._core import TableFile
    from .columns import FileColumn, ScannedPart
    from .source import ScannedStore

FAILURES = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""The errors that polars raises for files that it cannot read."""

_RESTORE = "restore the file from a copy, or write the dataset again"


def check(
    store: ScannedStore, parts: Sequence[ScannedPart], columns: Mapping[str, FileColumn]
) -> None:
    """Checks that what reading some columns reads of each obs table is as it was written.

    No parser is given a table before. A local file is looked into once, and again when its size,
    a time or the inode has changed; of a remote one what was read lately is kept. Each for the
    columns that are wanted. Of sfaira's tables, which have no checksums, the rows are counted.

    Raises:
        DaoFileNotFoundError, DaoIOError, DaoCorruptError: naming the dataset and the file.
    """
    store.member_of(parts).obs_tables.check(*_listed(parts, columns))


def scan(
    store: ScannedStore,
    parts: Sequence[ScannedPart],
    columns: Mapping[str, FileColumn],
    **options: Any,
) -> pl.LazyFrame:
    """The parquet scan of polars over obs tables of one store, one after the other.

    Some columns of them can be read, and were checked. Remote ones are in memory: what polars
    reads is what was checked, and no server is asked twice, or without a deadline.

    Raises:
        DaoFileNotFoundError, DaoIOError, DaoCorruptError: as ``check`` does.
    """
    sources: list[str] | list[bytes]
    member = store.member_of(parts)
    if member.obs_tables.is_remote:
        sources = member.obs_tables.fetch(*_listed(parts, columns))
    else:
        check(store, parts, columns)
        sources = [member.obs_path(part) for part in parts]
    return pl.scan_parquet(cast(Any, sources), glob=False, hive_partitioning=False, **options)


def _listed(
    parts: Sequence[ScannedPart], columns: Mapping[str, FileColumn]
) -> tuple[list[tuple[str, str, int, TableFile | None]], list[str]]:
    """Tables and columns, as the core takes them."""
    return (
        [(d.name, d.obs_path, d.n_obs, d.obs_file) for d in parts],
        [column.name for column in columns.values() if column.name is not None],
    )


def explain(
    store: ScannedStore, parts: Sequence[ScannedPart], columns: Mapping[str, FileColumn]
) -> None:
    """Raises a DaoError for the file that made reading some columns fail, if it was a file.

    Looks at each file by itself; returns if all can be read, so that the fault is the query's.
    """
    check(store, parts, columns)  # they may have changed since
    for part in parts:
        where = _where(store, part)
        lf = scan(store, [part], columns)
        with _named_errors(where):
            schema = lf.collect_schema()
            lf.select(pl.len()).collect()
        for name, column in columns.items():
            if column.name is None:
                continue
            at = f"{where}, column {column.name!r}"
            found = schema.get(column.name)
            if found != column.dtype:
                raise DaoCorruptError(
                    f"{at}: expected {column.dtype}, found {found or 'no such column'}; {_RESTORE}"
                )
            with _named_errors(where):
                values = lf.select(column.name).collect().to_series()
            cells = np.delete(np.arange(part.n_obs), store.removed([part]))
            try:
                values = values.gather(cells)
                converted_series(values, store.schema[name])
            except pl.exceptions.PolarsError as error:
                raise DaoCorruptError(
                    f"{at}: values that the manifest does not list: {error}; {_RESTORE}"
                ) from error


def _where(store: ScannedStore, part: ScannedPart) -> str:
    return f"dataset {part.name!r}, {store.member_of([part]).obs_path(part)!r}"


@contextmanager
def _named_errors(where: str) -> Iterator[None]:
    """Turns what polars and the system raise for a file into errors that name it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DaoFileNotFoundError(f"{where}: the file is missing; {_RESTORE}") from error
    except OSError as error:
        raise DaoIOError(f"{where}: cannot be read: {error}") from error
    except FAILURES as error:
        raise DaoCorruptError(
            f"{where}: not a parquet file that can be read: {error}; {_RESTORE}"
        ) from error
