"""A decoder of ``dao_polars.pfor`` chunks, written from docs/pfor.md and nothing else.

Whole numbers and lists, one value at a time, so that each line can be held against a line of the
page. It shares no code with dao_polars nor with the reader that is printed on the page.
"""

from __future__ import annotations

import itertools
import struct

BLOCK, FRAME = 512, 256


class DamageError(ValueError):
    """A checksum does not hold, or the bytes contradict each other."""


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C of RFC 3720."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def checked(data: bytes) -> bytes:
    """What stands before the checksum that ends the bytes."""
    if len(data) < 4 or struct.unpack("<I", data[-4:])[0] != crc32c(data[:-4]):
        raise DamageError("a checksum does not hold")
    return data[:-4]


def decode(chunk: bytes, n: int, word_bytes: int, *, is_float: bool, delta: bool) -> list[int]:
    """The words of a chunk of n values: unsigned integers of the values' size."""
    n_blocks = -(-n // BLOCK)
    head = 2 * n_blocks + 4
    lengths = struct.unpack(f"<{n_blocks}H", checked(chunk[:head]))
    if len(chunk) != head + sum(lengths):
        raise DamageError("the directory and the chunk's length differ")
    words: list[int] = []
    at = head
    for number, length in enumerate(lengths):
        here = min(BLOCK, n - number * BLOCK)
        block = Block(checked(chunk[at : at + length]))
        words += (
            block.floats(here, word_bytes) if is_float else block.words(here, word_bytes, delta)
        )
        at += length
    return words


class Block:
    """The bytes of a block without its checksum, read from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, n: int) -> bytes:
        """The next n bytes."""
        if self._at + n > len(self._data):
            raise DamageError("a frame or table goes past its block")
        self._at += n
        return self._data[self._at - n : self._at]

    def integers(self, n: int, size: int) -> list[int]:
        """The next n little-endian unsigned integers of so many bytes."""
        data = self.take(n * size)
        return [int.from_bytes(data[i : i + size], "little") for i in range(0, n * size, size)]

    def floats(self, n: int, word_bytes: int) -> list[int]:
        """The words of a block of floats: a table, and the place of each value in it."""
        [n_distinct] = self.integers(1, 2)
        if n_distinct == 0:
            return self.integers(n, word_bytes)
        table = self.integers(n_distinct, word_bytes)
        places = self.words(n, 2, delta=False)
        if max(places) >= n_distinct:
            raise DamageError("a place is past the table")
        return [table[place] for place in places]

    def words(self, n: int, word_bytes: int, delta: bool) -> list[int]:
        """The words of one or two frames."""
        words: list[int] = []
        while len(words) < n:
            words += self.frame(word_bytes, delta)
        return words[:n]

    def frame(self, word_bytes: int, delta: bool) -> list[int]:
        """The 256 words of a frame."""
        bits = 16 if word_bytes <= 2 else 32
        [width] = self.take(1)
        if width == 255:
            return self.integers(FRAME, word_bytes)
        n_patches, patch_width = self.take(2)
        if width > bits or patch_width > bits or (n_patches == 0) != (patch_width == 0):
            raise DamageError("a frame's widths are out of range")
        if n_patches and width + patch_width > bits:
            raise DamageError("a frame's widths are out of range")
        numbers = self.packed(width, bits)
        positions = list(self.take(n_patches))
        if any(a >= b for a, b in itertools.pairwise(positions)):
            raise DamageError("the positions of patches do not ascend")
        patches = int.from_bytes(self.take(-(-n_patches * patch_width // 8)), "little")
        for position in positions:
            numbers[position] |= (patches & ((1 << patch_width) - 1)) << width
            patches >>= patch_width
        [reference] = self.integers(1, word_bytes)
        modulo = (1 << 8 * word_bytes) - 1
        words, total = [], 0
        for number in numbers:
            total = total + number if delta else number
            words.append((reference + total) & modulo)
        return words

    def packed(self, width: int, bits: int) -> list[int]:
        """256 numbers of so many bits, in lanes whose units lie one after the other."""
        n_lanes = FRAME // bits
        units = self.integers(width * n_lanes, bits // 8)
        lanes = [0] * n_lanes
        for i, unit in enumerate(units):
            lanes[i % n_lanes] |= unit << bits * (i // n_lanes)
        low = (1 << width) - 1
        return [lanes[i % n_lanes] >> (i // n_lanes * width) & low for i in range(FRAME)]
