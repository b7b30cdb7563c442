"""What dao-polars has to reach beside its peers, and whether it did.

A bar compares two medians of the same run. ``Figures`` finds them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

OURS = "dao_polars"
BLOCKS = ("256 × 64", "32 × 256")  # annbatch's block-shuffled settings


class Figures:
    """Medians by pattern, contender and setting; None where nothing was measured."""

    def __init__(
        self, runs: dict[tuple[str, str, str], list[dict[str, Any]]], written: dict
    ) -> None:
        self.runs = {key: [run for run in each if "error" not in run] for key, each in runs.items()}
        self.written = written

    def of(self, pattern: str, name: str, setting: str, value: Callable) -> float | None:
        runs = self.runs.get((pattern, name, setting))
        return median(map(value, runs)) if runs else None

    def rate(self, pattern: str, name: str = OURS, *settings: str) -> float | None:
        """Cells a second; of the fastest of several settings (all if none is named)."""
        keys = [key for key in self.runs if key[:2] == (pattern, name)]
        rates = [
            self.of(*key, lambda run: run["cells"] / run["seconds"])
            for key in keys
            if not settings or key[2] in settings
        ]
        return max((rate for rate in rates if rate is not None), default=None)

    def above_imports(self, pattern: str, held: bool = False) -> float | None:
        """Our peak memory over that of the imported package (less keys and obs: ``held``)."""
        return self.of(
            pattern,
            OURS,
            "",
            lambda run: run["peak"] - run["imports"] - (run["held"] if held else 0),
        )

    def counts_bytes(self, name: str = OURS) -> float | None:
        return self.written.get(name, {}).get("counts_bytes")


@dataclass(frozen=True)
class Bar:
    """``ours`` has to be ``at_least`` or ``at_most`` so many times ``theirs``."""

    text: str
    ours: float | None
    theirs: float | None
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "cells/s"

    @property
    def ratio(self) -> float | None:
        return None if self.ours is None or not self.theirs else self.ours / self.theirs

    @property
    def met(self) -> bool | None:
        if self.ratio is None:
            return None
        return self.ratio >= self.at_least if self.at_least else self.ratio <= self.at_most

    @property
    def needed(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least else f"≤ {self.at_most:g}"


def bars(here: Figures, large: Figures, cells: int, large_cells: int) -> list[Bar]:
    memory = [here.above_imports(pattern) for pattern in ("in order", "shuffled")]
    memory_large = [large.above_imports(pattern, held=True) for pattern in ("in order", "shuffled")]
    two = "2 threads"
    return [
        Bar(
            "shuffled, beside annbatch block-shuffled (its best setting)",
            here.rate("shuffled"),
            here.rate("shuffled", "annbatch", *BLOCKS),
            at_least=5,
        ),
        Bar(
            "shuffled, beside cellstream's `gather_rows` alone (2 threads)",
            here.rate("shuffled"),
            here.rate("shuffled", "cellstream", two),
            at_least=1.5,
        ),
        Bar(
            "shuffled through the selection, beside our whole epoch",
            here.rate("selection"),
            here.rate("shuffled"),
            at_least=0.8,
        ),
        Bar(
            "in order, beside cellstream (2 threads)",
            here.rate("in order"),
            here.rate("in order", "cellstream", two),
            at_least=1.2,
        ),
        Bar(
            "2,000 genes dense, shuffled, beside annbatch and slicing columns",
            here.rate("dense"),
            here.rate("dense", "annbatch"),
            at_least=5,
        ),
        Bar(
            "`to_anndata` of everything, beside `read_h5ad` (gzip)",
            here.rate("to_anndata"),
            here.rate("to_anndata", "anndata", "read_h5ad"),
            at_least=3,
        ),
        Bar(
            "`to_anndata` of everything, beside `read_zarr`",
            here.rate("to_anndata"),
            here.rate("to_anndata", "anndata", "read_zarr"),
            at_least=2,
        ),
        Bar(
            "writing from .h5ad, shuffled, beside annbatch",
            here.rate("writing", OURS, "shuffled"),
            here.rate("writing", "annbatch", "shuffled"),
            at_least=1,
        ),
        Bar(
            "size on disk, counts, beside cellstream",
            here.counts_bytes(),
            here.counts_bytes("cellstream"),
            at_most=1.05,
            unit="MB",
        ),
        Bar(
            f"peak memory above imports, epochs of {cells:,} cells, beside 400 MB",
            None if None in memory else max(memory),
            400e6,
            at_most=1,
            unit="MB",
        ),
        Bar(
            f"the same, {large_cells:,} cells, but for keys and obs",
            None if None in memory_large else max(memory_large),
            400e6,
            at_most=1,
            unit="MB",
        ),
    ]
