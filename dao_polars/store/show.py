"""The summary of a store that a terminal and a notebook show.

Owns the layout of both. Sees the open store alone; opens no matrix.
"""

from __future__ import annotations

import textwrap
from html import escape
from itertools import islice
from typing import TYPE_CHECKING

import polars as pl

from ..errors import DaoError
from ..scan.columns import RESERVED, STORE
from ..scan.dtypes import dtype_name

if TYPE_CHECKING:
    from .store import Store

_SHOWN = 20  # rows and columns that are listed
_SIDES = "<<>><>"  # of each column of the shown table: text left, numbers right


def text(store: Store) -> str:
    """The summary of a store as text, for a terminal."""
    stores, lines = store.stores, []
    if len(stores) > 1:
        lines.append(f"{len(stores)} stores as one: {_summary(store)}")
    for one in stores[:_SHOWN]:
        lines += _table_lines(one)
    if (more := len(stores) - _SHOWN) > 0:
        lines.append(f"… and {more} more stores")
    # A column and its type stay on one line: textwrap does not break at \xa0.
    obs = "obs: " + ", ".join(column.replace(" ", "\xa0") for column in _shown_columns(store))
    wrapped = textwrap.fill(obs, 100, subsequent_indent="     ", break_long_words=False)
    return "\n".join([*lines, wrapped.replace("\xa0", " ")])


def _table_lines(store: Store) -> list[str]:
    """The datasets of one store."""
    table = _shown_datasets(store)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [f"Store {store.uri!r}: {_summary(store)}"]
    for row in table:
        cells = [f"{value:{_SIDES[i]}{widths[i]}}" for i, value in enumerate(row)]
        lines.append("  " + "  ".join(cells).rstrip())
    if (more := len(store._by_dataset) - _SHOWN) > 0:
        lines.append(f"  … and {more} more")
    return lines + [textwrap.fill(f"{name}: {said}", 100) for name, said in _shown_beside(store)]


def html(store: Store) -> str:
    """The summary of a store as HTML, for a notebook."""
    stores, head = store.stores, ""
    if len(stores) > 1:
        head = f"<div><b>{len(stores)} stores as one</b>: {escape(_summary(store))}</div>"
    more = len(stores) - _SHOWN
    return (
        f"<div>{head}{''.join(map(_table_html, stores[:_SHOWN]))}"
        + (f"<div>… and {more} more stores</div>" if more > 0 else "")
        + f"<div><b>obs</b> {escape(', '.join(_shown_columns(store)))}</div></div>"
    )


def _table_html(store: Store) -> str:
    """The datasets of one store."""
    head, *rows = _shown_datasets(store)

    def line(values: tuple[str, ...], tag: str) -> str:
        sides = ("left" if side == "<" else "right" for side in _SIDES)
        cells = zip(sides, map(escape, values), strict=True)
        tds = (f'<{tag} style="text-align:{side}">{value}</{tag}>' for side, value in cells)
        return f"<tr>{''.join(tds)}</tr>"

    more = len(store._by_dataset) - _SHOWN
    beside = (f"<div><b>{name}</b> {escape(said)}</div>" for name, said in _shown_beside(store))
    return (
        f"<b>Store</b> <code>{escape(store.uri)}</code>"
        f"<div>{escape(_summary(store))}</div>"
        f"<table><thead>{line(head, 'th')}</thead>"
        f"<tbody>{''.join(line(row, 'td') for row in rows)}</tbody></table>"
        + (f"<div>… and {more} more</div>" if more > 0 else "")
        + "".join(beside)
    )


def _shown_beside(store: Store) -> list[tuple[str, str]]:
    """What a store has beside X and obs: layers and embeddings, and what made its version."""
    found = []
    for group in ("layers", "obsm"):
        datasets: dict[str, set[str]] = {}
        for part in store._core.parts:
            for name in part.layers if group == "layers" else part.obsm:
                datasets.setdefault(name, set()).add(part.name)
        n = len(store._by_dataset)
        names = [
            name if len(having) == n else f"{name} (of {len(having)} of {n} datasets)"
            for name, having in list(datasets.items())[:_SHOWN]
        ]
        more = [f"… and {len(datasets) - _SHOWN} more"] if len(datasets) > _SHOWN else []
        if names:
            found.append((group, ", ".join([*names, *more])))
    if store._core.made_by is not None:
        operation, message = store._core.made_by
        found.append((f"version {store.version}", f"{operation}, {message}"))
    return found


def _summary(store: Store) -> str:
    n = len(store._by_dataset)
    size = human_size(sum(part.bytes for part in store._core.parts))
    version = "" if store.version is None else f"version {store.version}, "
    return f"{version}{n} dataset{'' if n == 1 else 's'}, {store.n_obs:,} cells, {size}"


def _shown_datasets(store: Store) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("dataset", "organism", "cells", "genes", "layout", "size")]
    for name, parts in islice(store._by_dataset.items(), _SHOWN):
        try:
            organism = store._tables.organism(parts[0]) or ""
        except DaoError:
            organism = ""
        counts = (f"{sum(part.n_cells for part in parts):,}", f"{parts[0].n_vars:,}")
        size = human_size(sum(part.bytes for part in parts))
        rows.append((name, organism, *counts, parts[0].layout, size))
    return rows


def _shown_columns(store: Store) -> list[str]:
    try:
        schema = store.schema
    except DaoError as error:
        return [f"not readable: {error}"]
    own = RESERVED if len(store.stores) == 1 else (*RESERVED, STORE)
    names = [name for name in schema if name not in own]
    shown = [f"{name} ({_shown_type(schema[name])})" for name in names[:_SHOWN]]
    more = [f"… and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return [*shown, *more] or ["no columns"]


def _shown_type(dtype: pl.DataType) -> str:
    if isinstance(dtype, pl.Enum):
        n = len(dtype.categories)
        return f"{n} categor{'y' if n == 1 else 'ies'}"
    if isinstance(dtype, pl.Datetime | pl.Duration):
        return dtype_name(dtype)
    return str(dtype)


def human_size(n_bytes: int) -> str:
    """A number of bytes for people: ``1234567`` as ``"1.2 MB"``."""
    size, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
