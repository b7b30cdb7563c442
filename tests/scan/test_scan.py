"""The scan against the same query on an eager frame that was built another way."""

from __future__ import annotations

import datetime as dt
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import dao_polars as dao
from dao_polars.scan.cell import Cell
from dao_polars.scan.columns import FileColumn, ScannedPart, frame_schema
from dao_polars.scan.plan import make_plan
from tests.storefab import (
    Study,
    last_version,
    make_store,
    part_path,
    plain_cells,
    plain_frame,
    read_version,
    take_as_written,
    write_version,
)

ENGINES = ("streaming", "in-memory")
C = pl.col


def random_obs(rng: np.random.Generator, n: int, kind: int) -> pl.DataFrame:
    """Columns of every type, nulls and NaNs; which of them depends on ``kind``."""

    def some(values: list, dtype: pl.DataType | None = None) -> pl.Series:
        picked = [values[i] for i in rng.integers(0, len(values), n)]
        return pl.Series(picked, dtype=dtype)

    types = ["B", "T", "NK", "alpha", None]
    columns = {
        "cell_type": some(types[kind % 3 :], pl.String()),
        "donor": some([f"d{kind}_{i}" for i in range(3)], pl.String()),
        "n_counts": some([0, 1, 5, 100, 7000, None], pl.Int32() if kind % 2 else pl.Int64()),
        "pct": some([0.0, 0.25, 1.5, float("nan"), None], pl.Float64()),
        "score": some([1, 2, 3], pl.Int64())
        if kind % 2
        else some([0.5, None, float("inf")], pl.Float32()),
        "is_primary": some([True, False, None], pl.Boolean()),
        "age": some([30, 61, None], pl.Int64()) if kind % 3 else some(["30", "old"], pl.String()),
        "day": some([dt.date(2020, 1, 1), dt.date(2021, 5, 5), None], pl.Date()),
        "at": some([dt.datetime(2020, 1, 1), None], pl.Datetime("ns")),
        "empty": some([None], pl.Null() if kind % 2 else pl.String()),
        "sorted": pl.Series(sorted(rng.integers(0, 50, n).tolist()), dtype=pl.Int64()),
        "tissue": some(["lung", "liver"], pl.String()),
        # CELLxGENE's is_primary_data is a bool in one study and text in another
        "flag": some([True, False, None], pl.Boolean())
        if kind % 2
        else some([["True", "False", None], ["true", "FALSE"], ["False"]][kind % 3], pl.String()),
        "verdict": some([True, False, None], pl.Boolean())
        if kind % 2
        else some(["True", "unsure", "false", None], pl.String()),
    }
    if kind % 7 == 3:
        del columns["flag"]
    for name in ("donor", "pct", "day", "tissue")[: kind % 5]:
        del columns[name]
    return pl.DataFrame(columns)


def random_studies() -> dict[str, Study]:
    rng = np.random.default_rng(5)
    sizes = [40, 0, 23, 1, 64, 30]
    studies = {}
    for kind, n in enumerate(sizes):
        constants = {"organism": "mouse" if kind % 3 == 1 else "human", "year": 2000 + kind}
        if kind == 3:
            constants = {"year": "unknown", "tissue": "lung", "flag": True}
        if kind == 4:
            constants |= {"tissue": "brain", "pct": 2, "is_clean": True}
        studies[f"study-{'zyxwvu'[kind]}"] = Study(random_obs(rng, n, kind), constants)
    studies["study-z"].number = 9  # numbers need not be dense, nor in order
    return studies


@pytest.fixture(scope="module")
def studies() -> dict[str, Study]:
    return random_studies()


@pytest.fixture(scope="module")
def store(studies: dict[str, Study], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("scan") / "store", studies)


@pytest.fixture(scope="module")
def eager(studies: dict[str, Study]) -> pl.DataFrame:
    return plain_frame(studies)


