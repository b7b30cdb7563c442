"""Holds obs.parquet files against the manifest, and explains why reading one failed.

Owns when a file is checked (its checksums, and that it has as many rows as its dataset has cells,
without which keys would name the wrong ones), and the errors of polars that name dataset and path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import polars as pl

from ..errors import DaoCorruptError, DaoFileNotFoundError, DaoIOError, DaoValueError
from .columns import converted_series

if TYPE_CHECKING:
    from .columns import FileColumn, ScannedDataset
    from .source import ScannedStore

FAILURES = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""The errors that polars raises for files that it cannot read."""

# The options that say how to try again, which polars takes as numbers.
_NUMBERS: dict[str, Callable[[str], int | float]] = {
    "max_retries": int,
    "retry_timeout_ms": int,
    "retry_init_backoff_ms": int,
    "retry_max_backoff_ms": int,
    "retry_base_multiplier": float,
}

_RESTORE = "restore the file from a copy, or write the dataset again"


def check(
    store: ScannedStore, datasets: Sequence[ScannedDataset], columns: Mapping[str, FileColumn]
) -> None:
    """Checks that what reading some columns reads of each obs table is as it was written.

    No parser is given a table before. A local file is looked into once, and again when its size,
    a time or the inode has changed; a remote one once for each opened store; each for the columns
    that are wanted. Of sfaira's tables, which have no checksums, the rows are counted alone.

    Raises:
        DaoFileNotFoundError, DaoIOError, DaoCorruptError: naming the dataset and the file.
    """
    store.obs_tables.check(
        [(d.name, d.path, d.n_obs, d.obs_file) for d in datasets],
        [column.name for column in columns.values() if column.name is not None],
    )


def scan(store: ScannedStore, datasets: Sequence[ScannedDataset], **options: Any) -> pl.LazyFrame:
    """The parquet scan of polars over some datasets' obs tables, one after the other."""
    return pl.scan_parquet(
        [store.obs_path(dataset) for dataset in datasets],
        glob=False,
        hive_partitioning=False,
        storage_options=for_polars(store.storage_options or {}) or None,
        **options,
    )


def for_polars(options: Mapping[str, str]) -> dict[str, Any]:
    """Storage options as polars takes them: how to try again is in numbers, all else is text.

    Raises:
        DaoValueError: one of these is no such number; it is named, and not shown.
    """
    found: dict[str, Any] = dict(options)
    for key in [key for key in options if key.lower() in _NUMBERS]:
        kind = _NUMBERS[key.lower()]
        try:
            number = kind(found.pop(key))
        except ValueError:
            number = -1
        if not (1 <= number < math.inf if kind is float else 0 <= number < 2**32):
            expected = "a number of at least 1" if kind is float else "a whole number below 2^32"
            raise DaoValueError(
                f'storage_options["{key}"] has a value that cannot be used; expected {expected}. '
                "It is not shown here, as it may be secret"
            )
        found[key.lower()] = number
    return found


def explain(
    store: ScannedStore, datasets: Sequence[ScannedDataset], columns: Mapping[str, FileColumn]
) -> None:
    """Raises a DaoError for the file that made reading some columns fail, if it was a file.

    Looks at each file by itself; returns if all can be read, so that the fault is the query's.
    """
    check(store, datasets, columns)  # they may have changed since
    for dataset in datasets:
        where = _where(store, dataset)
        lf = scan(store, [dataset])
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
            try:
                converted_series(values, store.schema[name])
            except pl.exceptions.PolarsError as error:
                raise DaoCorruptError(
                    f"{at}: values that the manifest does not list: {error}; {_RESTORE}"
                ) from error


def _where(store: ScannedStore, dataset: ScannedDataset) -> str:
    return f"dataset {dataset.name!r}, {store.obs_path(dataset)!r}"


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
