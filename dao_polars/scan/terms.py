"""Conditions on terms of an ontology, in the filters that reach a store.

Owns how such a condition is known again, and what is said where a column has no term of that
ontology at all: most likely it is not the column that was meant. Looks at types and categories,
reads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import polars as pl

from .plan import split

_MARK = re.compile(r"(is_a\([^\n]*?\)) of ([^\n\"\]]+)")

#: By the name of an ontology, whether a text is one of its ids or labels.
_is_term: dict[str, Callable[[str], bool]] = {}


def marked(
    values: Iterable[str], said: str, ontology: str, is_term: Callable[[str], bool]
) -> pl.Series:
    """The ids and labels of terms, named so that ``foreign_terms`` knows the condition again."""
    _is_term[ontology] = is_term
    return pl.Series(f"is_a({said}) of {ontology}", sorted(values), dtype=pl.String)


def foreign_terms(predicate: pl.Expr, schema: pl.Schema) -> str | None:
    """What to say of a filter by terms of an ontology that its column has none of, or None."""
    if _MARK.search(str(predicate)) is None:
        return None
    conditions = [one for all_of in split(predicate, "&") for one in split(all_of, "|")]
    for condition in conditions:
        mark, names = _MARK.search(str(condition)), set(condition.meta.root_names())
        is_term = None if mark is None else _is_term.get(mark[2])
        if mark is None or is_term is None or len(names) != 1:
            continue
        name = names.pop()
        if _may_hold(schema[name], is_term):
            continue
        fits = [
            repr(other)
            for other, dtype in schema.items()
            if isinstance(dtype, pl.Enum) and _may_hold(dtype, is_term)
        ]
        way_out = f"; columns that have some: {', '.join(fits)}" if fits else ""
        return f"{mark[1]}: column {name!r} holds no term of {mark[2]}{way_out}"
    return None


def _may_hold(dtype: pl.DataType, is_term: Callable[[str], bool]) -> bool:
    """Whether a column can have a value that is a term, as far as its type says."""
    if isinstance(dtype, pl.Enum):
        return any(map(is_term, dtype.categories))
    return isinstance(dtype, pl.String | pl.Categorical)
