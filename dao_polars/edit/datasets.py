"""Datasets renamed and removed.

Owns which changes of others these conflict with. A dataset is known by its parts: their numbers
stay when its name changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import _core
from ..errors import DaoKeyError
from .operations import ConflictError, numbers_of

if TYPE_CHECKING:
    from ..store.store import Store


class RenameDataset:
    """Another name for a dataset."""

    name = "rename_dataset"

    def __init__(self, old: str, new: str, parts: Sequence[int]) -> None:
        self._old, self._new, self._parts = old, new, list(parts)

    @property
    def said(self) -> str:
        return f"{self._old!r} to {self._new!r}"

    def check(self, before: Store, after: Store) -> None:
        names, then = _names(before, self._parts), _names(after, self._parts)
        if names and not then:
            raise ConflictError(f"removed dataset {self._old!r}, or replaced it")
        if names and names != then:
            raise ConflictError(f"renamed dataset {self._old!r} to {then.pop()!r}")

    def apply(self, edit: _core.Edit, names: dict[int, str]) -> None:
        """Renames it; ``names`` are those that parts have, which follow."""
        old = _name(names, self._parts, self._old)
        if old != self._new:
            edit.rename_dataset(old, self._new)
        names |= {number: self._new for number, name in names.items() if name == old}


class RemoveDataset:
    """A dataset left out. Any change of its cells or tables conflicts."""

    name = "remove_dataset"

    def __init__(self, dataset: str, parts: Sequence[int]) -> None:
        self._dataset, self._parts = dataset, list(parts)

    @property
    def said(self) -> str:
        return repr(self._dataset)

    def check(self, before: Store, after: Store) -> None:
        was, now = _content(before, self._parts), _content(after, self._parts)
        if was and not now:
            raise ConflictError(f"removed dataset {self._dataset!r}, or replaced it")
        if was != now:
            raise ConflictError(f"changed dataset {self._dataset!r}, or added cells to it")

    def apply(self, edit: _core.Edit, names: dict[int, str]) -> None:
        """Leaves it out; ``names`` are those that parts have."""
        name = _name(names, self._parts, self._dataset)
        edit.remove_dataset(name)
        for number in [number for number, of in names.items() if of == name]:
            del names[number]


def _name(names: dict[int, str], parts: Sequence[int], dataset: str) -> str:
    """The name that a dataset has now."""
    if parts[0] not in names:
        raise DaoKeyError(f"no dataset {dataset!r} is in the store any more")
    return names[parts[0]]


def _names(store: Store, numbers: Sequence[int]) -> set[str]:
    parts = store._by_number
    return {parts[number].name for number in numbers if number in parts}


def _content(store: Store, numbers: Sequence[int]) -> set[tuple[int, str | None]]:
    parts = store._by_number
    return {(number, parts[number].checksum) for number in numbers_of(store, numbers)}
