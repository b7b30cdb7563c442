"""Holds obs.parquet files against the manifest, and explains why reading one failed.

Owns the check that a file has as many rows as its dataset has cells, without which keys would
name the wrong cells, and the errors that name dataset and path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import polars as pl

from ..errors import DaoCorruptError, DaoFileNotFoundError, DaoIOError
from .columns import converted_series

if TYPE_CHECKING:
    from .columns import FileColumn, ScannedDataset
    from .source import ScannedStore

FAILURES = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""The errors that polars raises for files that it cannot read."""

_RESTORE = "restore the file from a copy, or write the dataset again"
# Rows of local files, by path, time, size and inode.
_seen_files: dict[tuple[str | int, ...], int] = {}
_MAX_SEEN = 100_000


def check_rows(store: ScannedStore, datasets: Sequence[ScannedDataset]) -> None:
    """Checks that each obs table has as many rows as its dataset has cells.

    A file is looked into once, and again when its size or time has changed; a remote one once
    for each opened store.

    Raises:
        DaoFileNotFoundError, DaoIOError, DaoCorruptError: naming the dataset and the file.
    """
    seen = _seen_files if store.is_local else store.rows_seen
    states = [(dataset, _state(store, dataset)) for dataset in datasets]
    unknown = [(dataset, state) for dataset, state in states if state not in seen]
    if unknown:
        counts = _count(store, [dataset for dataset, _ in unknown])
        if len(seen) > _MAX_SEEN:
            seen.clear()
        seen.update((state, n) for (_, state), n in zip(unknown, counts, strict=True))
    for dataset, state in states:
        if seen.get(state, dataset.n_obs) != dataset.n_obs:
            raise DaoCorruptError(
                f"{_where(store, dataset)}: expected {dataset.n_obs} rows, one a cell, found "
                f"{seen[state]}; {_RESTORE}"
            )


def _state(store: ScannedStore, dataset: ScannedDataset) -> tuple[str | int, ...]:
    """A value that changes when a local file does; of a remote file only the path is known."""
    path = store.obs_path(dataset)
    if not store.is_local:
        return (path,)
    with _named_errors(_where(store, dataset)):
        stat = os.stat(path)
    return path, stat.st_mtime_ns, stat.st_size, stat.st_ino


def _count(store: ScannedStore, datasets: Sequence[ScannedDataset]) -> list[int]:
    frames = [scan(store, [dataset]).select(pl.len()) for dataset in datasets]
    try:
        return [frame.item() for frame in pl.collect_all(frames)]
    except FAILURES:
        explain(store, datasets, {})
        raise


def scan(store: ScannedStore, datasets: Sequence[ScannedDataset], **options: Any) -> pl.LazyFrame:
    """The parquet scan of polars over some datasets' obs tables, one after the other."""
    return pl.scan_parquet(
        [store.obs_path(dataset) for dataset in datasets],
        glob=False,
        hive_partitioning=False,
        storage_options=store.storage_options,
        **options,
    )


def explain(
    store: ScannedStore, datasets: Sequence[ScannedDataset], columns: Mapping[str, FileColumn]
) -> None:
    """Raises a DaoError for the file that made reading some columns fail, if it was a file.

    Looks at each file by itself; returns if all can be read, so that the fault is the query's.
    """
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
