"""sfaira: its own store (dense zarr 2 in chunks of 128 cells), read through its dask cart in
batches of 1,024 with two obs columns, each batch computed; shuffled by blocks of chunks
(``randomized_batch_access``) or uniformly (``random_access``)."""

import sys
from unittest.mock import MagicMock

for module in ("torch", "torchmetrics", "tensorflow"):  # of its models; its loader uses none
    sys.modules[module] = MagicMock()

import anndata as ad  # noqa: E402
import numpy as np  # noqa: E402
import sfaira  # noqa: E402
from sfaira.data.store.io.io_dao import write_dao  # noqa: E402

TITLE = "sfaira"
PACKAGES = ("sfaira", "zarr", "dask", "anndata", "numpy")


def cart(access=None, *, chosen=False, panel=False):
    def open_cart(task):
        store = sfaira.data.load_store(str(task.store), store_format="dao")
        store = next(iter(store.stores.values()))
        rows = None
        if chosen:
            obs = next(iter(store.adata_by_key.values())).obs
            rows = np.flatnonzero(obs["cell_type"] == task.cell_type)
        cart = store.checkout(
            idx=rows,
            batch_size=0,
            retrieval_batch_size=task.batch,
            obs_keys=list(task.obs),
            map_fn=lambda x, obs: ((x[:, : task.panel] if panel else x).compute(), obs),
            **({access: True} if access else {}),
        )
        return lambda: ((x, obs["sample"]) for x, obs in cart.iterator())

    return open_cart


def write(task):
    adata = ad.read_h5ad(task.source)
    adata.uns.update(id="cells", organism="Homo sapiens")
    chunks = (128, adata.n_vars)
    write_dao(str(task.store / "cells"), adata, chunks=chunks, compression_kwargs={})


def counts_bytes(task):
    return sum(f.stat().st_size for f in task.store.glob("*/zarr/**/*") if f.is_file())


WRITES = {"": write}
READS = {
    "in order": {"": cart()},
    "shuffled": {"blocks": cart("randomized_batch_access"), "uniform": cart("random_access")},
    "selection": {"": cart("random_access", chosen=True)},
    "dense": {"blocks": cart("randomized_batch_access", panel=True)},
}
PARTS = {
    ("in order", ""): 20_480,
    ("shuffled", "blocks"): 20_480,
    ("shuffled", "uniform"): 2_048,
    ("dense", "blocks"): 20_480,
}
