"""Writers that race, die or run out of disk; readers that are interrupted or forked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import polars as pl
import pytest

import dao_polars as dao
from tests.conftest import DATA, study

ROOT = Path(__file__).parents[2]
LIMIT = 60  # seconds that no subprocess here should need

SLOW_WRITER = """
import sys, time
import dao_polars as dao
from dao_polars.write import dataset as write
from tests.conftest import study

adata = study(int(sys.argv[3]), 300, [f"g{i}" for i in range(50)])
class Slow:
    def __init__(self, writer): self._w = writer
    def __getattr__(self, name): return getattr(self._w, name)
    def commit(self, **tables):
        print("ready", flush=True)
        sys.stdin.readline()
        self._w.commit(**tables)
class Begin:
    @staticmethod
    def begin(*args, **kwargs): return Slow(real.begin(*args, **kwargs))
real, write.DatasetWriter = write.DatasetWriter, Begin
dao.write_dataset(sys.argv[1], adata, dataset=sys.argv[2], progress=False)
print("done", flush=True)
"""


def python(code: str, *args: object, **kwargs) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def finish(process: subprocess.Popen[str], send: str = "") -> tuple[str, str]:
    try:
        return process.communicate(send, timeout=LIMIT)
    finally:
        process.kill()


def visible(uri: Path) -> list[str]:
    return sorted(p.name for p in uri.iterdir() if not p.name.startswith("."))


def test_a_killed_writer_leaves_nothing_visible_and_the_next_cleans_up(tmp_path):
    uri = tmp_path / "s"
    dao.write_dataset(uri, study(0, 20, ["a", "b"]), dataset="first", progress=False)
    before = visible(uri)
    writer = python(SLOW_WRITER, uri, "dead", 1)
    assert writer.stdout.readline() == "ready\n"
    assert (uri / ".staging").exists()
    writer.send_signal(signal.SIGKILL)
    finish(writer)
    assert visible(uri) == before
    assert dao.load_store(uri).datasets["id"].to_list() == ["first"]
    dao.write_dataset(uri, study(0, 20, ["a", "b"]), dataset="dead", progress=False)
    assert dao.load_store(uri).datasets["id"].to_list() == ["first", "dead"]
    assert not list((uri / ".staging").iterdir())


def test_a_writer_killed_between_moving_and_listing(tmp_path):
    """The folder is in place and the manifest does not know it: it is no dataset."""
    uri = tmp_path / "s"
    dao.write_dataset(uri, study(0, 20, ["a", "b"]), dataset="first", progress=False)
    manifest = (uri / "dao.json").read_text()
    dao.write_dataset(uri, study(1, 20, ["a", "b"]), dataset="second", progress=False)
    (uri / "second" / ".unpublished").touch()
    (uri / "dao.json").write_text(manifest)
    assert dao.load_store(uri).datasets["id"].to_list() == ["first"]
    store = dao.write_dataset(uri, study(2, 20, ["a", "b"]), dataset="third", progress=False)
    assert not (uri / "second").exists()
    assert store.datasets["id"].to_list() == ["first", "third"]


def test_writers_at_once_all_succeed(tmp_path):
    uri = tmp_path / "s"
    writers = [python(SLOW_WRITER, uri, f"d{i}", i) for i in range(4)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n", writer.stderr.read()
    for writer in writers:  # all staged at once; now they publish at once
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        out, err = finish(writer)
        assert out == "done\n", err
    store = dao.load_store(uri)
    assert sorted(store.datasets["id"]) == ["d0", "d1", "d2", "d3"]
    numbers = [d["number"] for d in json.loads((uri / "dao.json").read_text())["datasets"]]
    assert sorted(numbers) == [0, 1, 2, 3]
    assert store.verify().height == 0
    assert store.scan().collect().height == 1200


def test_one_name_goes_to_one_writer(tmp_path):
    uri = tmp_path / "s"
    writers = [python(SLOW_WRITER, uri, "same", i) for i in range(2)]
    for writer in writers:
        writer.stdout.readline()
    results = [finish(writer, "go\n") for writer in writers]
    assert sorted(out for out, _ in results) == ["", "done\n"]
    assert sum("DaoFileExistsError" in err for _, err in results) == 1
    assert dao.load_store(uri).verify().height == 0


def test_the_name_is_checked_before_the_work(tmp_path):
    adata = study(0, 5, ["a"])
    dao.write_dataset(tmp_path, adata, dataset="d", progress=False)
    with pytest.raises(dao.DaoFileExistsError, match="'d' is already in the store"):
        dao.write_dataset(tmp_path, adata, dataset="d", progress=False)
    for bad in ("", "a/b", "..", ".hidden", "dao.json", "x" * 300, "new\nline"):
        with pytest.raises(dao.DaoValueError, match="cannot name a dataset"):
            dao.write_dataset(tmp_path, adata, dataset=bad, progress=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "keep").touch()
    with pytest.raises(dao.DaoFileExistsError, match="a folder that is there"):
        dao.write_dataset(tmp_path, adata, dataset="mine", progress=False)
    assert (tmp_path / "mine" / "keep").exists()
    assert dao.load_store(tmp_path).datasets["id"].to_list() == ["d"]


def test_a_folder_of_the_users_is_never_removed(tmp_path):
    adata = study(0, 5, ["a"])
    dao.write_dataset(tmp_path, adata, dataset="d", progress=False)
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in (".unpublished", "thesis"):
        (mine / name).touch()
    dao.write_dataset(tmp_path, adata, dataset="e", progress=False)
    assert (mine / "thesis").exists()
    with pytest.raises(dao.DaoFileExistsError):
        dao.write_dataset(tmp_path, adata, dataset="mine", progress=False)
    assert (mine / "thesis").exists()


def test_datasets_whose_manifest_is_lost_are_not_hidden_by_a_new_one(tmp_path):
    adata = study(0, 5, ["a"])
    dao.write_dataset(tmp_path, adata, dataset="d", progress=False)
    (tmp_path / "dao.json").unlink()
    with pytest.raises(dao.DaoFileNotFoundError, match="datasets and no manifest"):
        dao.write_dataset(tmp_path, adata, dataset="e", progress=False)
    assert visible(tmp_path) == ["d"]


def test_writers_that_come_and_go_do_not_disturb_each_other(tmp_path):
    code = """
    import sys
    from dao_polars._core import DatasetWriter
    for i in range(150):
        writer = DatasetWriter.begin(sys.argv[1], f"{sys.argv[2]}-{i}")
        writer.abort()
    print("done")
    """
    writers = [python(code, tmp_path / "s", i) for i in range(4)]
    for writer in writers:
        out, err = finish(writer)
        assert out == "done\n", err


def test_a_forked_child_leaves_its_parents_folder_alone(tmp_path):
    code = """
    import os, sys
    from dao_polars._core import DatasetWriter
    writer = DatasetWriter.begin(sys.argv[1], "d")
    if (pid := os.fork()) == 0:
        writer.abort()
        os._exit(0)
    os.waitpid(pid, 0)
    print(os.path.exists(writer.staging))
    """
    out, err = finish(python(code, tmp_path / "s"))
    assert out == "True\n", err


def test_a_disk_that_is_full(tmp_path):
    """A limit on file size stands for the disk: writing fails in the middle."""
    uri = tmp_path / "s"
    dao.write_dataset(uri, study(0, 5, ["a"]), dataset="first", progress=False)
    code = """
    import resource, sys
    import dao_polars as dao
    for limit in (100, 10_000, 200_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            dao.write_dataset(sys.argv[1], sys.argv[2], dataset="big", progress=False)
        except dao.DaoIOError as error:
            assert isinstance(error, OSError)
            print(error)
        else:
            raise SystemExit("it was written")
    """
    out, err = finish(python(code, uri, DATA / "pbmc_human.h5ad"))
    assert out.count("File too large") == 3, (out, err)
    store = dao.load_store(uri)
    assert store.datasets["id"].to_list() == ["first"]
    assert visible(uri) == ["dao.json", "first"]
    dao.write_dataset(uri, DATA / "pbmc_human.h5ad", dataset="big", progress=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        with pytest.raises(dao.DaoIOError, match=r"(?i)no space left"):
            dao.write_dataset(disk / "s", DATA / "pbmc_human.h5ad", progress=False)
        with pytest.raises(dao.DaoFileNotFoundError):
            dao.load_store(disk / "s")
        dao.write_dataset(disk / "s", study(0, 5, ["a"]), dataset="small", progress=False)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


READER = """
import sys, threading, polars as pl, dao_polars as dao
lf = dao.scan(sys.argv[1])
"""


def test_ctrl_c_ends_an_epoch(real_store):
    code = READER + (
        "batches = lf.dao.iter_batches(4, genes='union', shuffle=True)\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    while True:\n"
        "        for _ in batches: pass\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped', flush=True)\n"
    )
    process = python(code, real_store.uri)
    assert process.stdout.readline() == "ready\n"
    time.sleep(1)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = finish(process)
    assert out == "stopped\n", err
    assert time.monotonic() - began < 20


def test_a_forked_child_is_told_not_to_go_on_with_its_parents_epoch(real_store):
    code = READER + textwrap.dedent("""
        import os
        cells = lf.filter(pl.col("dataset") == "pbmc_human")
        half = iter(cells.dao.iter_batches(100, shuffle=True, seed=0))
        next(half)
        pid = os.fork()
        if pid == 0:
            try:
                for _ in half: pass
            except dao.DaoValueError as error:
                os._exit(0 if "forked" in str(error) else 1)
            os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        assert sum(len(b) for b in half) == 1236
        print("done")
    """)
    out, err = finish(python(code, real_store.uri))
    assert out == "done\n", err


def test_an_interpreter_may_end_in_the_middle_of_an_epoch(real_store):
    code = READER + (
        "it = iter(lf.dao.iter_batches(4, genes='union', shuffle=True))\nnext(it)\nprint('end')\n"
    )
    process = python(code, real_store.uri)
    out, err = finish(process)
    assert (out, err, process.returncode) == ("end\n", "", 0)


def test_a_selection_means_the_same_in_another_process(real_store, tmp_path):
    frame = (
        real_store.scan()
        .filter(pl.col("dataset") == "pancreas_mouse")
        .collect()
        .sample(100, seed=1)
    )
    path = tmp_path / "selection.parquet"
    frame.write_parquet(path)
    total = sum(float(x.sum()) for x, _ in frame.dao.iter_batches(7))
    code = """
    import sys, polars as pl, dao_polars as dao
    for frame in (pl.read_parquet(sys.argv[1]), pl.scan_parquet(sys.argv[1])):
        print(sum(float(x.sum()) for x, _ in frame.dao.iter_batches(7)))
    """
    out, err = finish(python(code, path))
    assert out.split() == [str(total)] * 2, err
