"""Where the cells of a new dataset come from: AnnData in memory, .h5ad, AnnData .zarr, 10x .h5.

Owns opening these and naming their parts; matrices come as [`MatrixSource`][]s, unread. Knows
nothing of stores. Files are read through anndata's own readers for tables and uns, old formats
included, and never a whole matrix at once.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
from .matrix_source import MatrixSource, from_array, reading
from .sources_10x import is_10x, read_10x

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Names = str | Sequence[str] | bool

_SUPPORTED = "expected an AnnData, or a path to an .h5ad, an AnnData .zarr or a 10x .h5"


class Source:
    """Cells to be written: two tables, uns, and matrices by name.

    Attributes:
        where: the path, or ``"the AnnData"``, for errors.
        name: the file's stem, None in memory.
        obs, var: pandas frames; var is that of the chosen layer (raw has its own).
        matrices: by name, X first, then layers and obsm as asked for.
    """

    def __init__(
        self,
        where: str,
        obs: pd.DataFrame,
        var: pd.DataFrame,
        matrices: Mapping[MatrixName, MatrixSource],
        read_uns: Callable[[], dict[str, Any]],
        name: str | None = None,
    ) -> None:
        """Checks that the shapes agree; raises DaoCorruptError if they do not."""
        self.where, self.name = where, name
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
        """Number of cells."""
        return len(self.obs)

    @property
    def n_vars(self) -> int:
        """Number of genes of X and the layers."""
        return len(self.var)

    @cached_property
    def uns(self) -> dict[str, Any]:
        """AnnData's uns, read when first asked for."""
        return self._read_uns()

    def __enter__(self) -> Source:
        """The source itself; its file is closed on exit."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the file."""
        self._close.close()


def open_source(
    source: Any, *, layer: str | None = None, layers: Names = (), obsm: Names = ()
) -> Source:
    """Opens a source (a context manager); checks everything but the matrices' entries.

    Args:
        source: an AnnData (views and backed ones too), or a path to an .h5ad, an AnnData .zarr
            (zarr format 2 or 3) or a 10x .h5.
        layer: what X is: None for the source's X, ``"raw"`` for its raw (with raw's var), or a
            layer's name (``"layers/raw"`` for a layer that is called raw).
        layers: layers to keep as such: a name, several, or True for all.
        obsm: cell embeddings to keep, likewise.

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
        parts = _Memory(source)
        return _assemble(parts, parts.where, None, layer, layers, obsm)
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
            obs, var, matrix = read_10x(root, where)
            _pick([layer] if layer else [], [], "layers", where)
            _pick(layers, [], "layers", where)
            _pick(obsm, [], "obsm", where)
            source = Source(where, obs, var, {MatrixName.X: matrix}, dict, path.stem)
        else:
            _check_root(root, where)
            source = _assemble(_File(root, where), where, path.stem, layer, layers, obsm)
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


# --- the parts of an AnnData, in memory or in a file


class _Memory:
    """An AnnData object. Backed ones hand out their file's arrays."""

    where = "the AnnData"

    def __init__(self, adata: AnnData) -> None:
        self._adata = adata
        self.layers = list(adata.layers)
        self.obsm = list(adata.obsm)
        self.has_raw = adata.raw is not None

    def label(self, key: str) -> str:
        group, _, name = key.partition("/")
        return f"adata.{group}[{name!r}]" if name and group != "raw" else "adata." + group

    def table(self, key: str) -> pd.DataFrame:
        import pandas as pd

        owner, _, name = key.rpartition("/")
        table = getattr(self._adata.raw if owner else self._adata, name)
        if not isinstance(table, pd.DataFrame):
            raise DaoTypeError(
                f"adata.{name}: is a {type(table).__name__}, not a pandas DataFrame; load it with "
                "adata.to_memory() first"
            )
        return table

    def array(self, key: str) -> Any:
        if key == "X":
            return self._adata.X
        if key == "raw/X":
            return self._adata.raw.X
        group, _, name = key.partition("/")
        return getattr(self._adata, group)[name]

    def uns(self) -> dict[str, Any]:
        return dict(self._adata.uns)


