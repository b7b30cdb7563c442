"""A study's file behind a URL, as h5py reads it: by ranges, some of them ahead.

Owns what is asked of the server, and when. Knows no format; who may ask is the core's.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING
from urllib.parse import unquote

from .._core import Files
from ..errors import DaoError, DaoFileNotFoundError, DaoValueError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BLOCK = 1 << 20  # bytes that are asked for at least: HDF5 looks at many small things
_AHEAD = 16  # blocks at most that are read ahead, of a file that is read in its order
_KEPT = 64  # blocks that are kept


def is_url(text: str) -> bool:
    """Whether a source is an address, and no path of this machine."""
    return "://" in text and not text.startswith("file://")


def split(url: str, options: dict[str, str]) -> tuple[Files, str]:
    """The files beside the one that a URL names, and its name.

    Raises:
        DaoValueError: a URL or options that cannot be used.
    """
    parent, _, name = url.rstrip("/").rpartition("/")
    shown = f"source '{url.split('://')[0]}://…'"  # and no more: there may be a password in it
    if not name or parent.endswith(":/"):
        raise DaoValueError(f"{shown}: names no file; expected one below a bucket or a server")
    if "?" in url or "#" in url:
        raise DaoValueError(
            f"{shown}: an address without '?' and '#' is needed. Give credentials by "
            "source_options, and write '?' in a name as %3F; what has a signature in its address "
            "is to be downloaded"
        )
    return Files(parent, options), unquote(name)


class RemoteFile(io.RawIOBase):
    """A file of a server, for reading at any place.

    What is read is kept in blocks of 1 MiB, the last 64 of them. While it is read in its order,
    more and more is asked for ahead, up to 16 MiB.

    Attributes:
        failure: the last error of the server. HDF5 has words of its own for it.
    """

    def __init__(self, files: Files, name: str, size: int) -> None:
        """Takes the size as it is; asks for nothing yet."""
        self.failure: DaoError | None = None
        self._files, self._name, self._size = files, name, size
        self._at, self._next, self._window = 0, 0, 1
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def readable(self) -> bool:
        """True: it is."""
        return True

    def seekable(self) -> bool:
        """True: it is."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a place, which may be past the end."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fills a buffer with what follows, as far as the file goes."""
        into = memoryview(buffer).cast("B")
        with self._lock:
            stop = min(self._at + len(into), self._size)
            length = max(0, stop - self._at)
            done = 0
            while done < length:
                number, skip = divmod(self._at + done, _BLOCK)
                part = self._block(number, -(-stop // _BLOCK))[skip : skip + length - done]
                into[done : done + len(part)] = part
                done += len(part)
            self._at += length
            return length

    def _block(self, number: int, stop: int) -> bytes:
        """A block of the file; ``stop`` is the first one that this read does not need."""
        found = self._blocks.get(number)
        if found is None:
            self._window = min(2 * self._window, _AHEAD) if number == self._next else 1
            last = max(min(stop, number + _AHEAD), number + self._window)
            self._fetch(number, min(last, -(-self._size // _BLOCK)))
            found = self._blocks[number]
        self._blocks.move_to_end(number)
        return found

    def _fetch(self, first: int, last: int) -> None:
        """Keeps some blocks, which one request asks for, up to one that is kept already."""
        for number in range(first + 1, last):
            if number in self._blocks:
                last = number
                break
        start, stop = first * _BLOCK, min(last * _BLOCK, self._size)
        try:
            parts = self._files.ranges(self._name, [(start, stop)])
            if parts is None:
                raise DaoFileNotFoundError(
                    f"source '{self._files.uri}/{self._name}': is not there any more"
                )
        except DaoError as error:
            self.failure = error
            raise
        self._next = last
        for i, number in enumerate(range(first, last)):
            self._blocks[number] = parts[0][i * _BLOCK : (i + 1) * _BLOCK]
        while len(self._blocks) > max(_KEPT, last - first):
            self._blocks.popitem(last=False)
