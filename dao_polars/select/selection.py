"""A frame's cells, collected once: which store, which cells, in which order, with which columns.

Owns the step from a polars frame to keys and obs, and from a request for genes to
output columns. Reads no matrix.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from .. import _core
from .._args import texts
from .._core import CellKeys, Description, MatrixName, Part
from .._core import Genes as ResolvedGenes
from .._warn import warn
from ..errors import DaoFileNotFoundError, DaoKeyError, DaoTypeError, DaoValueError
from ..genes.request import Duplicates, Genes, wanted
from ..scan.cell import COLUMN, Cell, Keys, cell_type, keys_of
from ..scan.source import scanned_versions
from ..store.several import Place, listed
from ..store.store import Store, joined, load_store
from .gone import gone_error

#: The share of a dataset's genes that an intersection leaves without a warning.
_MUCH = 0.2

#: Where the store of some cells is: opened, or its place; of cells of several stores, theirs.
StoreLike = Store | Place | Sequence[Place]

#: What becomes of cells that the store has no more.
Missing = Literal["error", "drop"]


@dataclass(frozen=True)
class Selection:
    """Cells of one store, or of several as one, in frame order.

    ``cells`` are their keys, of the type ``cell``, and ``numbers`` those of their parts,
    ascending; ``frame`` has the chosen obs columns ``obs_names`` and those that were needed beside
    them, a row a cell.
    """

    store: Store
    cell: Cell
    cells: CellKeys
    numbers: list[int]
    frame: pl.DataFrame
    obs_names: list[str]

    @property
    def keys(self) -> Keys:
        """The cell keys, (n_cells,) uint64, read-only: an array that may be made each time."""
        return self.cells.numpy()

    @property
    def obs(self) -> pl.DataFrame:
        """The columns of obs that were chosen."""
        return self.frame.select(self.obs_names)

    def parts(self) -> list[Part]:
        """The parts that have cells here; all in the store for an empty selection."""
        numbers = set(self.numbers)
        return [d for d in self.store._core.parts if not numbers or d.number in numbers]

    def descriptions(self) -> list[Description]:
        """The descriptions of these parts."""
        return [self.store._core.description(part.number) for part in self.parts()]

    def gene_names(self, genes: ResolvedGenes, gene_key: str | None) -> pl.Series:
        """The names of resolved genes: those that were matched, or all of the feature space."""
        return gene_names_of(self.store, self.parts(), genes, gene_key)

    def resolve(
        self, genes: Genes, gene_key: str | None, duplicates: Duplicates = "error"
    ) -> ResolvedGenes:
        """The requested genes, and the columns of each dataset that they are.

        Raises:
            DaoValueError: several feature spaces and no ``genes``, a name twice in the list or with
                several genes in a dataset.
            DaoKeyError: a gene that no dataset of the store has, a ``gene_key`` that is no column
                of var.
            DaoTypeError: ``genes`` is something else.
        """
        resolved = self.store._core.genes(
            self.numbers, wanted(genes), gene_key=gene_key, duplicates=duplicates
        )
        if isinstance(genes, str) and genes == "intersection":
            self._check_intersection(resolved.n_genes)
        return resolved

    def _check_intersection(self, n_genes: int) -> None:
        """Warns where the datasets have next to no genes in common."""
        parts = self.parts()
        fewest = min((part.n_vars for part in parts), default=0)
        if n_genes >= _MUCH * fewest:
            return
        organisms = dict.fromkeys(filter(None, (part.organism for part in parts)))
        of = f", of {' and '.join(organisms)}" if len(organisms) > 1 else ""
        warn(
            f'genes="intersection" leaves {n_genes:,} genes of the {fewest:,} and more that each '
            f"of the datasets has{of}. Filter on pl.col('dataset') or the organism, give a list of "
            'names or genes="union", or name with gene_key= a column of var whose names they share'
        )


def gene_names_of(
    store: Store, parts: Sequence[Part], genes: ResolvedGenes, gene_key: str | None
) -> pl.Series:
    """The names of genes that were resolved for these parts, (n_genes,) String."""
    if genes.names is None and parts and parts[0].n_vars == genes.n_genes:
        names = store.var(parts[0].address)[gene_key or "var_name"].cast(pl.String)
        return names.rename("gene")
    return pl.Series("gene", genes.names or [], dtype=pl.String)


def select(
    frame: pl.LazyFrame,
    store: StoreLike | None,
    obs: Iterable[str] | bool | None,
    also: Iterable[str] = (),
    missing: Missing = "error",
) -> Selection:
    """Collect a frame's cells and the columns ``obs`` of it (None: all), and open their store.

    Columns in ``also`` are collected too, where the frame has them. Cells that the store has no
    more are an error, or (``missing="drop"``) left out.

    Raises:
        DaoValueError: no ``cell`` column, null keys, keys that the store does not have, or a
            store that is not the one that the keys name.
        DaoTypeError: a ``cell`` column that holds something else.
        DaoKeyError: an unknown column in ``obs``.
        DaoFileNotFoundError: the store is not where it was; name it with ``store=``.
    """
    if missing not in get_args(Missing):
        raise DaoValueError(f"missing={missing!r}; expected 'error' or 'drop'")
    schema = frame.collect_schema()
    cell = cell_type(schema)
    names = _obs_columns(schema, obs)
    opened = open_store(cell, store, scanned_versions(frame, [s.uri for s in cell.stores]))
    beside = [name for name in also if name in schema]
    collected = frame.select(list(dict.fromkeys([COLUMN, *names, *beside]))).collect()
    cells = keys_of(collected)
    numbers, gone = opened._core.locate(cells)
    if len(gone):
        if missing != "drop":
            raise gone_error(opened, cells.numpy(), gone)
        stay = np.delete(np.arange(collected.height), gone)
        collected = collected[stay]
        cells = CellKeys([cells.numpy()[stay]])
    if COLUMN not in beside:
        collected = collected.drop(COLUMN)  # the keys are held once
    return Selection(opened, cell, cells, numbers, collected, names)


def _obs_columns(schema: pl.Schema, obs: Iterable[str] | bool | None) -> list[str]:
    if obs is None or obs is True:
        return [name for name in schema if name != COLUMN]
    if obs is False:
        return []
    if not isinstance(obs, Iterable):
        raise DaoTypeError(f"obs={obs!r}; expected column names, True or False")
    return column_names(schema, obs, "obs")


def column_names(schema: pl.Schema, columns: Iterable[str], setting: str) -> list[str]:
    """The columns of obs that a setting names, each once; an error for anything else."""
    names = texts(columns, setting, "column names")
    for name in names:
        if name not in schema or name == COLUMN:
            known = ", ".join(repr(known) for known in schema if known != COLUMN)
            raise DaoKeyError(f"{setting}={name!r} is no column of the frame; its columns: {known}")
    return list(dict.fromkeys(names))


def open_store(
    cell: Cell, store: StoreLike | None, scanned: Sequence[int | None] | None = None
) -> Store:
    """The store that cells were selected from, there or where ``store`` says.

    In the version that their type names, or that was ``scanned`` for them; otherwise in the last.
    Of cells of several stores these as one, each in its version.

    Raises:
        DaoFileNotFoundError, DaoTypeError, DaoValueError: it is not there, or is another one.
    """
    members = cell.stores
    versions = [
        found if member.version is None else member.version
        for member, found in zip(members, scanned or [None] * len(members), strict=True)
    ]
    if isinstance(store, Store):
        opened = store
    elif store is None:
        try:
            opened = joined(
                [
                    load_store(
                        member.uri,
                        storage_options=_core.Store.options_of(member.uri) or None,
                        version=version,
                    )
                    for member, version in zip(members, versions, strict=True)
                ]
            )
        except DaoFileNotFoundError as error:
            raise DaoFileNotFoundError(f"{error}\n{_core.STORE_MOVED}") from None
    elif isinstance(store, (str, os.PathLike)):
        if versions[0] is not None:  # of another store, it is no version that is missing
            load_store(store)._core.check_is([(member.uri, member.id) for member in members])
        opened = load_store(store, version=versions[0] if len(members) == 1 else None)
    elif isinstance(store, Sequence) and not isinstance(store, bytes):
        places = listed(store) or []
        opened = load_store(places, version=versions if len(places) == len(members) else None)
    else:
        raise DaoTypeError(
            f"store={store!r}; expected a Store, or its path or URL; for cells of several stores a "
            "list of these"
        )
    opened._core.check_is([(member.uri, member.id) for member in members])
    return opened


def matrix_names(
    group: Literal["layers", "obsm"],
    named: Iterable[str] | str | bool,
    descriptions: Callable[[], Sequence[Description]],
) -> list[str]:
    """The layers or obsm that a setting names, each once.

    True: all that the selection's datasets have in common, embeddings of one width.

    Raises:
        DaoTypeError: it is something else.
    """
    if named is not True:
        if not isinstance(named, Iterable):
            raise DaoTypeError(
                f"{group}={named!r}; expected names, True for all that the datasets have in "
                "common, or () for none"
            )
        return list(dict.fromkeys(texts(named, group)))
    first, *others = [description.matrices for description in descriptions()] or [{}]
    return [
        name.name
        for name, meta in first.items()
        if name.group == group
        and all(name in other for other in others)
        and (name.is_of_genes or all(o[name].shape[1] == meta.shape[1] for o in others))
    ]


def matrix_name(layer: str | None) -> MatrixName:
    """The name of X or a layer."""
    if layer is None or layer == "X":
        return MatrixName.X
    if not isinstance(layer, str):
        raise DaoTypeError(f"layer={layer!r}; expected a layer's name, or None for X")
    return MatrixName.layer(layer)


def stored_types(store: Store, parts: Iterable[Part], matrix: MatrixName) -> list[str]:
    """The names of the number types that a matrix is stored in, over the datasets that have it."""
    if matrix == MatrixName.X:
        return [part.dtype for part in parts if part.dtype is not None]
    found = [store._core.description(part.number).matrices for part in parts]
    stored = [matrices[matrix].dtype for matrices in found if matrix in matrices]
    return [dtype for dtype in stored if dtype is not None]


def number_type(dtype: Any) -> str:
    """The name of a number type that matrices can be read as.

    Raises:
        DaoTypeError: it is none.
    """
    if isinstance(dtype, (pl.DataType, pl.datatypes.DataTypeClass)):
        dtype = str(dtype).lower()  # polars' names differ from numpy's by nothing else
    try:
        name = "None" if dtype is None else str(np.dtype(dtype).name)
    except TypeError:
        name = str(dtype)
    known = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
    if name not in (*known, "float32", "float64"):
        raise DaoTypeError(
            f"dtype={dtype!r}; expected float32, float64 or an integer type of 8 to 64 bits"
        )
    return name
