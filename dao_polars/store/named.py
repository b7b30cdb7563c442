"""Which parts are meant: those of a dataset by its name, and one whose genes all datasets have.

Owns the errors that say which names and genes there are. Reads at most what the genes are.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from ..errors import DaoKeyError, DaoValueError

if TYPE_CHECKING:
    from .._core import Part
    from .store import Store


def parts_of(store: Store, name: str) -> list[Part]:
    """The parts of a dataset.

    Raises:
        DaoKeyError: there is none of this name.
        DaoValueError: several stores that were opened as one have each one.
    """
    by_address = store._by_dataset
    if name in by_address:
        return by_address[name]
    found = [address for address, parts in by_address.items() if parts[0].name == name]
    if len(found) == 1:
        return by_address[found[0]]
    if found:
        raise DaoValueError(
            f"dataset {name!r} is in {len(found)} of the stores; say which is meant: "
            f"{', '.join(map(repr, found[:5]))}{', …' if len(found) > 5 else ''}"
        )
    names = list(dict.fromkeys(parts[0].name for parts in by_address.values()))
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4) or names[:3]
    named = ", ".join(map(repr, near)) or "none, the store is empty"
    raise DaoKeyError(
        f"store {store.uri!r} has no dataset {name!r}; the nearest: {named}. "
        "store.datasets lists them all"
    )


def common_part(store: Store) -> Part:
    """The first part, where all datasets have the same genes in one order.

    Raises:
        DaoValueError: they have not, or there is none.
    """
    spaces: dict[str, list[Part]] = {}
    for parts in store._by_dataset.values():
        spaces.setdefault(store._core.feature_space(parts[0].number), []).append(parts[0])
    if len(spaces) == 1:
        return store._core.parts[0]
    if not spaces:
        raise DaoValueError(f"store {store.uri!r} has no datasets, and so no genes")
    listed = "; ".join(
        f"{len(members)} dataset(s) with {members[0].n_vars} genes, such as {members[0].address!r}"
        for members in list(spaces.values())[:5]
    )
    raise DaoValueError(
        f"the datasets of store {store.uri!r} have {len(spaces)} feature spaces: {listed}"
        f"{'; …' if len(spaces) > 5 else ''}. Name a dataset: store.var(dataset); or, where "
        "cells are read, give genes= a list of names, 'intersection' or 'union'"
    )
