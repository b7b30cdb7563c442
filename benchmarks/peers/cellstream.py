"""cellstream: ``gather_rows`` alone, without obs, with one and with two threads. Its codec for
counts is the default one (pfordelta). It maps its file, so that pages of it count as memory."""

import cellstream
import numpy as np
from cellstream.packed.reader import PackedArchive
from orders import in_order, selection, shuffled

TITLE = "cellstream"
PACKAGES = ("cellstream", "numpy", "scipy")


def gather(threads, order, *, panel=False):
    def open_store(task):
        store = cellstream.open(task.store)
        rng = np.random.default_rng(0)

        def epoch():
            rows = order(store, task, rng)
            for at in range(0, len(rows), task.batch):
                x = store.gather_rows(rows[at : at + task.batch], n_threads=threads)
                yield x[:, : task.panel].toarray() if panel else x

        return epoch

    return open_store


def to_anndata(task):
    def read():
        yield cellstream.read_h5ad(task.store).X

    return read


def write(task):
    cellstream.write_sharded(str(task.source), str(task.store), layout="cell", overwrite=True)


def counts_bytes(task):
    """All but the tables."""
    archive = PackedArchive(task.store)
    return sum(archive.member_location(name)[2] for name in ("x_payload", "x_offsets", "x_indptr"))


WRITES = {"default": write}
READS = {
    pattern: {
        f"{n} thread{'s' * (n > 1)}": gather(n, order, panel=pattern == "dense") for n in (1, 2)
    }
    for pattern, order in (
        ("in order", in_order),
        ("shuffled", shuffled),
        ("selection", selection),
        ("dense", shuffled),
    )
}
READS["to_anndata"] = {"": to_anndata}
