"""The place of a process in an epoch: which rank it is, how far it is, and that as data.

Owns the position, the shape and the checks of what ``BatchIterable.state_dict`` gives, and finding
out the rank. Knows no batches. Imports torch only where it is imported already.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._args import integer
from ..errors import DaoTypeError, DaoValueError
from .sampling import Sampling

#: The version of what ``BatchIterable.state_dict`` gives.
VERSION = 1

#: The numbers of a position that a state has, and the least that each may be; some in workers only.
_NUMBERS = {"epoch": 0, "world_size": 1, "cells": 0, "rounds": 0}
_NUMBERS_OF_WORKERS = {"worker": 0, "workers": 1, "taken": 0}

#: Set by torchrun, by Open MPI and by others that start a process a rank.
_VARIABLES = (("RANK", "WORLD_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))


@dataclass
class EpochPosition:
    """A point in an epoch: ``rounds`` batches of each of ``world_size`` ranks, since the first
    ``cells``. A ``world_size`` of 0 is the epoch's beginning, for any number of ranks.

    Of one of several workers: ``taken`` batches of its own since then.
    """

    epoch: int
    world_size: int = 0
    cells: int = 0
    rounds: int = 0
    worker: int = 0
    workers: int = 1
    taken: int = 0
    #: The number of rounds of the epoch, once it was computed.
    total: int | None = None

    def is_over(self, sampling: Sampling) -> bool:
        """Whether no batch of the epoch is left."""
        if self.workers > 1:
            return False  # other workers may not be finished
        if self.total is None:
            if self.cells:
                left = {"world_size": self.world_size, "cells": self.cells}
                self.total = len(sampling.sampler.plan(self.epoch, **left))
            else:
                self.total = sampling.sampler.n_batches(self.epoch, self.world_size)
        return self.rounds >= self.total

    def following(self) -> EpochPosition:
        """The beginning of the next epoch."""
        return EpochPosition(self.epoch + 1, self.world_size)

    def share(
        self, sampling: Sampling, world_size: int, worker: int, workers: int
    ) -> EpochPosition:
        """The position for one of so many ranks' workers, who share what is left."""
        if (self.world_size, self.worker, self.workers) == (world_size, worker, workers):
            return self
        if self.taken:
            raise DaoValueError(
                f"the state is of worker {self.worker} of {self.workers}, and this is "
                f"worker {worker} of {workers}; resume with as many workers, or load the state of "
                "the whole loader into the dataset before the DataLoader is made"
            )
        shared = EpochPosition(self.epoch, world_size, self.cells, self.rounds, worker, workers)
        if self.world_size != world_size:
            shared.rounds = 0
            shared.cells = sampling.sampler.cells_after(
                self.epoch, world_size=self.world_size, cells=self.cells, rounds=self.rounds
            )
        return shared

    def numbers(self) -> dict[str, int]:
        """The position as data."""
        names = _NUMBERS if self.workers == 1 else _NUMBERS | _NUMBERS_OF_WORKERS
        return {name: getattr(self, name) for name in names}


def position_of(state: Mapping[str, Any]) -> EpochPosition:
    """The position in a state, checked."""
    least = _NUMBERS | _NUMBERS_OF_WORKERS
    found = {n: integer(f"state's {n}", state.get(n, at), at, 2**32 - 1) for n, at in least.items()}
    return EpochPosition(**found)


def check_same(state: Any, sampling: Sampling, identity: Mapping[str, Any]) -> None:
    """Refuses what is no state, or one of other cells or settings than ``identity`` has."""
    if not isinstance(state, Mapping) or state.get("version") != VERSION:
        raise DaoTypeError(
            f"expected what state_dict() gives (version {VERSION}), found {state!r:.200}"
        )
    theirs, settings = state.get("settings", {}), identity["settings"]
    if not isinstance(theirs, Mapping):
        raise DaoTypeError(f"expected what state_dict() gives, found settings {theirs!r:.200}")
    differ = [
        f"{name} was {theirs.get(name)!r} and is {settings.get(name)!r}"
        for name in sorted({*theirs, *settings})
        if theirs.get(name) != settings.get(name)
    ]
    drawn = sampling.seed is not None and not sampling.seed_given
    if state.get("seed") != sampling.seed and not (drawn and state.get("seed") is not None):
        differ.append(f"seed was {state.get('seed')!r} and is {sampling.seed!r}")
    if not differ and state.get("selection") != identity["selection"]:
        differ.append("the cells selected, their order, or the store are others")
    if differ:
        raise DaoValueError("the state is of something else: " + "; ".join(differ))


def check_rank(rank: int | None, world_size: int | None) -> tuple[int, int] | None:
    """The rank and the number of ranks, checked; None where neither was given."""
    if rank is None and world_size is None:
        return None
    if rank is None or world_size is None:
        raise DaoValueError(f"rank={rank!r} and world_size={world_size!r}; give both or neither")
    size = integer("world_size", world_size, 1, 2**31)
    return integer("rank", rank, 0, size - 1), size


def find_rank() -> tuple[int, int]:
    """The rank of this process, and of how many: torch.distributed's, else the environment's."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    for names in _VARIABLES:
        texts = [os.environ.get(name) for name in names]
        if None in texts:
            continue
        try:
            rank, size = (int(text or "") for text in texts)
        except ValueError:
            rank, size = 0, 0
        if not 0 <= rank < size:
            raise DaoValueError(
                f"the environment has {names[0]}={texts[0]} and {names[1]}={texts[1]}; expected a "
                "rank below the number of ranks. Mend them, or give rank= and world_size="
            )
        return rank, size
    return 0, 1
