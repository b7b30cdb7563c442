"""``dao_polars.pfor`` as zarr-python (3 and later) knows codecs.

zarr-python finds it by the entry point in pyproject.toml: nothing has to import it. Owns what zarr
asks of a codec; must not know the bytes, which are the Rust core's (docs/pfor.md describes them).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.abc.codec import ArrayBytesCodec

from ._core import pfor_decode, pfor_encode
from .errors import DaoTypeError, DaoValueError

if TYPE_CHECKING:
    from typing import Self

    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

NAME = "dao_polars.pfor"

_SUPPORTED = {"bool", "float32", "float64"} | {
    f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}


@dataclass(frozen=True)
class Pfor(ArrayBytesCodec):
    """Bit-packed blocks of 512 values; see docs/pfor.md.

    Attributes:
        delta: store differences of neighbours, for integers that mostly ascend.
    """

    is_fixed_size = False

    delta: bool

    def __post_init__(self) -> None:
        if not isinstance(self.delta, bool):
            raise DaoValueError(f"{NAME}: delta is true or false, not {self.delta!r}")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The codec that an array's metadata describe."""
        configuration = data.get("configuration")
        found = data.get("name"), *(configuration if isinstance(configuration, Mapping) else ())
        if found != (NAME, "delta"):
            raise DaoValueError(
                f"{NAME}: expected its name and a configuration of 'delta' alone, found {data!r}"
            )
        return cls(**data["configuration"])

    def to_dict(self) -> dict[str, Any]:
        """The codec as an array's metadata name it."""
        return {"name": NAME, "configuration": {"delta": self.delta}}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Refuse arrays of other types than numbers and bools."""
        _supported(dtype)

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> Self:
        """The codec as it is; refuses what ``validate`` does, which zarr skips within shards."""
        _supported(array_spec.dtype)
        return self

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raise: a chunk's size is not known beforehand, which zarr wants to hear as an error."""
        raise NotImplementedError(f"{NAME} chunks have no fixed size")

    # zarr calls these two, or where it has no use for threads the synchronous ones.

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        dtype = _supported(chunk_spec.dtype)
        n = math.prod(chunk_spec.shape)
        encoded = chunk_data.as_numpy_array().view(np.uint8)  # signed in the first of zarr 3
        values = pfor_decode(encoded, dtype.name, n, self.delta)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(
            values.astype(dtype, copy=False).reshape(chunk_spec.shape)
        )

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        values = chunk_data.as_numpy_array()
        native = _supported(values.dtype).newbyteorder("=")
        encoded = pfor_encode(np.asarray(values, dtype=native, order="C"), self.delta)
        return chunk_spec.prototype.buffer.from_bytes(encoded)


def _supported(dtype: Any) -> np.dtype[Any]:
    """The numpy type of ``dtype``, if it is supported; zarr has types of its own since 3.1."""
    native: np.dtype[Any] = dtype if isinstance(dtype, np.dtype) else dtype.to_native_dtype()
    if native.name not in _SUPPORTED:
        raise DaoTypeError(
            f"{NAME} holds bools, integers of 8 to 64 bits and floats of 32 and 64, no {native}; "
            "choose another codec for this array"
        )
    return native
