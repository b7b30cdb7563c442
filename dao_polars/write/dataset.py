"""write_dataset: one study into a store.

Owns the order of things: validate, stage, write matrices and tables, publish. What a source is,
how tables and uns are stored and how matrices reach the disk is elsewhere.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import polars as pl

from .._core import ColumnMeta, MatrixName, PartWriter, TableMeta, feature_space_id
from .._progress import progress_bar
from ..errors import DaoTypeError, DaoValueError
from ..genes.request import Duplicates
from ..scan.columns import RESERVED, categories_of
from ..scan.constants import constants
from ..store import uns as uns_json
from ..store.store import Store, as_uri, load_store, texts
from ..tables.from_pandas import from_pandas
from ..tables.parquet import write_table, writing_failed
from ..tables.table import Table
from .alignment import Alignment, align
from .existing import find_existing
from .matrix_source import DenseSource, MatrixSource, work_through
from .sources import Names, Source, open_source

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

Profile = Literal["packed", "portable"]
Mode = Literal["error", "replace", "append"]

_SOURCE_ROW = "source_row"
_DENSE_ABOVE = 0.5  # share of non-zero values from which a dense X stays dense


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
    storage_options: dict[str, str] | None = None,
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
        source: an AnnData in memory (views and backed ones too), or the path of an .h5ad, an
            AnnData .zarr (zarr format 2 or 3) or a 10x .h5, of which all feature types are kept.
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
            [`Store.add_gene_index`][].
        progress: a tqdm bar; None shows one on a terminal or in a notebook.
        uns: keep the source's uns, of values at most 100 deep in each other. Its top-level numbers
            and strings are then columns too.
        message: what is said about it in [`Store.versions`][]; None: the dataset's name.
        storage_options: as for [`load_store`][].

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
            dataset stays, but for what [`Store.vacuum`][] removes.
    """
    uri = as_uri(uri)
    if profile not in get_args(Profile):
        raise DaoValueError(f"profile={profile!r}; expected 'packed' or 'portable'")
    if mode not in get_args(Mode):
        raise DaoValueError(f"mode={mode!r}; expected 'error', 'replace' or 'append'")
    with open_source(source, layer=layer, layers=layers, obsm=obsm) as opened:
        dataset = _dataset_id(dataset, opened)
        where = f"dataset {dataset!r}"
        obs = from_pandas(
            opened.obs, index_name="obs_name", reserved=set(RESERVED), where=f"{where}: obs"
        )
        var = from_pandas(opened.var, index_name="var_name", reserved=set(), where=f"{where}: var")
        order = _permutation(opened.n_obs, seed) if shuffle else None
        if order is not None:
            obs = _shuffled(obs, order, where)
        kept_uns = (opened.uns if uns else {}) | _named_organism(organism)
        left_out = list(opened.left_out)
        existing = find_existing(uri, dataset, storage_options) if mode == "append" else None
        if existing is not None:
            genes = existing.genes(var, genes, gene_key, where)
            if kept_uns and uns_json.encode(kept_uns, where) != uns_json.encode(
                existing.uns, where
            ):
                left_out.append("uns (the dataset has its own)")
            kept_uns = existing.uns
        uns_text = uns_json.encode(kept_uns, where)
        alignment = align(var, genes, gene_key, duplicates, where)
        if existing is not None:
            alignment = existing.adopted(alignment, where)
        # nothing but reading and writing can fail from here on
        if left_out:
            warnings.warn(f"{where}: not kept: {'; '.join(left_out)}", stacklevel=2)
        writer = PartWriter.begin(uri, dataset, mode, texts(storage_options))
        try:
            # each matrix is scanned, then written
            total = 2 * sum(matrix.size for matrix in opened.matrices.values())
            label = f"writing {dataset!r}"
            with progress_bar(progress, total=total, unit="value", label=label) as advance:
                for name, matrix in opened.matrices.items():
                    _write_matrix(writer, name, matrix, alignment, order, profile, advance)
            _write_tables(Path(writer.staging), obs.frame, alignment.var.frame, uns_text)
            writer.commit(
                obs=obs.meta,
                var=alignment.var.meta,
                organism=_organism(kept_uns, obs.frame),
                constants=constants(kept_uns, obs.frame.columns),
                categories=_categories(obs.frame),
                feature_space=feature_space_id(alignment.var.frame["var_name"].to_list()),
                message=f"{dataset!r}" if message is None else message,
            )
        except BaseException:
            writer.abort()
            raise
    if gene_index:
        store = load_store(uri, storage_options=storage_options)
        store.add_gene_index(dataset, progress=progress)
    return load_store(uri, storage_options=storage_options)


