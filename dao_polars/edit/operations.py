"""What every operation on parts has in common.

Owns the words of a conflict, and which parts an operation on datasets means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING, Protocol

import numpy as np
import polars as pl

from .. import _core
from .part import PartDraft, Rows

if TYPE_CHECKING:
    from ..store.store import Store


class ConflictError(Exception):
    """What another changed that an operation changes too; who it was is for others to say."""


class Operation(Protocol):
    """A change of parts, each by itself."""

    name: str
    """As the store's method is called."""

    @property
    def said(self) -> str:
        """What a version says about it where its maker says nothing."""

    def numbers(self, store: Store, touched: Set[int]) -> Iterable[int]:
        """The parts of a version that it may change; ``touched`` are those of earlier ones."""

    def check(self, before: Store, after: Store) -> None:
        """Raises ``ConflictError`` for what others changed between two versions."""

    def apply(self, part: PartDraft) -> None:
        """Changes a part."""

    def finish(self) -> None:
        """Raises a DaoError where it found nothing to change in any part."""


def numbers_of(store: Store, of_datasets: Iterable[int] | None) -> list[int]:
    """All parts of the datasets that some parts are of; of all datasets for None."""
    parts = store._by_number
    if of_datasets is None:
        return list(parts)
    names = {parts[number].name for number in of_datasets if number in parts}
    return [number for number, part in parts.items() if part.name in names]


def wholly_given(store: Store, by_part: Mapping[int, tuple[Rows, Rows]]) -> set[int]:
    """The parts of datasets of which all cells are given."""
    given, there = Counter[str](), Counter[str]()
    for part in store._core.parts:
        there[part.name] += part.n_cells
        if part.number in by_part:
            given[part.name] += len(by_part[part.number][0])
    return {part.number for part in store._core.parts if given[part.name] == there[part.name]}


def both(before: Store, after: Store, number: int) -> tuple[_core.Part, _core.Part] | None:
    """A part in two versions; None where it is the same in both, or new.

    Raises:
        ConflictError: it is gone.
    """
    part, then = before._by_number.get(number), after._by_number.get(number)
    if part is None or (then is not None and then.checksum == part.checksum):
        return None
    if then is None:
        raise ConflictError(f"removed dataset {part.name!r}, or replaced it")
    return part, then


def changed_parts(
    before: Store, after: Store, by_part: Mapping[int, tuple[Rows, Rows]]
) -> Iterator[tuple[_core.Part, _core.Part, Rows, Rows]]:
    """The parts with these cells that others changed, in both versions; their rows, and positions.

    Raises:
        ConflictError: one is gone, or some of the cells are.
    """
    for number, (rows, at) in by_part.items():
        pair = both(before, after, number)
        if pair is None:
            continue
        removed = np.isin(rows, after._core.removed(number), assume_unique=True)
        if removed.any():
            raise ConflictError(f"removed {removed.sum():,} of the cells, of {pair[0].name!r}")
        yield *pair, rows, at


def differ(before: pl.Series, after: pl.Series) -> pl.Series:
    """Whether each value is another one; a null is a value."""
    if before.dtype == after.dtype:
        return before.ne_missing(after)
    if pl.Null in (before.dtype, after.dtype):
        return before.is_null() != after.is_null()
    return pl.Series([True]).new_from_index(0, len(after))


def listed(names: Iterable[str]) -> str:
    """A few names for a message."""
    names = list(names)
    return ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")
