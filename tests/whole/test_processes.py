"""Writers that race, die or run out of disk; readers that are interrupted or forked."""

from __future__ import annotations

import os
import shutil
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
from tests.storefab import last_version, part_path, read_version
from tests.whole.left import paths, unnamed

ROOT = Path(__file__).parents[2]
LIMIT = 60  # seconds that no subprocess here should need

SLOW_WRITER = """
import sys, time
import dao_polars as dao
from dao_polars.write import part as write
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
real, write.PartWriter = write.PartWriter, Begin
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


def test_a_killed_writer_leaves_nothing_that_is_named_or_disturbs_the_next(tmp_path):
    uri = tmp_path / "s"
    dao.write_dataset(uri, study(0, 20, ["a", "b"]), dataset="first", progress=False)
    assert not unnamed(uri)
    writer = python(SLOW_WRITER, uri, "dead", 1)
    assert writer.stdout.readline() == "ready\n"
    (lease,) = (uri / "writing").iterdir()
    dead = uri / "parts" / f"dead-{lease.name}"
    assert (dead / "obs.parquet").exists()
    writer.send_signal(signal.SIGKILL)
    finish(writer)
    left = unnamed(uri)
    files = {f"parts/{dead.name}/{path}" for path in paths(dead)}
    assert left == {f"writing/{lease.name}", f"parts/{dead.name}"} | files
    store = dao.load_store(uri)
    assert store.datasets["id"].to_list() == ["first"]
    assert (store.version, store.verify().height) == (1, 0)
    dao.write_dataset(uri, study(0, 20, ["a", "b"]), dataset="dead", progress=False)
    store = dao.load_store(uri)
    assert store.datasets["id"].to_list() == ["first", "dead"]
    assert store.verify().height == 0
    assert part_path(uri, "dead") != dead
    assert unnamed(uri) == left


def test_a_writer_killed_between_writing_and_listing(tmp_path):
    """All files are in place and no version knows them: it is no dataset."""
    uri = tmp_path / "s"
    dao.write_dataset(uri, study(0, 20, ["a", "b"]), dataset="first", progress=False)
    dao.write_dataset(uri, study(1, 20, ["a", "b"]), dataset="second", progress=False)
    killed = part_path(uri, "second")
    last_version(uri).unlink()
    (uri / "versions" / "latest").write_text("1")
    left = unnamed(uri)
    assert dao.load_store(uri).datasets["id"].to_list() == ["first"]
    for name in ("third", "second"):
        store = dao.write_dataset(uri, study(2, 20, ["a", "b"]), dataset=name, progress=False)
    assert store.datasets["id"].to_list() == ["first", "third", "second"]
    assert [part["number"] for part in read_version(uri)["parts"]] == [0, 1, 2]
    assert store.verify().height == 0
    assert part_path(uri, "second") != killed
    assert unnamed(uri) == left


def test_writers_at_once_all_succeed(tmp_path):
    uri = tmp_path / "s"
    writers = [python(SLOW_WRITER, uri, f"d{i}", i) for i in range(4)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n", writer.stderr.read()
    for writer in writers:  # all are written; now they are listed at once
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        out, err = finish(writer)
        assert out == "done\n", err
    store = dao.load_store(uri)
    assert sorted(store.datasets["id"]) == ["d0", "d1", "d2", "d3"]
    assert store.version == 4
    assert [part["number"] for part in read_version(uri)["parts"]] == [0, 1, 2, 3]
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
    store = dao.load_store(uri)
    assert (store.version, store.verify().height) == (1, 0)
    assert not unnamed(uri)


def test_of_two_gene_indexes_at_once_one_is_taken(tmp_path):
    uri = tmp_path / "s"
    adata = study(0, 300, [f"g{i}" for i in range(50)])
    dao.write_dataset(uri, adata, dataset="d", progress=False)
    code = """
    import sys
    from dao_polars import _core
    def advance(n):
        print("ready", flush=True)
        sys.stdin.readline()
    print(_core.Store.open(sys.argv[1], {}, None).add_gene_index(0, advance))
    """
    writers = [python(code, uri) for _ in range(2)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n", writer.stderr.read()
    results = [finish(writer, "go\n") for writer in writers]
    assert sorted(out for out, _ in results) == ["False\n", "True\n"], results
    store = dao.load_store(uri)
    assert store.has_gene_index("d")
    assert store.verify().height == 0
    found = store.scan().select(dao.gene("g7")).collect().to_series()
    assert found.to_list() == adata[:, "g7"].X.toarray().ravel().tolist()
    assert not unnamed(uri)


def test_the_name_is_checked_before_the_work(tmp_path):
    adata = study(0, 5, ["a"])
    dao.write_dataset(tmp_path, adata, dataset="d", progress=False)
    with pytest.raises(dao.DaoFileExistsError, match="'d' is already in the store"):
        dao.write_dataset(tmp_path, adata, dataset="d", progress=False)
    for bad in ("", "a/b", "..", ".hidden", "x" * 300, "new\nline"):
        with pytest.raises(dao.DaoValueError, match="cannot name a dataset"):
            dao.write_dataset(tmp_path, adata, dataset=bad, progress=False)
    store = dao.load_store(tmp_path)
    assert store.datasets["id"].to_list() == ["d"]
    assert store.version == 1
    assert not unnamed(tmp_path)


def test_a_folder_of_the_users_is_never_removed(tmp_path):
    adata = study(0, 5, ["a"])
    dao.write_dataset(tmp_path, adata, dataset="d", progress=False)
    places = [tmp_path / "mine", tmp_path / "parts" / "mine", part_path(tmp_path, "d") / "mine"]
    for mine in places:
        mine.mkdir()
        (mine / "thesis").touch()
    others = unnamed(tmp_path)
    for name in ("e", "mine"):
        dao.write_dataset(tmp_path, adata, dataset=name, progress=False)
    with pytest.raises(dao.DaoFileExistsError):
        dao.write_dataset(tmp_path, adata, dataset="mine", progress=False)
    store = dao.load_store(tmp_path)
    assert store.add_gene_index(progress=False) == ["d", "e", "mine"]
    assert dao.load_store(tmp_path).verify().height == 0
    assert all((mine / "thesis").exists() for mine in places)
    assert unnamed(tmp_path) == others


def test_datasets_whose_versions_are_lost_are_not_hidden_by_a_new_one(tmp_path):
    adata = study(0, 5, ["a"])
    dao.write_dataset(tmp_path, adata, dataset="d", progress=False)
    shutil.rmtree(tmp_path / "versions")
    before = paths(tmp_path)
    with pytest.raises(dao.DaoFileNotFoundError, match="versions are missing"):
        dao.write_dataset(tmp_path, adata, dataset="e", progress=False)
    assert paths(tmp_path) == before


def test_writers_that_come_and_go_do_not_disturb_each_other(tmp_path):
    code = """
    import sys
    from dao_polars._core import PartWriter
    for i in range(150):
        writer = PartWriter.begin(sys.argv[1], f"{sys.argv[2]}-{i}", "error")
        writer.abort()
    print("done")
    """
    writers = [python(code, tmp_path / "s", i) for i in range(4)]
    for writer in writers:
        out, err = finish(writer)
        assert out == "done\n", err
    assert paths(tmp_path / "s") == {"parts", "writing"}


def test_a_forked_child_leaves_its_parents_files_alone(tmp_path):
    code = """
    import os, sys
    from dao_polars._core import PartWriter
    writer = PartWriter.begin(sys.argv[1], "d", "error")
    if (pid := os.fork()) == 0:
        writer.abort()
        os._exit(0)
    os.waitpid(pid, 0)
    print(os.path.exists(writer.staging), len(os.listdir(sys.argv[1] + "/writing")))
    """
    out, err = finish(python(code, tmp_path / "s"))
    assert out == "True 1\n", err


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
    assert store.version == 1
    assert not unnamed(uri)
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