def _named_organism(organism: str | None) -> dict[str, Any]:
    if organism is not None and not isinstance(organism, str):
        raise DaoTypeError(f"organism: expected a string or None, found {organism!r}")
    return {} if organism is None else {"organism": organism}


def _organism(uns: dict[str, Any], obs: pl.DataFrame) -> str | None:
    """The organism of all cells: as uns says it, or the one value of the obs column."""
    named = uns.get("organism")
    if named is None and "organism" in obs.columns and obs["organism"].n_unique() == 1:
        named = obs["organism"][0]
    return str(named) if isinstance(named, str) else None


def _dataset_id(dataset: str | None, opened: Source) -> str:
    if dataset is None:
        dataset = opened.name if opened.name is not None else opened.uns.get("id")
        if not isinstance(dataset, str):
            raise DaoValueError(
                "dataset: an AnnData in memory has no name of its own; pass dataset='...' or set "
                "adata.uns['id']"
            )
    if not isinstance(dataset, str):
        raise DaoTypeError(f"dataset: expected a string, found {dataset!r}")
    return str(dataset)


def _permutation(n_obs: int, seed: int | None) -> np.ndarray:
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if seed is not None and not (whole and seed >= 0):
        raise DaoValueError(f"seed: expected an integer from 0, or None, found {seed!r}")
    return np.random.Generator(np.random.PCG64(seed)).permutation(n_obs)


def _shuffled(obs: Table, order: np.ndarray, where: str) -> Table:
    if _SOURCE_ROW in obs.frame.columns:
        raise DaoValueError(
            f"{where}: shuffle=True keeps the original row in obs column {_SOURCE_ROW!r}, and obs "
            "has one of that name; rename or drop it first"
        )
    rows = pl.Series(_SOURCE_ROW, order.astype(np.uint32))
    note = {"kind": "numpy", "dtype": "uint32"}
    columns = [*obs.meta.columns, ColumnMeta(_SOURCE_ROW, _SOURCE_ROW, "UInt32", note)]
    meta = TableMeta(obs.meta.index_name, obs.meta.index, columns)
    return Table(obs.frame[order].with_columns(rows), meta)


def _categories(frame: pl.DataFrame) -> dict[str, list[str] | None]:
    """The values of each string column but the index; None for one that has no categories."""
    return {
        name: categories_of(frame[name])
        for name, dtype in frame.schema.items()
        if dtype == pl.String and name != "obs_name"
    }


def _write_matrix(
    writer: PartWriter,
    name: MatrixName,
    matrix: MatrixSource,
    alignment: Alignment,
    order: np.ndarray | None,
    profile: Profile,
    advance: Callable[[int], object],
) -> None:
    nonzero = 0

    def scan(values: np.ndarray) -> None:
        nonlocal nonzero
        nonzero = writer.scan(values)
        advance(values.size)

    work_through(matrix.values(), matrix, scan)
    of_genes = name.is_of_genes
    rows = None
    if order is not None and not matrix.reorders:  # the writer puts the rows in their places
        rows = np.empty(len(order), dtype=np.uint32)
        rows[order] = np.arange(len(order), dtype=np.uint32)
        order = None
    # dense stays so for embeddings, and where CSR would be larger
    dense = matrix.layout == "dense" and 0 not in matrix.shape
    dense = dense and not (of_genes and nonzero <= _DENSE_ABOVE * matrix.size)
    writer.begin_matrix(
        name,
        "dense" if dense else "csr",
        (matrix.shape[0], alignment.var.frame.height if of_genes else matrix.shape[1]),
        matrix.dtype.name,
        portable=profile == "portable",
        columns=alignment.columns if of_genes else None,
        most_summed=alignment.most_summed if of_genes else 1,
        rows=rows,
    )

    def push_rows(rows: np.ndarray) -> None:
        writer.push_dense(rows)
        advance(rows.size)

    def push_block(block: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        indptr, indices, data = block
        writer.push_sparse(matrix.layout == "csc", indptr, indices, data)
        advance(data.size)

    if isinstance(matrix, DenseSource):
        work_through(matrix.blocks(order), matrix, push_rows)
    elif order is None:
        work_through(matrix.blocks(), matrix, push_block)
    else:
        for starts, stops, indices, data in matrix.ranges(order):
            writer.push_ranges(starts, stops, indices, data)
            advance(int((stops - starts).sum()))
    writer.finish_matrix()


def _write_tables(folder: Path, obs: pl.DataFrame, var: pl.DataFrame, uns: str) -> None:
    path = folder / "uns.json"
    try:
        path.write_text(uns, encoding="utf-8")
    except OSError as error:
        raise writing_failed(path, error) from error
    write_table(obs, folder / "obs.parquet")
    write_table(var, folder / "var.parquet")
