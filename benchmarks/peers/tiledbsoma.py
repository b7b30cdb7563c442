"""tiledbsoma-ml: its ExperimentDataset, batches of 1,024 as scipy CSR (a numpy array where the
pattern is dense) with two obs columns, 16,384 cells read at a time, shuffled in chunks of 256, of
64 (its default) or of 1."""

import tiledbsoma
import tiledbsoma.io
from tiledbsoma_ml import ExperimentDataset

TITLE = "TileDB-SOMA-ML"
PACKAGES = ("tiledbsoma-ml", "tiledbsoma", "torch", "numpy", "scipy")


def loader(chunk=None, *, chosen=False, panel=False):
    def open_experiment(task):
        experiment = tiledbsoma.Experiment.open(str(task.store))
        queries = {}
        if chosen:
            value_filter = f"cell_type == '{task.cell_type}'"
            queries["obs_query"] = tiledbsoma.AxisQuery(value_filter=value_filter)
        if panel:
            genes = (slice(0, task.panel - 1),)
            queries["var_query"] = tiledbsoma.AxisQuery(coords=genes)
        batches = ExperimentDataset(
            experiment.axis_query("RNA", **queries),
            layer_name="data",
            obs_column_names=list(task.obs),
            batch_size=task.batch,
            io_batch_size=16_384,
            shuffle=chunk is not None,
            shuffle_chunk_size=chunk or 64,
            seed=0,
            return_sparse_X=not panel,
        )
        return lambda: ((x, obs["sample"]) for x, obs in batches)

    return open_experiment


def write(task):
    tiledbsoma.io.from_h5ad(str(task.store), str(task.source), "RNA")


def counts_bytes(task):
    place = task.store / "ms" / "RNA" / "X"
    return sum(f.stat().st_size for f in place.glob("**/*") if f.is_file())


WRITES = {"": write}
READS = {
    "in order": {"": loader()},
    "shuffled": {f"chunks of {n}": loader(n) for n in (256, 64)} | {"uniform": loader(1)},
    "selection": {"": loader(1, chosen=True)},
    "dense": {f"chunks of {n}": loader(n, panel=True) for n in (256,)},
}
PARTS = {
    ("in order", ""): 32_768,
    ("shuffled", "chunks of 256"): 32_768,
    ("shuffled", "chunks of 64"): 32_768,
    ("shuffled", "uniform"): 16_384,
    ("dense", "chunks of 256"): 32_768,
}
