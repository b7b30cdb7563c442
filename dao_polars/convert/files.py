"""A selection as an AnnData file: h5ad or zarr, larger than memory.

Owns that a file is there whole or not at all. What is in it is the lazy AnnData's, and how it lies
in the file anndata's, which writes dask arrays chunk by chunk.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from .._args import Normalize
from .._extras import require
from .._progress import progress_bar
from ..errors import DaoFileExistsError, DaoIOError, DaoTypeError
from ..genes.request import Duplicates, Genes
from ..select.selection import Missing, StoreLike
from .lazy import LazyRows
from .to_anndata import to_anndata

if TYPE_CHECKING:
    from anndata import AnnData


def write_h5ad(
    frame: pl.LazyFrame,
    path: str | os.PathLike[str],
    *,
    genes: Genes = None,
    gene_key: str | None = None,
    duplicates: Duplicates = "error",
    layer: str | None = None,
    layers: Iterable[str] | str | bool | None = None,
    obsm: Iterable[str] | str | bool | None = None,
    dtype: Any = None,
    normalize: Normalize = None,
    obs: Iterable[str] | bool | None = None,
    cell: bool = False,
    compression: str | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
    missing: Missing = "error",
    store: StoreLike | None = None,
) -> Path:
    """Write the frame's cells into an ``.h5ad``, which may be larger than memory.

    It has what ``to_anndata`` gives: matrices are read and written some 64 MB at a time (with
    64-bit indices, as anndata appends), obs and var are held. The file is there whole, or not at
    all.

    Args:
        frame: the one before ``.dao``.
        path: the file.
        genes: None: all, and the datasets selected must share one feature space. Names: these, in
            this order. ``"intersection"`` or ``"union"`` of the datasets' genes.
        gene_key: the var column that genes are matched on, instead of the index.
        duplicates: what a name means that several genes of a dataset have: an ``"error"``; the
            ``"first"`` of them; the ``"sum"`` of their values; or ``"drop"``: none.
        layer: what becomes X; None: X.
        layers: names of layers; None or True: those that every dataset selected has; ``[]``: none.
        obsm: as ``layers``; of those that all have, the ones with the same number of columns.
        dtype: of X and layers, as in ``to_anndata``.
        normalize: what is done to X, as in ``to_anndata``.
        obs: columns of the frame for obs; None or True: all, False: none.
        cell: give obs a column ``cell``, as in ``to_anndata``.
        compression: of all arrays: ``"gzip"`` (a fifth of the size, many times slower), ``"lzf"``,
            or None.
        overwrite: replace a file that is there.
        progress: show a bar; None: where somebody looks on.
        missing: cells that were removed from the store: an ``"error"``, or ``"drop"``.
        store: where the store is now, if it moved.

    Returns:
        The path.

    Raises:
        DaoFileExistsError: there is such a file, and ``overwrite`` is not True.
        DaoIOError: a full disk, or no permission.
        DaoImportError: anndata or dask is not installed.
        Everything that ``to_anndata`` raises.
    """
    adata = _lazy(
        frame,
        genes=genes,
        gene_key=gene_key,
        duplicates=duplicates,
        layer=layer,
        layers=layers,
        obsm=obsm,
        dtype=dtype,
        normalize=normalize,
        obs=obs,
        cell=cell,
        missing=missing,
        store=store,
    )

    def write(place: Path) -> None:
        adata.write_h5ad(place, compression=compression)

    return _written(adata, path, overwrite, "write_h5ad", progress, write)


def write_zarr(
    frame: pl.LazyFrame,
    path: str | os.PathLike[str],
    *,
    genes: Genes = None,
    gene_key: str | None = None,
    duplicates: Duplicates = "error",
    layer: str | None = None,
    layers: Iterable[str] | str | bool | None = None,
    obsm: Iterable[str] | str | bool | None = None,
    dtype: Any = None,
    normalize: Normalize = None,
    obs: Iterable[str] | bool | None = None,
    cell: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
    missing: Missing = "error",
    store: StoreLike | None = None,
) -> Path:
    """Write the frame's cells into a folder that AnnData reads as zarr; as ``write_h5ad``.

    Args:
        frame: the one before ``.dao``.
        path: the folder, on this machine.
        genes: as in ``write_h5ad``, and likewise what is not said here.
        gene_key: the var column that genes are matched on.
        duplicates: what a name means that several genes of a dataset have.
        layer: what becomes X; None: X.
        layers: names of layers; None or True: those that every dataset selected has.
        obsm: as ``layers``.
        dtype: of X and layers.
        normalize: what is done to X.
        obs: columns of the frame for obs.
        cell: give obs a column ``cell``.
        overwrite: replace a folder that is there.
        progress: show a bar; None: where somebody looks on.
        missing: cells that were removed from the store: an ``"error"``, or ``"drop"``.
        store: where the store is now, if it moved.

    Returns:
        The path. Its zarr format is that of ``anndata.settings.zarr_write_format``.

    Raises:
        As ``write_h5ad``.
    """
    adata = _lazy(
        frame,
        genes=genes,
        gene_key=gene_key,
        duplicates=duplicates,
        layer=layer,
        layers=layers,
        obsm=obsm,
        dtype=dtype,
        normalize=normalize,
        obs=obs,
        cell=cell,
        missing=missing,
        store=store,
    )
    return _written(adata, path, overwrite, "write_zarr", progress, adata.write_zarr)


def _lazy(frame: pl.LazyFrame, **options: Any) -> AnnData:
    require("anndata", "writing AnnData files")
    require("dask.array", "writing AnnData files")
    return to_anndata(frame, lazy=True, **options)


def _written(
    adata: AnnData,
    path: str | os.PathLike[str],
    overwrite: bool,
    label: str,
    progress: bool | None,
    write: Callable[[Path], None],
) -> Path:
    import dask

    if not isinstance(path, (str, os.PathLike)):
        raise DaoTypeError(f"path={path!r}; expected a path")
    target = Path(os.path.expanduser(os.fspath(path))).absolute()
    if target.exists() and not overwrite:
        raise DaoFileExistsError(f"{str(target)!r} exists; overwrite=True replaces it")
    matrices = [adata.X, *adata.layers.values(), *adata.obsm.values()]
    total = sum(matrix.shape[0] for matrix in matrices)
    place = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    with progress_bar(progress, total=total, unit="cell", label=label) as advance:
        try:
            # One chunk at a time, in this thread: the reader uses all cores for it.
            with dask.config.set(scheduler="synchronous"), _told(advance):
                write(place)
            _moved(place, target)
        except OSError as error:
            raise DaoIOError(f"{str(target)!r} cannot be written: {error}") from error
        finally:
            _removed(place)
    return target


@contextmanager
def _told(advance: Callable[[int], object] | None) -> Iterator[None]:
    """Tells of the cells that are read meanwhile."""
    LazyRows.advance = advance
    try:
        yield
    finally:
        LazyRows.advance = None


def _moved(place: Path, target: Path) -> None:
    """Puts what was written where it belongs; what was there stays until then."""
    if place.is_dir() and target.exists():
        old = place.with_suffix(".old")
        target.rename(old)
        place.rename(target)
        _removed(old)
    else:
        place.replace(target)


def _removed(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
