"""The tokens of foundation models in numpy, as their sources have them: what ours have to equal.

Column ``i`` of a row is gene ``i`` of the vocabulary. Ranks are those of Geneformer's
``tokenizer.py``, bins those of scGPT's ``preprocess.py`` with ``side="one"``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MASK = (1 << 64) - 1


def ranked(
    row: NDArray[np.float64], tokens: NDArray[np.int64], medians: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The tokens of a cell, highest value over median first; ties in the vocabulary's order."""
    genes = np.flatnonzero(row > 0)
    return tokens[genes[np.argsort(-(row[genes] / medians[genes]), kind="stable")]]


def mix(state: int) -> int:
    """The number of SplitMix64 that follows a state."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def binned(
    row: NDArray[np.float64],
    tokens: NDArray[np.int64],
    n_bins: int,
    room: int,
    seed: int,
    epoch: int,
    key: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The tokens of a cell and their bins, at most ``room``: those of the lowest numbers drawn."""
    genes = np.flatnonzero(row)
    if not len(genes):
        return tokens[genes], genes
    values = row[genes]
    bins = np.digitize(values, np.quantile(values, np.linspace(0, 1, n_bins - 1)))
    cell = mix(mix(mix(seed) ^ epoch) ^ key)
    drawn = sorted(range(len(genes)), key=lambda i: mix(cell ^ int(tokens[genes[i]])))
    kept = np.sort(np.array(drawn[:room], dtype=int))
    return tokens[genes[kept]], bins[kept]
