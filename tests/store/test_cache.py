"""What is kept on this machine of stores behind URLs: it is asked for once, and is what it was."""

from __future__ import annotations

import multiprocessing as mp
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

import dao_polars as dao
from tests.buckets import READING, Bucket
from tests.line import Line, line
from tests.servers import nginx

N_CELLS, N_GENES, NNZ, STUDIES = 9_000, 800, 90, 3


@pytest.fixture(scope="module")
def counts() -> sp.csr_matrix:
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permuted(np.tile(np.arange(N_GENES), (N_CELLS, 1)), axis=1)[:, :NNZ])
    values = rng.integers(1, 2000, rows.size).astype(np.float32)
    return sp.csr_matrix((values, rows.ravel(), np.arange(N_CELLS + 1) * NNZ), (N_CELLS, N_GENES))


@pytest.fixture(scope="module")
def stores(counts: sp.csr_matrix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, ``atlas``, of three studies: CSR, dense, and in core codecs."""
    folder = tmp_path_factory.mktemp("cached")
    for i, cells in enumerate(np.array_split(np.arange(N_CELLS), STUDIES)):
        x = counts[cells].toarray() if i == 1 else counts[cells]
        adata = ad.AnnData(x, obs={"index": cells})
        adata.obs_names = [f"c{cell}" for cell in cells]
        adata.var_names = [f"g{gene}" for gene in range(N_GENES)]
        profile = "portable" if i == 2 else "packed"
        dao.write_dataset(folder / "atlas", adata, dataset=f"d{i}", profile=profile, progress=False)
    return folder


@pytest.fixture
def served(stores: Path, tmp_path: Path) -> Path:
    """A copy of that folder, which a test may change."""
    return Path(shutil.copytree(stores, tmp_path / "served"))


@pytest.fixture
def far(served: Path, tmp_path: Path) -> Iterator[Line]:
    """A line to a server of that folder, which counts requests."""
    with nginx(served, tmp_path / "nginx") as address, line(address) as far:
        yield far


def asked(far: Line) -> int:
    """The requests for bytes of parts since the last time."""
    far.rest()
    requests = [request for request in far.requests() if "/parts/" in request.path]
    far.seen, before = len(requests), getattr(far, "seen", 0)  # type: ignore[attr-defined]
    return len(requests) - before


def epoch(frame: pl.LazyFrame, counts: sp.csr_matrix, **how: object) -> int:
    """Reads all cells in random order and holds them against the source; the number of them."""
    n = 0
    for batch in frame.dao.iter_batches(
        500, **({"shuffle": True, "seed": 3, "obs": ["index"]} | how)
    ):
        assert (batch.x != counts[batch.obs["index"].to_numpy()]).nnz == 0
        n += len(batch.obs)
    return n


def kept(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.kept"))


def allocated(cache: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in kept(cache))


@pytest.fixture(params=sorted(set(READING) - {"rclone"}))
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bucket]:
    folder = tmp_path / "server"
    folder.mkdir()
    with READING[request.param](folder) as bucket:
        yield bucket


def test_what_is_read_is_what_it_is_without(
    bucket: Bucket, stores: Path, counts: sp.csr_matrix, tmp_path: Path
) -> None:
    uri = bucket.put(stores / "atlas", "atlas")
    for _ in range(2):
        frame = dao.scan(uri, storage_options=bucket.options, cache=tmp_path / "cache")
        assert epoch(frame, counts) == N_CELLS
    local = dao.scan(stores / "atlas").select(pl.exclude("cell"), dao.gene("g7"), dao.qc())
    there = frame.select(pl.exclude("cell"), dao.gene("g7"), dao.qc())
    assert there.collect().equals(local.collect())
    text = b"".join(path.read_bytes()[-4096:] for path in kept(tmp_path / "cache"))
    assert text.count(b"dao-polars cache") == len(kept(tmp_path / "cache")) > STUDIES
    for secret in bucket.options.values():
        assert len(secret) < 12 or "://" in secret or secret.encode() not in text


@pytest.mark.parametrize("shuffle", [True, "block", False])
def test_a_second_epoch_asks_for_nothing(
    far: Line, counts: sp.csr_matrix, tmp_path: Path, shuffle: bool | str
) -> None:
    frame = dao.scan(f"{far.url}/atlas", cache=tmp_path / "cache")
    assert epoch(frame, counts, shuffle=shuffle) == N_CELLS
    assert asked(far) > 0
    batches = frame.dao.iter_batches(500, shuffle=shuffle, seed=4, obs=["index"])
    assert asked(far) <= 2 * STUDIES  # small files of the parts, which are read whole
    for most in (len(kept(tmp_path / "cache")), 0):
        # Once, what little no cell needed of a file is asked for: one that is whole is mapped.
        for batch in batches:
            assert (batch.x != counts[batch.obs["index"].to_numpy()]).nnz == 0
        before = getattr(far, "seen", 0)
        n = asked(far)
        assert n <= most, [r for r in far.requests() if "/parts/" in r.path][before:]


def test_a_first_epoch_asks_for_no_more_than_without(
    far: Line, counts: sp.csr_matrix, tmp_path: Path
) -> None:
    numbers = []
    for cache in (None, tmp_path / "cache"):
        batches = dao.scan(f"{far.url}/atlas", cache=cache).dao.iter_batches(
            500, shuffle="block", block_size=64, window=32, seed=3
        )
        asked(far)
        far.reset()
        assert sum(batch.x.shape[0] for batch in batches) == N_CELLS
        numbers.append((asked(far), far.stats()["bytes_down"]))
    (n, n_bytes), (n_kept, bytes_kept) = numbers
    assert n_kept <= 1.1 * n + 5
    assert bytes_kept <= 1.5 * n_bytes


def test_some_cells_are_kept_without_the_others(
    far: Line, counts: sp.csr_matrix, tmp_path: Path
) -> None:
    frame = dao.scan(f"{far.url}/atlas", cache=tmp_path / "cache")
    few = frame.filter(pl.col("index") % 90 == 5)
    assert epoch(few, counts) == N_CELLS / 90
    asked(far)
    assert epoch(few, counts) == N_CELLS / 90
    assert asked(far) <= 2 * STUDIES
    assert epoch(frame, counts) == N_CELLS
    assert asked(far) > 2 * STUDIES


READ = """
import sys
import dao_polars as dao
uri, cache, seed = sys.argv[1:]
batches = dao.scan(uri, cache=cache).dao.iter_batches(500, shuffle=True, seed=int(seed))
print("reading", flush=True)
print(round(sum(float(batch.x.sum(dtype="float64")) for batch in batches)))
"""


def reading(far: Line, cache: Path, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", READ, f"{far.url}/atlas", str(cache), str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_share_it(far: Line, counts: sp.csr_matrix, tmp_path: Path) -> None:
    cache, total = tmp_path / "cache", round(float(counts.sum(dtype="float64")))
    both = [reading(far, cache, seed) for seed in (1, 2)]
    for process in both:
        assert process.communicate(timeout=120)[0].split() == ["reading", str(total)]
    asked(far)
    assert reading(far, cache, 3).communicate(timeout=120)[0].split()[1] == str(total)
    assert asked(far) <= 2 * STUDIES
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept(cache)} == {0o600}
    assert (cache / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886")


def test_what_is_killed_leaves_nothing_wrong(
    far: Line, counts: sp.csr_matrix, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    for i in range(6):
        process = reading(far, cache, i)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.02 * i)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        shutil.copytree(cache, tmp_path / f"at{i}")
    for folder in (cache, *(tmp_path / f"at{i}" for i in range(6))):
        assert epoch(dao.scan(f"{far.url}/atlas", cache=folder), counts) == N_CELLS


def flip(path: Path) -> None:
    """Damages every page that has bytes, and the table of a third of them."""
    data = bytearray(path.read_bytes())
    for at in range(0, len(data) - 8192, 4096):
        data[at + at // 4096 % 4096] ^= 0x10
    path.write_bytes(data)


def swap(path: Path) -> None:
    """The bytes of one object in the place of another."""
    other = next(other for other in kept(path.parent) if other != path)
    path.write_bytes(other.read_bytes())


DAMAGE = {
    "flipped": flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 4096),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "garbage": lambda path: path.write_bytes(b"\xff" * path.stat().st_size),
    "label": lambda path: path.write_bytes(path.read_bytes()[:-4090] + b"\x01" * 4090),
    "swapped": swap,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_what_is_damaged_is_read_again(
    far: Line, counts: sp.csr_matrix, tmp_path: Path, how: str
) -> None:
    cache = tmp_path / "cache"
    assert epoch(dao.scan(f"{far.url}/atlas", cache=cache), counts) == N_CELLS
    for path in kept(cache)[::2]:
        DAMAGE[how](path)
    asked(far)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert epoch(dao.scan(f"{far.url}/atlas", cache=cache), counts) == N_CELLS
    assert asked(far) > 2 * STUDIES
    # It is whole again.
    assert epoch(dao.scan(f"{far.url}/atlas", cache=cache), counts) == N_CELLS
    assert asked(far) <= 2 * STUDIES


def test_what_was_replaced_is_an_error_once(
    far: Line, served: Path, counts: sp.csr_matrix, tmp_path: Path
) -> None:
    """As where a store is copied anew: the bytes are the same, and their server says others."""
    cache = tmp_path / "cache"
    few = dao.scan(f"{far.url}/atlas", cache=cache).filter(pl.col("index") % 700 == 5)
    assert epoch(few, counts) > 0
    for path in served.glob("atlas/parts/*/zarr/X/*/c/*"):
        os.utime(path, (10**9, 10**9))
    with pytest.raises(dao.DaoCorruptError, match=r"was replaced .* Open the store again") as error:
        epoch(dao.scan(f"{far.url}/atlas", cache=cache), counts)
    assert "its cache" in str(error.value)
    assert epoch(dao.scan(f"{far.url}/atlas", cache=cache), counts) == N_CELLS


def test_another_store_at_the_address_is_another(
    far: Line, served: Path, counts: sp.csr_matrix, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    assert epoch(dao.scan(f"{far.url}/atlas", cache=cache), counts) == N_CELLS
    shutil.rmtree(served / "atlas")
    adata = ad.AnnData(2 * counts, obs={"index": np.arange(N_CELLS)})
    adata.var_names = [f"g{gene}" for gene in range(N_GENES)]
    dao.write_dataset(served / "atlas", adata, dataset="d0", progress=False)
    assert epoch(dao.scan(f"{far.url}/atlas", cache=cache), 2 * counts) == N_CELLS


def test_there_is_no_more_of_it_than_was_said(
    far: Line, served: Path, counts: sp.csr_matrix, tmp_path: Path
) -> None:
    cache, limit = tmp_path / "cache", 2 << 20
    shutil.copytree(served / "atlas", served / "other")
    uri, other = f"{far.url}/atlas", f"{far.url}/other"
    for _ in range(2):
        assert epoch(dao.scan(uri, cache=cache, cache_bytes=limit), counts) == N_CELLS
        assert limit / 2 < allocated(cache) <= 1.05 * limit
    first = kept(cache)
    # What was not used for long makes room for another, the oldest first.
    for i, path in enumerate(first):
        os.utime(path, (time.time() - 3600 - i, time.time() - 3600 - i))
    again = [sys.executable, "-c", READ.replace("cache=cache", f"cache=cache, cache_bytes={limit}")]
    subprocess.run([*again, other, str(cache), "1"], check=True, stdout=subprocess.DEVNULL)
    assert limit / 2 < allocated(cache) <= 1.05 * limit
    left = [path for path in first if path.exists()]
    assert left == first[: len(left)]
    assert len(left) < len(first)
    assert set(kept(cache)) - set(first)


def test_it_goes_where_the_store_goes(far: Line, counts: sp.csr_matrix, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    store = dao.load_store(f"{far.url}/atlas", cache=cache)
    assert epoch(store.scan(), counts) == N_CELLS
    asked(far)
    again = pickle.loads(pickle.dumps(store))
    assert epoch(again.scan(), counts) == N_CELLS
    batches = again.scan().dao.iter_batches(500, obs=["index"])
    with mp.get_context("fork").Pool(1) as pool:
        assert pool.apply(totals, (batches,)) == float(counts.sum(dtype="float64"))
    selection = store.scan().filter(pl.col("index") < 50).collect()
    selection.write_parquet(tmp_path / "selection.parquet")
    assert epoch(pl.scan_parquet(tmp_path / "selection.parquet"), counts) == 50
    assert asked(far) <= 5 * 2 * STUDIES


def totals(batches: dao.BatchIterable) -> float:
    return sum(float(batch.x.sum(dtype="float64")) for batch in batches)


def test_several_stores_share_it(
    far: Line, served: Path, counts: sp.csr_matrix, tmp_path: Path
) -> None:
    adata = ad.AnnData(counts[:100], obs={"index": np.arange(100)})
    adata.var_names = [f"g{gene}" for gene in range(N_GENES)]
    for name in ("other", "near"):
        dao.write_dataset(served / name, adata, dataset="d", progress=False)
    uris = [f"{far.url}/atlas", f"{far.url}/other", str(served / "near")]
    for _ in range(2):
        asked(far)
        assert epoch(dao.scan(uris, cache=tmp_path / "cache"), counts) == N_CELLS + 200
    assert asked(far) <= 2 * (STUDIES + 1)
    # Of stores on this machine nothing is kept.
    assert epoch(dao.scan(uris[2], cache=tmp_path / "unused"), counts) == 100
    assert not (tmp_path / "unused").exists()


def test_a_folder_that_cannot_be_one_is_an_error(far: Line, tmp_path: Path) -> None:
    uri = f"{far.url}/atlas"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("text")
    with pytest.raises(dao.DaoValueError, match=r"has other files.*'chapter\.txt'"):
        dao.scan(uri, cache=tmp_path / "thesis")
    with pytest.raises(dao.DaoIOError, match=r"chapter\.txt.* the folder of the cache"):
        dao.scan(uri, cache=tmp_path / "thesis" / "chapter.txt")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]
    with pytest.raises(dao.DaoIOError, match="the folder of the cache"):
        dao.scan(uri, cache="/proc/cache")
    with pytest.raises(dao.DaoValueError, match="a folder on this machine"):
        dao.scan(uri, cache="s3://bucket/cache")
    with pytest.raises(dao.DaoTypeError, match="cache=7"):
        dao.scan(uri, cache=7)  # type: ignore[arg-type]
    with pytest.raises(dao.DaoValueError, match="without cache="):
        dao.scan(uri, cache_bytes=1 << 30)
    with pytest.raises(dao.DaoValueError, match="cache_bytes"):
        dao.scan(uri, cache=tmp_path / "cache", cache_bytes=100)


FULL = """
import resource, shutil, sys, warnings
import dao_polars as dao
uri, cache, how = sys.argv[1:]
batches = dao.scan(uri, cache=cache).dao.iter_batches(500, shuffle=True, seed=1)
if how == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
else:
    shutil.rmtree(cache)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    total = round(sum(float(batch.x.sum(dtype="float64")) for _ in range(2) for batch in batches))
print(total, len(told), *(str(warning.message) for warning in told))
"""


@pytest.mark.parametrize("how", ["full", "gone"])
def test_a_disk_that_takes_no_more_stops_nobody(
    far: Line, counts: sp.csr_matrix, tmp_path: Path, how: str
) -> None:
    command = [sys.executable, "-c", FULL, f"{far.url}/atlas", str(tmp_path / "cache"), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    total, n_told, *text = done.stdout.split()
    assert int(total) == 2 * round(float(counts.sum(dtype="float64")))
    assert n_told == "1", done.stdout
    assert "nothing more is kept in the cache" in " ".join(text)
