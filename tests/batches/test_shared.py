"""One pass over batches, shared by threads."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import dao_polars as dao


def taken(shared: Iterator[Any]) -> list[tuple[int, str, float]]:
    """What sixteen threads together take: of each cell its key, name and value of one gene."""
    got: list[list[tuple[int, str, float]]] = [[] for _ in range(16)]
    failed: list[BaseException] = []
    start = threading.Barrier(len(got))

    def take(mine: list[tuple[int, str, float]]) -> None:
        start.wait()
        try:
            for batch in shared:
                keys = batch.cells.ext.storage().to_list()
                mine += zip(keys, batch.obs["obs_name"], batch.x[:, 0].tolist(), strict=True)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=take, args=(mine,)) for mine in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    return [cell for mine in got for cell in mine]


@pytest.mark.parametrize("mapped", [False, True], ids=["bare", "as torch and others map it"])
def test_threads_that_share_a_pass_get_every_cell_once(mixed: Any, mapped: bool) -> None:
    store, studies = mixed
    expected = store.scan().select("cell").collect()["cell"].ext.storage().to_list()
    values: dict[str, float] = {}
    for adata in studies.values():
        values |= zip(adata.obs_names, adata[:, "g7"].X.toarray()[:, 0].tolist(), strict=True)
    for seed in range(5):
        shared = iter(
            store.scan().dao.iter_batches(2, genes=["g7"], shuffle=True, seed=seed, layout="dense")
        )
        cells = taken(map(copy.copy, shared) if mapped else shared)
        assert sorted(key for key, _, _ in cells) == expected
        assert all(values[name] == value for _, name, value in cells)


def test_a_closed_pass_gives_no_more(mixed: Any) -> None:
    batches = mixed[0].scan().dao.iter_batches(2, genes=["g7"])
    epoch = batches.iterate()
    next(epoch)
    epoch.close()
    assert list(epoch) == []
    assert sum(len(batch) for batch in batches) == batches.n_obs


def test_a_transform_that_asks_for_the_next_batch_is_an_error_and_no_deadlock(mixed: Any) -> None:
    epoch: Any = None

    def transform(batch: dao.Batch) -> Any:
        return next(epoch)

    epoch = iter(mixed[0].scan().dao.iter_batches(2, genes=["g7"], transform=transform))
    with pytest.raises(ValueError, match="already executing"):
        next(epoch)
