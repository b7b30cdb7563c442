"""Ladders: a disk full at every write, a kill at every step, limits from tiny to enough.

After each step a store has the datasets that were committed, whole, and the next writer finds room.
The suite takes some evenly spaced steps of the long ones; `DAO_LADDERS=all` takes all of them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import dao_polars as dao
from tests.conftest import ROOT, study
from tests.storefab import read_description
from tests.whole.left import unnamed
from tests.whole.writer import REFUSED, WRITTEN

LIMIT = 120  # seconds that no step needs
STEPS = None if os.environ.get("DAO_LADDERS") == "all" else 6

SPACE = (
    "write,writev,pwrite64,fsync,fdatasync,ftruncate,fallocate,"
    "mkdir,mkdirat,link,linkat,rename,renameat,renameat2"
)
CHANGES = f"{SPACE},openat,unlink,unlinkat"


class Writer:
    """A process that writes to stores in children, under strace."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.whole.writer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )

    def _say(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def run(self, call: str, uri: Path, dataset: str, *options: str) -> int:
        """How a child ended that wrote a dataset, or its gene index."""
        self._say(f"{call}\n{uri}\n{dataset}")
        self.pid = self.process.stdout.readline().strip()
        strace = subprocess.Popen(
            ["strace", "-f", "-p", self.pid, "-o", self.log, *options],
            stderr=subprocess.PIPE,
            text=True,
        )
        if "attached" not in (said := strace.stderr.readline()):
            pytest.skip(f"this machine lets us trace no process: {said.strip()}")
        self._say("")
        ended = int(self.process.stdout.readline())
        strace.communicate(timeout=LIMIT)
        return ended

    def steps(self, call: str, uri: Path, dataset: str, calls: str) -> list[tuple[str, int]]:
        """The calls by which a writer changes a disk: strace counts each by its name."""
        assert self.run(call, uri, dataset, "-e", f"trace={calls}") == WRITTEN
        found = re.findall(r"^(\d+) +(\w+)\((.*)", self.log.read_text(), re.MULTILINE)
        seen: Counter[str] = Counter()
        steps = []
        for thread, call, rest in found:
            if thread == self.pid:  # the main thread's
                seen[call] += 1
                if call != "openat" or "O_CREAT" in rest:
                    steps.append((call, seen[call]))
        return steps


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writer]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not there")
    found = Writer(tmp_path_factory.mktemp("strace") / "log")
    yield found
    found.process.stdin.close()
    found.process.wait(LIMIT)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    uri = tmp_path_factory.mktemp("ladders") / "s"
    dao.write_dataset(uri, study(0, 20, ["a", "b"]), dataset="first", progress=False)
    return uri


