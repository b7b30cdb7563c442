"""The feature spaces of a store's datasets, as requests for genes are matched against them.

Owns which datasets share one and the reading of its names. Resolving requests is
[`genes`][dao_polars.genes]'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from .errors import DaoKeyError
from .genes import FeatureSpace
from .store import Store

__all__ = ["Entry", "by_space", "space_of"]

#: A dataset as the manifest has it.
Entry = Mapping[str, Any]


def by_space(entries: Iterable[Entry], gene_key: str | None) -> list[list[Entry]]:
    """Datasets by feature space; each on its own where another column of var is matched."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry["var_id"] if gene_key is None else entry["id"], []).append(entry)
    return list(found.values())


def space_of(store: Store, members: list[Entry], gene_key: str | None) -> FeatureSpace:
    """The feature space of datasets that share one, by the names in a column of var.

    Raises:
        DaoKeyError: ``gene_key`` is no column of var.
    """
    ids = tuple(entry["id"] for entry in members)
    column = "var_name" if gene_key is None else gene_key
    if not store.core.legacy:
        # As text it is read without polars, on any thread.
        names = store.core.var_text(ids[0], column)
        if names is not None:
            return FeatureSpace(ids, pl.Series("var_name", names, dtype=pl.String))
    var = store.var(ids[0])
    if column not in var.columns:
        raise DaoKeyError(
            f"gene_key={gene_key!r} is no column of var in dataset {ids[0]!r}; "
            f"its columns: {', '.join(map(repr, var.columns))}"
        )
    return FeatureSpace(ids, var[column].cast(pl.String).alias("var_name"))
