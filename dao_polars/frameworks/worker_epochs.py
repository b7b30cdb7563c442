"""The epoch that the workers of a DataLoader are in.

A DataLoader makes its workers anew for each epoch, or keeps them; each has the dataset as it was
when it was made, and nobody tells it which epoch begins. So they agree in memory that they share.
Owns that agreement; knows no torch.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.context import get_spawning_popen
from typing import Any

from ..batches.position import EpochPosition

_ROWS = 256  # the last ones matter
_FIELDS = 8  # owner, set, times, workers, epoch, world_size, cells, rounds
_BY_OWNER = -1  # instead of a set of workers


class WorkerEpochs:
    """A table of the passes that were begun, newest last, that forked and spawned workers share.

    A pass is known by the process whose DataLoader it is, by the random number which that gave to
    its set of workers, and by how often these have begun one before.
    """

    def __init__(self, epoch: int = 0, table: Any = None) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._table = table or spawn.Array("q", 1 + _ROWS * _FIELDS)
        #: By owner and set, how many passes this process, a worker, has begun.
        self._begun: dict[tuple[int, int], int] = {}
        if epoch:
            self.set(EpochPosition(epoch))

    def set(self, position: EpochPosition) -> None:
        """Says, in the process whose DataLoader it is, where the next pass begins."""
        with self._table:
            self._append(os.getpid(), _BY_OWNER, 0, 0, position)

    def next_epoch(self) -> tuple[int, bool]:
        """The next epoch of this process's DataLoaders, and whether workers have begun one."""
        with self._table:
            for row in self._newest(os.getpid()):
                fields = self._table[row : row + _FIELDS]
                of_workers = fields[1] != _BY_OWNER
                return fields[4] + of_workers, of_workers
        return 0, False

    def begin(self, number: int, worker: int, resumed: int | None) -> EpochPosition:
        """The position where a worker begins: that of its set, which the first worker sets.

        All workers of a set have one ``number``, and other sets another. ``resumed`` is the epoch
        that this worker's own state says.
        """
        parent = multiprocessing.parent_process()
        owner = os.getppid() if parent is None or parent.pid is None else parent.pid
        number &= 2**62 - 1
        times = self._begun.get((owner, number), 0)
        self._begun[owner, number] = times + 1
        bit = 1 << min(worker, 62)
        following = None
        with self._table:
            for row in self._newest(owner):
                _, of_set, passes, workers, *begun = self._table[row : row + _FIELDS]
                if of_set == _BY_OWNER:
                    following = following or EpochPosition(*begun)
                    break
                following = following or EpochPosition(begun[0] + 1)
                if (of_set, passes) == (number, times):
                    if workers & bit:
                        break  # a DataLoader that was seeded gives each set the same number
                    self._table[row + 3] = workers | bit
                    return EpochPosition(*begun)
            if resumed is not None or following is None:
                following = EpochPosition(resumed or 0)
            self._append(owner, number, times, bit, following)
        return following

    def _newest(self, owner: int) -> Iterator[int]:
        """The rows of an owner, from the newest on."""
        n = self._table[0]
        for i in range(n - 1, max(n - _ROWS, 0) - 1, -1):
            row = 1 + i % _ROWS * _FIELDS
            if self._table[row] == owner:
                yield row

    def _append(
        self, owner: int, number: int, times: int, workers: int, position: EpochPosition
    ) -> None:
        n = self._table[0]
        row = 1 + n % _ROWS * _FIELDS
        where = [position.epoch, position.world_size, position.cells, position.rounds]
        self._table[row : row + _FIELDS] = [owner, number, times, workers, *where]
        self._table[0] = n + 1

    def __reduce__(self) -> tuple[Any, ...]:
        if get_spawning_popen() is not None:
            return WorkerEpochs, (0, self._table)
        return WorkerEpochs, (self.next_epoch()[0],)
