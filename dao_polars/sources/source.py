"""Where the cells of a new dataset come from: tables, uns, matrices by name; and how it is opened.

Owns opening these and naming their parts; matrices come unread. Knows
nothing of stores. Never reads a whole matrix at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._core import MatrixName
from .._extras import require
from ..errors import DaoCorruptError, DaoKeyError, DaoTypeError, DaoValueError
from ..store.options import core_options
from .anndata_file import AnnDataFile
from .matrix import Matrix
from .matrix_source import MatrixSource, from_array, reading
from .place import SUPPORTED, Place, at_path, at_url, other_reader
from .remote import is_url
from .tenx import is_10x, read_10x

if TYPE_CHECKING:
    import pandas as pd

Names = str | Sequence[str] | bool

_IN_MEMORY = "the AnnData"


@dataclass
class Source:
    """Cells to be written: two tables, uns, and matrices by name. A context manager.

    Attributes:
        obs, var: pandas frames; var is that of the chosen layer (raw has its own).
        matrices: by name, X first, then layers and obsm as asked for.
        name: the file's stem, None in memory.
        path: the file or folder, None in memory; of what is behind a URL its name.
        size: of a file behind a URL its bytes, else None.
        left_out: what of the source is in none of these, in words.
    """

    obs: pd.DataFrame
    var: pd.DataFrame
    matrices: Mapping[MatrixName, Matrix]
    read_uns: Callable[[], Mapping[str, Any]]
    name: str | None = None
    left_out: Sequence[str] = ()
    path: str | None = None
    size: int | None = None
    _close: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        """Checks that the shapes agree; raises DaoCorruptError if they do not."""
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
        return dict(self.read_uns())

    def __enter__(self) -> Source:
        """The source itself; its file is closed on exit."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the file."""
        self._close.close()


def open_source(
    source: Any,
    *,
    layer: str | None = None,
    layers: Names = (),
    obsm: Names = True,
    options: Mapping[str, Any] | None = None,
) -> Source:
    """Opens a source; checks everything but the matrices' entries.

    The arguments are those of ``write_dataset``; ``"layers/raw"`` is a layer that is called raw.
    ``options`` are those of who asks the server of a URL.

    Raises:
        DaoTypeError: a source, or a matrix in it, of a kind that cannot be written.
        DaoFileNotFoundError: no such path.
        DaoKeyError: a layer or obsm that the source does not have.
        DaoValueError: X is missing, or the file holds something else.
        DaoCorruptError: a damaged file, or parts that do not fit together.
        DaoIOError: a network or server that fails.
    """
    if isinstance(source, str | os.PathLike):
        place = _place(os.fsdecode(os.fspath(source)), options)
        with ExitStack() as stack:
            root = place.open(stack)
            opened = _read_root(root, place, layer, layers, obsm)
            opened.path, opened.size = place.path, place.size
            opened._close = stack.pop_all()
        return opened
    if type(source).__module__.split(".")[0] == "anndata" and hasattr(source, "obs_names"):
        return _assemble(source, _IN_MEMORY, None, layer, layers, obsm)
    kind = f"{type(source).__module__}.{type(source).__name__}"
    hint = "pass one of its modalities, mdata['rna']" if kind.startswith("mudata.") else SUPPORTED
    raise DaoTypeError(f"source: cannot write cells from a {kind}; {hint}")


def _place(text: str, options: Mapping[str, Any] | None) -> Place:
    """Where a source lies, which is there."""
    if is_url(text):
        return at_url(text, core_options(options, "source_options"))
    # On Windows a drive follows the third slash.
    path = Path(text.removeprefix("file:///" if os.name == "nt" else "file://")).expanduser()
    return at_path(path)


def _read_root(root: Any, place: Place, layer: str | None, layers: Names, obsm: Names) -> Source:
    where = place.where
    with reading(where):
        if place.is_file and "obs" not in root and is_10x(root):
            require("pandas", "reading a 10x .h5")
            obs, var, matrix, left_out = read_10x(root, where)
            for what, names in (("layers", layer), ("layers", layers), ("obsm", obsm)):
                _pick(names, [], what, where)
            return Source(obs, var, {MatrixName.X: matrix}, dict, place.stem, left_out)
        _check_root(root, where)
        return _assemble(AnnDataFile(root, where), where, place.stem, layer, layers, obsm)


def _check_root(root: Any, where: str) -> None:
    keys = sorted(root.keys())
    if "obs" in keys and "var" in keys and "mod" not in keys:
        return
    found = f"found {', '.join(keys[:8]) or 'nothing'} in it"
    hint = "it looks like MuData: write one modality at a time" if "mod" in keys else found
    hint += other_reader(Path(where))
    raise DaoValueError(
        f"source {where!r}: neither an AnnData (groups obs and var) nor a 10x matrix; {hint}"
    )


