"""The cell key: which part of which store, and which row of it.

Owns the polars extension type ``Cell``, its registration, and the layout of its bits:
``part_number << 32 | row`` in a UInt64. Reads keys out of frames; knows no store but by
the URI and id that the type's metadata carries, of one store or of several.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from .._core import CellKeys
from ..errors import DaoCorruptError, DaoTypeError, DaoValueError

NAME = "dao.cell"
COLUMN = "cell"

#: The bits of a part's number that its store gave, where several are scanned as one.
_OWN_BITS = 24

Keys = npt.NDArray[np.uint64]

_WAY_OUT = (
    f"keep the column {COLUMN!r} that dao.scan gives, as it is, through select, group_by and join"
)


class CellStore(NamedTuple):
    """A store that cells are of: its URI when the keys were made, its id, which stays when it
    moves, and its version, where one was asked for.
    """

    uri: str
    id: str
    version: int | None = None


class Cell(pl.BaseExtension):
    """Data type of the column ``cell``: UInt64 keys that name their store, or their stores.

    A version is named where one was asked for: the cells are then read in that version, and others
    in the last one. Numbers are given once: the cells of two versions of a store are the same.

    Two frames have the same type exactly when their cells are of one store (same URI, id and named
    version), so polars refuses to concat or join the cells of two stores, showing both metadata.
    For one frame of both, scan them together: ``dao.scan([uri, uri])``, whose keys name all these
    stores, in their order. The type is kept by all relational operations and by parquet, IPC and
    pickle. ``pl.col("cell").ext.storage()`` gives the plain integers, which are keys no more.
    """

    def __init__(self, uri: str, id: str, version: int | None = None) -> None:
        super().__init__(NAME, pl.UInt64(), _as_json(_fields(CellStore(uri, id, version))))

    @classmethod
    def of(cls, stores: Sequence[CellStore]) -> Cell:
        """The type of cells of these stores, whose parts are numbered in this order."""
        if len(stores) == 1:
            return cls(*stores[0])
        metadata = _as_json({"stores": [_fields(store) for store in stores]})
        return cast(Cell, cls.ext_from_params(NAME, pl.UInt64(), metadata))

    @property
    def stores(self) -> tuple[CellStore, ...]:
        """The stores that the cells are of, in the order in which they were scanned: mostly one."""
        try:
            metadata = json.loads(self.ext_metadata() or "")
            listed = metadata.get("stores", [metadata])
            found = tuple(CellStore(s["uri"], s["id"], s.get("version")) for s in listed)
        except (ValueError, LookupError, TypeError, AttributeError):
            found = ()
        if not found or not all(isinstance(text, str) for s in found for text in s[:2]):
            raise DaoCorruptError(
                f"column {COLUMN!r}: its type's metadata should be JSON with 'uri' and 'id', or of "
                f"'stores' with these, found {self.ext_metadata()!r}; make the frame again from "
                "dao.scan"
            )
        return tuple(s if isinstance(s.version, int) else s._replace(version=None) for s in found)

    @property
    def uri(self) -> str:
        """The URI of the store when the keys were made; of several theirs, with `` + `` between."""
        return " + ".join(store.uri for store in self.stores)

    @property
    def id(self) -> str:
        """The store's id, which stays when it moves; of several theirs, with `` + `` between."""
        return " + ".join(store.id for store in self.stores)

    @property
    def version(self) -> int | None:
        """The version of the store, where one was asked for; of several see ``stores``."""
        stores = self.stores
        return stores[0].version if len(stores) == 1 else None

    def __repr__(self) -> str:
        return f"Cell({self.ext_metadata()})"


def _fields(store: CellStore) -> dict[str, Any]:
    version = {} if store.version is None else {"version": store.version}
    return {"uri": store.uri, "id": store.id} | version


def _as_json(metadata: dict[str, Any]) -> str:
    return json.dumps(metadata, sort_keys=True, ensure_ascii=False)


def register() -> None:
    """Makes polars know ``Cell``; may run again, as after a reload of this module."""
    if pl.get_extension_type(NAME) is not None:
        pl.unregister_extension_type(NAME)
    pl.register_extension_type(NAME, Cell)


register()


