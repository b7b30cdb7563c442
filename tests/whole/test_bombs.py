"""Stores that claim more than there is: an error, in little memory, and nothing printed.

Each group of stores is read in a process whose address space is limited, so that memory asked for
on a file's word ends that process and fails the test.
"""

from __future__ import annotations

import bz2
import gzip
import json
import os
import pickle
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import polars as pl
import pytest

from tests.memory import MEMORY

SPACE = 3 << 29
"""The bytes of address space beside what the process has at first: less than blosc can claim."""
RESIDENT = 128 << 20
"""The most bytes of memory that reading all stores of a group may take."""

READ = f"""
import json, resource, sys
import dao_polars as dao

try:  # what is loaded on first use is loaded before anything is measured
    dao.scan(sys.argv[2])
except dao.DaoError:
    pass


{MEMORY}

used, before = memory("VmSize"), memory("VmHWM")
resource.setrlimit(resource.RLIMIT_AS, 2 * (used + int(sys.argv[1]),))
for uri in sys.argv[2:]:
    print(uri, end="\\t", flush=True)
    try:
        batches = [x for x, _ in dao.scan(uri).dao.iter_batches(4)]
        print("exact", sum(float(x.sum()) for x in batches), sep="\\t")
    except dao.DaoError as error:
        print("DaoError", " ".join(str(error).split()), sep="\\t")
print("bytes", "", memory("VmHWM") - before, sep="\\t")
"""

VALUES = np.arange(16, dtype="<f4").reshape(4, 4)
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
CRC = {"name": "crc32c"}
V2 = {"zarr_format": 2, "shape": [4, 4], "chunks": [4, 4], "dtype": "<f4", "fill_value": 0}
V2 |= {"compressor": None, "filters": None, "order": "C"}


def v3(*codecs: Any, chunks: Any = (4, 4), **more: Any) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [4, 4],
        "data_type": "float32",
        "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default"},
        "codecs": list(codecs or [BYTES]),
    } | more


def sharding(*codecs: Any, chunks: Any) -> dict[str, Any]:
    configuration = {
        "chunk_shape": list(chunks),
        "codecs": list(codecs or [BYTES]),
        "index_codecs": [BYTES, CRC],
    }
    return {"name": "sharding_indexed", "configuration": configuration}


def write(root: Path, metadata: dict[str, Any], chunk: bytes) -> Path:
    """A store as sfaira's, of one matrix with one chunk, which is whatever it is."""
    x = root / "d/zarr/X"
    for folder in (x, root / "d/parquet", root / "d/pickle"):
        folder.mkdir(parents=True)
    (root / "d/pickle/uns.pickle").write_bytes(pickle.dumps({}))
    pl.DataFrame({"a": range(4)}).write_parquet(root / "d/parquet/obs.parquet")
    pl.DataFrame({"index": [f"g{i}" for i in range(4)]}).write_parquet(
        root / "d/parquet/var.parquet"
    )
    is_v2 = metadata["zarr_format"] == 2
    (x / (".zarray" if is_v2 else "zarr.json")).write_text(json.dumps(metadata))
    file = x / ("0.0" if is_v2 else "c/0/0")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(chunk)
    return root


def run(space: int, stores: list[Path]) -> subprocess.CompletedProcess[str]:
    """Reads the stores in a process that has so many bytes of address space for it."""
    # Each thread and each heap of the allocator takes some: as many on any machine.
    environment = os.environ | {"POLARS_MAX_THREADS": "2", "MALLOC_ARENA_MAX": "2"}
    command = [sys.executable, "-c", READ, str(space), *map(str, stores)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=environment
    )


def read(stores: list[Path]) -> dict[str, tuple[str, str]]:
    """What reading each store gives, by its name; memory and silence are held here."""
    done = run(SPACE, stores)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-500:] + done.stderr[-3000:]
    *lines, (_, _, taken) = (line.split("\t") for line in done.stdout.splitlines())
    assert int(taken) < RESIDENT
    return {Path(uri).name: (kind, text) for uri, kind, text in lines}


# --- chunks

