"""obs and var survive the way to polars and parquet and back, whatever pandas puts in them."""

from __future__ import annotations

import datetime
import io
import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dao_polars._core import ColumnMeta, TableMeta
from dao_polars.convert.to_pandas import to_pandas
from dao_polars.errors import DaoTypeError, DaoValueError
from dao_polars.scan.dtypes import dtype_from_name, dtype_name
from dao_polars.tables.from_pandas import from_pandas

RESERVED = {"cell", "dataset", "obs_name"}


def stored(df, where="obs of dataset 'd'"):
    """The table as it comes back from a store: through parquet and JSON."""
    table = from_pandas(df, index_name="obs_name", reserved=RESERVED, where=where)
    buffer = io.BytesIO()
    table.frame.write_parquet(buffer)
    return pl.read_parquet(buffer.getvalue()), through_json(table.meta)


def through_json(meta):
    """A table's description as the store's JSON gives it back."""
    again = lambda value: json.loads(json.dumps(value))  # noqa: E731
    columns = [ColumnMeta(c.name, c.source, c.dtype, again(c.pandas)) for c in meta.columns]
    return TableMeta(meta.index_name, again(meta.index), columns)


def as_scanned(frame, *more):
    """String columns as Enum over more values than occur, as a scan gives them."""
    frames = [frame, *more]
    enums = {
        name: pl.Enum(
            sorted({*frame[name].drop_nulls(), *(v for f in more for v in f[name])} | {"0"})
        )
        for name, dtype in frame.schema.items()
        if dtype == pl.String and name != "obs_name"
    }
    return pl.concat([f.cast(enums) for f in frames])


def check_round_trip(df, **kwargs):
    frame, notes = stored(df)
    pd.testing.assert_frame_equal(to_pandas(frame, [notes], complete=True), df, **kwargs)
    pd.testing.assert_frame_equal(
        to_pandas(as_scanned(frame), [notes], complete=True), df, **kwargs
    )
    if len(df) > 1:  # a subset is what AnnData's view would be
        rows = [len(df) - 1, 0]
        subset = df.iloc[rows].copy()
        for name in subset:
            if isinstance(subset[name].dtype, pd.CategoricalDtype):
                subset[name] = subset[name].cat.remove_unused_categories()
        back = to_pandas(as_scanned(frame)[rows], [notes], complete=False)
        pd.testing.assert_frame_equal(back, subset, **kwargs)


DATES = pd.DatetimeIndex(["2020-01-01", None, "2021-07-01T12:30:00.000000001", "1969-01-01"])
LABELS = ["b", "a", None, "é"]
KINDS = {
    "category": pd.Categorical(LABELS, categories=["é", "b", "a", "unused"]),
    "ordered": pd.Categorical(LABELS, categories=["é", "b", "a"], ordered=True),
    "sorted categories": pd.Categorical(LABELS),
    "integer categories": pd.Categorical([3, 1, None, 2], categories=[3, 2, 1, 9]),
    "float categories": pd.Categorical([0.1, np.inf, None, -0.3]),
    "bool categories": pd.Categorical([True, False, None, True]),
    "date categories": pd.Categorical(DATES),
    "zoned categories": pd.Categorical(DATES.tz_localize("Europe/Berlin")),
    "string-dtype categories": pd.Categorical(pd.array(LABELS, dtype="string")),
    "no categories": pd.Categorical([None] * 4),
    "unused categories": pd.Categorical([None] * 4, categories=["a"]),
    "object": np.array(LABELS, dtype=object),
    "object nan": np.array(["b", np.nan, "", "x"], dtype=object),
    "object NA": np.array(["b", pd.NA, "", "x"], dtype=object),
    "string": pd.array(LABELS, dtype="string[python]"),
    "string nan": pd.array(LABELS, dtype=pd.StringDtype("python", na_value=np.nan)),
    "boolean": pd.array([True, None, False, True], dtype="boolean"),
    "Int64": pd.array([2**63 - 1, None, -(2**63), 0], dtype="Int64"),
    "UInt8": pd.array([255, None, 0, 1], dtype="UInt8"),
    "Float32": pd.array([1.5, None, 0.1, -0.0], dtype="Float32"),
    "Float64": pd.array([1.5, None, 0.1, -0.0], dtype="Float64"),
    "nan": np.array([np.nan, np.inf, -0.0, 1e300]),
    "all nan": np.full(4, np.nan),
    "all None": np.array([None] * 4, dtype=object),
    "all object nan": np.array([np.nan] * 4, dtype=object),
    "dates": DATES,
    "dates s": DATES.as_unit("s"),
    "dates us": DATES.as_unit("us"),
    "zoned": DATES.tz_localize("Europe/Berlin"),
    "utc": DATES.tz_localize("UTC"),
    "fixed offset": DATES.tz_localize("+01:30"),
    "zoned s": DATES.as_unit("s").tz_localize("Asia/Tokyo"),
    "durations": pd.to_timedelta([1, None, -5, 0], unit="h"),
    "durations s": pd.to_timedelta([1, None, -5, 0], unit="h").as_unit("s"),
    "object bools": np.array([True, None, False, True], dtype=object),
    "object integers": np.array([1, None, 3, 4], dtype=object),
    "object floats": np.array([1.5, None, 3.0, 4.25], dtype=object),
    "object dates": np.array([datetime.date(2020, 1, 1), None] * 2, dtype=object),
} | {
    dtype: np.arange(4).astype(dtype)
    for dtype in [
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
    ]
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [4, 1, 0])
def test_each_pandas_kind(kind, rows):
    df = pd.DataFrame({"x": KINDS[kind]}, index=list("abca"))
    check_round_trip(df.iloc[:rows])