# --- which parts of an AnnData are taken; in memory and in a file they have the same names


def _assemble(
    adata: Any, where: str, name: str | None, layer: str | None, layers: Names, obsm: Names
) -> Source:
    require("anndata", "writing a dataset from AnnData")
    x_key = _x_key(adata, layer, where)
    kept = _pick(layers, _names(adata.layers), "layers", where)
    if kept and x_key == "raw/X":
        raise DaoValueError(
            f"{where}: layer='raw' has genes of its own, which the layers do not share; "
            "write layers=() with it"
        )
    matrices: dict[MatrixName, Matrix] = {MatrixName.X: _matrix(adata, x_key, where)}
    matrices |= {MatrixName.layer(n): _matrix(adata, f"layers/{n}", where) for n in kept}
    refused, embeddings = {}, _names(adata.obsm)
    for key in embeddings if obsm is True else _pick(obsm, embeddings, "obsm", where):
        try:
            _check_name(key, "obsm", where)
            matrices[MatrixName.obsm(key)] = _matrix(adata, f"obsm/{key}", where)
        except (DaoTypeError, DaoValueError) as error:
            if obsm is not True:
                raise
            refused[key] = str(error).split("; ")[0]
    is_raw = x_key == "raw/X"
    var = _table(adata.raw.var, "raw/var", where) if is_raw else _table(adata.var, "var", where)
    left_out = _left_out(adata, x_key, {x_key, *map(str, matrices)}, refused)
    obs = _table(adata.obs, "obs", where)
    return Source(obs, var, matrices, lambda: adata.uns, name, left_out)


def _x_key(adata: Any, layer: str | None, where: str) -> str:
    """The part that becomes X."""
    if layer is None:
        return "X"
    if not isinstance(layer, str):
        raise DaoTypeError(f"layer: expected a name or None, found {type(layer).__name__}")
    if layer == "raw" and adata.raw is not None:
        return "raw/X"
    available = _names(adata.layers)
    return "layers/" + _pick(layer.removeprefix("layers/"), available, "layers", where)[0]


def _left_out(adata: Any, x_key: str, kept: set[str], refused: dict[str, str]) -> list[str]:
    """The parts of a source that are not kept, in words; looks only at names."""
    found = []
    if x_key != "X" and adata.X is not None:
        found.append("X")
    from_raw = x_key == "raw/X"
    if not from_raw and adata.raw is not None:
        found.append("raw (layer='raw' writes it as X)")
    groups = {
        "layers": (adata.layers, "" if from_raw else " (layers=True keeps them)"),
        "obsp": (adata.obsp, ""),
        "varp": (adata.varp, ""),
        "varm": (adata.varm, ""),
        "raw/varm": (adata.raw.varm if from_raw else {}, ""),
        "obsm": (adata.obsm, " (obsm=True keeps them)"),
    }
    kept = kept | {f"obsm/{name}" for name in refused}
    for group, (matrices, hint) in groups.items():
        names = [name for name in _names(matrices) if f"{group}/{name}" not in kept]
        if names:
            shown = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
            found.append(f"{group} {shown}{hint}")
    return found + [f"obsm {name!r} ({reason})" for name, reason in refused.items()]


def _names(matrices: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in matrices if name is not None)  # 0.13 lists X too


def _table(table: Any, key: str, where: str) -> pd.DataFrame:
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        return table
    what = f"{_label(key, where)}: expected a pandas DataFrame, found {type(table).__name__}"
    if where == _IN_MEMORY:
        raise DaoTypeError(f"{what}; load it with adata.to_memory() first")
    raise DaoCorruptError(what)


def _label(key: str, where: str) -> str:
    """The name of a part in errors."""
    group, _, name = key.partition("/")
    if where != _IN_MEMORY:
        return f"{where}: {key}"
    return f"adata.{group}[{name!r}]" if group in ("layers", "obsm") else f"adata.{group}"


def _matrix(adata: Any, key: str, where: str) -> MatrixSource:
    """The matrix ``X``, ``raw/X``, ``layers/<name>`` or ``obsm/<name>``."""
    group, _, name = key.partition("/")
    label = _label(key, where)
    with reading(label):
        if group in ("X", "raw"):
            array = (adata.raw if group == "raw" else adata).X
        else:
            array = getattr(adata, group)[name]
    if array is None:
        choices = [*_names(adata.layers), *(["raw"] if adata.raw is not None else [])]
        options = ", ".join(f"layer={name!r}" for name in choices) or "nothing else is there"
        raise DaoValueError(f"{label}: is missing; say what to take instead: {options}")
    return from_array(array, label)


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
