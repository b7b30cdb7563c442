"""The settings of the epochs over a selection: which cells, how often, in what order.

Owns the checking of these settings and the weights, classes and groups that they name. The
permutations and draws themselves are the Rust core's.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from .._args import Column, codes, column_values, integer
from .._core import Sampler
from ..errors import DaoTypeError, DaoValueError

Shuffle = bool | Literal["block"]


class Sampling:
    """The epochs over a frame's rows.

    Attributes:
        n_samples: cells an epoch (before ``drop_last``).
        sampler: the core's, of these settings.
        seed: what fixes the epochs; drawn if none was given. None where nothing is random.
        seed_given: whether it was given.
        settings: what makes an epoch what it is, but for the seed and the cells, as JSON has it.
    """

    def __init__(
        self,
        frame: pl.DataFrame,
        batch_size: int,
        *,
        shuffle: Shuffle,
        block_size: int,
        window: int,
        seed: int | None,
        weights: Column | None,
        balance: Column | None,
        class_weights: Mapping[Any, float] | None,
        replacement: bool | None,
        n_samples: int | None,
        group_by: Column | Iterable[Column] | None,
        drop_last: bool,
    ) -> None:
        self.batch_size = integer("batch_size", batch_size, 1, 2**32 - 1)
        if shuffle != "block" and not isinstance(shuffle, (bool, np.bool_)):
            raise DaoTypeError(f"shuffle={shuffle!r}; expected True, False or 'block'")
        if not isinstance(drop_last, (bool, np.bool_)):
            raise DaoTypeError(f"drop_last={drop_last!r}; expected True or False")
        if replacement is not None and not isinstance(replacement, (bool, np.bool_)):
            raise DaoTypeError(f"replacement={replacement!r}; expected True, False or None")
        drawn = _weights(frame, weights, balance, class_weights)
        replacement = drawn is not None if replacement is None else bool(replacement)
        random = drawn is not None or replacement or n_samples is not None
        if random and shuffle == "block":
            raise DaoValueError("cells are drawn one by one: shuffle='block' has no meaning then")
        if n_samples is not None:
            n_samples = integer("n_samples", n_samples, 0, 2**32 - 1)
        elif random:
            possible = frame.height if drawn is None else int(np.count_nonzero(drawn))
            if frame.height and not possible:
                raise DaoValueError("no cell has a weight above 0: there is nothing to draw")
            n_samples = frame.height if replacement else possible
        if seed is not None:
            seed = integer("seed", seed, 0, 2**64 - 1)
        self.seed_given = seed is not None
        shuffled = bool(shuffle) or random
        if seed is None and shuffled:
            seed = secrets.randbits(63)
        window = integer("window", window, 1, 2**32 - 1)
        block_size = integer("block_size", block_size, 1, 2**32 - 1)
        blocks = shuffle == "block"
        groups = None if group_by is None else codes(frame, group_by, "group_by")[0]
        settings: dict[str, Any] = {
            "batch_size": self.batch_size,
            "block_size": block_size if blocks else None,
            "n_samples": n_samples,
            "replacement": replacement,
            "drop_last": bool(drop_last),
        }
        own = {"n": frame.height, "window": window, "weights": drawn, "groups": groups}
        self._options = settings | own
        self.settings = settings | {
            "shuffle": "block" if blocks else shuffled,
            "window": window if blocks else None,
            "weights": None if drawn is None else digest(drawn),
            "group_by": None if groups is None else digest(groups),
        }
        self.n_samples = frame.height if n_samples is None else n_samples
        self.reseed(seed if shuffled else None)

    def reseed(self, seed: int | None) -> None:
        """Makes the epochs those of this seed."""
        self.seed = seed
        self.sampler = Sampler(seed=seed, **self._options)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "sampler"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.reseed(self.seed)


def _weights(
    frame: pl.DataFrame,
    weights: Column | None,
    balance: Column | None,
    class_weights: Mapping[Any, float] | None,
) -> NDArray[np.float64] | None:
    if class_weights is not None and balance is None:
        raise DaoValueError("class_weights= needs balance=, the column whose classes they name")
    if weights is not None and balance is not None:
        raise DaoValueError("weights= and balance= both say how likely cells are; give one")
    if weights is not None:
        column = column_values(frame, weights, "weights")
        if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
            raise DaoTypeError(f"weights= are of type {column.dtype}; expected numbers")
        return np.ascontiguousarray(column.cast(pl.Float64).fill_null(float("nan")).to_numpy())
    if balance is None:
        return None
    column = column_values(frame, balance, "balance")
    if nulls := column.null_count():
        raise DaoValueError(
            f"balance= has no class for {nulls} of {len(column)} cells; filter them out, or give "
            "them one with fill_null"
        )
    numbers, distinct = codes(pl.DataFrame([column.alias("class")]), "class", "balance")
    counts = np.bincount(numbers, minlength=distinct.height)
    share = np.ones(distinct.height)
    if class_weights is not None:
        if not isinstance(class_weights, Mapping):
            raise DaoTypeError(f"class_weights={class_weights!r}; expected a dict of class: weight")
        labels = distinct.to_series().to_list()
        missing = [label for label in labels if label not in class_weights]
        unknown = [label for label in class_weights if label not in labels]
        if missing or unknown:
            raise DaoValueError(
                f"class_weights= must name the classes of the selection; without a weight: "
                f"{missing or 'none'}; not in the selection: {unknown or 'none'}"
            )
        given = [class_weights[label] for label in labels]
        wrong = f"class_weights={dict(class_weights)!r}; expected numbers ≥ 0"
        if not all(isinstance(w, (int, float, np.number)) for w in given):
            raise DaoTypeError(wrong)
        share = np.array(given, dtype=np.float64)
        if not (np.isfinite(share).all() and (share >= 0).all()):
            raise DaoValueError(wrong)
    return np.asarray((share / counts)[numbers])


def digest(*parts: Any) -> str:
    """A fingerprint of arrays and JSON-able values."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(np.ascontiguousarray(part).data)
        else:
            sha.update(json.dumps(part, sort_keys=True).encode())
    return sha.hexdigest()[:32]
