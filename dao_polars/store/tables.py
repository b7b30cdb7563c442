"""The tables of a store's datasets: which columns obs has, var, uns.

Owns the files of obs, var and uns as this package writes them. Those of
sfaira's stores are ``legacy``'s, which gives the same.
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
from ..scan.columns import ScannedPart, frame_schema, scanned_parts
from ..scan.source import ScannedMember, ScannedStore, scan_store
from . import uns as uns_json


class OwnTables:
    """The tables of a store that `write_dataset` wrote."""

    def __init__(self, core: _core.Store, storage_options: dict[str, str] | None) -> None:
        self._core, self._storage_options = core, storage_options

    def parts(self) -> list[ScannedPart]:
        """The parts of datasets as a scan sees them, in the order of the frame's rows."""
        return scanned_parts(self._core.parts)

    def categories(self) -> Mapping[str, Sequence[str] | None]:
        """The sorted union of the values of each text column of obs; None: too many."""
        found = self._core.categories
        return {name: None if values is None else sorted(values) for name, values in found.items()}

    def organism(self, part: _core.Part) -> str | None:
        """The organism of all cells of a dataset, where it is one."""
        return part.organism

    def var_name(self, part: _core.Part) -> str:
        """The file of a part's var, relative to the part."""
        return self._core.description(part.number).var_name

    def uns_name(self, part: _core.Part) -> str:
        """The file of a part's uns, relative to the part."""
        return self._core.description(part.number).uns_name

    def check_obs(self, part: _core.Part) -> None:
        """Raises a DaoError where a dataset's obs is damaged; reads every column."""
        found = scanned_parts([part])
        uri = self._core.uri
        schema = frame_schema(found, self.categories(), Cell(uri, self._core.id))
        store = ScannedStore([ScannedMember(uri, self._storage_options)], found, schema)
        obs_files.check(store, found, found[0].columns)
        for _ in scan_store(store).collect_batches():
            pass

    def var(self, part: _core.Part) -> pl.DataFrame:
        """A dataset's genes: ``var_name`` first, text, then the columns of var."""
        where, data = self._core.read_file(part.number, self.var_name(part))
        try:
            frame = pl.read_parquet(io.BytesIO(data))
        except pl.exceptions.PolarsError as error:
            raise DaoCorruptError(f"{where}: not readable: {error}") from error
        if frame.height != part.n_vars or frame.columns[:1] != ["var_name"]:
            raise DaoCorruptError(
                f"{where}: expected {part.n_vars} rows and a first column 'var_name', found "
                f"{frame.height} rows and columns {frame.columns[:5]}; restore the file from a "
                "copy, or write the dataset again"
            )
        return frame

    def uns(self, part: _core.Part) -> tuple[dict[Any, Any], list[str]]:
        """A dataset's uns, and what was refused in its pickle, which is none."""
        where, data = self._core.read_file(part.number, self.uns_name(part))
        try:
            return uns_json.decode(data), []
        except DaoCorruptError as error:
            raise DaoCorruptError(f"{where}: {error}") from error
