"""The tables of a store's datasets: which columns obs has, var, uns.

Owns the files `obs.parquet`, `var.parquet` and `uns.json` as this package writes them. Those of
sfaira's stores are [`legacy`][dao_polars.legacy.tables]'s, which gives the same.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from .. import _core
from ..errors import DaoCorruptError
from ..scan import obs_files
from ..scan.cell import Cell
from ..scan.columns import ScannedDataset, frame_schema, scanned_datasets
from ..scan.source import ScannedStore, scan_store
from . import uns as uns_json


class OwnTables:
    """The tables of a store that `write_dataset` wrote."""

    #: A dataset's uns, relative to the dataset.
    uns_path = "uns.json"

    def __init__(self, core: _core.Store, storage_options: dict[str, str] | None) -> None:
        self._core, self._storage_options = core, storage_options

    def datasets(self) -> list[ScannedDataset]:
        """The datasets as a scan sees them, in the order of their numbers."""
        return scanned_datasets(self._core.datasets)

    def categories(self) -> Mapping[str, Sequence[str] | None]:
        """The sorted union of the values of each text column of obs; None: too many."""
        found = self._core.categories
        return {name: None if values is None else sorted(values) for name, values in found.items()}

    def organism(self, dataset: _core.Dataset) -> str | None:
        """The organism of all cells of a dataset, where it is one."""
        return dataset.organism

    def check_obs(self, dataset: _core.Dataset) -> None:
        """Raises a DaoError where a dataset's obs is damaged; reads every column."""
        found = scanned_datasets([dataset])
        uri = self._core.uri
        schema = frame_schema(found, self.categories(), Cell(uri, self._core.id))
        store = ScannedStore(uri, self._storage_options, found, schema)
        obs_files.check(store, found, found[0].columns)
        for _ in scan_store(store).collect_batches():
            pass

    def var(self, dataset: _core.Dataset) -> pl.DataFrame:
        """A dataset's genes: ``var_name`` first, text, then the columns of var."""
        where, data = self._core.read_file(dataset.name, "parquet/var.parquet")
        try:
            frame = pl.read_parquet(io.BytesIO(data))
        except pl.exceptions.PolarsError as error:
            raise DaoCorruptError(f"{where}: not readable: {error}") from error
        if frame.height != dataset.n_vars or frame.columns[:1] != ["var_name"]:
            raise DaoCorruptError(
                f"{where}: expected {dataset.n_vars} rows and a first column 'var_name', found "
                f"{frame.height} rows and columns {frame.columns[:5]}; restore the file from a "
                "copy, or write the dataset again"
            )
        return frame

    def uns(self, dataset: _core.Dataset) -> tuple[dict[Any, Any], list[str]]:
        """A dataset's uns, and what was refused in its pickle, which is none."""
        where, data = self._core.read_file(dataset.name, self.uns_path)
        try:
            return uns_json.decode(data), []
        except DaoCorruptError as error:
            raise DaoCorruptError(f"{where}: {error}") from error
