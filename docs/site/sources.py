"""Pages that are files of the repository, and links that leave docs/.

A page whose head says ``source: SECURITY.md`` is that file, as it is. Links in it, and links of
other pages to files that are no pages, are the repository's: to a page that has the file as its
source, to ``repo_url`` where mkdocs.yml has one, else they are plain text. One that leads to
nothing is a warning, which ends the strict build.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import meta

log = logging.getLogger("mkdocs.plugins.sources")

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"^(```.*?^```$)", re.M | re.S)

#: The page that shows a file of the repository, by the file's path.
pages_of: dict[str, str] = {}


def root_of(config: MkDocsConfig) -> Path:
    """The repository's root."""
    return Path(config.docs_dir).parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Notes which pages are which files."""
    pages_of.clear()
    for file in files.documentation_pages():
        _, head = meta.get_data(file.content_string)
        pages_of[f"docs/{file.src_uri}"] = file.src_uri
        if "source" in head:
            pages_of[str(head["source"])] = file.src_uri
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page's source, where it has one, with links that lead somewhere."""
    root, source = root_of(config), str(page.meta.get("source", f"docs/{page.file.src_uri}"))
    if "source" in page.meta:
        markdown = (root / source).read_text(encoding="utf-8")
    here = posixpath.dirname(source)

    def rewritten(found: re.Match[str]) -> str:
        image, text, target, anchor = found[1], found[2], found[3], found[4] or ""
        if not target or "://" in target or target.startswith("mailto:"):
            return found[0]
        path = posixpath.normpath(posixpath.join(here, target))
        if not (root / path).exists():
            log.warning("%s: a link to %s, which is not there", source, target)
            return found[0]
        if path in pages_of:
            to = posixpath.relpath(pages_of[path], posixpath.dirname(page.file.src_uri))
            return f"{image}[{text}]({to}{anchor})"
        if image:
            return f"![{text}]({copied(path, page, config, files)})"
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path}{anchor})"
        return text if text.startswith("`") or text != target else f"`{path}`"

    parts = FENCE.split(markdown)  # code stays as it is
    return "".join(p if i % 2 else LINK.sub(rewritten, p) for i, p in enumerate(parts))


def copied(path: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """An image of the repository, put beside the pages; its path from this page."""
    place = posixpath.join("images", posixpath.basename(path))
    if files.get_file_from_path(place) is None:
        data = (root_of(config) / path).read_bytes()
        files.append(File.generated(config, place, content=data))
    return posixpath.relpath(place, posixpath.dirname(page.file.src_uri))
