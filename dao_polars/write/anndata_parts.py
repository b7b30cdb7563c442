"""The parts of an AnnData, in memory or in a file of any anndata version.

Owns how a table, an array and uns are got out of either, and what each part is called in errors.
Knows nothing of stores, nor of which parts are wanted.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .._extras import require
from ..errors import DaoCorruptError, DaoTypeError
from .matrix_source import reading
from .old_formats import is_record_array, restore_categories, table_of_records

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

#: Groups of matrices that a store does not hold.
_UNKNOWN_TO_STORES = ("obsp", "varp", "varm")


class MemoryParts:
    """An AnnData object. Backed ones hand out their file's arrays."""

    where = "the AnnData"

    def __init__(self, adata: AnnData) -> None:
        self._adata = adata
        self.layers = [name for name in adata.layers if name is not None]  # 0.13 lists X too
        self.obsm = list(adata.obsm)
        self.has_raw = adata.raw is not None
        self.others = {group: list(getattr(adata, group)) for group in _UNKNOWN_TO_STORES}
        self.others["raw/varm"] = list(adata.raw.varm) if self.has_raw else []

    @property
    def has_x(self) -> bool:
        """Whether there is an X."""
        return self._adata.X is not None

    def label(self, key: str) -> str:
        """The name of a part in errors."""
        group, _, name = key.partition("/")
        return f"adata.{group}[{name!r}]" if name and group != "raw" else "adata." + group

    def table(self, key: str) -> pd.DataFrame:
        """The table ``obs``, ``var`` or ``raw/var``."""
        import pandas as pd

        owner, _, name = key.rpartition("/")
        table = getattr(self._adata.raw if owner else self._adata, name)
        if not isinstance(table, pd.DataFrame):
            raise DaoTypeError(
                f"adata.{name}: is a {type(table).__name__}, not a pandas DataFrame; load it with "
                "adata.to_memory() first"
            )
        return table

    def array(self, key: str) -> Any:
        """The array ``X``, ``raw/X``, a layer or an obsm, unread; None where it is missing."""
        if key == "X":
            return self._adata.X
        if key == "raw/X":
            return self._adata.raw.X
        group, _, name = key.partition("/")
        return getattr(self._adata, group)[name]

    def uns(self) -> dict[str, Any]:
        """The AnnData's uns."""
        return dict(self._adata.uns)


class FileParts:
    """An AnnData in an HDF5 file or zarr group."""

    def __init__(self, root: Any, where: str) -> None:
        self._root, self.where = root, where
        with reading(where):
            self.has_x = "X" in root and root["X"].attrs.get("encoding-type") != "null"
            # where there is no raw, a zarr may have a null of that name
            self.has_raw = "raw.X" in root or ("raw" in root and hasattr(root["raw"], "keys"))
        self.layers = self._names("layers")
        self.obsm = self._names("obsm")
        self.others = {group: self._names(group) for group in _UNKNOWN_TO_STORES}
        self.others["raw/varm"] = self._names("raw/varm") or self._names("raw.varm")

    def _names(self, group: str) -> list[str]:
        with reading(self.label(group)):
            if group not in self._root:
                return []
            element = self._root[group]
            keys = element.keys() if hasattr(element, "keys") else element.dtype.names
            return sorted(keys or ())

    def label(self, key: str) -> str:
        """The name of a part in errors."""
        return f"{self.where}: {key}"

    def _element(self, key: str) -> Any:
        with reading(self.label(key)):
            if key.startswith("raw/") and "raw" not in self._root:
                return self._root[key.replace("/", ".")]
            return self._root[key]

    def table(self, key: str) -> pd.DataFrame:
        """The table ``obs``, ``var``, ``raw/var`` or a frame in obsm."""
        import pandas as pd

        if key in self._old_tables:
            return self._old_tables[key]
        table = self._read_table(key)
        if not isinstance(table, pd.DataFrame):
            raise DaoCorruptError(
                f"{self.label(key)}: expected a dataframe, found {type(table).__name__}"
            )
        return table

    def _read_table(self, key: str) -> Any:
        element = self._element(key)
        with reading(self.label(key)):
            if is_record_array(element):
                return table_of_records(element[()], self.label(key))
        return self._read(element, key)

    def _read(self, element: Any, key: str) -> Any:
        """An element as anndata reads it."""
        read_elem = require("anndata.io", "reading AnnData files").read_elem
        with reading(self.label(key)), _quiet():
            return read_elem(element)

    @cached_property
    def _old_tables(self) -> dict[str, pd.DataFrame]:
        """Obs and var of a file from before anndata 0.7, with their categories; else none."""
        if not is_record_array(self._element("obs")):
            return {}
        tables = {key: self._read_table(key) for key in ("obs", "var")}
        self._uns = restore_categories(tables.values(), self._uns, self.where)
        return tables

    def array(self, key: str) -> Any:
        """The array ``X``, ``raw/X``, a layer or an obsm, unread; None where it is missing."""
        if key == "X" and not self.has_x:
            return None
        group, _, name = key.partition("/")
        if group in ("layers", "obsm"):
            with reading(self.label(key)):
                whole = self._root[group]
                if is_record_array(whole):
                    return whole[()][name]
        element = self._element(key)
        with reading(self.label(key)):
            encoding = element.attrs.get("encoding-type", "")
        if encoding == "null":
            return None
        return self.table(key) if encoding == "dataframe" else element

    @cached_property
    def _uns(self) -> dict[str, Any]:
        with reading(self.label("uns")):
            if "uns" not in self._root:
                return {}
        uns = self._read(self._element("uns"), "uns")
        if not isinstance(uns, Mapping):
            raise DaoCorruptError(
                f"{self.label('uns')}: expected a dict, found {type(uns).__name__}"
            )
        return dict(uns)

    def uns(self) -> dict[str, Any]:
        """The AnnData's uns, without what old files keep there of their tables."""
        _ = self._old_tables  # takes the categories out
        return self._uns


Parts = MemoryParts | FileParts


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences warnings that a file is old: old files are what we are here to convert."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