class _File:
    """An AnnData in an HDF5 file or zarr group, of any anndata version."""

    def __init__(self, root: Any, where: str) -> None:
        self._root, self.where = root, where
        self.has_raw = "raw" in root or "raw.X" in root
        self.layers = self._names("layers")
        self.obsm = self._names("obsm")

    def _names(self, group: str) -> list[str]:
        with reading(f"{self.where}: {group}"):
            if group not in self._root:
                return []
            element = self._root[group]
            if hasattr(element, "keys"):
                return sorted(element.keys())
            return list(element.dtype.names or ())  # anndata 0.6 and before: one record array

    def label(self, key: str) -> str:
        return f"{self.where}: {key}"

    def _element(self, key: str) -> Any:
        with reading(self.label(key)):
            if key.startswith("raw/") and "raw" not in self._root:
                return self._root[key.replace("/", ".")]
            return self._root[key]

    def table(self, key: str) -> pd.DataFrame:
        import pandas as pd

        element = self._element(key)
        with reading(self.label(key)), _quiet():
            if hasattr(element, "keys"):
                table = require("anndata.io", "reading AnnData files").read_elem(element)
            else:
                table = self._old_table(element, "obs" if key == "obs" else "var")
        if not isinstance(table, pd.DataFrame):
            raise DaoCorruptError(
                f"{self.label(key)}: expected a dataframe, found {type(table).__name__}"
            )
        return table

    def _old_table(self, records: Any, key: str) -> pd.DataFrame:
        """As anndata 0.6 and before wrote it: a record array; categories are in uns."""
        import pandas as pd

        table = pd.DataFrame({name: _decoded(records[name]) for name in records.dtype.names})
        table = table.set_index(table.columns[0])
        for name, categories in _old_categories(self._read_uns()).items():
            if name in table and table[name].dtype.kind == "i":
                codes = table[name].to_numpy()
                if len(codes) == 0 or codes.max() < len(categories):
                    table[name] = pd.Categorical.from_codes(codes, categories)
        return table

    def array(self, key: str) -> Any:
        group, _, name = key.partition("/")
        if key in ("X", "raw/X"):
            if key == "X" and "X" not in self._root:
                return None
            element = self._element(key)
        elif not hasattr(self._root[group], "keys"):
            with reading(self.label(key)):
                return np.asarray(self._root[group][name])
        else:
            element = self._element(key)
        encoding = element.attrs.get("encoding-type", "")
        if encoding == "null":
            return None
        return self.table(key) if encoding == "dataframe" else element

    def _read_uns(self) -> dict[str, Any]:
        if "uns" not in self._root:
            return {}
        with reading(self.label("uns")), _quiet():
            return dict(require("anndata.io", "reading AnnData files").read_elem(self._root["uns"]))

    def uns(self) -> dict[str, Any]:
        uns = self._read_uns()
        with reading(self.label("obs")):
            tables = [self._root["obs"], self._root["var"]]
        if hasattr(tables[0], "keys"):
            return uns
        columns = {name for table in tables for name in table.dtype.names or ()}
        used = {f"{name}_categories" for name in _old_categories(uns) if name in columns}
        return {name: value for name, value in uns.items() if name not in used}


def _old_categories(uns: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {
        name.removesuffix("_categories"): [value] if isinstance(value, str | int) else list(value)
        for name, value in uns.items()
        if name.endswith("_categories")
    }


def _decoded(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8").astype(object)
    if values.dtype.kind == "O":
        return np.array([v.decode() if isinstance(v, bytes) else v for v in values], dtype=object)
    return values


@contextmanager
def _quiet() -> Iterator[None]:
    """Old files are what we are here to convert: no warnings that they are old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _assemble(
    parts: _Memory | _File,
    where: str,
    stem: str | None,
    layer: str | None,
    layers: Names,
    obsm: Names,
) -> Source:
    require("anndata", "writing a dataset from AnnData")
    x_key = _x_key(parts, layer)
    kept = _pick(layers, parts.layers, "layers", where)
    if kept and x_key == "raw/X":
        raise DaoValueError(
            f"{where}: layer='raw' has genes of its own, which the layers do not share; write "
            "layers=() with it"
        )
    matrices = {MatrixName.X: _matrix(parts, x_key)}
    embeddings = _pick(obsm, parts.obsm, "obsm", where)
    for name in [*map(MatrixName.layer, kept), *map(MatrixName.obsm, embeddings)]:
        matrices[name] = _matrix(parts, str(name))
    var = parts.table("raw/var" if x_key == "raw/X" else "var")
    return Source(where, parts.table("obs"), var, matrices, parts.uns, stem)


def _x_key(parts: _Memory | _File, layer: str | None) -> str:
    if layer is None:
        return "X"
    if not isinstance(layer, str):
        raise DaoTypeError(f"layer: expected a name or None, found {type(layer).__name__}")
    if layer == "raw" and parts.has_raw:
        return "raw/X"
    return "layers/" + _pick(layer.removeprefix("layers/"), parts.layers, "layers", parts.where)[0]


def _matrix(parts: _Memory | _File, key: str) -> MatrixSource:
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


def _pick(wanted: Names | None, there: Iterable[str], what: str, where: str) -> list[str]:
    """The names asked for, each once, all of them there."""
    available = [name for name in there if name is not None]  # anndata 0.13 lists X among layers
    if wanted is True:
        names = available
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
        if not name or "/" in name or "\\" in name or name.startswith("."):
            raise DaoValueError(
                f"{where}: {what} {name!r} cannot name a folder; rename it without / and \\ and "
                "with no leading dot"
            )
    return names
