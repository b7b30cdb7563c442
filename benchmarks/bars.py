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

    def anonymous(self, pattern: str) -> float | None:
        """Our most anonymous memory over that of the imported package."""
        return self.of(pattern, OURS, "", lambda run: run["anon"] - run["imports_anon"])

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
    memory = {
        of: [f.anonymous(pattern) for pattern in ("in order", "shuffled", "first epoch")]
        for of, f in ((cells, here), (large_cells, large))
    }
    shuffled, ordered = here.rate("shuffled"), here.rate("in order")
    blocks = here.rate("shuffled", "annbatch", *BLOCKS)
    two = "2 threads"
    return [
        Bar("shuffled, beside annbatch's best setting of blocks", shuffled, blocks, at_least=4),
        Bar(
            "shuffled, beside cellstream's `gather_rows` alone (2 threads)",
            shuffled,
            here.rate("shuffled", "cellstream", two),
            at_least=2,
        ),
        Bar(
            "in order, beside cellstream (2 threads)",
            ordered,
            here.rate("in order", "cellstream", two),
            at_least=2,
        ),
        Bar("shuffled, beside our own in order", shuffled, ordered, at_least=0.8),
        Bar(
            "the first epoch of a process, beside later ones",
            here.of(
                "first epoch",
                OURS,
                "",
                lambda run: run["cells"] / (run["seconds"] - run["opening"]),
            ),
            shuffled,
            at_least=0.85,
        ),
        Bar(
            "the same, with opening the store and selecting its cells",
            here.rate("first epoch"),
            shuffled,
            at_least=0.85,
        ),
        Bar(
            "batches of 256, beside batches of 1,024",
            here.rate("batches of 256"),
            shuffled,
            at_least=0.9,
        ),
        Bar(
            "shuffled through the selection, beside the whole epoch",
            here.rate("selection"),
            shuffled,
            at_least=0.8,
        ),
        Bar(
            "2,000 genes dense, shuffled, beside annbatch's CSR of all genes in blocks",
            here.rate("dense"),
            blocks,
            at_least=3,
        ),
        Bar(
            "writing from the .h5ad, shuffled, beside annbatch",
            here.rate("writing", OURS, "shuffled"),
            here.rate("writing", "annbatch", "shuffled"),
            at_least=3,
        ),
        Bar(
            "writing from the .h5ad, in order, beside cellstream from memory",
            here.rate("writing", OURS, "in order"),
            here.rate("writing", "cellstream", "from memory"),
            at_least=1,
        ),
        Bar(
            "bytes on disk, counts, beside cellstream",
            here.counts_bytes(),
            here.counts_bytes("cellstream"),
            at_most=0.95,
            unit="MB",
        ),
        *(
            Bar(
                f"anonymous memory above imports, epochs of {of:,} cells, beside 150 MB",
                None if None in each else max(each),
                150e6,
                at_most=1,
                unit="MB",
            )
            for of, each in memory.items()
        ),
    ]
