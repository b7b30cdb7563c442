"""The error for cells that a store has no more.

Owns how they are counted and named: by what a version that still has them says.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from ..errors import DaoError, DaoValueError
from ..scan import obs_files
from ..scan.cell import Keys
from ..store.store import Store

_NAMED = 3
_LOOKED_AT = 20  # versions


def gone_error(store: Store, keys: Keys, gone: npt.NDArray[np.uint64]) -> DaoValueError:
    """The error for the cells at some positions of a frame's keys."""
    named = [_named(*_alone(store, int(keys[at])), int(at)) for at in gone[:_NAMED]]
    more = "" if len(gone) <= _NAMED else ", …"
    stores = [f"{member.uri!r} (version {member.version})" for member in store.stores]
    return DaoValueError(
        f"{len(gone)} of {len(keys)} cells are no longer in store{'s'[: len(stores) > 1]} "
        f"{', '.join(stores)}: {', '.join(named)}{more}. missing='drop' leaves them out; "
        "dao.scan(uri, version=…) reads a version that has them"
    )


def _alone(store: Store, key: int) -> tuple[Store, int, int]:
    """The one store that a cell is of, the number of its part there, and its row."""
    number, row = divmod(key, 2**32)
    if len(store.stores) == 1:
        return store, number, row
    place, number = divmod(number, 2**24)
    return store.stores[place], number, row


def _named(store: Store, number: int, row: int, at: int) -> str:
    """A cell by its name, as far as a version that has its part can be read."""
    for version in range(store.version or 0, max(0, (store.version or 0) - _LOOKED_AT), -1):
        try:
            older = store if version == store.version else store._at(version)
            part = older._scanned.by_number.get(number)
            if part is None:
                continue
            columns = {"obs_name": part.columns["obs_name"]}
            table = obs_files.scan(older._scanned, [part], columns)
            name = table.select(pl.col("obs_name").slice(row, 1)).collect().item()
        except (DaoError, *obs_files.FAILURES):  # given up by vacuum, say
            break
        return f"{name!r} of dataset {part.name!r} (row {at})"
    return f"cell {row} of part number {number} (row {at})"
