"""Matrices of a selection as dask arrays, whose chunks are cells that are read when computed.

Owns the graph: a task a chunk, with the keys of its cells and no values. Knows no scheduler.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix

from .._args import Normalize, integer, normalization
from .._core import CellKeys, Reader
from .._core import Genes as ResolvedGenes
from .._extras import require
from ..genes.request import Duplicates, Genes
from ..select.counts import check_counts
from ..select.selection import Missing, Selection, StoreLike, matrix_name, select
from ..store.store import Store
from .arrays import MatrixForm
from .selected import Descriptions

if TYPE_CHECKING:
    import dask.array as da

#: About the bytes of a chunk.
_CHUNK = 64 << 20
#: The bytes that reading a chunk holds beside it.
_BUDGET = 64 << 20


class LazyRows:
    """One matrix of a selection: what a task needs to read some of its cells.

    Pickles with its store by path or URL and version.
    """

    def __init__(
        self, store: Store, genes: ResolvedGenes, form: MatrixForm, dtype: np.dtype[Any]
    ) -> None:
        self.store, self.genes, self.form, self.dtype = store, genes, form, dtype

    def read(self, cells: CellKeys) -> Any:
        """The rows of some cells: scipy CSR or numpy, (n_cells, n_columns)."""
        reader = Reader(self.store._core, cells, self.genes, [self.form])
        (arrays,) = reader.read(budget=_BUDGET)
        return self.form.shaped(len(cells), arrays).astype(self.dtype, copy=False)


def to_dask(
    frame: pl.LazyFrame,
    *,
    genes: Genes = None,
    gene_key: str | None = None,
    duplicates: Duplicates = "error",
    layer: str | None = None,
    dtype: Any = None,
    normalize: Normalize = None,
    chunk_size: int | None = None,
    missing: Missing = "error",
    store: StoreLike | None = None,
) -> da.Array:
    """The expression of the frame's cells as a dask array, read chunk by chunk when computed.

    The graph has no values: of each chunk the keys of its cells, packed. Whoever computes it, on
    this machine or another, must see the store at its path or URL.

    Args:
        frame: the one before ``.dao``.
        genes: None: all, and the datasets selected must share one feature space. Names: these, in
            this order. ``"intersection"`` or ``"union"`` of the datasets' genes. A gene that a
            dataset lacks is zero in its cells.
        gene_key: the var column that genes are matched on, instead of the index.
        duplicates: what a name means that several genes of a dataset have: an ``"error"``; the
            ``"first"`` of them; the ``"sum"`` of their values; or ``"drop"``: none.
        layer: a layer's name; None: X.
        dtype: None: the first of float32, float64 and the stored type that holds the stored
            values exactly.
        normalize: what is done to it, cell by cell, as in ``to_anndata``.
        chunk_size: cells a chunk; None: chunks of about 64 MB and one cost, cut where datasets
            or their shards end if such a place is near.
        missing: cells that were removed from the store: an ``"error"``, or ``"drop"``.
        store: where the store is now, if it moved.

    Returns:
        A ``dask.array.Array`` (n_cells, n_genes), rows in frame order, in chunks of rows, each
        a scipy CSR matrix with sorted indices.

    Raises:
        DaoImportError: dask is not installed.
        Everything that ``to_anndata`` raises; a damaged store where a chunk is computed.
    """
    require("dask.array", "to_dask")
    selection = select(frame, store, False, missing=missing)
    resolved = selection.resolve(genes, gene_key, duplicates)
    described = Descriptions(selection)
    form = x_form(matrix_name(layer), resolved.n_genes, described, dtype, normalize)
    check_counts(selection, form.name, form.normalize)
    (array,) = lazy_matrices(selection, resolved, [(form, np.dtype(form.dtype))], chunk_size)
    return array


def x_form(
    name: Any, n_genes: int, described: Descriptions, dtype: Any, normalize: Normalize
) -> MatrixForm:
    """The form in which X is read: floats where it is normalized."""
    kind = described.number_type(name, dtype)
    if normalize is not None and dtype is None and not kind.startswith("float"):
        kind = "float64"  # of counts beyond what a float32 holds
    return MatrixForm(name, n_genes, dtype=kind, normalize=normalization(normalize, kind))


def lazy_matrices(
    selection: Selection,
    genes: ResolvedGenes,
    forms: Iterable[tuple[MatrixForm, np.dtype[Any]]],
    chunk_size: int | None,
) -> list[da.Array]:
    """Matrices of a selection, each in this form and then this number type, chunked alike."""
    import dask.array as da
    from dask.base import tokenize

    cuts = _cuts(selection, genes.n_genes, chunk_size)
    keys, store = selection.keys, selection.store
    chunks = [CellKeys([keys[a:b]]) for a, b in pairwise(cuts)]
    rows = tuple(map(len, chunks))
    arrays = []
    for form, dtype in forms:
        token = tokenize(store.id, [s.version for s in store.stores], keys, genes.names, form)
        source, name = f"dao-store-{token}", f"dao-{token}"
        graph: dict[Any, Any] = {source: LazyRows(store, genes, form, dtype)}
        graph |= {(name, i, 0): (LazyRows.read, source, cells) for i, cells in enumerate(chunks)}
        none: Any = csr_matrix if form.layout == "csr" else np.zeros
        columns = (form.n_columns,)
        arrays.append(da.Array(graph, name, (rows, columns), meta=none((0, 0), dtype=dtype)))
    return arrays


def _cuts(selection: Selection, n_genes: int, chunk_size: int | None) -> Sequence[int]:
    """The first row of each chunk, and the number of rows; at least one chunk."""
    n_cells = len(selection.cells)
    if chunk_size is not None:
        chunk_size = integer("chunk_size", chunk_size, 1)
        return [*range(0, max(n_cells, 1), chunk_size), n_cells]
    # Twelve bytes a value; of dense matrices, which have a value in eight or so, as their rows are.
    parts = selection.parts()
    values = [n_genes * part.n_obs / 8 if part.nnz is None else part.nnz for part in parts]
    mean = sum(values) / max(1, sum(part.n_obs for part in parts))
    n = math.ceil(n_cells * 12 * mean / _CHUNK)
    found = selection.store._core.cut(selection.cells, min(max(1, n), max(1, n_cells)))
    return sorted({0, *found}) if n_cells else [0, 0]
