"""write_h5ad and write_zarr: anndata reads from them what to_anndata gives in memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scanpy as sc
import scipy.sparse as sp

import dao_polars as dao
from dao_polars.write.selected_matrix import SelectedMatrix
from tests.memory import MEMORY

KINDS = ("h5ad", "zarr")


def export(lf: pl.LazyFrame, path: Path, **options) -> ad.AnnData:
    if path.suffix == ".h5ad":
        lf.dao.write_h5ad(path, progress=False, **options)
        return ad.read_h5ad(path)
    lf.dao.write_zarr(path, progress=False, **options)
    return ad.read_zarr(path)


def assert_same_matrix(found, expected) -> None:
    assert type(found) is type(expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected)
    elif sp.issparse(expected):
        assert found.indices.dtype == expected.indices.dtype
        for part in ("indptr", "indices", "data"):
            np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))
    else:
        np.testing.assert_array_equal(found, expected)


def assert_same(found: ad.AnnData, expected: ad.AnnData) -> None:
    assert_same_matrix(found.X, expected.X)
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    pd.testing.assert_frame_equal(found.var, expected.var)
    assert sorted(found.layers) == sorted(expected.layers)
    for name, matrix in expected.layers.items():
        assert_same_matrix(found.layers[name], matrix)
    assert sorted(found.obsm) == sorted(expected.obsm)
    for name, matrix in expected.obsm.items():
        if isinstance(matrix, pd.DataFrame):
            pd.testing.assert_frame_equal(found.obsm[name], matrix)
        else:
            assert_same_matrix(found.obsm[name], matrix)
    assert found.uns.keys() == expected.uns.keys()
    assert plain(found.uns) == plain(expected.uns)


def plain(value):
    """Without the string type that anndata gives to what it reads."""
    if hasattr(value, "items"):
        return {key: plain(part) for key, part in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.fixture(scope="module")
def rich(tmp_path_factory) -> dao.Store:
    """A dataset with what an AnnData may have."""
    rng = np.random.default_rng(5)
    n = 300
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical(rng.choice(["b", "a", "c"], n), categories=["c", "b", "a", "x"]),
            "text": [f"note {i}" for i in range(n)],
            "score": rng.normal(size=n),
            "count": pd.array([None if i % 7 == 0 else i for i in range(n)], dtype="Int32"),
            "good": pd.array([None if i % 5 == 0 else i % 2 == 0 for i in range(n)], "boolean"),
        },
        index=[f"c{i}" for i in range(n)],
    )
    x = sp.random(n, 40, 0.2, "csr", dtype=np.float32, random_state=1)
    adata = ad.AnnData(x, obs, pd.DataFrame({"n": range(40)}, index=[f"g{i}" for i in range(40)]))
    adata.layers["counts"] = (x * 10).astype(np.int32)
    adata.layers["dense"] = rng.normal(size=(n, 40))
    adata.obsm["X_pca"] = rng.normal(size=(n, 5)).astype(np.float32)
    table = pd.DataFrame(rng.normal(size=(n, 2)), index=obs.index, columns=["u", "v"])
    adata.obsm["table"] = table
    adata.obsm["sparse"] = sp.random(n, 9, 0.3, "csr", random_state=2)
    adata.uns = {"title": "a study", "colors": np.array(["red", "blue"]), "deep": {"n": 3}}
    path = tmp_path_factory.mktemp("rich") / "s"
    return dao.write_dataset(path, adata, dataset="d", layers=True, progress=False)


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_an_anndata_comes_along(rich, tmp_path, kind):
    lf = rich.scan()
    assert_same(export(lf, tmp_path / f"a.{kind}"), lf.dao.to_anndata(progress=False))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"genes": ["g7", "g3", "g30"], "layers": [], "obsm": []},
        {"layer": "counts", "layers": "dense", "dtype": "float64", "cell": True},
        {"layer": "counts", "normalize": "log1p_cp10k", "obs": ["kind"], "obsm": "table"},
    ],
    ids=["genes", "layers", "normalized"],
)
def test_arguments_mean_what_they_mean_to_to_anndata(rich, tmp_path, kind, options):
    # In an order that is not its own inverse, and some cells twice.
    order = rich.scan().collect()
    order = order[np.random.default_rng(3).integers(0, order.height, 200).tolist()].lazy()
    found = export(order, tmp_path / f"a.{kind}", **options)
    assert_same(found, order.dao.to_anndata(progress=False, **options))


@pytest.mark.parametrize("kind", KINDS)
def test_datasets_of_several_feature_spaces(real_store, tmp_path, kind):
    lf = real_store.scan().gather_every(3)
    found = export(lf, tmp_path / f"a.{kind}", genes="union")
    expected = lf.dao.to_anndata(genes="union", progress=False)
    assert found.obs["dataset"].nunique() > 2
    assert_same(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_no_cells_are_a_file_too(rich, tmp_path, kind):
    lf = rich.scan().filter(pl.lit(False))
    with pytest.warns(UserWarning, match="no cells"):
        found = export(lf, tmp_path / f"a.{kind}")
    assert found.shape == (0, 40)
    assert found.X.dtype == np.float32
    assert found.obsm["X_pca"].shape == (0, 5)


def test_blocks_meet_where_they_should(rich, tmp_path, monkeypatch):
    monkeypatch.setattr(SelectedMatrix, "_step", lambda self: 7)
    lf = rich.scan()
    for kind in KINDS:
        assert_same(export(lf, tmp_path / f"a.{kind}"), lf.dao.to_anndata(progress=False))


@pytest.mark.parametrize("kind", KINDS)
def test_scanpy_runs_on_it(real_store, tmp_path, kind):
    lf = real_store.scan().filter(pl.col("dataset") == "pbmc_human")
    found = export(lf, tmp_path / f"a.{kind}")
    sc.pp.normalize_total(found)
    sc.pp.log1p(found)
    sc.pp.pca(found, n_comps=5)
    assert found.obsm["X_pca"].shape == (found.n_obs, 5)


@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
def test_compression_is_the_one_asked_for(rich, tmp_path, compression):
    import h5py

    rich.scan().dao.write_h5ad(tmp_path / "a.h5ad", compression=compression, progress=False)
    with h5py.File(tmp_path / "a.h5ad") as file:
        assert file["X/data"].compression == compression


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_formats_of_zarr(rich, tmp_path, zarr_format):
    lf = rich.scan()
    found = export(lf, tmp_path / "a.zarr", zarr_format=zarr_format)
    assert (tmp_path / "a.zarr" / "zarr.json").exists() == (zarr_format == 3)
    assert_same(found, lf.dao.to_anndata(progress=False))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_there_is_replaced_when_asked_alone(rich, tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    export(rich.scan(), path)
    with pytest.raises(dao.DaoFileExistsError, match="overwrite=True"):
        export(rich.scan().head(3), path)
    assert export(rich.scan().head(5), path, overwrite=True).n_obs == 5
    assert os.listdir(tmp_path) == [path.name]


def test_a_folder_that_is_no_anndata_is_not_replaced(rich, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("long")
    for write in (rich.scan().dao.write_zarr, rich.scan().dao.write_h5ad):
        with pytest.raises(dao.DaoFileExistsError):
            write(tmp_path / "mine", overwrite=True, progress=False)
    with pytest.raises(dao.DaoFileExistsError, match="no zarr of AnnData"):
        rich.scan().dao.write_zarr(rich.uri, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "long"
    assert rich.verify(progress=False).is_empty()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("raised", [OSError("the disk is full"), KeyboardInterrupt()])
def test_nothing_stays_of_what_failed(rich, tmp_path, kind, raised, monkeypatch):
    blocks = SelectedMatrix.blocks

    def failing(self, order=None):
        yield next(blocks(self, order))
        raise raised

    path = tmp_path / f"a.{kind}"
    export(rich.scan().head(5), path)
    monkeypatch.setattr(SelectedMatrix, "blocks", failing)
    with pytest.raises(type(raised)):
        export(rich.scan(), path, overwrite=True)
    assert os.listdir(tmp_path) == [path.name]
    assert (ad.read_h5ad if kind == "h5ad" else ad.read_zarr)(path).n_obs == 5


def test_mistaken_arguments_say_so(rich, tmp_path):
    frame = rich.scan().dao
    with pytest.raises(dao.DaoTypeError, match="'lazy'"):
        frame.write_h5ad(tmp_path / "a", lazy=True)
    with pytest.raises(dao.DaoValueError, match="compression='zip'"):
        frame.write_h5ad(tmp_path / "a", compression="zip")
    with pytest.raises(dao.DaoValueError, match="zarr_format=4"):
        frame.write_zarr(tmp_path / "a", zarr_format=4)
    with pytest.raises(dao.DaoValueError, match="URL"):
        frame.write_zarr("s3://bucket/a.zarr")
    with pytest.raises(dao.DaoKeyError, match="nope"):
        frame.write_h5ad(tmp_path / "a", genes=["nope"])
    assert not os.listdir(tmp_path)


_SCRIPT = """
import sys
import numpy as np
import polars as pl
import dao_polars as dao

