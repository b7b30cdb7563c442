"""Holds obs.parquet files against the manifest, and explains why reading one failed.

Owns the check that a file has as many rows as its dataset has cells, without which keys would
name the wrong cells, and the errors that name dataset and path.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from .errors import DaoCorruptError, DaoError, DaoFileNotFoundError, DaoIOError

if TYPE_CHECKING:
    from .frame_schema import Dataset
    from .scan_plan import Part
    from .store import Store

_RESTORE = "restore the file from a copy, or write the dataset again"
_State = tuple[str, int, int, int] | tuple[str, str]
_checked: dict[_State, int] = {}  # rows of files that were looked at
_MAX_CHECKED = 100_000


def check_rows(store: Store, datasets: Sequence[Dataset]) -> None:
    """Sees that each obs table has as many rows as its dataset has cells.

    A file is looked into once, and again when its size or time has changed.

    Raises:
        DaoFileNotFoundError, DaoIOError, DaoCorruptError: naming the dataset and the file.
    """
    states = [(dataset, _state(store, dataset)) for dataset in datasets]
    unknown = [(dataset, state) for dataset, state in states if state not in _checked]
    if unknown:
        counts = _count(store, [dataset for dataset, _ in unknown])
        if len(_checked) > _MAX_CHECKED:
            _checked.clear()
        _checked.update((state, n) for (_, state), n in zip(unknown, counts, strict=True))
    for dataset, state in states:
        if _checked[state] != dataset.n_obs:
            raise DaoCorruptError(
                f"dataset {dataset.id!r}, {store.path_of(dataset.obs_path)!r}: expected "
                f"{dataset.n_obs} rows, one a cell, found {_checked[state]}; {_RESTORE}"
            )


def _state(store: Store, dataset: Dataset) -> _State:
    """Changes when the file does; of a remote file it is known for this opened store only."""
    path = store.path_of(dataset.obs_path)
    if not store.is_local:
        return path, f"{id(store)}"
    try:
        stat = os.stat(path)
    except OSError as error:
        raise _translated(dataset, path, error) from error
    return path, stat.st_mtime_ns, stat.st_size, stat.st_ino


def _count(store: Store, datasets: Sequence[Dataset]) -> list[int]:
    frames = [_scan_one(store, dataset).select(pl.len()) for dataset in datasets]
    try:
        return [frame.item() for frame in pl.collect_all(frames)]
    except (pl.exceptions.PolarsError, OSError):
        return [_count_one(store, dataset) for dataset in datasets]


def _count_one(store: Store, dataset: Dataset) -> int:
    try:
        return int(_scan_one(store, dataset).select(pl.len()).collect().item())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _translated(dataset, store.path_of(dataset.obs_path), error) from error


def _scan_one(store: Store, dataset: Dataset) -> pl.LazyFrame:
    options = store.storage_options
    return pl.scan_parquet(
        store.path_of(dataset.obs_path),
        glob=False,
        hive_partitioning=False,
        storage_options=dict(options) if options else None,
    )


def explain(store: Store, part: Part, error: Exception) -> None:
    """Raises a DaoError for the file that made reading a part fail, if it was a file.

    Looks at each file by itself; returns if all can be read, so that the fault is the query's.
    """
    for dataset in part.datasets:
        path = store.path_of(dataset.obs_path)
        try:
            lf = _scan_one(store, dataset)
            found = lf.collect_schema()
            for name, column in part.columns.items():
                if column.name and found.get(column.name) != column.dtype:
                    raise DaoCorruptError(
                        f"dataset {dataset.id!r}, {path!r}, column {column.name!r}: expected "
                        f"{column.dtype}, found {found.get(column.name) or 'no such column'}; "
                        f"{_RESTORE}"
                    ) from error
                if column.name:
                    values = lf.select(column.name).collect().to_series()
                    values.cast(store.schema[name])
        except (pl.exceptions.PolarsError, OSError) as found_error:
            raise _translated(dataset, path, found_error) from error


def _translated(dataset: Dataset, path: str, error: Exception) -> DaoError:
    where = f"dataset {dataset.id!r}, {path!r}"
    if isinstance(error, FileNotFoundError):
        return DaoFileNotFoundError(f"{where}: the file is missing; {_RESTORE}")
    if isinstance(error, OSError):
        return DaoIOError(f"{where}: cannot be read: {error}")
    return DaoCorruptError(f"{where}: not a parquet file that can be read: {error}; {_RESTORE}")
