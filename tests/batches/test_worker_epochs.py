"""Workers of a DataLoader agree on the epoch; here they are plain processes."""

from __future__ import annotations

import multiprocessing

import pytest

from dao_polars.batches.position import EpochPosition
from dao_polars.frameworks.worker_epochs import WorkerEpochs


def worker(epochs: WorkerEpochs, number: int, i: int, passes: int, out) -> None:
    out.put((i, [epochs.begin(number, i, None) for _ in range(passes)]))


def workers(epochs, number, ids, passes=1, context="fork") -> dict[int, list[EpochPosition]]:
    """What some processes of one set begin with."""
    made = multiprocessing.get_context(context)
    out = made.Queue()
    processes = [made.Process(target=worker, args=(epochs, number, i, passes, out)) for i in ids]
    for process in processes:
        process.start()
    found = dict(out.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    return found


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_sets_of_workers_count_on(context):
    epochs = WorkerEpochs()
    for epoch, number in enumerate((7, 8, 9)):
        found = workers(epochs, number, (0, 1, 2), context=context)
        assert found == {i: [EpochPosition(epoch)] for i in range(3)}
    assert epochs.next_epoch() == (3, True)


def test_workers_that_stay_count_for_themselves():
    found = workers(WorkerEpochs(), 5, (0, 1), passes=3)
    assert found == {i: [EpochPosition(0), EpochPosition(1), EpochPosition(2)] for i in (0, 1)}


def test_sets_at_once_do_not_mix():
    epochs = WorkerEpochs()
    assert workers(epochs, 5, (0,)) == {0: [EpochPosition(0)]}
    assert workers(epochs, 6, (0,)) == {0: [EpochPosition(1)]}
    assert workers(epochs, 5, (1,)) == {1: [EpochPosition(0)]}
    assert workers(epochs, 6, (1,)) == {1: [EpochPosition(1)]}


def test_sets_that_were_seeded_alike_are_told_apart():
    epochs = WorkerEpochs()
    for epoch in range(3):
        assert workers(epochs, 5, (0, 1)) == {0: [EpochPosition(epoch)], 1: [EpochPosition(epoch)]}


def test_a_place_that_was_set_is_for_the_next_pass():
    epochs = WorkerEpochs()
    workers(epochs, 5, (0, 1))
    epochs.set(EpochPosition(4, 2, 100, 3))
    assert epochs.next_epoch() == (4, False)
    assert workers(epochs, 6, (0, 1)) == {i: [EpochPosition(4, 2, 100, 3)] for i in (0, 1)}
    assert workers(epochs, 7, (0, 1)) == {i: [EpochPosition(5)] for i in (0, 1)}


def test_a_worker_may_know_better():
    epochs = WorkerEpochs()
    assert epochs.begin(3, 0, 6) == EpochPosition(6)
    assert epochs.begin(4, 0, None) == EpochPosition(7)


def test_old_passes_are_forgotten():
    epochs = WorkerEpochs()
    for epoch in range(600):
        assert epochs.begin(epoch, 0, None) == EpochPosition(epoch)
