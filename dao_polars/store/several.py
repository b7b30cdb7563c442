"""Several stores that are read as one: which these are, and their tables together.

Owns what a user may say of several, and the tables of all of them: each store's own tables, with
the numbers that the parts have together, and the column ``store``. Opens no store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar, cast

import polars as pl

from .. import _core
from ..errors import DaoTypeError, DaoValueError
from ..scan.columns import STORE, FileColumn, ScannedPart, free_name

if TYPE_CHECKING:
    from .store import Store

V = TypeVar("V")

#: The path or URL of a store.
Place = str | os.PathLike[str]


def listed(uri: Place | Iterable[Place]) -> list[Place] | None:
    """The places of several stores; None for one, or what is none.

    Raises:
        DaoTypeError, DaoValueError: a set, which has no order; no places; lists within the list.
    """
    if isinstance(uri, (str, bytes, os.PathLike, Mapping)) or not isinstance(uri, Iterable):
        return None
    if isinstance(uri, AbstractSet):
        raise DaoTypeError("uri=: expected the stores in an order, as a list; found a set")
    places = list(uri)
    if not places:
        raise DaoValueError("uri=[]: expected one store or more")
    for place in places:
        if not isinstance(place, (str, os.PathLike)):
            nested = isinstance(place, Iterable) and not isinstance(place, bytes)
            hint = "; write the stores in one flat list" if nested else ""
            raise DaoTypeError(
                f"uri=: expected a list of paths or URLs, found a {type(place).__name__} in "
                f"it{hint}"
            )
    return places


def each_version(version: Any, n_stores: int) -> list[int | None]:
    """The version of each of several stores that a setting asks for.

    Raises:
        DaoTypeError, DaoValueError: it is no list of so many.
    """
    if version is None:
        return [None] * n_stores
    expected = "expected a list with one for each store, in their order; None in it is the last one"
    if isinstance(version, (str, bytes, Mapping, AbstractSet)) or not isinstance(version, Iterable):
        if n_stores == 1:
            return [cast("int | None", version)]
        raise DaoTypeError(f"version={version!r} for {n_stores} stores; {expected}")
    versions = list(version)
    if len(versions) != n_stores:
        raise DaoValueError(
            f"version= has {len(versions)} for {n_stores} store{'s'[: n_stores > 1]}; {expected}"
        )
    return versions


def of_each(stores: Sequence[Store], table: Callable[[Store], pl.DataFrame]) -> pl.DataFrame:
    """A table of each store, one after the other, with the store after the first column."""
    uris = pl.Enum([store.uri for store in stores])
    found = []
    for store in stores:
        first, *others = table(store).get_columns()
        uri = pl.Series(STORE, [store.uri], dtype=uris).new_from_index(0, len(first))
        found.append(pl.DataFrame([first, uri, *others]))
    return pl.concat(found)


class JoinedTables:
    """The tables of the datasets of several stores, as those of one store are."""

    def __init__(self, core: _core.Store, stores: Sequence[Store]) -> None:
        self._core, self._stores = core, stores

    @cached_property
    def _own(self) -> dict[int, _core.Part]:
        """Each part as its own store numbers it, by the number that it has here."""
        own = chain.from_iterable(store._core.parts for store in self._stores)
        return {part.number: alone for part, alone in zip(self._core.parts, own, strict=True)}

    @cached_property
    def _scanned(self) -> list[ScannedPart]:
        """The parts as a scan of each store alone sees them."""
        return [part for store in self._stores for part in store._tables.parts()]

    @cached_property
    def _freed(self) -> str:
        """What a column of a store's own is called whose name is ``store``: no store has that."""
        tables = {id(part.columns): part.columns for part in self._scanned}.values()
        wide = (part.constants for part in self._scanned)
        return free_name(STORE, {STORE}.union(*tables, *wide))

    def _renamed(self, of_columns: Mapping[str, V]) -> Mapping[str, V]:
        """What is known of columns by their names when one is called ``store``."""
        if STORE not in of_columns:
            return of_columns
        return {self._freed if n == STORE else n: known for n, known in of_columns.items()}

    def parts(self) -> list[ScannedPart]:
        """The parts of datasets as a scan sees them, in the order of the frame's rows."""
        tables: dict[int, Mapping[str, FileColumn]] = {}
        found = []
        for part, alone in zip(self._core.parts, self._scanned, strict=True):
            key = id(alone.columns)  # equal columns stay one object
            if key not in tables:
                tables[key] = self._renamed(alone.columns)
            constants = {STORE: self._stores[part.store].uri, **self._renamed(alone.constants)}
            here = replace(alone, number=part.number, store=part.store)
            found.append(replace(here, columns=tables[key], constants=constants))
        return found

    def categories(self) -> Mapping[str, Sequence[str] | None]:
        """The sorted union of the values of each text column of obs; None: too many."""
        each = [self._renamed(store._tables.categories()) for store in self._stores]
        found: dict[str, Sequence[str] | None] = {}
        for name in dict.fromkeys(chain.from_iterable(each)):
            values = [categories[name] for categories in each if name in categories]
            known = [v for v in values if v is not None]
            alike = len(known) == len(values)
            found[name] = sorted(set[str]().union(*known)) if alike else None
        return found

    def organism(self, part: _core.Part) -> str | None:
        """The organism of all cells of a dataset, where it is one."""
        return self._stores[part.store]._tables.organism(self._own[part.number])

    def var_name(self, part: _core.Part) -> str:
        """The file of a part's var, relative to the part."""
        return self._stores[part.store]._tables.var_name(self._own[part.number])

    def uns_name(self, part: _core.Part) -> str:
        """The file of a part's uns, relative to the part."""
        return self._stores[part.store]._tables.uns_name(self._own[part.number])

    def check_obs(self, part: _core.Part) -> None:
        """Raises a DaoError where a dataset's obs is damaged; reads every column."""
        self._stores[part.store]._tables.check_obs(self._own[part.number])

    def var(self, part: _core.Part) -> pl.DataFrame:
        """A dataset's genes: ``var_name`` first, text, then the columns of var."""
        return self._stores[part.store]._tables.var(self._own[part.number])

    def uns(self, part: _core.Part) -> tuple[dict[Any, Any], list[str]]:
        """A dataset's uns, and what was refused in its pickle."""
        return self._stores[part.store]._tables.uns(self._own[part.number])
