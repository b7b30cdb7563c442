"""Arrays of zarr v3 in sharded files, from zarr's specification, docs/format.md and docs/pfor.md.

Reads whole arrays, of one or two axes, from the bytes of their files: no zarr, no dao_polars.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Callable

import numpy as np
from numcodecs import blosc

from . import pfor

# The bytes of one file, by its path below the store's folder; None where there is none.
Read = Callable[[str], bytes | None]

EMPTY = 2**64 - 1
TAG_BYTES = 16


def array(read: Read, path: str) -> np.ndarray:
    """A whole array."""
    meta = json.loads(needed(read, f"{path}/zarr.json"))
    dtype = np.dtype(meta["data_type"])
    shape, shard = meta["shape"], meta["chunk_grid"]["configuration"]["chunk_shape"]
    found = np.full(shape, meta["fill_value"], dtype)
    tag = meta["attributes"].get("dao_polars.shard_tag")
    for place in grid(shape, shard):
        data = read("/".join([path, "c", *map(str, place)]))
        if data is not None:
            fill(found, place, shard, data, meta["codecs"], tag)
    return found


def needed(read: Read, path: str) -> bytes:
    data = read(path)
    if data is None:
        raise pfor.DamageError(f"{path} is not there")
    return data


def grid(shape: list[int], chunk: list[int]) -> itertools.product[tuple[int, ...]]:
    """The places of the chunks that cover a shape, in C order."""
    counts = [-(-n // c) for n, c in zip(shape, chunk, strict=True)]
    return itertools.product(*map(range, counts))


def fill(
    found: np.ndarray,
    place: tuple[int, ...],
    shard: list[int],
    data: bytes,
    codecs: list[dict],
    tag: str | None,
) -> None:
    """Puts the chunks of one shard where they belong."""
    [sharding] = codecs
    assert sharding["name"] == "sharding_indexed"
    inner = sharding["configuration"]
    assert inner["index_location"] == "end"
    assert [codec["name"] for codec in inner["index_codecs"]] == ["bytes", "crc32c"]
    chunks = list(grid(shard, inner["chunk_shape"]))
    index_bytes = 16 * len(chunks) + 4
    index = pfor.checked(data[-index_bytes:])
    entries = list(struct.iter_unpack("<QQ", index))
    body = data[:-index_bytes]
    if tag is not None:
        array_id, number = struct.unpack("<QQ", body[-TAG_BYTES:])
        if array_id != int(tag, 16) or number != place[0]:
            raise pfor.DamageError("a shard of another array, or of another place in it")
        body = body[:-TAG_BYTES]
    at = 0
    for chunk_place, (offset, n_bytes) in zip(chunks, entries, strict=True):
        if (offset, n_bytes) == (EMPTY, EMPTY):
            continue
        if offset != at:
            raise pfor.DamageError("a gap between chunks")
        at = offset + n_bytes
        values = decoded(body[offset:at], inner["chunk_shape"], found.dtype, inner["codecs"])
        start = [
            p * s + q * c
            for p, s, q, c in zip(place, shard, chunk_place, inner["chunk_shape"], strict=True)
        ]
        where = tuple(
            slice(a, min(a + n, end))
            for a, n, end in zip(start, inner["chunk_shape"], found.shape, strict=True)
        )
        found[where] = values[tuple(slice(0, max(0, w.stop - w.start)) for w in where)]
    if at != len(body):
        raise pfor.DamageError("bytes behind the last chunk")


def decoded(data: bytes, shape: list[int], dtype: np.dtype, codecs: list[dict]) -> np.ndarray:
    """The values of one chunk."""
    n = math.prod(shape)
    for codec in reversed(codecs[1:]):
        if codec["name"] == "crc32c":
            data = pfor.checked(data)
        elif codec["name"] == "blosc":
            data = blosc.decompress(data)
        else:
            raise NotImplementedError(codec["name"])
    if codecs[0]["name"] == "bytes":
        assert dtype.itemsize == 1 or codecs[0]["configuration"]["endian"] == "little"
        return np.frombuffer(data, dtype.newbyteorder("<"), n).reshape(shape)
    assert codecs[0]["name"] == "dao_polars.pfor"
    delta = codecs[0]["configuration"]["delta"]
    words = pfor.decode(data, n, dtype.itemsize, is_float=dtype.kind == "f", delta=delta)
    return np.array(words, f"<u{dtype.itemsize}").view(dtype).reshape(shape)
