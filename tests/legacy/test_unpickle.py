"""The pickle reader: plain data comes back, everything else stays inert."""

from __future__ import annotations

import collections
import datetime
import decimal
import io
import os
import pathlib
import pickle
import pickletools
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dao_polars as dao
from dao_polars.legacy.unpickle import Refused, load

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def objects(values: list, shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        array[i] = value
    return array.reshape(shape)


PLAIN: dict[Any, Any] = {
    "none": None,
    "bools": [True, False],
    "ints": [0, -1, 255, 256, 65_536, -(2**31), 2**31, 2**63, -(2**70), 10**50],
    "floats": [0.0, -1.5, 1e300, float("inf")],
    "complex": 1 + 2j,
    "text": ["", "héé\n\t'\"\\", "日本", "a" * 70_000],
    "bytes": [b"", b"\x00\xff", b"x" * 70_000],
    "bytearrays": [bytearray(), bytearray(b"abc\x80")],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "sets": [set(), {1, "a", (1, 2)}, frozenset(), frozenset([1, b"b"])],
    "nested": {"a": {"b": [1, {"c": (None,)}]}},
    "ordered": collections.OrderedDict([("z", 1), ("a", [2])]),
    "default": collections.defaultdict(list, {"k": [1]}),
    1: "int key",
    (1, "k"): "tuple key",
    None: "none key",
}

ARRAYS: dict[str, Any] = {
    "f8": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "strided": np.arange(10)[::2],
    "big endian": np.arange(3, dtype=">i4"),
    "zero rows": np.empty((0, 3), np.float32),
    "zero dimensions": np.array(3.5),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 1j], np.complex64),
    "unicode": np.array(["aa", "b", ""]),
    "bytes": np.array([b"aa", b"b"]),
    "datetime": np.array(["2020-01-01", "NaT"], dtype="M8[ns]"),
    "datetime, no unit": np.array(["NaT"], dtype="M8"),
    "timedelta": np.array([1, 2], dtype="m8[25s]"),
    "structured": np.array([(1, 2.5, "x")], dtype=[("a", "i4"), ("b", ">f8"), ("c", "U3")]),
    "aligned": np.zeros(2, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "subarray": np.zeros(2, dtype=[("x", "f4", (2, 2))]),
    "inner struct": np.zeros(2, dtype=[("x", [("y", "i2"), ("z", "S3")])]),
    "objects": objects(["a", None, 1, [1, 2], {"x": np.arange(2)}, (3.0,)], (2, 3)),
    "objects, fortran": np.asfortranarray(objects([1, "b", None, 2.0], (2, 2))),
    "objects, no dimensions": np.array(None, dtype=object),
    "lists in objects": objects([[1], [2, 3]], (2,)),
    "records": np.rec.fromarrays([[1, 2], ["a", "b"]], names="a,b"),
    "records with objects": np.array([(1, "x", 2.0), (2, None, 3.0)], dtype="i4,O,f4"),
}
SCALARS = {
    "f8": np.float64(2.5),
    "f2": np.float16(1.5),
    "i1": np.int8(-7),
    "u8": np.uint64(2**64 - 1),
    "bool": np.bool_(True),
    "str": np.str_("abc"),
    "bytes": np.bytes_(b"ab"),
    "datetime": np.datetime64("2020-01-01T00", "h"),
    "void": np.void(b"ab"),
    "record": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])[0],
    "dtype": np.dtype("f4"),
    "structured dtype": np.dtype([("a", "i4"), ("o", "O")]),
}