def check(
    store: Path,
    eager: pl.DataFrame,
    query: Callable[[pl.LazyFrame], pl.LazyFrame],
    *,
    ordered: bool = True,
) -> pl.DataFrame:
    """The query gives on the scan what it gives on the eager frame, in both engines."""
    expected = query(eager.lazy()).collect(engine="in-memory")
    for engine in ENGINES:
        lf = query(dao.scan(store))
        found = plain_cells(lf.collect(engine=engine))
        assert lf.collect_schema().names() == expected.columns
        assert_frame_equal(found, expected, check_row_order=ordered)
    return expected


# --- the frame


def test_the_frame_and_its_schema(store: Path, eager: pl.DataFrame) -> None:
    check(store, eager, lambda lf: lf)
    schema = dao.scan(store).collect_schema()
    assert list(schema)[:3] == ["cell", "dataset", "obs_name"]
    assert schema == dao.load_store(store).schema == dao.scan(store).collect().schema
    assert schema["cell_type"] == pl.Enum(["B", "NK", "T", "alpha"])
    assert schema["n_counts"] == pl.Int64
    assert schema["score"] == pl.Float64
    assert schema["age"] == pl.String
    assert schema["year"] == pl.String
    assert schema["organism"] == pl.Enum(["human", "mouse"])
    assert schema["flag"] == pl.Boolean
    assert schema["verdict"] == pl.String


def test_keys_are_dataset_number_and_row(store: Path, studies: dict[str, Study]) -> None:
    cells = dao.scan(store).filter(C("dataset") == "study-z").collect()["cell"].ext.storage()
    assert cells.to_list() == [(9 << 32) + row for row in range(40)]


def test_obs_goes_before_constants_and_reserved_names_before_both(tmp_path: Path) -> None:
    study = Study(pl.DataFrame({"x": [1]}), {"cell": "neuron", "dataset": 3, "x": 2, "y": 5})
    row = dao.scan(make_store(tmp_path / "s", {"a": study})).drop("cell").collect().to_dicts()
    assert row == [{"dataset": "a", "obs_name": "c0", "x": 1, "y": 5}]


def test_more_values_than_an_enum_should_have_stay_text(tmp_path: Path) -> None:
    n = 65_537
    obs = pl.DataFrame({"barcode": [f"b{i}" for i in range(n)], "few": ["x"] * n})
    path = make_store(tmp_path / "s", {"a": Study(obs, row_group_size=10_000)})
    schema = dao.scan(path).collect_schema()
    assert schema["barcode"] == pl.String
    assert schema["few"] == pl.Enum(["x"])
    assert dao.scan(path).filter(C("barcode") == "b65000").collect().height == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[True, None], ["True", "False"]], [True, None, True, False]),
        ([["false", None], [False, True]], [False, None, False, True]),
        ([[None, None], ["True", "False"], [True, False]], [None, None, True, False, True, False]),
        ([["TRUE", "true"], [False, None], ["False"]], [True, True, False, None, False]),
        ([[True, False], ["True", "maybe"]], ["True", "False", "True", "maybe"]),
        ([[True, False], ["yes"], [1, 2]], ["True", "False", "yes", "1", "2"]),
        ([[True, False], [1, 2]], [1, 0, 1, 2]),
        ([[True], [None]], [True, None]),
    ],
)
def test_bools_and_their_text_are_one_column(
    values: list[list[object]], expected: list[object], tmp_path: Path
) -> None:
    studies = {f"s{i}": Study(pl.DataFrame({"flag": v})) for i, v in enumerate(values)}
    path = make_store(tmp_path / "s", studies)
    assert dao.scan(path).collect()["flag"].to_list() == expected
    for value in {v for v in expected if v is not None}:
        for engine in ENGINES:
            found = (
                dao.scan(path).filter(C("flag") == value).select(pl.len()).collect(engine=engine)
            )
            assert found.item() == expected.count(value)
    eager = plain_frame(studies)
    if dao.scan(path).collect_schema()["flag"] == pl.Boolean:
        check(path, eager, lambda lf: lf.filter(C("flag")))
        check(path, eager, lambda lf: lf.filter(~C("flag") | (C("dataset") == "s0")))
        check(path, eager, lambda lf: lf.filter(C("flag").is_null()).select("dataset"))
    else:
        check(path, eager, lambda lf: lf.filter(C("flag").is_not_null()))


