"""Lines that fail while a store is read or written: the right cells, or an error in time.

The servers are real, and so are the connections: ``tests/line.py`` is between. What a hostile
server says is in ``test_network.py``.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import dao_polars as dao
from tests.buckets import SERVING
from tests.conftest import ROOT, study
from tests.line import Line, line
from tests.servers import nginx

GENES = [f"g{i}" for i in range(1000)]
"""So many that shards are no part of the outline."""
SOON = {"retry_init_backoff_ms": "10", "retry_max_backoff_ms": "100", "retry_timeout_ms": "60000"}
"""Tries again at once, and for long."""
FEW = {**SOON, "max_retries": "2", "retry_timeout_ms": "3000"}
ORDERS = {
    "in order": {},
    "shuffled": {"shuffle": True, "seed": 1},
    "by blocks": {"shuffle": "block", "seed": 1, "block_size": 16, "window": 4},
}
ONCE = {
    "429": {"status": 429, "times": 6},
    "500": {"status": 500, "times": 6},
    "503": {"status": 503, "times": 6},
    "503 and when to come back": {"status": 503, "retry_after": 1, "times": 2},
    "every other": {"status": 503, "every": 2, "times": 20},
    "reset before": {"reset": "before", "times": 4},
    "reset after": {"reset": "after", "times": 4},
    "cut": {"cut": 100, "times": 3},
    "cut at once": {"cut": 0, "times": 3},
    "short": {"short": 100, "times": 3},
}
"""What passes."""
ALWAYS = {
    "429": {"status": 429},
    "500": {"status": 500},
    "503": {"status": 503},
    "reset before": {"reset": "before"},
    "reset after": {"reset": "after"},
    "cut": {"cut": 100},
    "short": {"short": 100},
    "chunks without end": {"endless": "chunks"},
    "hung": {"hang": True},
    "trickling": {"slow": 10},
}
"""What does not."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faults")
    for seed, dataset in enumerate(["a", "b", "c"]):
        adata = study(seed, 500, GENES)
        dao.write_dataset(root / "atlas", adata, dataset=dataset, progress=False)
    return root


@pytest.fixture(scope="module")
def near(root: Path) -> dao.Store:
    return dao.load_store(root / "atlas")


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nginx(root, tmp_path_factory.mktemp("nginx")) as address:
        yield address


@pytest.fixture
def far(server: str) -> Iterator[Line]:
    with line(server) as far:
        yield far


def load(far: Line, options: dict[str, str]) -> dao.Store:
    return dao.load_store(f"{far.url}/atlas", storage_options=options)


def content(batch: dao.Batch) -> tuple[object, ...]:
    return batch.obs["obs_name"].to_list(), batch.x.toarray().tolist()


