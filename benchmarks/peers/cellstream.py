"""cellstream: ``gather_rows`` alone, without obs, with one and with two threads. Its codec for
counts is the default one (pfordelta). It maps its file, so that pages of it count as memory."""

import anndata as ad
import cellstream
import numpy as np
from cellstream.packed.reader import PackedArchive
from orders import ORDERS

TITLE = "cellstream"
PACKAGES = ("cellstream", "numpy", "scipy")


def gather(threads, order, *, panel=False):
    def open_store(task):
        store = cellstream.open(task.store)
        rng = np.random.default_rng(0)

        def epoch():
            rows = order(store, task, rng)
            for at in range(0, len(rows), task.batch):
                some = rows[at : at + task.batch]
                x = store.gather_rows(some, n_threads=threads)
                if panel:
                    x = x[:, : task.panel].toarray()
                yield x, lambda some=some: store.obs["sample"].iloc[some]

        return epoch

    return open_store


def to_anndata(task):
    def read():
        adata = cellstream.read_h5ad(task.store)
        yield adata.X, adata.obs["sample"]

    return read


def write(task):
    cellstream.write_sharded(str(task.source), str(task.store), layout="cell", overwrite=True)


def from_memory(task):
    adata = ad.read_h5ad(task.source)
    return lambda: cellstream.write_sharded(adata, str(task.store), layout="cell", overwrite=True)


def counts_bytes(task):
    """All but the tables."""
    archive = PackedArchive(task.store)
    return sum(archive.member_location(name)[2] for name in ("x_payload", "x_offsets", "x_indptr"))


WRITES = {"from the file": write, "from memory": from_memory}
READS = {
    pattern: {"2 threads": gather(2, order, panel=pattern == "dense")}
    for pattern, order in ORDERS.items()
}
for pattern in ("in order", "shuffled"):
    READS[pattern]["1 thread"] = gather(1, ORDERS[pattern])
READS["to_anndata"] = {"": to_anndata}
KINDS = ("counts", "floats", "sparse")
