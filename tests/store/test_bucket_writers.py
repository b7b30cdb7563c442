"""Many writers of one bucket, writers that die, and networks that fail."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import dao_polars as dao
from tests.buckets import SERVING, Bucket, s3s_fs
from tests.conftest import ROOT, study
from tests.proxy import Proxy, in_front_of

GENES = [f"g{i}" for i in range(40)]
FAST = {"retry_timeout_ms": "3000", "max_retries": "1"}
DEAD = "DAO_POLARS_LEASE_SECONDS"


@pytest.fixture(params=SERVING)
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bucket]:
    """A bucket behind a proxy, which makes that of two new objects of one name one alone is put."""
    with SERVING[request.param](tmp_path) as bucket, in_front_of(bucket.address) as proxy:
        yield Bucket(bucket.uri, proxy.address, bucket.through(proxy.address), bucket.files)


def load(bucket: Bucket) -> dao.Store:
    return dao.load_store(bucket.uri, storage_options=bucket.options)


def write(bucket: Bucket, seed: int, dataset: str, n_obs: int = 30) -> dao.Store:
    adata = study(seed, n_obs, GENES)
    return dao.write_dataset(
        bucket.uri, adata, dataset=dataset, storage_options=bucket.options, progress=False
    )


def python(code: str, bucket: Bucket, *args: object, **env: str) -> subprocess.Popen[str]:
    head = "import sys, dao_polars as dao\nuri, options = sys.argv[1], eval(sys.argv[2])\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code), bucket.uri, repr(bucket.options)]
        + [str(arg) for arg in args],
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_two_writers_of_one_name_one_wins(bucket: Bucket) -> None:
    code = """
    from tests.conftest import study
    adata = study(int(sys.argv[3]), 200, [f"g{i}" for i in range(40)])
    try:
        dao.write_dataset(uri, adata, dataset="lung", storage_options=options, progress=False)
        print("won")
    except dao.DaoFileExistsError:
        print("lost")
    """
    writers = [python(code, bucket, seed) for seed in range(2)]
    said = [writer.communicate(timeout=120) for writer in writers]
    assert sorted(out.strip() for out, _ in said) == ["lost", "won"], said
    store = load(bucket)
    won = [out.strip() for out, _ in said].index("won")
    read = store.scan().dao.to_anndata(progress=False).X.toarray()
    np.testing.assert_array_equal(read, study(won, 200, GENES).X.toarray())
    assert store.verify().is_empty()
    assert store.vacuum().is_empty()


def test_of_many_who_edit_no_work_is_lost(bucket: Bucket) -> None:
    for i in range(4):
        write(bucket, i, f"d{i}")
    code = """
    from tests.conftest import study
    i = sys.argv[3]
    for n in range(3):
        store = dao.load_store(uri, storage_options=options)
        store.rename_dataset(f"d{i}" if n == 0 else f"d{i}-{n}", f"d{i}-{n + 1}")
    adata = study(int(i) + 10, 20, [f"g{i}" for i in range(40)])
    dao.write_dataset(uri, adata, dataset=f"e{i}", storage_options=options, progress=False)
    print("done")
    """
    writers = [python(code, bucket, i) for i in range(4)]
    for writer in writers:
        out, err = writer.communicate(timeout=240)
        assert out == "done\n", err
    store = load(bucket)
    assert store.version == 4 + 4 * 4
    assert sorted(store.datasets["id"]) == [f"d{i}-3" for i in range(4)] + [
        f"e{i}" for i in range(4)
    ]
    assert store.verify().is_empty()


WRITER = """
import numpy as np, anndata as ad
from tests.conftest import study
print("go", flush=True)
x = np.random.default_rng(0).standard_normal((3000, 4000), dtype=np.float32)
dao.write_dataset(uri, ad.AnnData(x), dataset="new", storage_options=options, progress=False)
print("done", flush=True)
"""


def vacuumed(bucket: Bucket, seconds: int) -> set[str]:
    """What vacuum removes, for which a lease is a dead writer's after so many seconds."""
    code = """
    store = dao.load_store(uri, storage_options=options)
    print(*store.vacuum(dry_run=False)["path"].to_list(), sep="\\n")
    """
    out, err = python(code, bucket, **{DEAD: str(seconds)}).communicate(timeout=120)
    assert not err, err
    return set(out.split())


