"""Ontologies: which terms are kinds of which, and the condition on a column that follows.

Owns the reading of ontologies, the look-up of terms, and the closure over ``is_a``. Knows no
stores and no files of theirs: ``is_a`` gives a plain membership test, like any that a user writes.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from .._extras import need
from ..errors import (
    DaoFileNotFoundError,
    DaoImportError,
    DaoIOError,
    DaoKeyError,
    DaoTypeError,
    DaoValueError,
)

__all__ = ["Ontology", "is_a", "load_ontology"]

_ID = re.compile(r"([A-Za-z]+)[:_]\w*\d\w*")  # CL:0000084, and CVCL_0001
_EXACT = re.compile(r'"((?:[^"\\]|\\.)*)"\s+EXACT')
_MAX_COMPARED = 250_000  # names that an error message looks among for the nearest: some seconds
_GUIDE = "cellxgene_ontology_guide.supported_versions"

_registered: dict[str, Ontology] = {}


class _Term(NamedTuple):
    """``parents`` may go further up than one step. ``label`` is empty where a term has none."""

    label: str
    parents: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    obsolete: bool = False
    replaced_by: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Ontology:
    """Terms, and which are kinds of which.

    ``load_ontology`` makes one. Wherever a term is asked for, its id or its label will do:
    exactly, else a label in other case, else an exact synonym that only one term has.
    Obsolete terms are no terms: not counted, never found, in nobody's descendants.
    """

    name: str
    version: str | None
    _all: Mapping[str, _Term] = field(repr=False)

    def __repr__(self) -> str:
        return f"Ontology({self._title}, {len(self):,} terms)"

    def __len__(self) -> int:
        return len(self._terms)

    def __contains__(self, term: object) -> bool:
        """Whether it is exactly the id or the label of a term."""
        return isinstance(term, str) and (term in self._terms or term in self._labels)

    def label(self, term: str) -> str:
        """The label of a term; its id if it has none.

        Raises:
            DaoKeyError, DaoValueError, DaoTypeError: as ``id`` does.
        """
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
            raise _unknown(term, [self])
        if len(ids) > 1:
            shown = ", ".join(self._show(i) for i in ids[:5])
            raise DaoValueError(f"{term!r} is ambiguous in {self._title}: {shown}. Name an id.")
        return ids[0]

    def descendants(self, term: str, *, excluded: str | Iterable[str] = ()) -> list[str]:
        """Ids of a term and of all its kinds, sorted.

        Args:
            term: an id or a label.
            excluded: terms to leave out, each with all its kinds.

        Raises:
            DaoKeyError, DaoValueError, DaoTypeError: as ``id`` does.
        """
        found = _closure(self.id(term), self._children)
        for out in _texts(excluded, "excluded"):
            found -= _closure(self.id(out), self._children)
        return sorted(found)

    def ancestors(self, term: str) -> list[str]:
        """Ids of a term and of all that it is a kind of, sorted.

        Raises:
            DaoKeyError, DaoValueError, DaoTypeError: as ``id`` does.
        """
        return sorted(_closure(self.id(term), self._parents))

    @property
    def _title(self) -> str:
        return f"{self.name} {self.version}" if self.version else self.name

    def _show(self, term: str) -> str:
        found = self._all.get(term)
        return f"{term!r} ({found.label})" if found and found.label else repr(term)

    def _find(self, term: str) -> Sequence[str]:
        """Ids of the terms that it may mean, by the most exact way that gives any."""
        if term in self._terms:
            return [term]
        folded = term.casefold()
        found = self._labels.get(term) or self._folded.get(folded) or self._synonyms.get(folded)
        return found or ()

    @cached_property
    def _terms(self) -> dict[str, _Term]:
        return {i: term for i, term in self._all.items() if not term.obsolete}

    @cached_property
    def _labels(self) -> dict[str, list[str]]:
        return _inverted((i, [term.label] if term.label else []) for i, term in self._terms.items())

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        return _inverted(
            (i, [label.casefold()]) for label, ids in self._labels.items() for i in ids
        )

    @cached_property
    def _synonyms(self) -> dict[str, list[str]]:
        return _inverted((i, map(str.casefold, t.synonyms)) for i, t in self._terms.items())

    @cached_property
    def _parents(self) -> dict[str, list[str]]:
        return {i: [p for p in t.parents if p in self._terms] for i, t in self._terms.items()}

    @cached_property
    def _children(self) -> dict[str, list[str]]:
        return _inverted(self._parents.items())


def load_ontology(source: str | os.PathLike[str], *, name: str | None = None) -> Ontology:
    """Reads an ontology, and remembers it under its name for ``is_a``.

    Args:
        source: the path of an OBO file (``.obo``, ``.obo.gz``), of which the ``is_a`` lines count;
            or the short name of an ontology that comes with the package
            cellxgene-ontology-guide, such as ``"CL"``, ``"UBERON"``, ``"MONDO"``, ``"HsapDv"``
            (most take less than a second; ``"NCBITaxon"`` half a minute and 3 GB).
            A text with a dot or a slash in it is a path.
        name: to remember it under, in place of one of that name before. By default the prefix
            of its terms' ids: the one that the file's head names, else the commonest.

    Returns:
        The ontology.

    Raises:
        DaoFileNotFoundError: no file is there.
        DaoIOError: it cannot be read.
        DaoValueError: it is no OBO file, or has no terms.
        DaoKeyError: no ontology has that short name; the message lists those there are.
        DaoTypeError: an argument is no text.
        DaoImportError: the extra ``ontology`` is not installed.
    """
    if name is not None and not isinstance(name, str):
        raise DaoTypeError(f"name={name!r}; expected a text")
    ontology = _load(source, name)
    _registered[ontology.name] = ontology
    return ontology


def is_a(
    expr: pl.Expr,
    term: str | Iterable[str],
    *,
    excluded: str | Iterable[str] = (),
    ontology: Ontology | str | os.PathLike[str] | None = None,
) -> pl.Expr:
    """Whether a column's values are a term of an ontology, or a kind of it.

    A value may be an id or a label: ``is_a(pl.col("cell_type"), "T cell")`` and
    ``is_a(pl.col("cell_type_ontology_term_id"), "T cell")`` both work.

    Args:
        expr: of texts or categories.
        term: one or several, each an id or a label; a value that is any of them will do.
        excluded: terms to leave out, each with all its kinds.
        ontology: to look all of them up in; or the name of a loaded one, or what
            ``load_ontology`` takes (a file is read anew each time, and not remembered).
            By default, for an id the ontology that its prefix names, loaded if need be; for a
            label the loaded ones, then ``"CL"``.

    Returns:
        Boolean; null where the value is null.

    Raises:
        DaoKeyError: a term is in no ontology, or is obsolete; the message lists the nearest.
        DaoValueError: a label is in several of the ontologies, or twice in one.
        DaoTypeError: an argument has the wrong type.
        DaoImportError: the extra ``ontology`` is not installed.
    """
    if not isinstance(expr, pl.Expr):
        raise DaoTypeError(f"{expr!r} is no expression; expected one, such as pl.col('cell_type')")
    given: list[Ontology] = []
    if isinstance(ontology, Ontology):
        given = [ontology]
    elif ontology is not None:
        known = _registered.get(ontology) if isinstance(ontology, str) else None
        given = [known or _load(ontology, None)]
    near: list[Ontology] = []
    wanted: dict[str, str] = {}
    for each in _texts(term, "term"):
        holder = given[0] if given else _holder(each, ())
        wanted |= {i: holder.label(i) for i in holder.descendants(each)}
        near.append(holder)
    for each in _texts(excluded, "excluded"):
        holder = given[0] if given else _holder(each, near)
        for i in holder.descendants(each):
            wanted.pop(i, None)
    values = pl.Series(sorted({*wanted, *wanted.values()}), dtype=pl.String)
    return expr.cast(pl.String).is_in(values.implode())


def _holder(term: str, near: Sequence[Ontology]) -> Ontology:
    """The ontology to look a term up in; labels are tried in those ``near`` first."""
    match = _ID.fullmatch(term)
    if match:
        named = _registered.get(match[1]) or _from_guide_if_any(match[1])
        if named is not None:
            return named
    loaded = list(_registered.values())
    for pool in (list(dict.fromkeys(near)), loaded):
        holders = [o for o in pool if term in o] or [o for o in pool if o._find(term)]
        if len(holders) > 1:
            shown = ", ".join(f"{o.name} ({', '.join(o._find(term))})" for o in holders)
            raise DaoValueError(
                f"{term!r} is in several of the loaded ontologies: {shown}. Name an id, or one of "
                f"them: ontology={holders[0].name!r}."
            )
        if holders:
            return holders[0]
    if "CL" not in _registered and (cells := _from_guide_if_any("CL")) is not None:
        if cells._find(term):
            return cells
        loaded.append(cells)
    hint = ' For a term of another ontology call load_ontology("UBERON") or the like first.'
    raise _unknown(term, loaded, hint)


def _load(source: str | os.PathLike[str], name: str | None) -> Ontology:
    if isinstance(source, str) and not re.search(r"[./\\]", source):
        return _from_guide(source, name)
    if not isinstance(source, (str, os.PathLike)):
        raise DaoTypeError(f"{source!r} is no ontology; expected a path, or a name such as 'CL'")
    return _from_obo(Path(source), name)


def _from_obo(path: Path, name: str | None) -> Ontology:
    obonet = need("obonet", "reading an OBO file")
    if not path.is_file():
        raise DaoFileNotFoundError(f"{path}: no such file; expected an OBO file")
    try:
        graph = obonet.read_obo(str(path), ignore_obsolete=False)
    except (ValueError, LookupError, EOFError, zlib.error) as error:
        raise DaoValueError(f"{path}: not an OBO file ({error})") from error
    except OSError as error:
        raise DaoIOError(f"{path}: cannot be read ({error})") from error
    parents: dict[str, list[str]] = {}
    for child, parent, kind in graph.edges(keys=True):
        if kind == "is_a":
            parents.setdefault(child, []).append(parent)
            parents.setdefault(parent, [])
    # A node without data is but the target of a relationship, unless it is in ``parents``.
    nodes: dict[str, dict[str, Any]] = {i: d for i, d in graph.nodes.items() if d or i in parents}
    terms = {
        i: _Term(
            _plain(data.get("name", "")),
            tuple(parents.get(i, ())),
            tuple(_plain(m[1]) for s in data.get("synonym", ()) if (m := _EXACT.match(s))),
            data.get("is_obsolete") == "true",
            (*data.get("replaced_by", ()), *data.get("consider", ())),
        )
        for i, data in nodes.items()
    }
    for i, data in nodes.items():
        for merged in data.get("alt_id", ()):
            into = terms[i].replaced_by if terms[i].obsolete else (i,)
            terms.setdefault(merged, _Term("", obsolete=True, replaced_by=into))
    prefixes = Counter(m[1] for i, t in terms.items() if not t.obsolete and (m := _ID.match(i)))
    if all(term.obsolete for term in terms.values()):
        raise DaoValueError(f"{path}: no terms in it; expected an OBO file")
    if name is None:  # imported terms may outnumber its own
        own = str(graph.graph.get("ontology")).split("/")[0].casefold()
        ranked = sorted(prefixes, key=lambda p: (p.casefold() != own, -prefixes[p]))
        name = next(iter(ranked), path.name.split(".")[0])
    return Ontology(name, graph.graph.get("data-version"), terms)


def _plain(text: str) -> str:
    """A text of an OBO file without its escapes."""
    return re.sub(r"\\(.)", r"\1", text)


@functools.cache
def _from_guide(short: str, name: str | None) -> Ontology:
    schema = need(_GUIDE, "an ontology by its short name").CXGSchema()
    short = schema.imported_ontologies.get(short, short)  # ZFS is in ZFA
    info = schema.supported_ontologies
    if short not in info:
        raise DaoKeyError(
            f"{short!r}: no ontology of that name; there are {', '.join(sorted(info))}. Any other "
            "is loaded by the path of its OBO file."
        )
    terms = {
        i: _Term(
            term.get("label") or "",
            tuple(term["ancestors"]),  # all of them: terms in between may be left out
            tuple(term.get("synonyms", ())),
            bool(term.get("deprecated")),
            tuple(filter(None, [term.get("replaced_by"), *term.get("consider", ())])),
        )
        for i, term in schema.ontology(short).items()
    }
    return Ontology(short if name is None else name, info[short]["version"], terms)


def _from_guide_if_any(short: str) -> Ontology | None:
    try:
        return _from_guide(short, None)
    except DaoKeyError:
        return None
    except DaoImportError:
        if _registered:
            return None
        raise


def _unknown(term: str, ontologies: Sequence[Ontology], hint: str = "") -> DaoKeyError:
    for ontology in ontologies:
        for i, found in ontology._all.items():
            if found.obsolete and term and term in (i, found.label):
                by = " or ".join(ontology._show(other) for other in found.replaced_by)
                instead = f"use {by} instead" if by else "no replacement is known"
                return DaoKeyError(
                    f"{ontology._show(i)} is obsolete in {ontology._title}: {instead}."
                )
    like_id = _ID.fullmatch(term) is not None
    near: list[str] = []
    for ontology in ontologies:
        words: Mapping[str, list[str]] = ontology._folded
        if like_id:
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
    """For each of the values, the keys that have it, once each."""
    found: dict[str, list[str]] = {}
    for key, values in pairs:
        for value in set(values):
            found.setdefault(value, []).append(key)
    return found


def _texts(value: str | Iterable[str], what: str) -> list[str]:
    values = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    for each in values:
        if not isinstance(each, str):
            raise DaoTypeError(f"{what}= holds {each!r}; expected ids or labels of terms (str)")
    return values
