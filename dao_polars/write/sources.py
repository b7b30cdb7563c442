"""Where the cells of a new dataset come from: AnnData in memory, .h5ad, AnnData .zarr, 10x .h5.

Owns opening these and naming their parts; matrices come as [`MatrixSource`][]s, unread. Knows
nothing of stores. Never reads a whole matrix at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._core import MatrixName
from .._extras import require
from ..errors import (
    DaoCorruptError,
    DaoFileNotFoundError,
    DaoIOError,
    DaoKeyError,
    DaoTypeError,
    DaoValueError,
)
from .anndata_parts import FileParts, MemoryParts, Parts
from .matrix_source import MatrixSource, from_array, reading
from .sources_10x import is_10x, read_10x

if TYPE_CHECKING:
    import pandas as pd

Names = str | Sequence[str] | bool

_SUPPORTED = "expected an AnnData, or a path to an .h5ad, an AnnData .zarr or a 10x .h5"


class Source:
    """Cells to be written: two tables, uns, and matrices by name.

    Attributes:
        where: the path, or ``"the AnnData"``, for errors.
        name: the file's stem, None in memory.
        obs, var: pandas frames; var is that of the chosen layer (raw has its own).
        matrices: by name, X first, then layers and obsm as asked for.
        left_out: what of the source is in none of these, in words.
    """

    def __init__(
        self,
        where: str,
        obs: pd.DataFrame,
        var: pd.DataFrame,
        matrices: Mapping[MatrixName, MatrixSource],
        read_uns: Callable[[], dict[str, Any]],
        name: str | None = None,
        left_out: Sequence[str] = (),
    ) -> None:
        """Checks that the shapes agree; raises DaoCorruptError if they do not."""
        self.where, self.name, self.left_out = where, name, left_out
        self.obs, self.var = obs, var
        self.matrices = dict(matrices)
        self._read_uns = read_uns
        self._close = ExitStack()
        for key, matrix in self.matrices.items():
            columns = self.n_vars if key.is_of_genes else matrix.shape[1]
            if matrix.shape != (self.n_obs, columns):
                raise DaoCorruptError(
                    f"{matrix.where}: has shape {matrix.shape}, and there are {self.n_obs} cells "
                    f"in obs and {self.n_vars} genes in var"
                )

    @property
    def n_obs(self) -> int:
        """The number of cells."""
        return len(self.obs)

    @property
    def n_vars(self) -> int:
        """The number of genes of X and the layers."""
        return len(self.var)

    @cached_property
    def uns(self) -> dict[str, Any]:
        """AnnData's uns, read when first used."""
        return self._read_uns()

    def __enter__(self) -> Source:
        """The source itself; its file is closed on exit."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the file."""
        self._close.close()


def open_source(
    source: Any, *, layer: str | None = None, layers: Names = (), obsm: Names = True
) -> Source:
    """Opens a source (a context manager); checks everything but the matrices' entries.

    Args:
        source: an AnnData (views and backed ones too), or a path to an .h5ad, an AnnData .zarr
            (zarr format 2 or 3) or a 10x .h5.
        layer: what X is: None for the source's X, ``"raw"`` for its raw (with raw's var), or a
            layer's name (``"layers/raw"`` for a layer that is called raw).
        layers: layers to keep as such: a name, several, or True for all.
        obsm: cell embeddings to keep, likewise. With True, one that is no matrix of numbers is
            left out.

    Raises:
        DaoTypeError: a source, or a matrix in it, of a kind that cannot be written.
        DaoFileNotFoundError: no such path.
        DaoKeyError: a layer or obsm that the source does not have.
        DaoValueError: X is missing, or the file holds something else.
        DaoCorruptError: a damaged file, or parts that do not fit together.
    """
    if isinstance(source, str | os.PathLike):
        return _open_path(os.fspath(source), layer, layers, obsm)
    if type(source).__module__.split(".")[0] == "anndata" and hasattr(source, "obs_names"):
        return _assemble(MemoryParts(source), None, layer, layers, obsm)
    kind = f"{type(source).__module__}.{type(source).__name__}"
    hint = "pass one of its modalities, mdata['rna']" if kind.startswith("mudata.") else _SUPPORTED
    raise DaoTypeError(f"source: cannot write cells from a {kind}; {hint}")


