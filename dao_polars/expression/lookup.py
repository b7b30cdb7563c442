"""An expression that looks cells up, and says so in words.

Owns how it shows itself: polars would show the path of the shared library that has the plugin.
What is made of it (``gene > 0``) is polars' own, and shows that.
"""

from __future__ import annotations

from html import escape
from typing import Any

import polars as pl


class Lookup(pl.Expr):
    """An expression of the plugin, shown as the call that made it."""

    _shown: str

    @classmethod
    def of(cls, expr: pl.Expr, call: str) -> Lookup:
        """The same expression, shown as ``call``."""
        lookup = cls.__new__(cls)
        lookup._pyexpr = expr._pyexpr
        lookup._shown = call
        return lookup

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"<Expr {self._shown}>"

    def _repr_html_(self) -> str:
        return f"<code>{escape(self._shown)}</code>"

    def __getstate__(self) -> Any:
        return pl.Expr.__getstate__(self), self._shown

    def __setstate__(self, state: Any) -> None:
        expr, self._shown = state
        pl.Expr.__setstate__(self, expr)


def call(name: str, subject: pl.Expr, first: object, settings: dict[str, Any]) -> str:
    """The call of a function of the column ``cell``, or of another, as somebody wrote it."""
    shown = [] if first is None else [_short(first)]
    shown += [f"{key}={_short(value)}" for key, value in settings.items()]
    is_cell = subject.meta == pl.col("cell")
    return f"{'dao' if is_cell else f'{subject}.dao'}.{name}({', '.join(shown)})"


def _short(value: object) -> str:
    if isinstance(value, list) and len(value) > 6:
        return f"[{', '.join(map(repr, value[:5]))}, … {len(value) - 5:,} more]"
    return repr(value)
