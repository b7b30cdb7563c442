"""Stores that sfaira wrote, as they are: a real one, and ones with every kind of obs."""

from __future__ import annotations

import datetime as dt
import pickle
import shutil
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pandas as pd
import polars as pl
import pytest
import zarr
from polars.testing import assert_frame_equal

import dao_polars as dao

SFAIRA = Path(__file__).parents[1] / "data" / "sfaira_store"
IDS = [
    "human_blood_2021_10x_hao_001",
    "human_pancreas_2016_indrop_baron_001",
    "mouse_pancreas_2016_indrop_baron_001",
]
C = pl.col


def write_sfaira(
    path: Path,
    name: str,
    x: np.ndarray,
    obs: pd.DataFrame,
    var: pd.DataFrame | None = None,
    uns: Any = None,
    *,
    compressor: Any = None,
    chunks: tuple[int, int] | None = None,
    protocol: int = 4,
) -> Path:
    """A dataset as sfaira's ``write_dao`` writes it; see its ``dao_io.py``."""
    folder = path / name
    (folder / "parquet").mkdir(parents=True)
    (folder / "pickle").mkdir()
    group = zarr.open_group(folder / "zarr", mode="w", zarr_format=2)
    array = group.create_array(
        "X",
        shape=x.shape,
        dtype=x.dtype,
        chunks=chunks or (max(1, x.shape[0] // 2), max(1, x.shape[1])),
        compressors=compressor,
        filters=None,
    )
    array[...] = x
    var = pd.DataFrame(index=[f"g{i}" for i in range(x.shape[1])]) if var is None else var
    obs.to_parquet(folder / "parquet" / "obs.parquet", engine="pyarrow", index=None)
    var.to_parquet(folder / "parquet" / "var.parquet", engine="pyarrow", index=None)
    with open(folder / "pickle" / "uns.pickle", "wb") as file:
        pickle.dump({} if uns is None else uns, file, protocol=protocol)
    return path


def counts(n_obs: int, n_vars: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(1.0, (n_obs, n_vars)).astype(np.float32)


def names(n: int) -> pd.Index:
    return pd.Index([f"cell-{i}" for i in range(n)])


# --- the store that sfaira wrote


def test_what_is_in_it() -> None:
    store = dao.load_store(SFAIRA)
    assert store.id.startswith("sfaira-")
    assert store.n_obs == 1300
    datasets = store.datasets
    assert datasets["id"].to_list() == IDS
    assert datasets["organism"].to_list() == ["Homo sapiens", "Homo sapiens", "Mus musculus"]
    assert datasets["n_obs"].to_list() == [400, 600, 300]
    assert datasets["n_vars"].to_list() == [2000, 2000, 1500]
    assert datasets["layout"].to_list() == ["dense"] * 3
    assert store.verify().is_empty()


def test_its_frame_is_what_pandas_reads() -> None:
    frame = dao.scan(SFAIRA).collect()
    assert isinstance(frame.schema["cell_type"], pl.Enum)
    for number, name in enumerate(IDS):
        obs = pd.read_parquet(SFAIRA / name / "parquet" / "obs.parquet")
        part = frame.filter(C("dataset") == name)
        assert part["obs_name"].to_list() == obs.index.tolist()
        assert part["cell"].ext.storage().to_list() == [
            (number << 32) + row for row in range(len(obs))
        ]
        for column in obs.columns:
            expected = [None if pd.isna(v) else v for v in obs[column].astype(object)]
            assert part[column].to_list() == expected
        for column in set(frame.columns) - set(obs.columns) - {"cell", "dataset", "obs_name"}:
            uns = pd.read_pickle(SFAIRA / name / "pickle" / "uns.pickle")
            assert part[column].unique().to_list() == [uns.get(column)]


def test_its_var_and_uns() -> None:
    store = dao.load_store(SFAIRA)
    for name in IDS:
        var = pd.read_parquet(SFAIRA / name / "parquet" / "var.parquet")
        assert store.var(name)["var_name"].to_list() == var.index.tolist()
        uns, expected = store.uns(name), pd.read_pickle(SFAIRA / name / "pickle" / "uns.pickle")
        assert uns.refused == []
        assert uns.keys() == expected.keys()
        np.testing.assert_array_equal(uns.pop("counts"), expected.pop("counts"))
        assert uns == expected
    with pytest.raises(dao.DaoValueError, match=r"2 feature spaces.*2000 genes.*1500 genes"):
        store.var()


def test_its_id_follows_its_datasets(tmp_path: Path) -> None:
    copy = shutil.copytree(SFAIRA, tmp_path / "copy")
    assert dao.load_store(copy).id == dao.load_store(SFAIRA).id
    shutil.rmtree(copy / IDS[0])
    assert dao.load_store(copy).id != dao.load_store(SFAIRA).id


# --- obs of every kind


def every_kind(n: int) -> pd.DataFrame:
    """One column for each kind of values that pandas writes into parquet."""
    rng = np.random.default_rng(n)
    text = np.array(["b", "a", "c", None], object)[rng.integers(0, 4, n)]
    maybe = rng.random(n) < 0.3
    return pd.DataFrame(
        {
            "category": pd.Categorical(text, categories=["c", "b", "a", "unused"], ordered=True),
            "number category": pd.Categorical(rng.integers(3, 6, n)),
            "empty category": pd.Categorical([None] * n),
            "text": text,
            "string": pd.array(text, dtype="string"),
            "int": rng.integers(-5, 5, n),
            "small": rng.integers(0, 5, n).astype(np.int8),
            "uint": rng.integers(0, 5, n).astype(np.uint64),
            "nullable": pd.array(np.where(maybe, None, 7), dtype="Int64"),
            "float": np.where(maybe, np.nan, rng.random(n)),
            "single": rng.random(n).astype(np.float32),
            "half": np.linspace(0, 1, n).astype(np.float16),
            "bool": maybe,
            "maybe bool": pd.array(np.where(maybe, None, True), dtype="boolean"),
            "object bool": np.where(maybe, None, True),
            "time": pd.Series(pd.date_range("2020", periods=n)).where(~maybe),
            "zoned": pd.date_range("2020", periods=n, tz="Europe/Berlin"),
            "duration": pd.to_timedelta(np.arange(n), "s"),
            "date": [dt.date(2020, 1, 1)] * n,
            "nothing": [None] * n,
            "nan": [np.nan] * n,
            "cell": text,
            "obs_name": text,
            "obs_cell": rng.integers(0, 9, n),
        },
        index=names(n),
    )


def test_every_kind_of_obs(tmp_path: Path) -> None:
    obs = every_kind(40)
    write_sfaira(tmp_path / "s", "one", counts(40, 3), obs)
    for engine in ("streaming", "in-memory"):
        frame = dao.scan(tmp_path / "s").collect(engine=engine)
        schema = frame.schema
        assert frame["obs_name"].to_list() == obs.index.tolist()
        renamed = {"cell": "obs_obs_cell", "obs_name": "obs_obs_name"}
        for name in obs.columns:
            values = frame[renamed.get(name, name)].to_list()
            expected = obs[name].astype(object)
            for found, value in zip(values, expected, strict=True):
                assert found == value or (found is None and pd.isna(value)), name
        assert schema["category"] == pl.Enum(["a", "b", "c"])
        assert schema["text"] == pl.Enum(["a", "b", "c"])
        assert schema["half"] == pl.Float32
        assert schema["nullable"] == pl.Int64
        assert schema["maybe bool"] == schema["object bool"] == pl.Boolean
        assert schema["time"] == pl.Datetime("ns")
        assert schema["zoned"] == pl.Datetime("ns", "Europe/Berlin")
        assert schema["number category"] == pl.Int64
        assert schema["nothing"] == pl.Null


def test_datasets_whose_columns_differ(tmp_path: Path) -> None:
    one, two = every_kind(30), every_kind(20)
    two["int"] = two["int"].astype(str)
    two["small"] = two["small"].astype(np.float64)
    two["category"] = two["int"]
    two = two.drop(columns=["text", "bool"])
    three = pd.DataFrame({"nothing": ["now something"] * 5}, index=names(5))
    for name, obs in (("one", one), ("two", two), ("three", three)):
        write_sfaira(tmp_path / "s", name, counts(len(obs), 2), obs, uns={"bool": 1, "k": name})
    frame = dao.scan(tmp_path / "s").collect()
    schema = frame.schema
    assert frame["dataset"].unique(maintain_order=True).to_list() == ["one", "three", "two"]
    assert schema["int"] == pl.String
    assert schema["small"] == pl.Float64
    assert schema["nothing"] == pl.Enum(["now something"])
    assert schema["k"] == pl.Enum(["one", "three", "two"])
    assert schema["bool"] == pl.Int64
    expected = [str(v) for v in one["int"]] + [None] * 5 + two["int"].tolist()
    assert frame["int"].to_list() == expected
    assert frame["bool"].to_list() == [int(v) for v in one["bool"]] + [1] * 25
    lf = dao.scan(tmp_path / "s")
    for condition in (
        C("int") == "-3",
        C("small") > 2,
        C("category") == "a",
        C("nothing").is_null(),
        C("k") != "one",
        C("text").is_in(["a", "b"]) & (C("half") > 0.3),
        (C("bool") == 1) | (C("string") == "c"),
    ):
        assert_frame_equal(lf.filter(condition).collect(), frame.filter(condition))


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (pd.Index(list("abcd")), list("abcd")),
        (pd.Index(list("abca"), name="barcode"), list("abca")),
        (pd.Index([7, 5, 3, 1]), ["7", "5", "3", "1"]),
        (pd.RangeIndex(4), ["0", "1", "2", "3"]),
        (pd.RangeIndex(10, 2, -2), ["10", "8", "6", "4"]),
        (pd.CategoricalIndex(list("abca")), list("abca")),
    ],
    ids=["text", "named", "numbers", "range", "range with a step", "categories"],
)
def test_indices(tmp_path: Path, index: pd.Index, expected: list[str]) -> None:
    for name, obs in (
        ("filled", pd.DataFrame({"x": list("pqrs")}, index=index)),
        ("no columns", pd.DataFrame(index=index)),
    ):
        path = write_sfaira(tmp_path / name, "one", counts(4, 2), obs)
        lf = dao.scan(path)
        assert lf.collect()["obs_name"].to_list() == expected
        assert lf.select("obs_name").tail(2).collect()["obs_name"].to_list() == expected[2:]
        assert lf.filter(C("obs_name") == expected[1]).collect().height == 1
        assert lf.collect().columns == ["cell", "dataset", "obs_name", *obs.columns]
        assert dao.load_store(path).verify().is_empty()


def test_a_range_that_is_not_of_these_rows_is_passed_over(tmp_path: Path) -> None:
    path = write_sfaira(tmp_path, "a", np.ones((4, 1)), pd.DataFrame({"n": range(4)}))
    file = path / "a/parquet/obs.parquet"
    note = pl.read_parquet_metadata(file)["pandas"].replace('"stop": 4', '"stop": 9')
    note = note.replace('"start": 0', '"start": 5').replace('"step": 1', '"step": 2')
    pl.read_parquet(file).write_parquet(file, metadata={"pandas": note})
    found = dao.scan(tmp_path).collect()["obs_name"].to_list()
    assert found == [str(i) for i in pd.read_parquet(file).index] == ["0", "1", "2", "3"]


def test_several_index_columns(tmp_path: Path) -> None:
    index = pd.MultiIndex.from_arrays([list("abcd"), [1, 2, 3, 4], list("wxyz")])
    index.names = ["barcode", None, "batch"]
    path = write_sfaira(tmp_path / "s", "one", counts(4, 2), pd.DataFrame({"x": 1}, index=index))
    frame = dao.scan(path).drop("cell", "dataset").collect()
    assert frame.row(2) == ("c", 1, 3, "y")
    assert frame.columns == ["obs_name", "x", "level_1", "batch"]


def test_parquet_without_the_note_of_pandas(tmp_path: Path) -> None:
    path = write_sfaira(tmp_path / "s", "one", counts(4, 2), pd.DataFrame({"x": range(4)}))
    file = path / "one" / "parquet" / "obs.parquet"
    pl.DataFrame({"x": range(4)}).write_parquet(file)
    assert dao.scan(path).collect()["obs_name"].to_list() == ["0", "1", "2", "3"]
    pl.DataFrame({"x": range(4), "__index_level_0__": list("abcd")}).write_parquet(file)
    assert dao.scan(path).collect()["obs_name"].to_list() == list("abcd")


def test_columns_that_a_frame_does_not_hold(tmp_path: Path) -> None:
    obs = pd.DataFrame({"list": [[1]] * 4, "bytes": [b"a"] * 4, "x": 1}, index=names(4))
    path = write_sfaira(tmp_path / "s", "one", counts(4, 2), obs)
    with pytest.warns(UserWarning, match="'list' .*'bytes'"):
        frame = dao.scan(path).collect()
    assert frame.columns == ["cell", "dataset", "obs_name", "x"]


def test_datasets_without_cells(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write_sfaira(path, "none", counts(0, 2), every_kind(3).iloc[:0], chunks=(1, 2))
    write_sfaira(path, "some", counts(3, 2), every_kind(3))
    frame = dao.scan(path).collect()
    assert frame["dataset"].to_list() == ["some"] * 3
    assert frame["int"].to_list() == every_kind(3)["int"].tolist()


def test_var_with_columns(tmp_path: Path) -> None:
    var = pd.DataFrame(
        {"ensembl": pd.Categorical(["E1", "E2"]), "length": [10, 20], "var_name": ["p", "q"]},
        index=pd.Index(["g1", "g2"], name="symbol"),
    )
    path = write_sfaira(tmp_path / "s", "one", counts(4, 2), pd.DataFrame(index=names(4)), var)
    found = dao.load_store(path).var()
    assert found.columns == ["var_name", "ensembl", "length", "obs_var_name"]
    assert found.rows() == [("g1", "E1", 10, "p"), ("g2", "E2", 20, "q")]
    assert found.schema["ensembl"] == pl.String


# --- uns


class Custom:
    """Something of the writer's own in uns."""


@pytest.mark.parametrize("protocol", range(6))
def test_uns_with_more_than_plain_data(tmp_path: Path, protocol: int) -> None:
    uns = {
        "organism": np.str_("Homo sapiens"),
        "year": np.int64(2021),
        "ratio": 0.5,
        "array": np.arange(3),
        "frame": pd.DataFrame({"a": [1]}),
        "mine": {"deep": [Custom()]},
        "none": None,
        3: "not a name",
        "nan": float("nan"),
        "huge": 2**70,
    }
    obs = pd.DataFrame(index=names(4))
    path = write_sfaira(tmp_path / "s", "one", counts(4, 2), obs, uns=uns, protocol=protocol)
    store = dao.load_store(path)
    found = store.uns("one")
    assert "['frame']: pandas.core.frame.DataFrame" in found.refused
    assert any(line.startswith("['mine']['deep'][0]: ") for line in found.refused)
    assert repr(found["frame"]) == "<refused pandas.core.frame.DataFrame>"
    assert found["array"].tolist() == [0, 1, 2]
    frame = store.scan().collect()
    assert frame.columns[3:] == ["organism", "year", "ratio"]
    assert frame.row(0)[3:] == ("Homo sapiens", 2021, 0.5)
    assert store.datasets["organism"].to_list() == ["Homo sapiens"]


@pytest.mark.parametrize("data", [b"", b"no pickle at all", pickle.dumps([1, 2])])
def test_uns_that_is_no_pickled_dict(tmp_path: Path, data: bytes) -> None:
    path = write_sfaira(tmp_path / "s", "one", counts(4, 2), pd.DataFrame(index=names(4)))
    (path / "one" / "pickle" / "uns.pickle").write_bytes(data)
    store = dao.load_store(path)
    for ask in (lambda: store.uns("one"), store.scan):
        with pytest.raises(dao.DaoCorruptError, match=r"dataset 'one'.*one/pickle/uns\.pickle"):
            ask()
    assert store.verify().row(0)[:2] == ("one", "one/pickle/uns.pickle")
    assert "uns.pickle" in repr(store)  # a repr says so and does not fail


# --- files that do not fit together


@pytest.mark.parametrize("table", ["obs", "var"])
def test_tables_of_another_length(tmp_path: Path, table: str) -> None:
    path = shutil.copytree(SFAIRA, tmp_path / "s")
    file = path / IDS[1] / "parquet" / f"{table}.parquet"
    pd.read_parquet(file).iloc[1:].to_parquet(file)
    expected = {"obs": "expected 600 rows.*cells, found 599", "var": "2000 rows.*genes, found 1999"}
    store = dao.load_store(path)
    with pytest.raises(dao.DaoCorruptError, match=expected[table]) as raised:
        store.scan()
    assert f"dataset '{IDS[1]}'" in str(raised.value)
    assert f"{IDS[1]}/parquet/{table}.parquet" in str(raised.value)
    problems = store.verify()
    assert problems.rows()[0][:2] == (IDS[1], f"{IDS[1]}/parquet/{table}.parquet")


def test_tables_that_are_cut_short_or_missing(tmp_path: Path) -> None:
    path = shutil.copytree(SFAIRA, tmp_path / "s")
    file = path / IDS[1] / "parquet" / "obs.parquet"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(dao.DaoCorruptError, match=rf"dataset '{IDS[1]}'.*obs\.parquet"):
        dao.scan(path)
    file.unlink()
    with pytest.raises(dao.DaoFileNotFoundError, match=r"obs\.parquet"):
        dao.scan(path)


# --- matrices

COMPRESSORS = {
    "none": None,
    "blosc lz4": numcodecs.Blosc("lz4", 5, numcodecs.Blosc.SHUFFLE),
    "blosc lz4hc": numcodecs.Blosc("lz4hc", 5, numcodecs.Blosc.NOSHUFFLE),
    "blosc zstd": numcodecs.Blosc("zstd", 3, numcodecs.Blosc.BITSHUFFLE),
    "blosc zlib": numcodecs.Blosc("zlib", 3, numcodecs.Blosc.SHUFFLE),
    "blosc blosclz": numcodecs.Blosc("blosclz", 3, numcodecs.Blosc.SHUFFLE),
    "zstd": numcodecs.Zstd(3),
    "gzip": numcodecs.GZip(3),
    "zlib": numcodecs.Zlib(3),
    "bz2": numcodecs.BZ2(3),
}


@pytest.mark.parametrize("chunks", [(7, 30), (5, 11), (100, 100)])
@pytest.mark.parametrize("name", COMPRESSORS)
def test_matrices_of_every_compressor(tmp_path: Path, name: str, chunks: tuple[int, int]) -> None:
    x = counts(23, 30, seed=4)
    obs = pd.DataFrame({"n": range(23)}, index=names(23))
    path = write_sfaira(tmp_path / "s", "one", x, obs, compressor=COMPRESSORS[name], chunks=chunks)
    batches = dao.scan(path).sort("n", descending=True).dao.iter_batches(5, layout="dense")
    np.testing.assert_array_equal(np.concatenate([batch.x for batch in batches]), x[::-1])
    assert dao.load_store(path).verify().is_empty()
