"""docs/pfor.md is enough to write a decoder by: one that was reads what dao_polars writes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dao_polars._core import pfor_encode
from tests.codec.test_pfor import PAGE, arrays
from tests.format import pfor


def decoded(chunk: bytes, like: np.ndarray, delta: bool) -> np.ndarray:
    size, is_float = like.dtype.itemsize, like.dtype.kind == "f"
    words = pfor.decode(chunk, like.size, size, is_float=is_float, delta=delta)
    return np.array(words, f"<u{size}").view(like.dtype)


@given(arrays(), st.booleans())
def test_any_values_come_back_to_the_bit(values, delta):
    found = decoded(bytes(pfor_encode(values, delta)), values, delta)
    assert found.tobytes() == values.tobytes()


def test_the_examples_of_the_page():
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
        assert decoded(chunk, values, delta).tolist() == values.tolist()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64", "float32"])
@pytest.mark.parametrize("delta", [False, True])
def test_every_flipped_bit_is_noticed(dtype, delta):
    values = (np.arange(700) * 7 % 301).astype(dtype)
    chunk = bytes(pfor_encode(values, delta))
    assert (decoded(chunk, values, delta) == values).all()
    for place in range(len(chunk)):
        damaged = bytearray(chunk)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(pfor.DamageError):
            decoded(bytes(damaged), values, delta)
    for cut in (0, 5, len(chunk) // 2, len(chunk) - 1):
        with pytest.raises(pfor.DamageError):
            decoded(chunk[:cut], values, delta)
