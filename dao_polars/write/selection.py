"""A selection into a store, as one dataset.

Owns what of a frame is written: which tables, and which matrices in which number types.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import polars as pl

from .._core import Genes as ResolvedGenes
from .._core import MatrixName
from .._extras import require
from ..convert.arrays import MatrixForm
from ..convert.selected import Descriptions, names_of, obs_of, uns_of, var_of
from ..errors import DaoValueError
from ..genes.request import Duplicates, Genes
from ..select.selection import Missing, Selection, StoreLike, matrix_name, select
from ..sources.source import Source
from ..store.options import StorageOptions
from ..store.store import as_uri
from .part import Mode, PartSettings, Profile, write_part
from .selected_matrix import SelectedMatrix, common_type

if TYPE_CHECKING:
    from ..store.store import Store


def write_dataset(
    frame: pl.LazyFrame,
    uri: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    mode: Mode = "error",
    genes: Genes = None,
    gene_key: str | None = None,
    duplicates: Duplicates = "error",
    layer: str | None = None,
    layers: Iterable[str] | str | bool | None = None,
    obsm: Iterable[str] | str | bool | None = None,
    shuffle: bool = False,
    seed: int | None = None,
    profile: Profile = "packed",
    gene_index: bool = False,
    organism: str | None = None,
    uns: bool = True,
    progress: bool | None = None,
    message: str | None = None,
    author: str | None = None,
    storage_options: StorageOptions = None,
    missing: Missing = "error",
    store: StoreLike | None = None,
) -> Store:
    """Write the frame's cells into a store as one dataset, that of another store or of their own.

    What is written is what ``to_anndata`` gives of the same frame, without taking it into memory:
    matrices are read and written in runs of cells, obs and var are held. Cells that are twice in
    the frame are written twice. The cells' store is read in the version that the frame names, so
    it may be written to.

    The frame's columns become obs, computed ones too, with the pandas types they had at their
    source. The column ``dataset`` is the new dataset's name in a frame of it: where the cells come
    from is kept in ``obs_dataset``. X and layers are CSR, or dense where all that is read is;
    numbers are stored in the narrowest type that holds those of all cells of the source.

    Args:
        frame: the one before ``.dao``.
        uri: the store's folder; made if it is missing.
        dataset: the new dataset's id. None: that of the one dataset that the cells are of; of
            several, the last part of their store's address. Cells of several stores need one.
        mode: "error", "replace" or "append": what becomes of a dataset of that id, as in
            ``write_dataset``.
        genes: None: all, and the datasets selected must share one feature space. Names: these, in
            this order. ``"intersection"`` or ``"union"`` of the datasets' genes. They are
            the genes of the new dataset, in their order.
        gene_key: the var column that genes are matched on, instead of the index; the matched names
            become the var index.
        duplicates: what a name means that several genes of a dataset have: an ``"error"``; the
            ``"first"`` of them; the ``"sum"`` of their values; or ``"drop"``: none.
        layer: what becomes X; None: X.
        layers: names of layers; None or True: those that every dataset selected has; ``[]``: none.
        obsm: as ``layers``; of those that all have, the ones with the same number of columns.
        shuffle: permute the cells; obs gets ``source_row`` (UInt32), each one's row in the frame.
        seed: of the permutation (numpy's PCG64), for a reproducible one.
        profile: the codec of sparse matrices: ``"packed"``, of which any row is read without its
            neighbours, or ``"portable"``, core codecs alone, for any zarr reader.
        gene_index: write a gene-major copy of X too, once the dataset is there.
        organism: stored as ``uns["organism"]``.
        uns: keep the uns of the dataset that the cells are of, where it is just one.
        progress: a tqdm bar; None shows one on a terminal or in a notebook.
        message: what is said about it in ``Store.versions``; None: the dataset's name.
        author: who writes it, for ``Store.versions`` too.
        storage_options: credentials and the like, of the store that is written to; see
            ``dao.load_store``.
        missing: cells that were removed from their store: an "error", or "drop".
        store: where the store of the cells is now, if it moved.

    Returns:
        The store that was written to, opened anew.

    Raises:
        DaoFileExistsError: the store has a dataset of that id, and mode is "error".
        DaoValueError: no ``cell`` column, another store's cells, several feature spaces and no
            ``genes``, something that cannot be stored.
        DaoTypeError: arguments of the wrong type, or a column of one that cannot be stored.
        DaoKeyError: unknown genes, layer or obsm.
        DaoFileNotFoundError, DaoCorruptError: a broken store of the cells.
        DaoIOError: a full disk, or no permission. Whatever is raised, nothing of the dataset stays.
    """
    require("pandas", "writing a dataset")
    uri = as_uri(uri)
    selection = select(frame, store, None, missing=missing)
    settings = PartSettings(
        dataset=_name(selection) if dataset is None else dataset,
        mode=mode,
        organism=organism,
        shuffle=shuffle,
        seed=seed,
        profile=profile,
        gene_index=gene_index,
        progress=progress,
        uns=uns,
        message=message,
        author=author,
        storage_options=storage_options,
    )
    resolved = selection.resolve(genes, gene_key, duplicates)
    described = Descriptions(selection)
    names = {
        MatrixName.X: matrix_name(layer),
        **{name: name for name in names_of("layers", layers, described)},
        **{name: name for name in names_of("obsm", obsm, described)},
    }
    sums = duplicates == "sum" and resolved.names is not None
    source = Source(
        obs_of(selection, described),
        var_of(selection, described, resolved, gene_key),
        {to: _matrix(name, selection, described, resolved, sums) for to, name in names.items()},
        lambda: uns_of(selection, described),
    )
    with source:
        return write_part(uri, source, settings)


def _name(selection: Selection) -> str:
    """What a dataset of some cells is called where nobody says."""
    found = {part.address: part for part in selection.parts()}
    if len(found) == 1:
        return next(iter(found.values())).name
    stores = {part.store for part in found.values()} or {0}
    if len(stores) > 1:
        raise DaoValueError(
            f"the cells are of {len(found)} datasets of {len(stores)} stores; say with dataset= "
            "what theirs is called"
        )
    return selection.store.stores[stores.pop()].uri.rsplit("/", 1)[-1]


def _matrix(
    name: MatrixName,
    selection: Selection,
    described: Descriptions,
    genes: ResolvedGenes,
    sums: bool,
) -> SelectedMatrix:
    """A matrix as it is to be written. ``sums``: genes may be sums of several in the store."""
    found = described.matrices(name)
    layouts = {matrix.layout for matrix in found}
    stored = common_type(found)
    # What nobody has looked at, as in stores that sfaira wrote, may be counts kept as floats.
    looked_at = bool(found) and all(matrix.max_abs is not None for matrix in found)
    if name.is_of_genes:
        dtype, n_columns = described.number_type(name, None), genes.n_genes
        dense = layouts == {"dense"}
        if sums and not stored.startswith("float"):
            stored = "uint64" if stored.startswith("u") else "int64"
        looked_at = looked_at and not sums
    else:
        dtype, n_columns = described.source_dtype(name).name, described.embedding(name).n_columns
        dense = layouts != {"csr"}
    form = MatrixForm(name, n_columns, "dense" if dense else "csr", stored)
    return SelectedMatrix(selection, genes, form, found, dtype=dtype, looked_at=looked_at)
