"""Splits and subsamples of a frame's cells, as queries.

Owns the hash that says where a cell or a group goes: of the seed and the cell's key or the group's
values alone, so that it is the same tomorrow, on another machine, and when the store has grown.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from .._args import integer
from .._warn import warn
from ..errors import DaoTypeError, DaoValueError
from ..scan.cell import COLUMN, cell_type
from .selection import column_names

_GOLDEN = 0x9E3779B97F4A7C15


def split(
    frame: pl.LazyFrame,
    fractions: Mapping[str, float],
    *,
    by: str | Iterable[str] | None = None,
    stratify: str | None = None,
    seed: int = 0,
) -> dict[str, pl.LazyFrame]:
    """Parts of the frame that have no cell in common, such as train, val and test.

    Where a cell goes is a hash of the seed and its key (with ``by``: of its group's values):
    the same tomorrow, on another machine, whatever else is selected, and for cells that stay
    when the store grows. So shares are met up to chance; a few large groups may well miss
    them.

    Args:
        frame: the one before ``.dao``.
        fractions: each part's share, such as ``{"train": 0.8, "val": 0.2}``; below 1 in all,
            some cells are in no part.
        by: columns whose values keep together: all cells of a donor in one part. Looks up,
            now, which values there are, with a warning for a part that gets none of them.
        stratify: a column whose values should be in each part; counted now, with a warning
            for values that a part lacks. (Hashed cells have their shares of each value anyhow.)
        seed: 0 to 2**64 - 1.

    Returns:
        A LazyFrame for each part, in the frame's order.

    Raises:
        DaoValueError, DaoTypeError, DaoKeyError: bad fractions or columns, or no cells.
    """
    seed = integer("seed", seed, 0, 2**64 - 1)
    bounds = _bounds(fractions)
    schema = frame.collect_schema()
    cell_type(schema)
    strata = column_names(schema, stratify, "stratify") if stratify is not None else []
    if by is not None:
        members = _group_members(frame, _group_columns(schema, by), bounds, seed)
    else:
        place = cell_hash(seed)
        members = {
            name: (place >= start) & (place < stop) for name, (start, stop) in bounds.items()
        }
    if strata:
        _check_strata(frame, members, strata[0], fractions)
    return {name: frame.filter(member) for name, member in members.items()}


def sample(frame: pl.LazyFrame, n: int, *, by: str | Iterable[str], seed: int = 0) -> pl.LazyFrame:
    """At most ``n`` cells of each group, lazily, in the frame's order.

    Those whose hash of seed and key is least: a random sample without replacement, which stays
    while the group does.

    Args:
        frame: the one before ``.dao``.
        n: cells a group.
        by: columns whose values make the groups.
        seed: 0 to 2**64 - 1.

    Raises:
        DaoValueError, DaoTypeError, DaoKeyError: bad arguments, or no cells in the frame.
    """
    n = integer("n", n, 0, 2**32 - 1)
    seed = integer("seed", seed, 0, 2**64 - 1)
    schema = frame.collect_schema()
    cell_type(schema)
    columns = _group_columns(schema, by)
    return frame.filter(cell_hash(seed, as_integer=True).rank("ordinal").over(columns) <= n)


def cell_hash(seed: int, *, as_integer: bool = False) -> pl.Expr:
    """A number in [0, 1) for each cell key, or one of 64 bits: Stafford's 13th mix, as splitmix64.

    Source: G. L. Steele, D. Lea and C. H. Flood, "Fast splittable pseudorandom number generators",
    OOPSLA 2014. Polars' own hash may change with its version.
    """
    mixed = _digest(seed, "cell")
    z = (pl.col(COLUMN).ext.storage() ^ pl.lit(mixed, pl.UInt64)) + pl.lit(_GOLDEN, pl.UInt64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z // pl.lit(1 << shift, pl.UInt64))) * pl.lit(factor, pl.UInt64)
    z = z ^ (z // pl.lit(1 << 31, pl.UInt64))
    if as_integer:
        return z
    return (z // pl.lit(1 << 11, pl.UInt64)).cast(pl.Float64) * 2.0**-53


def _digest(seed: int, *values: Any) -> int:
    text = json.dumps([seed, *map(_plain, values)], ensure_ascii=False)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _plain(value: Any) -> Any:
    """A value as JSON writes it in every version of Python."""
    if isinstance(value, (str, bool, int, float)) or value is None:
        return value
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return repr(value)


def _bounds(fractions: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Each split's share of [0, 1)."""
    if not isinstance(fractions, Mapping) or not fractions:
        raise DaoTypeError(f"expected a dict of split: fraction, found {fractions!r}")
    for name, fraction in fractions.items():
        if not isinstance(name, str):
            raise DaoTypeError(f"a split is called {name!r}; expected text")
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)):
            raise DaoTypeError(f"split {name!r} has the fraction {fraction!r}; expected a number")
        if not 0 <= fraction <= 1:
            raise DaoValueError(f"split {name!r} has the fraction {fraction!r}; expected 0 to 1")
    total = math.fsum(fractions.values())
    if total > 1 + 1e-9:
        raise DaoValueError(f"the fractions of the splits add up to {total:g}; expected at most 1")
    ends = [math.fsum(list(fractions.values())[: i + 1]) for i in range(len(fractions))]
    if abs(total - 1) <= 1e-9:
        ends[-1] = 1.0
    return dict(zip(fractions, zip([0.0, *ends[:-1]], ends, strict=True), strict=True))


def _group_members(
    frame: pl.LazyFrame, columns: list[str], bounds: Mapping[str, tuple[float, float]], seed: int
) -> dict[str, pl.Expr]:
    """Each split's condition, from the groups that the frame has now: scans can push it down."""
    groups = frame.select(columns).unique().collect()
    places = [_digest(seed, *row) / 2**64 for row in groups.iter_rows()]
    members = {}
    for name, (start, stop) in bounds.items():
        # Places are no column of the groups: these may be called whatever they like.
        here = groups.filter(pl.Series([start <= p < stop for p in places], dtype=pl.Boolean))
        if here.is_empty() and groups.height and start < stop:
            warn(
                f"split {name!r} has no cells: none of the {groups.height} values of "
                f"{', '.join(columns)} fell to it; another seed= may do, or other fractions"
            )
        if len(columns) == 1:
            members[name] = pl.col(columns[0]).is_in(here[columns[0]].implode(), nulls_equal=True)
        else:
            values = here.select(pl.struct(columns)).to_series().implode()
            members[name] = pl.struct(columns).is_in(values, nulls_equal=True)
    return members


def _check_strata(
    frame: pl.LazyFrame,
    members: Mapping[str, pl.Expr],
    stratum: str,
    fractions: Mapping[str, float],
) -> None:
    """Warns of values that a split lacks."""
    # No name is that of the stratum: each is longer.
    counts = [member.sum().alias(f"{stratum}{i}") for i, member in enumerate(members.values())]
    table = frame.group_by(stratum, maintain_order=True).agg(counts).collect()
    for i, (name, fraction) in enumerate(fractions.items()):
        missing = table.filter(pl.col(f"{stratum}{i}") == 0)[stratum].to_list()
        if missing and fraction:
            warn(
                f"split {name!r} has no cells of {stratum}: {', '.join(map(repr, missing[:10]))}"
                f"{' …' if len(missing) > 10 else ''}; there are too few, or too few groups. "
                "Another seed= may do"
            )


def _group_columns(schema: pl.Schema, by: str | Iterable[str]) -> list[str]:
    names = column_names(schema, by, "by")
    if not names:
        raise DaoValueError("by=[] names no column")
    return names