def epoch(store: dao.Store, **options: object) -> list[tuple[object, ...]]:
    return [content(batch) for batch in store.scan().dao.iter_batches(64, **options)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("fault", ONCE)
def test_what_passes_is_waited_for(far: Line, near: dao.Store, fault: str, order: str) -> None:
    store = load(far, SOON)
    far.fault(path="/parts/", **ONCE[fault])
    assert epoch(store, **ORDERS[order]) == epoch(near, **ORDERS[order])
    assert far.stats()["faults"] >= min(int(str(ONCE[fault]["times"])), 3)


@pytest.mark.parametrize("fault", ["503", "reset before", "reset after", "cut", "short"])
def test_opening_and_queries_wait_too(far: Line, near: dao.Store, fault: str) -> None:
    far.fault(**ONCE[fault])
    store = load(far, SOON)
    assert far.stats()["faults"] == ONCE[fault]["times"]
    for ask in ("obs.parquet", "/c/"):
        far.fault(path=ask, **ONCE[fault])
        query = [s.scan().select("obs_name", dao.gene("g7")).collect() for s in (store, near)]
        assert query[0].equals(query[1])
    assert far.stats()["faults"] > ONCE[fault]["times"]
    bulk = [s.scan().dao.pseudobulk("cell_type", progress=False) for s in (store, near)]
    assert bulk[0].sort(bulk[0].columns).equals(bulk[1].sort(bulk[1].columns))


def test_more_than_was_said_is_not_taken(far: Line, near: dao.Store) -> None:
    """It spoils the connection, and may spoil the next request on it; never a cell."""
    store, ends = load(far, {**FEW, "timeout": "2s"}), []
    far.fault(path="/c/", endless="length")
    for _ in range(5):
        try:
            ends.append(epoch(store) == epoch(near))
        except dao.DaoIOError as error:
            ends.append(far.address in str(error))
    assert all(ends)
    assert far.stats()["faults"] > 0
    # What fits into sockets' buffers was sent and not taken; in ten seconds gigabytes would be.
    assert far.stats()["bytes_sent"] < 512 << 20


def test_a_hung_request_is_asked_again(far: Line, near: dao.Store) -> None:
    store = load(far, {**SOON, "timeout": "1s"})
    far.fault(hang=True, path="/parts/", times=2)
    assert epoch(store) == epoch(near)
    assert far.stats()["faults"] == 2


CALLS = {
    "load_store": lambda far, _: load(far, FEW),
    "scan": lambda _, store: store.scan().collect(),
    "iter_batches": lambda _, store: epoch(store),
    "to_anndata": lambda _, store: store.scan().dao.to_anndata(progress=False),
    "gene": lambda _, store: store.scan().select(dao.gene("g7")).collect(),
    "pseudobulk": lambda _, store: store.scan().dao.pseudobulk("cell_type", progress=False),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", ALWAYS)
def test_what_does_not_pass_is_an_error_in_time(far: Line, fault: str, call: str) -> None:
    """That names the file, after few requests and few bytes."""
    store = load(far, {**FEW, "timeout": "1s"})
    far.reset()
    place = {"load_store": "/versions/", "scan": "/obs.parquet"}.get(call, "/c/")
    far.fault(path=place, **ALWAYS[fault])
    with pytest.raises((dao.DaoIOError, pl.exceptions.ComputeError)) as caught:
        CALLS[call](far, store)
    text = str(caught.value)
    assert re.search(rf"{re.escape(far.url)}/atlas\S*{re.escape(place)}", text), text
    stats = far.stats()
    assert 1 <= stats["faults"] <= 100
    assert stats["bytes_sent"] < 64 << 20


@pytest.fixture(scope="module")
def large(root: Path) -> dao.Store:
    """More than what is read at once, and kept."""
    for seed, dataset in enumerate(["a", "b", "c"]):
        adata = study(seed + 10, 4000, GENES)
        store = dao.write_dataset(root / "large", adata, dataset=dataset, progress=False)
    return store


LITTLE = {"batch_size": 250, "prefetch_bytes": 1 << 14, "num_threads": 1}


@pytest.mark.parametrize("order", ORDERS)
def test_a_server_that_is_gone_in_an_epoch_comes_back(
    far: Line, large: dao.Store, order: str
) -> None:
    """The epoch waits, and goes on."""
    options = {**LITTLE, **ORDERS[order]}
    waiting = {**SOON, "max_retries": "1000"}
    store = dao.load_store(f"{far.url}/large", storage_options=waiting)
    batches = iter(store.scan().dao.iter_batches(**options))
    seen = [content(next(batches)) for _ in range(3)]
    far.down()
    far.reset()
    threading.Timer(1.0, far.up).start()
    seen += [content(batch) for batch in batches]
    assert seen == [content(batch) for batch in large.scan().dao.iter_batches(**options)]
    assert far.stats()["requests"]["GET"] > 0


@pytest.mark.parametrize("order", ORDERS)
def test_an_epoch_that_failed_is_resumed(far: Line, large: dao.Store, order: str) -> None:
    """From the batch after the last one that came, by who kept where it was."""
    options = {**LITTLE, **ORDERS[order]}
    whole = [content(batch) for batch in large.scan().dao.iter_batches(**options)]

    def loader() -> dao.BatchIterable:
        store = dao.load_store(f"{far.url}/large", storage_options=FEW)
        return store.scan().dao.iter_batches(**options)

    batches, seen = loader(), []
    state = batches.state_dict()

    def train() -> None:
        nonlocal state
        for batch in batches:
            seen.append(content(batch))
            state = batches.state_dict()
            if len(seen) == 4:
                far.down()

    with pytest.raises(dao.DaoIOError, match=far.address):
        train()
    assert 4 <= len(seen) < len(whole)
    far.up()
    again = loader()
    again.load_state_dict(json.loads(json.dumps(state)))
    assert seen + [content(batch) for batch in again] == whole


DENIED = "ExpiredToken|valid authentication credentials|necessary privileges"
"""What is said: the answer to a HEAD has a status and no text."""


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("name", SERVING)
def test_credentials_that_expire(
    name: str, status: int, tmp_path: Path, near: dao.Store, root: Path
) -> None:
    """It is said, at once, and nothing is taken to be missing."""
    with SERVING[name](tmp_path) as bucket, line(bucket.address) as far:
        uri, options = bucket.put(root / "atlas", "atlas"), bucket.through(far.address)

        def opened() -> dao.Store:
            return dao.load_store(uri, storage_options=options)

        new = study(9, 9, GENES)
        store, batches = opened(), opened().scan().dao.iter_batches(64)
        calls = {
            "opening": opened,
            "a query": lambda: store.scan().collect(),
            "an epoch": lambda: list(batches),
            "writing": lambda: dao.write_dataset(
                uri, new, dataset="d", storage_options=options, progress=False
            ),
        }
        far.fault(status=status, code="ExpiredToken")
        for what, call in calls.items():
            far.reset()
            with pytest.raises(dao.DaoIOError, match=DENIED) as caught:
                call()
            assert "storage_options" in str(caught.value), what
            # Asked again, it would say the same. An epoch asks for several ranges at a time.
            assert far.stats()["faults"] <= 24, what
        far.clear()
        assert [content(batch) for batch in batches] == epoch(near)


def test_writing_through_bursts(tmp_path: Path) -> None:
    """Puts that must not replace anything among them."""
    adata = study(3, 80, GENES)
    for name, serve in SERVING.items():
        (tmp_path / name).mkdir()
        with serve(tmp_path / name) as bucket, line(bucket.address) as far:
            options = {**bucket.through(far.address), **SOON}
            far.fault(status=503, every=3, times=12)
            store = dao.write_dataset(
                bucket.uri, adata, dataset="d", storage_options=options, progress=False
            )
            cells = store.scan().select("cell", "obs_name").collect()
            store = store.update_obs(cells.select("cell", label=pl.col("obs_name")))
            far.fault(reset="before", method="GET", every=3, times=6)
            store = store.update_obs(cells.select("cell", again=pl.col("obs_name")))
            assert far.stats()["faults"] >= 12
            far.clear()
            assert store.version == 3
            assert store.verify().is_empty()
            read = store.scan().dao.to_anndata(progress=False)
            np.testing.assert_array_equal(read.X.toarray(), adata.X.toarray())
            assert read.obs["again"].astype(str).tolist() == list(adata.obs_names)


SCRIPT = """
import sys, time
import dao_polars as dao
patient = {{"timeout": "60s", "max_retries": "1000", "retry_timeout_ms": "600000"}}
store = dao.load_store(sys.argv[1], storage_options=patient)
print("opened", flush=True)
sys.stdin.readline()
try:
    try:
        {call}
    except Exception:  # of polars, which wraps errors; Python's own follows it at once
        for _ in range(1000):
            pass
except KeyboardInterrupt:
    try:
        print("interrupted", time.monotonic(), flush=True)
    except KeyboardInterrupt:  # polars may have raised the first
        print("interrupted", time.monotonic())
"""
BEGUN = """
        batches = iter(store.scan().dao.iter_batches(64, prefetch_bytes=1 << 14, num_threads=1))
        next(batches)
        print("begun", flush=True)
        sys.stdin.readline()
        list(batches)
"""
"""An epoch of which a batch has come."""
WAITS = {
    "429": {"status": 429},
    "500": {"status": 500},
    "503": {"status": 503},
    "told to wait": {"status": 503, "retry_after": 30},
    "reset": {"reset": "after"},
    "cut": {"cut": 100},
    "short": {"short": 100},
    "hung": {"hang": True},
    "trickling": {"slow": 5},
    "gone": None,
}
ASKS = {
    "iter_batches": "list(store.scan().dao.iter_batches(64, shuffle=True, seed=0))",
    "to_anndata": "store.scan().dao.to_anndata(progress=False)",
    "gene": "store.scan().select(dao.gene('g7')).collect()",
    "an epoch that has begun": BEGUN.strip(),
}


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("wait", WAITS)
def test_ctrl_c_ends_what_waits_for_a_bad_line(far: Line, wait: str, ask: str) -> None:
    """Within half a second: who waits looks ten times a second."""
    has_begun = ASKS[ask] == BEGUN.strip()
    atlas = "large" if has_begun else "atlas"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(call=ASKS[ask]), f"{far.url}/{atlas}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def go_on() -> None:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

    try:
        assert process.stdout.readline() == "opened\n"
        if has_begun:
            go_on()
            assert process.stdout.readline() == "begun\n"
        if WAITS[wait] is None:
            far.down()
        else:
            far.fault(path="/c/", **WAITS[wait])
        go_on()
        while WAITS[wait] is not None and far.stats()["faults"] == 0:
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.3)
        begun = time.monotonic()  # a clock of the machine, so of the child too
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    said, at = out.split()[:2]
    assert said == "interrupted"
    assert float(at) - begun < 0.5
