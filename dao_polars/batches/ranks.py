"""The processes that share an epoch: ranks of a distributed training, workers of a DataLoader.

Owns finding out which of them this process is. Imports torch only where it is imported already.
"""

from __future__ import annotations

import os
import sys

from .._args import integer
from ..errors import DaoValueError

#: Set by torchrun, by Open MPI and by others that start a process a rank.
_VARIABLES = (("RANK", "WORLD_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))


def check_rank(rank: int | None, world_size: int | None) -> tuple[int, int] | None:
    """The rank and the number of ranks, checked; None where neither was given.

    Raises:
        DaoTypeError, DaoValueError: one without the other, or no rank of that world.
    """
    if rank is None and world_size is None:
        return None
    if rank is None or world_size is None:
        raise DaoValueError(f"rank={rank!r} and world_size={world_size!r}; give both or neither")
    size = integer("world_size", world_size, 1, 2**31)
    return integer("rank", rank, 0, size - 1), size


def find_rank() -> tuple[int, int]:
    """The rank of this process, and of how many: torch.distributed's, else the environment's.

    Raises:
        DaoValueError: environment variables that contradict each other.
    """
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
