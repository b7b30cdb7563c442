"""write_dataset on many cores: the same bytes as on one, and nothing left when it is broken off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import dao_polars as dao
from dao_polars.sources import matrix_source
from tests.storefab import part_path

RNG = np.random.default_rng(5)
N_OBS, N_VARS = 3001, 700  # some hundred thousand values: several pieces and inner chunks


def counts() -> sp.csr_matrix:
    found = sp.random(N_OBS, N_VARS, 0.4, format="csr", dtype="float32", random_state=RNG)
    found.data = np.ceil(found.data * RNG.geometric(0.01, found.nnz)).astype("float32")
    found.data[found.indices % 7 > 0] = 1
    return found


def unsorted(x: sp.csr_matrix) -> sp.csr_matrix:
    """The matrix with each row's columns in another order."""
    rows = np.repeat(np.arange(N_OBS), np.diff(x.indptr))
    order = np.lexsort((RNG.random(x.nnz), rows))
    return sp.csr_matrix((x.data[order], x.indices[order], x.indptr), x.shape)


FORMS = {
    "csr": lambda x: x,
    "unsorted": unsorted,
    "csc": sp.csc_matrix,
    "dense": lambda x: x.toarray(),
    "dense, stays so": lambda x: x.toarray() + np.float32(0.25),
}


def files(store: Path) -> dict[str, bytes]:
    """The files of the matrices, without the random ids of their arrays."""
    found = {}
    for path in sorted((part_path(store, "d") / "zarr").rglob("*")):
        if path.is_file():
            found[str(path.relative_to(part_path(store, "d")))] = path.read_bytes()
    for name, text in found.items():
        if name.endswith("zarr.json"):
            tag = json.loads(text)["attributes"].get("dao_polars.shard_tag")
            if tag is not None:
                folder = name.removesuffix("zarr.json")
                found[name] = text.replace(tag.encode(), b"")
                for other in [other for other in found if other.startswith(f"{folder}c/")]:
                    assert found[other].count(bytes.fromhex(tag)[::-1]) == 1
                    found[other] = found[other].replace(bytes.fromhex(tag)[::-1], b"")
    return found


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads follow the cores given")
@pytest.mark.parametrize("kind", ["memory", "h5ad"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [{}, {"shuffle": True, "seed": 3}, {"profile": "portable"}])
def test_files_do_not_depend_on_threads(tmp_path, monkeypatch, kind, form, options):
    monkeypatch.setattr(matrix_source, "BLOCK_BYTES", 3 << 20)
    x = counts()
    expected = FORMS[form](x)
    source = ad.AnnData(expected)
    if kind == "h5ad":
        source.write_h5ad(tmp_path / "a.h5ad", compression="gzip")
        source = tmp_path / "a.h5ad"
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        dao.write_dataset(tmp_path / "one", source, dataset="d", progress=False, **options)
    finally:
        os.sched_setaffinity(0, cores)
    store = dao.write_dataset(tmp_path / "many", source, dataset="d", progress=False, **options)
    assert files(tmp_path / "one") == files(tmp_path / "many")
    assert store.verify().is_empty()
    found = store.scan().dao.to_anndata()
    dense = expected.toarray() if sp.issparse(expected) else np.asarray(expected)
    rows = found.obs["source_row"] if "shuffle" in options else slice(None)
    got = found.X.toarray() if sp.issparse(found.X) else np.asarray(found.X)
    np.testing.assert_array_equal(got, dense[rows])


WRITER = """
import sys, anndata, scipy.sparse as sp, dao_polars as dao
way = sys.argv[2]
x = sp.random(20_000, 1_000, 0.3, format="csr", dtype="float32", random_state=0)
x.data = (x.data * 9).round() + 1
adata = anndata.AnnData(x)
adata.write_h5ad(sys.argv[1] + ".h5ad", compression="lzf")
if way != "study":
    dao.write_dataset(sys.argv[1] + ".source", adata, dataset="d0", progress=False)
print("ready", flush=True)
n = 0
try:
    while True:
        name, source = f"d{n}", (adata, sys.argv[1] + ".h5ad")[n % 2]
        if way == "study":
            dao.write_dataset(sys.argv[1], source, dataset=name, shuffle=n % 4 > 1, progress=False)
        elif way == "selection":
            cells = dao.scan(sys.argv[1] + ".source")
            cells.dao.write_dataset(sys.argv[1], dataset=name, shuffle=n % 4 > 1, progress=False)
        else:
            other = sys.argv[1] + ".source"
            dao.copy(other, sys.argv[1], progress=False)
            dao.load_store(other).rename_dataset(name, f"d{n + 1}")
        n += 1
except KeyboardInterrupt:
    try:
        print(n, flush=True)
    except KeyboardInterrupt:  # polars raised for the one signal, and Python does so again
        print(n, flush=True)
"""


@pytest.mark.parametrize("after", [0.1, 0.4, 0.9, 1.7])
@pytest.mark.parametrize("way", ["study", "selection", "copy"])
def test_ctrl_c_leaves_what_was_finished(tmp_path, way, after):
    uri = tmp_path / "s"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(uri), way],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(after)
    lost = b""
    while True:
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=20)
            break
        except subprocess.TimeoutExpired as late:
            # Python itself loses one that meets a weak reference's callback, and says so: again.
            assert lost == b""
            lost = late.stderr or b""
            assert b"Exception ignored in" in lost
    assert lost or not err, err
    # the last may be there though the writer was told to stop: it was published before
    n = int(out)
    if (uri / "versions").exists():
        store = dao.load_store(uri)
        assert store.datasets.height in (n, n + 1)
        assert store.verify().is_empty()
    else:
        assert n == 0
    assert not list(uri.glob("writing/*"))
