"""Selections written as datasets, beside what anndata has of the same cells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import dao_polars as dao
from dao_polars._core import MatrixName
from tests.conftest import SFAIRA, study
from tests.memory import MEMORY

GENES = [f"g{i}" for i in range(12)]


def dense(x: Any) -> np.ndarray:
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def assert_same(found: ad.AnnData, expected: ad.AnnData) -> None:
    np.testing.assert_array_equal(dense(found.X), dense(expected.X))
    assert found.X.dtype == expected.X.dtype
    for name in ("layers", "obsm"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert sorted(ours) == sorted(theirs), name
        for key in theirs:
            np.testing.assert_array_equal(dense(ours[key]), dense(theirs[key]))
            assert ours[key].dtype == theirs[key].dtype, (name, key)
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    pd.testing.assert_frame_equal(found.var, expected.var)
    assert dict(found.uns) == dict(expected.uns)


def check(cells: pl.LazyFrame | pl.DataFrame, folder: Path, **options: Any) -> dao.Store:
    """Writes cells both ways, and compares; gives the store that they were written to."""
    chosen = {k: v for k, v in options.items() if k in {"genes", "gene_key", "duplicates", "layer"}}
    chosen |= {k: v for k, v in options.items() if k in {"layers", "obsm"}}
    adata = cells.dao.to_anndata(**chosen)
    other = dao.write_dataset(folder / "by_anndata", adata, dataset="new", layers=True)
    store = cells.dao.write_dataset(folder / "written", dataset="new", progress=False, **options)
    assert store.verify().is_empty()
    assert_same(store.scan().dao.to_anndata(), other.scan().dao.to_anndata())
    ours, theirs = store.scan().drop("cell"), other.scan().drop("cell")
    assert ours.collect().equals(theirs.collect())
    assert ours.collect_schema() == theirs.collect_schema()
    assert store.var("new").equals(other.var("new"))
    columns = ["organism", "n_obs", "n_vars", "nnz"]
    assert store.datasets.select(columns).equals(other.datasets.select(columns))
    by_name = store._core.description(0).matrices
    for name, meta in other._core.description(0).matrices.items():
        assert by_name[name].max_abs == meta.max_abs, name
        assert by_name[name].source_dtype == meta.source_dtype, name
    return store


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> dao.Store:
    """Three datasets of various kinds of columns and matrices; the second has two parts."""
    uri = tmp_path_factory.mktemp("rich") / "store"
    for seed, name in [(1, "a"), (2, "b"), (3, "b"), (4, "c")]:
        adata = study(seed, 20 + 9 * seed, GENES, high=40_000 if name == "c" else 200)
        n = adata.n_obs
        rng = np.random.default_rng(seed)
        adata.obs["age"] = pd.array(rng.integers(0, 90, n), dtype="Int64")
        adata.obs.loc[adata.obs_names[3], "age"] = pd.NA
        adata.obs["day"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 9, n), "D")
        adata.obs["good"] = rng.random(n) < 0.5
        levels = pd.CategoricalDtype(["low", "middle", "high"], ordered=True)
        adata.obs["level"] = pd.Categorical.from_codes(rng.integers(0, 2, n), dtype=levels)
        adata.obs["note"] = [f"note {i}" for i in range(n)]
        adata.obs[f"only_{name}"] = np.arange(n, dtype=np.int16)
        adata.var["symbol"] = ["A", "B", "A", *(f"S{i}" for i in range(len(GENES) - 3))]
        adata.var["length"] = rng.integers(1, 99, len(GENES))
        adata.layers["spliced"] = sp.csr_matrix(rng.poisson(1, adata.shape).astype("int64"))
        adata.layers["scaled"] = rng.normal(size=adata.shape).astype("float32")
        if name != "a":
            adata.layers["other"] = adata.X * 2
        adata.obsm["X_pca"] = rng.normal(size=(n, 5))
        adata.obsm["spatial"] = rng.integers(-9, 9, (n, 2)).astype("float32")
        adata.uns = {"organism": "human" if name != "c" else "mouse", "title": name, "k": {"x": 1}}
        store = dao.write_dataset(uri, adata, dataset=name, mode="append", layers=True)
    return store


SELECTIONS = {
    "all": lambda lf: lf,
    "one dataset": lambda lf: lf.filter(pl.col("dataset") == "a"),
    "two parts": lambda lf: lf.filter(pl.col("dataset") == "b"),
    "one cell": lambda lf: lf.filter(pl.col("dataset") == "c").slice(7, 1),
    "shuffled": lambda lf: lf.select(pl.all().shuffle(seed=3)),
    "repeated": lambda lf: pl.concat([lf.filter("good"), lf.slice(20, 50)]),
    "joined": lambda lf: lf.join(
        pl.LazyFrame({"day_of": [1, 2, 4], "batch": ["x", "y", "z"]}),
        left_on=pl.col("day").dt.day().cast(pl.Int64),
        right_on="day_of",
        how="left",
        maintain_order="left",
    ),
    "computed": lambda lf: lf.with_columns(
        age=pl.col("age") * 2,
        new=pl.col("score").cast(pl.Float32),
        late=pl.col("day") > pl.date(2020, 1, 4),
        words=pl.concat_str(pl.col("cell_type").cast(pl.String), pl.lit("!")),
        g=dao.gene("g3"),
    ),
    "few columns": lambda lf: lf.select("cell", "level"),
    "no columns": lambda lf: lf.select("cell"),
    "sorted": lambda lf: lf.sort("score", descending=True),
}


@pytest.mark.parametrize("how", list(SELECTIONS))
def test_what_is_written_is_what_anndata_has(how: str, rich: dao.Store, tmp_path: Path) -> None:
    check(SELECTIONS[how](rich.scan()), tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"genes": ["g4", "g1", "g11"]},
        {"genes": ["g4", "nowhere", "g1"]},
        {"genes": ["S3", "B"], "gene_key": "symbol"},
        {"genes": ["A", "B", "S1"], "gene_key": "symbol", "duplicates": "sum"},
        {"genes": ["A", "B", "S1"], "gene_key": "symbol", "duplicates": "first"},
        {"genes": ["A", "B", "S1"], "gene_key": "symbol", "duplicates": "drop"},
        {"genes": "union"},
        {"layer": "spliced", "layers": [], "obsm": []},
        {"layers": ["scaled"], "obsm": "spatial"},
        {"layer": "scaled", "genes": ["A", "S1"], "gene_key": "symbol", "duplicates": "sum"},
        {"profile": "portable"},
    ],
    ids=str,
)
def test_options_mean_what_they_mean_elsewhere(
    options: dict[str, Any], rich: dao.Store, tmp_path: Path
) -> None:
    if "nowhere" in (options.get("genes") or []):
        with pytest.raises(dao.DaoKeyError, match="nowhere"):
            rich.scan().dao.write_dataset(tmp_path / "x", dataset="d", **options)
        assert not (tmp_path / "x").exists()
        return
    check(rich.scan().filter("good"), tmp_path, **options)


@pytest.mark.parametrize("genes", ["intersection", "union", ["g7", "x", "g3"], None])
def test_feature_spaces_meet(genes: Any, mixed: Any, tmp_path: Path) -> None:
    cells = mixed[0].scan()
    if genes is None:
        with pytest.raises(dao.DaoValueError, match="3 different feature spaces") as written:
            cells.dao.write_dataset(tmp_path / "x", dataset="d")
        with pytest.raises(dao.DaoValueError) as read:
            cells.dao.to_anndata()
        assert str(written.value) == str(read.value)
        assert not list(tmp_path.iterdir())
        return
    store = check(cells, tmp_path, genes=genes)
    x = store.scan().dao.to_anndata()
    a = mixed[1]["a"]
    both = [gene for gene in x.var_names if gene in a.var_names]
    np.testing.assert_array_equal(dense(x[: a.n_obs, both].X), dense(a[:, both].X))


@given(
    rows=st.lists(st.integers(0, 100), max_size=60),
    genes=st.one_of(
        st.just("union"),
        st.lists(st.sampled_from(["g3", "g7", "g19", "x"]), min_size=1, unique=True),
    ),
    shuffle=st.booleans(),
    portable=st.booleans(),
)
def test_any_cells_in_any_order(
    mixed: Any, tmp_path_factory: pytest.TempPathFactory, rows, genes, shuffle, portable
) -> None:
    """Beside numpy: the studies one after the other, their columns by name."""
    store, studies = mixed
    cells = store.scan().collect()[rows]
    names = list(dict.fromkeys(n for s in studies.values() for n in s.var_names))
    wanted = names if genes == "union" else genes
    whole = pd.concat([s.to_df() for s in studies.values()]).reindex(columns=wanted).fillna(0)
    written = cells.dao.write_dataset(
        tmp_path_factory.mktemp("any"),
        dataset="d",
        genes=genes,
        shuffle=shuffle,
        seed=3,
        profile="portable" if portable else "packed",
    )
    expected = whole.to_numpy()[rows]
    if shuffle:
        order = np.random.Generator(np.random.PCG64(3)).permutation(len(rows))
        expected = expected[order]
        assert written.scan().collect()["source_row"].to_list() == order.tolist()
    if rows:
        found = written.scan().dao.to_anndata()
        at = [wanted.index(name) for name in found.var_names]
        assert genes == "union" or found.var_names.tolist() == wanted
        assert not np.delete(expected, at, axis=1).any()
        expected = expected[:, at]
        np.testing.assert_array_equal(dense(found.X), expected)
    assert written.verify().is_empty()


@pytest.mark.parametrize("profile", ["packed", "portable"])
def test_shuffled_cells(profile: str, rich: dao.Store, tmp_path: Path) -> None:
    """Of chunks that are read as they lie, and of rows that are read one by one."""
    first = rich.scan().dao.write_dataset(tmp_path / "first", dataset="d", profile=profile)
    lf = first.scan()
    stores = [
        lf.dao.write_dataset(tmp_path / name, dataset="d", shuffle=True, seed=7, profile=profile)
        for name in ("s", "t")
    ]
    adata = lf.dao.to_anndata()
    order = np.random.Generator(np.random.PCG64(7)).permutation(adata.n_obs)
    for store in stores:
        assert store.verify().is_empty()
        assert store.scan().collect()["source_row"].to_list() == order.tolist()
        found = store.scan().drop("source_row").dao.to_anndata()
        assert set(found.obs.pop("obs_obs_dataset")) == {"d"}, "where they came from before is kept"
        expected = adata[order].copy()
        expected.obs = adata.obs.iloc[order]  # with the categories that anndata drops
        assert_same(found, expected)
    with pytest.raises(dao.DaoValueError, match="source_row"):
        stores[0].scan().dao.write_dataset(tmp_path / "u", dataset="d", shuffle=True)
    assert not (tmp_path / "u").exists()


def test_types_are_as_narrow_as_the_sources(rich: dao.Store, tmp_path: Path) -> None:
    store = rich.scan().dao.write_dataset(tmp_path / "all", dataset="all", obsm=True)
    matrices = store._core.description(0).matrices
    found = {str(name): (meta.dtype, meta.layout) for name, meta in matrices.items()}
    assert found == {
        "X": ("uint16", "csr"),
        "layers/spliced": ("uint8", "csr"),
        "layers/scaled": ("float32", "dense"),
        "obsm/X_pca": ("float64", "dense"),
        "obsm/spatial": ("int8", "dense"),
    }


def test_numbers_of_several_types_meet(tmp_path: Path) -> None:
    """Counts beside negative numbers, and whole numbers beside fractions."""
    kinds = {
        "u": np.array([[200, 0], [3, 1]], "uint8"),
        "i": np.array([[-5, 0], [0, 127]], "int8"),
        "f": np.array([[0.5, 0], [0, 1]], "float32"),
        "large": np.array([[2**24 + 1, 0], [0, 1]], "int64"),
        "d": np.array([[0.1, 0], [0, 1]], "float64"),
    }
    for name, x in kinds.items():
        adata = ad.AnnData(sp.csr_matrix(x), var=pd.DataFrame(index=["g", "h"]))
        store = dao.write_dataset(tmp_path / "s", adata, dataset=name)

    def stored(*names: str) -> str:
        folder = tmp_path / "-".join(names)
        written = check(store.scan().filter(pl.col("dataset").is_in(names)), folder)
        return written._core.parts[0].dtype

    assert stored("u", "i") == "int16"
    assert stored("i") == "int8"
    assert stored("u", "f") == "float32"
    assert stored("u", "large") == "uint32"
    assert stored("large", "f") == "float64"
    assert stored("d", "u") == "float64"


def test_sums_are_exact(tmp_path: Path) -> None:
    adata = ad.AnnData(
        sp.csr_matrix(np.array([[200, 100, 1], [0, 0, 3]], "uint8")),
        var=pd.DataFrame({"symbol": ["A", "A", "B"]}, index=list("xyz")),
    )
    store = dao.write_dataset(tmp_path / "s", adata, dataset="d")
    written = store.scan().dao.write_dataset(
        tmp_path / "t", dataset="d", genes=["A", "B"], gene_key="symbol", duplicates="sum"
    )
    assert written._core.parts[0].dtype == "uint16"
    assert dense(written.scan().dao.to_anndata().X).tolist() == [[300, 1], [0, 3]]


def test_no_cells(rich: dao.Store, tmp_path: Path) -> None:
    none = rich.scan().filter(pl.col("age") > 1000)
    store = none.dao.write_dataset(tmp_path, dataset="none")
    assert store.datasets["n_obs"].to_list() == [0]
    assert store.verify().is_empty()
    assert store.scan().collect().height == 0


def test_into_the_store_that_is_read(rich: dao.Store, tmp_path: Path) -> None:
    store = rich.scan().dao.write_dataset(tmp_path, dataset="d", shuffle=True, seed=1)
    before = store.scan().dao.to_anndata()
    lf = dao.scan(tmp_path)
    added = lf.filter("good").dao.write_dataset(tmp_path, dataset="e", message="the good ones")
    assert (added.version, added.datasets["id"].to_list()) == (2, ["d", "e"])
    assert added.versions()["message"].to_list()[-1] == "the good ones"
    with pytest.raises(dao.DaoFileExistsError, match="'d' is already"):
        lf.dao.write_dataset(tmp_path, dataset="d")
    # In the place of what it is made of; and added to that.
    unshuffled = lf.filter(pl.col("dataset") == "d").sort("source_row").drop("source_row")
    replaced = unshuffled.dao.write_dataset(tmp_path, dataset="d", mode="replace")
    assert replaced.version == 3
    place = np.argsort(before.obs["source_row"].to_numpy())
    found = replaced.scan().filter(pl.col("dataset") == "d").dao.to_anndata()
    np.testing.assert_array_equal(dense(found.X), dense(before.X)[place])
    twice = replaced.scan().filter(pl.col("dataset") == "d")
    n = before.n_obs
    doubled = twice.dao.write_dataset(tmp_path, dataset="d", mode="append", uns=False)
    cells = doubled.scan().filter(pl.col("dataset") == "d")
    np.testing.assert_array_equal(dense(cells.dao.to_anndata().X), np.vstack([dense(found.X)] * 2))
    assert doubled.datasets.filter(id="d")["n_obs"].to_list() == [2 * n]
    assert doubled.verify().is_empty()


def test_cells_are_added_in_the_order_of_the_datasets_genes(tmp_path: Path) -> None:
    first, other = study(1, 30, GENES), study(2, 20, [*GENES[::-1], "more"])
    dao.write_dataset(tmp_path / "s", first, dataset="a")
    store = dao.write_dataset(tmp_path / "t", other, dataset="o")
    lf = store.scan()
    with pytest.raises(dao.DaoValueError, match="have other genes than the dataset"):
        lf.dao.write_dataset(tmp_path / "s", dataset="a", mode="append")
    reverse = lf.dao.write_dataset(
        tmp_path / "s",
        dataset="a",
        mode="append",
        genes=[g for g in other.var_names if g != "more"],
    )
    same = lf.dao.write_dataset(
        tmp_path / "s", dataset="a", mode="append", genes=reverse.var("a"), shuffle=True, seed=2
    )
    found = dense(same.scan().dao.to_anndata().X)
    expected = dense(other[:, GENES].X)
    np.testing.assert_array_equal(found[30:50], expected)
    order = np.random.Generator(np.random.PCG64(2)).permutation(20)
    np.testing.assert_array_equal(found[50:], expected[order])
    assert same.verify().is_empty()


def test_where_cells_come_from(rich: dao.Store, tmp_path: Path) -> None:
    store = rich.scan().dao.write_dataset(tmp_path, dataset="new", organism="both")
    frame = store.scan().collect()
    assert set(frame["dataset"]) == {"new"}
    assert frame["obs_dataset"].cast(pl.String).to_list() == (
        rich.scan().collect()["dataset"].cast(pl.String).to_list()
    )
    assert store.datasets["organism"].to_list() == ["both"]
    assert set(frame["organism"]) == {"human", "mouse"}, "the column of the frame stays"


def test_a_store_that_sfaira_wrote(tmp_path: Path) -> None:
    """Its matrices are dense floats, which nobody has looked at: counts, in CSR."""
    lf = dao.scan(SFAIRA)
    store = check(lf, tmp_path, genes="union")
    assert store._core.parts[0].dtype.startswith("uint")
    assert store._core.description(0).matrices[MatrixName.X].layout == "csr"


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        (lambda lf: lf.drop("cell"), dao.DaoValueError, "no column 'cell'"),
        (lambda lf: lf.with_columns(x=pl.lit([1])), dao.DaoTypeError, "'x'"),
    ],
)
def test_frames_that_cannot_be_written(change, error, what, rich, tmp_path) -> None:
    with pytest.raises(error, match=what):
        change(rich.scan()).dao.write_dataset(tmp_path / "s", dataset="d")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("options", "error", "what"),
    [
        ({"mode": "overwrite"}, dao.DaoValueError, "mode='overwrite'"),
        ({"profile": "small"}, dao.DaoValueError, "profile='small'"),
        ({"seed": -1, "shuffle": True}, dao.DaoValueError, "seed"),
        ({"dataset": "a/b"}, dao.DaoValueError, "cannot name a dataset"),
        ({"layer": "none"}, dao.DaoKeyError, "no layer 'none'"),
        ({"layers": ["other"]}, dao.DaoKeyError, "no layer 'other'"),
        ({"obsm": ["none"]}, dao.DaoKeyError, "no obsm 'none'"),
        ({"organism": 3}, dao.DaoTypeError, "organism"),
        ({"duplicates": "any"}, dao.DaoValueError, "any"),
    ],
    ids=str,
)
def test_options_that_mean_nothing(options, error, what, rich, tmp_path) -> None:
    with pytest.raises(error, match=what):
        rich.scan().dao.write_dataset(tmp_path / "s", **{"dataset": "d", **options})
    assert not (tmp_path / "s" / "versions").exists()
    assert not list((tmp_path / "s").rglob("*.json"))


def test_damage_on_the_way_leaves_nothing(rich: dao.Store, tmp_path: Path) -> None:
    store = rich.scan().dao.write_dataset(tmp_path / "s", dataset="d")
    shard = next((tmp_path / "s").rglob("zarr/X/data/c/0"))
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 3] ^= 255
    lf = store.scan()
    shard.write_bytes(damaged)
    for uri in (tmp_path / "s", tmp_path / "t"):
        with pytest.raises(dao.DaoCorruptError, match="dataset 'd'"):
            lf.dao.write_dataset(uri, dataset="e")
    assert dao.load_store(tmp_path / "s").version == 1
    left = [path for path in tmp_path.rglob("*") if path.is_file() and "/s/" not in str(path)]
    assert not left
    assert len(list((tmp_path / "s" / "parts").iterdir())) == 1


def test_the_gene_index_comes_with_it(rich: dao.Store, tmp_path: Path) -> None:
    store = rich.scan().dao.write_dataset(tmp_path, dataset="d", gene_index=True)
    assert store.has_gene_index("d")
    found = store.scan().select(dao.gene("g3")).collect().to_series().to_numpy()
    np.testing.assert_array_equal(found, dense(rich.scan().dao.to_anndata()[:, "g3"].X)[:, 0])


SCRIPT = """
import sys, threading
import dao_polars as dao

