"""A matrix to be written, as blocks of bounded size.

Owns what a source matrix looks like (CSR, CSC or dense; numpy, HDF5 or zarr arrays behind it)
and the checks that its parts fit together. Knows no tables and no stores.
"""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..errors import (
    DaoCorruptError,
    DaoError,
    DaoInternalError,
    DaoIOError,
    DaoTypeError,
    DaoValueError,
)

BLOCK_BYTES = 32 << 20
_WIDE_CHUNK_BYTES = 128 << 20

SparseBlock = tuple[np.ndarray, np.ndarray, np.ndarray]


#: Packages whose errors tell of the file, when it is they who read it.
_FILE_READERS = {"h5py", "zarr", "numcodecs", "anndata"}


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turns what h5py, zarr or anndata raise on a damaged file into a DaoCorruptError.

    They have no common base: OSError, KeyError, RuntimeError, codecs' own, whatever pandas makes
    of odd values. So what counts is who was at work: an error in this package's own code, or in
    what it called beside those readers, is a bug.

    Raises:
        DaoIOError: the file may not be read.
        DaoInternalError: a bug of this package.
    """
    try:
        yield
    except (DaoError, MemoryError):
        raise
    except PermissionError as error:
        raise DaoIOError(f"{where}: no permission to read it ({error})") from error
    except Exception as error:
        text = str(error).strip().split("\n")[0] or type(error).__name__
        if not isinstance(error, OSError) and not _raised_by_reader(error):
            raise DaoInternalError(
                f"{where}: reading it failed by a bug in dao-polars ({type(error).__name__}: "
                f"{text}); please report it with the chained traceback"
            ) from error
        raise DaoCorruptError(
            f"{where}: cannot be read ({text}); the file is truncated, damaged or not what its "
            "name says: compare its size and checksum with the original"
        ) from error


def _raised_by_reader(error: BaseException) -> bool:
    """Whether a reader of files was nearer to the error than this package's own code."""
    ours = __name__.split(".")[0]
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = frame.f_globals.get("__name__", "").split(".")[0]
        if package in _FILE_READERS:
            return True
        if package == ours:
            return False
    return False


class MatrixSource(ABC):
    """One matrix of a source.

    Attributes:
        where: file and group, for errors.
        shape: ``(rows, columns)``.
        dtype: as in the source; blocks may be wider (float16 comes as float32).
        layout: ``"csr"``, ``"csc"`` or ``"dense"``: what [`blocks`][] yields.
        nnz: stored entries, None for a dense matrix.
        reorders: whether ``blocks`` can follow an order of rows.
    """

    where: str
    shape: tuple[int, int]
    dtype: np.dtype
    layout: str
    nnz: int | None
    reorders: bool

    @abstractmethod
    def blocks(self, order: np.ndarray | None = None) -> Iterator[Any]:
        """The matrix in order, about 32 MB at a time.

        Yields ``(indptr int64 from 0, indices int32 or int64, data)`` of the next rows (csr) or
        columns (csc), or a C-contiguous 2-D array of the next rows (dense). A row (or column) is
        never split. ``order``: source rows to yield, for a source that ``reorders``.

        Raises:
            DaoCorruptError: indices out of range, or a file that cannot be read.
        """

    @abstractmethod
    def values(self) -> Iterator[np.ndarray]:
        """The values alone, about 32 MB at a time, for a look at their range."""


