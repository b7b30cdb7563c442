"""scDataset over the .h5ad opened backed, batches of 1,024 as scipy CSR with two obs columns,
16 batches fetched at a time; shuffled by its BlockShuffling in blocks of so many cells."""

import anndata as ad
import numpy as np
from scdataset import BlockShuffling, Streaming, scDataset

TITLE = "scDataset"
PACKAGES = ("scDataset", "anndata", "h5py", "torch", "numpy", "scipy")


class Cells:
    """CSR and obs columns, to take rows of: its MultiIndexable takes no sparse matrices."""

    def __init__(self, x, obs):
        self.x, self.obs = x, obs

    def __getitem__(self, rows):
        return Cells(self.x[rows], {name: column[rows] for name, column in self.obs.items()})


def loader(strategy, *, panel=False):
    def open_file(task):
        adata = ad.read_h5ad(task.source, backed="r")

        def fetch(some):
            columns = {name: some.obs[name].to_numpy() for name in task.obs}
            return Cells(some.X[:], columns)

        batches = scDataset(
            adata,
            strategy(adata, task),
            batch_size=task.batch,
            fetch_factor=16,
            fetch_transform=fetch,
            seed=0,
        )
        if panel:
            return lambda: (
                (batch.x[:, : task.panel].toarray(), batch.obs["sample"]) for batch in batches
            )
        return lambda: ((batch.x, batch.obs["sample"]) for batch in batches)

    return open_file


def in_order(adata, task):
    return Streaming()


def blocks(size):
    return lambda adata, task: BlockShuffling(block_size=size)


def selection(adata, task):
    chosen = np.flatnonzero(adata.obs["cell_type"] == task.cell_type)
    return BlockShuffling(block_size=1, indices=chosen)


WRITES = {}
READS = {
    "in order": {"": loader(in_order)},
    "shuffled": {"blocks of 256": loader(blocks(256)), "blocks of 32": loader(blocks(32))},
    "selection": {"": loader(selection)},
    "dense": {"blocks of 256": loader(blocks(256), panel=True)},
}
PARTS = {
    ("in order", ""): 32_768,
    ("shuffled", "blocks of 256"): 32_768,
    ("shuffled", "blocks of 32"): 32_768,
    ("dense", "blocks of 256"): 32_768,
}