@pytest.mark.parametrize("kind", ["string[pyarrow]", "int32[pyarrow]", "timestamp[us][pyarrow]"])
def test_pyarrow_kinds(kind):
    pytest.importorskip("pyarrow")
    values = ["a", None] if kind.startswith("string") else [1, None]
    check_round_trip(pd.DataFrame({"x": pd.array(values, dtype=kind)}, index=["a", "b"]))


def test_all_kinds_at_once():
    check_round_trip(pd.DataFrame(KINDS, index=pd.Index(list("abca"), name="barcode")))


def test_no_columns():
    check_round_trip(pd.DataFrame(index=["a", "b"], columns=pd.Index([], dtype=object)))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
columns = {
    "text": st.none() | texts,
    "float": st.floats(width=32),
    "int": st.integers(-(2**63), 2**63 - 1),
    "maybe": st.none() | st.integers(0, 2**64 - 1),
    "flag": st.booleans(),
    "when": st.none() | st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)),
}


@settings(max_examples=150)
@given(st.lists(st.fixed_dictionaries(columns), max_size=12), st.booleans(), st.randoms())
def test_random_frames(rows, ordered, random):
    data = {name: [row[name] for row in rows] for name in columns}
    labels = list(dict.fromkeys(v for v in data["text"] if v is not None))
    random.shuffle(labels)
    df = pd.DataFrame(
        {
            "text": np.array(data["text"] + [None], dtype=object)[:-1],
            "string": pd.array(data["text"], dtype="string"),
            "category": pd.Categorical(data["text"], categories=labels, ordered=ordered),
            "float": np.array(data["float"], dtype="float32"),
            "int": np.array(data["int"], dtype="int64"),
            "maybe": pd.array(data["maybe"], dtype="UInt64"),
            "flag": np.array(data["flag"], dtype=bool),
            "when": np.array(data["when"], dtype="M8[us]"),
        },
        index=pd.Index([str(i % 3) for i in range(len(rows))], dtype=object),
    )
    check_round_trip(df)


# --- index and names


def test_index_is_stored_as_text():
    df = pd.DataFrame({"x": [1, 2, 3]}, index=pd.Index([7, 7, 8], name="number"))
    frame, notes = stored(df)
    assert frame["obs_name"].to_list() == ["7", "7", "8"]
    back = to_pandas(frame, [notes], complete=True)
    assert list(back.index) == ["7", "7", "8"]
    assert back.index.name == "number"


def test_reserved_names_and_integer_names():
    names = ["cell", "obs_cell", "dataset", "obs_name", 3]
    df = pd.DataFrame([[1, 2, 3, 4, 5]], columns=pd.Index(names, dtype=object), index=["a"])
    frame, notes = stored(df)
    assert frame.columns == [
        "obs_name",
        "obs_obs_cell",
        "obs_cell",
        "obs_dataset",
        "obs_obs_name",
        "3",
    ]
    back = to_pandas(frame, [notes], complete=True)
    assert list(back.columns) == ["cell", "obs_cell", "dataset", "obs_name", "3"]
    with_dataset = frame.with_columns(dataset=pl.lit("d"))
    assert "obs_dataset" in to_pandas(with_dataset, [notes], complete=True).columns


