"""write_dataset: one study into a store.

Owns what the caller says and is told. How a source becomes a part is `part`'s.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import polars as pl

from ..genes.request import Duplicates
from ..sources.source import Names, open_source
from ..store.options import StorageOptions
from ..store.store import Store, as_uri
from .mistaken import check_places
from .part import Mode, PartSettings, Profile, write_part

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData


def write_dataset(
    uri: str | os.PathLike[str],
    source: AnnData | str | os.PathLike[str],
    *,
    dataset: str | None = None,
    mode: Mode = "error",
    organism: str | None = None,
    layer: str | None = None,
    layers: Names = (),
    obsm: Names = True,
    genes: Iterable[str] | pl.Series | pl.DataFrame | None = None,
    gene_key: str | None = None,
    duplicates: Duplicates = "error",
    shuffle: bool = False,
    seed: int | None = None,
    profile: Profile = "packed",
    gene_index: bool = False,
    progress: bool | None = None,
    uns: bool = True,
    message: str | None = None,
    author: str | None = None,
    storage_options: StorageOptions = None,
    source_options: StorageOptions = None,
) -> Store:
    """Write a study into a store as one dataset.

    The dataset becomes visible when it is complete. Files are converted out of core: memory does
    not grow with the matrix. Several processes can write into one store at a time.

    A UserWarning names what of the source is not kept: raw, obsp, varp, varm, layers and obsm
    that were not asked for.

    Args:
        uri: the store's folder, or ``s3://``, ``gs://``, ``az://`` URL; made if it is missing. To
            a bucket goes what is complete; until then tables, and rows that are put into another
            order, are in this machine's folder for temporary files (``TMPDIR``).
        source: an AnnData in memory (views and backed ones too), or the path or URL of an .h5ad,
            an AnnData .zarr (zarr format 2 or 3) or a 10x .h5, of which all feature types are kept.
            Of a URL those parts are read that are needed; nothing is downloaded to a disk.
        dataset: the dataset's id. Default: the file's stem, or an AnnData's ``uns["id"]``.
        mode: what becomes of a dataset of that id that the store has. ``"error"``: nothing, it is
            an error. ``"replace"``: this one takes its place, with cell keys of its own; older
            versions keep the other. ``"append"``: the cells are added to it, with its var and its
            uns; they must have its genes, in any order, or be given them by ``genes``.
        organism: stored as ``uns["organism"]``, and so a column of the frame.
        layer: what becomes X: None for the source's X, ``"raw"`` for its raw, or a layer's name.
        layers: layers to keep as such: a name, several, or True for all.
        obsm: embeddings to keep, likewise; all by default, () for none. A DataFrame of numbers is
            kept as their matrix. One that is no matrix of numbers (text, three axes) is left out,
            or an error where it was named.
        genes: names of the output's genes, exactly and in this order (``store.var(...)`` of
            another dataset does too). Genes that the source lacks are zero, those not listed are
            dropped; a UserWarning counts both.
        gene_key: the column of the source's var to match ``genes`` with; None for its index.
        duplicates: what a name of ``genes`` means that several genes of the source have: an error;
            the "first" of them; the "sum" of their values; or "drop": the source has no such gene.
        shuffle: permute the cells; obs gets ``source_row`` (UInt32), each one's row in the source.
        seed: of the permutation (numpy's PCG64), for a reproducible one.
        profile: the codec of sparse matrices. ``"packed"``: ``dao_polars.pfor``, any row of which
            is read without its neighbours (zarr-python reads it where dao-polars is installed, see
            docs/pfor.md). ``"portable"``: core codecs alone (blosc-lz4), for any zarr reader.
        gene_index: write a gene-major copy of X too, once the dataset is there; see
            ``Store.add_gene_index``.
        progress: a tqdm bar; None shows one on a terminal or in a notebook.
        uns: keep the source's uns, of values at most 100 deep in each other. Its top-level numbers
            and strings are then columns too.
        message: what is said about it in ``Store.versions``; None: the dataset's name.
        author: who writes it, for ``Store.versions`` too.
        storage_options: credentials and the like, see ``dao.load_store``.
        source_options: likewise, of the source, where it is behind a URL; None for the same as the
            store's, {} for those of the environment alone.

    Returns:
        The store, opened anew.

    Raises:
        DaoFileExistsError: the store has a dataset of that id, and mode is "error".
        DaoFileNotFoundError: no such source.
        DaoTypeError, DaoValueError: something that cannot be stored, named; nothing stays. Or a
            place that cannot be written to: plain HTTP, or a server that accepts a write which
            must fail where an object exists.
        DaoKeyError: a layer, obsm or gene_key that the source does not have.
        DaoCorruptError: the source is damaged.
        DaoIOError: a full disk, no permission, or a network or server that fails; nothing of the
            dataset stays, but for what ``Store.vacuum`` removes.
    """
    check_places(uri, source)
    uri = as_uri(uri)
    settings = PartSettings(
        dataset=dataset,
        mode=mode,
        organism=organism,
        genes=genes,
        gene_key=gene_key,
        duplicates=duplicates,
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
    of_source = storage_options if source_options is None else source_options
    with open_source(source, layer=layer, layers=layers, obsm=obsm, options=of_source) as opened:
        return write_part(uri, opened, settings)
