"""SLAF (slafdb): its SLAFDataLoader in raw mode, batches of 1,024 cells as a polars table of cell,
gene and count (not CSR), without obs; ``sequential`` shuffles within what it loads at a time, the
mixture of scanners (its default) over 16 fragments. Making the loader, which begins to read, is
in the time of the epoch. It has no way to a selection. Over a network
fragments are read side by side, as its docstrings say; metadata are loaded when it is opened, since
the mixture gives no batch with ``load_metadata=False``."""

import numpy as np
from slaf import SLAFArray
from slaf.data import SLAFConverter
from slaf.ml import SLAFDataLoader

TITLE = "SLAF"
PACKAGES = ("slafdb", "pylance", "polars", "torch")
SAMPLE = 1_000  # cells of a sample, as data.py has it


class Table:
    """A batch as measure.py looks at it."""

    def __init__(self, batch):
        self.shape = (len(batch["cell_ids"]),)
        self.data = batch["x"]["value"].to_numpy()


def whole(batches, cells):
    """Up to the last cell: asked for one more, the loader waits a minute before it says so."""
    for batch in batches:
        table = Table(batch)
        yield table, lambda ids=batch["cell_ids"]: np.asarray(ids) // SAMPLE
        cells -= table.shape[0]
        if cells <= 0:
            return


def loader(**options):
    def open_array(task):
        array = SLAFArray(getattr(task, "url", None) or str(task.store))

        def epoch():
            batches = SLAFDataLoader(
                array, batch_size=task.batch, raw_mode=True, verbose=False, **options
            )
            return whole(batches, task.data["cells"])

        return epoch

    return open_array


def write(task):
    SLAFConverter().convert(str(task.source), str(task.store))


def counts_bytes(task):
    place = task.store / "expression.lance"
    return sum(f.stat().st_size for f in place.glob("**/*") if f.is_file())


WRITES = {"": write}
READS = {
    "in order": {
        f"sequential, {n} a chunk": loader(
            use_mixture_of_scanners=False, by_fragment=False, batches_per_chunk=n
        )
        for n in (50, 200)
    },
    "shuffled": {"mixture of scanners": loader()},
}
SEQUENTIAL = "sequential, 50 a chunk"
CLOUDS = {
    "in order": {SEQUENTIAL: READS["in order"][SEQUENTIAL]},
    "blocks": {"mixture of scanners": loader(parallelize_fragment_reads=True)},
}