def cell_type(schema: Mapping[str, pl.DataType]) -> Cell:
    """The type of a schema's column ``cell``, and so the store that its keys belong to.

    Raises:
        DaoValueError: there is no such column.
        DaoTypeError: it holds something other than cell keys.
    """
    dtype = schema.get(COLUMN)
    if dtype is None:
        names = ", ".join(map(repr, list(schema)[:10])) or "none"
        raise DaoValueError(
            f"the frame has no column {COLUMN!r}, which says which cells these are; "
            f"its columns: {names}{', …' if len(schema) > 10 else ''}. To mend it, {_WAY_OUT}"
        )
    if isinstance(dtype, pl.BaseExtension) and (dtype.ext_name(), dtype.ext_storage()) == (
        NAME,
        pl.UInt64,
    ):
        # a frame that was made before this module was imported has the generic type
        return cast(Cell, Cell.ext_from_params(NAME, pl.UInt64(), dtype.ext_metadata()))
    hint = "; an aggregated column must be exploded first" if isinstance(dtype, pl.List) else ""
    raise DaoTypeError(
        f"column {COLUMN!r} should hold cell keys ({NAME}), found {dtype}: numbers alone do not "
        f"say which store they are of{hint}. To mend it, {_WAY_OUT}"
    )


def keys_of(frame: pl.DataFrame) -> CellKeys:
    """A frame's keys, ``(rows,)`` in frame order.

    Raises:
        DaoValueError: no column ``cell``, or a null in it (as a left or full join leaves).
        DaoTypeError: the column is of another type.
    """
    cell_type(frame.schema)
    keys = frame[COLUMN].ext.storage()
    if nulls := keys.null_count():
        raise DaoValueError(
            f"column {COLUMN!r} has {nulls} null(s), the first in row {keys.is_null().arg_max()}: "
            f"a cell that is none cannot be read; drop them: .drop_nulls({COLUMN!r})"
        )
    return CellKeys([piece.to_numpy() for piece in keys.get_chunks()])


def cell_texts(keys: Keys, store_ids: Sequence[str]) -> npt.NDArray[np.object_]:
    """Keys ``(n,)`` as texts that say which store they are of: ``<store id>:<part>:<row>``.

    Of cells of several stores each is as its own store has it.
    """
    own, of_store = pl.col(COLUMN) // 2**32, pl.lit(store_ids[0])
    if len(store_ids) > 1:
        own, place = own % 2**_OWN_BITS, own // 2**_OWN_BITS
        of_store = pl.lit(pl.Series(store_ids)).gather(place)
    texts = pl.format("{}:{}:{}", of_store, own, pl.col(COLUMN) % 2**32)
    return pl.DataFrame({COLUMN: keys}).select(texts).to_series().to_numpy()


def keys_of_texts(texts: pl.Series, store_id: str) -> Keys:
    """The keys that ``cell_texts`` wrote for cells of this store.

    Raises:
        DaoValueError: nulls, texts that are none, or cells of another store.
    """
    parts = (
        texts.cast(pl.String).str.extract_groups(r"^(.*):(\d{1,10}):(\d{1,10})$").struct.unnest()
    )
    is_key = parts["1"] == store_id
    numbers = parts.select(
        pl.col("2", "3").cast(pl.UInt64, strict=False).fill_null(2**32).clip(None, 2**32)
    )
    is_key &= (numbers["2"] < 2**32) & (numbers["3"] < 2**32)
    if not is_key.fill_null(False).all():
        at = is_key.fill_null(False).arg_min() or 0
        raise DaoValueError(
            f"column {COLUMN!r} holds {texts[at]!r} in row {at}; expected cells of store "
            f"{store_id!r} as to_anndata(cell=True) of its cells gives them"
        )
    return (numbers["2"] * 2**32 + numbers["3"]).to_numpy()


def cells(keys: Keys, dtype: Cell) -> pl.Series:
    """Keys ``(n,)`` as the column ``cell``."""
    return pl.Series(COLUMN, keys).ext.to(dtype)


def make_keys(part_number: int, rows: npt.ArrayLike) -> Keys:
    """The keys of some rows ``(n,)`` of one part."""
    return np.asarray(rows).astype(np.uint64) + np.uint64(part_number << 32)
