"""Every output is the same, bit by bit, on any number of threads.

Batches and aggregates are asked for by their number of threads. What has no such setting (columns
of expression, AnnData, the scan) is made in processes that may use one core or all, with as many
threads of polars' own.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from polars.testing import assert_frame_equal

import dao_polars as dao
from dao_polars.analysis.groups import CellGroups
from tests.conftest import study

THREADS = (1, 2, 3, 5)


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> dao.Store:
    """Studies with a layer and an embedding, whose genes overlap and stand in different orders."""
    uri = tmp_path_factory.mktemp("threads") / "store"
    genes = [f"g{i}" for i in range(60)]
    for name, seed, n_obs, its in (
        ("a", 1, 7001, genes),  # more cells than one thread takes at once
        ("b", 2, 503, genes[::-1]),
        ("c", 3, 211, genes[7:50]),
    ):
        adata = study(seed, n_obs, its)
        adata.layers["half"] = adata.X * 0.5
        rng = np.random.default_rng(seed)
        adata.obsm["X_pca"] = rng.normal(size=(adata.n_obs, 5)).astype(np.float32)
        store = dao.write_dataset(
            uri, adata, dataset=name, layers=["half"], obsm=["X_pca"], progress=False
        )
    return store


def bits(value: Any) -> tuple[Any, ...]:
    """A matrix as what makes it: type, shape and bytes."""
    if sp.issparse(value):
        return (value.format, value.shape, *map(bits, (value.data, value.indices, value.indptr)))
    array = np.asarray(value)
    return array.dtype.str, array.shape, array.tobytes()


def epoch(batches: dao.BatchIterable) -> Iterator[tuple[Any, ...]]:
    for batch in batches:
        extra = {**batch.layers, **batch.obsm}
        yield bits(batch.x), *((key, bits(extra[key])) for key in sorted(extra)), batch.obs


@pytest.mark.parametrize("layout", ["csr", "dense"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": True, "seed": 3},
        {"shuffle": "block", "seed": 3, "block_size": 16, "window": 3},
        {"balance": "cell_type", "seed": 3, "n_samples": 700},
        {"group_by": "cell_type", "shuffle": True, "seed": 3, "drop_last": True},
        {"normalize": "log1p_cp10k", "shuffle": True, "seed": 3, "prefetch_bytes": 0},
    ],
    ids=["in order", "shuffled", "blocks", "balanced", "groups", "normalized"],
)
def test_batches_are_the_same_on_any_number_of_threads(rich, layout, options):
    lf = rich.scan()
    wanted = None
    for threads in THREADS:
        batches = lf.dao.iter_batches(
            500,
            genes="union",
            layers=["half"],
            obsm=["X_pca"],
            layout=layout,
            num_threads=threads,
            **options,
        )
        found = list(epoch(batches))
        wanted = found if wanted is None else wanted
        assert len(found) == len(wanted) == len(batches)
        for (*matrices, obs), (*others, other) in zip(found, wanted, strict=True):
            assert matrices == others
            assert_frame_equal(obs, other, check_exact=True)


class OnThreads:
    """A reader whose statistics are made by so many threads."""

    def __init__(self, reader: Any, threads: int) -> None:
        self._reader, self._threads = reader, threads

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._reader, name)
        return functools.partial(found, threads=self._threads) if name == "moments" else found


AGGREGATES = {
    "pseudobulk": lambda lf: lf.dao.pseudobulk(
        ["dataset", "cell_type"],
        ["sum", "mean", "var", "std", "count_nonzero", "fraction"],
        genes="union",
        normalize="log1p_cp10k",
    ),
    "gene_stats": lambda lf: lf.dao.gene_stats("cell_type", genes="union", layer="half"),
    "highly_variable_genes": lambda lf: lf.dao.highly_variable_genes(
        10, batch_key="dataset", genes="intersection", span=0.9
    ),
    "rank_genes_groups": lambda lf: lf.dao.rank_genes_groups("cell_type", genes="intersection"),
}


@pytest.mark.parametrize("name", AGGREGATES)
def test_aggregates_are_the_same_on_any_number_of_threads(rich, name, monkeypatch):
    make = CellGroups.__init__
    asked = []

    def on_threads(groups: CellGroups, *args: Any) -> None:
        make(groups, *args)
        groups._reader = OnThreads(groups._reader, asked[-1])

    monkeypatch.setattr(CellGroups, "__init__", on_threads)
    # In another order than the store's, so that threads' shares are not datasets.
    lf = rich.scan().sort("score")
    wanted = None
    for threads in THREADS:
        asked.append(threads)
        found = AGGREGATES[name](lf)
        wanted = found if wanted is None else wanted
        # As bytes: a NaN is the same NaN, and no zero has another sign.
        assert found.schema == wanted.schema
        for column in found:
            if column.dtype.is_float():
                assert column.is_null().equals(wanted[column.name].is_null())
                filled, other = column.fill_null(0.5), wanted[column.name].fill_null(0.5)
                assert bits(filled.to_numpy()) == bits(other.to_numpy())
            else:
                assert column.equals(wanted[column.name], null_equal=True)


CORES = "os.sched_setaffinity(0, cores)" if hasattr(os, "sched_setaffinity") else "pass"
PROCESS = """
    import hashlib, json, os, sys, warnings
    cores = set(json.loads(sys.argv[2]))
    {cores}  # before anything counts them
    import numpy as np
    import polars as pl
    import scipy.sparse as sp
    import dao_polars as dao
    warnings.simplefilter("ignore")

    def digest(*parts):
        sha = hashlib.sha256()
        for part in parts:
            if sp.issparse(part):
                part = np.concatenate([part.data, part.indices, part.indptr])
            if isinstance(part, np.ndarray):
                sha.update(f"{{part.dtype}} {{part.shape}}".encode())
                sha.update(np.ascontiguousarray(part).tobytes())
            elif isinstance(part, pl.DataFrame):
                for column in part:
                    if column.dtype.is_float():
                        sha.update(column.is_null().to_numpy().tobytes())
                        sha.update(column.fill_null(0.5).to_numpy().tobytes())
                    else:
                        sha.update(repr(column.to_list()).encode())
            else:
                sha.update(repr(part).encode())
        return sha.hexdigest()

    lf = dao.scan(sys.argv[1])
    picked = lf.filter(pl.col("score") > 0.2).sort("score")
    found = {{"threads": pl.thread_pool_size()}}
    names = ["g7", "g3", "g20", "g41"]
    for engine in ("in-memory", "streaming"):
        columns = picked.select(
            dao.gene("g7"),
            dao.gene("g3", normalize="log1p_cp10k").alias("n"),
            dao.gene("g20", layer="half", dtype="float64").alias("h"),
        )
        found[f"gene, {{engine}}"] = digest(columns.collect(engine=engine))
        many = picked.select(dao.genes(names)).collect(engine=engine).unnest("genes")
        found[f"genes, {{engine}}"] = digest(many)
        qc = picked.select(dao.qc({{"few": names}})).collect(engine=engine).unnest("qc")
        found[f"qc, {{engine}}"] = digest(qc)
        found[f"scan, {{engine}}"] = digest(picked.drop("cell").collect(engine=engine))
    adata = picked.dao.to_anndata(genes="union", layers=["half"], obsm=["X_pca"], progress=False)
    found["to_anndata"] = digest(
        adata.X, adata.layers["half"], adata.obsm["X_pca"],
        adata.obs_names.to_numpy(object).tolist(), adata.var_names.to_numpy(object).tolist(),
        adata.obs["score"].to_numpy(), adata.obs["cell_type"].astype(str).tolist(),
    )
    x, obs = zip(*picked.dao.iter_batches(100, genes="union", shuffle=True, seed=1))
    found["iter_batches"] = digest(*x, *(part.drop("cell", strict=False) for part in obs))
    bulk = picked.dao.pseudobulk("cell_type", ["sum", "var"], genes="union", normalize="cpm")
    found["pseudobulk"] = digest(bulk)
    found["gene_stats"] = digest(picked.dao.gene_stats("dataset", genes="union"))
    variable = picked.dao.highly_variable_genes(10, genes="intersection", span=0.9)
    found["highly_variable_genes"] = digest(variable)
    marks = picked.dao.rank_genes_groups("cell_type", genes="intersection")
    found["rank_genes_groups"] = digest(marks)
    parts = picked.dao.split({{"train": 0.7, "val": 0.3}}, by="dataset", seed=1)
    found["split"] = digest(*(part.drop("cell").collect() for part in parts.values()))
    found["sample"] = digest(picked.dao.sample(20, by="cell_type").drop("cell").collect())
    print(json.dumps(found))
"""


def outputs(store: dao.Store, threads: int) -> dict[str, Any]:
    """Digests of all outputs, from a process with so many threads, and on as many cores at most."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    script = textwrap.dedent(PROCESS.format(cores=CORES))
    done = subprocess.run(
        [sys.executable, "-c", script, store.uri, json.dumps(cores[:threads])],
        env={**os.environ, "POLARS_MAX_THREADS": str(threads)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.pop("threads") == threads
    return found


def test_all_outputs_of_a_process_are_the_same_on_any_number_of_threads(rich):
    wanted = outputs(rich, THREADS[0])
    assert {"gene, streaming", "qc, in-memory", "to_anndata", "sample"} <= set(wanted)
    for threads in THREADS[1:]:
        assert outputs(rich, threads) == wanted