def listed(bucket: Bucket, folder: str) -> set[str]:
    assert bucket.files is not None
    below = bucket.files / "atlas"
    return {str(p.relative_to(below)) for p in (below / folder).rglob("*") if p.is_file()}


def has_lease(bucket: Bucket) -> bool:
    """Whether somebody writes; an object by which the server is looked at is no lease."""
    return any(re.fullmatch(r"writing/[0-9a-f]{12}", path) for path in listed(bucket, "writing"))


@pytest.mark.parametrize("after", [0.0, 0.3])
def test_what_a_killed_writer_left_goes_once_its_lease_is_dead(
    tmp_path: Path, after: float
) -> None:
    with s3s_fs(tmp_path) as bucket:
        write(bucket, 1, "lung")
        clean = listed(bucket, ".")
        child = python(WRITER, bucket, TMPDIR=str(tmp_path))
        assert child.stdout is not None
        child.stdout.readline()
        while not has_lease(bucket) and child.poll() is None:
            time.sleep(0.01)
        time.sleep(after)
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        left = listed(bucket, ".") - clean
        assert any(path.startswith("writing/") for path in left)
        assert load(bucket).version == 1
        assert load(bucket).verify().is_empty()
        assert not vacuumed(bucket, 600)
        assert listed(bucket, ".") == clean | left
        time.sleep(3.5)
        assert vacuumed(bucket, 2) >= left
        assert listed(bucket, ".") == clean
        assert write(bucket, 2, "new").verify().is_empty()


def test_a_living_writers_files_stay(tmp_path: Path) -> None:
    """A writer that takes longer than a lease lasts renews it."""
    with s3s_fs(tmp_path) as bucket:
        write(bucket, 1, "lung")
        code = """
        import time
        from pathlib import Path
        from tests.conftest import study
        from dao_polars.write import part as write
        real = write._write_tables
        def slow(*args):
            real(*args)
            print("written", flush=True)
            time.sleep(9)
        write._write_tables = slow
        adata = study(5, 100, [f"g{i}" for i in range(40)])
        dao.write_dataset(uri, adata, dataset="new", storage_options=options, progress=False)
        print("done", flush=True)
        """
        child = python(code, bucket, **{DEAD: "4"})
        assert child.stdout is not None
        child.stdout.readline()
        assert any("new-" in path for path in listed(bucket, "parts"))
        for _ in range(3):
            time.sleep(2)
            assert not vacuumed(bucket, 4)
        out, err = child.communicate(timeout=60)
        assert out == "done\n", err
        store = load(bucket)
        assert store.version == 2
        assert store.verify().is_empty()
        assert not listed(bucket, "writing")


def test_a_writer_that_slept_too_long_makes_no_version(tmp_path: Path) -> None:
    """It was taken for dead: what it wrote may be gone."""
    with s3s_fs(tmp_path) as bucket:
        write(bucket, 1, "lung")
        code = """
        from tests.conftest import study
        from dao_polars.write import part as write
        real = write._write_tables
        def stopping(*args):
            real(*args)
            import os, signal
            print("written", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        write._write_tables = stopping
        adata = study(5, 100, [f"g{i}" for i in range(40)])
        try:
            dao.write_dataset(uri, adata, dataset="new", storage_options=options, progress=False)
        except dao.DaoIOError as error:
            print(error, flush=True)
        """
        child = python(code, bucket, **{DEAD: "2"})
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(4.5)
        assert vacuumed(bucket, 2)
        os.kill(child.pid, signal.SIGCONT)
        out, err = child.communicate(timeout=60)
        assert "so vacuum may have removed what it wrote" in out, (out, err)
        assert "Write it again" in out
        assert load(bucket).version == 1
        assert load(bucket).verify().is_empty()


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[tuple[Bucket, Proxy]]:
    with s3s_fs(tmp_path) as bucket, in_front_of(bucket.address) as proxy:
        options = {**bucket.through(proxy.address), **FAST}
        yield Bucket(bucket.uri, proxy.address, options, bucket.files), proxy


