"""A matrix to be written, as blocks of bounded size.

Owns what a source matrix looks like (CSR, CSC or dense; numpy, HDF5 or zarr arrays behind it)
and the checks that its parts fit together. Knows no tables and no stores.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from .._extras import require
from ..errors import (
    DaoCorruptError,
    DaoError,
    DaoFileNotFoundError,
    DaoInternalError,
    DaoIOError,
    DaoTypeError,
    DaoValueError,
)
from .hdf5_chunks import in_chunks
from .matrix import Matrix, Placed, placed

BLOCK_BYTES = 32 << 20
_WIDE_CHUNK_BYTES = 128 << 20

#: Packages whose errors tell of the file, when it is they who read it.
_FILE_READERS = {"h5py", "zarr", "numcodecs", "anndata"}


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turns what h5py, zarr or anndata raise on a damaged file into a DaoCorruptError.

    They have no common base: OSError, KeyError, RuntimeError, codecs' own, whatever pandas makes
    of odd values. So what counts is who was at work: an error in this package's own code, or in
    what it called beside those readers, is a bug.

    Raises:
        DaoIOError: the file may not be read, or memory does not hold what it is said to be.
        DaoInternalError: a bug of this package.
    """
    try:
        yield
    except DaoError:
        raise
    except MemoryError as error:
        raise DaoIOError(
            f"{where}: does not fit into memory ({error}); the file is damaged and claims what it "
            "does not hold, or this machine has too little"
        ) from error
    except PermissionError as error:
        raise DaoIOError(f"{where}: no permission to read it ({error})") from error
    except Exception as error:
        if (of_server := _of_server(error)) is not None:
            raise of_server from error
        text = str(error).strip().split("\n")[0] or type(error).__name__
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        callers = [frame.f_globals.get("__name__", "").split(".")[0] for frame in frames[::-1]]
        ours = __name__.split(".")[0]
        nearest = next((name for name in callers if name in {ours, *_FILE_READERS}), ours)
        if not isinstance(error, OSError) and nearest == ours:
            raise DaoInternalError(
                f"{where}: reading it failed by a bug in dao-polars ({type(error).__name__}: "
                f"{text}); please report it with the chained traceback"
            ) from error
        raise DaoCorruptError(
            f"{where}: cannot be read ({text}); the file is truncated, damaged or not what its "
            "name says: compare its size and checksum with the original"
        ) from error


