"""The terms of an ontology: finding one by id, label or synonym, and the closure over ``is_a``.

Owns ``Ontology`` and the errors for terms that it lacks. Knows neither where ontologies are
read from nor polars.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from .._args import texts
from ..errors import DaoKeyError, DaoTypeError, DaoValueError

#: Such as CL:0000084 and CVCL_0001; the first group is the prefix.
TERM_ID = re.compile(r"([A-Za-z]+)[:_]\w*\d\w*")
_MAX_COMPARED = 250_000  # names that an error message looks among for the nearest: some seconds


class Term(NamedTuple):
    """A term as its ontology describes it.

    ``parents`` may go further up than one step. ``label`` is empty where a term has none.
    """

    label: str
    parents: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    obsolete: bool = False
    replaced_by: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Ontology:
    """The terms of an ontology, and which are kinds of which.

    ``load_ontology`` makes one. Wherever a term is asked for, its id or its label will do:
    exactly, else a label in other case, else an exact synonym that only one term has; all methods
    raise what ``id`` raises. Obsolete terms are no terms: not counted, never found, in nobody's
    descendants.
    """

    name: str
    version: str | None
    _all: Mapping[str, Term] = field(repr=False)

    def __repr__(self) -> str:
        return f"Ontology({self._title}, {len(self):,} terms)"

    def __len__(self) -> int:
        return len(self._terms)

    def __contains__(self, term: object) -> bool:
        """Whether it is exactly the id or the label of a term."""
        return isinstance(term, str) and (term in self._terms or term in self._labels)

    def label(self, term: str) -> str:
        """The label of a term; its id if it has none."""
        found = self.id(term)
        return self._terms[found].label or found

    def id(self, term: str) -> str:
        """The id of a term.

        Raises:
            DaoKeyError: there is none, or it is obsolete; the message lists the nearest, or
                what replaces it.
            DaoValueError: several terms have that label or synonym.
            DaoTypeError: ``term`` is no text.
        """
        if not isinstance(term, str):
            raise DaoTypeError(f"{term!r} is no term of an ontology; expected an id or a label")
        ids = self._find(term)
        if not ids:
            raise unknown_term(term, [self])
        if len(ids) > 1:
            shown = ", ".join(self._show(i) for i in ids[:5])
            raise DaoValueError(f"{term!r} is ambiguous in {self._title}: {shown}. Name an id.")
        return ids[0]

    def descendants(self, term: str, *, excluded: str | Iterable[str] = ()) -> list[str]:
        """The ids of a term and of all its kinds, sorted.

        Args:
            term: an id or a label.
            excluded: terms to leave out, each with all its kinds.
        """
        found = _closure(self.id(term), self._children)
        for out in texts(excluded, "excluded", "ids or labels of terms"):
            found -= _closure(self.id(out), self._children)
        return sorted(found)

    def ancestors(self, term: str) -> list[str]:
        """The ids of a term and of all that it is a kind of, sorted."""
        return sorted(_closure(self.id(term), self._parents))

    @property
    def _title(self) -> str:
        return f"{self.name} {self.version}" if self.version else self.name

    def _show(self, term: str) -> str:
        found = self._all.get(term)
        return f"{term!r} ({found.label})" if found and found.label else repr(term)

    def _find(self, term: str) -> Sequence[str]:
        """The ids of the terms that a text may mean, by the most exact way that gives any."""
        if term in self._terms:
            return [term]
        folded = term.casefold()
        found = self._labels.get(term) or self._folded.get(folded) or self._synonyms.get(folded)
        return found or ()

    @cached_property
    def _terms(self) -> dict[str, Term]:
        return {i: term for i, term in self._all.items() if not term.obsolete}

    @cached_property
    def _labels(self) -> dict[str, list[str]]:
        return _inverted((i, [t.label]) for i, t in self._terms.items() if t.label)

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        return _inverted((i, [t.label.casefold()]) for i, t in self._terms.items() if t.label)

    @cached_property
    def _synonyms(self) -> dict[str, list[str]]:
        return _inverted((i, map(str.casefold, t.synonyms)) for i, t in self._terms.items())

    @cached_property
    def _parents(self) -> dict[str, list[str]]:
        return {i: [p for p in t.parents if p in self._terms] for i, t in self._terms.items()}

    @cached_property
    def _children(self) -> dict[str, list[str]]:
        return _inverted(self._parents.items())


def unknown_term(term: str, ontologies: Sequence[Ontology], hint: str = "") -> DaoKeyError:
    """The error for a term that no ontology has: what replaces it, or the nearest there are."""
    for ontology in ontologies:
        for i, found in ontology._all.items():
            if found.obsolete and term and term in (i, found.label):
                by = " or ".join(ontology._show(other) for other in found.replaced_by)
                why = f"use {by} instead" if by else "no replacement is known"
                return DaoKeyError(f"{ontology._show(i)} is obsolete in {ontology._title}: {why}.")
    near: list[str] = []
    for ontology in ontologies:
        words = ontology._folded
        if TERM_ID.fullmatch(term):
            words = {i.casefold(): [i] for i in ontology._terms}
        if len(words) <= _MAX_COMPARED:
            for word in difflib.get_close_matches(term.casefold(), words, n=3):
                near += [ontology._show(i) for i in words[word]]
    nearest = f" Nearest: {', '.join(near[:6])}." if near else ""
    titles = ", ".join(ontology._title for ontology in ontologies) or "any ontology"
    return DaoKeyError(f"{term!r} is no term of {titles}.{nearest}{hint}")


def _closure(start: str, edges: Mapping[str, Iterable[str]]) -> set[str]:
    seen, pending = {start}, [start]
    while pending:
        for other in edges.get(pending.pop(), ()):
            if other not in seen:
                seen.add(other)
                pending.append(other)
    return seen


def _inverted(pairs: Iterable[tuple[str, Iterable[str]]]) -> dict[str, list[str]]:
    """The keys of each value, once each."""
    found: dict[str, list[str]] = {}
    for key, values in pairs:
        for value in set(values):
            found.setdefault(value, []).append(key)
    return found
