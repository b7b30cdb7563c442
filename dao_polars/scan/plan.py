"""The plan of a query on a store: the parts, columns and rows to read, filtered by what.

Owns the pruning of parts, the splitting of predicates, and the choice of what the parquet
reader may filter by itself. Pure planning: no file is opened here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import groupby

import polars as pl

from .cell import COLUMN
from .columns import FileColumn, ScannedPart, constant_series

_NEVER, _ALWAYS = pl.lit(False), pl.lit(True)
_MAX_ROWS = 2**32 - 2  # of a group: polars numbers rows with 32 bits
_MAX_LITERALS = 1024  # values that a filter handed to the parquet reader may list


@dataclass(frozen=True)
class ScanGroup:
    """Parts of datasets of one store to read in one go: their files hold the wanted columns alike.

    ``n_rows`` cells are to be read from the top, over all parts; only the last may be cut short.
    ``columns``: the wanted columns that lie in the files; the others are the same value for a
    whole part. ``pushed`` is a filter in terms of the files' columns, ``residual`` one in
    terms of the frame's; a row is wanted when both are true.
    """

    parts: Sequence[ScannedPart]
    n_rows: int
    columns: Mapping[str, FileColumn]
    pushed: pl.Expr | None
    residual: pl.Expr | None

    @property
    def cut_short(self) -> bool:
        """Whether the last part is not wanted to its end."""
        return self.n_rows < sum(part.n_cells for part in self.parts)

    def pieces(self, n_values: int) -> Iterator[ScanGroup]:
        """The group in pieces whose files have so many of the values wanted, or are but one."""
        most = max(1, n_values // max(1, len(self.columns)))
        left, piece, held = self.n_rows, list[ScannedPart](), 0
        for part in self.parts:
            if piece and held + part.n_cells > most:
                yield replace(self, parts=piece, n_rows=min(held, left))
                left, piece, held = left - min(held, left), [], 0
            piece.append(part)
            held += part.n_cells
        yield replace(self, parts=piece, n_rows=min(held, left))


@dataclass(frozen=True)
class ScanPlan:
    """The plan of a scan: the result's ``columns`` in order, and the groups that give its rows."""

    columns: list[str]
    groups: list[ScanGroup] = field(default_factory=list)


def make_plan(
    parts: Sequence[ScannedPart],
    schema: pl.Schema,
    with_columns: Sequence[str] | None,
    predicate: pl.Expr | None,
    n_rows: int | None,
) -> ScanPlan:
    """Plans one scan, as polars asks an IO source for it.

    Args:
        parts: of the store, in the order of the frame's rows.
        schema: of the whole frame.
        with_columns: columns wanted; None for all.
        predicate: elementwise; rows for which it is true are wanted. None for all.
        n_rows: rows to consider, from the top and *before* the predicate; None for all.
    """
    columns = list(schema) if with_columns is None else list(with_columns)
    conjuncts = [] if predicate is None else split(predicate, "&")
    roots = [set(conjunct.meta.root_names()) for conjunct in conjuncts]
    needed = list(dict.fromkeys([*columns, *(name for names in roots for name in names)]))

    rows: dict[int, int] = {}  # of each dataset, by its number: those among the first n_rows
    left = sum(d.n_cells for d in parts) if n_rows is None else n_rows
    for part in parts:
        rows[part.number] = min(part.n_cells, left)
        left -= rows[part.number]
    kept = [d for d in parts if rows[d.number]]
    settled: list[set[int]] = []  # of each conjunct: the datasets in which it is true throughout
    for conjunct, names in zip(conjuncts, roots, strict=True):
        kept, true_in = _prune(conjunct, names, kept, schema)
        settled.append(true_in)

    def signature(part: ScannedPart) -> tuple[object, ...]:
        """A value that is equal for parts that can be read as one group."""
        stored = (part.columns.get(name) for name in needed)
        return (part.store, *stored, *(part.number in true_in for true_in in settled))

    plan = ScanPlan(columns)
    translated: dict[tuple[object, ...], pl.Expr | None] = {}  # conjuncts, by place and columns
    for members in _runs(kept, signature):
        stored = {n: c for n in needed if (c := members[0].columns.get(n)) is not None}
        pushed: list[pl.Expr] = []
        residual: list[pl.Expr] = []
        for at, (conjunct, names) in enumerate(zip(conjuncts, roots, strict=True)):
            if members[0].number in settled[at]:
                continue
            key = at, *map(stored.get, names)
            if key not in translated:
                translated[key] = _translate(conjunct, stored, schema)
            condition = translated[key]
            if condition is None:
                residual.append(conjunct)
            elif condition is not _ALWAYS:
                pushed.append(condition)
        if not any(condition is _NEVER for condition in pushed):
            total = sum(rows[d.number] for d in members)
            plan.groups.append(ScanGroup(members, total, stored, _all(pushed), _all(residual)))
    return plan


def split(expr: pl.Expr, operator: str) -> list[pl.Expr]:
    """The operands of a chain of ``&`` or ``|``, in order; just the expression if it is none."""
    found, pending = [], [expr]
    while pending:
        operation = pending.pop()
        operands = operation.meta.pop()
        if len(operands) == 2:
            right, left = operands
            joined = left & right if operator == "&" else left | right
            if joined.meta == operation:
                pending += [right, left]
                continue
        found.append(operation)
    return found


def wide_values(parts: Sequence[ScannedPart], name: str, dtype: pl.DataType) -> pl.Series:
    """A dataset-wide column's values ``(len(datasets),)``; null where a dataset has none."""
    if name == "dataset":
        return pl.Series(name, [d.name for d in parts], dtype=pl.String()).cast(dtype)
    return constant_series([d.constants.get(name) for d in parts], dtype).alias(name)


