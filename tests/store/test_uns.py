"""uns goes to JSON and back with equal values of the same types."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dao_polars.errors import DaoCorruptError, DaoTypeError, DaoValueError
from dao_polars.scan.constants import constants
from dao_polars.store.uns import TAG, decode, encode


def round_trip(value):
    return decode(encode({"value": value}, "dataset 'd'"))["value"]


def assert_same(a, b):
    """Equal and of the same type, all the way down; NaN equals NaN."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, float | np.floating):
        np.testing.assert_equal(b, a)
    else:
        assert a == b


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
)
keys = st.text(st.characters(exclude_categories=["Cs"])) | st.just(TAG)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(st.integers() | st.booleans() | st.tuples(keys), inner, max_size=3)
    ),
    max_leaves=20,
)
dtypes = (
    npst.boolean_dtypes()
    | npst.integer_dtypes(endianness="=")
    | npst.floating_dtypes(endianness="=", sizes=(16, 32, 64))
    | npst.complex_number_dtypes(endianness="=", sizes=(64, 128))
    | npst.datetime64_dtypes(endianness="=")
    | npst.timedelta64_dtypes(endianness="=")
    | npst.byte_string_dtypes(endianness="=")
)


@given(plain)
def test_plain_data(value):
    assert_same(round_trip(value), value)


@settings(max_examples=200)
@given(npst.arrays(dtypes, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
def test_numpy_arrays(value):
    assert_same(round_trip(value), value)


@pytest.mark.parametrize(
    "value",
    [
        np.float32(1.1),
        np.float64("nan"),
        np.int8(-3),
        np.uint64(2**64 - 1),
        np.bool_(True),
        np.datetime64("2024-02-29T12:00", "ms"),
        np.complex64(1 + 2j),
    ],
)
def test_numpy_scalars(value):
    assert_same(round_trip(value), value)


def test_text_arrays():
    assert_same(
        round_trip(np.array([["a", "é"], ["", "xyz"]])), np.array([["a", "é"], ["", "xyz"]])
    )
    objects = np.array(["a", None, 3, [1, 2]], dtype=object)
    assert_same(round_trip(objects), objects)
    assert round_trip(np.str_("a")) == "a"


def test_other_byte_orders_come_back_native():
    assert_same(round_trip(np.array([1, 2], dtype=">i4")), np.array([1, 2], dtype="i4"))


def test_record_arrays_as_rank_genes_groups_writes_them():
    names = np.rec.fromarrays(
        [np.array(["CD3E", "MS4A1"], dtype=object), np.array(["LYZ", "NKG7"], dtype=object)],
        names=["T cell", "B cell"],
    )
    scores = np.array([(1.5, 2), (2.5, 3)], dtype=[("T cell", "f4"), ("B cell", "i8")])
    for value in (names, scores):
        back = round_trip(value)
        assert type(back) is type(value)
        assert back.dtype == value.dtype
        assert back.tolist() == value.tolist()
    nested = np.zeros(3, dtype=[("a", [("b", "i2"), ("c", "f4", (2,))])])
    assert round_trip(nested).dtype == nested.dtype


@pytest.mark.parametrize("format", ["csr", "csc", "coo", "dia", "lil", "dok", "bsr"])
@pytest.mark.parametrize("flavour", ["matrix", "array"])
def test_sparse(format, flavour):
    dense = np.array([[0, 1.5, 0], [2, 0, 0]])
    value = getattr(scipy.sparse, f"{format}_{flavour}")(dense)
    back = round_trip(value)
    assert type(back) is type(value)
    assert back.dtype == value.dtype
    np.testing.assert_array_equal(back.toarray(), dense)


def test_frames():
    frame = pd.DataFrame(
        {
            "cat": pd.Categorical(["b", "a", None], categories=["b", "a", "c"], ordered=True),
            "text": ["x", None, "z"],
            "string": pd.array(["x", None, "z"], dtype="string"),
            "int": np.array([1, 2, 3], dtype="int16"),
            "nullable": pd.array([1, None, 3], dtype="Int64"),
            "flag": pd.array([True, None, False], dtype="boolean"),
            "when": pd.to_datetime(["2024-01-01", None, "2024-07-01"]),
            "zoned": pd.to_datetime(["2024-01-01", None, "2024-07-01"]).tz_localize(
                "Europe/Berlin"
            ),
            7: [0.5, np.nan, np.inf],
        },
        index=pd.Index(["r1", "r2", "r1"], name="row"),
    )
    pd.testing.assert_frame_equal(round_trip(frame), frame)
    pd.testing.assert_frame_equal(round_trip(frame.iloc[:0]), frame.iloc[:0])
    for column in frame:
        pd.testing.assert_series_equal(round_trip(frame[column]), frame[column])
    pd.testing.assert_index_equal(round_trip(frame.index), frame.index)
    pd.testing.assert_index_equal(round_trip(pd.RangeIndex(3)), pd.RangeIndex(3), exact=True)
    pd.testing.assert_extension_array_equal(round_trip(frame["cat"].array), frame["cat"].array)


@pytest.mark.parametrize(
    "value",
    [
        lambda: 0,
        {1, 2},
        object(),
        pd.MultiIndex.from_tuples([(1, 2)]),
        np.ma.array([1, 2]),
        pd.period_range("2024", periods=2, freq="D"),
        np.zeros(2, dtype=np.longdouble),
    ],
)
def test_what_cannot_be_stored_is_named(value):
    with pytest.raises(DaoTypeError, match=r"dataset 'd': uns\['a'\]\['b'\]\[1\].*uns=False"):
        encode({"a": {"b": [0, value]}}, "dataset 'd'")


def test_a_value_that_contains_itself():
    loop: dict = {}
    loop["me"] = [loop]
    with pytest.raises(DaoValueError, match=r"uns\['me'\]\[0\] contains itself"):
        encode(loop, "dataset 'd'")
    shared = [1]
    assert round_trip([shared, shared]) == [[1], [1]]


def test_text_that_is_not_unicode():
    with pytest.raises(DaoValueError, match="not valid unicode"):
        encode({"a": "\udcff"}, "dataset 'd'")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "3",
        '{"a": {"__dao__": "import os"}}',
        '{"a": {"__dao__": ["x"]}}',
        '{"a": {"__dao__": "array", "dtype": "<f8", "shape": [3], "data": "AAAA"}}',
        '{"a": {"__dao__": "array", "dtype": "|O", "shape": [1], "data": "AAAAAAAAAAA="}}',
        '{"a": {"__dao__": "array", "dtype": "<f8"}}',
        '{"a": {"__dao__": "series"}}',
        '{"a": {"__dao__": "bytes", "data": "?"}}',
        '{"a": ' + "[" * 100000,
    ],
)
def test_damaged_text(text):
    with pytest.raises(DaoCorruptError):
        decode(text)