CLAIM = b"\x28\xb5\x2f\xfd\xe0" + (1 << 36).to_bytes(8, "little") + b"\x09\x00\x00\x07"
"""A frame of zstd of one byte that claims to be of 64 GiB."""


def lying(frame: bytes, claim: int) -> bytes:
    """A frame of blosc that claims so many bytes of values."""
    return frame[:4] + claim.to_bytes(4, "little") + frame[8:]


def bomb(compressor: Any, megabytes: int = 1024) -> bytes:
    """So many megabytes of zeros, in one stream."""
    zeros = bytes(1 << 24)
    parts = [compressor.compress(zeros) for _ in range(megabytes // 16)]
    return b"".join([*parts, compressor.flush()])


@pytest.fixture(scope="module")
def bombs() -> dict[str, tuple[dict[str, Any], dict[str, Any], bytes, list[bytes]]]:
    """Of each codec: zarr v2's name of it, zarr v3's, the values encoded, and chunks that lie."""
    raw = VALUES.tobytes()
    frame = numcodecs.Blosc(cname="lz4", clevel=5, shuffle=1).encode(VALUES)
    config = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 4, "blocksize": 0}
    level = {"level": 1}
    return {
        "zstd": (
            {"id": "zstd", "level": 1},
            {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
            numcodecs.Zstd(1).encode(raw),
            [CLAIM, numcodecs.Zstd(1).encode(bytes(1 << 29)), b""],
        ),
        "gzip": (
            {"id": "gzip", "level": 1},
            {"name": "gzip", "configuration": level},
            gzip.compress(raw),
            [bomb(zlib.compressobj(9, wbits=31)), b"", gzip.compress(raw)[:-9]],
        ),
        "zlib": (
            {"id": "zlib", "level": 1},
            {"name": "numcodecs.zlib", "configuration": level},
            zlib.compress(raw),
            [bomb(zlib.compressobj(9)), b""],
        ),
        "bz2": (
            {"id": "bz2", "level": 1},
            {"name": "numcodecs.bz2", "configuration": level},
            bz2.compress(raw),
            [bomb(bz2.BZ2Compressor(9), 640), b""],
        ),
        "blosc": (
            {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0},
            {"name": "blosc", "configuration": config},
            frame,
            # The last is as large as it claims, which memory would hold: nobody asked for it.
            [lying(frame, claim) for claim in (0x7FFFFFEF, 0xFFFFFFFF, 1 << 30, 0, 65)]
            + [numcodecs.Blosc(cname="zstd", clevel=9, shuffle=0).encode(bytes(192 << 20))],
        ),
    }


@pytest.mark.parametrize("codec", ["zstd", "gzip", "zlib", "bz2", "blosc"])
def test_chunks_that_claim_more_than_they_may(bombs, tmp_path, codec):
    v2_codec, v3_codec, good, bad = bombs[codec]
    kinds = {
        "v2": V2 | {"compressor": v2_codec},
        "v3": v3(BYTES, v3_codec),
        # Under a codec that is done by zarrs, and as the inner one of two.
        "crc": v3(BYTES, v3_codec, CRC),
        "two": v3(BYTES, v3_codec, {"name": "gzip", "configuration": {"level": 1}}),
    }
    around = {
        "v2": bytes,
        "v3": bytes,
        "crc": lambda chunk: numcodecs.CRC32C(location="end").encode(chunk).tobytes(),
        "two": gzip.compress,
    }
    stores = [
        write(tmp_path / f"{kind}-{i}", metadata, around[kind](bytes(chunk)))
        for kind, metadata in kinds.items()
        for i, chunk in enumerate([good, *bad])
    ]
    for name, (found, text) in read(stores).items():
        if name.endswith("-0"):
            assert (found, text) == ("exact", "120.0"), name
        else:
            assert found == "DaoError", name
            assert "dataset 'd'" in text, text
            assert "chunk" in text, text


LARGE = V2 | {"chunks": [4, (1 << 29) // 4 - 1]}
"""An array whose one chunk has 2 GiB, but for 16 bytes: each codec takes as much as that."""


@pytest.mark.parametrize("codec", ["gzip", "blosc", "order"])
def test_a_chunk_that_is_as_large_as_it_claims(bombs, tmp_path, codec):
    """What memory does not hold is an error; zeros of so many bytes are few."""
    if codec == "gzip":
        large = LARGE | {"compressor": {"id": "gzip", "level": 1}}
        store = write(tmp_path / "s", large, bomb(zlib.compressobj(9, wbits=31)))
    elif codec == "blosc":
        # Under a checksum, so that it is decoded as a whole.
        frame = numcodecs.Blosc(cname="zstd", clevel=9, shuffle=0).encode(bytes(600 << 20))
        chunk = numcodecs.CRC32C(location="end").encode(frame).tobytes()
        wide = v3(BYTES, bombs["blosc"][1], CRC, chunks=(4, (600 << 20) // 16))
        store = write(tmp_path / "s", wide, chunk)
    else:  # values that are put in another order, out of a file with a hole
        store = write(tmp_path / "s", V2 | {"chunks": [4, (600 << 20) // 16], "order": "F"}, b"")
        os.truncate(store / "d/zarr/X/0.0", 600 << 20)
    done = run(1 << 30, [store])
    assert (done.returncode, done.stderr) == (0, "")
    assert "DaoError" in done.stdout
    assert "memory" in done.stdout


# --- metadata

HUGE = [[2**62, 4], [4, 2**62], [2**63, 2**63], [2**64 - 1] * 2, [2**32] * 2, [2**31] * 2]
HUGE += [[2**20, 2**30], [4, 2**40], [4, 2**30]]


def test_chunks_that_metadata_claim(tmp_path):
    zstd = {"id": "zstd", "level": 1}
    cases: list[dict[str, Any]] = []
    for chunks in HUGE:
        cases += [
            V2 | {"chunks": chunks},
            V2 | {"chunks": chunks, "compressor": zstd},
            V2 | {"chunks": chunks, "order": "F"},
            v3(chunks=chunks),
            v3(sharding(chunks=[4, 4]), chunks=chunks),
            v3(sharding(chunks=chunks), chunks=chunks),
            v3(sharding(chunks=[1, 1]), chunks=chunks),
            v3(sharding(sharding(chunks=[2, 2]), chunks=[4, 4]), chunks=chunks),
        ]
    cases += [V2 | {"chunks": chunks} for chunks in ([0, 4], [4], [4, 4, 4], [-1, 4], [], None)]
    check(tmp_path, cases)


def test_shapes_that_metadata_claim(tmp_path):
    shapes = [
        [2**31, 4],
        [2**32 - 1, 2**31 - 1],
        [4, 2**31 - 1],
        [4, 2**24],
        [4, 2**62],
        [2**40, 4],
    ]
    chunkings = [[4, 4], [1, 1], [2**31 - 1, 1]]
    cases = [V2 | {"shape": shape, "chunks": chunks} for shape in shapes for chunks in chunkings]
    check(tmp_path, cases)


def test_codecs_and_types_that_metadata_claim(tmp_path):
    reshape = {"name": "reshape", "configuration": {"shape": [2**62, 2**62]}}
    shuffle = {"name": "numcodecs.shuffle", "configuration": {"elementsize": 0}}
    transpose = {"name": "transpose", "configuration": {"order": [5, 6]}}
    cases = [v3(reshape, BYTES), v3(BYTES, shuffle), v3(transpose, BYTES), v3(BYTES, BYTES)]
    cases += [v3(sharding(*case["codecs"], chunks=[4, 4])) for case in cases]
    dtypes = ["|V1000000000000", "<U99999999999", "<f2", "|S9", "<c16"]
    check(tmp_path, cases + [V2 | {"dtype": dtype} for dtype in dtypes])


def check(folder: Path, cases: list[dict[str, Any]]) -> None:
    """All are an error, whatever is in the one chunk."""
    stores = [
        write(folder / f"{i}-{len(chunk)}", metadata, chunk)
        for i, metadata in enumerate(cases)
        for chunk in (b"", VALUES.tobytes())
    ]
    for name, (found, text) in read(stores).items():
        assert found == "DaoError", (name, cases[int(name.split("-")[0])], text)
        assert "bug" not in text, (name, text)