def _prune(
    conjunct: pl.Expr, names: set[str], kept: list[ScannedPart], schema: pl.Schema
) -> tuple[list[ScannedPart], set[int]]:
    """Drops the parts in which a conjunct is true nowhere.

    It is tried where all its columns are dataset-wide. An error there is left to happen, or not
    to happen, on the rows. A bound on the keys is tried on a part's first and last one.
    """
    if names == {COLUMN} and _bounds_keys(conjunct):
        return _prune_by_keys(conjunct, kept, schema)
    wide = [d for d in kept if "cell" not in names and d.columns.keys().isdisjoint(names)]
    if not wide:
        return kept, set()
    frame = pl.DataFrame(
        [wide_values(wide, name, schema[name]) for name in names]
        or [pl.Series("", range(len(wide)))]
    )
    true = _evaluate(conjunct, frame)
    if true is None:
        return kept, set()
    true_in = {d.number for d, is_true in zip(wide, true, strict=True) if is_true}
    false_in = {d.number for d in wide} - true_in
    return [d for d in kept if d.number not in false_in], true_in


def _bounds_keys(conjunct: pl.Expr) -> bool:
    """Whether a condition says that keys lie above or below a number."""
    operands = conjunct.meta.pop()
    if len(operands) != 2:
        return False
    number, key = operands
    bounds = (key >= number, key > number, key < number, key <= number)
    return (
        key.meta == pl.col(COLUMN).ext.storage()
        and number.meta.is_literal()
        and any(bound.meta == conjunct for bound in bounds)
    )


def _prune_by_keys(
    conjunct: pl.Expr, kept: list[ScannedPart], schema: pl.Schema
) -> tuple[list[ScannedPart], set[int]]:
    """Drops the parts whose keys all lie on the other side of a bound."""
    ends = [(part.number << 32) + row for part in kept for row in (0, max(0, part.n_obs - 1))]
    keys = pl.Series(COLUMN, ends, dtype=pl.UInt64).ext.to(schema[COLUMN])
    true = _evaluate(conjunct, pl.DataFrame([keys]))
    if true is None:
        return kept, set()
    first, last = true.gather_every(2).fill_null(False), true.gather_every(2, 1).fill_null(False)
    sides = list(zip(kept, first, last, strict=True))
    return [d for d, a, b in sides if a or b], {d.number for d, a, b in sides if a and b}


def _evaluate(conjunct: pl.Expr, frame: pl.DataFrame) -> pl.Series | None:
    """A conjunct's value in each row, Boolean; None if it has none there."""
    try:
        values = frame.lazy().with_columns(conjunct.alias("?")).collect(engine="in-memory")["?"]
    except Exception:  # polars', or whatever a user's own function raises
        return None
    return values if values.dtype == pl.Boolean else None


def _runs(
    kept: Sequence[ScannedPart],
    signature: Callable[[ScannedPart], object],
) -> Iterator[list[ScannedPart]]:
    """Runs of parts of one signature, with no more rows together than polars can number."""
    for _, group in groupby(kept, signature):
        run: list[ScannedPart] = []
        n_rows = 0
        for part in group:
            if run and n_rows + part.n_obs > _MAX_ROWS:
                yield run
                run, n_rows = [], 0
            run.append(part)
            n_rows += part.n_obs
        yield run


def _translate(
    expr: pl.Expr, stored: Mapping[str, FileColumn], schema: pl.Schema
) -> pl.Expr | None:
    """A condition on the frame's columns as one on the files'; None if it cannot be put so.

    Files hold text where the frame has an Enum. A condition on one Enum column is tried on each
    category and becomes a list of the texts for which it is true.
    """
    names = expr.meta.root_names()
    if not names or any(name not in stored for name in names):
        return None
    if all(stored[name] == FileColumn(name, schema[name]) for name in names):
        return expr
    if len(set(names)) == 1:
        dtype, column = schema[names[0]], stored[names[0]]
        if column.name is None or column.dtype == pl.Null or not isinstance(dtype, pl.Enum):
            return None
        return _listed(expr, names[0], dtype, column.name)
    for operator in ("|", "&"):
        operands = split(expr, operator)
        if len(operands) > 1:
            translated = [_translate(operand, stored, schema) for operand in operands]
            known = [operand for operand in translated if operand is not None]
            if len(known) < len(operands):
                return None
            return reduce(pl.Expr.or_ if operator == "|" else pl.Expr.and_, known)
    return None


def _listed(expr: pl.Expr, name: str, dtype: pl.Enum, file_name: str) -> pl.Expr | None:
    """A condition on one Enum column as one on the texts in a file, by trying each category."""
    words = dtype.categories
    nothing = pl.Series([None], dtype=dtype)
    values = _evaluate(expr, pl.DataFrame({name: words.cast(dtype).append(nothing)}))
    if values is None:
        return None
    true = values.fill_null(False)
    null_is_true = true[-1]
    wanted, unwanted = words.filter(true[:-1]), words.filter(~true[:-1])
    if min(len(wanted), len(unwanted)) > _MAX_LITERALS:
        return None
    column = pl.col(file_name)
    if wanted.is_empty():
        return column.is_null() if null_is_true else _NEVER
    if unwanted.is_empty():
        return _ALWAYS if null_is_true else column.is_not_null()
    few = min(wanted, unwanted, key=len)
    condition = column == few[0] if len(few) == 1 else column.is_in(few.to_list())
    if few is unwanted:
        condition = ~condition
    return (condition | column.is_null()) if null_is_true else condition


def _all(conditions: Sequence[pl.Expr]) -> pl.Expr | None:
    return reduce(pl.Expr.and_, conditions) if conditions else None
