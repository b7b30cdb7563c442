"""A selection in memory as an AnnData.

Owns what goes into X, layers, obsm, obs, var and uns. Reads through the same batches as
training does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from .._core import Genes as ResolvedGenes
from .._core import MatrixMeta, MatrixName, Reader
from .._extras import require
from .._progress import progress_bar
from ..errors import DaoCorruptError
from ..genes.request import Duplicates, Genes
from ..legacy.tables import truth_notes
from ..legacy.unpickle import Refused
from ..select.selection import Missing, Selection, matrix_name, matrix_names, number_type, select
from .arrays import MatrixForm
from .to_pandas import to_pandas

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ..store.store import Store

#: The name of the column of var's own index where another column takes its place.
_INDEX = "source_var_name"
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
        genes: as in [`iter_batches`][].
        gene_key: as in [`iter_batches`][]; the matched names become the var index.
        duplicates: as in [`iter_batches`][]; var has the first gene's row.
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
        Everything that [`iter_batches`][] raises.
    """
    anndata = require("anndata", "to_anndata")
    selection = select(frame, store, None, missing=missing)
    resolved = selection.resolve(genes, gene_key, duplicates)
    described = _Descriptions(selection)
    x_name = matrix_name(layer)
    layer_names = _named("layers", layers, described)
    obsm_names = _named("obsm", obsm, described)
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
    datasets = list(dict.fromkeys(part.name for part in described.parts))
    return anndata.AnnData(
        X=matrices[x_name],
        obs=_obs(selection, described),
        var=_var(selection, described, resolved, gene_key),
        layers={name.name: matrices[name] for name in layer_names},
        obsm={
            name.name: matrices[name].astype(described.source_dtype(name), copy=False)
            for name in obsm_names
        },
        uns=_without_refused(selection.store.uns(datasets[0])) if len(datasets) == 1 else {},
    )


class _Descriptions:
    """The descriptions of the selected parts."""

    def __init__(self, selection: Selection) -> None:
        self.parts = selection.parts()
        self.found = selection.descriptions()

    def matrices(self, name: MatrixName) -> list[MatrixMeta]:
        """A matrix in each of the parts that have it."""
        return [d.matrices[name] for d in self.found if name in d.matrices]

    def number_type(self, name: MatrixName, dtype: Any) -> str:
        """The first of float32, float64 and the stored type that holds every stored value."""
        if dtype is not None:
            return number_type(dtype)
        described = self.matrices(name)
        stored = {matrix.dtype for matrix in described if matrix.dtype is not None}
        if "float64" in stored:
            return "float64"
        integers = [m.max_abs or 0 for m in described if not (m.dtype or "").startswith("float")]
        largest = max(integers, default=0)
        if largest >= 2**53 and len(stored) == 1:
            return stored.pop()
        return "float64" if largest > 2**24 else "float32"

    def source_dtype(self, name: MatrixName) -> np.dtype[Any]:
        """The number type that a matrix had before it was stored."""
        sources = [_source_dtype(name, matrix.source_dtype) for matrix in self.matrices(name)]
        return np.result_type(*sources) if sources else np.dtype(np.float32)

    def embedding(self, name: MatrixName) -> MatrixForm:
        """The form of an obsm: all its columns, in its own number type."""
        widths = {matrix.shape[1] for matrix in self.matrices(name)}
        dtype = self.source_dtype(name).name
        # The core reads the numbers that zarr has; half floats and bools are stored as others.
        read_as = {"float16": "float32", "bool": "uint8"}.get(dtype, dtype)
        return MatrixForm(name, widths.pop() if len(widths) == 1 else 0, "dense", read_as)


def _source_dtype(name: MatrixName, text: str) -> np.dtype[Any]:
    try:
        found = np.dtype(text)
    except TypeError:
        found = np.dtype(object)
    if found.kind not in "biuf":
        raise DaoCorruptError(
            f"matrix '{name}': expected the name of a number type as its source_dtype, found "
            f"{text!r}; restore the dataset's description from a copy"
        )
    return found


