"""An AnnData in an HDF5 file or a zarr group, written by any version of anndata.

Owns how its parts are found and its tables read. Knows nothing of stores, nor of which parts are
wanted. anndata reads the tables of 0.7 and later. Before, a table was a record array whose first
field is the index, and an integer column with ``<name>_categories`` in uns held codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DaoCorruptError
from .matrix_source import read_element, reading

if TYPE_CHECKING:
    import pandas as pd

_CATEGORIES = "_categories"


class AnnDataFile:
    """An AnnData's attributes by the names that it has in memory, with its matrices unread.

    ``prefix`` is that of their keys: ``raw/`` for its raw, and ``raw.`` for one of old.
    """

    def __init__(self, root: Any, where: str, prefix: str = "") -> None:
        """Looks at names alone; reads obs, var and uns of an old file.

        Raises:
            DaoCorruptError: the file cannot be read.
        """
        self._root, self._where, self._prefix = root, where, prefix
        groups = ("layers", "obsm", "obsp", "varp", "varm")
        self.layers, self.obsm, self.obsp, self.varp, self.varm = map(self._matrices, groups)
        if not prefix and _is_record_array(self._element("obs")):
            self.uns = _restore_categories([self.obs, self.var], self.uns, where)

    def _label(self, name: str) -> str:
        return f"{self._where}: {self._prefix}{name}"

    def _element(self, name: str) -> Any:
        """An element, unread; None where there is none, or a null that stands for it."""
        key = self._prefix + name
        with reading(self._label(name)):
            if key not in self._root:
                return None
            element = self._root[key]
            return None if element.attrs.get("encoding-type") == "null" else element

    def _matrices(self, group: str) -> Mapping[str, Any]:
        element = self._element(group)
        if not _is_record_array(element):
            return element if hasattr(element, "keys") else {}
        with reading(self._label(group)):
            records = element[()]
        return {name: records[name] for name in records.dtype.names}

    def _table(self, name: str) -> Any:
        element, label = self._element(name), self._label(name)
        if not _is_record_array(element):
            return read_element(element, label)
        with reading(label):
            return _table_of_records(element[()], label)

    @property
    def X(self) -> Any:  # noqa: N802
        """The matrix X, unread; None where there is none."""
        return self._element("X")

    @cached_property
    def obs(self) -> Any:
        """The table of cells: whatever anndata finds where it should be."""
        return self._table("obs")

    @cached_property
    def var(self) -> Any:
        """The table of genes, likewise."""
        return self._table("var")

    @cached_property
    def raw(self) -> AnnDataFile | None:
        """The raw X, var and varm, where there is one."""
        with reading(self._label("raw")):
            if "raw.X" in self._root:
                return AnnDataFile(self._root, self._where, "raw.")
        is_group = hasattr(self._element("raw"), "keys")
        return AnnDataFile(self._root, self._where, "raw/") if is_group else None

    @cached_property
    def uns(self) -> dict[str, Any]:
        """AnnData's uns, without what old files keep there of their tables."""
        element = self._element("uns")
        uns = {} if element is None else read_element(element, self._label("uns"))
        if not isinstance(uns, Mapping):
            raise DaoCorruptError(
                f"{self._label('uns')}: expected a dict, found {type(uns).__name__}"
            )
        return dict(uns)


def _is_record_array(element: Any) -> bool:
    return getattr(getattr(element, "dtype", None), "names", None) is not None


def _table_of_records(records: np.ndarray, where: str) -> pd.DataFrame:
    """The frame of a record array ``(rows,)``; codes are not yet categories."""
    import pandas as pd

    names = records.dtype.names or ()
    if records.ndim != 1 or not names:
        raise DaoCorruptError(f"{where}: expected a table, found an array of {records.dtype}")
    columns = {}
    for name in names:
        columns[name] = values = records[name]
        if values.ndim != 1:
            raise DaoCorruptError(f"{where}: field {name!r} has shape {values.shape}, not a column")
        if values.dtype.kind in "SUO":
            texts = np.empty(len(values), dtype=object)
            try:
                texts[:] = [v.decode() if isinstance(v, bytes) else v for v in values.tolist()]
            except UnicodeDecodeError as error:
                raise DaoCorruptError(
                    f"{where}: field {name!r}: {error.object!r} is not valid UTF-8 text"
                ) from None
            columns[name] = texts
    return pd.DataFrame(columns).set_index(names[0])


def _restore_categories(
    tables: list[pd.DataFrame], uns: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Turns the tables' codes into the categories that ``uns`` has; ``uns`` without those used."""
    import pandas as pd

    left = dict(uns)
    for key in filter(lambda key: key.endswith(_CATEGORIES), uns):
        name, categories = key.removesuffix(_CATEGORIES), pd.Index(np.atleast_1d(uns[key]))
        for table in tables:
            if name not in table or table[name].dtype.kind not in "iu":
                continue
            codes = table[name].to_numpy()
            if codes.max(initial=-1) >= len(categories):
                continue  # obs and var may have a column of one name: these are the other's
            if not categories.is_unique or codes.min(initial=0) < -1:
                raise DaoCorruptError(
                    f"{where}: the categories of column {name!r} repeat, or its codes are below "
                    "-1; the file is damaged"
                )
            table[name] = pd.Categorical.from_codes(codes, categories)
            left.pop(key, None)
    return left
