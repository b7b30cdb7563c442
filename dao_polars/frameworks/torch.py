"""Batches as PyTorch tensors: what ``.dao.to_torch`` gives.

Owns the dataset that a DataLoader iterates, and how its workers agree on the epoch. Imports torch:
only ``frame`` imports this, when it is asked to.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.context import get_spawning_popen
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch.utils.data import IterableDataset, get_worker_info

from ..batches.batch import Batch
from ..batches.batches import BatchIterable, transformed
from ..batches.position import EpochPosition
from ..errors import DaoTypeError, DaoValueError
from .device import ahead
from .encoding import ObsEncoder
from .worker_epochs import WorkerEpochs


@dataclass
class _Tensors:
    """A batch as a dict of tensors. A class, not a closure: spawned workers get a pickled copy."""

    encoder: ObsEncoder
    pair_encoder: ObsEncoder | None
    device: torch.device | None
    pins: bool

    def __call__(self, batch: Batch[Any]) -> dict[str, Any]:
        values = self._entries(batch, self.encoder)
        if batch.pair is not None and self.pair_encoder is not None:
            pair = self._entries(batch.pair, self.pair_encoder)
            values |= {f"pair/{name}": value for name, value in pair.items()}
        return values

    def _entries(self, batch: Batch[Any], encoder: ObsEncoder) -> dict[str, Any]:
        values: dict[str, Any] = {k: self._matrix(x) for k, x in batch.arrays().items()}
        for name, column in encoder.encode(batch.obs).items():
            values[name] = column if isinstance(column, list) else self._tensor(column)
        return values

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self.pins:
            tensor = tensor.pin_memory()
        return tensor if self.device is None else tensor.to(self.device, non_blocking=self.pins)

    def _matrix(self, x: NDArray[Any] | csr_matrix) -> torch.Tensor:
        if isinstance(x, np.ndarray):
            return self._tensor(x)
        # Each on its own, as they are: torch takes 32-bit indices. The reader has checked them.
        arrays = map(self._tensor, (x.indptr, x.indices, x.data))
        return torch.sparse_csr_tensor(*arrays, size=x.shape, check_invariants=False)


def _device(device: Any) -> torch.device | None:
    """A device of this machine, as torch names it."""
    if device is None:
        return None
    try:
        found = torch.device(device)
        if found.type == "cuda":
            # Counted, not used: that would begin on the first device, before a rank has its own.
            n = torch.cuda.device_count()
            if (found.index or 0) >= n:
                raise DaoValueError(f"device={device!r}: torch finds {n} CUDA devices")
        else:
            torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise DaoValueError(f"device={device!r}: {error}") from None
    return found


def _dataset_state(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state of the dataset in that of a torchdata ``StatefulDataLoader``."""
    if not isinstance(state, Mapping):
        return state
    if "dataset_state" in state:
        return cast(Mapping[str, Any], state["dataset_state"])
    if "_snapshot" not in state:
        return state
    workers = [w["dataset_state"] for w in state["_snapshot"]["_worker_snapshots"].values()]
    whole = {k: v for k, v in workers[0].items() if k not in ("worker", "workers", "taken")}
    if state.get("_iterator_finished"):
        return whole | {"epoch": whole["epoch"] + 1, "cells": 0, "rounds": 0}
    # Workers take turns: what they have given, and what was given since they were asked.
    given = sum(worker.get("taken", 0) for worker in workers)  # one alone counts rounds
    return whole | {"rounds": whole["rounds"] + given + state.get("_steps_since_snapshot", 0)}


