"""Ontologies by name, and the condition on a column that follows from their terms.

Owns the reading of ontologies, the list of those that were loaded, and which of them a term is
looked up in. Knows no stores and no files of theirs: ``is_a`` gives a plain membership test, like
any that a user writes.
"""

from __future__ import annotations

import functools
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from .._args import listed, texts
from .._extras import require
from ..errors import (
    DaoFileNotFoundError,
    DaoImportError,
    DaoIOError,
    DaoKeyError,
    DaoTypeError,
    DaoValueError,
)
from ..scan.terms import marked
from .terms import TERM_ID, Ontology, Term, unknown_term

_EXACT = re.compile(r'"((?:[^"\\]|\\.)*)"\s+EXACT')
_GUIDE = "cellxgene_ontology_guide.supported_versions"

_loaded: dict[str, Ontology] = {}


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
    _loaded[ontology.name] = ontology
    return ontology


def is_a(
    expr: pl.Expr,
    term: str | Iterable[str],
    *,
    excluded: str | Iterable[str] = (),
    ontology: Ontology | str | os.PathLike[str] | None = None,
) -> pl.Expr:
    """Whether a column's term is one of an ontology's, or a kind of it.

    ``pl.col("cell_type").dao.is_a("T cell")`` and
    ``pl.col("cell_type_ontology_term_id").dao.is_a("T cell")`` both work.

    Args:
        expr: the column before ``.dao``: of ids or labels, as texts or categories.
        term: ids or labels; their descendants count too.
        excluded: ids or labels that do not count, nor their descendants.
        ontology: as ``dao.load_ontology`` gives it or takes it (a file is read anew
            each time, and not remembered); or the name of a loaded one. None: the loaded one that
            knows the term, else that of the id's prefix (of labels: CL), from the package
            ``cellxgene-ontology-guide``.

    Returns:
        Boolean: a test for membership in the ids and labels of these terms, pushed down to the
        store, where datasets without them are not read. Null where the column is. A filter of a
        scan by a column that holds no term of the ontology at all is told in a UserWarning.

    Raises:
        DaoKeyError: an unknown or obsolete term; names the nearest labels.
        DaoValueError: a label that several loaded ontologies have, or that is twice in one.
        DaoTypeError: an argument of the wrong type.
        DaoImportError: no ontology was loaded, and the package is not there.
    """
    if not isinstance(expr, pl.Expr):
        raise DaoTypeError(f"{expr!r} is no expression; expected one, such as pl.col('cell_type')")
    if ontology is not None and not isinstance(ontology, Ontology):
        known = _loaded.get(ontology) if isinstance(ontology, str) else None
        ontology = known or _load(ontology, None)
    near: dict[Ontology, None] = {}
    wanted: dict[str, str] = {}
    for each in texts(term, "term", "ids or labels of terms"):
        holder = _holder(each, ()) if ontology is None else ontology
        wanted |= {i: holder.label(i) for i in holder.descendants(each)}
        near[holder] = None
    for each in texts(excluded, "excluded", "ids or labels of terms"):
        holder = _holder(each, near) if ontology is None else ontology
        for i in holder.descendants(each):
            wanted.pop(i, None)
    said, of = ", ".join(map(repr, listed(term))), ", ".join(holder.name for holder in near)
    values = marked(
        {*wanted, *wanted.values()}, said, of, lambda text: any(text in one for one in near)
    )
    # A cast that may fail would keep polars from pushing it down beside another condition.
    return expr.cast(pl.String, strict=False).is_in(values.implode())


def _holder(term: str, near: Iterable[Ontology]) -> Ontology:
    """The ontology to look a term up in; labels are tried in those ``near`` first."""
    if match := TERM_ID.fullmatch(term):
        named = _loaded.get(match[1]) or _from_guide_if_any(match[1])
        if named is not None:
            return named
    loaded = list(_loaded.values())
    for pool in (near, loaded):
        holders = [o for o in pool if term in o] or [o for o in pool if o._find(term)]
        if len(holders) > 1:
            shown = ", ".join(f"{o.name} ({', '.join(o._find(term))})" for o in holders)
            raise DaoValueError(
                f"{term!r} is in several of the loaded ontologies: {shown}. Name an id, or one of "
                f"them: ontology={holders[0].name!r}."
            )
        if holders:
            return holders[0]
    if "CL" not in _loaded and (cells := _from_guide_if_any("CL")) is not None:
        if cells._find(term):
            return cells
        loaded.append(cells)
    hint = ' For a term of another ontology call load_ontology("UBERON") or the like first.'
    raise unknown_term(term, loaded, hint)


def _load(source: str | os.PathLike[str], name: str | None) -> Ontology:
    if isinstance(source, str) and not re.search(r"[./\\]", source):
        return _from_guide(source, name)
    if not isinstance(source, (str, os.PathLike)):
        raise DaoTypeError(f"{source!r} is no ontology; expected a path, or a name such as 'CL'")
    return _from_obo(Path(source), name)


def _from_obo(path: Path, name: str | None) -> Ontology:
    obonet = require("obonet", "reading an OBO file")
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
        i: Term(
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
            terms.setdefault(merged, Term("", obsolete=True, replaced_by=into))
    prefixes = Counter(m[1] for i, t in terms.items() if not t.obsolete and (m := TERM_ID.match(i)))
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
    schema = require(_GUIDE, "an ontology by its short name").CXGSchema()
    short = schema.imported_ontologies.get(short, short)  # ZFS is in ZFA
    info = schema.supported_ontologies
    if short not in info:
        raise DaoKeyError(
            f"{short!r}: no ontology of that name; there are {', '.join(sorted(info))}. Any other "
            "is loaded by the path of its OBO file."
        )
    terms = {
        i: Term(
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
    except (DaoKeyError, DaoImportError) as error:
        if isinstance(error, DaoKeyError) or _loaded:
            return None
        raise
