"""dao-polars: batches of 1,024 with two obs columns, a uniform random permutation when shuffled;
the store is written from the .h5ad in its order but where writing is said to shuffle."""

import shutil

import anndata  # noqa: F401  (imports are not timed; to_anndata would do it)
import polars as pl

import dao_polars as dao

TITLE = "dao-polars"
PACKAGES = ("dao-polars", "polars", "numpy", "scipy")


def frame(task):
    return dao.scan(task.store).select("cell", *task.obs)


def epochs(batches):
    return lambda: ((x, obs["sample"]) for x, obs in batches)


def in_order(task):
    return epochs(frame(task).dao.iter_batches(task.batch))


def shuffled(task):
    return epochs(frame(task).dao.iter_batches(task.batch, shuffle=True, seed=0))


def cloud(keep=False, **order):
    def open_store(task):
        cache = task.source.parent / "cache" if keep else None
        if keep:
            shutil.rmtree(cache, ignore_errors=True)
        cells = dao.scan(task.url, cache=cache).select("cell", *task.obs)
        return epochs(cells.dao.iter_batches(task.batch, **order))

    return open_store


def selection(task):
    chosen = frame(task).filter(pl.col("cell_type") == task.cell_type)
    return epochs(chosen.dao.iter_batches(task.batch, shuffle=True, seed=0))


def dense(task):
    genes = dao.load_store(task.store).var("data")["var_name"].head(task.panel)
    options = {"genes": genes.to_list(), "layout": "dense"}
    return epochs(frame(task).dao.iter_batches(task.batch, shuffle=True, seed=0, **options))


def to_anndata(task):
    def read():
        adata = dao.scan(task.store).dao.to_anndata(progress=False)
        yield adata.X, adata.obs["sample"]

    return read


def write(shuffle):
    return lambda task: dao.write_dataset(
        task.store, task.source, shuffle=shuffle, seed=0, progress=False
    )


def counts_bytes(task):
    return sum(f.stat().st_size for f in task.store.glob("parts/*/zarr/X/**/*") if f.is_file())


WRITES = {"in order": write(False), "shuffled": write(True)}
KINDS = ("counts", "floats", "sparse")
READS = {
    "in order": {"": in_order},
    "shuffled": {"": shuffled},
    "first epoch": {"": shuffled},
    "batches of 256": {"": shuffled},
    "selection": {"": selection},
    "dense": {"": dense},
    "to_anndata": {"": to_anndata},
}
BLOCKS = {"shuffle": "block", "block_size": 256, "window": 64, "seed": 0}
CLOUDS = {
    "in order": {"": cloud()},
    "blocks": {
        "256 × 64": cloud(**BLOCKS),
        "256 × 64, second epoch with cache=": cloud(keep=True, **BLOCKS),
    },
    "random": {
        "": cloud(shuffle=True, seed=0),
        "second epoch with cache=": cloud(keep=True, shuffle=True, seed=0),
    },
}
BEFORE = {"256 × 64, second epoch with cache=": 1, "second epoch with cache=": 1}