def same(found: Any, expected: Any) -> bool:
    """Equal, of the same types, element by element."""
    if isinstance(expected, dict):
        return (
            type(found) is dict
            and list(found) == list(expected)
            and all(same(found[key], expected[key]) for key in expected)
        )
    if isinstance(expected, np.recarray):
        expected = expected.view(np.ndarray).astype(np.dtype(expected.dtype.descr))
    if type(found) is not type(expected):
        return False
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, np.ndarray):
        if found.dtype != expected.dtype or found.shape != expected.shape:
            return False
        if expected.dtype.hasobject:
            return all(map(same, found.ravel().tolist(), expected.ravel().tolist()))
        return found.tobytes() == expected.tobytes()
    return found == expected or (found != found and expected != expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("values", [PLAIN, ARRAYS, SCALARS], ids=["plain", "arrays", "scalars"])
def test_plain_data_comes_back(values: dict, protocol: int) -> None:
    found, refused = load(pickle.dumps(values, protocol=protocol), "x")
    assert refused == []
    assert same(found, values)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_memory_order_and_ownership(protocol: int) -> None:
    found, _ = load(pickle.dumps(ARRAYS, protocol=protocol), "x")
    assert found["fortran"].flags.f_contiguous
    assert found["objects, fortran"].flags.f_contiguous
    assert found["f8"].flags.c_contiguous
    found["f8"][0, 0] = 9  # the caller's own, not the pickle's bytes
    assert found["f8"].flags.writeable


def numpy_1(data: bytes) -> bytes:
    """The same pickle as numpy 1 would have written it; lengths of frames are kept."""
    assert b"numpy._core" in data
    out = io.BytesIO()
    position = 0
    for op, arg, at in pickletools.genops(data):
        if isinstance(arg, str) and arg.startswith("numpy._core"):
            out.write(data[position:at])
            name = arg.replace("numpy._core", "numpy.core")
            end = data.index(b"numpy._core", at) + len("numpy._core.multiarray")
            if op.name == "SHORT_BINUNICODE":
                end = at + 2 + len(arg)
                out.write(b"\x8c" + bytes([len(name)]) + name.encode())
            elif op.name == "GLOBAL":
                end = at + 2 + len(arg)
                out.write(b"c" + name.replace(" ", "\n").encode() + b"\n")
            position = end
    out.write(data[position:])
    return out.getvalue()


@pytest.mark.parametrize("protocol", [0, 2, 3])  # without frames, whose lengths would change
def test_names_of_numpy_1(protocol: int) -> None:
    values = {"a": np.arange(3), "s": np.float32(1.5), "o": objects(["x", None], (2,))}
    old = numpy_1(pickle.dumps(values, protocol=protocol))
    assert b"numpy._core" not in old
    found, refused = load(old, "x")
    assert refused == []
    assert same(found, values)


def test_protocol_5_names_of_numpy_1() -> None:
    data = pickle.dumps({"a": np.arange(3)}, protocol=5)
    text = b"numpy._core.numeric"
    at = data.index(text)
    assert data[at - 1] == len(text)
    data = data.replace(bytes([len(text)]) + text, bytes([len(text) - 1]) + b"numpy.core.numeric")
    data = data[:3] + struct.pack("<Q", struct.unpack("<Q", data[3:11])[0] - 1) + data[11:]
    assert same(load(data, "x")[0], {"a": np.arange(3)})


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(value=st.dictionaries(st.text(), plain_values), protocol=st.sampled_from(PROTOCOLS))
def test_any_plain_data_comes_back(value: dict, protocol: int) -> None:
    found, refused = load(pickle.dumps(value, protocol=protocol), "x")
    assert refused == []
    assert same(found, value)


@given(data=st.data(), protocol=st.sampled_from(PROTOCOLS))
def test_any_array_comes_back(data: st.DataObject, protocol: int) -> None:
    from hypothesis.extra import numpy as hnp

    dtypes = hnp.scalar_dtypes() | hnp.unicode_string_dtypes() | hnp.byte_string_dtypes()
    dtypes = dtypes | hnp.array_dtypes(hnp.integer_dtypes(), allow_subarrays=True)
    array = data.draw(hnp.arrays(dtypes, hnp.array_shapes(min_side=0)))
    if data.draw(st.booleans()):
        array = np.asfortranarray(array)
    found, refused = load(pickle.dumps({"a": array}, protocol=protocol), "x")
    assert refused == []
    assert same(found["a"], array)


# --- what is refused


class Evil:
    """Pickles to a call with a side effect."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_calls_are_listed_and_never_made(tmp_path: Path, protocol: int) -> None:
    evil = Evil(tmp_path / "gone wrong")
    value = {
        "ok": 1,
        "top": evil,
        "list": [0, [evil]],
        "array": objects([evil, "fine"], (2,)),
        "key": {evil: 1},
        ("tuple", 1): (evil,),
    }
    found, refused = load(pickle.dumps(value, protocol=protocol), "x")
    assert found["ok"] == 1
    assert repr(found["top"]) == f"<refused {os.system.__module__}.system>"
    assert isinstance(found["array"][0], Refused)
    assert found["array"][1] == "fine"
    assert [entry.split(": ")[0] for entry in refused] == [
        "['top']",
        "['list'][1][0]",
        "['array'][0]",
        "['key'][<refused posix.system>]",
        "[('tuple', 1)][0]",
    ]
    assert not evil.path.exists()


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_objects_of_libraries_are_placeholders() -> None:
    pd = pytest.importorskip("pandas")
    value = {
        "frame": pd.DataFrame({"a": [1]}),
        "time": datetime.datetime(2020, 1, 1),
        "path": pathlib.PurePosixPath("x"),
        "decimal": decimal.Decimal(1),
        "masked": np.ma.array([1]),
        "matrix": np.matrix([1]),
        "range": range(3),
        "type": list,
        "function": len,
        "fine": [1],
    }
    for protocol in PROTOCOLS:
        found, refused = load(pickle.dumps(value, protocol=protocol), "x")
        assert found.pop("fine") == [1]
        assert set(map(type, found.values())) == {Refused}
        named = dict(entry.split(": ") for entry in refused if not entry.startswith("(not"))
        assert named["['frame']"] == "pandas.core.frame.DataFrame"
        assert named["['type']"] == "builtins.list"
        assert named["['function']"] == "builtins.len"
        assert named["['matrix']"] == "numpy.matrix"


def test_nothing_is_imported() -> None:
    code = (
        "import sys, pickle; from dao_polars.legacy.unpickle import load; "
        "data = {data!r}; print(load(data, 'x')); "
        "print([m for m in ('antigravity', 'this', 'webbrowser') if m in sys.modules])"
    )
    for data in (
        b"}X\x01\x00\x00\x00ac" + b"antigravity\nnever\n" + b"s.",
        b"\x80\x04}\x8c\x01a\x8c\x04this\x8c\x01s\x93s.",
        b"}X\x01\x00\x00\x00a(" + b"iantigravity\nnever\n" + b"s.",
    ):
        out = subprocess.run(
            [sys.executable, "-c", code.format(data=data)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
        )
        assert out.stdout.endswith("[]\n"), out.stdout + out.stderr


def entry(body: bytes) -> bytes:
    """A pickle of ``{"a": ...}``, the value being what ``body`` pushes."""
    return b"\x80\x05}X\x01\x00\x00\x00a" + body + b"s."


TEXT = b"X\x04\x00\x00\x00text"
SYSTEM = b"cposix\nsystem\n"

HOSTILE = {
    "reduce": SYSTEM + TEXT + b"\x85R",
    "newobj": SYSTEM + b")\x81",
    "newobj_ex": SYSTEM + b")}\x92",
    "inst": b"(" + TEXT + b"iposix\nsystem\n",
    "obj": b"(" + SYSTEM + TEXT + b"o",
    "stack_global": b"\x8c\x05posix\x8c\x06system\x93" + TEXT + b"\x85R",
    "dotted name": b"\x8c\x08builtins\x8c\x10list.__class__.x\x93" + TEXT + b"\x85R",
    "nested call": b"cbuiltins\ngetattr\ncbuiltins\n__import__\n(VOS\ntR" + b"Vsystem\n\x86R)R",
    "build on refused": SYSTEM + b"}X\x01\x00\x00\x00kI1\nsb",
    "build on a dict": b"}}X\x0c\x00\x00\x00__setstate__I1\nsb",
    "build on a list": b"]X\x01\x00\x00\x00xb",
    "build with slots": b"](N}X\x09\x00\x00\x00__class__NstB"[:-1] + b"b",
    "setitems on refused": SYSTEM + b"(I1\nI2\nu",
    "appends on refused": SYSTEM + b"(I1\nI2\ne",
    "append on refused": SYSTEM + b"I1\na",
    "additems on refused": SYSTEM + b"(I1\n\x90",
    "persistent id": b"Psomething\n",
    "binary persistent id": TEXT + b"Q",
    "extension 1": b"\x82\x01",
    "extension 2": b"\x83\x01\x01",
    "extension 4": b"\x84\x01\x01\x01\x01",
    "known class called oddly": b"cbuiltins\nbytes\n" + b"J\x00\x00\x00\x7f\x85R",
    "bytearray of a size": b"cbuiltins\nbytearray\n" + b"J\x00\x00\x00\x7f\x85R",
    "encode by a codec": b"c_codecs\nencode\n" + TEXT + b"X\x03\x00\x00\x00hex\x86R",
    "str called": b"cbuiltins\nstr\n" + TEXT + b"\x85R",
    "dtype of a class": b"cnumpy\ndtype\n" + SYSTEM + b"\x85R",
    "dtype of text": b"cnumpy\ndtype\nX\x05\x00\x00\x00i4,i4\x85R",
    "array of a class": b"cnumpy._core.multiarray\n_reconstruct\n"
    + SYSTEM
    + b"K\x00\x85C\x01b\x87R",
    "array never filled": b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    + b"K\x00\x85C\x01b\x87R",
    "scalar of objects": b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nX\x01\x00\x00\x00O\x85R"
    + TEXT
    + b"\x86R",
    "reconstructor": b"ccopy_reg\n_reconstructor\n(" + SYSTEM + b"cbuiltins\nobject\nNtR",
    "factory": b"ccollections\ndefaultdict\n" + SYSTEM + b"\x85R",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_opcodes_stay_inert(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("called"))
    monkeypatch.setattr("posix.system", lambda *_: pytest.fail("called"))
    found, refused = load(entry(HOSTILE[name]), "x")
    assert set(found) == {"a"}
    if not name.startswith("build on a") and name != "build with slots":
        assert refused
    assert all(isinstance(line, str) and line.isprintable() for line in refused)


def test_copyreg_extensions_are_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import copyreg

    monkeypatch.setitem(copyreg._inverted_registry, 1, ("posix", "system"))  # type: ignore[attr-defined]
    assert repr(load(entry(b"\x82\x01"), "x")[0]["a"]) == "<refused extension code 1>"


def test_placeholders_are_frozen_and_named_safely() -> None:
    found, _ = load(entry(b"\x8c\x03a\nb\x8c\x04\x1b[2J\x93"), "x")
    assert repr(found["a"]) == "<refused a?b.?[2J>"
    with pytest.raises(AttributeError):
        found["a"].name = "x"
    with pytest.raises(AttributeError):
        found["a"].other = "x"
    copy = pickle.loads(pickle.dumps(found["a"]))
    assert copy.name == found["a"].name


# --- what is no pickle


def dtype_state(code: bytes, state: bytes = b"") -> bytes:
    return b"cnumpy\ndtype\nX" + struct.pack("<I", len(code)) + code + b"\x89\x88\x87R" + state


def array_of(shape: bytes, dtype: bytes, raw: bytes) -> bytes:
    body = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    return body + b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"


F8 = dtype_state(b"f8")
BROKEN = {
    "empty": b"",
    "text": b"hello, world\n",
    "cut short": pickle.dumps({"a": np.arange(100)})[:-5],
    "no stop": pickle.dumps({"a": 1})[:-1],
    "a list": pickle.dumps([1]),
    "a call": pickle.dumps(Evil(Path("/nowhere"))),
    "newer protocol": b"\x80\x09}.",
    "stack too short": entry(b"\x86"),
    "nothing to pop": b"0.",
    "no mark": b"}(K\x01K\x02u" + b"t.",
    "odd items": entry(b"}(K\x01u"),
    "unknown memo": entry(b"h\x07"),
    "list as key": entry(b"}]K\x01s"),
    "dict in a set": entry(b"\x8f(}\x90"),
    "append to a dict": entry(b"}K\x01a"),
    "set an item of a list": entry(b"]K\x01K\x01s"),
    "call of text": entry(TEXT + b")R"),
    "call with a list": entry(b"cbuiltins\nlist\n]R"),
    "name of numbers": entry(b"K\x01K\x02\x93"),
    "out of band": entry(b"\x97"),
    "length of a string": entry(b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f"),
    "length of bytes": entry(b"\x8e\xff\xff\xff\xff\xff\xff\x00\x00"),
    "array: too few bytes": entry(array_of(b"K\x05\x85", F8, b"C\x08" + bytes(8))),
    "array: too many bytes": entry(array_of(b"K\x01\x85", F8, b"C\x10" + bytes(16))),
    "array: huge": entry(
        array_of(b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85", F8, b"C\x08" + bytes(8))
    ),
    "array: negative": entry(array_of(b"J\xff\xff\xff\xff\x85", F8, b"C\x00")),
    "array: shape of text": entry(array_of(TEXT + b"\x85", F8, b"C\x00")),
    "array: no dtype": entry(array_of(b"K\x01\x85", b"N", b"C\x08" + bytes(8))),
    "array: list of numbers": entry(array_of(b"K\x01\x85", F8, b"]K\x01a")),
    "array: list too short": entry(array_of(b"K\x02\x85", dtype_state(b"O"), b"]K\x01a")),
    "array: state of text": entry(
        b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        + TEXT
        + b"b"
    ),
    "dtype: state of text": entry(dtype_state(b"f8", TEXT + b"b")),
    "dtype: field outside": entry(
        dtype_state(
            b"V8",
            b"(K\x03X\x01\x00\x00\x00|NX\x01\x00\x00\x00a\x85}X\x01\x00\x00\x00a"
            + F8
            + b"K\x40\x86sK\x08K\x01K\x00tb",
        )
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_pickle_is_an_error_that_names_the_file(name: str) -> None:
    with pytest.raises(dao.DaoCorruptError, match=r"uns\.pickle"):
        load(BROKEN[name], "dataset 'x', '/store/x/pickle/uns.pickle'")


def test_bombs_do_not_go_off() -> None:
    deep_list = b"]" * 100_000 + b"a" * 99_999
    deep_tuple = b")" + b"\x85" * 100_000
    doubling = b"]" + b"".join(b"q%c0]h%ch%c\x86\x94a" % (i, i, i) for i in range(60))
    own_list = b"]q\x00h\x00a"
    for body in (deep_list, deep_tuple, b"}" + deep_tuple + b"K\x01s", doubling):
        with pytest.raises(dao.DaoCorruptError):
            load(entry(body), "x")
    found, refused = load(entry(own_list), "x")
    assert repr(found["a"]) == "[<refused a value inside itself>]"
    assert refused == ["['a'][0]: a value inside itself"]


def test_memory_is_bounded_by_the_file() -> None:
    raw = b"B" + struct.pack("<I", 1 << 20) + bytes(1 << 20) + b"q\x00"
    copies = b"(cbuiltins\nbytearray\nq\x010" + raw + b"0" + b"h\x01h\x00\x85R" * 2000 + b"t"
    with pytest.raises(dao.DaoCorruptError, match="more than it holds"):
        load(entry(copies), "x")
    items = b"(" + b"K\x01" * 100_000 + b"lq\x00"
    lists = b"(" + items + b"0cbuiltins\nlist\nq\x010" + b"h\x01h\x00\x85R" * 100_000 + b"t"
    with pytest.raises(dao.DaoCorruptError, match="more than it holds"):
        load(entry(lists), "x")


@pytest.mark.filterwarnings("ignore:invalid escape")
@settings(max_examples=300, deadline=None)
@given(
    protocol=st.sampled_from(PROTOCOLS),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_changed_bytes_give_data_or_an_error(
    protocol: int, changes: list[tuple[float, int]]
) -> None:
    value = {**ARRAYS, **SCALARS, "plain": [1, "x", {"k": (1.5, None)}], "evil": Evil(Path("/no"))}
    data = bytearray(pickle.dumps(value, protocol=protocol))
    for where, byte in changes:
        data[int(where * (len(data) - 1))] = byte
    try:
        found, refused = load(bytes(data), "x")
    except dao.DaoCorruptError:
        return
    assert isinstance(found, dict)
    repr(found)
    assert all(isinstance(line, str) for line in refused)
