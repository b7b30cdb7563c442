"""A selection in memory as an AnnData.

Owns what goes into X, layers and obsm. Reads through the same batches as training does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from .._args import Normalize
from .._core import Genes as ResolvedGenes
from .._core import MatrixName, Reader
from .._extras import require
from .._progress import progress_bar
from .._warn import warn
from ..errors import DaoValueError
from ..genes.request import Duplicates, Genes
from ..scan.cell import COLUMN, cell_texts
from ..select.counts import check_counts
from ..select.selection import Missing, Selection, StoreLike, matrix_name, select
from .arrays import MatrixForm
from .lazy import lazy_matrices, x_form
from .selected import Descriptions, common_names, names_of, obs_of, uns_of, var_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


#: The bytes that reading holds beside the result.
_BUDGET = 256 << 20


def to_anndata(
    frame: pl.LazyFrame,
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
    lazy: bool = False,
    chunk_size: int | None = None,
    progress: bool | None = None,
    missing: Missing = "error",
    store: StoreLike | None = None,
) -> AnnData:
    """The frame's cells in memory, as scanpy wants them; or with matrices that are read later.

    Args:
        frame: the one before ``.dao``.
        genes: None: all, and the datasets selected must share one feature space. Names: these, in
            this order. ``"intersection"`` or ``"union"`` of the datasets' genes. A gene that a
            dataset lacks is zero in its cells.
        gene_key: the var column that genes are matched on, instead of the index; the matched names
            become the var index.
        duplicates: what a name means that several genes of a dataset have: an ``"error"``; the
            ``"first"`` of them; the ``"sum"`` of their values; or ``"drop"``: none. var has the
            first one's row.
        layer: what becomes X; None: X.
        layers: names of layers; None or True: those that every dataset selected has; ``[]``: none.
        obsm: as ``layers``; of those that all have, the ones with the same number of columns.
        dtype: of X and layers; None: the first of float32, float64 and the stored type that
            holds the stored values exactly.
        normalize: what is done to X, cell by cell, as scanpy does: ``"log1p_cp10k"`` (a total of
            10,000, then log(1 + x)), ``"cp10k"``, ``"log1p_cpm"`` (a million), ``"cpm"``,
            ``"log1p"``, or ``{"target_sum": …, "log1p": …}``. A cell's total is over all genes of
            its dataset, whatever ``genes`` says. Layers stay as they are.
        obs: columns of the frame for obs; None or True: all, False: none.
        cell: give obs a column ``cell``: text that says which cell of which store each row is.
            ``Store.update_obs`` finds the cells by it, whatever became of their order and names.
        lazy: X, layers and obsm are dask arrays, in chunks of cells that are read when they are
            computed, as ``to_dask`` has them: scanpy's functions that take such run out of core.
        chunk_size: with ``lazy``, cells a chunk; None: chunks of about 64 MB of X.
        progress: show a bar; None: where somebody looks on.
        missing: cells that were removed from the store: an "error", or "drop".
        store: where the store is now, if it moved.

    Returns:
        X CSR, (n_cells, n_genes), rows in frame order. obs: the frame's columns but ``cell``,
        ``obs_name`` as index, each column as the pandas type it had at its source; ``dataset``
        and values from uns are among them, columns that only other datasets have are not. var
        from the store. obsm in its source's dtype, as DataFrames where they were such. uns of the
        dataset where there is just one.

    Raises:
        DaoImportError: anndata is not installed; with ``lazy``, or dask.
        Everything that ``iter_batches`` raises.
    """
    anndata = require("anndata", "to_anndata")
    if lazy:
        require("dask.array", "to_anndata(lazy=True)")
    elif chunk_size is not None:
        raise DaoValueError("chunk_size= is of chunks that lazy=True makes")
    planned = plan(
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
    read = _lazy if lazy else _read
    x, *others = read(planned, chunk_size, progress)
    matrices = dict(zip((form.name for form in planned.others), others, strict=True))
    return anndata.AnnData(
        X=x,
        obs=planned.obs,
        var=planned.var,
        layers={name.name: matrices[name] for name in planned.layers},
        obsm={name.name: planned.embedding(name, matrices[name]) for name in planned.obsm},
        uns=planned.uns,
    )


class Planned(NamedTuple):
    """What an AnnData of a selection has, but for its matrices, which are still to be read.

    Attributes:
        x: the form in which X is read.
        others: those of layers and embeddings, each once.
    """

    selection: Selection
    genes: ResolvedGenes
    described: Descriptions
    x: MatrixForm
    others: list[MatrixForm]
    layers: list[MatrixName]
    obsm: list[MatrixName]
    obs: pd.DataFrame
    var: pd.DataFrame
    uns: dict[str, Any]

    def dtype(self, form: MatrixForm) -> np.dtype[Any]:
        """The number type of a matrix: an embedding's is that of its source."""
        if form.name.is_of_genes:
            return np.dtype(form.dtype)
        return self.described.source_dtype(form.name)

    def columns(self, name: MatrixName) -> Any:
        """The names of an embedding's columns, where it was a table."""
        return common_names(self.described.matrices(name))

    def embedding(self, name: MatrixName, values: Any) -> Any:
        """An embedding, as a table where it was one and is in memory."""
        columns = self.columns(name)
        if columns is None or not isinstance(values, np.ndarray):
            return values
        import pandas as pd

        return pd.DataFrame(values, index=self.obs.index, columns=columns)


