"""How the ``.dao`` namespace of a frame shows itself.

Owns the words. Looks at the frame's schema alone.
"""

from __future__ import annotations

import textwrap
from typing import Any

import polars as pl

from ..errors import DaoError
from ..scan.cell import cell_type


def describe(frame: pl.LazyFrame, namespace: type[Any]) -> str:
    """What a frame's cells are of, and the verbs of its namespace."""
    try:
        schema = frame.collect_schema()
    except Exception as error:  # a query that cannot be planned, for whatever reason
        return f"DaoFrame of a query that cannot be planned: {error}"
    columns = f"{len(schema)} column{'' if len(schema) == 1 else 's'}"
    try:
        uris = [repr(store.uri) for store in cell_type(schema).stores]
        stores = f"store{'' if len(uris) == 1 else 's'} {', '.join(uris)}"
        head = f"DaoFrame: cells of {stores}, {columns}"
    except DaoError as error:
        return f"DaoFrame: {error}"
    verbs = ", ".join(name for name in vars(namespace) if not name.startswith("_"))
    return f"{head}\n{textwrap.fill(f'.dao has: {verbs}', 100, subsequent_indent=' ' * 10)}"
