"""Loaders in other processes: forked whatever the parent did before, spawned, pickled."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap

import polars as pl
import pytest

import dao_polars as dao

HEAD = """
import hashlib, multiprocessing, os, pickle, signal, sys, threading, time
import numpy as np, polars as pl, dao_polars as dao

def total(batches):
    "What an epoch gave, as one number."
    sha = hashlib.sha256()
    for x, obs in batches:
        for part in (x.indptr, x.indices, x.data):
            sha.update(np.ascontiguousarray(part))
        sha.update(repr(obs.rows()).encode())
    return sha.hexdigest()

def in_child(task):
    "The result of a task in a forked child, which has 60 seconds."
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        try:
            os.write(writing, task().encode())
            os._exit(0)
        except BaseException as error:
            os.write(writing, repr(error).encode())
            os._exit(1)
    os.close(writing)
    status = os.waitpid(pid, 0)[1]
    text = os.read(reading, 10**6).decode()
    assert status == 0, f"status {status}: {text}"
    return text

lf = dao.scan(sys.argv[1]).filter(pl.col("dataset") == "pancreas_human")
options = dict(batch_size=64, shuffle=True, seed=3)
batches = lf.dao.iter_batches(**options)
expected = total(batches)
batches.set_epoch(0)
"""


def run(code: str, *args: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.dedent(code), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PARENTS = {
    "nothing more": "pass",
    "polars threads": "lf.group_by('cell_type').len().collect()",
    "half an epoch": "half = iter(batches); kept = [next(half), next(half)]",
    "an epoch that is being read by another thread": """
def forever():
    while True:
        for _ in lf.dao.iter_batches(16, shuffle=True): pass
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.5)
""",
    "the same loader in another thread": """
def forever():
    while True:
        for _ in batches.iterate(): pass
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.5)
""",
}


@pytest.mark.parametrize("parent", PARENTS.values(), ids=PARENTS.keys())
def test_a_forked_child_reads(real_store, parent):
    code = parent + textwrap.dedent("""
    for _ in range(8):
        def task():
            kept = None
            batches.set_epoch(0)
            return total(batches)
        assert in_child(task) == expected
    print("done")
    """)
    assert run(code, real_store.uri) == "done\n"


def test_a_forked_child_may_drop_what_its_parent_was_reading(real_store):
    code = """
    half = iter(batches)
    kept = [next(half), next(half)]
    def task():
        global half, kept
        half = kept = None
        import gc; gc.collect()
        batches.set_epoch(0)
        return total(batches)
    for _ in range(20):
        assert in_child(task) == expected
    batches.set_epoch(0)
    assert total(batches) == expected
    print("done")
    """
    assert run(code, real_store.uri) == "done\n"


def test_columns_of_any_type_are_paired_in_a_forked_child(real_store):
    code = """
    rich = lf.collect().with_columns(
        lists=pl.concat_list(pl.int_range(pl.len()), pl.lit(1)),
        structs=pl.struct("cell_type", "obs_name"),
        text=pl.col("cell_type").cast(pl.String),
        when=pl.lit(0).cast(pl.Datetime("us")) + pl.duration(days=pl.int_range(pl.len())),
        whole=pl.int_range(pl.len()),
        array=pl.concat_list(pl.int_range(pl.len()), pl.lit(1)).list.to_array(2),
    )
    loader = rich.dao.iter_batches(**options)
    here = total(loader)
    loader.set_epoch(0)
    assert in_child(lambda: total(loader)) == here
    assert in_child(lambda: str(loader.batch_diversity.__self__ is loader)) == "True"
    print("done")
    """
    assert run(code, real_store.uri) == "done\n"


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_pool_of_processes_gets_loaders_and_lazy_frames(real_store, tmp_path, method):
    script = tmp_path / "script.py"
    body = f"""
def of_loader(batches):
    return total(batches)

def of_frame(frame):
    return total(frame.dao.iter_batches(batch_size=64, shuffle=True, seed=3))

if __name__ == "__main__":
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        assert pool.map_async(of_loader, [batches] * 3).get(120) == [expected] * 3
        if "{method}" != "fork":  # polars itself does not survive that
            assert pool.map_async(of_frame, [lf]).get(120) == [expected]
    print("done")
"""
    script.write_text(HEAD + body)
    done = subprocess.run(
        [sys.executable, script, real_store.uri],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


def test_a_loader_pickles_in_the_middle_of_an_epoch(real_store):
    cells = real_store.scan().filter(pl.col("dataset") == "heart_human")
    batches = cells.dao.iter_batches(32, shuffle=True)
    iterator = iter(batches)
    next(iterator)
    copy = pickle.loads(pickle.dumps(batches))
    assert isinstance(copy, dao.BatchIterable)
    copy.load_state_dict(copy.state_dict())
    for ours, theirs in zip(iterator, copy, strict=True):
        assert (ours.x != theirs.x).nnz == 0
        assert ours.obs.equals(theirs.obs)
