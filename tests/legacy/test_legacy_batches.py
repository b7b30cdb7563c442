"""sfaira's own store, and others like it, as batches and AnnData, against zarr-python."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numcodecs
import numpy as np
import pandas as pd
import polars as pl
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dao_polars as dao

SFAIRA = Path(__file__).parents[1] / "data" / "sfaira_store"
HUMAN = ["human_blood_2021_10x_hao_001", "human_pancreas_2016_indrop_baron_001"]
MOUSE = "mouse_pancreas_2016_indrop_baron_001"


def matrix(dataset: str) -> np.ndarray:
    return zarr.open_array(SFAIRA / dataset / "zarr" / "X", mode="r")[:]


def test_what_sfaira_wrote_is_read_as_it_is():
    lf = dao.scan(SFAIRA)
    human = lf.filter(pl.col("organism") == "Homo sapiens")
    x = np.concatenate([b.x.toarray() for b in human.dao.iter_batches(77)])
    np.testing.assert_array_equal(x, np.concatenate([matrix(d) for d in HUMAN]))
    shuffled = human.dao.iter_batches(100, shuffle=True, seed=2, layout="dense", dtype="float64")
    expected = {d: matrix(d) for d in HUMAN}
    rows = human.select("obs_name", "dataset").with_columns(
        row=pl.int_range(pl.len()).over("dataset")
    )
    place = {(d, n): r for n, d, r in rows.collect().iter_rows()}
    for x, obs in shuffled:
        keys = obs.select("dataset", "obs_name").iter_rows()
        np.testing.assert_array_equal(x, [expected[d][place[d, n]] for d, n in keys])
    with pytest.raises(dao.DaoValueError, match="2 different feature spaces"):
        lf.dao.iter_batches()
    # Human and mouse symbols share none but a few; all come back.
    union = lf.dao.iter_batches(1000, genes="union")
    assert sum(float(b.x.sum()) for b in union) == sum(
        float(matrix(d).sum()) for d in [*HUMAN, MOUSE]
    )


def test_sfaira_store_as_anndata():
    out = dao.scan(SFAIRA).filter(pl.col("dataset") == MOUSE).dao.to_anndata()
    np.testing.assert_array_equal(out.X.toarray(), matrix(MOUSE))
    obs = pd.read_parquet(SFAIRA / MOUSE / "parquet" / "obs.parquet")
    assert list(out.obs_names) == list(obs.index)
    for column in obs:
        assert list(out.obs[column]) == list(obs[column])
        assert out.obs[column].dtype == "category"
    var = pd.read_parquet(SFAIRA / MOUSE / "parquet" / "var.parquet")
    assert list(out.var_names) == list(var.index)
    assert out.uns["organism"] == "Mus musculus"


def write_like_sfaira(
    folder: Path,
    x: np.ndarray,
    chunks: tuple[int, int],
    compressor: object,
    order: str = "C",
    zarr_python: int = 2,
) -> None:
    array = zarr.create_array(
        folder / "zarr" / "X",
        shape=x.shape,
        chunks=chunks,
        dtype=x.dtype,
        compressors=compressor,
        zarr_format=2,
        order=order,
        fill_value=0,
        config={"write_empty_chunks": zarr_python == 2},
    )
    array[:] = x
    if zarr_python == 2:  # which names the separator only where it is not the default
        path = folder / "zarr" / "X" / ".zarray"
        path.write_text(
            json.dumps(
                {
                    k: v
                    for k, v in json.loads(path.read_text()).items()
                    if k != "dimension_separator"
                }
            )
        )
    (folder / "parquet").mkdir()
    (folder / "pickle").mkdir()
    obs = pd.DataFrame(
        {"n": range(len(x)), "kind": pd.Categorical(["a", "b"] * len(x))[: len(x)]},
        index=[f"c{i}" for i in range(len(x))],
    )
    obs.to_parquet(folder / "parquet" / "obs.parquet", engine="pyarrow")
    pd.DataFrame(index=[f"g{i}" for i in range(x.shape[1])]).to_parquet(
        folder / "parquet" / "var.parquet", engine="pyarrow"
    )
    (folder / "pickle" / "uns.pickle").write_bytes(pickle.dumps({"organism": "Homo sapiens"}))


COMPRESSORS = [
    None,
    *(
        numcodecs.Blosc(cname=cname, clevel=5, shuffle=shuffle)
        for cname in ("lz4", "lz4hc", "blosclz", "zstd", "zlib")
        for shuffle in (
            numcodecs.Blosc.NOSHUFFLE,
            numcodecs.Blosc.SHUFFLE,
            numcodecs.Blosc.BITSHUFFLE,
        )
    ),
    numcodecs.Zstd(3),
    numcodecs.GZip(5),
    numcodecs.Zlib(5),
    numcodecs.BZ2(5),
]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 30)),
    chunks=st.tuples(st.integers(1, 45), st.integers(1, 35)),
    compressor=st.sampled_from(COMPRESSORS),
    dtype=st.sampled_from(["<f4", "<f8", ">f4", "<i4", "<u2", "|u1", "<i8", ">i2"]),
    order=st.sampled_from(["C", "F"]),
    seed=st.integers(0, 100),
)
def test_any_chunking_and_compressor(
    tmp_path_factory, shape, chunks, compressor, dtype, order, seed
):
    rng = np.random.default_rng(seed)
    x = (rng.integers(0, 120, shape) * (rng.random(shape) < 0.4)).astype(dtype)
    uri = tmp_path_factory.mktemp("sfaira")
    write_like_sfaira(uri / "d", x, chunks, compressor, order)
    store = dao.load_store(uri)
    assert store.verify().height == 0
    frame = store.scan().collect()
    picks = rng.integers(0, shape[0], 50)
    genes = [f"g{i}" for i in rng.permutation(shape[1])[:7]]
    columns = [int(g[1:]) for g in genes]
    for layout in ("csr", "dense"):
        batches = frame[picks].dao.iter_batches(13, genes=genes, layout=layout)
        got = [b.x.toarray() if layout == "csr" else b.x for b in batches]
        np.testing.assert_array_equal(np.concatenate(got), x[picks][:, columns])
    np.testing.assert_array_equal(frame.dao.to_anndata().X.toarray(), x)


@pytest.mark.parametrize("compression", [None, "snappy", "gzip", "zstd", "brotli"])
def test_genes_are_found_in_var_of_any_compression_that_is_read(tmp_path, compression):
    x = np.arange(12, dtype="<f4").reshape(4, 3)
    write_like_sfaira(tmp_path / "d", x, (2, 2), None)
    day = pd.Series(["2024-10-04", "1969-12-31", "2001-02-03"]).astype("datetime64[s]").dt.date
    var = pd.DataFrame({"day": day.to_numpy()}, index=["g0", "g1", "g2"])
    var.to_parquet(tmp_path / "d" / "parquet" / "var.parquet", compression=compression)
    lf = dao.scan(tmp_path)
    if compression == "brotli":
        with pytest.raises(dao.DaoCorruptError, match=r"var.parquet.*brotli"):
            lf.dao.to_anndata(genes=["g2"])
        return
    assert lf.dao.to_anndata(genes=["g2", "g0"]).X.toarray().tolist() == x[:, [2, 0]].tolist()
    found = lf.dao.to_anndata(genes=["1969-12-31"], gene_key="day")
    assert found.X.toarray().tolist() == x[:, [1]].tolist()


def test_a_missing_chunk_is_an_error(tmp_path):
    x = np.arange(200, dtype=np.float32).reshape(20, 10)
    write_like_sfaira(tmp_path / "d", x, (5, 5), numcodecs.Zstd())
    store = dao.load_store(tmp_path)
    chunk = tmp_path / "d" / "zarr" / "X" / "2.1"
    chunk.unlink()
    with pytest.raises(dao.DaoFileNotFoundError, match=r"dataset 'd'.*2\.1'.*chunk is missing"):
        list(store.scan().dao.iter_batches())
    chunk.write_bytes(b"nonsense")
    with pytest.raises(dao.DaoCorruptError, match=r"dataset 'd'.*2\.1'.*cannot be decoded"):
        list(store.scan().dao.iter_batches())
    assert store.verify()["dataset"].to_list() == ["d"]


def test_chunks_that_zarr_python_3_left_out_are_zero(tmp_path):
    x = np.zeros((20, 10), np.float32)
    x[3, 4] = 7
    write_like_sfaira(tmp_path / "d", x, (5, 5), numcodecs.Zstd(), zarr_python=3)
    assert not (tmp_path / "d" / "zarr" / "X" / "2.1").exists()
    store = dao.load_store(tmp_path)
    np.testing.assert_array_equal(store.scan().dao.to_anndata().X.toarray(), x)
    assert store.verify().height == 0


def test_a_dataset_without_its_matrix_is_an_error(tmp_path):
    x = np.ones((3, 2), np.float32)
    for name in ("a", "b"):
        write_like_sfaira(tmp_path / name, x, (2, 2), None)
    (tmp_path / "b" / "zarr" / "X" / ".zarray").unlink()
    with pytest.raises(dao.DaoFileNotFoundError, match=r"dataset 'b'.*cells and no matrix"):
        dao.load_store(tmp_path)


def test_keys_of_a_sfaira_store_that_changed(tmp_path):
    x = np.ones((3, 2), np.float32)
    write_like_sfaira(tmp_path / "b", x, (2, 2), None)
    frame = dao.scan(tmp_path).collect()
    assert len(list(frame.dao.iter_batches())) == 1
    write_like_sfaira(tmp_path / "a", 2 * x, (2, 2), None)
    with pytest.raises(dao.DaoValueError, match="got or lost datasets"):
        frame.dao.iter_batches()


def test_what_a_pickle_was_refused_is_not_in_the_anndata(tmp_path):
    write_like_sfaira(tmp_path / "d", np.ones((3, 2), np.float32), (2, 2), None)
    path = tmp_path / "d" / "pickle" / "uns.pickle"
    path.write_bytes(
        pickle.dumps({"ok": 1, "bad": Path("x"), "deep": {"k": 2, "bad": [Path("y")]}})
    )
    store = dao.load_store(tmp_path)
    assert len(store.uns("d").refused) >= 2
    out = store.scan().dao.to_anndata()
    assert out.uns == {"ok": 1, "deep": {"k": 2, "bad": []}}
    out.write_h5ad(tmp_path / "out.h5ad")


def test_nothing_is_written_into_a_sfaira_store(tmp_path):
    write_like_sfaira(tmp_path / "d", np.ones((3, 2), np.float32), (2, 2), None)
    before = sorted(tmp_path.rglob("*"))
    source = dao.scan(tmp_path).dao.to_anndata()
    with pytest.raises(dao.DaoValueError, match=r"sfaira wrote.*new store"):
        dao.write_dataset(tmp_path, source, dataset="new", progress=False)
    assert sorted(tmp_path.rglob("*")) == before
