"""Which columns of each dataset a request for genes means.

Owns the resolution of gene names against feature spaces. Sees var tables alone:
no cells, no matrices, no files.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ..errors import DaoKeyError, DaoTypeError, DaoValueError

__all__ = [
    "FeatureSpace",
    "Genes",
    "Resolved",
    "feature_space_id",
    "listed",
    "refuse_ambiguous",
    "refuse_unknown",
    "resolve",
    "some",
]

#: ``genes=`` of the public methods: None, names, or how to combine the datasets' own.
Genes = str | Iterable[str] | pl.Series | None


@dataclass(frozen=True)
class FeatureSpace:
    """The genes of some datasets that share them.

    ``names`` (n_vars, String) are those that requests are matched against: the var
    index, or the column that ``gene_key`` names.
    """

    datasets: tuple[str, ...]
    names: pl.Series

    def __str__(self) -> str:
        shown = ", ".join(repr(name) for name in self.datasets[:3])
        more = f" and {len(self.datasets) - 3} more" if len(self.datasets) > 3 else ""
        return f"{shown}{more} ({len(self.names):,} genes)"


@dataclass(frozen=True)
class Resolved:
    """Output genes, and for each feature space where its columns go.

    ``names`` (n_genes, String) is None where no matching was needed (one space, all of it).
    ``columns[i]`` (n_vars of space i, int32) holds output columns, -1 for none; None for identity.
    """

    n_genes: int
    names: pl.Series | None
    columns: list[NDArray[np.int32] | None]


def feature_space_id(names: pl.Series) -> str:
    """Names an ordered var index (n_vars,): equal exactly where the names and their order are."""
    text = json.dumps(names.to_list(), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def resolve(
    genes: Genes,
    spaces: Sequence[FeatureSpace],
    elsewhere: Callable[[], Sequence[FeatureSpace]] = tuple,
) -> Resolved:
    """Resolve a request for genes.

    Args:
        genes: None: all genes, and all datasets must share one feature space.
            ``"intersection"``: the genes that every space has, in the first one's order.
            ``"union"``: the genes that any space has, in order of first appearance.
            Names: exactly these, in this order.
        spaces: the distinct feature spaces of the selection, at least one.
        elsewhere: the store's other spaces, looked at for names that no space here has: a panel
            of genes means the same for every selection.

    Raises:
        DaoValueError: several spaces and no ``genes``; a name twice in the list; an ambiguous
            name (several genes of one space have it).
        DaoKeyError: a name that no space of the store has; the message lists the nearest.
        DaoTypeError: ``genes`` is something else.
    """
    if genes is None:
        if len(spaces) == 1:
            return Resolved(len(spaces[0].names), None, [None])
        shown = "\n".join(f"  - {space}" for space in spaces)
        raise DaoValueError(
            f"the selection's datasets have {len(spaces)} different feature spaces:\n{shown}\n"
            'Pass genes="intersection", genes="union" or a list of gene names (gene_key= matches '
            'on a var column), or filter on pl.col("dataset").'
        )
    if isinstance(genes, str):
        if genes not in ("intersection", "union"):
            raise DaoValueError(
                f"genes={genes!r}: expected a list of names, 'intersection', 'union' or None. "
                f"For one gene pass genes=[{genes!r}]."
            )
        for space in spaces:
            refuse_ambiguous(space, None)
        wanted = _combine(genes, spaces)
        if not len(wanted) and any(len(space.names) for space in spaces):
            first = [some(space.names.head(1).to_list()) for space in spaces[:3]]
            shown = "; ".join(f"{s} with {n}" for s, n in zip(spaces, first, strict=False))
            raise DaoValueError(
                f"the datasets have no gene in common: {shown}. Symbols do not match Ensembl "
                "ids: gene_key= matches on another var column, write_dataset(genes=…, gene_key=…) "
                "aligns a study when it is written."
            )
    else:
        wanted = listed(genes)
        refuse_unknown(wanted, spaces, elsewhere)
        for space in spaces:
            refuse_ambiguous(space, wanted)
    position = pl.DataFrame({"name": wanted}).with_row_index("column")
    return Resolved(len(wanted), wanted, [_columns(space, position) for space in spaces])


def _combine(how: str, spaces: Sequence[FeatureSpace]) -> pl.Series:
    named = [space.names.drop_nulls() for space in spaces]
    if how == "union":
        return pl.concat(named).unique(maintain_order=True)
    common = named[0]
    for other in named[1:]:
        common = common.filter(common.is_in(other.implode()))
    return common


def listed(genes: Iterable[str] | pl.Series) -> pl.Series:
    """Gene names as a Series, (n_genes,) String.

    Raises:
        DaoTypeError: something else than names.
        DaoValueError: a name that is there twice.
    """
    if not isinstance(genes, (pl.Series, Iterable)):
        raise DaoTypeError(f"genes={genes!r}; expected gene names, 'intersection', 'union' or None")
    values = genes.to_list() if isinstance(genes, pl.Series) else list(genes)
    for value in values:
        if not isinstance(value, str):
            raise DaoTypeError(f"genes= holds {value!r}; expected gene names (str)")
    names = pl.Series("name", values, dtype=pl.String)
    if names.is_duplicated().any():
        twice = names.filter(names.is_duplicated()).unique(maintain_order=True).to_list()
        raise DaoValueError(f"genes= names {some(twice)} more than once. Name each gene once.")
    return names


def refuse_unknown(
    wanted: pl.Series,
    spaces: Sequence[FeatureSpace],
    elsewhere: Callable[[], Sequence[FeatureSpace]] = tuple,
) -> None:
    """An error for names that no space has, with the nearest that there are."""
    # Plain Python: this may run where polars must not (see ``lookups``).
    known = {name for space in spaces for name in space.names.to_list()}
    unknown = [name for name in wanted.to_list() if name not in known]
    if unknown and (others := elsewhere()):
        known |= {name for space in others for name in space.names.to_list()}
        unknown = [name for name in unknown if name not in known]
        spaces = [*spaces, *others]
    if not unknown:
        return
    candidates = sorted(name for name in known if name is not None)
    lower = {name.lower(): name for name in candidates}
    hints = []
    for name in unknown[:5]:
        # A family's members first: CD3 is nearer to CD3E than to CHD3.
        family = [n for n in sorted(lower) if n.startswith(name.lower())]
        family = sorted(family, key=len)[:3]
        similar = difflib.get_close_matches(name.lower(), lower, n=12, cutoff=0.6)
        similar.sort(key=lambda other: -_alike(name.lower(), other))
        near = list(dict.fromkeys([*family, *similar]))[:3] if name else similar
        hints.append(
            f"{name!r} (nearest: {', '.join(repr(lower[n]) for n in near)})" if near else repr(name)
        )
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    raise DaoKeyError(
        f"unknown gene{'s' if len(unknown) > 1 else ''} {', '.join(hints)}{more}: in no dataset of "
        f"the store, such as {spaces[0]}. store.var(dataset) lists the names; gene_key= matches on "
        "another var column."
    )


def _alike(a: str, b: str) -> int:
    """Letters that two names begin with alike."""
    return sum(takewhile(bool, (x == y for x, y in zip(a, b, strict=False))))


def refuse_ambiguous(space: FeatureSpace, wanted: pl.Series | None) -> None:
    """An error for names (of ``wanted``, or any) that several genes of a space have."""
    seen: set[str] = set()
    repeated: dict[str, None] = {}
    for name in space.names.to_list():
        if name is not None and name in seen:
            repeated[name] = None
        seen.add(name)
    if wanted is not None:
        asked = set(wanted.to_list())
        repeated = {name: None for name in repeated if name in asked}
    if repeated:
        raise DaoValueError(
            f"ambiguous gene name{'s' if len(repeated) > 1 else ''} {some(list(repeated))}: "
            f"several genes of {space} have it. Match on a var column with unique values, such as "
            "gene_key='gene_ids', or leave it out."
        )


def _columns(space: FeatureSpace, position: pl.DataFrame) -> NDArray[np.int32] | None:
    found = pl.DataFrame({"name": space.names}).join(
        position, on="name", how="left", maintain_order="left"
    )["column"]
    columns = found.cast(pl.Int32).fill_null(-1).to_numpy().astype(np.int32, copy=False)
    identity = len(columns) == len(position) and bool(
        (columns == np.arange(len(columns), dtype=np.int32)).all()
    )
    return None if identity else np.ascontiguousarray(columns)


def some(names: list[str]) -> str:
    """The first of the names, for a message."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return (", ".join(map(repr, names[:5])) or "none") + more
