"""A selection as an AnnData file, ``.h5ad`` or zarr, larger than memory.

Owns what of a frame is in such a file: what ``to_anndata`` gives of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
import polars as pl

from .._args import Normalize
from .._extras import require
from .._progress import progress_bar
from ..convert.arrays import MatrixForm
from ..convert.to_anndata import Planned, plan
from ..errors import DaoFileExistsError, DaoTypeError, DaoValueError
from ..genes.request import Duplicates, Genes
from ..select.selection import Missing, StoreLike
from ..write.selected_matrix import SelectedMatrix
from .blocks import Make, write_matrix
from .place import placed

if TYPE_CHECKING:
    from typing import Unpack

Compression = Literal["gzip", "lzf"]


class AnnDataOptions(TypedDict, total=False):
    """What goes into the file: arguments of ``to_anndata``, which explains them."""

    genes: Genes
    gene_key: str | None
    duplicates: Duplicates
    layer: str | None
    layers: Iterable[str] | str | bool | None
    obsm: Iterable[str] | str | bool | None
    dtype: Any
    normalize: Normalize
    obs: Iterable[str] | bool | None
    cell: bool
    missing: Missing
    store: StoreLike | None


_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(AnnDataOptions.__annotations__),
    "duplicates": "error",
    "cell": False,
    "missing": "error",
}


def write_h5ad(
    frame: pl.LazyFrame,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    compression: Compression | None = "gzip",
    progress: bool | None = None,
    **options: Unpack[AnnDataOptions],
) -> None:
    """Write the frame's cells into a file of AnnData, ``.h5ad``.

    ``anndata.read_h5ad`` of it gives what ``to_anndata`` gives of the same frame. X, layers and
    embeddings are read and written in blocks of cells; obs and var are held, and embeddings that
    are tables.

    Args:
        frame: the one before ``.dao``.
        path: a file of this machine. It is there once it is whole, and not before.
        overwrite: replace a file that is there.
        compression: of matrices: "gzip", "lzf" (faster, larger) or None.
        progress: a tqdm bar; None shows one on a terminal or in a notebook.
        options: ``genes``, ``gene_key``, ``duplicates``, ``layer``, ``layers``, ``obsm``,
            ``dtype``, ``normalize``, ``obs``, ``cell``, ``missing`` and ``store`` of
            ``to_anndata``.

    Raises:
        DaoImportError: anndata is not installed.
        DaoFileExistsError: something is at ``path``, and ``overwrite`` is False; or a folder is.
        DaoTypeError: an unknown option.
        DaoValueError: another compression, or a URL.
        OSError: a full disk, or no permission. Whatever is raised, no file stays.
        Everything that ``to_anndata`` raises.
    """
    require("anndata", "write_h5ad")
    h5py = require("h5py", "write_h5ad")
    if compression not in ("gzip", "lzf", None):
        raise DaoValueError(f'compression={compression!r}; expected "gzip", "lzf" or None')
    target = _local(path)
    if target.is_dir():
        raise DaoFileExistsError(f"{str(target)!r} is a folder; name a file")

    def make(
        group: Any,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        chunks: tuple[int, ...],
        grows: bool,
    ) -> Any:
        if 0 in shape and not grows:
            return group.create_dataset(name, shape, dtype)
        most = (None,) if grows else None
        return group.create_dataset(
            name, shape, dtype, maxshape=most, chunks=chunks, compression=compression
        )

    with placed(target, overwrite) as beside:
        planned = _planned(frame, options)
        with h5py.File(beside, "w") as file:
            _write(file, planned, make, progress, "write_h5ad")


def write_zarr(
    frame: pl.LazyFrame,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    zarr_format: Literal[2, 3] | None = None,
    progress: bool | None = None,
    **options: Unpack[AnnDataOptions],
) -> None:
    """Write the frame's cells into a zarr folder of AnnData.

    As ``write_h5ad``; ``anndata.read_zarr`` of it gives what ``to_anndata`` gives.

    Args:
        frame: the one before ``.dao``.
        path: a folder of this machine. It is there once it is whole, and not before.
        overwrite: replace a zarr of AnnData that is there; no other folder is removed.
        zarr_format: of the folder; None: what ``anndata.settings`` says.
        progress: a tqdm bar; None shows one on a terminal or in a notebook.
        options: those of ``write_h5ad``.

    Raises:
        DaoImportError: anndata or zarr is not installed.
        DaoFileExistsError: something is at ``path``, and ``overwrite`` is False; or it is no
            zarr of AnnData.
        DaoTypeError: an unknown option.
        DaoValueError: another format, or a URL.
        OSError: a full disk, or no permission. Whatever is raised, no folder stays.
        Everything that ``to_anndata`` raises.
    """
    anndata = require("anndata", "write_zarr")
    zarr = require("zarr", "write_zarr")
    if zarr_format is None:
        zarr_format = getattr(anndata.settings, "zarr_write_format", 2)
    if zarr_format not in (2, 3):
        raise DaoValueError(f"zarr_format={zarr_format!r}; expected 2 or 3")
    target = _local(path)
    if overwrite and os.path.lexists(target) and not _is_anndata(zarr, target):
        raise DaoFileExistsError(f"{str(target)!r} is no zarr of AnnData; it is not replaced")

    def make(
        group: Any,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        chunks: tuple[int, ...],
        grows: bool,
    ) -> Any:
        return group.create_array(name, shape=shape, dtype=dtype, chunks=chunks)

    with placed(target, overwrite) as beside:
        planned = _planned(frame, options)
        group = zarr.open_group(str(beside), mode="w", zarr_format=zarr_format)
        _write(group, planned, make, progress, "write_zarr")


def _local(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise DaoTypeError(f"path: expected str or a path, found {path!r}")
    if "://" in os.fspath(path):
        raise DaoValueError(f"{path!r} is a URL; write to a path of this machine, then copy it")
    return Path(path).expanduser()


def _planned(frame: pl.LazyFrame, options: AnnDataOptions) -> Planned:
    """``plan`` with these options of ``to_anndata``."""
    if unknown := set(options) - set(_DEFAULTS):
        raise DaoTypeError(
            f"unknown options {sorted(unknown)}; there are {', '.join(map(repr, _DEFAULTS))}"
        )
    every: dict[str, Any] = {**_DEFAULTS, **options}
    return plan(frame, **every)


def _is_anndata(zarr: Any, path: Path) -> bool:
    try:
        group = zarr.open_group(str(path), mode="r")
    except Exception:  # of many classes, as zarr has them
        return False
    return bool(group.attrs.get("encoding-type") == "anndata")


def _write(group: Any, planned: Planned, make: Make, progress: bool | None, label: str) -> None:
    """All of an AnnData into an empty group: what is held first, then what is read in blocks."""
    import anndata
    from anndata.io import write_elem

    held = anndata.AnnData(obs=planned.obs, var=planned.var, uns=planned.uns)
    forms = {form.name: form for form in planned.others}
    n_obs = len(planned.selection.cells)
    places = [("X", planned.x)]
    places += [(f"layers/{name.name}", forms[name]) for name in dict.fromkeys(planned.layers)]
    places += [(f"obsm/{name.name}", forms[name]) for name in dict.fromkeys(planned.obsm)]
    with ExitStack() as stack:
        if hasattr(anndata.settings, "allow_write_nullable_strings"):
            allowed = anndata.settings.override(allow_write_nullable_strings=True)
            stack.enter_context(allowed)
        write_elem(group, "/", held)
        if "X" in group:
            del group["X"]
        total = n_obs * len(places)
        bar = progress_bar(progress, total=total, unit="cell", label=label)
        advance = stack.enter_context(bar)
        for place, form in places:
            matrix = _matrix(planned, form)
            if not form.name.is_of_genes and planned.columns(form.name) is not None:
                blocks = [block.astype(planned.dtype(form)) for block in matrix.blocks()]
                none = np.zeros(matrix.shape, planned.dtype(form))
                values = np.concatenate(blocks) if blocks else none
                write_elem(group, place, planned.embedding(form.name, values))
                advance(n_obs)
            else:
                write_matrix(group, place, matrix, planned.dtype(form), make, advance)


def _matrix(planned: Planned, form: MatrixForm) -> SelectedMatrix:
    found = planned.described.matrices(form.name)
    kind = planned.dtype(form).name
    return SelectedMatrix(planned.selection, planned.genes, form, found, dtype=kind, looked_at=True)
