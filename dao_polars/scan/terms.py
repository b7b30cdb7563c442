"""Conditions on terms of an ontology, in the filters that reach a store.

Owns how such a condition is known again, and what is said where a column has none of its terms:
most likely it is not the column that was meant. Looks at types and categories, reads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import polars as pl

from .plan import evaluate, split

_MARK = re.compile(r"is_a\([^\n]*?\) of [^\n\"\]]+")


def marked(values: Iterable[str], said: str, ontology: str) -> pl.Series:
    """The ids and labels of terms, named so that ``foreign_terms`` knows the condition again."""
    return pl.Series(f"is_a({said}) of {ontology}", sorted(values), dtype=pl.String)


def foreign_terms(predicate: pl.Expr, schema: pl.Schema) -> str | None:
    """What to say of a filter by terms that its column has none of; None where all is well."""
    if _MARK.search(str(predicate)) is None:
        return None
    conditions = [one for all_of in split(predicate, "&") for one in split(all_of, "|")]
    for condition in conditions:
        mark, names = _MARK.search(str(condition)), set(condition.meta.root_names())
        if mark is None or len(names) != 1:
            continue
        name = names.pop()
        if not _tells_nothing(condition, name, schema[name]):
            continue
        fits = [
            repr(other)
            for other, dtype in schema.items()
            if isinstance(dtype, pl.Enum) and not _tells_nothing(condition, name, dtype)
        ]
        way_out = f"; columns that have some: {', '.join(fits)}" if fits else ""
        return f"{mark[0]}: no value of column {name!r} is one of these terms{way_out}"
    return None


def _tells_nothing(condition: pl.Expr, name: str, dtype: pl.DataType) -> bool:
    """Whether a condition is the same for all values that a column can have, as far as is known."""
    if not isinstance(dtype, pl.Enum):
        return not isinstance(dtype, pl.String | pl.Categorical)
    values = evaluate(condition, pl.DataFrame({name: dtype.categories.cast(dtype)}))
    return values is not None and values.n_unique() <= 1