def _obs(selection: Selection, described: _Descriptions) -> pd.DataFrame:
    numbers = {part.number for part in described.parts}
    scanned = [part for part in selection.store._scanned.parts if part.number in numbers]
    here = {"dataset", "obs_name"}.union(*((*d.columns, *d.constants) for d in scanned))
    in_store = selection.store.schema
    padding = [
        s.name
        for s in selection.obs
        if s.name in in_store and s.name not in here and s.null_count() == len(s)
    ]
    frame = selection.obs.drop(padding)
    if "obs_name" not in frame.columns:
        # Not with_columns: a frame without columns has no rows.
        frame = pl.DataFrame([*frame.get_columns(), _obs_names(selection)])
    cells = sum(part.n_cells for part in described.parts)
    complete = cells == len(selection.keys) == len(np.unique(selection.keys))
    tables = [description.obs for description in described.found]
    if selection.store._core.has_sfaira_tables:
        tables = [truth_notes(part, in_store) for part in scanned]
    return to_pandas(frame, tables, complete=complete)


def _obs_names(selection: Selection) -> pl.Series:
    """Names of cells for a frame that has lost them."""
    names = [part.name for part in selection.parts()]
    obs_names = (
        selection.store.scan()
        .filter(pl.col("dataset").is_in(names))
        .select(pl.col("cell").ext.storage(), "obs_name")
    )
    keys = pl.LazyFrame({"cell": selection.keys})
    return keys.join(obs_names, on="cell", how="left", maintain_order="left").collect()["obs_name"]


def _named(
    group: Literal["layers", "obsm"],
    named: Iterable[str] | str | bool | None,
    described: _Descriptions,
) -> list[MatrixName]:
    """The names of layers or obsm that a setting means."""
    names = matrix_names(group, True if named is None else named, lambda: described.found)
    return [MatrixName.parse(f"{group}/{name}") for name in names]


def _without_refused(value: Any) -> Any:
    """``uns`` without what was refused in a pickle: no file could hold the placeholders."""
    if isinstance(value, dict):
        return {k: _without_refused(v) for k, v in value.items() if not isinstance(v, Refused)}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_refused(v) for v in value if not isinstance(v, Refused))
    if isinstance(value, np.ndarray) and value.dtype == object:
        return _without_refused(value.tolist())
    return value


def _var(
    selection: Selection, described: _Descriptions, genes: ResolvedGenes, gene_key: str | None
) -> pd.DataFrame:
    """The genes' rows of var: of the first dataset that has each."""
    entries = described.parts
    tables = [description.var for description in described.found]
    if genes.names is None:
        if not entries or entries[0].n_vars != genes.n_genes:
            none = pl.DataFrame(schema={"var_name": pl.String})
            return to_pandas(none, [], index="var_name", complete=True)
        var = selection.store.var(entries[0].name)
        return to_pandas(var, tables[:1], index="var_name", complete=True)
    # Of each gene its row in the tables below, one after the other; -1 where it has none.
    at, n_rows = np.full(genes.n_genes, -1), 0
    frames: list[pl.DataFrame] = []
    for entry in entries:
        columns = genes.columns(entry.number)
        if columns is None:
            columns = np.arange(genes.n_genes)
        positions = np.flatnonzero((at < 0) & (columns >= 0))
        if len(positions) or not frames:
            at[positions] = np.arange(n_rows, n_rows + len(positions))
            n_rows += len(positions)
            frames.append(selection.store.var(entry.name)[columns[positions]])
    try:
        joined = pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.SchemaError:  # columns of types that have nothing in common
        text = [frame.with_columns(pl.all().cast(pl.String)) for frame in frames]
        joined = pl.concat(text, how="diagonal")
    # A gene that no dataset here has has no row of var either, and keeps its name.
    missing = at < 0
    found = joined.select(pl.all().gather(pl.Series(at).set(pl.Series(missing), None)))
    if gene_key not in (None, "var_name") and _INDEX not in found.columns:
        found = found.with_columns(pl.col("var_name").alias(_INDEX))
    found = found.with_columns(pl.Series("var_name", genes.names, dtype=pl.String))
    if (len(entries) > 1 or missing.any()) and len(found):
        # Columns of datasets whose genes these are not hold nothing, which no file could hold.
        found = found.select(s for s in found if s.null_count() < len(s))
    return to_pandas(found, tables, index="var_name", complete=False)