@pytest.mark.parametrize(
    ("df", "error", "message"),
    [
        (pd.DataFrame({"x": ["a", 1]}), DaoTypeError, r"'x'.* str \('a'\) and int \(1\); convert"),
        (pd.DataFrame({"x": [["a"], ["b"]]}), DaoTypeError, r"'x'.*list.*convert"),
        (pd.DataFrame({"x": [b"a"]}), DaoTypeError, r"'x'.*bytes"),
        (pd.DataFrame({"x": pd.cut([1, 2, 3], 2)}), DaoTypeError, r"'x'.*interval.*astype\(str\)"),
        (pd.DataFrame({"x": pd.period_range("2020", periods=2)}), DaoTypeError, r"'x'.*to_timest"),
        (pd.DataFrame({"x": [1 + 2j]}), DaoTypeError, r"'x'.*complex128"),
        (pd.DataFrame({"x": pd.arrays.SparseArray([0, 1])}), DaoTypeError, r"'x'.*to_dense"),
        (pd.DataFrame({"x": np.ones(2, np.longdouble)}), DaoTypeError, r"'x'.*float64"),
        (pd.DataFrame({"x": np.array([2**70], dtype=object)}), DaoValueError, r"'x'.*Int64"),
        (pd.DataFrame({"x": ["\udcff"]}, dtype=object), DaoValueError, r"'x'.*not valid unicode"),
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), DaoValueError, r"'x' occurs more than once"),
        (pd.DataFrame([[1, 2]], columns=["1", 1]), DaoValueError, r"'1' occurs more than once"),
        (pd.DataFrame([[1]], columns=[1.5]), DaoTypeError, r"1\.5 is a float"),
        (
            pd.DataFrame({"x": [1]}, index=[("a", "b")]).pipe(
                lambda d: d.set_index(pd.MultiIndex.from_tuples(d.index))
            ),
            DaoTypeError,
            "2 levels",
        ),
    ],
)
def test_what_cannot_be_stored_is_named(df, error, message):
    with pytest.raises(error, match=f"obs of dataset 'd'.*{message}"):
        stored(df)


# --- several datasets


def several(*dfs):
    frames, notes = zip(*(stored(df) for df in dfs), strict=True)
    return pl.concat(frames, how="diagonal_relaxed"), list(notes)


def test_identical_categories_are_kept():
    kind = pd.CategoricalDtype(["hi", "lo", "none"], ordered=True)
    a = pd.DataFrame({"x": pd.Categorical(["lo", "hi"], dtype=kind)}, index=["1", "2"])
    frame, notes = several(a, a.iloc[::-1])
    assert to_pandas(frame, notes, complete=True)["x"].dtype == kind
    used = pd.CategoricalDtype(["hi", "lo"], ordered=True)
    assert to_pandas(frame, notes, complete=False)["x"].dtype == used


def test_different_categories_become_their_sorted_union():
    a = pd.DataFrame({"x": pd.Categorical(["b"], categories=["b", "z"], ordered=True)}, index=["1"])
    b = pd.DataFrame({"x": pd.Categorical(["a"], categories=["c", "a"], ordered=True)}, index=["2"])
    frame, notes = several(a, b)
    whole = to_pandas(frame, notes, complete=True)["x"]
    assert whole.dtype == pd.CategoricalDtype(["a", "b", "c", "z"])
    assert list(whole) == ["b", "a"]
    assert to_pandas(frame, notes, complete=False)["x"].dtype == pd.CategoricalDtype(["a", "b"])


def test_text_in_one_dataset_makes_text_of_both():
    a = pd.DataFrame({"x": pd.Categorical(["b"])}, index=["1"])
    frame, notes = several(a, a.astype(object))
    assert to_pandas(frame, notes, complete=True)["x"].dtype == object


def test_a_dataset_without_the_column_gives_nulls():
    a = pd.DataFrame(
        {
            "n": np.array([1], dtype="int16"),
            "flag": [True],
            "f": np.array([0.5], dtype="float32"),
            "t": ["x"],
            "c": pd.Categorical(["x"]),
            "when": pd.to_datetime(["2020-01-01"]),
            "empty": np.array([None], dtype=object),
        },
        index=["1"],
    )
    frame, notes = several(a, a[[]])
    back = to_pandas(frame, notes, complete=True)
    kinds = {"n": "Int16", "flag": "boolean", "f": "float32", "t": "object", "c": "category"}
    assert {name: str(back[name].dtype) for name in kinds} == kinds
    assert back["when"].dtype == "datetime64[ns]"
    assert back.iloc[1].isna().all()
    assert not back.iloc[0, :-1].isna().any()


