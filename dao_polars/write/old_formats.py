"""AnnData files from before anndata 0.7: tables as record arrays, their categories in ``uns``.

Owns that layout, in HDF5 and in zarr. Gives what `anndata.read_h5ad` and `read_zarr` make of it:
the first field is the index, and an integer column whose name has ``<name>_categories`` in uns
holds codes. (Categories in a group ``__categories`` came later; anndata's own reader knows them.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DaoCorruptError

if TYPE_CHECKING:
    import pandas as pd

_SUFFIX = "_categories"


def is_record_array(element: Any) -> bool:
    """Whether an element of a file is one array with named fields, as old tables are."""
    return not hasattr(element, "keys") and element.dtype.names is not None


def table_of_records(records: np.ndarray, where: str) -> pd.DataFrame:
    """The frame of a record array ``(rows,)``; codes are not yet categories.

    Raises:
        DaoCorruptError: text that is not valid unicode, or a field that is no column.
    """
    import pandas as pd

    names = records.dtype.names or ()
    if records.ndim != 1 or not names:
        raise DaoCorruptError(f"{where}: expected a table, found an array of {records.dtype}")
    columns = {}
    for name in names:
        values = records[name]
        if values.ndim != 1:
            raise DaoCorruptError(f"{where}: field {name!r} has shape {values.shape}, not a column")
        columns[name] = _decoded(values, f"{where}: field {name!r}")
    return pd.DataFrame(columns).set_index(names[0])


def restore_categories(
    tables: Iterable[pd.DataFrame], uns: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Turns the tables' codes into the categories that ``uns`` has; ``uns`` without those used.

    Raises:
        DaoCorruptError: categories that repeat, or codes below -1.
    """
    import pandas as pd

    tables, used = list(tables), set()
    for key, value in uns.items():
        if not key.endswith(_SUFFIX):
            continue
        name, categories = key.removesuffix(_SUFFIX), np.atleast_1d(value)
        for table in tables:
            if name not in table or table[name].dtype.kind not in "iu":
                continue
            codes = table[name].to_numpy()
            if codes.size and codes.max() >= len(categories):
                continue  # obs and var may have a column of one name: these are the other's
            if len(set(categories.tolist())) < len(categories) or (codes.size and codes.min() < -1):
                raise DaoCorruptError(
                    f"{where}: the categories of column {name!r} repeat, or its codes are below "
                    "-1; the file is damaged"
                )
            table[name] = pd.Categorical.from_codes(codes, categories)
            used.add(key)
    return {key: value for key, value in uns.items() if key not in used}


def _decoded(values: np.ndarray, where: str) -> np.ndarray:
    """Text of any kind as an object array of str; other values as they are."""
    if values.dtype.kind not in "SUO":
        return values
    try:
        texts = [v.decode() if isinstance(v, bytes) else v for v in values.tolist()]
    except UnicodeDecodeError as error:
        raise DaoCorruptError(f"{where}: {error.object!r} is not valid UTF-8 text") from None
    decoded = np.empty(len(texts), dtype=object)
    decoded[:] = texts
    return decoded
