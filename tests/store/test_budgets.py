"""What reading over a network asks for: requests and bytes, counted on the line to a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

import dao_polars as dao
from tests.line import Line, line
from tests.servers import nginx

N_CELLS, N_GENES, NNZ = 24_000, 3_000, 300


@pytest.fixture(scope="module")
def counts() -> sp.csr_matrix:
    rng = np.random.default_rng(0)
    columns = np.sort(
        rng.permuted(np.tile(np.arange(N_GENES, dtype=np.int32), (64, 1)), axis=1)[:, :NNZ]
    )
    rows = columns[rng.integers(0, len(columns), N_CELLS)]
    values = rng.geometric(0.4, rows.size).astype(np.float32)
    return sp.csr_matrix((values, rows.ravel(), np.arange(N_CELLS + 1) * NNZ), (N_CELLS, N_GENES))


@pytest.fixture(scope="module")
def served(counts: sp.csr_matrix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of one study, and one of many small ones."""
    folder = tmp_path_factory.mktemp("budgets")
    var = [f"g{i}" for i in range(N_GENES)]
    adata = ad.AnnData(counts)
    adata.var_names = var
    dao.write_dataset(folder / "one", adata, dataset="d", progress=False)
    for i in range(30):
        few = adata[60 * i : 60 * (i + 1)].copy()
        dao.write_dataset(folder / "many", few, dataset=f"d{i:02}", progress=False)
    return folder


@pytest.fixture
def far(served: Path, tmp_path: Path) -> Iterator[Line]:
    """A line to a server of that folder, on which an answer takes 20 ms."""
    with nginx(served, tmp_path) as address, line(address, latency_ms=20) as far:
        yield far


def asked(far: Line) -> tuple[int, int]:
    """The requests since the last time, and the bytes of their bodies."""
    far.rest()
    stats = far.stats()
    far.reset()
    return sum(stats["requests"].values()), stats["bytes_down"]


def matrix_bytes(served: Path) -> int:
    """The bytes of the values and columns of the one study."""
    shards = [
        *served.glob("one/parts/*/zarr/X/data/c/*"),
        *served.glob("one/parts/*/zarr/X/indices/c/*"),
    ]
    return sum(path.stat().st_size for path in shards)


def test_opening_asks_for_few_files_and_none_that_are_not_there(far: Line) -> None:
    store = dao.load_store(f"{far.url}/one")
    n, _ = asked(far)
    assert n <= 4  # the hint, the version, the next one, which is not there, and a base
    statuses = [request.status for request in far.requests()]
    assert statuses.count(404) == 1
    store.scan().dao.iter_batches(256)
    far.rest()
    requests = far.requests()[n:]
    # The version once more, the table of cells, and the outline.
    assert len(requests) <= 5 + 2
    assert all(request.method == "GET" for request in requests)


@pytest.mark.parametrize(("shuffle", "requests", "times"), [(False, 20, 1.1), ("block", 10, 1.3)])
def test_an_epoch_reads_what_it_needs_once(
    far: Line,
    served: Path,
    counts: sp.csr_matrix,
    shuffle: bool | str,
    requests: int,
    times: float,
) -> None:
    frame = dao.scan(f"{far.url}/one").with_row_index()
    batches = frame.dao.iter_batches(
        512, shuffle=shuffle, seed=3, obs=["index"], block_size=256, window=32
    )
    asked(far)
    for batch in batches:
        rows = batch.obs["index"].to_numpy()
        assert (batch.x != counts[rows]).nnz == 0
    n, n_bytes = asked(far)
    needed = matrix_bytes(served)
    assert needed <= n_bytes <= times * needed
    # Of 94 blocks in two arrays, each once; or long ranges.
    assert n <= requests + (2 * 94 if shuffle else 0)


def test_random_cells_are_read_alone(far: Line, served: Path, counts: sp.csr_matrix) -> None:
    frame = dao.scan(f"{far.url}/one").with_row_index()
    few = frame.filter(
        pl.col("index").is_in(np.random.default_rng(1).choice(N_CELLS, 600, replace=False))
    )
    batches = few.dao.iter_batches(600, shuffle=True, seed=3, obs=["index"])
    asked(far)
    (batch,) = batches
    assert (batch.x != counts[batch.obs["index"].to_numpy()]).nnz == 0
    n, n_bytes = asked(far)
    # A cell's values lie in blocks of 512 of others too.
    assert n_bytes <= 5 * matrix_bytes(served) * 600 / N_CELLS
    assert n <= 2 * 600 + 10


