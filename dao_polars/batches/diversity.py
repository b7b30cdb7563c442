"""The mixing of batches: the entropy of a column within them.

Owns the formula. Reads nothing: a plan says which cells are in which batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from .._args import Column, codes
from .sampling import Sampling


def batch_diversity(obs: list[pl.Series], sampling: Sampling, epoch: int, column: Column) -> float:
    """The mixing of a column within batches; see ``BatchIterable.batch_diversity``."""
    numbers, distinct = codes(pl.DataFrame(obs), column, "column")
    plan = sampling.plan(epoch)
    if not len(plan):
        return float("nan")
    n = distinct.height
    values = numbers[plan.order(0, sampling.n_samples)].astype(np.int64)
    whole = _entropy(np.bincount(values, minlength=n))
    if not whole:
        return 1.0
    ends = plan.ends().astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    total, step = 0.0, max(1, (1 << 24) // max(n, 1))
    for first in range(0, len(ends), step):
        window = slice(first, first + step)
        lengths = ends[window] - starts[window]
        batch = np.repeat(np.arange(len(lengths)), lengths)
        inside = values[starts[first] : ends[window][-1]]
        counts = np.bincount(batch * n + inside, minlength=len(lengths) * n)
        total += float(_entropy(counts.reshape(len(lengths), n)).sum())
    return total / len(ends) / float(whole)


def _entropy(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Shannon's entropy of each row of counts, in nats."""
    total = counts.sum(axis=-1, keepdims=True)
    p = counts / np.maximum(total, 1)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    result: NDArray[np.float64] = -(p * logs).sum(axis=-1)
    return result