def _open_path(given: str | bytes, layer: str | None, layers: Names, obsm: Names) -> Source:
    text = os.fsdecode(given)
    if "://" in text and not text.startswith("file://"):
        raise DaoValueError(f"source {text!r}: sources are local files; download it first")
    path = Path(text.removeprefix("file://")).expanduser()
    if not path.exists():
        raise DaoFileNotFoundError(f"source {str(path)!r}: no such file or directory")
    where = str(path)
    with ExitStack() as stack, reading(where):
        if path.is_dir():
            root: Any = _open_zarr(path)
        else:
            root = stack.enter_context(_open_hdf5(path))
        if path.is_file() and "obs" not in root and is_10x(root):
            require("pandas", "reading a 10x .h5")
            obs, var, matrix, left_out = read_10x(root, where)
            _pick([layer] if layer else [], [], "layers", where)
            _pick(layers, [], "layers", where)
            _pick(obsm, [], "obsm", where)
            source = Source(where, obs, var, {MatrixName.X: matrix}, dict, path.stem, left_out)
        else:
            _check_root(root, where)
            source = _assemble(FileParts(root, where), path.stem, layer, layers, obsm)
        source._close = stack.pop_all()
    return source


def _open_hdf5(path: Path) -> Any:
    h5py = require("h5py", f"reading {path.name}")
    if not h5py.is_hdf5(path):
        raise DaoCorruptError(
            f"source {str(path)!r}: not an HDF5 file (empty, truncated, compressed as a whole, or "
            f"of another kind); {_SUPPORTED}"
        )
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "unable to lock" in str(error):
            raise DaoIOError(f"source {str(path)!r}: in use by another program: {error}") from error
        with reading(f"source {str(path)!r}"):
            raise


def _open_zarr(path: Path) -> Any:
    if not any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata")):
        raise DaoValueError(
            f"source {str(path)!r}: a directory that is no zarr group; {_SUPPORTED}"
        )
    zarr = require("zarr", f"reading {path.name}")
    with reading(f"source {str(path)!r}"):
        return zarr.open_group(str(path), mode="r")


def _check_root(root: Any, where: str) -> None:
    with reading(where):
        keys = sorted(root.keys())
    if "obs" in keys and "var" in keys and "mod" not in keys:
        return
    found = f"found {', '.join(keys[:8]) or 'nothing'} in it"
    hint = "it looks like MuData: write one modality at a time" if "mod" in keys else found
    raise DaoValueError(
        f"source {where!r}: neither an AnnData (groups obs and var) nor a 10x matrix; {hint}"
    )


# --- which parts of an AnnData are taken


def _assemble(
    parts: Parts, name: str | None, layer: str | None, layers: Names, obsm: Names
) -> Source:
    require("anndata", "writing a dataset from AnnData")
    x_key = _x_key(parts, layer)
    kept = _pick(layers, parts.layers, "layers", parts.where)
    if kept and x_key == "raw/X":
        raise DaoValueError(
            f"{parts.where}: layer='raw' has genes of its own, which the layers do not share; "
            "write layers=() with it"
        )
    matrices = {MatrixName.X: _matrix(parts, x_key)}
    for layer_name in map(MatrixName.layer, kept):
        matrices[layer_name] = _matrix(parts, str(layer_name))
    embeddings, refused = _embeddings(parts, obsm)
    return Source(
        parts.where,
        parts.table("obs"),
        parts.table("raw/var" if x_key == "raw/X" else "var"),
        matrices | embeddings,
        parts.uns,
        name,
        _left_out(parts, x_key, {x_key, *map(str, matrices), *map(str, embeddings)}, refused),
    )


def _x_key(parts: Parts, layer: str | None) -> str:
    """The part that becomes X."""
    if layer is None:
        return "X"
    if not isinstance(layer, str):
        raise DaoTypeError(f"layer: expected a name or None, found {type(layer).__name__}")
    if layer == "raw" and parts.has_raw:
        return "raw/X"
    return "layers/" + _pick(layer.removeprefix("layers/"), parts.layers, "layers", parts.where)[0]