def _of_server(error: BaseException) -> DaoError | None:
    """The error of a server, in the words of whoever read from it."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, DaoIOError | DaoFileNotFoundError):
        found = found.__cause__ or found.__context__
    return found


class SparseSource:
    """A CSR or CSC matrix: numpy, HDF5 or zarr arrays, sliced as needed.

    Attributes:
        where: file and group, for errors.
        layout: ``"csr"`` or ``"csc"``.
        shape: ``(rows, columns)``.
        dtype: as in the source; blocks may be wider (float16 comes as float32).
        size: the number of entries that are read.
        in_memory: whether reading is nothing but looking.
        column_names: None: a sparse matrix's columns have no names of their own.
        reorders: whether ``ranges`` can follow an order of rows.
    """

    column_names: list[str] | None = None

    def __init__(
        self, where: str, layout: str, shape: Any, indptr: Any, indices: Any, data: Any
    ) -> None:
        """Reads ``indptr`` and checks it; raises DaoCorruptError if the parts do not fit."""
        self.where, self.layout = where, layout
        self.shape = _shape(shape, where)
        self.dtype = _numeric(data.dtype, where)
        taken_as_they_are = _is_native(indices, "int32", "int64") and _is_native(data)
        self.reorders = layout == "csr" and taken_as_they_are
        major, self._minor = self.shape if layout == "csr" else self.shape[::-1]
        for name, part in (("indices", indices), ("indptr", indptr)):
            if part.dtype.kind not in "iu":
                raise DaoCorruptError(f"{where}: {name} are {part.dtype}, not integers")
        with reading(where):
            self._indptr = np.asarray(indptr[:]).astype(np.int64)
        self._indices, self._data = in_chunks(indices), in_chunks(data)
        self.in_memory = isinstance(data, np.ndarray)
        if self._indptr.shape != (major + 1,):
            raise DaoCorruptError(
                f"{where}: indptr must have {major + 1} entries for {major} "
                f"{'rows' if layout == 'csr' else 'columns'}, found {self._indptr.shape}; it is "
                "damaged"
            )
        if self._indptr[0] != 0 or (np.diff(self._indptr) < 0).any():
            raise DaoCorruptError(
                f"{where}: indptr must start at 0 and never decrease; it is damaged"
            )
        self.size = int(self._indptr[-1])
        if indices.shape != (self.size,) or data.shape != (self.size,):
            raise DaoCorruptError(
                f"{where}: indptr promises {self.size} entries, indices and data have shapes "
                f"{indices.shape} and {data.shape}; it is truncated or damaged"
            )

    def placed(self, order: np.ndarray | None) -> Placed:
        """The order to read rows in that become those in ``order``, and the place of each."""
        return placed(order, self.reorders)

    def ranges(
        self, order: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """The rows in ``order``, about 32 MB at a time, where ``reorders``.

        Yields ``(starts, stops, indices, data)``: where the next rows begin and end, int64, in the
        arrays of the whole matrix, whose indices nobody has looked at.
        """
        starts, stops = self._indptr[order], self._indptr[order + 1]
        ends = np.concatenate([[0], np.cumsum(stops - starts)])
        for first, last in _runs(ends, self._entries()):
            yield starts[first:last], stops[first:last], self._indices, self._data

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The matrix in order, about 32 MB at a time.

        Yields ``(indptr int64 from 0, indices int32 or int64, data)`` of the next rows (csr) or
        columns (csc). None is ever split.

        Raises:
            DaoCorruptError: indices out of range, or a file that cannot be read.
        """
        ends = self._indptr
        for start, stop in _runs(ends, self._entries()):
            indptr = ends[start : stop + 1] - ends[start]
            at = slice(int(ends[start]), int(ends[stop]))
            with reading(self.where):
                indices = _native(np.asarray(self._indices[at]))
                data = _native(np.asarray(self._data[at]))
            # what is below zero is large without its sign: one look at each
            unsigned = indices.view(f"u{indices.dtype.itemsize}")
            if unsigned.size and unsigned.max() >= self._minor:
                outside = (indices < 0) | (indices >= self._minor)
                axis, other = ("row", "columns") if self.layout == "csr" else ("column", "rows")
                raise DaoCorruptError(
                    f"{self.where}: index {indices[outside][0]} at or after {axis} {start} is out "
                    f"of range: the matrix has {self._minor} {other}; it is damaged"
                )
            wide = indices.dtype.itemsize > 4 or indices.dtype == np.uint32
            yield indptr, indices.astype(np.int64 if wide else np.int32, copy=False), data

    def _entries(self) -> int:
        """The entries of a block."""
        return BLOCK_BYTES // int(self._indices.dtype.itemsize + max(self.dtype.itemsize, 4))

    def values(self) -> Generator[np.ndarray]:
        """The values alone, about 32 MB at a time, for a look at their range."""
        step = BLOCK_BYTES // max(self.dtype.itemsize, 4)
        for start in range(0, self.size, step):
            with reading(self.where):
                values = np.asarray(self._data[start : start + step])
            yield _native(values)


