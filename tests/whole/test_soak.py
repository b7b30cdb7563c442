"""A process that works for long holds no more than at its beginning: files, threads, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 300  # seconds; a dev build needs some 20 on two cores
STORES = 100

SOAK = r"""
import gc, json, os, shutil, sys, time
from pathlib import Path

import polars as pl

import dao_polars as dao
from tests.conftest import study

folder = Path(sys.argv[1])
OPENS, EPOCHS, STORES, BROKEN = 10_000, 1_000, 100, 200
one = folder / "one"
for name in ("a", "b"):
    dao.write_dataset(one, study(1, 200, ["g0", "g1", "g2"]), dataset=name, progress=False)
dao.load_store(one).add_gene_index("a", progress=False)
many = [folder / f"many{i}" for i in range(STORES)]
for path in many:
    shutil.copytree(one, path)
broken = folder / "broken"
shutil.copytree(one, broken)
for path in sorted(broken.glob("parts/a-*/**/c/*")):
    if path.is_file():
        path.write_bytes(path.read_bytes()[:-9] + b"damaged!!")


def held():
    gc.collect()
    time.sleep(0.3)  # threads that were told to end
    status = Path("/proc/self/status").read_text()
    anonymous = int(status.split("RssAnon:")[1].split()[0]) / 1024
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), anonymous


def opens(n):
    for _ in range(n):
        dao.load_store(one)


def epochs(n):
    batches = dao.scan(one).dao.iter_batches(16, shuffle=True, num_threads=2)
    for i in range(n):
        epoch = iter(batches)
        for _ in range(i % 7):
            next(epoch)
        if i % 3 == 0:
            epoch.close()
        elif i % 3 == 1:
            kept = [epoch]
            kept.append(kept)  # left to the garbage collector
    batches = None


def genes(n):
    for path in many[:n]:
        lf = dao.scan(path)
        lf.select(dao.gene("g1"), dao.gene("g2").alias("other")).collect()


def damage(n):
    lf, failed = dao.scan(broken), 0
    for i in range(n):
        try:
            (lf.select(dao.gene("g1")).collect, lf.dao.to_anndata)[i % 2]()
        except (dao.DaoError, pl.exceptions.ComputeError):  # polars names what plugins raise
            failed += 1
    assert failed == n, failed


results = {}
for work, n in ((opens, OPENS), (epochs, EPOCHS), (genes, STORES), (damage, BROKEN)):
    work(max(n // 10, 20))  # what is kept once: pools, caches, arenas
    before, start = held(), time.time()
    work(n)
    results[work.__name__] = (before, held(), time.time() - start)
print(json.dumps(results))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="counts by Linux's /proc")
def test_long_work_leaves_nothing_behind(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SOAK, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=os.environ | {"MALLOC_ARENA_MAX": "2"},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    for work, (before, after, _) in json.loads(ended.stdout.splitlines()[-1]).items():
        files, threads, memory = (b - a for a, b in zip(before, after, strict=True))
        # The stores that may stay open were open before. Memory is allowed what allocators keep
        # for themselves, far less than a leak of each store, epoch or read would come to.
        assert files <= 4, (work, before, after)
        assert threads <= 4, (work, before, after)
        assert memory < 48, (work, before, after)