@pytest.mark.parametrize("constant", [True, False, "True", "false", "maybe"])
def test_a_constant_and_a_column_are_one_column(constant: bool | str, tmp_path: Path) -> None:
    obs = pl.DataFrame({"flag": [True, False, None]})
    text = pl.DataFrame({"flag": ["True", "False"]})
    bare = Study(pl.DataFrame({"n": [1]}), {"flag": constant})
    studies = {"a": Study(obs), "b": bare, "c": Study(text)}
    path = make_store(tmp_path / "s", studies)
    eager = plain_frame(studies)
    check(path, eager, lambda lf: lf)
    dtype = pl.String if constant == "maybe" else pl.Boolean
    assert dao.scan(path).collect_schema()["flag"] == dtype
    value = "True" if constant == "maybe" else True
    for query in (C("flag") == value, C("flag") != value, C("flag").eq_missing(value)):
        check(path, eager, lambda lf, q=query: lf.filter(q))


def test_text_that_contradicts_the_manifest_is_no_truth_value(tmp_path: Path) -> None:
    studies = {"a": Study(pl.DataFrame({"f": [True]})), "b": Study(pl.DataFrame({"f": ["True"]}))}
    path = make_store(tmp_path / "s", studies)
    file = part_path(path, "b") / "obs.parquet"
    pl.read_parquet(file).with_columns(f=pl.lit("maybe")).write_parquet(file)
    take_as_written(path, "b")
    with pytest.raises(dao.DaoCorruptError, match=r"'b'.*column 'f': values that the manifest"):
        dao.scan(path).collect()


