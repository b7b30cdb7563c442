"""The gene-major copy: the same values in another order, written whole or not at all."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import anndata as ad
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import zarr
from hypothesis import given
from hypothesis import strategies as st
from polars.exceptions import ComputeError

import dao_polars as dao
from tests.conftest import DATA, study
from tests.expression.log import Log
from tests.storefab import gene_index_path, part_path

GENES = [f"g{i}" for i in range(12)]


@pytest.fixture(scope="module", params=["packed", "portable"])
def indexed(request, tmp_path_factory) -> tuple[pl.LazyFrame, pl.LazyFrame, ad.AnnData]:
    """A store with a copy and the same one without, of many cells of few values."""
    path = tmp_path_factory.mktemp("indexed")
    adata = study(7, 3000, GENES, density=0.2)
    adata.X[:, 3] = 0  # a gene of zeros
    adata.X.eliminate_zeros()
    options = {"dataset": "s", "profile": request.param, "progress": False}
    with_copy = dao.write_dataset(path / "with", adata, gene_index=True, **options)
    without = dao.write_dataset(path / "without", adata, **options)
    assert with_copy.has_gene_index("s")
    assert not without.has_gene_index("s")
    return with_copy.scan(), without.scan(), adata


def strategies(caplog) -> list[str]:
    """How cells were looked up, call by call."""
    return [record.args[2] for record in Log(caplog).records]


@given(
    rows=st.one_of(
        st.lists(st.integers(0, 2999), max_size=400),
        st.tuples(st.integers(0, 2999), st.integers(0, 3000)).map(lambda r: list(range(*r))),
    ),
    gene=st.sampled_from(GENES),
    normalize=st.sampled_from([None, "log1p_cp10k", "log1p"]),
)
def test_values_are_the_same_either_way(indexed, rows, gene, normalize):
    with_copy, without, adata = indexed
    take = pl.col("cell").gather(pl.Series(rows, dtype=pl.UInt32))
    expr = dao.gene(gene, normalize=normalize)
    found = with_copy.select("cell").collect().select(take).select(expr)
    wanted = without.select("cell").collect().select(take).select(expr)
    assert found.equals(wanted)
    if normalize is None:
        assert np.array_equal(
            found[gene].to_numpy(),
            adata.X[rows, GENES.index(gene)].toarray().ravel() if rows else [],
        )


def test_it_is_used_where_it_pays(real_store, real, tmp_path, caplog):
    store = dao.write_dataset(
        tmp_path, real["pancreas_human"], dataset="s", gene_index=True, progress=False
    )
    caplog.set_level(logging.DEBUG, logger="dao_polars")
    lf = store.scan()
    all_cells = lf.select(dao.gene("INS")).collect()
    assert strategies(caplog)[-1] == "1 by gene index"
    few = lf.select("cell").collect().sample(3, seed=0)
    few.select(dao.gene("INS"))
    assert strategies(caplog)[-1] == "1 by rows"
    names = list(real["pancreas_human"].var_names)
    lf.select(dao.genes(names, as_array=True)).collect()
    assert strategies(caplog)[-1] == "1 by rows"
    some = lf.select(dao.genes(names[:40], as_array=True)).collect()["genes"].to_numpy()
    assert strategies(caplog)[-1] == "1 by gene index"
    assert np.array_equal(some, real["pancreas_human"].X[:, :40].toarray())
    assert np.array_equal(all_cells["INS"], real["pancreas_human"][:, "INS"].X.toarray().ravel())


def test_others_read_it(indexed):
    with_copy, _, adata = indexed
    uri = with_copy.collect_schema()["cell"].uri
    x = zarr.open_group(gene_index_path(Path(uri), "s") / "zarr", mode="r")["X"]
    found = ad.io.sparse_dataset(x)
    assert found.format == "csc"
    assert (found.to_memory() != adata.X.tocsc()).nnz == 0


@pytest.mark.parametrize("x", ["float64", "dense", "empty", "no_genes"])
def test_matrices_of_other_kinds(tmp_path, x):
    adata = study(1, 40, GENES)
    if x == "float64":
        adata.X = adata.X.astype(np.float64) * 0.1
    elif x == "dense":
        adata.X = adata.X.toarray() + 1
    elif x == "empty":
        adata = adata[:0].copy()
    else:
        adata = adata[:, :0].copy()
    store = dao.write_dataset(tmp_path, adata, dataset="s", gene_index=True, progress=False)
    assert store.verify().is_empty()
    assert store.has_gene_index("s")
    if x != "no_genes":
        found = store.scan().select(dao.gene("g5", dtype="float64")).collect()["g5"].to_numpy()
        matrix = adata.X if isinstance(adata.X, np.ndarray) else adata.X.toarray()
        assert np.array_equal(found, matrix[:, 5])


def test_added_later_to_those_that_lack_it(tmp_path, caplog):
    for seed, name in enumerate(["a", "b"]):
        store = dao.write_dataset(tmp_path, study(seed, 900, GENES), dataset=name, progress=False)
    wanted = store.scan().select(dao.gene("g5")).collect()
    assert store.add_gene_index("a", progress=False) == ["a"]
    assert store.add_gene_index(progress=False) == ["b"]
    assert store.add_gene_index(progress=False) == []
    caplog.set_level(logging.DEBUG, logger="dao_polars")
    assert store.scan().select(dao.gene("g5")).collect().equals(wanted)
    assert strategies(caplog)[-1] == "2 by gene index"  # in this process at once
    with pytest.raises(dao.DaoKeyError, match="no dataset 'c'"):
        store.add_gene_index("c")
    # Each copy is a version; this store is what it was.
    assert not store.has_gene_index("a")
    versions = dao.load_store(tmp_path).versions()
    assert versions["operation"].to_list() == ["write_dataset"] * 2 + ["add_gene_index"] * 2
    assert dao.load_store(tmp_path).has_gene_index()
    assert dao.load_store(tmp_path).verify().is_empty()


def test_values_of_other_cells_do_not_matter(tmp_path):
    """One that float32 cannot hold is an error of its own cell, either way."""
    x = study(1, 2000, GENES).X.astype(np.int64)
    x[7, 5] = 2**24 + 1
    store = dao.write_dataset(tmp_path, ad.AnnData(x), dataset="s", gene_index=True, progress=False)
    cells = store.scan().select("cell").collect()
    found = cells.slice(8).select(dao.gene("5"))
    assert np.array_equal(found["5"].to_numpy(), x[8:, 5].toarray().ravel())
    for some in (cells, cells.slice(7, 2)):
        with pytest.raises(ComputeError, match="16777217 does not fit into float32"):
            some.select(dao.gene("5"))


def test_two_who_add_one_at_a_time(tmp_path):
    """The first is there; the second is told so, and leaves nothing."""
    store = dao.write_dataset(tmp_path, study(1, 50, GENES), dataset="s", progress=False)
    added: list[bool] = []

    def meanwhile(cells: int) -> None:
        if not added:
            added.append(dao.load_store(tmp_path)._core.add_gene_index(0))

    assert not store._core.add_gene_index(0, meanwhile)
    assert added == [True]
    assert len(list(part_path(tmp_path, "s").glob("gene_index-*"))) == 1
    assert dao.load_store(tmp_path).version == 2
    assert dao.load_store(tmp_path).verify().is_empty()


def test_what_is_damaged_is_noticed(tmp_path):
    store = dao.write_dataset(
        tmp_path, study(1, 900, GENES), dataset="s", gene_index=True, progress=False
    )
    index = gene_index_path(tmp_path, "s")
    for file in (index / "zarr" / "X" / "data" / "c").rglob("*"):
        data = bytearray(file.read_bytes())
        data[len(data) // 3] ^= 4
        file.write_bytes(data)
    problems = dao.load_store(tmp_path).verify()
    data = index.relative_to(tmp_path) / "zarr/X/data/c/0"
    assert problems["path"].to_list() == [str(data)]
    with pytest.raises(ComputeError, match=r"dataset 's'.*gene_index"):
        store.scan().select(dao.gene(g) for g in GENES).collect()


def test_one_of_another_dataset_is_refused(tmp_path):
    for seed, name in enumerate(["a", "b"]):
        store = dao.write_dataset(tmp_path, study(seed, 50, GENES), dataset=name, progress=False)
    store.add_gene_index(progress=False)
    a, b = (gene_index_path(tmp_path, name) for name in ("a", "b"))
    shutil.rmtree(b)
    shutil.copytree(a, b)
    with pytest.raises(ComputeError, match=r"dataset 'b'.*not as it was written"):
        dao.scan(tmp_path).select(dao.gene(g) for g in GENES).collect()


def test_stores_that_are_not_written_to(tmp_path):
    sfaira = dao.load_store(DATA.parent / "tests" / "data" / "sfaira_store")
    with pytest.raises(dao.DaoValueError, match="sfaira wrote"):
        sfaira.add_gene_index(progress=False)
    assert not sfaira.has_gene_index(sfaira.datasets["id"][0])


def test_an_interrupted_copy_leaves_nothing(tmp_path):
    """Killed in the middle: no copy, a sound store, and the next one is made."""
    adata = ad.AnnData(sp.random(20_000, 800, 0.2, format="csr", dtype=np.float32, random_state=0))
    store = dao.write_dataset(tmp_path, adata, dataset="s", progress=False)
    code = f"""
        import dao_polars as dao
        store = dao.load_store({str(tmp_path)!r})
        print("go", flush=True)
        store.add_gene_index(progress=False)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    part = part_path(tmp_path, "s")
    while not list(part.glob("gene_index-*")) and child.poll() is None:
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    store = dao.load_store(tmp_path)
    assert not store.has_gene_index("s")
    assert store.verify().is_empty()
    assert store.add_gene_index(progress=False) == ["s"]
    assert dao.load_store(tmp_path).has_gene_index()
    assert dao.load_store(tmp_path).verify().is_empty()


def test_a_callback_that_raises_stops_the_copy(tmp_path, monkeypatch):
    store = dao.write_dataset(tmp_path, study(1, 50, GENES), dataset="s", progress=False)

    def advance(cells: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store._core.add_gene_index(0, advance)
    assert dao.load_store(tmp_path).version == 1
    assert not list(part_path(tmp_path, "s").glob("gene_index-*"))
    assert not list((tmp_path / "writing").iterdir())