def test_an_all_null_column_elsewhere_changes_nothing():
    a = pd.DataFrame({"x": pd.Categorical(["b"]), "y": [1.5]}, index=["1"])
    b = pd.DataFrame({"x": [None], "y": np.array([None], dtype=object)}, index=["2"])
    frame, notes = several(a, b)
    back = to_pandas(frame, notes, complete=True)
    assert back["x"].dtype == pd.CategoricalDtype(["b"])
    assert back["y"].dtype == float


def test_supertypes_of_the_scan_are_undone_for_one_dataset():
    a = pd.DataFrame({"x": np.array([1, 2], dtype="int8"), "y": [True, False]}, index=["1", "2"])
    frame, notes = stored(a)
    wide = frame.with_columns(pl.col("x").cast(pl.Float64), pl.col("y").cast(pl.Int64))
    pd.testing.assert_frame_equal(to_pandas(wide, [notes], complete=True), a)
    changed = wide.with_columns(pl.col("x") / 4)
    assert list(to_pandas(changed, [notes], complete=True)["x"]) == [0.25, 0.5]


# --- columns that a user made


def test_columns_without_notes():
    frame = pl.DataFrame(
        {
            "obs_name": ["1", "2"],
            "enum": pl.Series(["b", None], dtype=pl.Enum(["c", "b", "a"])),
            "cat": pl.Series(["b", "a"], dtype=pl.Categorical),
            "text": ["x", None],
            "n": pl.Series([1, 2], dtype=pl.UInt32),
            "n_null": [1, None],
            "flag_null": [True, None],
            "f_null": [0.5, None],
            "day": [datetime.date(2020, 1, 1), None],
            "when": pl.Series([0, None], dtype=pl.Datetime("us", "Asia/Tokyo")),
            "time": [datetime.time(1), None],
            "list": [[1], None],
            "null": [None, None],
        }
    )
    back = to_pandas(frame, [], complete=False)
    expected = {
        "enum": "category",
        "cat": "category",
        "text": "object",
        "n": "uint32",
        "n_null": "Int64",
        "flag_null": "boolean",
        "f_null": "float64",
        "day": "datetime64[ms]",
        "when": "datetime64[us, Asia/Tokyo]",
        "time": "object",
        "list": "object",
        "null": "object",
    }
    assert {name: str(dtype) for name, dtype in back.dtypes.items()} == expected
    assert list(back["enum"].cat.categories) == ["b"]
    assert list(back["cat"].cat.categories) == ["a", "b"]
    assert list(back.index) == ["1", "2"]
    assert back["list"].tolist() == [[1], None]


def test_a_changed_column_keeps_its_values():
    df = pd.DataFrame({"x": pd.Categorical(["a", "b"]), "n": [1, 2]}, index=["1", "2"])
    frame, notes = stored(df)
    changed = frame.with_columns(x=pl.col("x").replace("a", "new"), n=pl.col("n").cast(pl.String))
    back = to_pandas(changed, [notes], complete=True)
    assert list(back["x"]) == ["new", "b"]
    assert list(back["x"].cat.categories) == ["b", "new"]


def test_without_an_index_column():
    back = to_pandas(pl.DataFrame({"x": [1, 2]}), [], complete=False)
    assert list(back.index) == ["0", "1"]


# --- dtype names


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (pl.String(), "String"),
        (pl.Boolean(), "Boolean"),
        (pl.UInt16(), "UInt16"),
        (pl.Null(), "Null"),
        (pl.Datetime("ns"), "Datetime(ns)"),
        (pl.Datetime("us", "UTC"), "Datetime(us,UTC)"),
        (
            pl.Datetime("ms", "America/Argentina/Buenos_Aires"),
            "Datetime(ms,America/Argentina/Buenos_Aires)",
        ),
        (pl.Duration("ns"), "Duration(ns)"),
    ],
)
def test_dtype_names(dtype, name):
    assert dtype_name(dtype) == name
    assert dtype_from_name(name) == dtype


def test_unknown_dtype_names():
    for name in ("Int7", "Datetime(h)", "Duration(ns,UTC)", "", "List(Int8)"):
        with pytest.raises(DaoValueError):
            dtype_from_name(name)
    with pytest.raises(DaoValueError, match="cast it"):
        dtype_name(pl.List(pl.Int8))
