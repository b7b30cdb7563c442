"""The lazy frame of a store: the IO source that polars calls, and the reading it does.

Owns how a planned group (``plan``) becomes frames: polars' own parquet
reader for what lies in the files, and the key, the dataset and the constants computed from the
row numbers. Knows neither matrices nor the format beyond obs.parquet.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import polars as pl
from polars.io.plugins import register_io_source

from .._core import ObsTables
from .._warn import warn
from . import obs_files
from .cell import Cell
from .columns import FileColumn, ScannedPart, converted
from .plan import ScanGroup, ScanPlan, make_plan, wide_values
from .removed import is_cell, rows_of_cells
from .terms import foreign_terms

Ints = npt.NDArray[np.int64]

_BATCH_ROWS = 100_000
_SMALL_GROUP = 1_000_000  # rows
_GROUPS_AHEAD = 4
#: The line of a plan that is about a store's scan, as polars prints it.
_SCAN = re.compile(r"^\s*INFO: .*, \d+ datasets, \d+ cells$", re.MULTILINE)
_REMOTE_VALUES = 4_000_000  # that are fetched at once: of each group ahead they are in memory


@dataclass(frozen=True)
class ScannedMember:
    """One of the stores of a scan: where it is, and its version (None for sfaira's)."""

    uri: str
    storage_options: dict[str, str] | None
    version: int | None = None

    @cached_property
    def obs_tables(self) -> ObsTables:
        """The check of the obs tables, which keeps what was read lately of remote ones."""
        return ObsTables(self.uri, self.storage_options)

    def obs_path(self, part: ScannedPart) -> str:
        """The full path or URL of the obs table of one of its parts."""
        return f"{self.uri}/{part.obs_path}"


@dataclass(frozen=True)
class ScannedStore:
    """The part of a store, or of several as one, that a scan needs to know.

    ``members``: the stores, mostly one. ``parts``: of all, in the order of the frame's rows.
    ``schema``: the frame's.
    """

    members: Sequence[ScannedMember]
    parts: list[ScannedPart]
    schema: pl.Schema

    def member_of(self, parts: Sequence[ScannedPart]) -> ScannedMember:
        """The store that some parts are of, all of them of one."""
        return self.members[parts[0].store]

    @cached_property
    def by_number(self) -> dict[int, ScannedPart]:
        """The parts by their numbers."""
        return {part.number: part for part in self.parts}

    @cached_property
    def row_name(self) -> str:
        """The column of row numbers that reading adds to files: a name that no column has."""
        tables = {id(part.columns): part.columns for part in self.parts}
        in_files = {column.name for table in tables.values() for column in table.values()}
        name = "\0row"
        while name in in_files or name in self.schema:
            name += "_"
        return name

    @cached_property
    def _removed(self) -> dict[int, Ints]:
        return {}

    def removed(self, parts: Sequence[ScannedPart]) -> Ints:
        """The rows of some parts' tables that are no cells any more, ascending.

        They count over the parts' tables, one after the other.
        """
        found, start = [np.zeros(0, np.int64)], 0
        for part in parts:
            if part.removed is not None:
                if part.number not in self._removed:
                    tables = self.members[part.store].obs_tables
                    rows = tables.removed(part.name, part.n_obs, *part.removed)
                    self._removed[part.number] = rows.astype(np.int64)
                found.append(self._removed[part.number] + start)
            start += part.n_obs
        return np.concatenate(found)


def scan_store(store: ScannedStore) -> pl.LazyFrame:
    """The lazy frame of a store's cells."""
    n_obs = sum(part.n_cells for part in store.parts)
    n_datasets = len({(part.store, part.name) for part in store.parts})
    stores = (
        m.uri if m.version is None else f"{m.uri}: version {m.version}" for m in store.members
    )
    return register_io_source(
        partial(_scanned, store),
        schema=store.schema,
        is_pure=True,
        explain_name="dao",
        explain_detail=f"{' + '.join(stores)}, {n_datasets} datasets, {n_obs} cells",
    )


def scanned_versions(frame: pl.LazyFrame, uris: Sequence[str]) -> list[int | None]:
    """The version of each of the stores at ``uris`` that a query scans, the last one of several.

    None where it scans none: its cells were collected before, or read from a file. The plan is
    asked for it as polars prints that: nothing else of a source is to be seen from outside.
    """
    stores = r" \+ ".join(rf"{re.escape(uri)}(?:: version (\d+))?" for uri in uris)
    scans = re.compile(rf"^\s*INFO: {stores}, \d+ datasets, \d+ cells$", re.MULTILINE)
    found = [scan.groups() for scan in scans.finditer(frame.explain(optimized=False))]
    versions = zip(*found, strict=True) if found else [()] * len(uris)
    return [max((int(v) for v in of_one if v is not None), default=None) for of_one in versions]


def is_scanned(frame: pl.LazyFrame) -> bool:
    """Whether a query scans a store, as its plan shows; else its cells are at hand."""
    return _SCAN.search(frame.explain(optimized=False)) is not None


def _scanned(
    store: ScannedStore,
    with_columns: list[str] | None,
    predicate: pl.Expr | None,
    n_rows: int | None,
    batch_size: int | None,
) -> Iterator[pl.DataFrame]:
    """The rows that polars asks for; does no I/O before the first batch is requested."""
    counted_only = with_columns == []  # polars wants rows without columns, to number them
    wanted = ["cell"] if counted_only else with_columns
    if predicate is not None and (said := foreign_terms(predicate, store.schema)):
        warn(said)
    plan = make_plan(store.parts, store.schema, wanted, predicate, n_rows)
    batch_rows = batch_size or _BATCH_ROWS
    for frame in _gathered(_group_frames(store, plan, batch_rows), batch_rows):
        yield frame.drop(frame.columns) if counted_only else frame


def _group_frames(store: ScannedStore, plan: ScanPlan, batch_rows: int) -> Iterator[pl.DataFrame]:
    """The frames of each group; small ones start ahead, as one file does not fill the cores."""
    waiting = deque[ScanGroup]()
    for group in plan.groups:
        is_remote = store.member_of(group.parts).obs_tables.is_remote
        waiting.extend(group.pieces(_REMOTE_VALUES) if is_remote else [group])
    started: deque[Iterator[pl.DataFrame]] = deque()
    while waiting or started:
        while waiting and len(started) < _GROUPS_AHEAD:
            if started and waiting[0].n_rows > _SMALL_GROUP:
                break
            group = waiting.popleft()
            if any(column.name is not None for column in group.columns.values()):
                started.append(_read_files(store, group, plan.columns))
            else:
                started.append(_make_rows(store, group, plan.columns, batch_rows))
        yield from started.popleft()


def _read_files(
    store: ScannedStore, group: ScanGroup, columns: Sequence[str]
) -> Iterator[pl.DataFrame]:
    """Fetches or checks a group's files, starts reading them in the background; gives its rows."""
    removed = store.removed(group.parts)
    n_rows = int(rows_of_cells(removed, np.array([group.n_rows - 1]))[0]) + 1
    lf = obs_files.scan(
        store,
        group.parts,
        group.columns,
        schema={
            column.name: column.dtype
            for column in group.columns.values()
            if column.name is not None
        },
        row_index_name=store.row_name,
        n_rows=n_rows if group.cut_short else None,
        extra_columns="ignore",
    )
    if len(removed):  # before anything is made of values that no cell has any more
        lf = lf.filter(is_cell(removed, store.row_name))
    if group.pushed is not None:
        lf = lf.filter(group.pushed)
    batches = _in_frame_terms(store, lf, group, columns).collect_batches(engine="streaming")

    def frames() -> Iterator[pl.DataFrame]:
        try:
            yield from batches
        except obs_files.FAILURES:
            obs_files.explain(store, group.parts, group.columns)
            raise

    return frames()


def _make_rows(
    store: ScannedStore, group: ScanGroup, columns: Sequence[str], batch_rows: int
) -> Iterator[pl.DataFrame]:
    """The rows of a group that needs no file: all it has is known from the manifest."""
    removed = store.removed(group.parts)
    for start in range(0, group.n_rows, batch_rows):
        stop = min(start + batch_rows, group.n_rows)
        numbers = rows_of_cells(removed, np.arange(start, stop))
        rows = pl.LazyFrame({store.row_name: pl.Series(numbers.astype(np.uint64))})
        yield _in_frame_terms(store, rows, group, columns).collect(engine="in-memory")


def _in_frame_terms(
    store: ScannedStore, lf: pl.LazyFrame, group: ScanGroup, columns: Sequence[str]
) -> pl.LazyFrame:
    """Adds the frame's columns to the files', filters by what is left, and selects."""
    needed = list(columns)
    if group.residual is not None:
        needed = list(dict.fromkeys([*needed, *group.residual.meta.root_names()]))
    rows = _GroupRows(group.parts, store.row_name)
    lf = lf.with_columns(_column(store.schema, name, group, rows).alias(name) for name in needed)
    if group.residual is not None:
        lf = lf.filter(group.residual)
    return lf.select(columns)


def _column(schema: pl.Schema, name: str, group: ScanGroup, rows: _GroupRows) -> pl.Expr:
    dtype = schema[name]
    if isinstance(dtype, Cell):
        return rows.apply(rows.keys, pl.UInt64()).ext.to(dtype)
    column = group.columns.get(name)
    if column is None:
        values = wide_values(group.parts, name, dtype)
        if values.n_unique() == 1:
            # no literal series: polars takes nulls of two types for one common expression
            return pl.lit(values[0]).cast(dtype)
        return rows.apply(rows.of_dataset(values), dtype)
    if column.name is None:
        return rows.apply(rows.index(column), dtype)
    return converted(pl.col(column.name), column.dtype, dtype)


class _GroupRows:
    """Turns row numbers of a group into what depends on the part and the row in it.

    The numbers, in the column ``name``, count over the group's parts.
    """

    def __init__(self, parts: Sequence[ScannedPart], name: str) -> None:
        self._name = name
        sizes = np.array([part.n_obs for part in parts], np.int64)
        self._stops = np.cumsum(sizes)
        self._starts = self._stops - sizes
        numbers = np.array([part.number for part in parts], np.int64)
        self._shifts = (numbers << 32) - self._starts

    def apply(self, function: Callable[[pl.Series], pl.Series], dtype: pl.DataType) -> pl.Expr:
        return pl.col(self._name).map_batches(function, return_dtype=dtype, is_elementwise=True)

    def keys(self, rows: pl.Series) -> pl.Series:
        """The cell keys."""
        numbers, at = self._locate(rows)
        return pl.Series((numbers + self._shifts[at]).view(np.uint64))

    def of_dataset(self, values: pl.Series) -> Callable[[pl.Series], pl.Series]:
        """Each row's value out of one value per part."""

        def spread(rows: pl.Series) -> pl.Series:
            _, at = self._locate(rows)
            if isinstance(at, int):
                return values.new_from_index(at, len(rows))
            return values.gather(at)

        return spread

    def index(self, column: FileColumn) -> Callable[[pl.Series], pl.Series]:
        """The labels of a range index of pandas, as text."""

        def labels(rows: pl.Series) -> pl.Series:
            numbers, at = self._locate(rows)
            numbers -= self._starts[at]
            return pl.Series(column.start + column.step * numbers).cast(pl.String)

        return labels

    def _locate(self, rows: pl.Series) -> tuple[Ints, Ints | int]:
        """The rows as int64, and each one's part in the group: one number if it is the same."""
        numbers = rows.to_numpy().astype(np.int64)
        if not numbers.size or (numbers[1:] < numbers[:-1]).any():
            return numbers, np.searchsorted(self._stops, numbers, side="right")
        first, last = np.searchsorted(self._stops, numbers[[0, -1]], side="right").tolist()
        if first == last:
            return numbers, first
        cuts = np.searchsorted(numbers, self._stops[first:last])  # rows ascend: find the stops
        runs = np.diff(cuts, prepend=0, append=numbers.size)
        return numbers, np.repeat(np.arange(first, last + 1), runs)


def _gathered(frames: Iterator[pl.DataFrame], batch_rows: int) -> Iterator[pl.DataFrame]:
    """Joins small frames, so that no time goes into many tiny ones.

    The first frames come at once, as a query may need no more than a few rows; then the size
    wanted doubles.
    """
    held: list[pl.DataFrame] = []
    n_held, wanted = 0, 1
    for frame in frames:
        held.append(frame)
        n_held += frame.height
        if n_held >= wanted:
            yield pl.concat(held, rechunk=False)
            held, n_held, wanted = [], 0, min(2 * wanted, batch_rows)
    if held:
        yield pl.concat(held, rechunk=False)
