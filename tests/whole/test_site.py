"""The pages: built strictly, complete, and nothing in them is fetched from elsewhere.

``make docs`` installs what builds them; without it, these tests are skipped.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import zlib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

import dao_polars as dao
from dao_polars.edit.edit import Edit
from dao_polars.store.store import Uns
from tests.conftest import ROOT

pytest.importorskip("mkdocs", reason="mkdocs is not installed: make docs")
pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: make docs")

RETURNED = {"dao_polars.edit.edit.Edit": Edit, "dao_polars.store.store.Uns": Uns}
"""Classes that users are given and do not make: not exported, but documented."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built as `make docs` does; a warning ends it."""
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert built.returncode == 0, built.stderr[-3000:]
    return folder


def documented(site: Path) -> Counter[str]:
    """The names that have documentation, each with the number of places (aliases count once)."""
    data = (site / "objects.inv").read_bytes()
    lines = zlib.decompress(data.split(b"\n", 4)[4]).decode().splitlines()
    return Counter(line.split(" ", 1)[0] for line in lines if " py:" in line)


def headings(site: Path) -> Counter[str]:
    """The documented names by their headings in the pages."""
    found: Counter[str] = Counter()
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        found.update(re.findall(r'<h\d id="([\w.]+)" class="doc doc-heading">', text))
    return found


CLASSES = [getattr(dao, name) for name in dao.__all__ if inspect.isclass(getattr(dao, name))]


def attributes(cls: type) -> set[str]:
    """The attributes that a class's own documentation lists."""
    _, _, listed = (inspect.getdoc(cls) or "").partition("Attributes:\n")
    return set(re.findall(r"^    (\w+): ", listed, re.M))


def own_members(cls: type) -> set[str]:
    """The public methods and properties that a class has from this package."""
    members = set()
    for base in cls.__mro__:
        if base.__module__.split(".")[0] == "dao_polars":
            members |= {
                name
                for name, value in vars(base).items()
                if not name.startswith("_") and (callable(value) or hasattr(value, "__get__"))
            }
    return members


def public_names() -> set[str]:
    """All public names, and the public methods of public classes."""
    names = {f"dao_polars.{name}" for name in dao.__all__}
    classes = {f"dao_polars.{cls.__name__}": cls for cls in CLASSES}
    for path, cls in (classes | RETURNED).items():
        names |= {path} | {f"{path}.{member}" for member in own_members(cls)}
    return names


def test_every_public_name_is_documented_once(site):
    found, expected = headings(site), public_names()
    assert len(expected) > 90
    assert {"dao_polars.DaoFrame.split", "dao_polars.Store.vacuum"} <= expected
    fields = {f"dao_polars.{cls.__name__}.{name}" for cls in CLASSES for name in attributes(cls)}
    assert {f"dao_polars.Batch.{field}" for field in dao.Batch.__dataclass_fields__} <= fields
    assert "dao_polars.BatchIterable.seed" in fields
    assert sorted(expected - fields - found.keys()) == [], "not documented"
    assert sorted(fields & found.keys()) == [], "documented twice"
    assert [name for name, times in found.items() if times > 1] == [], "documented twice"
    torch = {name for name in found if name.startswith("dao_polars.frameworks.torch.")}
    assert sorted(found.keys() - expected - torch) == [], "no such name"
    assert expected - fields <= documented(site).keys(), "not in the inventory"


def test_documentation_has_text_and_a_signature(site):
    text = (site / "reference" / "frames.html").read_text(encoding="utf-8")
    for method in own_members(dao.DaoFrame):
        at = text.index(f'id="dao_polars.DaoFrame.{method}"')
        section = re.sub(r"<[^>]+>", "", text[at : at + 60_000].split('id="dao_polars.', 2)[1])
        signature = inspect.signature(getattr(dao.DaoFrame, method))
        wanted = [
            name
            for name, parameter in list(signature.parameters.items())[1:]
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        assert [name for name in wanted if name not in section] == [], method
        assert "Raises:" in section, method
        first = (inspect.getdoc(getattr(dao.DaoFrame, method)) or "").split("\n")[0]
        assert re.sub(r"`", "", first) in section, method


class Fetched(HTMLParser):
    """What a browser fetches of its own accord to show a page, and where links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.addresses.append(values.get("src") or "")
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.addresses.append(values.get("href") or "")


def test_a_page_fetches_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    found = 0
    for page in pages:
        parser = Fetched()
        text = page.read_text(encoding="utf-8")
        parser.feed(text)
        found += len(parser.addresses)
        assert [a for a in parser.addresses if re.match(r"(\w+:)?//", a)] == [], page
        assert 'class="mermaid"' not in text, "the theme fetches what draws these"
    assert found > 100
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text()), sheet


def test_pages_name_nothing_of_this_machine(site):
    here = {str(ROOT), str(Path.home())}
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not [place for place in here if place in text], page


def test_names_in_prose_are_links(site):
    text = (site / "guides" / "atlas.html").read_text(encoding="utf-8")
    for name in ("write_dataset", "Store.update_obs", "Store.vacuum", "DaoConflictError"):
        assert (
            f'stores.html#dao_polars.{name}"' in text or f'errors.html#dao_polars.{name}"' in text
        )
    scan = (site / "reference" / "stores.html").read_text(encoding="utf-8")
    assert 'href="#dao_polars.Store.versions"' in scan
