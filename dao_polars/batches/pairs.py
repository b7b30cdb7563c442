"""Control cells beside the cells of each batch: for each one of its own group, drawn at random.

Owns which control each cell gets: a pure function of the seed, the epoch and the cell's row, so
that ranks, workers and where an epoch is resumed change nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from .._args import Column, column_values, columns_of, integer
from .._core import EpochPlan
from ..errors import DaoTypeError, DaoValueError
from ..genes.request import Duplicates, Genes
from ..select.selection import Missing, Selection, select
from .rows import Rows
from .sampling import digest

#: What becomes of cells whose group has no controls.
Unpaired = Literal["error", "drop"]


class Pairing:
    """Which control cell each cell of a selection gets in each epoch.

    Attributes:
        controls: the rows that pairs are read of.
        seed: of the draws.
        seed_given: whether it was given.
        settings: what makes the pairs what they are, but for the seed, as JSON has it.
    """

    def __init__(self, controls: Rows, groups: Groups, seed: int | None) -> None:
        self.controls = controls
        self._groups = groups
        self.seed_given = seed is not None
        self.seed = secrets.randbits(63) if seed is None else integer("seed", seed, 0, 2**64 - 1)
        self.settings = {
            "pair_with": digest(controls.store.id, controls.cells.numpy()),
            "pair_by": digest(groups.of_cell, groups.members, groups.ends),
        }

    def reseed(self, seed: int) -> None:
        """Makes the pairs those of this seed."""
        self.seed, self.seed_given = seed, True

    def plan(self, plan: EpochPlan, epoch: int) -> EpochPlan:
        """The plan of the controls of a plan's cells, batch by batch and row by row."""
        ends = plan.ends()
        n = int(ends[-1]) if len(ends) else 0
        return plan.with_order(self.drawn(plan.order(0, n), epoch))

    def drawn(self, rows: NDArray[np.uint32], epoch: int) -> NDArray[np.uint32]:
        """The positions of the controls of some rows of the selection, (n,)."""
        groups = self._groups
        group = groups.of_cell[rows]
        starts = groups.ends[group] - groups.sizes[group]
        places = starts + scaled(hashed(self.seed, epoch, rows), groups.sizes[group])
        drawn: NDArray[np.uint32] = groups.members[places]
        return drawn


class Groups:
    """The groups of cells that have controls, and these.

    Attributes:
        of_cell: the group of each cell, (n_cells,).
        members: positions of controls, group by group.
        sizes: the controls of each group.
        ends: where each group's end in ``members``.
    """

    def __init__(self, of_cell: NDArray[np.uint32], of_control: NDArray[np.uint32], n: int) -> None:
        self.of_cell = of_cell
        self.members = np.argsort(of_control, kind="stable").astype(np.uint32)
        self.sizes = np.bincount(of_control, minlength=n)
        self.ends = np.cumsum(self.sizes)


def controls_of(
    selection: Selection,
    pair_with: pl.LazyFrame | pl.DataFrame,
    pair_by: list[Column],
    obs: Iterable[str] | bool | None,
    missing: Missing,
) -> Selection:
    """The controls, with those columns of obs that the batches have, or all of their own.

    Raises:
        DaoTypeError: ``pair_with`` is no frame.
        Everything that ``select`` raises.
    """
    if not isinstance(pair_with, (pl.LazyFrame, pl.DataFrame)):
        raise DaoTypeError(f"pair_with={pair_with!r}; expected a LazyFrame or DataFrame")
    frame = pair_with.lazy()
    known = frame.collect_schema()
    wanted = True if obs is None else [name for name in selection.obs_names if name in known]
    return select(frame, None, wanted, columns_of(pair_by), missing)


