"""annbatch: its Loader with the zarrs pipeline over a collection that it wrote (shuffled, its
defaults), batches of 1,024 as scipy CSR with two obs columns, blocks of cells × blocks loaded at
a time. ``uniform`` and the selection are samplers of cells' numbers, loaded 16,384 at a time, in
order (faster than its blocks of one cell).
Over a network: zarr's own pipeline, as its README says for what is remote, on obstore's store, with
CONCURRENCY requests at a time (zarr's default of 10 is slower on a long line)."""

import anndata as ad
import numpy as np
import zarr
from annbatch import DatasetCollection, Loader
from annbatch.abc import Sampler
from obstore.store import from_url
from zarr.storage import ObjectStore

TITLE = "annbatch"
PACKAGES = ("annbatch", "zarr", "zarrs", "anndata", "numpy", "scipy")
LOADED = 16_384  # cells in memory at a time: 256 × 64
FEW = 2_048  # of cells that are loaded one by one over a network
CONCURRENCY = 128  # requests over a network

PYTHON = zarr.config.get("codec_pipeline.path")
zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})


def collection(task, loader):
    def load(group):
        obs = ad.io.read_elem(group["obs"])[list(task.obs)]
        var = ad.io.read_elem(group["var"])
        return ad.AnnData(ad.io.sparse_dataset(group["X"]), obs=obs, var=var[[]])

    return loader.use_collection(DatasetCollection(located(task), mode="r"), load_adata=load)


def located(task):
    """The collection's own, wherever it is."""
    url = getattr(task, "url", None)
    if url is None:
        return task.store
    zarr.config.set({"codec_pipeline.path": PYTHON, "async.concurrency": CONCURRENCY})
    store = ObjectStore(from_url(url, client_options={"allow_http": True}), read_only=True)
    return zarr.open_group(store, mode="r")


def blocks(size, count, *, shuffle=True, panel=False):
    def open_loader(task):
        loader = Loader(
            chunk_size=size,
            preload_nchunks=count,
            batch_size=task.batch,
            shuffle=shuffle,
            preload_to_gpu=False,
            rng=np.random.default_rng(0) if shuffle else None,
        )
        collection(task, loader)
        if panel:
            return lambda: (
                (batch["X"][:, : task.panel].toarray(), batch["obs"]["sample"]) for batch in loader
            )
        return lambda: ((batch["X"], batch["obs"]["sample"]) for batch in loader)

    return open_loader


class Chosen(Sampler):
    """Some cells in a new random order each epoch."""

    batch_size = 1024
    shuffle = True

    def __init__(self, rows, loaded):
        self.rows, self.loaded = rows, loaded
        self._rng = np.random.default_rng(0)

    def n_batches(self, n_obs):
        return -(-len(self.rows) // self.batch_size)

    def validate(self, n_obs):
        assert self.rows.max() < n_obs

    def _sample(self, n_obs):
        order = self._rng.permutation(self.rows)
        for at in range(0, len(order), self.loaded):
            loaded = np.sort(order[at : at + self.loaded])
            shuffled = self._rng.permutation(len(loaded))
            cuts = np.arange(self.batch_size, len(loaded), self.batch_size)
            yield {"requests": loaded, "splits": np.split(shuffled, cuts)}


def cells(task, rows, loaded=LOADED):
    loader = collection(task, Loader(batch_sampler=Chosen(rows, loaded), preload_to_gpu=False))
    return lambda: ((batch["X"], batch["obs"]["sample"]) for batch in loader)


def uniform(task):
    return cells(task, np.arange(task.data["cells"]))


def uniform_far(task):
    """With the first batch before a minute is over: each cell takes two chunks of 64 cells."""
    return cells(task, np.arange(task.data["cells"]), FEW)


def selection(task):
    types = DatasetCollection(task.store, mode="r").obs(["cell_type"])["cell_type"]
    return cells(task, np.flatnonzero(types == task.cell_type))


def write(task):
    rng = np.random.default_rng(0)
    DatasetCollection(task.store, mode="w").add_adatas([task.source], shuffle=True, rng=rng)
    zarr.consolidate_metadata(str(task.store))


def counts_bytes(task):
    return sum(f.stat().st_size for f in task.store.glob("dataset_*/X/**/*") if f.is_file())


WRITES = {"shuffled": write}
READS = {
    "in order": {"256 × 64": blocks(256, 64, shuffle=False)},
    "shuffled": {
        "256 × 64": blocks(256, 64),
        "32 × 256": blocks(32, 256),
        "uniform": uniform,
    },
    "selection": {"": selection},
    "first epoch": {"256 × 64": blocks(256, 64)},
    "batches of 256": {"256 × 64": blocks(256, 64)},
    "dense": {"256 × 64": blocks(256, 64, panel=True)},
}
KINDS = ("counts", "floats", "sparse")
PARTS = {("shuffled", "uniform"): 2 * LOADED}
CLOUDS = {
    "in order": {"256 × 64": blocks(256, 64, shuffle=False)},
    "blocks": {"256 × 64": blocks(256, 64)},
    "random": {"uniform, 2,048 at a time": uniform_far},
}
