"""Holds obs.parquet files against the manifest, and explains why reading one failed.

Owns the check that a file has as many rows as its dataset has cells, without which keys would
name the wrong cells, and the errors that name dataset and path.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from ..errors import DaoCorruptError, DaoError, DaoFileNotFoundError, DaoIOError
from .columns import converted_series

if TYPE_CHECKING:
    from .columns import ScannedDataset
    from .plan import ScanGroup
    from .source import ScannedStore

FAILURES = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""The errors that polars raises for files that it cannot read."""

_RESTORE = "restore the file from a copy, or write the dataset again"
_Seen = dict[tuple[str | int, ...], int]
_seen_files: _Seen = {}  # rows of local files, by path, time, size and inode
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
                f"dataset {dataset.name!r}, {store.path_of(dataset.obs_path)!r}: expected "
                f"{dataset.n_obs} rows, one a cell, found {seen[state]}; {_RESTORE}"
            )


def _state(store: ScannedStore, dataset: ScannedDataset) -> tuple[str | int, ...]:
    """A value that changes when a local file does; of a remote file only the path is known."""
    path = store.path_of(dataset.obs_path)
    if not store.is_local:
        return (path,)
    try:
        stat = os.stat(path)
    except OSError as error:
        raise _translated(dataset, path, error) from error
    return path, stat.st_mtime_ns, stat.st_size, stat.st_ino


def _count(store: ScannedStore, datasets: Sequence[ScannedDataset]) -> list[int]:
    frames = [scan(store, [dataset]).select(pl.len()) for dataset in datasets]
    try:
        return [frame.item() for frame in pl.collect_all(frames)]
    except FAILURES:
        return [_count_one(store, dataset) for dataset in datasets]


def _count_one(store: ScannedStore, dataset: ScannedDataset) -> int:
    try:
        return int(scan(store, [dataset]).select(pl.len()).collect().item())
    except FAILURES as error:
        raise _translated(dataset, store.path_of(dataset.obs_path), error) from error


def scan(store: ScannedStore, datasets: Sequence[ScannedDataset], **options: Any) -> pl.LazyFrame:
    """The parquet scan of polars over some datasets' obs tables, one after the other."""
    return pl.scan_parquet(
        [store.path_of(dataset.obs_path) for dataset in datasets],
        glob=False,
        hive_partitioning=False,
        storage_options=store.storage_options,
        **options,
    )


def explain(store: ScannedStore, group: ScanGroup, error: BaseException) -> None:
    """Raises a DaoError for the file that made reading a group fail, if it was a file.

    Looks at each file by itself; returns if all can be read, so that the fault is the query's.
    """
    for dataset in group.datasets:
        where = f"dataset {dataset.name!r}, {store.path_of(dataset.obs_path)!r}"
        for name, column in group.columns.items():
            if column.name is None:
                continue
            try:
                lf = scan(store, [dataset])
                found = lf.collect_schema().get(column.name)
                values = lf.select(column.name).collect().to_series() if found else None
            except FAILURES as found_error:
                path = store.path_of(dataset.obs_path)
                raise _translated(dataset, path, found_error) from error
            if values is None or found != column.dtype:
                raise DaoCorruptError(
                    f"{where}, column {column.name!r}: expected {column.dtype}, found "
                    f"{found or 'no such column'}; {_RESTORE}"
                ) from error
            try:
                converted_series(values, store.schema[name])
            except pl.exceptions.PolarsError as found_error:
                raise DaoCorruptError(
                    f"{where}, column {column.name!r}: values that the manifest does not list: "
                    f"{found_error}; {_RESTORE}"
                ) from error


def _translated(dataset: ScannedDataset, path: str, error: BaseException) -> DaoError:
    where = f"dataset {dataset.name!r}, {path!r}"
    if isinstance(error, FileNotFoundError):
        return DaoFileNotFoundError(f"{where}: the file is missing; {_RESTORE}")
    if isinstance(error, OSError):
        return DaoIOError(f"{where}: cannot be read: {error}")
    return DaoCorruptError(f"{where}: not a parquet file that can be read: {error}; {_RESTORE}")
