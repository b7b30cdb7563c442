"""The codec dao_polars.pfor: Rust, zarr-python and the format's page agree on every bit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import anndata as ad
import google_crc32c
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from hypothesis import assume, given
from hypothesis import strategies as st
from zarr.storage import MemoryStore

import dao_polars as dao
from dao_polars import DaoCorruptError, DaoTypeError, DaoValueError
from dao_polars._core import pfor_decode, pfor_encode
from dao_polars.zarr_codec import NAME, Pfor
from tests.storefab import part_path

PAGE = (Path(__file__).parents[2] / "docs" / "pfor.md").read_text(encoding="utf-8")
INTEGERS = [f"{kind}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)]
DTYPES = [*INTEGERS, "float32", "float64", "bool"]
SPECIAL = {
    "float32": [0, 1 << 31, 0x3F800000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800123, 1],
    "float64": [0, 1 << 63, 0x3FF << 52, 0x7FF << 52, 0xFFF << 52, 0x7FF8 << 48, 0x7FF << 52 | 9],
}
"""Bits of 0, -0, 1, both infinities, NaNs with and without a payload, quiet and signalling."""


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The names that the page's reader defines."""
    names: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, names)
    return names


@st.composite
def arrays(draw: st.DrawFn, max_size: int = 3000) -> np.ndarray:
    """Numbers of a few bits, some of them wider, maybe ascending; floats of any bits too."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    n = draw(st.integers(0, max_size))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if dtype.name in SPECIAL and draw(st.booleans()):
        return rng.choice(np.array(SPECIAL[dtype.name], f"u{dtype.itemsize}"), n).view(dtype)
    high = np.uint64(2 ** draw(st.integers(0, 8 * dtype.itemsize)) - 1)
    values = rng.integers(0, high, n, np.uint64, endpoint=True)
    odd = rng.random(n) < draw(st.sampled_from([0, 0.02, 0.3]))
    values[odd] = rng.integers(0, 2**64, n, np.uint64)[odd] >> draw(st.integers(0, 63))
    if draw(st.booleans()):
        values = values.cumsum()
    if dtype.kind == "b":
        return (values & 1).astype(bool)
    return (values + rng.integers(2**64, dtype=np.uint64)).astype(f"u{dtype.itemsize}").view(dtype)


def same(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal to the bit."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


# --- Rust and the page


@given(arrays(), st.booleans())
def test_rust_reads_what_it_wrote(values, delta):
    found = pfor_decode(pfor_encode(values, delta), values.dtype.name, values.size, delta)
    same(found, values.view("u1") if values.dtype == bool else values)


@given(arrays(), st.booleans())
def test_the_page_reads_what_rust_wrote(page, values, delta):
    same(page["decode"](pfor_encode(values, delta), values.dtype, values.size, delta), values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 511, 512, 513, 1024, 1500])
def test_edges_of_frames_and_blocks(page, dtype, n):
    values = (np.arange(n) * 3 % 251).astype(dtype)
    for delta in (False, True):
        encoded = pfor_encode(values, delta)
        same(pfor_decode(encoded, dtype, n, delta).astype(dtype, copy=False), values)
        same(page["decode"](encoded, dtype, n, delta), values)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_words_too_far_apart_are_raw(page, dtype):
    values = np.array([0, 2**62, 5, 2**33], dtype)
    for delta in (False, True):
        encoded = pfor_encode(values, delta)
        assert len(encoded) == 2 + 4 + 1 + 256 * 8 + 4
        same(pfor_decode(encoded, dtype, 4, delta), values)
        same(page["decode"](encoded, dtype, 4, delta), values)


def test_the_pages_examples_are_what_rust_writes(page):
    spread = 7 + np.arange(256) // 64
    spread[9] = 1007
    examples = [
        (spread.astype("uint16"), False),
        (np.array([5, 7, 7, 12], "uint32"), True),
        (np.array([1.5, 1.5, 0.0, 1.5], "float32"), False),
    ]
    texts = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    for text, (values, delta) in zip(texts, examples, strict=True):
        lines = [re.match(r"((?:[0-9a-f]{2} )+)(?:× (\d+))? *", line) for line in text.splitlines()]
        chunk = b"".join(bytes.fromhex(line[1]) * int(line[2] or 1) for line in lines)
        assert chunk == pfor_encode(values, delta)
        same(page["decode"](chunk, values.dtype, values.size, delta), values)


def test_any_buffer_is_read():
    values = np.arange(700, dtype=np.uint16).reshape(7, 100)
    encoded = pfor_encode(values, True)
    odd = np.repeat(np.frombuffer(encoded, "u1"), 2)[::2]
    for buffer in (bytearray(encoded), memoryview(encoded), np.frombuffer(encoded, "u1"), odd):
        same(pfor_decode(buffer, "uint16", 700, True), values.ravel())


@given(arrays(), st.booleans(), st.data())
def test_broken_chunks_raise(page, values, delta, data):
    encoded = pfor_encode(values, delta)
    broken = bytearray(encoded)
    if data.draw(st.booleans(), "cut"):
        del broken[data.draw(st.integers(0, len(encoded) - 1), "at") :]
    else:
        broken[data.draw(st.integers(0, len(encoded) - 1), "byte")] ^= 1 << data.draw(
            st.integers(0, 7), "bit"
        )
    with pytest.raises(DaoCorruptError, match=NAME):
        pfor_decode(broken, values.dtype.name, values.size, delta)
    with pytest.raises(ValueError, match=r"checksum|directory"):
        page["decode"](bytes(broken), values.dtype, values.size, delta)
    with pytest.raises(DaoCorruptError, match=NAME):
        pfor_decode(encoded, values.dtype.name, values.size + 512, delta)


@given(
    st.binary(max_size=200), st.sampled_from(DTYPES), st.integers(1, 512), st.booleans(), st.data()
)
def test_wrong_bytes_with_right_checksums(page, body, dtype, n, delta, data):
    """Rust and the page refuse the same blocks, and read the others alike."""
    if data.draw(st.booleans(), "plausible"):
        w, p, h = (data.draw(st.integers(0, high)) for high in (3, 4, 9))
        positions = data.draw(st.lists(st.integers(0, 255), min_size=p, max_size=p))
        if data.draw(st.booleans(), "ascending"):
            positions = range(p)
        body = bytes([w, p, h]) + (body * 100)[: 32 * w] + bytes(positions) + body
    crc = page["crc32c"]
    block = body + crc(body).to_bytes(4, "little")
    head = len(block).to_bytes(2, "little")
    chunk = head + crc(head).to_bytes(4, "little") + block
    try:
        expected = page["decode"](chunk, dtype, n, delta)
    except (ValueError, IndexError):
        with pytest.raises(DaoCorruptError):
            pfor_decode(chunk, dtype, n, delta)
    else:
        assert pfor_decode(chunk, dtype, n, delta).tobytes() == expected.tobytes()


def test_patches_in_no_order_are_refused_by_both(page):
    for positions in ([1, 1], [2, 1], [0, 5, 5], [9, 3, 10]):
        body = bytes([0, len(positions), 1, *positions, 0xFF, 0, 0])
        block = body + page["crc32c"](body).to_bytes(4, "little")
        head = len(block).to_bytes(2, "little")
        chunk = head + page["crc32c"](head).to_bytes(4, "little") + block
        with pytest.raises(DaoCorruptError, match="ascend"):
            pfor_decode(chunk, "uint16", 256, False)
        with pytest.raises(ValueError, match="ascend"):
            page["decode"](chunk, "uint16", 256, False)


def test_what_are_no_numbers():
    for values in (np.array(["a"]), np.zeros(3, ">i4"), np.zeros(3, "f2"), np.zeros(6)[::2], [1]):
        with pytest.raises(DaoValueError):
            pfor_encode(values, False)
    with pytest.raises(DaoValueError, match="float16"):
        pfor_decode(bytes(4), "float16", 0, False)
    with pytest.raises(DaoCorruptError):
        pfor_decode(b"", "uint8", 2**62, False)


# --- zarr-python


def create(
    store: Any, values: np.ndarray, delta: bool, *, order: str = "C", **options: Any
) -> zarr.Array:
    """An array of nothing but the codec, with ``values`` in it."""
    array = zarr.create_array(
        store,
        shape=values.shape,
        dtype=values.dtype,
        serializer=Pfor(delta),
        filters=None,
        compressors=None,
        fill_value=0,
        config={"write_empty_chunks": True, "order": order},
        **options,
    )
    array[...] = values
    return array


def stored(store: MemoryStore, key: str) -> bytes:
    return store._store_dict[key].to_bytes()


def test_the_entry_point_is_installed():
    (found,) = entry_points(group="zarr.codecs", name=NAME)
    assert found.load() is Pfor


@given(arrays(), st.booleans(), st.booleans(), st.data())
def test_zarr_python_round_trip(values, delta, sharded, data):
    assume(values.size)
    if data.draw(st.booleans(), "2-d"):
        values = values[: values.size // 7 * 7].reshape(-1, 7)
        assume(values.size)
    chunks = tuple(data.draw(st.integers(1, n), "chunk") for n in values.shape)
    # Not thousands of chunks, each a task of its own.
    chunks = (max(chunks[0], -(-values.shape[0] // 8)), *chunks[1:])
    shards = tuple(2 * n for n in chunks) if sharded else None
    store = MemoryStore()
    create(store, values, delta, chunks=chunks, shards=shards)
    array = zarr.open_array(store, mode="r")
    same(array[...], values)
    start = data.draw(st.integers(0, values.shape[0]), "start")
    same(array[start : start + 300], values[start : start + 300])
    if not sharded:
        first = values[tuple(slice(n) for n in chunks)]
        encoded = stored(store, "c/" + "/".join("0" * values.ndim))
        assert encoded == pfor_encode(np.ascontiguousarray(first), delta)
        found = pfor_decode(encoded, values.dtype.name, first.size, delta)
        assert found.tobytes() == first.tobytes()


def test_other_orders_of_bytes_and_axes():
    values = np.asfortranarray(np.arange(6000, dtype=">i4").reshape(60, 100))
    for order in ("C", "F"):
        store = MemoryStore()
        create(store, values, True, chunks=(60, 100), order=order)
        np.testing.assert_array_equal(zarr.open_array(store)[...], values)
        found = pfor_decode(stored(store, "c/0/0"), "int32", 6000, True)
        np.testing.assert_array_equal(found, np.arange(6000))
    store = MemoryStore()
    create(store, np.array(1.5), False)
    assert zarr.open_array(store)[()] == 1.5


def test_it_stands_among_other_codecs():
    values = np.arange(3000, dtype=np.uint32).reshape(30, 100)
    array = zarr.create_array(
        MemoryStore(),
        data=values,
        chunks=(10, 100),
        filters=zarr.codecs.TransposeCodec(order=(1, 0)),
        serializer={"name": NAME, "configuration": {"delta": True}},
        compressors=[zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()],
    )
    same(array[...], values)


@pytest.mark.parametrize("shards", [None, (2000,)])
def test_a_damaged_chunk_raises(shards):
    store = MemoryStore()
    values = np.arange(2000, dtype=np.uint16)
    create(store, values, False, chunks=(1000,), shards=shards)
    chunk = bytearray(stored(store, "c/0"))
    chunk[50] ^= 4
    store._store_dict["c/0"] = zarr.core.buffer.cpu.Buffer.from_bytes(bytes(chunk))
    array = zarr.open_array(store)
    with pytest.raises(DaoCorruptError, match="checksum mismatch"):
        array[...]
    same(array[1000:], values[1000:])


@pytest.mark.parametrize("dtype", ["float16", "complex64", "complex128"])
@pytest.mark.parametrize("shards", [None, (8,)])
def test_other_types_are_refused(dtype, shards):
    with pytest.raises(DaoTypeError, match=f"{NAME} holds"):
        zarr.create_array(
            MemoryStore(),
            shape=(8,),
            chunks=(4,),
            shards=shards,
            dtype=dtype,
            serializer=Pfor(False),
            compressors=None,
        )


def test_metadata():
    assert Pfor.from_dict(Pfor(True).to_dict()) == Pfor(True)
    assert Pfor(False).to_dict() == {"name": NAME, "configuration": {"delta": False}}
    for configuration in (None, {}, {"delta": 1}, {"delta": True, "block": 512}, ["delta"]):
        with pytest.raises(DaoValueError, match="delta"):
            Pfor.from_dict({"name": NAME, "configuration": configuration})
    with pytest.raises(NotImplementedError):
        Pfor(False).compute_encoded_size(100, None)


def test_loading_it_does_not_need_dao_polars_imported_first(tmp_path):
    values = np.arange(1000, dtype=np.int64)
    create(tmp_path / "a.zarr", values, True, chunks=(300,))
    code = "import sys, zarr; print(zarr.open_array(sys.argv[1])[...].sum())"
    found = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.zarr"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(found.stdout) == values.sum()


def test_chunks_may_lie_in_any_order_in_their_shard(tmp_path: Path) -> None:
    """Writers that encode chunks in parallel store them as they come."""
    rng = np.random.default_rng(0)
    x = sp.random(400, 1000, 0.5, "csr", np.float32, random_state=rng)
    x.data = np.ceil(x.data * 9)
    dao.write_dataset(tmp_path, ad.AnnData(x), dataset="d", progress=False)
    x_path = part_path(tmp_path, "d") / "zarr" / "X"
    for name in ("data", "indices"):
        (shard,) = (x_path / name / "c").iterdir()
        encoded = shard.read_bytes()
        meta = json.loads((x_path / name / "zarr.json").read_text())
        outer = meta["chunk_grid"]["configuration"]["chunk_shape"][0]
        inner = meta["codecs"][0]["configuration"]["chunk_shape"][0]
        n_chunks = outer // inner
        assert n_chunks > 3
        places = np.frombuffer(encoded[-4 - 16 * n_chunks : -4], "<u8").reshape(-1, 2).copy()
        tag = encoded[-20 - 16 * n_chunks : -4 - 16 * n_chunks]
        reordered = b""
        for i in rng.permutation(n_chunks):
            start, length = map(int, places[i])
            places[i, 0] = len(reordered)
            reordered += encoded[start : start + length]
        index = places.tobytes()
        checksum = google_crc32c.value(index).to_bytes(4, "little")
        shard.write_bytes(reordered + tag + index + checksum)
    got = [x for x, _ in dao.scan(tmp_path).dao.iter_batches(64)]
    assert (sp.vstack(got) != x).nnz == 0