def test_one_gene_reads_the_values_of_cells_that_have_it(
    far: Line, served: Path, counts: sp.csr_matrix
) -> None:
    frame = dao.scan(f"{far.url}/one").with_row_index()
    rows = np.sort(np.random.default_rng(1).choice(N_CELLS, 600, replace=False))
    few = frame.filter(pl.col("index").is_in(rows))
    found = few.select(dao.gene("g7")).collect()
    assert found["g7"].to_list() == counts[rows].toarray()[:, 7].tolist()
    # The columns of all, in blocks that others have part of too; one cell in ten has a gene.
    read = {"indices": 0, "data": 0}
    far.rest()
    for request in far.requests():
        for array in read:
            read[array] += request.bytes * (f"zarr/X/{array}/c/" in request.path)
    needed = matrix_bytes(served) * len(rows) / N_CELLS
    assert 0 < read["data"] <= 0.2 * needed
    assert sum(read.values()) <= 3 * needed


def test_small_studies_cost_two_requests_each(far: Line) -> None:
    batches = dao.scan(f"{far.url}/many").dao.iter_batches(256, shuffle=True, seed=0)
    first = next(iter(batches))
    assert first.x.shape == (256, N_GENES)
    assert far.stats()["most_in_flight"] > 10
    n, _ = asked(far)
    assert n <= 2 * 30 + 10


def test_a_store_that_was_edited_is_read_as_it_is(far: Line, served: Path, tmp_path: Path) -> None:
    """The outline of a part knows nothing of later tables and embeddings."""
    store = dao.load_store(served / "many")
    frame = store.scan().filter(pl.col("dataset") == "d00").collect()
    local = store.update_obs(frame.select("cell", label=pl.lit("x")))
    values = np.arange(2 * len(frame), dtype=np.float32).reshape(-1, 2)
    local = local.update_obsm("X_late", frame.select("cell", X_late=values))
    local = local.remove_cells(frame.head(3).lazy())
    there = dao.load_store(f"{far.url}/many")
    assert there.version == local.version
    for of in (local, there):
        late = (
            of.scan()
            .filter(pl.col("dataset") == "d00")
            .dao.to_anndata(obsm=["X_late"], progress=False)
        )
        assert np.array_equal(late.obsm["X_late"], values[3:])
        assert set(late.obs["label"]) == {"x"}
    assert there.verify().is_empty()


def test_a_damaged_outline_is_noticed(served: Path, tmp_path: Path) -> None:
    """Over a network, where it is read; on a disk nobody needs it."""
    shutil.copytree(served / "one", tmp_path / "web" / "one")
    (outline,) = tmp_path.glob("web/one/parts/*/outline")
    good = outline.read_bytes()
    local = dao.load_store(tmp_path / "web" / "one")
    with nginx(tmp_path / "web", tmp_path / "own") as address:
        url = f"http://{address}/one"
        for at in (0, 100, 5000):
            bad = bytearray(good)
            bad[at] ^= 8
            outline.write_bytes(bad)
            with pytest.raises(dao.DaoCorruptError, match=r"outline.*checksum mismatch"):
                dao.scan(url).dao.iter_batches(256)
            assert list(local.verify()["path"]) == [
                f"{outline.parent.relative_to(local.uri)}/outline"
            ]
        # A directory in it is as one in its chunk.
        outline.write_bytes(good[:-100] + bytes(100))
        with pytest.raises(dao.DaoCorruptError, match="checksum mismatch in a chunk's directory"):
            list(dao.scan(url).dao.iter_batches(256))
        outline.write_bytes(good + b"x")
        with pytest.raises(dao.DaoCorruptError, match="longer than it was written"):
            dao.scan(url).dao.iter_batches(256)
        outline.unlink()
        with pytest.raises(dao.DaoFileNotFoundError, match=r"dataset 'd'.*outline"):
            dao.scan(url).dao.iter_batches(256)
    assert next(iter(local.scan().dao.iter_batches(256))).x.shape == (256, N_GENES)
