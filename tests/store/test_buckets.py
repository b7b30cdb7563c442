"""Stores on buckets: written, read, edited and vacuumed, on servers that run on this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

import anndata as ad
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

import dao_polars as dao
from tests.buckets import SERVING, Bucket, rclone, s3s_fs
from tests.conftest import DATA, study

GENES = [f"g{i}" for i in range(40)]
NOW = timedelta(0)
Serve = Callable[[Path], AbstractContextManager[Bucket]]


@pytest.fixture(params=SERVING)
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bucket]:
    serve: Serve = SERVING[request.param]
    with serve(tmp_path) as bucket:
        yield bucket


@pytest.fixture(autouse=True)
def nothing_stays_on_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        yield
    assert list(folder.glob("dao-polars-*")) == []


def write(bucket: Bucket, adata: ad.AnnData, dataset: str, **options: object) -> dao.Store:
    return dao.write_dataset(
        bucket.uri,
        adata,
        dataset=dataset,
        storage_options=bucket.options,
        progress=False,
        **options,  # type: ignore[arg-type]
    )


def load(bucket: Bucket) -> dao.Store:
    return dao.load_store(bucket.uri, storage_options=bucket.options)


def test_a_study_comes_back_as_it_was(
    bucket: Bucket, real: dict[str, ad.AnnData], tmp_path: Path
) -> None:
    for name in ("pbmc_human", "pancreas_mouse"):
        source = DATA / f"{name}.h5ad"
        local = dao.write_dataset(tmp_path / "local", source, progress=False)
        store = dao.write_dataset(
            bucket.uri, source, storage_options=bucket.options, progress=False
        )
        ours, theirs = (
            s.scan().filter(pl.col("dataset") == name).dao.to_anndata(progress=False)
            for s in (store, local)
        )
        assert (ours.X != real[name].X).nnz == 0
        assert list(ours.obs_names) == list(real[name].obs_names)
        assert list(ours.var_names) == list(real[name].var_names)
        assert ours.obs.equals(theirs.obs)
        assert ours.var.equals(theirs.var)
        assert store.uns(name) == local.uns(name)
    assert load(bucket).verify().is_empty()


def test_all_that_edits_works(bucket: Bucket) -> None:
    write(bucket, study(1, 300, GENES), "lung", shuffle=True, seed=1)
    store = write(bucket, study(2, 200, GENES), "heart", gene_index=True)
    assert store.has_gene_index("heart")
    assert store.add_gene_index(progress=False) == ["lung"]
    assert not store.has_gene_index("lung")
    store = load(bucket)
    assert store.has_gene_index()
    store = write(bucket, study(3, 100, GENES), "lung", mode="append")
    store = write(bucket, study(4, 50, GENES), "heart", mode="replace")
    assert store.datasets["n_obs"].sum() == 450
    store = store.rename_dataset("heart", "liver").remove_dataset("lung")
    assert store.datasets["id"].to_list() == ["liver"]
    store = store.restore(store.version - 1)
    assert sorted(store.datasets["id"]) == ["liver", "lung"]
    assert store.verify().is_empty()
    assert pickle.loads(pickle.dumps(store)).version == store.version
    expected = study(4, 50, GENES)
    cells = store.scan().filter(pl.col("dataset") == "liver")
    np.testing.assert_array_equal(cells.dao.to_anndata().X.toarray(), expected.X.toarray())
    gene = cells.select(g=dao.gene("g3")).collect()["g"]
    np.testing.assert_array_equal(gene.to_numpy(), expected.X.toarray()[:, 3])


def test_tables_and_cells_are_edited(bucket: Bucket, tmp_path: Path) -> None:
    """As in a folder, of which ``local`` is."""
    adata, read = study(1, 60, GENES), []
    local = dao.write_dataset(tmp_path / "local", adata, dataset="lung", progress=False)
    for store in (write(bucket, adata, "lung"), local):
        cells = store.scan().select("cell", "obs_name").collect()
        labels = cells.select("cell", label=pl.col("obs_name").str.tail(1))
        store = store.update_obs(labels)
        space = cells.select("cell", x=pl.lit([1.5, 2.5], pl.Array(pl.Float32, 2)))
        store = store.update_obsm("X_scvi", space)
        store = store.remove_cells(cells.head(7))
        symbols = pl.DataFrame({"var_name": GENES, "symbol": [gene.upper() for gene in GENES]})
        store = store.update_var(symbols)
        assert store.verify().is_empty()
        assert store.vacuum().is_empty()
        read.append((store, store.scan().dao.to_anndata(progress=False)))
    (store, ours), (other, theirs) = read
    assert (store.version, ours.n_obs) == (other.version, 53)
    assert (ours.X != theirs.X).nnz == 0
    assert ours.obs.equals(theirs.obs)
    assert ours.var.equals(theirs.var)
    np.testing.assert_array_equal(ours.obsm["X_scvi"], theirs.obsm["X_scvi"])


def test_vacuum_removes_what_older_versions_had(bucket: Bucket) -> None:
    for seed in range(4):
        write(bucket, study(seed, 30, GENES), "lung", mode="replace", gene_index=seed == 1)
    store = load(bucket)
    assert store.vacuum().is_empty()
    told = store.vacuum(older_than=NOW)
    removed = store.vacuum(older_than=NOW, dry_run=False)
    assert told.equals(removed)
    assert removed.height > 20
    store = load(bucket)
    assert store.version == 6
    assert store.verify().is_empty()
    assert store.vacuum().is_empty()
    np.testing.assert_array_equal(
        store.scan().dao.to_anndata().X.toarray(), study(3, 30, GENES).X.toarray()
    )
    if bucket.files is not None:
        left = {p.name.split("-")[0] for p in (bucket.files / "atlas" / "parts").iterdir()}
        assert left == {"lung"}
        assert not list((bucket.files / "atlas" / "writing").glob("*"))


def test_large_objects_go_in_parts(bucket: Bucket) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1500, 8000), dtype=np.float32)  # 48 MB that are not compressed much
    store = write(bucket, ad.AnnData(x), "dense")
    sizes = store.datasets["bytes"].to_list()
    assert sizes[0] > 40 << 20
    if bucket.files is not None:
        # As a folder: s3s-fs reads a large object whole for each range of it that it is asked for.
        store = dao.load_store(bucket.files / "atlas")
    assert store.verify().is_empty()
    read = store.scan().dao.to_anndata(progress=False).X
    np.testing.assert_array_equal(read.toarray(), x)
    if bucket.files is not None:
        assert max(p.stat().st_size for p in bucket.files.rglob("*") if p.is_file()) > 16 << 20
        # of multipart uploads nothing is left
        assert not [p for p in bucket.files.parent.iterdir() if p.name.startswith(".upload")]


def test_datasets_are_copied_and_selected_into_buckets(bucket: Bucket, tmp_path: Path) -> None:
    adata = study(1, 60, GENES)
    local = dao.write_dataset(
        tmp_path / "local", adata, dataset="lung", gene_index=True, progress=False
    )
    store = dao.copy(local.uri, bucket.uri, target_options=bucket.options, progress=False)
    assert store.has_gene_index("lung")
    few = store.scan().filter(pl.col("cell_type") == "B")
    store = few.dao.write_dataset(
        bucket.uri, dataset="b", storage_options=bucket.options, progress=False
    )
    assert store.verify().is_empty()
    back = dao.copy(bucket.uri, tmp_path / "back", source_options=bucket.options, progress=False)
    read = back.scan().filter(pl.col("dataset") == "b").dao.to_anndata(progress=False).X.toarray()
    np.testing.assert_array_equal(read, adata[adata.obs["cell_type"] == "B"].X.toarray())
    lung = back.scan().filter(pl.col("dataset") == "lung").dao.to_anndata(progress=False)
    np.testing.assert_array_equal(lung.X.toarray(), adata.X.toarray())
    assert store.vacuum().is_empty()


def test_cells_that_were_just_written_are_found(bucket: Bucket) -> None:
    """A remote store that a look-up keeps open is read anew once somebody saw a newer version."""
    for seed, name in enumerate(["lung", "heart"]):
        store = write(bucket, study(seed, 20, GENES), name)
        cells = store.scan().filter(pl.col("dataset") == name).collect()
        gene = cells.select(g=dao.gene("g3"))["g"].to_numpy()
        np.testing.assert_array_equal(gene, study(seed, 20, GENES).X.toarray()[:, 3])


def test_a_name_that_is_taken(bucket: Bucket) -> None:
    adata = study(1, 20, GENES)
    write(bucket, adata, "lung")
    with pytest.raises(dao.DaoFileExistsError, match="lung"):
        write(bucket, adata, "lung")
    bad = ad.AnnData(sp.csr_matrix(np.ones((3, 2), np.float32)))
    bad.obs["dataset"] = [object()] * 3
    with pytest.raises(dao.DaoError):
        write(bucket, bad, "bad")
    assert load(bucket).version == 1
    assert load(bucket).vacuum().is_empty()


def test_a_server_that_ignores_conditions_is_found_out(tmp_path: Path) -> None:
    with rclone(tmp_path) as bucket:
        adata = study(1, 20, GENES)
        for _ in range(2):
            with pytest.raises(dao.DaoValueError, match=r"s3://bucket/atlas.* must fail where"):
                write(bucket, adata, "lung")
        assert bucket.files is not None
        assert not [p for p in bucket.files.rglob("*") if p.is_file()]
        with pytest.raises(dao.DaoFileNotFoundError):
            load(bucket)


def test_who_alone_writes_may_say_so(tmp_path: Path) -> None:
    with rclone(tmp_path) as bucket:
        alone = {**bucket.options, "one_writer": True}
        adata = study(1, 20, GENES)
        for dataset in ("lung", "heart"):
            dao.write_dataset(
                bucket.uri, adata, dataset=dataset, storage_options=alone, progress=False
            )
        assert bucket.files is not None
        store = dao.load_store(bucket.files / "atlas")
        assert (store.version, store.n_obs) == (2, 40)
        assert store.verify().is_empty()
        with pytest.raises(dao.DaoValueError, match=r"storage_options=\{\"one_writer\": True\}"):
            write(bucket, adata, "eye")
        with pytest.raises(dao.DaoValueError, match=r'"one_writer"'):
            dao.load_store(bucket.uri, storage_options={**bucket.options, "one_writer": "me"})


def test_a_forked_child_leaves_its_parents_writer_alone(tmp_path: Path) -> None:
    from dao_polars._core import PartWriter

    with s3s_fs(tmp_path) as bucket:
        assert bucket.files is not None
        writer = PartWriter.begin(bucket.uri, "lung", "error", bucket.options)
        (Path(writer.staging) / "obs.parquet").write_bytes(b"a table")
        if (pid := os.fork()) == 0:
            writer.abort()
            os._exit(0)
        os.waitpid(pid, 0)
        assert (Path(writer.staging) / "obs.parquet").exists()
        assert len(list((bucket.files / "atlas" / "writing").iterdir())) == 1
        assert Path(writer.staging).parent == Path(os.environ["TMPDIR"])
        writer.abort()
        assert not list((bucket.files / "atlas" / "writing").glob("*"))


def test_one_process_of_a_pool_writes(tmp_path: Path) -> None:
    """A child of ``spawn`` opens connections of its own."""
    with s3s_fs(tmp_path) as bucket:
        write(bucket, study(1, 20, GENES), "lung")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.apply(write, (bucket, study(2, 20, GENES), "heart"))
        assert load(bucket).version == 2
