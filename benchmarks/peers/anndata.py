"""AnnData: batches of 1,024 rows with two obs columns of the .h5ad, opened backed, random ones
sorted within the batch; ``to_anndata`` is ``read_h5ad`` of that file and ``read_zarr`` of the same
cells as ``write_zarr`` writes them by default (which is what is timed as writing)."""

import anndata as ad
import numpy as np
from orders import in_order, selection, shuffled

TITLE = "AnnData"
PACKAGES = ("anndata", "h5py", "zarr", "numpy", "scipy")


def backed(order, *, panel=False):
    def open_file(task):
        adata = ad.read_h5ad(task.source, backed="r")
        rng = np.random.default_rng(0)

        def epoch():
            rows = order(adata, task, rng)
            for at in range(0, len(rows), task.batch):
                some = np.sort(rows[at : at + task.batch])
                x = adata.X[some[0] : some[-1] + 1] if order is in_order else adata.X[some]
                obs = adata.obs[list(task.obs)].iloc[some]
                assert len(obs) == x.shape[0]
                yield x[:, : task.panel].toarray() if panel else x, obs["sample"]

        return epoch

    return open_file


def read_h5ad(task):
    def read():
        adata = ad.read_h5ad(task.source)
        yield adata.X, adata.obs["sample"]

    return read


def read_zarr(task):
    def read():
        adata = ad.read_zarr(task.store)
        yield adata.X, adata.obs["sample"]

    return read


def write(task):
    ad.read_h5ad(task.source).write_zarr(task.store)


def counts_bytes(task):
    return sum(f.stat().st_size for f in task.store.glob("X/**/*") if f.is_file())


WRITES = {"zarr": write}
FROM_SOURCE = True  # in all patterns but read_zarr
READS = {
    "in order": {"backed": backed(in_order)},
    "shuffled": {"backed": backed(shuffled)},
    "selection": {"backed": backed(selection)},
    "dense": {"backed": backed(shuffled, panel=True)},
    "to_anndata": {"read_h5ad": read_h5ad, "read_zarr": read_zarr},
}
PARTS = {
    ("in order", "backed"): 20_480,
    ("shuffled", "backed"): 5_120,
    ("dense", "backed"): 5_120,
}
