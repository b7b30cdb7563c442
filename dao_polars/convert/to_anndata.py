"""A selection in memory as an AnnData.

Owns what goes into X, layers and obsm. Reads through the same batches as training does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import polars as pl

from .._core import Reader
from .._extras import require
from .._progress import progress_bar
from ..genes.request import Duplicates, Genes
from ..select.selection import Missing, matrix_name, select
from .arrays import MatrixForm
from .selected import Descriptions, names_of, obs_of, uns_of, var_of

if TYPE_CHECKING:
    from anndata import AnnData

    from ..store.store import Store

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
    progress: bool | None = None,
    missing: Missing = "error",
    store: Store | str | None = None,
) -> AnnData:
    """The frame's cells in memory, as scanpy wants them.

    Args:
        frame: the one before ``.dao``.
        genes: as in ``iter_batches``.
        gene_key: as in ``iter_batches``; the matched names become the var index.
        duplicates: as in ``iter_batches``; var has the first gene's row.
        layer: what becomes X; None: X.
        layers: names of layers; None or True: those that every dataset selected has; ``[]``: none.
        obsm: as ``layers``; of those that all have, the ones with the same number of columns.
        dtype: of X and layers; None: the first of float32, float64 and the stored type that
            holds the stored values exactly.
        progress: show a bar; None: where somebody looks on.
        missing: cells that were removed from the store: an "error", or "drop".
        store: where the store is now, if it moved.

    Returns:
        X CSR, (n_cells, n_genes), rows in frame order. obs: the frame's columns but ``cell``,
        ``obs_name`` as index, each column as the pandas type it had at its source; ``dataset``
        and values from uns are among them, columns that only other datasets have are not. var
        from the store. obsm in its source's dtype. uns of the dataset where there is just one.

    Raises:
        DaoImportError: anndata is not installed.
        Everything that ``iter_batches`` raises.
    """
    anndata = require("anndata", "to_anndata")
    selection = select(frame, store, None, missing=missing)
    resolved = selection.resolve(genes, gene_key, duplicates)
    described = Descriptions(selection)
    x_name = matrix_name(layer)
    layer_names = names_of("layers", layers, described)
    obsm_names = names_of("obsm", obsm, described)
    forms = [
        MatrixForm(name, resolved.n_genes, dtype=described.number_type(name, dtype))
        for name in dict.fromkeys([x_name, *layer_names])
    ] + [described.embedding(name) for name in dict.fromkeys(obsm_names)]
    reader = Reader(selection.store._core, selection.cells, resolved, forms)
    n_obs = len(selection.cells)
    total = n_obs * len(forms)
    with progress_bar(progress, total=total, unit="cell", label="to_anndata") as advance:
        read = reader.read(advance=advance, budget=_BUDGET)
    matrices = {
        form.name: form.shaped(n_obs, arrays) for form, arrays in zip(forms, read, strict=True)
    }
    return anndata.AnnData(
        X=matrices[x_name],
        obs=obs_of(selection, described),
        var=var_of(selection, described, resolved, gene_key),
        layers={name.name: matrices[name] for name in layer_names},
        obsm={
            name.name: matrices[name].astype(described.source_dtype(name), copy=False)
            for name in obsm_names
        },
        uns=uns_of(selection, described),
    )