def _embeddings(parts: Parts, obsm: Names) -> tuple[dict[MatrixName, MatrixSource], dict[str, str]]:
    """The obsm to keep; and, where all are wanted, why some of them cannot be."""
    found, refused = {}, {}
    for name in parts.obsm if obsm is True else _pick(obsm, parts.obsm, "obsm", parts.where):
        try:
            _check_name(name, "obsm", parts.where)
            found[MatrixName.obsm(name)] = _matrix(parts, f"obsm/{name}")
        except (DaoTypeError, DaoValueError) as error:
            if obsm is not True:
                raise
            refused[name] = str(error).split("; ")[0]
    return found, refused


def _left_out(parts: Parts, x_key: str, kept: set[str], refused: dict[str, str]) -> list[str]:
    """The parts of a source that are not kept, in words; looks only at names."""
    found = []
    if x_key != "X" and parts.has_x:
        found.append("X")
    if x_key != "raw/X" and parts.has_raw:
        found.append("raw (layer='raw' writes it as X)")
    layers = [name for name in parts.layers if f"layers/{name}" not in kept]
    hint = "" if x_key == "raw/X" else " (layers=True keeps them)"
    found += _named("layers", layers, hint)
    for group, names in parts.others.items():
        if group != "raw/varm" or x_key == "raw/X":
            found += _named(group, names)
    unasked = [n for n in parts.obsm if f"obsm/{n}" not in kept and n not in refused]
    found += _named("obsm", unasked, " (obsm=True keeps them)")
    return found + [f"obsm {name!r} ({reason})" for name, reason in refused.items()]


def _named(group: str, names: Sequence[str], hint: str = "") -> list[str]:
    shown = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
    return [f"{group} {shown}{hint}"] if names else []


def _matrix(parts: Parts, key: str) -> MatrixSource:
    where = parts.label(key)
    array = parts.array(key)
    if array is None:
        choices = [*parts.layers, *(["raw"] if parts.has_raw else [])]
        options = ", ".join(f"layer={name!r}" for name in choices) or "nothing else is there"
        raise DaoValueError(f"{where}: is missing; say what to take instead: {options}")
    if hasattr(array, "columns") and hasattr(array, "iloc"):
        array = _numeric_frame(array, where)
    return from_array(array, where)


def _numeric_frame(frame: pd.DataFrame, where: str) -> np.ndarray:
    """A DataFrame in obsm as the matrix of its columns."""
    other = [c for c, dtype in frame.dtypes.items() if getattr(dtype, "kind", "O") not in "biuf"]
    if other:
        raise DaoTypeError(
            f"{where}: column {other[0]!r} is {frame.dtypes[other[0]]}, and only frames of numbers "
            "can be stored as a matrix; move that column to obs, or leave this obsm out"
        )
    if all(isinstance(dtype, np.dtype) for dtype in frame.dtypes):
        return np.asarray(frame, dtype=np.result_type(np.bool_, *frame.dtypes))
    return np.asarray(frame.to_numpy(dtype=np.float64, na_value=np.nan))


def _pick(wanted: Names | None, available: Sequence[str], what: str, where: str) -> list[str]:
    """The requested names, each once; an error where one is missing."""
    if wanted is True:
        names = list(available)
    elif not wanted:
        names = []
    elif isinstance(wanted, Iterable):
        names = list(dict.fromkeys([wanted] if isinstance(wanted, str) else wanted))
    else:
        raise DaoTypeError(f"{what}={wanted!r}: expected a name, names, or True for all")
    for name in names:
        if name not in available:
            listed = ", ".join(map(repr, available)) or "none"
            raise DaoKeyError(f"{where}: no {what} {name!r}; there are: {listed}")
        _check_name(name, what, where)
    return names


def _check_name(name: str, what: str, where: str) -> None:
    """Raises a DaoValueError for a matrix's name that no folder can have."""
    if not name or "/" in name or "\\" in name or name.startswith("."):
        raise DaoValueError(
            f"{where}: {what} {name!r} cannot name a folder; rename it without / and \\ and "
            "with no leading dot"
        )
