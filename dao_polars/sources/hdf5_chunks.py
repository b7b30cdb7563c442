"""A compressed array of an HDF5 file, decompressed on all cores.

HDF5 decompresses on one core, under a lock that holds all other readers up. Here it reads chunks as
they are stored, and the core decompresses many at a time. Owns which datasets that is for; what it
cannot do, or finds broken, HDF5 reads itself: the errors are its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._core import decode_hdf5_chunks
from ..errors import DaoError

_CODES = {1: "gzip", 2: "shuffle", 32000: "lzf"}
_CHUNK_BYTES = 4 << 20  # of larger ones, too much is decompressed twice


def in_chunks(array: Any) -> Any:
    """The array, or one on it whose slices are decompressed on all cores, where that can be."""
    filters = _filters(array)
    return array if filters is None else _Chunked(array, filters)


def _filters(array: Any) -> list[str] | None:
    """The filters of a dataset that the core decompresses."""
    if type(array).__module__.split(".")[0] != "h5py" or not hasattr(array, "id"):
        return None
    if array.chunks is None or array.ndim != 1 or array.dtype.kind not in "iuf":
        return None
    size = array.chunks[0] * array.dtype.itemsize
    if array.dtype == np.float16 or size > _CHUNK_BYTES:
        return None
    creation = array.id.get_create_plist()
    codes = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
    if not array.dtype.isnative or not codes or not _CODES.keys() >= set(codes):
        return None
    return [_CODES[code] for code in codes]


class _Chunked:
    """A one-dimensional HDF5 dataset; see the module."""

    def __init__(self, dataset: Any, filters: list[str]) -> None:
        self.shape, self.dtype, self.chunks = dataset.shape, dataset.dtype, dataset.chunks
        self._dataset, self._filters = dataset, filters

    def __getitem__(self, at: slice) -> np.ndarray:
        start, stop, _ = at.indices(self.shape[0])
        length = self.chunks[0]
        first = start - start % length
        out = np.empty(max(stop - start, 0), self.dtype)
        try:
            read = self._dataset.id.read_direct_chunk
            chunks = [read((begin,)) for begin in range(first, stop, length)] if out.size else []
            decode_hdf5_chunks(chunks, self._filters, length, start - first, out)
        except (DaoError, OSError, RuntimeError, ValueError):
            out = np.asarray(self._dataset[at])  # chunks that were never written, damage
        return out
