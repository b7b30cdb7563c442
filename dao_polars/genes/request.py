"""Requests for genes, as the public methods take them and the core understands them.

Owns what counts as names of genes. Which columns they are the core decides (`src/genes`); sees no
cells, no matrices, no files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

import polars as pl

from ..errors import DaoTypeError, DaoValueError

#: ``genes=`` of the public methods: None, names (or a var with them), or how to combine the
#: datasets' own.
Genes = str | Iterable[str] | pl.Series | pl.DataFrame | None

#: ``duplicates=``: what a name means that several genes of a dataset have.
Duplicates = Literal["error", "first", "sum", "drop"]


def wanted(genes: Genes) -> str | list[str] | None:
    """The argument ``genes=``, as the core takes it."""
    return genes if genes is None or isinstance(genes, str) else gene_names(genes)


def gene_names(genes: Iterable[str] | pl.Series | pl.DataFrame) -> list[str]:
    """Gene names as a list; refused are other things, and halves of surrogate pairs."""
    if isinstance(genes, pl.DataFrame) and "var_name" in genes.columns:
        genes = genes["var_name"]
    if not isinstance(genes, Iterable):
        raise DaoTypeError(f"genes={genes!r}; expected gene names, 'intersection', 'union' or None")
    names = list(genes)
    for name in names:
        if not isinstance(name, str):
            raise DaoTypeError(f"genes= holds {name!r}; expected gene names (str)")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DaoValueError(f"gene {name!r} is no text that a file can hold") from None
    return [str(name) for name in names]


def each_once(names: list[str]) -> list[str]:
    """The names themselves, or an error where one repeats."""
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise DaoValueError(f"genes= names {first_few(twice)} more than once. Name each gene once.")
    return names


def first_few(names: list[str]) -> str:
    """The first few names, for a message."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return (", ".join(map(repr, names[:5])) or "none") + more
