"""Edits of obsm: rows of embeddings.

Owns what they do to a part's embedding, a new matrix beside the old one, and the rows of those
cells that were given none.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from .. import _core
from .._core import CellKeys, MatrixName
from ..errors import DaoTypeError, DaoValueError
from ..scan.cell import make_keys
from .frames import CellColumns, cells_of, check_cells
from .operations import ConflictError, changed_parts, numbers_of, wholly_given
from .part import PartDraft, Rows

if TYPE_CHECKING:
    from ..store.store import Store

Matrix = npt.NDArray[Any]


class _Form(NamedTuple):
    """An embedding as the core is asked for it."""

    name: MatrixName
    n_columns: int
    layout: Literal["csr", "dense"]
    dtype: str
    normalize: None = None


class UpdateObsm:
    """New rows of an embedding for some cells. The same cells' other changes conflict."""

    name = "update_obsm"

    def __init__(self, store: Store, name: str, frame: Any) -> None:
        self._name = MatrixName.parse(f"obsm/{name}")
        keys, values = cells_of(store, frame, "update_obsm")
        check_cells(store, keys, "update_obsm")
        if values.width != 1:
            raise DaoValueError(
                f"update_obsm: expected the column 'cell' and one of arrays, found besides "
                f"{values.columns}; select them"
            )
        self._rows_of = CellColumns(keys, {})
        self._whole = set[int]()
        self._values = _matrix(values.to_series())

    @property
    def said(self) -> str:
        return f"{self._name.name!r} of {len(self._values):,} cells"

    @cached_property
    def _parts(self) -> dict[int, tuple[Rows, Rows]]:
        return self._rows_of.by_part()

    def numbers(self, store: Store, touched: Set[int]) -> Iterable[int]:
        self._whole = wholly_given(store, self._parts)
        return numbers_of(store, self._parts)  # the other parts of a dataset have it, too

    def check(self, before: Store, after: Store) -> None:
        for part, then, rows, _ in changed_parts(before, after, self._parts):
            old, new = (_read(s, p, self._name) for s, p in ((before, part), (after, then)))
            if new is None or (
                old is not None and old.shape == new.shape and _same(old, new).all()
            ):
                continue
            if new.shape[1] != self._values.shape[1]:
                raise ConflictError(
                    f"gave {part.name!r} an obsm {self._name.name!r} of another width"
                )
            changed = np.ones(len(rows), np.bool_)
            if old is not None and old.shape == new.shape:
                changed = np.logical_not(_same(old[rows], new[rows]))
            elif old is None and new.dtype.kind == "f":
                changed = np.logical_not(np.isnan(new[rows]).all(axis=1))
            if changed.any():
                raise ConflictError(
                    f"changed obsm {self._name.name!r} in {changed.sum():,} of the cells, of "
                    f"{part.name!r}"
                )

    def apply(self, part: PartDraft) -> None:
        none = np.zeros(0, np.int64)
        rows, at = self._parts.get(part.part.number, (none, none))
        if not part.are_cells[rows].all():
            raise DaoValueError(f"{part.where}: cells to be updated were removed in the same edit")
        whole = part.part.number in self._whole
        new, width = self._values[at], self._values.shape[1]
        old = part.obsm.get(self._name.name)
        old = _read(part.store, part.part, self._name) if old is None else old
        if old is not None and old.shape[1] != width and not whole:
            raise DaoValueError(
                f"update_obsm, {part.where}: obsm {self._name.name!r} has {old.shape[1]} columns, "
                f"and the new rows have {width}; give all of the dataset's cells new ones, or "
                "another name"
            )
        if old is None or old.shape[1] != width:
            old = _without_values(part.part.n_obs, width, new.dtype, whole)
        elif not len(rows):
            return
        result = old.astype(np.result_type(old.dtype, new.dtype))
        result[rows] = new
        kept = np.delete(np.arange(len(old)), rows)
        if not (_holds(result[rows], new) and _holds(result[kept], old[kept])):
            raise DaoTypeError(
                f"update_obsm, {part.where}: obsm {self._name.name!r} has {old.dtype} and the new "
                f"rows {new.dtype}: {result.dtype}, which both would be, does not have all of "
                "these numbers"
            )
        part.obsm[self._name.name] = result

    def finish(self) -> None:
        pass


def _without_values(n: int, width: int, dtype: np.dtype[Any], whole: bool) -> Matrix:
    """Rows that were given nothing: NaN, which integers do not have, or 0 where no cell has one."""
    if dtype.kind == "f":
        return np.full((n, width), np.nan, dtype)
    return np.zeros((n, width), dtype) if whole else np.full((n, width), np.nan)


def _matrix(values: pl.Series) -> Matrix:
    """The arrays of a column as rows, (n, width).

    Raises:
        DaoTypeError: another type of column.
        DaoValueError: nulls, or arrays of several lengths.
    """
    dtype = values.dtype
    inner = dtype.inner if isinstance(dtype, pl.Array | pl.List) else None
    if inner is None or not inner.is_numeric() or inner.is_decimal():
        raise DaoTypeError(
            f"update_obsm: column {values.name!r} is of type {dtype}; expected arrays of numbers: "
            "pl.Array(pl.Float32, width)"
        )
    if values.null_count():
        raise DaoValueError(f"update_obsm: column {values.name!r} has nulls")
    if inner == pl.Float16():
        inner = pl.Float32()
        values = values.cast(
            pl.Array(inner, dtype.shape[0]) if isinstance(dtype, pl.Array) else pl.List(inner)
        )
    if isinstance(dtype, pl.List):
        widths = values.list.len().unique()
        if len(widths) > 1:
            raise DaoValueError(f"update_obsm: column {values.name!r} has lists of several lengths")
        values = values.cast(pl.Array(inner, int(widths[0] or 0) if len(widths) else 0))
    width = values.dtype.shape[0] if isinstance(values.dtype, pl.Array) else 0
    if not width and len(values):
        raise DaoValueError(f"update_obsm: the arrays of column {values.name!r} are empty")
    flat = values.explode(empty_as_null=False) if width else pl.Series([], dtype=inner)
    if flat.null_count():
        raise DaoValueError(f"update_obsm: column {values.name!r} has nulls; NaN is a number")
    return flat.to_numpy().reshape(len(values), width).copy()


def _read(store: Store, part: _core.Part, name: MatrixName) -> Matrix | None:
    """An embedding of a part, (its rows, width), those of removed cells too; None without one."""
    meta = store._core.description(part.number).matrices.get(name)
    if meta is None:
        return None
    dtype = {"float16": "float32", "bool": "uint8"}.get(meta.source_dtype, meta.source_dtype)
    rows = np.delete(np.arange(part.n_obs), store._core.removed(part.number))
    keys = CellKeys([make_keys(part.number, rows)])
    form = _Form(name, meta.shape[1], "dense", dtype)
    genes = store._core.genes([part.number])
    (values,) = _core.Reader(store._core, keys, genes, [form]).read()
    found = np.zeros((part.n_obs, meta.shape[1]), values.dtype)
    found[rows] = values
    return found


def _holds(cast: Matrix, values: Matrix) -> bool:
    """Whether values that were cast are the same still."""
    with np.errstate(invalid="ignore"):
        return bool(_same(cast.astype(values.dtype), values).all())


def _same(a: Matrix, b: Matrix) -> npt.NDArray[np.bool_]:
    """Whether each row is the same in both."""
    equal = a == b
    if a.dtype.kind == "f" and b.dtype.kind == "f":
        equal |= np.isnan(a) & np.isnan(b)
    return np.asarray(equal.all(axis=1), np.bool_)
