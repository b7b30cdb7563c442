"""What a selection has beside its cells' values: obs, var and uns, and which matrices there are.

Owns which columns, genes and matrices of the datasets come along, and the types that they come
back in. Reads tables, and no matrix.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from .._core import ColumnMeta, MatrixMeta, MatrixName, TableMeta
from .._core import Genes as ResolvedGenes
from ..errors import DaoCorruptError
from ..legacy.tables import truth_notes
from ..legacy.unpickle import Refused
from ..select.selection import Selection, matrix_names, number_type
from .arrays import MatrixForm
from .to_pandas import to_pandas

if TYPE_CHECKING:
    import pandas as pd

    from ..scan.columns import ScannedPart

#: The name of the column of var's own index where another column takes its place.
_INDEX = "source_var_name"


class Descriptions:
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


def common_names(described: Iterable[MatrixMeta]) -> list[str] | None:
    """The names of an embedding's columns, where all that have it give them the same ones."""
    names = [matrix.columns for matrix in described]
    return names[0] if names and all(other == names[0] for other in names) else None


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


def obs_of(selection: Selection, described: Descriptions) -> pd.DataFrame:
    """The frame's columns with their pandas types, without those that only other datasets have."""
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
        known = "obs_name" in selection.frame.columns
        names = selection.frame["obs_name"] if known else _obs_names(selection)
        frame = pl.DataFrame([*frame.get_columns(), names])
    cells = sum(part.n_cells for part in described.parts)
    complete = cells == len(selection.cells) == len(np.unique(selection.keys))
    stores = selection.store.stores
    tables = [
        truth_notes(part, in_store)
        if stores[part.store]._core.has_sfaira_tables
        else _as_scanned(description.obs, part)
        for part, description in zip(scanned, described.found, strict=True)
    ]
    return to_pandas(frame, tables, complete=complete)


def _as_scanned(table: TableMeta, part: ScannedPart) -> TableMeta:
    """What a table was in pandas, by the names that its columns have in the frame."""
    if all(column.name in part.columns for column in table.columns):
        return table
    names = {column.name: name for name, column in part.columns.items()}
    columns = [
        ColumnMeta(names.get(column.name, column.name), column.source, column.dtype, column.pandas)
        for column in table.columns
    ]
    return TableMeta(table.index_name, table.index, columns)


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


def names_of(
    group: Literal["layers", "obsm"],
    named: Iterable[str] | str | bool | None,
    described: Descriptions,
) -> list[MatrixName]:
    """The names of layers or obsm that a setting means."""
    names = matrix_names(group, True if named is None else named, lambda: described.found)
    return [MatrixName.parse(f"{group}/{name}") for name in names]


def uns_of(selection: Selection, described: Descriptions) -> dict[str, Any]:
    """The uns of the one dataset that the cells are of; empty where there are several."""
    datasets = list(dict.fromkeys(part.address for part in described.parts))
    if len(datasets) != 1:
        return {}
    kept: dict[str, Any] = _without_refused(dict(selection.store.uns(datasets[0])))
    return kept


def _without_refused(value: Any) -> Any:
    """``uns`` without what was refused in a pickle: no file could hold the placeholders."""
    if isinstance(value, dict):
        return {k: _without_refused(v) for k, v in value.items() if not isinstance(v, Refused)}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_refused(v) for v in value if not isinstance(v, Refused))
    if isinstance(value, np.ndarray) and value.dtype == object:
        return _without_refused(value.tolist())
    return value


def var_of(
    selection: Selection, described: Descriptions, genes: ResolvedGenes, gene_key: str | None
) -> pd.DataFrame:
    """The genes' rows of var: of the first dataset that has each."""
    entries = described.parts
    tables = [description.var for description in described.found]
    if genes.names is None:
        if not entries or entries[0].n_vars != genes.n_genes:
            none = pl.DataFrame(schema={"var_name": pl.String})
            return to_pandas(none, [], index="var_name", complete=True)
        var = selection.store.var(entries[0].address)
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
            frames.append(selection.store.var(entry.address)[columns[positions]])
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
