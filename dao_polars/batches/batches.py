"""Mini-batches: a sized, re-iterable view of a selection's expression.

Owns epochs as a user sees them: which comes next, and where it is. Which cells come when is
``sampling``'s, where an epoch goes on ``position``'s, what is read of the cells ``matrices``' and
``rows``', and their controls are ``pairs``'; reading and decoding are the Rust core's.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import polars as pl

from .._args import Column, codes, integer
from .._warn import tell, warn
from ..errors import DaoTypeError, DaoValueError
from ..select.selection import Selection
from . import show
from .batch import Batch
from .matrices import Matrices
from .pairs import Pairing
from .position import VERSION, EpochPosition, check_rank, check_same, find_rank, position_of
from .rows import Rows
from .sampling import Sampling, digest

T = TypeVar("T")


class EpochBatches(Iterator[T]):
    """The batches of an epoch. Threads may share it: each batch is given to one of them.

    ``close()``, or dropping it, ends the reading ahead.
    """

    def __init__(self, batches: Generator[T, None, None]) -> None:
        self._batches = batches
        # one thread alone may be in a generator; a transform that asks for more gets its error
        self._lock = threading.RLock()

    def __next__(self) -> T:
        with self._lock:
            return next(self._batches)

    def close(self) -> None:
        """Ends the epoch: there are no more batches."""
        with self._lock:
            self._batches.close()


#: What makes of an epoch's batches what is given.
Through = Callable[[Iterator[Batch[Any]]], Iterator[Any]]


def transformed(batches: Iterator[Any], transform: Callable[[Any], Any] | None) -> Iterator[Any]:
    """What ``transform`` makes of batches.

    No map: a StopIteration of the transform would end the epoch without a word.
    """
    return batches if transform is None else (transform(batch) for batch in batches)


def _with_pair(batch: Batch[Any], pair: Batch[Any] | None = None) -> Batch[Any]:
    return batch if pair is None else replace(batch, pair=pair)


MANY = 20_000
"""The cells from which on it is told that random order is slow over a network."""


class BatchIterable(Generic[T]):
    """What ``.dao.iter_batches`` returns: ``len()`` batches, and each ``iter()`` is an epoch.

    Pickles, with its store by path or URL, and may be iterated in forked processes. Threads may
    share one ``iter()``: each batch is given to one of them.

    Attributes:
        genes: the names of the columns of ``batch.x``, (n_vars,) String.
        n_obs: cells of the selection.
        n_vars: columns of ``batch.x``.
        seed: what fixes the order; drawn at random if none was given. None without shuffle.
        epoch: which epoch the next ``iter()`` gives, or goes on with; the first is 0.
        obs: the columns of ``batch.obs``, (n_obs,) each, in frame order.
    """

    def __init__(
        self,
        selection: Selection,
        sampling: Sampling,
        matrices: Matrices,
        transform: Callable[[Batch[Any]], T] | None,
        rank: int | None,
        world_size: int | None,
        prefetch_bytes: int,
        num_threads: int | None,
        pairing: Pairing | None = None,
    ) -> None:
        if transform is not None and not callable(transform):
            raise DaoTypeError(f"transform={transform!r}; expected a function of a Batch")
        self._budget = integer("prefetch_bytes", prefetch_bytes, 0, 2**63)
        threads = num_threads
        self._threads = None if threads is None else integer("num_threads", threads, 1, 1024)
        self.share = check_rank(rank, world_size)
        self.sampling = sampling
        self.matrices = matrices
        self.n_vars = matrices.n_vars
        self.n_obs = len(selection.cells)
        if not self.n_obs:
            warn("the frame has no cells, so there are no batches; does a filter match nothing?")
        far = any("://" in member.uri for member in selection.store.stores)
        if far and self.n_obs >= MANY and sampling.settings["shuffle"] is True:
            warn(
                f"each of {self.n_obs:,} cells in random order is asked of the server alone; "
                'shuffle="block" reads runs of neighbours, many times faster'
            )
        self.epoch = 0
        self._transform = transform
        self.pairing = pairing
        self.rows = Rows(selection, matrices)
        self._position: EpochPosition | None = None
        self._resumed: EpochPosition | None = None

    @property
    def obs(self) -> list[pl.Series]:  # noqa: D102  (an attribute, described above)
        return self.rows.obs

    @property
    def seed(self) -> int | None:  # noqa: D102  (an attribute, described above)
        return self.sampling.seed

    @cached_property
    def genes(self) -> pl.Series:  # noqa: D102  (an attribute, described above)
        return self.matrices.gene_names(self.rows.store)

    def __len__(self) -> int:
        """The number of batches of this rank in an epoch."""
        return self.sampling.sampler.n_batches(self.epoch, self.rank()[1])

    def estimated_bytes(self) -> int:
        """About the bytes of the matrices of all cells together, values and columns."""
        parts = [self.rows.store._by_number[number] for number in self.matrices.parts]
        rows = max(1, sum(part.n_obs for part in parts))
        values = sum(
            part.n_obs * part.n_vars / 8 if part.nnz is None else part.nnz for part in parts
        )
        total = 0.0
        for form in self.matrices.forms:
            size = np.dtype(form.dtype).itemsize
            dense = form.layout == "dense"
            total += form.n_columns * size if dense else values / rows * (4 + size)
        return int(self.n_obs * total)

    def rank(self) -> tuple[int, int]:
        """Rank and number of ranks: those given, else torch.distributed's or the environment's.

        Raises:
            DaoValueError: ranks that would each draw a seed of their own.
        """
        rank, size = self.share or find_rank()
        drawn = self.seed is not None and not self.sampling.seed_given
        drawn |= self.pairing is not None and not self.pairing.seed_given
        if size > 1 and drawn:
            raise DaoValueError(
                f"rank {rank} of {size} has no seed=, and each rank would shuffle differently; "
                "give all of them the same seed"
            )
        return rank, size

    def __iter__(self) -> Iterator[T]:
        return self.iterate()

    def iterate(
        self, worker: int = 0, workers: int = 1, through: Through | None = None
    ) -> EpochBatches[Any]:
        """The next epoch, or the rest of a resumed one: the share of one of a rank's workers.

        ``through`` is what batches go through before they are given, instead of ``transform``; it
        may take some ahead.
        """
        rank, world_size = self.rank()
        if self._resumed is None:
            position = EpochPosition(self.epoch, world_size, worker=worker, workers=workers)
        else:
            position = self._resumed.share(self.sampling, world_size, worker, workers)
        self._resumed = None
        self.epoch = position.epoch + 1
        self._position = position
        return EpochBatches(self._batches(position, rank, through or self._transformed))

    def _transformed(self, batches: Iterator[Batch[Any]]) -> Iterator[Any]:
        return transformed(batches, self._transform)

    def _batches(
        self, position: EpochPosition, rank: int, through: Through
    ) -> Generator[Any, None, None]:
        plan = self.sampling.sampler.plan(
            position.epoch,
            rank=rank,
            world_size=position.world_size,
            worker=position.worker,
            workers=position.workers,
            cells=position.cells,
            rounds=position.rounds,
            skip=position.taken,
        )
        all_batches = [self.rows.batches(plan, position.epoch, self._budget, self._threads)]
        if self.pairing is not None:
            controls = self.pairing.plan(plan, position.epoch)
            halves = position.epoch, self._budget // 2, self._threads
            all_batches = [
                self.rows.batches(plan, *halves),
                self.pairing.controls.batches(controls, *halves),
            ]
        try:
            for batch in through(itertools.starmap(_with_pair, zip(*all_batches, strict=True))):
                if position.workers == 1:
                    position.rounds += 1
                else:
                    position.taken += 1
                tell()
                yield batch
        finally:
            for batches in all_batches:
                batches.close()

    def set_epoch(self, epoch: int) -> None:
        """Makes ``epoch`` the next one, as PyTorch's samplers have it.

        A resumed epoch that is set again goes on where it was left.
        """
        epoch = integer("epoch", epoch, 0, 2**32 - 1)
        if self._resumed is not None and self._resumed.epoch != epoch:
            self._resumed = None
        if self.epoch != epoch:
            self._position = None
        self.epoch = epoch

    def go_to(self, position: EpochPosition) -> None:
        """Makes the next ``iter()`` begin there."""
        self.epoch = position.epoch
        self._position = None
        self._resumed = position if position.world_size else None

    def position(self) -> EpochPosition:
        """Where the next ``iter()`` begins, as ``go_to`` takes it."""
        return EpochPosition(self.epoch) if self._resumed is None else self._resumed

    def state_dict(self) -> dict[str, Any]:
        """Where this iterable is, as small JSON-able data: after the batch last given.

        ``load_state_dict`` on an iterable made alike gives the
        rest of the epoch and all later epochs, without reading what was skipped. After the last
        batch of an epoch, the next epoch comes next. ``store_version`` says which version of the
        store the batches are read of, None for sfaira's (of several stores a list of these); the
        same cells go on in another one.
        """
        at = self._resumed or self._position
        if at is None:
            at = EpochPosition(self.epoch, self.rank()[1])
        elif self._resumed is None and at.is_over(self.sampling):
            at = at.following()
        versions = [store.version for store in self.rows.store.stores]
        store = {"store_version": versions[0] if len(versions) == 1 else versions}
        pair = {} if self.pairing is None else {"pair_seed": self.pairing.seed}
        seeds = {"seed": self.seed, **pair}
        return {"version": VERSION, **seeds, **store, **at.numbers(), **self._identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where ``state_dict`` was taken.

        The number of ranks may have changed: they share what is left. ``seed`` is the state's
        where none was given.

        Raises:
            DaoValueError: the state is of another selection, or of other settings.
            DaoTypeError: it is no such state.
        """
        check_same(state, self.sampling, self._identity)
        position, seed = position_of(state), state.get("seed")
        if seed != self.seed:
            self.sampling.reseed(integer("state's seed", seed, 0, 2**64 - 1))
        self.sampling.seed_given |= seed is not None
        if self.pairing is not None:
            self.pairing.reseed(integer("state's pair_seed", state.get("pair_seed"), 0, 2**64 - 1))
        self._position = None
        over = position.is_over(self.sampling)
        self._resumed = position.following() if over else position
        self.epoch = self._resumed.epoch

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What an iterable must have in common with one whose state it goes on from."""
        settings = self.sampling.settings | self.matrices.settings
        if self.pairing is not None:
            settings |= self.pairing.settings
        return {
            "selection": digest(self.rows.store.id, self.rows.cells.numpy()),
            "settings": settings,
        }

    def batch_diversity(self, column: Column) -> float:
        """How mixed the batches of the next epoch are in a column of the frame, reading nothing.

        The mean over the batches (of all ranks) of the entropy of the column's values within a
        batch, by the entropy of the values of all that the epoch visits: 1 where batches are as
        mixed as the whole, 0 where each has one value. A batch of few cells cannot reach 1. NaN
        for no batches.

        Raises:
            DaoKeyError: no such column.
        """
        from scipy.stats import entropy  # not when dao_polars is imported: it takes long

        numbers, distinct = codes(pl.DataFrame(self.obs), column, "column")
        plan = self.sampling.sampler.plan(self.epoch)
        if not len(plan):
            return float("nan")
        n = distinct.height
        values = numbers[plan.order(0, self.sampling.n_samples)].astype(np.int64)
        whole = float(entropy(np.bincount(values, minlength=n)))
        if not whole:
            return 1.0
        ends = plan.ends().astype(np.int64)
        starts = np.concatenate([[0], ends[:-1]])
        total, step = 0.0, max(1, (1 << 24) // n)  # so many batches at a time
        for first in range(0, len(ends), step):
            window = slice(first, first + step)
            lengths = ends[window] - starts[window]
            batch = np.repeat(np.arange(len(lengths)), lengths)
            inside = values[starts[first] : ends[window][-1]]
            counts = np.bincount(batch * n + inside, minlength=len(lengths) * n)
            total += float(entropy(counts.reshape(len(lengths), n), axis=1).sum())
        return total / len(ends) / whole

    def __repr__(self) -> str:
        return show.loader_text(self)

    def _repr_html_(self) -> str:
        return show.loader_html(self)
