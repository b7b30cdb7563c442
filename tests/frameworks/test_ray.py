"""Cells as a Ray dataset, and statistics that Ray adds up: a real Ray, of this machine."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

import dao_polars as dao

ray = pytest.importorskip("ray")
ray_data = pytest.importorskip("ray.data")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def cells(real_store):
    return real_store.scan().filter(pl.col("dataset") == "pancreas_human")


def matrix(rows: list[dict], n_genes: int) -> sp.csr_matrix:
    """The sparse rows of a Ray dataset, in the order of their keys."""
    rows = sorted(rows, key=lambda row: row["cell"])
    ends = np.cumsum([0, *(len(row["X/indices"]) for row in rows)])
    indices = np.concatenate([row["X/indices"] for row in rows])
    data = np.concatenate([row["X/data"] for row in rows])
    return sp.csr_matrix((data, indices, ends), (len(rows), n_genes))


def test_rows_are_the_cells(cells):
    frame = cells.select("cell", "cell_type", "donor").collect().sample(fraction=0.5, seed=3)
    dataset = frame.dao.to_ray(n_partitions=5, batch_size=100)
    assert dataset.count() == frame.height
    rows = dataset.take_all()
    whole = frame.sort(pl.col("cell").ext.storage())
    adata = whole.dao.to_anndata()
    assert (matrix(rows, adata.n_vars) != adata.X).nnz == 0
    rows.sort(key=lambda row: row["cell"])
    assert [row["cell"] for row in rows] == whole["cell"].ext.storage().to_list()
    assert [row["cell_type"] for row in rows] == whole["cell_type"].cast(pl.String).to_list()
    assert set(rows[0]) == {"cell", "cell_type", "donor", "X/indices", "X/data"}


def test_each_piece_is_a_task(cells):
    dataset = cells.dao.to_ray(n_partitions=4, batch_size=10_000)
    assert dataset.materialize().num_blocks() == 4


def test_dense_rows_of_a_few_genes(real_store):
    cells = real_store.scan().filter(pl.col("dataset").is_in(["pbmc_human", "pancreas_human"]))
    options = {"genes": ["CD3E", "INS", "GCG"], "normalize": "log1p_cp10k"}
    dataset = cells.dao.to_ray(layout="dense", obs=["dataset"], **options)
    rows = sorted(dataset.take_all(), key=lambda row: row["cell"])
    wanted = cells.collect().sort(pl.col("cell").ext.storage()).dao.to_anndata(**options).X
    assert np.array_equal(np.stack([row["X"] for row in rows]), wanted.toarray())


def test_ray_transforms_them(cells):
    def total(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"cell": batch["cell"], "total": np.array([x.sum() for x in batch["X/data"]])}

    rows = cells.dao.to_ray().map_batches(total, batch_format="numpy").take_all()
    rows.sort(key=lambda row: row["cell"])
    frame = cells.collect().sort(pl.col("cell").ext.storage())
    assert np.allclose(
        [row["total"] for row in rows], frame.dao.qc()["total_counts"].to_numpy(), rtol=1e-6
    )


@pytest.mark.parametrize("engine", ["ray", ray])
def test_it_adds_statistics_up(cells, engine):
    found = cells.dao.pseudobulk("cell_type", ["sum", "count_nonzero"], engine=engine)
    assert found.equals(cells.dao.pseudobulk("cell_type", ["sum", "count_nonzero"]))
    sets = {"mt": "^MT-"}
    assert cells.dao.qc(sets, engine=engine).equals(cells.dao.qc(sets))


def test_what_is_wrong_is_said(cells, real_store):
    with pytest.raises(dao.DaoTypeError, match="to_ray takes no seed=, shuffle="):
        cells.dao.to_ray(shuffle=True, seed=0)
    with pytest.raises(dao.DaoValueError, match="feature space"):
        real_store.scan().dao.to_ray()
    with pytest.raises(dao.DaoKeyError, match="nope"):
        cells.dao.to_ray(genes=["nope"])
