"""Two stores that are read as one, and what each gives alone: what both must give together."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import polars as pl

import dao_polars as dao
from dao_polars.scan.cell import keys_of
from tests.conftest import DATA

C = pl.col
#: Genes of the studies: human ones that are in several, mouse ones, and of Ensembl's names.
PANEL = ["INS", "Ins1", "GCG", "CD3E", "B2M", "ENSG00000198804", "Gcg"]
#: How far the second store's keys are shifted: eight bits above the numbers of parts.
SHIFT = 1 << 56


def write_pair(folder: Path) -> tuple[str, str]:
    """Two stores of real cells, each with a dataset called ``pbmc_human``, which are others.

    The second's has a part that was appended, and cells that were removed.
    """
    first, second = folder / "first", folder / "second"
    for name, n_obs in (("pbmc_human", 500), ("pancreas_human", 400)):
        study = ad.read_h5ad(DATA / f"{name}.h5ad")[:n_obs].copy()
        a = dao.write_dataset(first, study, dataset=name, progress=False)
    pbmc = ad.read_h5ad(DATA / "pbmc_human.h5ad")
    pbmc.uns["citation"] = "another"
    heart = ad.read_h5ad(DATA / "heart_human.h5ad")[:200].copy()
    dao.write_dataset(second, heart, dataset="heart_human", progress=False)
    dao.write_dataset(second, pbmc[600:900].copy(), dataset="pbmc_human", progress=False)
    mouse = ad.read_h5ad(DATA / "pancreas_mouse.h5ad")[:300].copy()
    dao.write_dataset(second, mouse, dataset="pancreas_mouse", progress=False)
    more = pbmc[900:950].copy()
    b = dao.write_dataset(second, more, dataset="pbmc_human", mode="append", progress=False)
    cells = b.scan().filter(dataset="pbmc_human").collect()
    b = b.remove_cells(cells.gather([3, 4, 17, 299, 301, 349]))
    return a.uri, b.uri


def plain(frame: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """A frame whose keys are numbers and whose categories are text, in the order of names."""
    frame = frame.lazy().collect()
    if "cell" in frame.columns:
        frame = frame.with_columns(C("cell").ext.storage())
    enums = [n for n, dtype in frame.schema.items() if isinstance(dtype, pl.Enum)]
    return frame.with_columns(C(enums).cast(pl.String)).select(sorted(frame.columns))


def of_each(*uris: str) -> pl.DataFrame:
    """What each store's frame has alone, one after the other."""
    found = []
    for place, uri in enumerate(uris):
        alone = dao.scan(uri).with_columns(store=pl.lit(uri))
        found.append(plain(alone).with_columns(C("cell") + place * SHIFT))
    joined = pl.concat(found, how="diagonal_relaxed")
    return joined.select(sorted(joined.columns))


def values_of_each(genes: list[str], *uris: str) -> tuple[np.ndarray, np.ndarray]:
    """The keys of all cells as both stores number them, and their values, each read alone."""
    keys, values = [], []
    for place, uri in enumerate(uris):
        lf = dao.scan(uri)
        known = set(lf.dao.iter_batches(genes="union").genes.to_list())
        here = [g for g in genes if g in known]
        dense = np.zeros((len(lf.select("cell").collect()), len(genes)), np.float32)
        dense[:, [genes.index(g) for g in here]] = lf.dao.to_anndata(genes=here).X.toarray()
        values.append(dense)
        keys.append(keys_of(lf.select("cell").collect()).numpy() + np.uint64(place * SHIFT))
    return np.concatenate(keys), np.concatenate(values)


def mixed(pair: tuple[str, str]) -> pl.LazyFrame:
    """Cells of all datasets in an order that is not its own inverse, some of them twice."""
    frame = dao.scan(pair).collect()
    order = np.random.default_rng(5).permutation(frame.height)
    assert (order[order] != np.arange(len(order))).any()
    return pl.concat([frame[order[:700]], frame[order[600:650]]]).lazy()


def rows_of(cells: pl.DataFrame, expected: dict[int, np.ndarray]) -> np.ndarray:
    return np.stack([expected[key] for key in keys_of(cells).numpy().tolist()])
