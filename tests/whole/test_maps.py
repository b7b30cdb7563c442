"""Files that are read through maps of memory: what is wrong with them never ends the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dao_polars as dao
from tests.conftest import study

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files are mapped on Linux alone")

# Opens a store, reads all of it in random order, and has the names of the shards that are mapped.
READ = """
import os, signal, sys
from pathlib import Path
import dao_polars as dao
store = Path(sys.argv[1])
batches = dao.scan(store).dao.iter_batches(64, shuffle=True, seed=0, num_threads=2)
total = sum(float(x.sum()) for x, obs in batches)
mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if "/zarr/X/" in line]
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    genes = [f"g{i}" for i in range(200)]
    # Enough cells that those read together, about a thousand, lie apart.
    dao.write_dataset(path, study(1, 5000, genes), dataset="a", progress=False)
    return path


def run(code: str, store: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", READ + code, str(store)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_shards_are_mapped_unless_the_user_says_no(store: Path) -> None:
    code = """
shuffled = dao.scan(store).dao.iter_batches(7, shuffle=True, seed=0)
place = sum(i * float(x.data @ x.indices) for i, (x, obs) in enumerate(shuffled))
print(total, place, len(mapped))
"""
    found = {}
    for maps in ("on", "off"):
        done = run(code, store, DAO_POLARS_MAPS=maps)
        assert done.returncode == 0, done.stderr
        *found[maps], mapped = done.stdout.split()
        assert (int(mapped) > 0) == (maps == "on")
    assert found["on"] == found["off"]
    assert float(found["on"][0]) > 0


@pytest.mark.parametrize("faults", ["", "import faulthandler; faulthandler.enable()\n"])
@pytest.mark.parametrize("left", [0, 0.5])
def test_a_file_cut_short_under_its_map_is_an_error(store: Path, left: float, faults: str) -> None:
    """Each shard is truncated between two epochs; the reader had opened and read all."""
    code = f"""
for shard in store.glob("parts/a-*/zarr/X/*/c/0"):
    os.truncate(shard, int(shard.stat().st_size * {left}))
for _ in range(2):
    try:
        list(batches)
    except dao.DaoError as error:
        print(error)
print("alive")
"""
    # faulthandler's own handlers are installed before ours, as in a kernel of Jupyter.
    done = subprocess.run(
        [sys.executable, "-c", faults + READ + code, str(store)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "alive"
    assert done.stdout.count("dataset 'a'") == 2
    assert done.stdout.count("file is truncated") == 2


def test_a_file_that_grew_back_is_read_again(store: Path) -> None:
    code = """
shards = {shard: shard.read_bytes() for shard in store.glob("parts/a-*/zarr/X/*/c/0")}
for shard in shards:
    os.truncate(shard, 0)
try:
    list(batches)
except dao.DaoError:
    print("failed")
for shard, whole in shards.items():
    with shard.open("r+b") as file:
        file.write(whole)
print(total == sum(float(x.sum()) for x, obs in batches))
"""
    done = run(code, store)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["failed", "True"]


def test_other_bus_errors_are_whose_they_were(store: Path) -> None:
    done = run("os.kill(os.getpid(), signal.SIGBUS)", store)
    assert done.returncode == -signal.SIGBUS
    code = """
import ctypes, mmap
empty = Path(sys.argv[1]) / "other"
empty.write_bytes(bytes(8192))
with empty.open("r+b") as file:
    memory = mmap.mmap(file.fileno(), 8192)
    os.truncate(empty, 0)
    memory[5000]
"""
    done = run("import faulthandler; faulthandler.enable()\n" + code, store)
    assert done.returncode == -signal.SIGBUS
    assert "Bus error" in done.stderr
    assert run(code, store).returncode == -signal.SIGBUS