{memory}

store, kind, out, times = sys.argv[1:]
frame = dao.scan(store).collect()
lf = pl.concat([frame] * int(times)).lazy()
getattr(lf.head(10).dao, "write_" + kind)(out + ".first", progress=False)
before = memory("VmHWM")
getattr(lf.dao, "write_" + kind)(out, progress=False)
print(memory("VmHWM") - before)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_that_of_blocks(tmp_path, kind):
    rng = np.random.default_rng(0)
    n, genes, a_cell = 4000, 2000, 1000
    columns = np.concatenate([np.sort(rng.permutation(genes)[:a_cell]) for _ in range(n)])
    ends = np.arange(0, n * a_cell + 1, a_cell)
    x = sp.csr_matrix((rng.integers(1, 9, n * a_cell).astype(np.float32), columns, ends))
    dao.write_dataset(tmp_path / "s", ad.AnnData(x), dataset="d", progress=False)
    script = textwrap.dedent(_SCRIPT).format(memory=MEMORY)
    said = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "s", kind, tmp_path / "out", "16"],
        capture_output=True,
        text=True,
        check=True,
    )
    whole = 16 * n * a_cell * 8
    assert int(said.stdout) < whole * 0.7, f"{int(said.stdout) >> 20} of {whole >> 20} MB"


def test_ctrl_c_leaves_nothing(rich, tmp_path):
    script = textwrap.dedent(
        """
        import sys, time
        import dao_polars as dao
        from dao_polars.write.selected_matrix import SelectedMatrix
        blocks = SelectedMatrix.blocks
        def slow(self, order=None):
            yield from blocks(self, order)
            print("now", flush=True)
            time.sleep(60)
        SelectedMatrix.blocks = slow
        dao.scan(sys.argv[1]).dao.write_h5ad(sys.argv[2], progress=False)
        """
    )
    words = [sys.executable, "-c", script, rich.uri, tmp_path / "a.h5ad"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        assert os.listdir(tmp_path)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode
    assert not os.listdir(tmp_path)
