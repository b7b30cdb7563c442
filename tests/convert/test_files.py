"""Selections as AnnData files: read back by anndata, whole or not at all, within memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

import dao_polars as dao
from tests.conftest import study

KINDS = ["h5ad", "zarr"]


def write(frame: pl.LazyFrame | pl.DataFrame, path: Path, **options: object) -> ad.AnnData:
    """The frame written to a path of either kind, as anndata reads it."""
    if path.suffix == ".h5ad":
        assert frame.dao.write_h5ad(path, progress=False, **options) == path
        return ad.read_h5ad(path)
    assert frame.dao.write_zarr(path, progress=False, **options) == path
    return ad.read_zarr(path)


def dense(x: object) -> np.ndarray:
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def same(found: ad.AnnData, made: ad.AnnData, path: Path) -> None:
    """Whether a file has what anndata's own of the AnnData in memory has."""
    own = path.with_name(f"own-{path.name}")
    getattr(made, f"write_{path.suffix[1:]}")(own)
    wanted = ad.read_h5ad(own) if path.suffix == ".h5ad" else ad.read_zarr(own)
    assert found.obs.equals(wanted.obs)
    assert (found.obs.dtypes == wanted.obs.dtypes).all()
    assert found.var.equals(wanted.var)
    assert list(found.layers) == list(wanted.layers)
    assert list(found.obsm) == list(wanted.obsm)
    pairs = [(found.X, wanted.X)]
    pairs += [(found.layers[name], x) for name, x in wanted.layers.items()]
    pairs += [(found.obsm[name], x) for name, x in wanted.obsm.items()]
    for a, b in pairs:
        assert a.dtype == b.dtype
        assert sp.issparse(a) == sp.issparse(b)
        assert np.array_equal(dense(a), dense(b))
    assert str(dict(found.uns)) == str(dict(wanted.uns))


@pytest.fixture(scope="module")
def layered(tmp_path_factory):
    uri = tmp_path_factory.mktemp("layered") / "store"
    for i, n in enumerate([130, 61, 9]):
        one = study(i, n, [f"g{j}" for j in range(30)])
        one.layers["half"] = one.X.copy() / 2
        one.obsm["X_pca"] = np.random.default_rng(i).normal(size=(n, 5)).astype(np.float32)
        one.uns["note"] = f"study {i}"
        store = dao.write_dataset(uri, one, dataset=f"d{i}", layers=True, obsm=True, progress=False)
    return store


@pytest.mark.parametrize("kind", KINDS)
def test_real_cells(real_store, tmp_path, kind):
    for name in ("pbmc_human", "pancreas_human"):
        cells = real_store.scan().filter(pl.col("dataset") == name)
        path = tmp_path / f"{name}.{kind}"
        same(write(cells, path), cells.dao.to_anndata(), path)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_embeddings_and_any_order(layered, tmp_path, kind):
    frame = layered.scan().collect().sample(n=300, with_replacement=True, seed=4)
    frame = frame.with_columns(cut=pl.col("score").cut([0.3, 0.6]))
    options = {"layers": True, "cell": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of names that are there twice
        found = write(frame, tmp_path / f"a.{kind}", **options)
        same(found, frame.dao.to_anndata(**options), tmp_path / f"a.{kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_genes_and_normalized_values(mixed, tmp_path, kind):
    lf = mixed[0].scan()
    for options in (
        {"genes": "union"},
        {"genes": ["g7", "x"], "normalize": "log1p_cp10k", "obs": ["score"]},
    ):
        path = tmp_path / f"{len(options)}.{kind}"
        same(write(lf, path, **options), lf.dao.to_anndata(**options), path)


@pytest.mark.parametrize("kind", KINDS)
def test_no_cells(layered, tmp_path, kind):
    with pytest.warns(UserWarning, match="no cells"):
        found = write(layered.scan().filter(pl.lit(False)), tmp_path / f"a.{kind}", genes=["g1"])
    assert found.shape == (0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_there(layered, tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    write(layered.scan(), path)
    with pytest.raises(dao.DaoFileExistsError, match="overwrite=True replaces it"):
        write(layered.scan().head(3), path)
    assert write(layered.scan().head(3), path, overwrite=True).n_obs == 3
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stays_of_what_fails(layered, tmp_path, kind):
    copy = dao.copy(layered.uri, tmp_path / "copy")
    shard = max((tmp_path / "copy").rglob("X/data/c/*"), key=lambda file: file.stat().st_size)
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    shard.write_bytes(damaged)
    (tmp_path / "out").mkdir()
    with pytest.raises(dao.DaoCorruptError):
        write(copy.scan(), tmp_path / "out" / f"a.{kind}")
    assert os.listdir(tmp_path / "out") == []
    if kind == "h5ad":  # zarr makes the folder
        with pytest.raises(dao.DaoIOError, match="cannot be written"):
            write(layered.scan(), tmp_path / "none" / f"a.{kind}")


def test_ctrl_c_leaves_nothing(layered, tmp_path):
    code = (
        "import sys, dao_polars as dao, polars as pl\n"
        "frame = dao.scan(sys.argv[1]).collect()\n"
        "frame = pl.concat([frame] * 4000)\n"
        "print('begins', flush=True)\n"
        "frame.dao.write_h5ad(sys.argv[2], compression='gzip', obs=False)\n"
    )
    command = [sys.executable, "-c", code, layered.uri, str(tmp_path / "a.h5ad")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "begins\n"
    end = time.monotonic() + 60
    while not os.listdir(tmp_path) and time.monotonic() < end:
        time.sleep(0.02)
    assert os.listdir(tmp_path)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in said
    assert os.listdir(tmp_path) == []


def test_memory_does_not_grow_with_cells(layered, tmp_path):
    code = (
        "import resource, sys, dao_polars as dao, polars as pl\n"
        "frame = dao.scan(sys.argv[1]).select('cell').collect()\n"
        "frame = pl.concat([frame] * int(sys.argv[3]))\n"
        "frame.dao.write_h5ad(sys.argv[2], progress=False)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )

    def peak(times: int) -> int:
        path = str(tmp_path / f"{times}.h5ad")
        command = [sys.executable, "-W", "ignore", "-c", code, layered.uri, path, str(times)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout) * 1024

    few, many = peak(500), peak(10_000)
    size = os.path.getsize(tmp_path / "10000.h5ad")
    assert size > 400e6
    assert many - few < size / 2