def paired(
    selection: Selection,
    controls: Selection,
    by: list[Column],
    unpaired: Unpaired,
) -> tuple[Selection, Groups]:
    """The cells that have controls, and the groups of both.

    Raises:
        DaoValueError: no controls, or none for some of the cells' groups.
    """
    if unpaired not in get_args(Unpaired):
        raise DaoValueError(f"unpaired={unpaired!r}; expected 'error' or 'drop'")
    if not len(controls.cells):
        raise DaoValueError("pair_with= has no cells; does a filter match nothing?")
    cells, others = (_values(s.frame, by) for s in (selection, controls))
    for ours, theirs in zip(cells, others, strict=True):
        if ours.dtype != theirs.dtype:
            raise DaoTypeError(
                f"pair_by= compares {ours.name!r} of type {ours.dtype} with one of type "
                f"{theirs.dtype} among the controls; cast one of them"
            )
    names = cells.columns
    # Nulls are no group: of a cell whose batch nobody knows no control is known either.
    groups = others.drop_nulls().unique(maintain_order=True).with_row_index("\0group")
    found, of_control = (
        frame.join(groups, on=names, how="left", maintain_order="left")["\0group"]
        for frame in (cells, others)
    )
    none = found.is_null()
    if none.any():
        if unpaired == "error":
            lacking = cells.filter(none).unique(maintain_order=True)
            shown = "; ".join(
                ", ".join(f"{k}={v!r}" for k, v in row.items())
                for row in lacking.head(3).to_dicts()
            )
            raise DaoValueError(
                f"{none.sum():,} of {len(found):,} cells have no control of their group, of "
                f"{lacking.height:,} groups: {shown}{'; …' if lacking.height > 3 else ''}. Widen "
                'pair_with=, take fewer columns in pair_by=, or leave them out: unpaired="drop"'
            )
        selection = _kept(selection, ~none.to_numpy())
        found = found.drop_nulls()
    # A control without a group is drawn for nobody: it goes to one past the last.
    n = groups.height
    made = Groups(found.to_numpy(), of_control.fill_null(n).to_numpy().astype(np.uint32), n + 1)
    return selection, made


def common_genes(
    selection: Selection,
    controls: Selection,
    genes: Genes,
    gene_key: str | None,
    duplicates: Duplicates,
) -> Genes:
    """The genes that cells and controls are read of, which are the same.

    Raises:
        DaoValueError: no ``genes``, and other feature spaces.
    """
    ours, theirs = (
        s.gene_names(s.resolve(genes, gene_key, duplicates), gene_key)
        for s in (selection, controls)
    )
    if genes is None:
        if not ours.equals(theirs):
            raise DaoValueError(
                "the cells of pair_with= have another feature space than the selection; say with "
                'genes= which columns both have: a list, "intersection" or "union"'
            )
        return None
    if isinstance(genes, str) and genes == "intersection":
        return ours.filter(ours.is_in(theirs.implode())).to_list()
    return list(dict.fromkeys([*ours, *theirs]))


def _values(frame: pl.DataFrame, columns: list[Any]) -> pl.DataFrame:
    """The values that groups are made of: categories as text."""
    values = [column_values(frame, column, "pair_by") for column in columns]
    if not values:
        raise DaoValueError("pair_by=[] names no column; expected those that pairs have in common")
    return pl.DataFrame(
        [
            (v.cast(pl.String) if isinstance(v.dtype, (pl.Categorical, pl.Enum)) else v).alias(
                f"{i} {v.name}"
            )
            for i, v in enumerate(values)
        ]
    )


def _kept(selection: Selection, stay: NDArray[np.bool_]) -> Selection:
    """Some of a selection's cells."""
    keys = selection.keys[stay]
    numbers = sorted(np.unique(keys >> np.uint64(32)).tolist())
    cells = type(selection.cells)([keys])
    return replace(selection, cells=cells, numbers=numbers, frame=selection.frame.filter(stay))


def hashed(seed: int, epoch: int, rows: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """A random number of 64 bits for each row: two rounds of SplitMix64's finisher.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators",
    <https://doi.org/10.1145/2660193.2660195>.
    """
    state = np.full(len(rows), seed, np.uint64)
    for number in (np.full(1, epoch, np.uint64), rows.astype(np.uint64)):
        state = state + number * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x632BE59BD9B4E019)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def scaled(random: NDArray[np.uint64], sizes: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """A number below each size, of a random number of 64 bits: its upper 32, as a share."""
    upper = random >> np.uint64(32)
    return ((upper * sizes.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
