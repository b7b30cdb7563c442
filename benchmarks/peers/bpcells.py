"""BPCells: its experimental Python package, a ``DirMatrix`` of cells × genes (bit-packed, 32-bit
counts) sliced by arrays of row numbers, as scipy CSR, without obs; more threads than cores, as its
tutorial has them for random slices, too. ``in memory`` is its ``MemMatrix``, which holds the packed
store in memory. Which cells are of the selection is read from the .h5ad when it is opened. Its
Python package writes and reads integers alone: the format for floats is R's."""

import os
from types import SimpleNamespace

import anndata as ad
import h5py
import numpy as np
from bpcells.experimental import DirMatrix, MemMatrix
from orders import ORDERS

TITLE = "BPCells"
PACKAGES = ("bpcells", "numpy", "scipy")


def on_disk(store):
    matrix = DirMatrix(store)
    return matrix, lambda rows, columns: matrix[rows, columns]


def in_memory(store):
    matrix = MemMatrix(store)  # which takes a matrix stored by rows for one of genes × cells
    return matrix, lambda rows, columns: matrix[columns, rows].T


def slices(open_matrix, threads, order, *, panel=False):
    def open_store(task):
        matrix, counts = open_matrix(str(task.store))
        matrix.threads = threads
        with h5py.File(task.source) as file:
            obs = {name: ad.io.read_elem(file["obs"][name]) for name in task.obs}
        cells = SimpleNamespace(n_obs=task.data["cells"], obs=obs)
        rng = np.random.default_rng(0)

        def epoch():
            rows = order(cells, task, rng)
            for at in range(0, len(rows), task.batch):
                some = rows[at : at + task.batch]
                if panel:
                    x = counts(some, slice(0, task.panel)).toarray()
                else:
                    x = counts(some, slice(None))
                yield x, lambda some=some: obs["sample"][some]

        return epoch

    return open_store


def from_file(task):
    DirMatrix.from_h5ad(str(task.source), str(task.store))


def from_memory(task):
    x = ad.read_h5ad(task.source).X
    return lambda: DirMatrix.from_scipy_sparse(x, str(task.store))


def counts_bytes(task):
    return sum(f.stat().st_size for f in task.store.glob("*") if f.is_file())


CORES = len(os.sched_getaffinity(0))
WRITES = {"from the file": from_file, "from memory": from_memory}
READS = {
    pattern: {f"{CORES} threads": slices(on_disk, CORES, order, panel=pattern == "dense")}
    for pattern, order in ORDERS.items()
}
READS["shuffled"] |= {
    f"{4 * CORES} threads": slices(on_disk, 4 * CORES, ORDERS["shuffled"]),
    f"in memory, {4 * CORES} threads": slices(in_memory, 4 * CORES, ORDERS["shuffled"]),
}
