"""The feature spaces of a store's datasets, as requests for genes are matched against them.

Owns which datasets share one and the reading of its names. Resolving requests is
[`genes`][dao_polars.genes]'s.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from .._core import Dataset
from ..errors import DaoKeyError
from ..store.store import Store
from .request import FeatureSpace

__all__ = ["by_space", "space_of"]


def by_space(
    store: Store, datasets: Iterable[Dataset], gene_key: str | None
) -> list[list[Dataset]]:
    """Datasets by feature space; each on its own where another column of var is matched."""
    found: dict[str, list[Dataset]] = {}
    for dataset in datasets:
        space = store._tables.feature_space(dataset) if gene_key is None else dataset.name
        found.setdefault(space, []).append(dataset)
    return list(found.values())


def space_of(store: Store, members: list[Dataset], gene_key: str | None) -> FeatureSpace:
    """The feature space of datasets that share one, by the names in a column of var.

    Raises:
        DaoKeyError: ``gene_key`` is no column of var.
    """
    ids = tuple(dataset.name for dataset in members)
    column = "var_name" if gene_key is None else gene_key
    if not store._core.has_sfaira_tables:
        # As text it is read without polars, on any thread.
        names = store._core.var_text(ids[0], column)
        if names is not None:
            return FeatureSpace(ids, pl.Series("var_name", names, dtype=pl.String))
    var = store.var(ids[0])
    if column not in var.columns:
        raise DaoKeyError(
            f"gene_key={gene_key!r} is no column of var in dataset {ids[0]!r}; "
            f"its columns: {', '.join(map(repr, var.columns))}"
        )
    return FeatureSpace(ids, var[column].cast(pl.String).alias("var_name"))
