"""What a selection takes of memory: so many bytes a cell, and no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import dao_polars as dao
from tests.memory import MEMORY

N = 2_000_000

SCRIPT = """
import sys, threading
import scipy.sparse
import dao_polars as dao

peak, over = 0, threading.Event()

def look():
    global peak
    while not over.wait(0.002):
        peak = max(peak, memory("RssAnon"))

uri, n = sys.argv[1], int(sys.argv[2])
thread = threading.Thread(target=look, daemon=True)
before = memory("RssAnon")
thread.start()
batches = dao.scan(uri).select("cell").head(n).dao.iter_batches(4096, shuffle=True, seed=1)
assert sum(x.shape[0] for x, _ in batches) == n
over.set()
thread.join()
print(peak - before)
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two million cells of one value."""
    columns = np.arange(N, dtype=np.int32) % 10
    x = sp.csr_matrix((np.ones(N, np.float32), columns, np.arange(N + 1)), shape=(N, 10))
    adata = ad.AnnData(x, pd.DataFrame(index=np.arange(N).astype(str)))
    uri = tmp_path_factory.mktemp("many") / "store"
    dao.write_dataset(uri, adata, dataset="many", progress=False)
    return uri


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_selected_cell_takes_few_bytes(many: Path) -> None:
    """Its key takes 8 and its place in the order 4, while polars' column of keys is there 16."""

    def peak(n: int) -> int:
        command = [sys.executable, "-c", MEMORY + SCRIPT, str(many), str(n)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert not done.returncode, done.stderr
        return int(done.stdout)

    few = N // 10
    assert peak(N) - peak(few) < 20 * (N - few)
