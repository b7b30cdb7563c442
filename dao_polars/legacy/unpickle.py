"""Reads the plain data in a pickle that nobody vouches for, and runs nothing in it.

Gives None, bools, numbers, text, bytes, lists, tuples, dicts, sets and numpy scalars, arrays and
dtypes, as numpy 1 and 2 pickle them; anything else is an inert [`Refused`][]. Owns the copy of what
the machine built (``unpickle_machine``): finished, without cycles, of bounded depth and size. Knows
nothing of stores.
"""

from __future__ import annotations

from typing import Any

from ..errors import DaoCorruptError
from .unpickle_machine import SCALARS, AllowedName, Machine, Refused
from .unpickle_numpy import MalformedError, PendingArray, PendingDtype

__all__ = ["Refused", "load"]

_MAX_DEPTH = 100  # containers in containers
_MAX_NODES = 10_000_000  # values of the result, counted as often as they are reached


def load(data: bytes, where: str) -> tuple[dict[Any, Any], list[str]]:
    """The dict in a pickle, and a list of what in it was refused.

    Args:
        data: the pickle; bytes after its end are ignored.
        where: the file, for errors.

    Returns:
        The dict (ordered and default dicts become dict), with a [`Refused`][] wherever the
        pickle has anything but plain data; and one ``"['key'][0]: module.name"`` for each of
        these, or ``"(not in the data): module.name"`` for a name that the pickle used elsewhere.

    Raises:
        DaoCorruptError: no pickle, cut short, contradicting itself, too deeply nested, or one of
            something else than a dict.
    """
    machine = Machine(data)
    try:
        top, places = _ResultCopier().finish(machine.run())
    except Exception as error:
        raise DaoCorruptError(
            f"{where}: not a pickle that can be read (expected a pickled dict of plain data): "
            f"{error or type(error).__name__}"
        ) from error
    if not isinstance(top, dict):
        found = repr(top) if isinstance(top, Refused) else type(top).__name__
        raise DaoCorruptError(f"{where}: expected a pickled dict, found {found}")
    reached = {name for _, name in places}
    refused = [f"{place}: {name}" for place, name in places]
    refused += [f"(not in the data): {name}" for name in machine.refused if name not in reached]
    return top, refused


class _ResultCopier:
    """Copies what the machine built: pending values opened, cycles cut, depth and size bounded."""

    def __init__(self) -> None:
        self.places: list[tuple[str, str]] = []
        self.done: dict[int, tuple[Any, int]] = {}  # by id: the copy, and its nodes
        self.open: set[int] = set()  # containers that we are inside of

    def finish(self, value: Any) -> tuple[Any, list[tuple[str, str]]]:
        return self._copy(value, "", 0)[0], self.places

    def _copy(self, value: Any, place: str, depth: int) -> tuple[Any, int]:
        if isinstance(value, AllowedName):
            value = Refused(value.name)
        if isinstance(value, PendingDtype):
            return value.dtype, 1
        if isinstance(value, PendingArray) and value.array is None:
            value = Refused(value.why)
        if isinstance(value, Refused):
            self.places.append((place, value.name))
            return value, 1
        if isinstance(value, (*SCALARS, bytearray)):
            return value, 1
        key = id(value)
        if key in self.done:
            return self.done[key]
        if key in self.open:
            self.places.append((place, "a value inside itself"))
            return Refused("a value inside itself"), 1
        if depth > _MAX_DEPTH:
            raise MalformedError(f"values lie more than {_MAX_DEPTH} deep in each other")
        self.open.add(key)
        copy, nodes = self._copy_container(value, place, depth + 1)
        self.open.remove(key)
        if nodes > _MAX_NODES:
            raise MalformedError("it repeats its parts too often")
        self.done[key] = copy, nodes
        return copy, nodes

    def _copy_container(self, value: Any, place: str, depth: int) -> tuple[Any, int]:
        if isinstance(value, dict):
            places = [f"{place}[{_label(key)}]" for key in value]
            keys = [self._copy(key, at, depth) for key, at in zip(value, places, strict=True)]
            values = [
                self._copy(item, at, depth) for item, at in zip(value.values(), places, strict=True)
            ]
            copy = {k: v for (k, _), (v, _) in zip(keys, values, strict=True)}
            return copy, 1 + sum(n for _, n in keys) + sum(n for _, n in values)
        if isinstance(value, PendingArray):
            return self._copy_array(value, place, depth)
        copies = [self._copy(v, f"{place}[{i}]", depth) for i, v in enumerate(value)]
        return type(value)(v for v, _ in copies), 1 + sum(n for _, n in copies)

    def _copy_array(self, pending: PendingArray, place: str, depth: int) -> tuple[Any, int]:
        array = pending.array
        assert array is not None
        nodes = 1
        flat = array.reshape(-1).copy()
        for name in array.dtype.names or (None,):
            column = flat if name is None else flat[name]
            if column.dtype == object:
                inside = place if name is None else f"{place}[{name!r}]"
                for i in range(flat.size):
                    column[i], n = self._copy(column[i], f"{inside}[{i}]", depth)
                    nodes += n
        return (pending.ordered(flat.reshape(array.shape)) if nodes > 1 else array), nodes


def _label(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= 60 else f"{text[:59]}…"