def test_a_store_without_datasets(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s", {})
    assert dao.scan(path).collect().shape == (0, 3)
    assert dao.scan(path).filter(C("obs_name") == "a").select(pl.len()).collect().item() == 0


def test_datasets_without_cells_or_columns(tmp_path: Path) -> None:
    studies = {
        "a": Study(pl.DataFrame({"x": pl.Series([], dtype=pl.String)})),
        "b": Study(pl.DataFrame({"y": [1, 2]}).select([])),
        "c": Study(pl.DataFrame({"x": ["p", None]})),
    }
    path = make_store(tmp_path / "s", studies)
    check(path, plain_frame(studies), lambda lf: lf)
    check(path, plain_frame(studies), lambda lf: lf.filter(C("x").is_null()).select("x"))


# --- random queries

VALUES = {
    "cell_type": ["B", "T", "NK", "alpha"],
    "dataset": [f"study-{c}" for c in "zyxwvu"],
    "donor": ["d0_0", "d1_1", "d2_2"],
    "organism": ["human", "mouse"],
    "tissue": ["lung", "liver", "brain"],
    "obs_name": ["c0", "c1", "c22", "c63"],
    "age": ["30", "old", "61"],
    "year": ["2000", "unknown"],
    "n_counts": [0, 1, 99, 7000],
    "pct": [0.0, 0.3, 2.0, float("nan")],
    "score": [1.0, 2.5, 0.5],
    "sorted": [0, 10, 25, 49],
    "day": [dt.date(2020, 1, 1), dt.date(2021, 1, 1)],
    "at": [dt.datetime(2020, 1, 1), dt.datetime(2019, 1, 1)],
    "is_primary": [True, False],
    "is_clean": [True, False],
    "flag": [True, False],
    "verdict": ["True", "False", "false", "unsure"],
}
TEXT = ("cell_type", "dataset", "donor", "organism", "tissue", "obs_name", "age", "year", "verdict")
STEPS = ["filter", "filter", "filters", "head", "slice", "tail", "reverse", "index"]
ENDS = ["none", "select", "select", "len", "group", "sort", "unique"]
NUMBER = ("n_counts", "pct", "score", "sorted")


@st.composite
def conditions(draw: st.DrawFn, depth: int = 3) -> pl.Expr:
    shape = draw(
        st.sampled_from(["leaf", "leaf", "and", "or", "not", "xor"] if depth else ["leaf"])
    )
    if shape == "not":
        return ~draw(conditions(depth - 1))
    if shape != "leaf":
        left, right = draw(conditions(depth - 1)), draw(conditions(depth - 1))
        return {"and": left & right, "or": left | right, "xor": left ^ right}[shape]
    name = draw(st.sampled_from(list(VALUES)))
    values = VALUES[name]
    value = draw(st.sampled_from(values))
    kinds = ["eq", "ne", "lt", "ge", "in", "in_null", "null", "not_null", "missing", "const"]
    kinds += ["starts", "length", "either"] if name in TEXT else []
    kinds += ["between", "sum", "nan", "cast"] if name in NUMBER else []
    kind = draw(st.sampled_from(kinds))
    column = C(name)
    several = draw(st.lists(st.sampled_from(values), max_size=3))
    return {
        "eq": lambda: column == value,
        "ne": lambda: column != value,
        "lt": lambda: column < value,
        "ge": lambda: column >= value,
        "in": lambda: column.is_in(several),
        "in_null": lambda: column.is_in([*several, None], nulls_equal=True),
        "null": lambda: column.is_null(),
        "not_null": lambda: column.is_not_null(),
        "missing": lambda: column.eq_missing(value),
        "const": lambda: pl.lit(draw(st.sampled_from([True, False, None])), dtype=pl.Boolean),
        "starts": lambda: column.cast(pl.String).str.starts_with(value[:1]),
        "length": lambda: column.cast(pl.String).str.len_chars() > 3,
        "either": lambda: column.cast(pl.String) == C(draw(st.sampled_from(TEXT))).cast(pl.String),
        "between": lambda: column.is_between(0, value),
        "sum": lambda: column + C(draw(st.sampled_from(NUMBER))) > value,
        "nan": lambda: column.cast(pl.Float64).is_nan(),
        "cast": lambda: column.fill_null(1).cast(pl.String).str.len_chars() == 1,
    }[kind]()


class Query:
    """Steps of a query, and their text for when one fails."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, Callable[[pl.LazyFrame], pl.LazyFrame]]] = []

    def add(self, text: str, step: Callable[[pl.LazyFrame], pl.LazyFrame]) -> None:
        self.steps.append((text, step))

    def __call__(self, lf: pl.LazyFrame) -> pl.LazyFrame:
        for _, step in self.steps:
            lf = step(lf)
        return lf

    def __repr__(self) -> str:
        return "lf" + "".join(f".{text}" for text, _ in self.steps)


@st.composite
def queries(draw: st.DrawFn) -> Query:
    query = Query()
    for _ in range(draw(st.integers(1, 4))):
        step = draw(st.sampled_from(STEPS))
        if step == "filter":
            condition = draw(conditions())
            query.add(f"filter({condition})", lambda lf, c=condition: lf.filter(c))
        elif step == "filters":
            several = draw(st.lists(conditions(1), min_size=2, max_size=4))
            text = ", ".join(map(str, several))
            query.add(f"filter({text})", lambda lf, cs=several: lf.filter(*cs))
        elif step in ("head", "tail"):
            n = draw(st.integers(0, 180))
            query.add(f"{step}({n})", lambda lf, n=n, step=step: getattr(lf, step)(n))
        elif step == "slice":
            start, n = draw(st.integers(0, 100)), draw(st.integers(0, 100))
            query.add(f"slice({start}, {n})", lambda lf, at=start, n=n: lf.slice(at, n))
        elif step == "reverse":
            query.add("reverse()", lambda lf: lf.reverse())
        else:
            query.add(
                "with_row_index('i').filter(pl.col('i') % 3 != 0).drop('i')",
                lambda lf: lf.with_row_index("i").filter(C("i") % 3 != 0).drop("i"),
            )
    end = draw(st.sampled_from(ENDS))
    names = draw(
        st.lists(st.sampled_from(["cell", *VALUES, "empty"]), min_size=1, max_size=4, unique=True)
    )
    keys = [name for name in names if name not in ("cell", "empty")] or ["dataset"]
    ends: dict[str, Callable[[pl.LazyFrame], pl.LazyFrame]] = {
        "none": lambda lf: lf,
        "select": lambda lf: lf.select(names),
        "len": lambda lf: lf.select(pl.len()),
        "group": lambda lf: lf.group_by(keys, maintain_order=True).agg(
            pl.len(), C("n_counts").sum().alias("s")
        ),
        "sort": lambda lf: lf.sort(keys, maintain_order=True, descending=True, nulls_last=True),
        "unique": lambda lf: lf.unique(keys, keep="first", maintain_order=True),
    }
    query.add(f"{end}({names if end == 'select' else keys})", ends[end])
    return query


@settings(
    max_examples=int(os.environ.get("DAO_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(query=queries())
def test_random_queries(query: Query, store: Path, eager: pl.DataFrame) -> None:
    try:
        check(store, eager, query)
    except pl.exceptions.PolarsError as error:  # then both must fail
        with pytest.raises(type(error)):
            query(eager.lazy()).collect(engine="in-memory")


@settings(
    max_examples=int(os.environ.get("DAO_EXAMPLES", "150")) // 5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32 - 1), query=queries())
def test_random_stores(seed: int, query: Query, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    fixed = random_obs(rng, 9, 5)  # every column that queries name is somewhere
    studies = {"study-z": Study(fixed, {"organism": "human", "year": "2000", "is_clean": False})}
    for letter in "yxwvu"[: rng.integers(0, 6)]:
        obs = random_obs(rng, int(rng.integers(0, 30)), int(rng.integers(0, 30)))
        obs = obs.select(c for c in obs.columns if rng.random() < 0.8)
        constants = {"organism": "mouse", "tissue": "lung", "age": 5, "score": 2.5, "at": "noon"}
        constants = {k: v for k, v in constants.items() if rng.random() < 0.4}
        constants.pop("at", None)
        free = {k: v for k, v in constants.items() if k not in obs.columns}
        studies[f"study-{letter}"] = Study(obs, free, row_group_size=int(rng.integers(1, 40)))
    path = make_store(tmp_path_factory.mktemp("random") / "store", studies)
    eager = plain_frame(studies)
    try:
        check(path, eager, query)
    except pl.exceptions.PolarsError as error:
        with pytest.raises(type(error)):
            query(eager.lazy()).collect(engine="in-memory")


# --- what polars may ask of a source


def test_rows_are_limited_before_they_are_filtered(store: Path, eager: pl.DataFrame) -> None:
    for n in (0, 1, 39, 40, 41, 100, 158, 1000):
        check(store, eager, lambda lf, n=n: lf.head(n).filter(C("cell_type") == "T"))
        check(store, eager, lambda lf, n=n: lf.filter(C("cell_type") == "T").head(n))
        check(store, eager, lambda lf, n=n: lf.head(n).filter(C("organism") == "mouse").tail(3))


def test_rows_without_columns(store: Path, eager: pl.DataFrame) -> None:
    check(store, eager, lambda lf: lf.select(pl.len()))
    check(store, eager, lambda lf: lf.with_row_index("i").select("i"))
    check(store, eager, lambda lf: lf.with_row_index("i").filter(C("i") > 100).select(pl.len()))
    check(store, eager, lambda lf: lf.filter(C("donor").is_null()).select(pl.len()))


def test_columns_that_are_null_throughout_keep_their_types(tmp_path: Path) -> None:
    full = pl.DataFrame({"x": [1.5], "at": [dt.datetime(2020, 1, 1)], "s": ["a"], "b": [True]})
    studies = {"a": Study(full), "b": Study(pl.DataFrame({"n": [1, 2]}))}
    path = make_store(tmp_path / "s", studies)
    check(path, plain_frame(studies), lambda lf: lf)
    check(path, plain_frame(studies), lambda lf: lf.select("x", "at", "s", "b"))


def test_conditions_that_polars_cannot_push(store: Path, eager: pl.DataFrame) -> None:
    for condition in (
        C("n_counts") > C("n_counts").mean(),
        C("donor").is_first_distinct(),
        pl.len().over("dataset") > 30,
        C("sorted").cum_sum() > 100,
        pl.int_range(pl.len()) % 7 == 0,
    ):
        check(store, eager, lambda lf, c=condition: lf.filter(c, C("cell_type") == "T"))


def test_conditions_in_python(store: Path, eager: pl.DataFrame) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    assert cloudpickle
    text = C("cell_type").map_elements(lambda v: hash(v) % 2 == 0, return_dtype=pl.Boolean)
    check(store, eager, lambda lf: lf.filter(text))
    number = C("sorted").map_batches(lambda s: s % 2 == 0, return_dtype=pl.Boolean)
    check(store, eager, lambda lf: lf.filter(number))


def test_a_condition_that_fails_is_polars_error(store: Path) -> None:
    for condition in (
        C("dataset").cast(pl.String).cast(pl.Int64) > 1,
        C("cell_type").cast(pl.String).cast(pl.Int64) > 1,
        C("obs_name").cast(pl.Int64) > 1,
    ):
        for engine in ENGINES:
            with pytest.raises(pl.exceptions.InvalidOperationError, match="conversion"):
                dao.scan(store).filter(condition).collect(engine=engine)
    with pytest.raises(pl.exceptions.ColumnNotFoundError, match="cell_tpye"):
        dao.scan(store).filter(C("cell_tpye") == "T").collect()


def test_joins_concats_and_concurrent_queries(store: Path, eager: pl.DataFrame) -> None:
    check(
        store,
        eager,
        lambda lf: lf.join(lf.group_by("donor").agg(pl.len()), on="donor", how="left").select(
            "obs_name", "donor", "len"
        ),
        ordered=False,
    )
    check(store, eager, lambda lf: pl.concat([lf, lf.filter(C("cell_type") == "B")]))
    lf = dao.scan(store)
    frames = pl.collect_all([lf.filter(C("dataset") == name) for name in VALUES["dataset"]])
    assert [frame.height for frame in frames] == [40, 0, 23, 1, 64, 30]
    batches = list(lf.collect_batches(chunk_size=10))
    assert_frame_equal(plain_cells(pl.concat(batches)), eager)


def test_a_lazy_frame_survives_pickle(store: Path, eager: pl.DataFrame) -> None:
    pytest.importorskip("cloudpickle")
    lf = pickle.loads(pickle.dumps(dao.scan(store).filter(C("cell_type") == "T")))
    assert_frame_equal(plain_cells(lf.collect()), eager.filter(C("cell_type") == "T"))


def test_explain_names_the_store(store: Path) -> None:
    plan = dao.scan(store).filter(C("cell_type") == "T").explain()
    assert "PYTHON[dao] SCAN" in plan
    assert f"{store.resolve()}: version 1, 6 datasets, 158 cells" in plan


# --- what is read, and what not


def remove_obs(store: Path, *names: str) -> None:
    for name in names:
        (part_path(store, name) / "obs.parquet").unlink()


@pytest.fixture
def own_store(studies: dict[str, Study], tmp_path: Path) -> Path:
    return make_store(tmp_path / "own", studies)


def test_building_and_counting_open_no_table(own_store: Path, eager: pl.DataFrame) -> None:
    remove_obs(own_store, *VALUES["dataset"])
    check(own_store, eager, lambda lf: lf.select("cell", "dataset", "organism"))
    check(own_store, eager, lambda lf: lf.filter(C("organism") == "mouse").select("cell"))
    check(own_store, eager, lambda lf: lf.group_by("dataset").len().sort("dataset"))


@pytest.mark.parametrize(
    "condition",
    [
        C("dataset") == "study-x",
        C("dataset").is_in(["study-x"]) & (C("sorted") >= 0),
        C("dataset").cat.ends_with("-x"),
        C("year") == "2002",
        (C("organism") == "human") & (C("dataset") < "study-y") & (C("year") < "2003"),
        pl.col("dataset").is_not_null() & ~C("dataset").is_in([f"study-{c}" for c in "zywvu"]),
    ],
)
def test_conditions_on_datasets_drop_their_files(
    own_store: Path, eager: pl.DataFrame, condition: pl.Expr
) -> None:
    condition = condition & (C("n_counts") > 0)
    expected = eager.filter(C("dataset") == "study-x", C("n_counts") > 0)
    remove_obs(own_store, "study-z", "study-y", "study-v", "study-u")
    if "year" in condition.meta.root_names():
        remove_obs(own_store, "study-w")
    for engine in ENGINES:
        found = dao.scan(own_store).filter(condition).collect(engine=engine)
        assert_frame_equal(plain_cells(found), expected)


def test_a_column_that_a_dataset_lacks_drops_its_file(own_store: Path, eager: pl.DataFrame) -> None:
    remove_obs(own_store, "study-v")  # its tissue is a constant
    check(own_store, eager, lambda lf: lf.filter(C("tissue") == "liver").select("obs_name"))
    remove_obs(own_store, "study-y", "study-x", "study-w")  # like study-v, they have no donor
    check(own_store, eager, lambda lf: lf.filter(C("donor") == "d0_1").select("donor"))


def test_a_category_that_cannot_be_reads_nothing(own_store: Path) -> None:
    remove_obs(own_store, *VALUES["dataset"])
    text = C("cell_type").cast(pl.String)
    assert dao.scan(own_store).filter(text == "no such type").collect().height == 0


def test_rows_past_the_limit_are_not_read(own_store: Path, eager: pl.DataFrame) -> None:
    first = eager["dataset"][0]
    remove_obs(own_store, *(set(VALUES["dataset"]) - {first}))
    check(own_store, eager, lambda lf: lf.head(5))
    check(own_store, eager, lambda lf: lf.head(5).filter(C("cell_type") == "T"))


def test_row_groups_that_cannot_match_are_skipped(tmp_path: Path) -> None:
    n = 60_000
    kinds = [f"k{i // 10_000}" for i in range(n)]
    obs = pl.DataFrame({"kind": kinds, "x": range(n), "noise": np.random.default_rng(0).random(n)})
    path = make_store(tmp_path / "s", {"a": Study(obs, row_group_size=10_000)})
    file = part_path(path, "a") / "obs.parquet"
    data = bytearray(file.read_bytes())
    third = slice(len(data) // 6, len(data) // 3)  # inside the first two row groups
    data[third] = bytes(third.stop - third.start)
    file.write_bytes(data)
    take_as_written(path, "a")
    lf = dao.scan(path)
    for condition in (
        C("kind") == "k4",
        C("kind").is_in(["k4", "k5"]),
        C("x") >= 45_000,
        (C("kind") > "k3") & (C("noise") > 0.5),
        (C("kind") == "k4") | (C("x") > 59_000),
    ):
        got = lf.filter(condition).select("kind", "x", "noise").collect()
        assert_frame_equal(got.with_columns(C("kind").cast(pl.String)), obs.filter(condition))
    with pytest.raises(dao.DaoCorruptError, match="'a'"):
        lf.collect()


def test_the_first_rows_come_early(tmp_path: Path) -> None:
    obs = pl.DataFrame({"x": range(200_000)})
    path = make_store(tmp_path / "s", {"a": Study(obs, row_group_size=5_000)})
    heights = [b.height for b in dao.scan(path).filter(C("x") % 2 == 0).collect_batches()]
    assert sum(heights) == 100_000
    batches = dao.scan(path).collect_batches()
    assert next(batches)["x"][0] == 0
    del batches  # stops the reading


def test_parts_have_no_more_rows_than_polars_can_number() -> None:
    columns = {"obs_name": FileColumn("obs_name", pl.String())}
    half = 2**31 - 1
    sizes = [half, half, half, 5, 0, 2**32 - 1, 1]
    datasets = [ScannedPart(i, f"d{i}", f"d{i}", n, columns) for i, n in enumerate(sizes)]
    schema = frame_schema(datasets, {}, Cell("/s", "id"))
    plan = make_plan(datasets, schema, None, C("obs_name") == "a", None)
    assert [[d.number for d in group.parts] for group in plan.groups] == [
        [0, 1],
        [2, 3],
        [5],
        [6],
    ]
    assert not any(group.cut_short for group in plan.groups)
    plan = make_plan(datasets, schema, None, None, half + 7)
    assert [(group.n_rows, group.cut_short) for group in plan.groups] == [(half + 7, True)]


# --- errors


def damaged(store: Path) -> list[tuple[type[Exception], str, Callable[[Path], object]]]:
    def rewrite(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Path], object]:
        def damage(file: Path) -> None:
            change(pl.read_parquet(file)).write_parquet(file)
            take_as_written(store, "study-x")  # the manifest contradicts itself

        return damage

    def cut(file: Path) -> None:
        file.write_bytes(file.read_bytes()[:-200])

    return [
        (dao.DaoFileNotFoundError, "missing", Path.unlink),
        (dao.DaoCorruptError, "not the parquet file that was written.*expected.*found", cut),
        (dao.DaoCorruptError, "not the parquet.*found 0 bytes", lambda f: f.write_bytes(b"")),
        (dao.DaoCorruptError, "expected 23 rows.*found 22", rewrite(lambda d: d[1:])),
        (dao.DaoCorruptError, "expected 23 rows.*found 46", rewrite(lambda d: pl.concat([d, d]))),
        (dao.DaoCorruptError, "'is_primary'.*no such", rewrite(lambda d: d.drop("is_primary"))),
        (
            dao.DaoCorruptError,
            "'is_primary'.*expected Boolean, found String",
            rewrite(lambda d: d.with_columns(C("is_primary").cast(pl.String))),
        ),
        (
            dao.DaoCorruptError,
            "'cell_type'.*new kind",
            rewrite(lambda d: d.with_columns(cell_type=pl.lit("new kind"))),
        ),
    ]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", range(8))
def test_damaged_tables(own_store: Path, case: int, engine: str) -> None:
    error, words, damage = damaged(own_store)[case]
    damage(part_path(own_store, "study-x") / "obs.parquet")
    path = "parts/study-x/obs.parquet"
    for query in (
        lambda lf: lf,
        lambda lf: lf.select("cell_type", "is_primary"),
        lambda lf: lf.group_by("is_primary", "cell_type").len(),
        lambda lf: lf.filter(C("sorted") >= 0).select("cell", "is_primary", "cell_type"),
    ):
        with pytest.raises(error, match=words) as raised:
            query(dao.scan(own_store)).collect(engine=engine)
        assert isinstance(raised.value, dao.DaoError)
        assert "dataset 'study-x'" in str(raised.value)
        assert path in str(raised.value)
    others = dao.scan(own_store).filter(C("dataset") != "study-x")
    assert others.collect(engine=engine).height == 158 - 23


def test_a_file_that_changes_later_is_noticed(own_store: Path) -> None:
    lf = dao.scan(own_store)
    lf.collect()
    file = part_path(own_store, "study-x") / "obs.parquet"
    pl.read_parquet(file)[:-1].write_parquet(file)
    with pytest.raises(dao.DaoCorruptError, match=r"'study-x'.*not the parquet file that was"):
        lf.select("cell", "sorted").collect()


def test_no_store_at_the_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        dao.scan(tmp_path / "nothing")
    with pytest.raises(dao.DaoFileNotFoundError):
        dao.scan(tmp_path)


def test_a_manifest_of_a_newer_version(own_store: Path) -> None:
    write_version(own_store, {**read_version(own_store), "version": 3})
    with pytest.raises(dao.DaoValueError, match="version"):
        dao.scan(own_store)


def test_a_manifest_that_is_cut_short(own_store: Path) -> None:
    manifest = last_version(own_store)
    manifest.write_text(manifest.read_text()[:200])
    with pytest.raises(dao.DaoCorruptError, match=r"versions/0000000001\.json"):
        dao.scan(own_store)


def test_columns_named_as_the_scan_names_its_own_are_kept(tmp_path: Path) -> None:
    names = ["\0row", "\0row_", "row", "?", "index", "\0position", "\0code"]
    obs = pl.DataFrame({name: [i, i + 10, i + 20] for i, name in enumerate(names)})
    one = {"one": Study(obs, {"\0row__": 5}), "two": Study(obs.select("row"), {"\0row": 7})}
    lf = dao.scan(make_store(tmp_path / "store", one))
    assert_frame_equal(plain_cells(lf.collect()), plain_frame(one), check_column_order=False)
    some = lf.filter((pl.col("\0row") > 5) & (pl.col("cell").ext.storage() % 2 == 0))
    assert some.select("\0row", "\0row__").collect().rows() == [(20, 5), (7, None), (7, None)]
