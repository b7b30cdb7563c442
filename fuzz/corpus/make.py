"""Makes the corpora of what Python parses; ``python -m fuzz.corpus.make``, in the repository.

``pickle``: values that sfaira's stores may have, in the protocols that differ, numpy 1's names, and
what a pickle must not do. ``uns``: each kind of value in `uns.json`. ``pandas``: the notes of
pandas in parquet. ``notes``: ours in `dao.json`. Files that are not made here, ``found-…``, are
inputs that showed a defect. Other versions of numpy and pandas make other bytes: that is no harm.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp
from dao_polars.convert.from_pandas import from_pandas

from dao_polars.store import uns
from tests.legacy.test_unpickle import ARRAYS, HOSTILE, PLAIN, SCALARS, numpy_1
from tests.whole.fuzz import CORPUS

_LONG = ("text", "bytes")


def _short(value: Any) -> Any:
    """Values of PLAIN without those that are long."""
    return {k: [v for v in x if len(v) < 99] if k in _LONG else x for k, x in value.items()}


def _text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def pickles() -> dict[str, bytes]:
    """Plain data by protocol, names of numpy 1, and what is refused."""
    values = {"plain": _short(PLAIN), "arrays": ARRAYS, "scalars": SCALARS}
    found = {
        f"{name}-{p}": pickle.dumps(value, protocol=p)
        for name, value in values.items()
        for p in (0, 2, 5)
    }
    found["numpy-1"] = numpy_1(pickle.dumps({"a": np.arange(3), "s": np.float32(1)}, protocol=2))
    strange = np.array(["a"]).tobytes()
    found["not-unicode"] = pickle.dumps({"u": np.array(["a"])}).replace(strange, b"\xff" * 4)
    found["language-of-dtypes"] = (
        b"\x80\x02}" + _text("a") + b"cnumpy\ndtype\n" + _text("(2,2)f8") + b"\x85Rs."
    )
    items = b"".join(_text(name) + body + b"s" for name, body in HOSTILE.items())
    found["hostile"] = b"\x80\x05}" + items + b"."
    twice = b"".join(b"]q%ch%ch%c\x86\x94a" % (i, i - 1, i - 1) for i in range(1, 9))
    found["repeats"] = b"\x80\x02}" + _text("a") + b"]q\x00" + twice + b"h\x08s."
    twice = b"".join(b"]q%ch%ch%c\x86\x94a" % (i, i - 1, i - 1) for i in range(1, 60))
    found["repeats-too-often"] = b"\x80\x02}" + _text("a") + b"]q\x00" + twice + b"h\x3bs."
    found["deep"] = b"\x80\x02}" + _text("a") + b"]" * 150 + b"a" * 149 + b"s."
    return found


def texts_of_uns() -> dict[str, bytes]:
    """Each kind of value that `uns.json` has."""
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], 3: pd.Categorical(["u", "v"])})
    matrix = sp.csr_matrix(np.array([[0, 1.5, 0], [2, 0, 0]]))
    values = {
        "plain": {"n": 1, "x": 0.5, "nan": float("nan"), "t": "é", "b": b"ab", "l": [1, (2, None)]},
        "keys": {"d": {1: "a", (1, 2): "b"}, "__dao__": "not a tag"},
        "arrays": {
            "f": np.arange(6.0).reshape(2, 3),
            "i": np.array([1, 2], ">i2"),
            "o": np.array(["a", None, 1], object),
            "u": np.array(["aa", "b"]),
            "s": np.array([b"a", b"bb"]),
            "m": np.array(["2020-01-01", "NaT"], "M8[ns]"),
            "scalar": np.float32(1.5),
            "none": np.empty((0, 3), "f4"),
        },
        "structured": {
            "s": np.array([(1, 2.5, "x")], dtype=[("a", "i4"), ("b", "f8", (2,)), ("c", "U3")]),
            "r": np.rec.fromarrays([[1, 2], ["a", "b"]], names="a,b"),
            "m": np.matrix([[1, 2]]),
        },
        "sparse": {f: matrix.asformat(f) for f in ("csr", "csc", "coo", "bsr", "dia", "lil", "dok")}
        | {"array": sp.csr_array(matrix)},
        "pandas": {
            "frame": frame,
            "series": pd.Series([1.0, 2.0], index=["a", "b"], name="s"),
            "range": pd.RangeIndex(3, 9, 2),
            "index": pd.Index(["a", "b"], name="i"),
            "categorical": pd.Categorical(["a", None, "b"], ordered=True),
            "zoned": pd.array(pd.to_datetime(["2020-01-01"]).tz_localize("Europe/Berlin")),
            "strings": pd.array(["a", None], dtype="string[python]"),
            "nullable": pd.array([1, None], dtype="Int16"),
            "bools": pd.array([True, None], dtype="boolean"),
            "missing": [pd.NA, pd.NaT],
        },
    }
    return {name: uns.encode(value, name).encode() for name, value in values.items()}


def pandas_notes() -> dict[str, bytes]:
    """The notes of pandas for tables whose index is stored in different ways."""
    names = ["__index_level_0__", "index", "a"]
    plain = pd.DataFrame({"a": range(4), "index": list("wxyz")})
    frames = {
        "unnamed": plain.set_axis(list("stuv")),
        "named": plain.set_index("index"),
        "range": plain.set_axis(pd.RangeIndex(3, 11, 2)),
        "levels": plain.set_index([pd.Index(list("stuv")), "index"]),
        "no-columns": pd.DataFrame(index=pd.RangeIndex(4)),
        "categories": plain.assign(a=pd.Categorical(list("mnmn"))),
    }
    found = {n: pa.Table.from_pandas(df).schema.metadata[b"pandas"] for n, df in frames.items()}
    return found | {"old": json.dumps({"index_columns": names[:1]}).encode(), "none": b"{}"}


def own_notes() -> dict[str, bytes]:
    """Our notes on columns that the fuzzer's frame has, by the kinds of pandas' types."""
    zoned = pd.Series(pd.to_datetime([0, 1000, None], unit="ns", utc=True))
    tables = {
        "numpy": {"real": [0.5, np.nan, 2.0], "time": zoned},
        "object": {"text": ["x", None, "y"], "flag": [True, False, None], "whole": [1, None, 3]},
        "nullable": {
            "whole": pd.array([1, None, 3], "Int64"),
            "flag": pd.array([True, False, None], "boolean"),
            "text": pd.array(["x", None, "y"], "string"),
        },
        "category": {
            "text": pd.Categorical(["x", None, "y"], ["y", "x", "z"], ordered=True),
            "real": pd.Categorical([0.5, None, 2.0]),
            "time": pd.Categorical(zoned),
        },
        "arrow": {
            "whole": pd.array([1, None, 3], "int64[pyarrow]"),
            "time": zoned.astype("timestamp[us, tz=UTC][pyarrow]"),
            "text": pd.array(["x", None, "y"], pd.ArrowDtype(pa.string())),
        },
    }
    found = {}
    for name, columns in tables.items():
        df = pd.DataFrame(columns, index=list("abc"))
        meta = from_pandas(df, index_name="obs_name", reserved=set(), where=name).meta
        notes = {column.name: [column.dtype, column.pandas] for column in meta.columns}
        found[name] = json.dumps({"index": meta.index, "columns": notes}).encode()
    return found


def _write(folder: Path, ending: str, made: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in made.items():
        (folder / f"{name}.{ending}").write_bytes(data)


if __name__ == "__main__":
    _write(CORPUS / "pickle", "pickle", pickles())
    _write(CORPUS / "uns", "json", texts_of_uns())
    _write(CORPUS / "pandas", "json", pandas_notes())
    _write(CORPUS / "notes", "json", own_notes())
