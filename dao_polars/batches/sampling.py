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
from .._core import EpochPlan, Sampler
from ..errors import DaoTypeError, DaoValueError

Shuffle = bool | Literal["block"]


class Sampling:
    """The epochs over a frame's rows.

    Attributes:
        n_obs: rows of the frame.
        n_samples: cells an epoch (before ``drop_last``).
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
        self.drop_last = bool(drop_last)
        self.n_obs = frame.height
        drawn = _weights(frame, weights, balance, class_weights)
        if replacement is None:
            replacement = drawn is not None
        random = drawn is not None or replacement or n_samples is not None
        if random and shuffle == "block":
            raise DaoValueError("cells are drawn one by one: shuffle='block' has no meaning then")
        if n_samples is not None:
            n_samples = integer("n_samples", n_samples, 0, 2**32 - 1)
        elif random:
            possible = self.n_obs if drawn is None else int(np.count_nonzero(drawn))
            if self.n_obs and not possible:
                raise DaoValueError("no cell has a weight above 0: there is nothing to draw")
            n_samples = self.n_obs if replacement else possible
        if seed is not None:
            seed = integer("seed", seed, 0, 2**64 - 1)
        self.seed_given = seed is not None
        shuffled = bool(shuffle) or random
        self.seed = (secrets.randbits(63) if seed is None else seed) if shuffled else None
        block = None
        window = integer("window", window, 1, 2**32 - 1)
        block_size = integer("block_size", block_size, 1, 2**32 - 1)
        if shuffle == "block":
            block = block_size
        groups = _groups(frame, group_by)
        self._random: dict[str, Any] = {
            "block_size": block,
            "window": window,
            "n_samples": n_samples,
            "replacement": bool(replacement),
            "weights": drawn,
            "groups": groups,
            "drop_last": self.drop_last,
        }
        self.settings: dict[str, Any] = {
            "batch_size": self.batch_size,
            "shuffle": "block" if block else shuffled,
            "block_size": block,
            "window": window if block else None,
            "n_samples": n_samples,
            "replacement": bool(replacement),
            "weights": None if drawn is None else digest(drawn),
            "group_by": None if groups is None else digest(groups),
            "drop_last": self.drop_last,
        }
        self.n_samples = self.n_obs if n_samples is None else n_samples
        self._core = self._sampler()

    @property
    def varies(self) -> bool:
        """Whether epochs have different numbers of batches."""
        return self._random["groups"] is not None and self._random["n_samples"] is not None

    def reseed(self, seed: int | None) -> None:
        """Makes the epochs those of another seed."""
        self.seed = seed
        self._core = self._sampler()

    def _sampler(self) -> Sampler:
        return Sampler(self.n_obs, self.batch_size, seed=self.seed, **self._random)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_core"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._core = self._sampler()

    def n_batches(self, epoch: int, world_size: int) -> int:
        """The number of batches of a rank."""
        return self._core.n_batches(epoch, world_size)

    def plan(self, epoch: int, **share: int) -> EpochPlan:
        """The plan of an epoch, or of a share of it; see ``_core.Sampler.plan``."""
        return self._core.plan(epoch, **share)

    def cells_after(self, epoch: int, *, world_size: int, cells: int, rounds: int) -> int:
        """The number of cells that all ranks together have had; see ``_core.Sampler``."""
        return self._core.cells_after(epoch, world_size=world_size, cells=cells, rounds=rounds)


def _groups(
    frame: pl.DataFrame, group_by: Column | Iterable[Column] | None
) -> NDArray[np.uint32] | None:
    return None if group_by is None else codes(frame, group_by, "group_by")[0]


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
        return _floats(column_values(frame, weights, "weights"))
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
        labels = distinct.to_series().to_list()
        _check_classes(labels, class_weights)
        given = [class_weights[label] for label in labels]
        if not all(isinstance(w, (int, float, np.number)) for w in given):
            raise DaoTypeError(f"class_weights={dict(class_weights)!r}; expected numbers ≥ 0")
        share = np.array(given, dtype=np.float64)
        if not (np.isfinite(share).all() and (share >= 0).all()):
            raise DaoValueError(f"class_weights={dict(class_weights)!r}; expected numbers ≥ 0")
    result: NDArray[np.float64] = (share / counts)[numbers].astype(np.float64)
    return result


def _check_classes(labels: list[Any], class_weights: Mapping[Any, float]) -> None:
    if not isinstance(class_weights, Mapping):
        raise DaoTypeError(f"class_weights={class_weights!r}; expected a dict of class: weight")
    missing = [label for label in labels if label not in class_weights]
    unknown = [label for label in class_weights if label not in labels]
    if missing or unknown:
        raise DaoValueError(
            f"class_weights= must name the classes of the selection; without a weight: "
            f"{missing or 'none'}; not in the selection: {unknown or 'none'}"
        )


def _floats(column: pl.Series) -> NDArray[np.float64]:
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise DaoTypeError(f"weights= are of type {column.dtype}; expected numbers")
    values = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.ascontiguousarray(values)


def digest(*parts: Any) -> str:
    """A fingerprint of arrays and JSON-able values."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(np.ascontiguousarray(part).data)
        else:
            sha.update(json.dumps(part, sort_keys=True).encode())
    return sha.hexdigest()[:32]