def test_encoded_text_is_strict_json():
    text = encode({"a": [float("nan"), float("inf"), 10**30]}, "d")
    json.loads(text, parse_constant=pytest.fail)


def test_constants():
    uns = {
        "organism": "Homo sapiens",
        "n": np.int16(3),
        "rate": np.float32(0.5),
        "flag": np.True_,
        "np_text": np.str_("x"),
        "in_obs": "x",
        "nan": float("nan"),
        "huge": 10**30,
        "list": [1],
        "nothing": None,
        "array": np.array(3),
        "bad": "\udcff",
    }
    found = constants(uns, {"in_obs"})
    expected = {"organism": "Homo sapiens", "n": 3, "rate": 0.5, "flag": True, "np_text": "x"}
    assert_same(found, expected)


def nested(levels: int) -> dict[str, Any]:
    value: Any = 1
    for level in range(levels):
        value = [{"a": value}, ("a", value), [value], {1: value}][level % 4]
    return {"deep": value}


def test_values_lie_a_hundred_deep_and_no_deeper() -> None:
    assert decode(encode(nested(99), "here")) == nested(99)
    for levels in (101, 900, 5_000):
        with pytest.raises(DaoValueError, match="100 deep"):
            encode(nested(levels), "here")
    for text in ('{"a": ' * 900 + "1" + "}" * 900, '{"a": ' + "[" * 320 + "]" * 320 + "}"):
        with pytest.raises(DaoCorruptError):
            decode(text)