def plan(
    frame: pl.LazyFrame,
    *,
    genes: Genes,
    gene_key: str | None,
    duplicates: Duplicates,
    layer: str | None,
    layers: Iterable[str] | str | bool | None,
    obsm: Iterable[str] | str | bool | None,
    dtype: Any,
    normalize: Normalize,
    obs: Iterable[str] | bool | None,
    cell: bool,
    missing: Missing,
    store: StoreLike | None,
) -> Planned:
    """All but the matrices of the frame's AnnData; the arguments are those of ``to_anndata``.

    Raises:
        Everything that ``iter_batches`` raises.
    """
    selection = select(frame, store, obs, also=["obs_name"], missing=missing)
    resolved = selection.resolve(genes, gene_key, duplicates)
    described = Descriptions(selection)
    x = x_form(matrix_name(layer), resolved.n_genes, described, dtype, normalize)
    layer_names = list(names_of("layers", layers, described))
    obsm_names = list(names_of("obsm", obsm, described))
    others = [
        *(
            MatrixForm(name, resolved.n_genes, dtype=described.number_type(name, dtype))
            for name in dict.fromkeys(layer_names)
        ),
        *map(described.embedding, dict.fromkeys(obsm_names)),
    ]
    check_counts(selection, x.name, x.normalize)
    if not len(selection.cells):
        warn("the frame has no cells; does a filter match nothing?")
    table = obs_of(selection, described)
    if cell and COLUMN in table.columns:
        raise DaoValueError(
            f"obs has a column {COLUMN!r} of its own (obs_{COLUMN} in the frame), which cell=True "
            "would replace; leave it out, obs=[…], or rename it: store.rename_obs"
        )
    if cell:
        table[COLUMN] = cell_texts(selection.keys, [s.id for s in selection.store.stores])
    return Planned(
        selection,
        resolved,
        described,
        x,
        others,
        layer_names,
        obsm_names,
        table,
        var_of(selection, described, resolved, gene_key),
        uns_of(selection, described),
    )


def _read(planned: Planned, chunk_size: int | None, progress: bool | None) -> list[Any]:
    """The matrices of a selection in memory."""
    selection, forms = planned.selection, [planned.x, *planned.others]
    reader = Reader(selection.store._core, selection.cells, planned.genes, forms)
    n_obs = len(selection.cells)
    total = n_obs * len(forms)
    with progress_bar(progress, total=total, unit="cell", label="to_anndata") as advance:
        read = reader.read(advance=advance, budget=_BUDGET)
    shaped = [form.shaped(n_obs, arrays) for form, arrays in zip(forms, read, strict=True)]
    return [
        values.astype(planned.dtype(form), copy=False)
        for form, values in zip(forms, shaped, strict=True)
    ]


def _lazy(planned: Planned, chunk_size: int | None, progress: bool | None) -> list[Any]:
    """The matrices of a selection as dask arrays."""
    typed = [(form, planned.dtype(form)) for form in [planned.x, *planned.others]]
    return list(lazy_matrices(planned.selection, planned.genes, typed, chunk_size))
