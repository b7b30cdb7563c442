"""A zarr group behind a URL, as zarr-python (3 and later) reads it.

Owns what zarr asks of a store, for reading alone. Who may ask the server is the core's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
)
from zarr.core.buffer import Buffer, BufferPrototype

from .._core import Files
from ..errors import DaoValueError


class RemoteZarr(Store):
    """The files below a folder of a server. Two are equal that are of one address."""

    def __init__(self, files: Files, folder: str) -> None:
        """Looks at nothing yet."""
        super().__init__(read_only=True)
        self._files, self._folder = files, folder
        self._is_open = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteZarr) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        return f"{self._files.uri}/{self._folder}"

    def _path(self, key: str) -> str:
        return f"{self._folder}/{key}".rstrip("/")

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The bytes of a file, or a part of them; None where there is none."""
        found = await asyncio.to_thread(self._read, self._path(key), byte_range)
        return None if found is None else prototype.buffer.from_bytes(found)

    def _read(self, path: str, wanted: ByteRequest | None) -> bytes | None:
        if wanted is None:
            return self._files.get(path)
        if isinstance(wanted, RangeByteRequest):
            start, stop = wanted.start, wanted.end
        else:
            size = self._files.size(path)
            if size is None:
                return None
            stop = size
            if isinstance(wanted, OffsetByteRequest):
                start = min(wanted.offset, size)
            else:
                start = max(0, size - wanted.suffix)
        if start >= stop:
            return b""
        parts = self._files.ranges(path, [(start, stop)])
        return None if parts is None else parts[0]

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several of these."""
        return list(
            await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))
        )

    async def exists(self, key: str) -> bool:
        """Whether there is such a file."""
        return await asyncio.to_thread(self._files.size, self._path(key)) is not None

    @property
    def supports_writes(self) -> bool:
        """False: it is only read."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """False: it is only read."""
        return False

    @property
    def supports_listing(self) -> bool:
        """True: one that lists nothing says what to do when it is asked to."""
        return True

    async def set(self, key: str, value: Buffer) -> None:
        """An error: it is only read."""
        raise DaoValueError(f"{self}: is read, and not written to")

    async def delete(self, key: str) -> None:
        """An error: it is only read."""
        raise DaoValueError(f"{self}: is read, and not written to")

    async def list(self) -> AsyncIterator[str]:
        """An error: nobody here asks for all names."""
        raise self._not_listed()
        yield ""

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """An error: nobody here asks for all names."""
        raise self._not_listed()
        yield ""

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The folders directly below one, which is where arrays and groups are."""
        if not self._files.can_list:
            raise self._not_listed()
        for name in await asyncio.to_thread(self._files.folders, self._path(prefix)):
            yield name

    def _not_listed(self) -> DaoValueError:
        return DaoValueError(
            f"source '{self}': its server does not list files, and the group does not say what is "
            "in it: run zarr.consolidate_metadata on it where it lies, or read it from a bucket"
        )


def is_zarr(files: Files, folder: str) -> bool:
    """Whether a folder of a server is a zarr group, of version 2 or 3."""
    names = ("zarr.json", ".zgroup", ".zmetadata")
    return any(files.size(f"{folder}/{name}") is not None for name in names)
