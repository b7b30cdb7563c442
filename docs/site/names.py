"""Code spans that are public names become links to where they are documented.

Docstrings are read in terminals, and say names as code, without markup: ``scan``, ``Store.scan``,
``dao.scan``, ``store.scan()``. Within a class's documentation a bare name is that class's. Names
that arguments have too, such as ``genes``, are links only where they are written ``dao.genes``;
other pages say ``sample()`` where they mean the method.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

PACKAGE = "dao_polars"
#: Objects that are called so in code are of these classes.
OBJECTS = {"store": "Store", "lf.dao": "DaoFrame", "batches": "BatchIterable", "edit": "Edit"}

#: Names that are those of columns or of AnnData's parts, or words, too: links where they say whose.
WORDS = {"copy", "frame", "gene", "qc", "var", "uns", "id", "uri", "schema", "version", "datasets"}
WORDS |= {"obs", "x", "cells", "rank", "epoch", "position", "label", "store", "matrices", "n_obs"}

PIECE = re.compile(
    r"<pre.*?</pre>|<a\b.*?</a>|<h[1-6]\b.*?</h[1-6]>|<autoref\b.*?</autoref>"
    r"|<code>(?P<code>[^<]*)</code>",
    re.S,
)
HEADING = re.compile(r'\bid="dao_polars\.(\w+)')
NAME = re.compile(r"(?:(?P<of>[\w.]+)\.)?(?P<name>\w+)(?:\(.*\))?")

members: dict[str, set[str]] = {}  # of each public class
functions: set[str] = set()
arguments: set[str] = set()


def on_config(config: MkDocsConfig) -> None:
    """Reads the public names, without importing anything."""
    root = Path(config.docs_dir).parent
    extensions = griffe.load_extensions(str(root / "docs" / "site" / "exports.py"))
    package = griffe.load(PACKAGE, search_paths=[root], extensions=extensions)
    exports = [str(name) for name in package.exports or []]
    for name in exports:
        found = package[name]
        if found.is_class:
            members[name] = {m for m in found.all_members if not m.startswith("_")}
            for member in members[name]:
                note_arguments(found.all_members[member])
        else:
            functions.add(name)
            note_arguments(found)


def note_arguments(found: griffe.Object | griffe.Alias) -> None:
    """Notes which names are those of arguments."""
    if found.is_function:
        arguments.update(parameter.name for parameter in found.parameters)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links in a page; which of them lead somewhere is for autorefs to find out."""
    within = ""

    def linked(found: re.Match[str]) -> str:
        nonlocal within
        if found["code"] is None:
            if heading := HEADING.search(found[0]):
                within = heading[1]
            return found[0]
        target = identifier(html.unescape(found["code"]), within)
        return (
            f'<autoref optional identifier="{target}">{found[0]}</autoref>' if target else found[0]
        )

    return PIECE.sub(linked, content)


def identifier(code: str, within: str) -> str | None:
    """What a code span names; None for what is no public name."""
    found = NAME.fullmatch(code)
    if found is None:
        return None
    of, name = found["of"], found["name"]
    if of in ("dao", PACKAGE):
        known = name in functions or name in members
        return f"{PACKAGE}.{name}" if known else None
    owner = OBJECTS.get(of or "", of)
    if owner:
        return f"{PACKAGE}.{owner}.{name}" if name in members.get(owner, ()) else None
    if name in members:
        return f"{PACKAGE}.{name}"
    if name in arguments | WORDS or not (within or "_" in name or code.endswith(")")):
        return None
    if name in members.get(within, ()):
        return f"{PACKAGE}.{within}.{name}"
    if name in functions:
        return f"{PACKAGE}.{name}"
    owners = [owner for owner in members if name in members[owner]]
    return f"{PACKAGE}.{owners[0]}.{name}" if len(owners) == 1 else None