def some(steps: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Some of the steps, evenly, and all those from the writing of the version on."""
    if STEPS is None:
        return steps
    made = next(i for i, (call, _) in enumerate(steps) if "link" in call and "un" not in call)
    return [*steps[: made - 4 : max(made // STEPS, 1)], *steps[made - 4 :]]


def check(uri: Path, *expected: str) -> None:
    """A store has exactly these datasets, whole; and the next writers leave nothing but theirs."""
    left = unnamed(uri)
    if expected:
        store = dao.load_store(uri)
        assert store.datasets["id"].to_list() == list(expected)
        assert store.verify().is_empty()
        assert store.scan().collect().height == 20 * len(expected)
    else:
        with pytest.raises(dao.DaoFileNotFoundError):
            dao.load_store(uri)
    names = ["first", "second", "third"]
    for name in names:
        if name not in expected:
            adata = study(2, 20, ["a", "b"])
            dao.write_dataset(uri, adata, dataset=name, progress=False)
    store = dao.load_store(uri)
    assert sorted(store.datasets["id"]) == names
    assert store.verify().is_empty()
    assert unnamed(uri) == left


def check_left(uri: Path, files: str) -> None:
    """What a killed writer left are these files, its lease and files that were not named yet."""
    of_one = re.compile(rf"({files}|writing/\w+|(versions/)?\.new-\w+)")
    assert [path for path in unnamed(uri) if not of_one.fullmatch(path)] == []
    assert len(list((uri / "writing").glob("*"))) <= 1


def copy(store: Path, to: Path) -> Path:
    return Path(shutil.copytree(store, to))


def full(call: str, n: int, stays: bool) -> tuple[str, ...]:
    """Options of strace: the disk is full at the nth such call, or from it on."""
    inject = f"inject={SPACE if stays else call}:error=ENOSPC:when={n}{'+' * stays}"
    return "-e", f"trace={SPACE}", "-e", inject


def killed(call: str, n: int) -> tuple[str, ...]:
    """Options of strace: the process is killed at the nth such call."""
    return "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={n}"


@pytest.fixture
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A way to write the dataset "second": of a study, or of another store."""
    # Not a selection's on a full disk: polars waits for ever where it cannot wake its own threads.
    uri = tmp_path_factory.mktemp("ladders") / "source"
    dao.write_dataset(uri, study(1, 20, ["a", "b"]), dataset="second", progress=False)
    return f"{request.param}:{uri}"


@pytest.mark.parametrize("way", ["write", "copy"], indirect=True)
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("stays", [False, True])
def test_a_disk_that_is_full_at_every_write(writer, way, first, tmp_path, stays, begun):
    def store(name: str) -> Path:
        return copy(first, tmp_path / name) if begun else tmp_path / name

    for call, n in some(writer.steps(way, store("steps"), "second", SPACE)):
        uri = store(f"full-{call}-{n}")
        ended = writer.run(way, uri, "second", *full(call, n, stays))
        assert ended in (WRITTEN, REFUSED), (call, n)
        assert unnamed(uri) == set(), (call, n)
        check(uri, *["first"] * begun, *["second"] * (ended == WRITTEN))
        shutil.rmtree(uri)


@pytest.mark.parametrize("way", ["write", "select", "copy"], indirect=True)
@pytest.mark.parametrize("begun", [False, True])
def test_a_kill_at_every_step(writer, way, first, tmp_path, begun):
    before = ["first"] * begun

    def store(name: str) -> Path:
        return copy(first, tmp_path / name) if begun else tmp_path / name

    for call, n in some(writer.steps(way, store("steps"), "second", CHANGES)):
        uri = store(f"killed-{call}-{n}")
        assert writer.run(way, uri, "second", *killed(call, n)) == -9, (call, n)
        # What was listed before the writer died is in a version, which comes as a whole.
        listed = any('"second"' in path.read_text() for path in uri.glob("versions/*.json"))
        check_left(uri, r"parts/second-\w+(/.+)?")
        check(uri, *before, *["second"] * listed)
        shutil.rmtree(uri, ignore_errors=True)


def check_index(uri: Path, indexed: bool, whole: set[str]) -> None:
    """A store has all it had and an index or none; the next writers leave nothing but theirs."""
    values = study(0, 20, ["a", "b"]).X.toarray()
    left = unnamed(uri)

    def reads(store: dao.Store, indexed: bool) -> None:
        assert store.datasets["id"].to_list() == ["first"]
        assert store.verify().is_empty()
        assert store.has_gene_index("first") == indexed
        for i, gene in enumerate("ab"):
            found = store.scan().select(dao.gene(gene)).collect().to_series()
            assert found.to_list() == values[:, i].tolist()

    store = dao.load_store(uri)
    reads(store, indexed)
    assert store.add_gene_index(progress=False) == ([] if indexed else ["first"])
    reads(store, indexed)
    reads(dao.load_store(uri), True)
    dao.write_dataset(uri, study(2, 20, ["a", "b"]), dataset="second", progress=False)
    assert files(uri) == whole
    assert unnamed(uri) == left


def files(uri: Path) -> set[str]:
    """The files that the first dataset has, but for the tag of its gene index."""
    meta = read_description(uri, "first")
    return {path.replace(meta["gene_index"], "gene_index") for path in meta["files"]}


@pytest.fixture(scope="module")
def with_index(first: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files of the dataset once it has a gene index."""
    uri = copy(first, tmp_path_factory.mktemp("index") / "s")
    assert dao.load_store(uri).add_gene_index(progress=False) == ["first"]
    return files(uri)


@pytest.mark.parametrize("stays", [False, True])
def test_a_gene_index_on_a_disk_that_is_full(writer, first, with_index, tmp_path, stays):
    steps = writer.steps("index", copy(first, tmp_path / "steps"), "first", SPACE)
    for call, n in some(steps):
        uri = copy(first, tmp_path / f"full-{call}-{n}")
        ended = writer.run("index", uri, "first", *full(call, n, stays))
        assert ended in (WRITTEN, REFUSED), (call, n)
        assert unnamed(uri) == set(), (call, n)
        check_index(uri, ended == WRITTEN, with_index)
        shutil.rmtree(uri)


def test_a_gene_index_and_a_kill_at_every_step(writer, first, with_index, tmp_path):
    for call, n in some(writer.steps("index", copy(first, tmp_path / "steps"), "first", CHANGES)):
        uri = copy(first, tmp_path / f"killed-{call}-{n}")
        assert writer.run("index", uri, "first", *killed(call, n)) == -9, (call, n)
        check_left(uri, r"parts/first-\w+/(gene_index-\w+(/.+)?|part-[\w-]+\.json)")
        check_index(uri, "gene_index" in read_description(uri, "first"), with_index)
        shutil.rmtree(uri)


def python(
    code: str, *args: object, wrap: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*wrap, sys.executable, "-c", code, *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


DESCRIPTORS = """
import os, resource, shutil, sys
from pathlib import Path
import dao_polars as dao
from tests.conftest import study

def read(uri):
    store = dao.load_store(uri)
    frame = store.scan().select("score").collect()
    total = sum(float(x.sum()) for x, _ in store.scan().dao.iter_batches(7, shuffle=True, seed=0))
    for problem in store.verify().iter_rows():
        # What cannot be opened is named, and so is the reason.
        assert "Too many open files" in str(problem), problem
        raise dao.DaoIOError("verify() could not open a file")
    return frame["score"].to_list(), total

def write(uri):
    dao.write_dataset(uri, study(2, 20, ["a", "b"]), dataset="second", progress=False)
    return dao.load_store(uri).datasets["id"].to_list()

first, folder = map(Path, sys.argv[1:])
expected = {call: call(shutil.copytree(first, folder / call.__name__)) for call in (read, write)}
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
used = len(os.listdir("/proc/self/fd"))
seen = set()
for more in [*range(8), *range(8, 40, 4), 100]:
    for call, wanted in expected.items():
        uri = Path(shutil.copytree(first, folder / f"{call.__name__}{more}"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, hard))
        try:
            found = call(uri)
        except dao.DaoError as error:
            found = None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert found in (None, wanted), (call, more, found)
        seen.add((call.__name__, found is None))
        store = dao.load_store(uri)
        assert store.verify().is_empty(), (call, more)
        assert store.datasets["id"].to_list() in (["first"], ["first", "second"])
        if call is write and found is None and store.datasets.height == 1:
            write(uri)
assert seen == {(call.__name__, failed) for call in expected for failed in (True, False)}, seen
"""


def test_few_descriptors(first, tmp_path):
    ran = python(DESCRIPTORS, first, tmp_path)
    assert ran.returncode == 0, ran.stderr


INODES = """
import sys
from pathlib import Path
from tests.whole.left import unnamed
from tests.whole.writer import WRITTEN, write
import dao_polars as dao
uri = sys.argv[1] + "/s"
ended = write(uri, "first")
if ended == WRITTEN:
    assert dao.load_store(uri).verify().is_empty()
    assert dao.load_store(uri).datasets["id"].to_list() == ["first"]
else:
    try:
        dao.load_store(uri)
    except dao.DaoFileNotFoundError:
        pass
    assert not unnamed(Path(uri)), unnamed(Path(uri))
sys.exit(ended)
"""


def test_few_inodes(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()

    def mounted(n_inodes: int) -> tuple[str, ...]:
        mount = f'mount -t tmpfs -o nr_inodes={n_inodes} tmpfs {disk} && exec "$@"'
        return ("unshare", "-Urm", "sh", "-c", mount, "sh")

    if shutil.which("unshare") is None or subprocess.run([*mounted(10), "true"]).returncode:
        pytest.skip("this machine does not let us mount a disk of few inodes")
    # With 5 there is room for a lease and not for the dataset's folder.
    runs = [python(INODES, disk, wrap=mounted(n)) for n in (2, 5, 8, 200)]
    ended = [ran.returncode for ran in runs]
    assert ended == [REFUSED, REFUSED, REFUSED, WRITTEN], [ran.stderr for ran in runs]


READ_ONLY = """
import os, sys
import dao_polars as dao
from tests.whole.writer import REFUSED, write
uri = sys.argv[1]
if os.geteuid() == 0:  # who may write anywhere
    os.setgid(65534)
    os.setuid(65534)
try:
    open(uri + "/probe", "w")
except PermissionError:
    pass
else:
    sys.exit("the folder can be written to")
store = dao.load_store(uri)
assert store.verify().is_empty()
lf = store.scan()
assert lf.select(dao.gene("a"), dao.qc()).collect().height == 20
assert sum(len(batch) for batch in lf.dao.iter_batches(7)) == 20
lf.dao.to_anndata()
store.var(), store.uns("first")
assert write(uri, "second") == REFUSED
try:
    store.add_gene_index()
except dao.DaoError as error:
    assert isinstance(error, OSError), error
else:
    sys.exit("a gene index was written")
"""


def test_a_folder_that_is_read_only(first):
    """As root, the reader becomes nobody: pytest's own folders are closed to that one."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    uri = Path(shutil.copytree(first, folder / "s"))
    try:
        for path in [folder, uri, *uri.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = sorted(uri.rglob("*"))
        ran = python(READ_ONLY, uri)
        assert ran.returncode == 0, ran.stderr
        assert sorted(uri.rglob("*")) == before
    finally:
        for path in [folder, uri, *uri.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        shutil.rmtree(folder)