class TorchDataset(IterableDataset):
    """Batches as dicts of tensors: ``X``, ``layers/…``, ``obsm/…`` and the columns of obs; with
    ``pair_with`` those of the control cells too, as ``pair/X`` and so on.

    Iterate it bare, or in ``DataLoader(dataset, batch_size=None)``. ``num_workers=0`` is the way
    to go: batches are read ahead on all cores by threads of the core, and need not be sent from
    process to process. With workers, each reads a share, and the batches come in the same order.

    Attributes:
        batches: the ``BatchIterable`` behind it.
        classes_: for each categorical column its labels, (n_classes,), by code.
    """

    def __init__(
        self,
        batches: BatchIterable[Any],
        *,
        transform: Callable[[Any], Any] | None,
        pin_memory: bool,
        device: str | int | torch.device | None,
    ) -> None:
        if transform is not None and not callable(transform):
            raise DaoTypeError(f"transform={transform!r}; expected a function of a dict of tensors")
        place = _device(device)
        if pin_memory and not torch.cuda.is_available():
            raise DaoValueError("pin_memory=True needs a CUDA device, and torch finds none")
        pins = pin_memory or (place is not None and place.type == "cuda")
        encoder, pair = ObsEncoder(batches.rows), None
        self.classes_ = dict(encoder.classes)
        if batches.pairing is not None:
            pair = ObsEncoder(batches.pairing.controls)
            self.classes_ |= {f"pair/{name}": found for name, found in pair.classes.items()}
        self.batches = batches
        self._tensors = _Tensors(encoder, pair, place, pins)
        self._transform = transform
        self._epochs = WorkerEpochs()
        #: Whether the state to go on from was loaded by this very worker.
        self._loaded_here = False

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        if worker is None:
            batches = self.batches.iterate(through=self._made)
            self._epochs.set(EpochPosition(self.batches.epoch))
            return batches
        if self._tensors.pins:
            raise DaoValueError(
                "pin_memory=True or a CUDA device in a worker, which has no CUDA; use "
                "num_workers=0, or leave it to the DataLoader and the loop"
            )
        resumed = self.batches.epoch if self._loaded_here else None
        position = self._epochs.begin(worker.seed - worker.id, worker.id, resumed)
        if not self._loaded_here:
            self.batches.go_to(position)
        self._loaded_here = False
        return self.batches.iterate(worker.id, worker.num_workers, self._made)

    def _made(self, batches: Iterator[Batch[Any]]) -> Iterator[Any]:
        """What is given of an epoch's batches."""
        made: Iterator[Any] = map(self._tensors, batches)
        if self._tensors.device is not None:
            made = ahead(made, self._tensors.device)
        return transformed(made, self._transform)

    @property
    def epoch(self) -> int:
        """The epoch that the next pass gives; see ``BatchIterable``."""
        following, of_workers = self._epochs.next_epoch()
        return following if of_workers and get_worker_info() is None else self.batches.epoch

    def set_epoch(self, epoch: int) -> None:
        """Makes ``epoch`` the next one; see ``BatchIterable.set_epoch``."""
        self.batches.set_epoch(epoch)
        self._epochs.set(self.batches.position())

    def state_dict(self) -> dict[str, Any]:
        """The state to go on from; see ``BatchIterable.state_dict``.

        Raises:
            DaoValueError: the batches come from the workers of a DataLoader, who alone know.
        """
        if get_worker_info() is None and self._epochs.next_epoch()[1]:
            raise DaoValueError(
                "the batches come from a DataLoader's workers, which know where they are; take the "
                "state of torchdata's StatefulDataLoader, or use num_workers=0"
            )
        return self.batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state; see ``BatchIterable.load_state_dict``.

        Takes the state of a ``StatefulDataLoader`` over such a dataset, too: for another loader,
        with any number of workers.
        """
        self.batches.load_state_dict(_dataset_state(state))
        self._loaded_here = get_worker_info() is not None
        if not self._loaded_here:
            self._epochs.set(self.batches.position())

    def __getstate__(self) -> dict[str, Any]:
        rank = self.batches.rank()
        if get_spawning_popen() is None or rank[1] == 1:
            return self.__dict__
        # A process that is spawned does not know of this one's rank.
        batches = copy.copy(self.batches)
        batches.share = rank
        return self.__dict__ | {"batches": batches}