class SparseSource(MatrixSource):
    """A CSR or CSC matrix: numpy, HDF5 or zarr arrays, sliced as needed."""

    def __init__(
        self, where: str, layout: str, shape: Any, indptr: Any, indices: Any, data: Any
    ) -> None:
        """Reads ``indptr`` and checks it; raises DaoCorruptError if the parts do not fit."""
        self.where = where
        self.layout = layout
        self.shape = _shape(shape, where)
        self.dtype = _numeric(data.dtype, where)
        self.reorders = layout == "csr" and isinstance(data, np.ndarray)
        self._major, self._minor = self.shape if layout == "csr" else self.shape[::-1]
        for name, part in (("indices", indices), ("indptr", indptr)):
            if part.dtype.kind not in "iu":
                raise DaoCorruptError(f"{where}: {name} are {part.dtype}, not integers")
        with reading(where):
            self._indptr = np.asarray(indptr[:]).astype(np.int64)
        self._indices, self._data = indices, data
        self.nnz = self._check()

    def _check(self) -> int:
        indptr, lengths = self._indptr, (self._indices.shape, self._data.shape)
        axis = "rows" if self.layout == "csr" else "columns"
        if indptr.shape != (self._major + 1,):
            raise DaoCorruptError(
                f"{self.where}: indptr must have {self._major + 1} entries for {self._major} "
                f"{axis}, found {indptr.shape}; it is damaged"
            )
        if indptr[0] != 0 or (np.diff(indptr) < 0).any():
            raise DaoCorruptError(
                f"{self.where}: indptr must start at 0 and never decrease; it is damaged"
            )
        nnz = int(indptr[-1])
        if lengths != ((nnz,), (nnz,)):
            raise DaoCorruptError(
                f"{self.where}: indptr promises {nnz} entries, indices and data have shapes "
                f"{lengths[0]} and {lengths[1]}; it is truncated or damaged"
            )
        return nnz

    def blocks(self, order: np.ndarray | None = None) -> Iterator[SparseBlock]:
        """The matrix in order, in blocks; see [`MatrixSource.blocks`][]."""
        lengths = np.diff(self._indptr) if order is None else np.diff(self._indptr)[order]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        entry_bytes = self._indices.dtype.itemsize + max(self.dtype.itemsize, 4)
        for start, stop in _runs(ends, BLOCK_BYTES // entry_bytes):
            indptr = ends[start : stop + 1] - ends[start]
            if order is None:
                at: Any = slice(int(ends[start]), int(ends[stop]))
            else:
                firsts = self._indptr[order[start:stop]] - indptr[:-1]
                at = np.repeat(firsts, lengths[start:stop]) + np.arange(indptr[-1])
            with reading(self.where):
                indices, data = np.asarray(self._indices[at]), np.asarray(self._data[at])
            yield indptr, self._checked(indices, start), _native(data)

    def _checked(self, indices: np.ndarray, start: int) -> np.ndarray:
        if indices.size and (indices.min() < 0 or indices.max() >= self._minor):
            bad = indices[(indices < 0) | (indices >= self._minor)][0]
            axis, other = ("row", "columns") if self.layout == "csr" else ("column", "rows")
            raise DaoCorruptError(
                f"{self.where}: index {bad} at or after {axis} {start} is out of range: the matrix "
                f"has {self._minor} {other}; it is damaged"
            )
        wide = indices.dtype.itemsize > 4
        return np.ascontiguousarray(indices, dtype=np.int64 if wide else np.int32)

    def values(self) -> Iterator[np.ndarray]:
        """The values alone, in blocks; see [`MatrixSource.values`][]."""
        step = BLOCK_BYTES // max(self.dtype.itemsize, 4)
        for start in range(0, self.nnz or 0, step):
            with reading(self.where):
                values = np.asarray(self._data[start : start + step])
            yield _native(values)


class DenseSource(MatrixSource):
    """Dense rows: a 2-D numpy, HDF5 or zarr array, sliced as needed."""

    layout = "dense"
    nnz = None

    def __init__(self, where: str, array: Any) -> None:
        """Takes the array as it is; reads nothing yet."""
        self.where = where
        self.shape = _shape(array.shape, where)
        self.dtype = _numeric(array.dtype, where)
        self.reorders = isinstance(array, np.ndarray)
        self._array = np.asarray(array) if self.reorders else array

    def blocks(self, order: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """The matrix in order, in blocks; see [`MatrixSource.blocks`][]."""
        step = self._step()
        for start in range(0, self.shape[0], step):
            at = slice(start, min(start + step, self.shape[0]))
            with reading(self.where):
                block = np.asarray(self._array[at if order is None else order[at]])
            yield _native(block)

    def _step(self) -> int:
        """The rows of a block: whole chunks where they are not too large, so none is read twice."""
        row_bytes = max(1, self.shape[1] * max(self.dtype.itemsize, 4))
        step = max(1, BLOCK_BYTES // row_bytes)
        chunks = getattr(self._array, "shards", None) or getattr(self._array, "chunks", None)
        tall = int(chunks[0]) if chunks else 1
        if tall > step:
            return tall if tall * row_bytes <= _WIDE_CHUNK_BYTES else step
        return step - step % max(tall, 1)

    def values(self) -> Iterator[np.ndarray]:
        """The values alone, in blocks; see [`MatrixSource.values`][]."""
        return self.blocks()


def from_array(array: Any, where: str) -> MatrixSource:
    """The source for a matrix object: numpy, scipy sparse, an HDF5 or zarr array or group.

    Raises:
        DaoTypeError: an object of another kind (dask, cupy, a lazy array), or not of numbers.
    """
    import scipy.sparse

    if isinstance(array, np.ndarray):
        if isinstance(array, np.ma.MaskedArray):
            raise DaoTypeError(f"{where}: a masked array; fill it first (x.filled(0))")
        return DenseSource(where, np.asarray(array))
    if scipy.sparse.issparse(array):
        if array.ndim != 2:
            raise DaoValueError(f"{where}: must have 2 dimensions, has {array.ndim}")
        cs = array if array.format in ("csr", "csc") else array.tocsr()
        return SparseSource(where, cs.format, cs.shape, cs.indptr, cs.indices, cs.data)
    if hasattr(array, "group") and hasattr(array, "to_memory"):  # anndata's CSRDataset, CSCDataset
        array = array.group
    package = type(array).__module__.split(".")[0]
    if package not in ("h5py", "zarr"):
        hint = "call .compute() on it first" if package == "dask" else "make it numpy or scipy"
        raise DaoTypeError(
            f"{where}: is a {package} {type(array).__name__}, which cannot be written as it is; "
            f"{hint}, or write it to .h5ad or .zarr and give the path"
        )
    if hasattr(array, "shape"):
        return DenseSource(where, array)
    return _from_group(array, where)


def _from_group(group: Any, where: str) -> MatrixSource:
    """A sparse matrix in an HDF5 or zarr group, as anndata (0.6 and later) writes it."""
    with reading(where):
        encoding = group.attrs.get("encoding-type") or group.attrs.get("h5sparse_format", "")
        if isinstance(encoding, bytes):
            encoding = encoding.decode(errors="replace")
    layout = str(encoding).removesuffix("_matrix")
    if layout not in ("csr", "csc"):
        raise DaoTypeError(
            f"{where}: holds {encoding or 'a group of no known encoding'}, not a matrix; "
            "csr_matrix, csc_matrix and arrays can be written"
        )
    with reading(where):
        shape = group.attrs["shape"] if "shape" in group.attrs else group.attrs["h5sparse_shape"]
    indptr, indices, data = (member_array(group, n, where) for n in ("indptr", "indices", "data"))
    return SparseSource(where, layout, shape, indptr, indices, data)


def member_array(group: Any, name: str, where: str) -> Any:
    """An array in an HDF5 or zarr group, unread.

    Raises:
        DaoCorruptError: there is none, or another kind of thing.
    """
    with reading(where):
        array = group[name]
    if not hasattr(array, "shape"):
        raise DaoCorruptError(f"{where}: {name!r} is a group, not an array; it is damaged")
    return array


def _runs(ends: np.ndarray, entries: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows with at most ``entries`` entries each, but at least one row."""
    start, rows = 0, len(ends) - 1
    while start < rows:
        stop = int(np.searchsorted(ends, ends[start] + entries, side="right")) - 1
        stop = min(max(stop, start + 1), start + entries, rows)
        yield start, stop
        start = stop


def _shape(shape: Any, where: str) -> tuple[int, int]:
    try:
        sizes = tuple(int(size) for size in shape)
    except (TypeError, ValueError):
        raise DaoCorruptError(f"{where}: {shape!r} is no shape; it is damaged") from None
    if len(sizes) != 2:
        raise DaoValueError(f"{where}: must have 2 dimensions, has shape {sizes}")
    return sizes


def _numeric(found: Any, where: str) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(found)
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        hint = ".real" if dtype.kind == "c" else ".astype('float32')"
        raise DaoTypeError(
            f"{where}: holds {dtype}, not numbers that can be stored (bool, integers, floats up "
            f"to 64 bits); convert it, for example with {hint}"
        )
    return dtype


def _native(values: np.ndarray) -> np.ndarray:
    """An array C-contiguous and in this machine's byte order; float16 becomes float32."""
    dtype = np.float32 if values.dtype == np.float16 else values.dtype.newbyteorder("=")
    return np.ascontiguousarray(values, dtype=dtype)