class DenseSource:
    """Dense rows: a 2-D numpy, HDF5 or zarr array, sliced as needed; see ``SparseSource``."""

    layout = "dense"

    def __init__(self, where: str, array: Any, column_names: list[str] | None = None) -> None:
        """Takes the array as it is; reads nothing yet."""
        self.where, self.column_names = where, column_names
        self.shape = _shape(array.shape, where)
        self.dtype = _numeric(array.dtype, where)
        self.size = self.shape[0] * self.shape[1]
        self.reorders = self.in_memory = isinstance(array, np.ndarray)
        self._array = array

    def placed(self, order: np.ndarray | None) -> Placed:
        """The order to read rows in that become those in ``order``, and the place of each."""
        return placed(order, self.reorders)

    def blocks(self, order: np.ndarray | None = None) -> Generator[np.ndarray]:
        """The matrix in order, or its rows in ``order``, about 32 MB at a time: C-contiguous rows.

        Raises:
            DaoCorruptError: a file that cannot be read.
        """
        step = self._step()
        for start in range(0, self.shape[0], step):
            at = slice(start, min(start + step, self.shape[0]))
            with reading(self.where):
                block = np.asarray(self._array[at if order is None else order[at]])
            yield _native(block)

    values = blocks

    def _step(self) -> int:
        """The rows of a block: whole chunks where they are not too large, so none is read twice."""
        row_bytes = max(1, self.shape[1] * max(self.dtype.itemsize, 4))
        step = max(1, BLOCK_BYTES // row_bytes)
        chunks = getattr(self._array, "shards", None) or getattr(self._array, "chunks", None)
        tall = max(1, int(chunks[0])) if chunks else 1
        whole = max(tall, step - step % tall)
        return whole if whole * row_bytes <= _WIDE_CHUNK_BYTES else step


MatrixSource = SparseSource | DenseSource

_T = TypeVar("_T")


def work_through(blocks: Iterator[_T], matrix: Matrix, work: Callable[[_T], object]) -> None:
    """Calls ``work`` with each block of a matrix, while a thread reads the next one.

    So there are two at a time. A small matrix needs no thread, nor one that is in memory.
    """
    if matrix.in_memory or matrix.size * max(matrix.dtype.itemsize, 4) <= BLOCK_BYTES:
        for block in blocks:
            work(block)
        return
    with ThreadPoolExecutor(1, "dao-read") as reader:
        following = reader.submit(next, blocks, None)
        while (found := following.result()) is not None:
            following = reader.submit(next, blocks, None)
            work(found)


def from_array(array: Any, where: str) -> MatrixSource:
    """The source for a matrix object: numpy, scipy sparse, pandas, an HDF5 or zarr array or group.

    Raises:
        DaoTypeError: an object of another kind (dask, cupy, a lazy array), or not of numbers.
    """
    import scipy.sparse

    if isinstance(array, np.ma.MaskedArray):
        raise DaoTypeError(f"{where}: a masked array; fill it first (x.filled(0))")
    if isinstance(array, np.ndarray):
        return DenseSource(where, np.asarray(array))
    if scipy.sparse.issparse(array):
        if array.ndim != 2:
            raise DaoValueError(f"{where}: must have 2 dimensions, has {array.ndim}")
        cs = array if array.format in ("csr", "csc") else array.tocsr()
        return SparseSource(where, cs.format, cs.shape, cs.indptr, cs.indices, cs.data)
    if hasattr(array, "columns") and hasattr(array, "iloc"):
        names = [str(column) for column in array.columns]
        return DenseSource(where, _frame_values(array, where), names)
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
    """A matrix in an HDF5 or zarr group, as anndata (0.6 and later) writes it."""
    with reading(where):
        attributes = dict(group.attrs)
    encoding = attributes.get("encoding-type") or attributes.get("h5sparse_format", "")
    if isinstance(encoding, bytes):
        encoding = encoding.decode(errors="replace")
    if encoding == "dataframe":
        return from_array(read_element(group, where), where)
    layout = str(encoding).removesuffix("_matrix")
    if layout not in ("csr", "csc"):
        raise DaoTypeError(
            f"{where}: holds {encoding or 'a group of no known encoding'}, not a matrix; "
            "csr_matrix, csc_matrix and arrays can be written"
        )
    shape = attributes.get("shape", attributes.get("h5sparse_shape"))
    indptr, indices, data = (member_array(group, n, where) for n in ("indptr", "indices", "data"))
    return SparseSource(where, layout, shape, indptr, indices, data)


def read_element(element: Any, where: str) -> Any:
    """An element of an HDF5 file or zarr group, whole, as anndata reads it, of any version."""
    read_elem = require("anndata.io", "reading AnnData files").read_elem
    with reading(where), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the file is old: such are what we are to convert
        return read_elem(element)


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


def _frame_values(frame: Any, where: str) -> np.ndarray:
    """A pandas frame as the matrix of its columns."""
    other = [c for c, dtype in frame.dtypes.items() if getattr(dtype, "kind", "O") not in "biuf"]
    if other:
        raise DaoTypeError(
            f"{where}: column {other[0]!r} is {frame.dtypes[other[0]]}, and only frames of numbers "
            "can be stored as a matrix; move that column to obs, or leave this obsm out"
        )
    if all(isinstance(dtype, np.dtype) for dtype in frame.dtypes):
        return np.asarray(frame, dtype=np.result_type(np.bool_, *frame.dtypes))
    return np.asarray(frame.to_numpy(dtype=np.float64, na_value=np.nan))


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
    except (TypeError, ValueError, OverflowError):
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


def _is_native(array: Any, *dtypes: str) -> bool:
    """Whether an array is in memory as the core takes it, of one of ``dtypes`` if there are any."""
    if not isinstance(array, np.ndarray) or not array.flags.c_contiguous:
        return False
    is_taken = array.dtype.name in dtypes if dtypes else array.dtype.name not in ("bool", "float16")
    return is_taken and array.dtype.isnative


def _native(values: np.ndarray) -> np.ndarray:
    """An array C-contiguous and in this machine's byte order; float16 becomes float32."""
    dtype = np.float32 if values.dtype == np.float16 else values.dtype.newbyteorder("=")
    return np.ascontiguousarray(values, dtype=dtype)