@pytest.mark.parametrize("where", ["/X/", "obs.parquet", "part.json", "versions/0"])
@pytest.mark.parametrize("fate", ["lost", "unanswered"])
def test_a_network_that_fails_while_it_is_written_to(
    proxied: tuple[Bucket, Proxy], where: str, fate: str
) -> None:
    bucket, proxy = proxied
    write(bucket, 1, "lung")
    before = listed(bucket, ".")
    failed: list[str] = []

    def once_and_for_all(method: str, path: str) -> str:
        if not failed and method == "PUT" and where in path:
            failed.append(path)
            return fate
        return "lost" if failed else ""

    proxy.fate = once_and_for_all
    with pytest.raises(dao.DaoIOError, match=r"path 's3://bucket/atlas/.*failed") as caught:
        write(bucket, 2, "new")
    assert failed
    # Of files that are sent together any may be the one that is named.
    assert re.search(r"/parts/new-|versions/0", str(caught.value))
    proxy.fate = lambda *_: ""
    store = load(bucket)
    made = where.startswith("versions") and fate == "unanswered"
    assert store.version == (2 if made else 1)
    assert store.verify().is_empty()
    # What it wrote is still there, and goes once its lease is dead.
    assert listed(bucket, ".") > before
    time.sleep(2.5)
    vacuumed(bucket, 1)
    if not made:
        assert listed(bucket, ".") == before
    assert load(bucket).verify().is_empty()


def test_an_answer_that_is_lost_alone_does_no_harm(proxied: tuple[Bucket, Proxy]) -> None:
    bucket, proxy = proxied
    unanswered: list[str] = []

    def first(method: str, path: str) -> str:
        if method == "PUT" and path not in unanswered and "writing" not in path:
            unanswered.append(path)
            return "unanswered"
        return ""

    proxy.fate = first
    store = write(bucket, 1, "lung")
    assert any("versions/0000000001.json" in path for path in unanswered)
    assert store.version == 1
    store = store.rename_dataset("lung", "heart")
    assert store.version == 2
    assert store.datasets["id"].to_list() == ["heart"]
    assert load(bucket).verify().is_empty()


def test_a_writer_that_is_refused_cleans_up(proxied: tuple[Bucket, Proxy]) -> None:
    bucket, proxy = proxied
    write(bucket, 1, "lung")
    before = listed(bucket, ".")
    lost: list[str] = []

    def obs_alone(method: str, path: str) -> str:
        if method == "PUT" and "obs.parquet" in path:
            lost.append(path)
            return "lost"
        return ""

    proxy.fate = obs_alone
    with pytest.raises(dao.DaoIOError, match=r"obs\.parquet"):
        write(bucket, 2, "new")
    assert lost
    assert listed(bucket, ".") == before


def test_an_upload_that_fails_is_aborted(proxied: tuple[Bucket, Proxy]) -> None:
    bucket, proxy = proxied
    proxy.fate = lambda method, path: "lost" if "partNumber=4" in path else ""
    x = np.random.default_rng(0).standard_normal((1500, 8000), dtype=np.float32)
    with pytest.raises(dao.DaoIOError, match=r"path 's3://bucket/atlas/parts/.*writing failed"):
        dao.write_dataset(
            bucket.uri, ad.AnnData(x), dataset="d", storage_options=bucket.options, progress=False
        )
    assert ("DELETE", True) in {(method, "uploadId=" in path) for method, path in proxy.asked}
    assert bucket.files is not None
    assert not [p for p in bucket.files.parent.iterdir() if p.name.startswith(".upload")]
    assert listed(bucket, ".") == set()


def test_ctrl_c_leaves_no_more_than_what_was_on_its_way(proxied: tuple[Bucket, Proxy]) -> None:
    bucket, proxy = proxied
    write(bucket, 1, "lung")
    before = listed(bucket, ".")
    begun = threading.Event()

    def slow(method: str, path: str) -> str:
        if method == "PUT" and "/X/" in path:
            begun.set()
            time.sleep(1)
        return ""

    proxy.fate = slow
    child = python(WRITER, bucket)
    assert begun.wait(60)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert "KeyboardInterrupt" in err, err
    assert "done" not in out
    assert not listed(bucket, "writing")
    time.sleep(2)  # what was on its way arrives after all the rest was removed
    left = listed(bucket, ".") - before
    assert len(left) <= 1
    assert vacuumed(bucket, 600) == left
    assert listed(bucket, ".") == before
