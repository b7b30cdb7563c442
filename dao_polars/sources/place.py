"""Where a study lies, on this machine or behind a URL, and how h5py or zarr open it.

Owns that it is there and of a kind that is known. What is in it is `source`'s.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .._core import Files
from .._extras import require
from ..errors import DaoCorruptError, DaoFileNotFoundError, DaoIOError, DaoValueError
from .matrix_source import reading
from .remote import RemoteFile, split

SUPPORTED = "expected an AnnData, or a path or URL of an .h5ad, an AnnData .zarr or a 10x .h5"
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass
class Place:
    """A file, or a folder that is a zarr group.

    Attributes:
        where: what errors call it.
        path: what the store remembers of it: a path, or the name of a file behind a URL.
        size: the bytes of that file, and None on this machine.
        stem: the name of a dataset that is given none.
        is_file: whether it is an HDF5 file, and not a zarr group.
    """

    where: str
    path: str | None
    stem: str
    is_file: bool
    size: int | None

    def open(self, stack: ExitStack) -> Any:
        """The root group, which ``stack`` closes."""
        raise NotImplementedError


@dataclass
class _OfPath(Place):
    local: Path

    def open(self, stack: ExitStack) -> Any:
        with reading(self.where):
            return (
                stack.enter_context(_open_hdf5(self.local))
                if self.is_file
                else _open_zarr(self.local)
            )


@dataclass
class _OfUrl(Place):
    files: Files
    name: str

    def open(self, stack: ExitStack) -> Any:
        if not self.is_file:
            return self._open_zarr()
        h5py = require("h5py", f"reading {self.name}")
        file = stack.enter_context(RemoteFile(self.files, self.name, self.size or 0))
        if not _is_hdf5(file):
            raise DaoCorruptError(
                f"source {self.where!r}: not an HDF5 file (truncated, compressed as a whole, or of "
                f"another kind); {SUPPORTED}{other_reader(Path(self.name))}"
            )
        with reading(self.where):
            return stack.enter_context(h5py.File(file, "r"))

    def _open_zarr(self) -> Any:
        zarr = require("zarr", f"reading {self.name}")
        if int(zarr.__version__.split(".")[0]) < 3:
            raise DaoValueError(
                f"source {self.where!r}: a zarr group behind a URL is read with zarr 3 and later, "
                f"found {zarr.__version__}: pip install 'zarr>=3'"
            )
        from .remote_zarr import RemoteZarr, is_zarr

        if not is_zarr(self.files, self.name):
            raise DaoFileNotFoundError(
                f"source {self.where!r}: no such file, and no zarr group; {SUPPORTED}"
            )
        with reading(self.where):
            return zarr.open_group(RemoteZarr(self.files, self.name), mode="r")


def at_path(path: Path) -> Place:
    """A file or folder of this machine.

    Raises:
        DaoFileNotFoundError: there is none.
    """
    if not path.exists():
        raise DaoFileNotFoundError(f"source {str(path)!r}: no such file or directory")
    return _OfPath(str(path), str(path.absolute()), path.stem, path.is_file(), None, path)


def at_url(url: str, options: dict[str, str]) -> Place:
    """A file or folder behind a URL.

    Raises:
        DaoValueError: a URL or options that cannot be used.
        DaoIOError: a network or server that fails.
    """
    files, name = split(url, options)
    where = f"{files.uri}/{name}"
    # Some servers have a page for a folder.
    size = None if name.endswith(".zarr") else files.size(name)
    is_file = size is not None
    path = name if is_file else None
    return _OfUrl(where, path, PurePosixPath(name).stem, is_file, size, files, name)


def _is_hdf5(file: RemoteFile) -> bool:
    """Whether a file begins as HDF5 does, maybe after a block of something else."""
    at, size = 0, file.seek(0, 2)
    while at < min(size, 1 << 20):
        file.seek(at)
        if file.read(len(_HDF5)) == _HDF5:
            return True
        at = max(512, 2 * at)
    return False


def _open_hdf5(path: Path) -> Any:
    h5py = require("h5py", f"reading {path.name}")
    if not h5py.is_hdf5(path):
        raise DaoCorruptError(
            f"source {str(path)!r}: not an HDF5 file (empty, truncated, compressed as a whole, or "
            f"of another kind); {SUPPORTED}{other_reader(path)}"
        )
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "unable to lock" not in str(error):
            raise
        raise DaoIOError(f"source {str(path)!r}: in use by another program: {error}") from error


def _open_zarr(path: Path) -> Any:
    if not any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata")):
        raise DaoValueError(
            f"source {str(path)!r}: a directory that is no zarr group; "
            f"{SUPPORTED}{other_reader(path)}"
        )
    return require("zarr", f"reading {path.name}").open_group(str(path), mode="r")


def other_reader(path: Path) -> str:
    """Who reads files of another kind into an AnnData, which is then written."""
    kind = ".mtx" if any(path.glob("matrix.mtx*")) else path.name.lower().removesuffix(".gz")
    readers = {
        (".mtx",): "scanpy.read_10x_mtx",
        (".csv",): "scanpy.read_csv",
        (".tsv", ".txt", ".tab"): "scanpy.read_text",
        (".loom",): "anndata.io.read_loom",
        (".rds", ".h5seurat", ".rdata"): "R's anndataR or zellkonverter, to an .h5ad",
    }
    for suffixes, reader in readers.items():
        if kind.endswith(suffixes):
            return f". Read it with {reader} and write what that gives"
    return ""