peak, over = 0, threading.Event()

def look():
    global peak
    while not over.wait(0.002):
        peak = max(peak, memory("RssAnon"))

source, target, n, shuffle = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "shuffled"
lf = dao.scan(source).select("cell").head(n)
lf.head(50).dao.write_dataset(target, dataset="small", progress=False)
before = memory("RssAnon")
thread = threading.Thread(target=look, daemon=True)
thread.start()
lf.dao.write_dataset(target, dataset="d", shuffle=shuffle, seed=1, progress=False)
over.set()
thread.join()
print(peak - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", ["in order", "shuffled"])
def test_memory_does_not_grow_with_the_matrix(how: str, tmp_path: Path) -> None:
    n, n_genes, per_cell = 60_000, 4_000, 1_000  # 60 million values: 480 MB as CSR of float32
    rng = np.random.default_rng(0)
    block = 10_000
    columns = np.sort(rng.integers(0, n_genes // per_cell, (block, per_cell)), axis=1)
    columns = columns + np.arange(per_cell) * (n_genes // per_cell)
    columns = np.sort(columns, axis=1).astype(np.int32)
    data = rng.integers(1, 200, columns.size).astype(np.uint8)
    x = sp.csr_matrix((data, columns.ravel(), np.arange(block + 1) * per_cell), (block, n_genes))
    adata = ad.AnnData(x, var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]))
    for _ in range(n // block):
        dao.write_dataset(tmp_path / "s", adata, dataset="d", mode="append", progress=False)

    def peak(cells: int) -> int:
        arguments = [str(tmp_path / "s"), str(tmp_path / f"t{cells}"), str(cells), how]
        command = [sys.executable, "-c", MEMORY + SCRIPT, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert not done.returncode, done.stderr
        return int(done.stdout)

    # A third of the cells takes what all of them do, but for their names and keys.
    assert peak(n) - peak(n // 3) < 100 << 20


def test_a_dataset_that_is_not_named(
    mixed: tuple[dao.Store, dict[str, ad.AnnData]], tmp_path: Path
) -> None:
    source, studies = mixed
    target = tmp_path / "whole"
    one = source.scan().filter(pl.col("dataset") == "b").dao.write_dataset(target, progress=False)
    assert one.datasets["id"].to_list() == ["b"]
    every = source.scan().dao.write_dataset(target, genes="union", shuffle=True, progress=False)
    assert every.datasets["id"].to_list() == ["b", Path(source.uri).name]
    assert every.n_obs == sum(adata.n_obs for adata in studies.values()) + studies["b"].n_obs
