"""The matrices of a batch: X, layers and obsm.

Owns which matrices are read, as which number type, and what is done to X while it is read.
Knows no order of cells and no batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import polars as pl

from .._args import Normalize, normalization
from .._core import MatrixName, Reader, TokenEncoding
from ..convert.arrays import Layout, MatrixForm
from ..errors import DaoKeyError, DaoValueError
from ..genes.request import Duplicates, Genes
from ..select.counts import check_counts
from ..select.selection import Selection, gene_names_of, matrix_name, matrix_names, number_type
from ..store.store import Store
from .sampling import digest
from .tokens import Encoding


class Matrices:
    """The matrices of a selection's batches: x first, then layers and obsm by name.

    Attributes:
        n_vars: columns of x.
        parts: the numbers of the parts that the cells are of.
        forms: each of them, and in which form it is read.
        encoding: what makes tokens of x.
        settings: what makes values what they are, as JSON has it.
    """

    def __init__(
        self,
        selection: Selection,
        genes: Genes,
        gene_key: str | None,
        duplicates: Duplicates,
        layer: str | None,
        layers: Iterable[str] | str | bool,
        obsm: Iterable[str] | str | bool,
        layout: Layout,
        dtype: Any,
        normalize: Normalize,
        encoding: Encoding | None,
    ) -> None:
        if layout not in ("csr", "dense"):
            raise DaoValueError(f"layout={layout!r}; expected 'csr' or 'dense'")
        self.layout = layout
        dtype = number_type(dtype)
        normalized = normalization(normalize, dtype)
        check_counts(selection, matrix_name(layer), normalized)
        self._genes = selection.resolve(genes, gene_key, duplicates)
        self.parts, self._gene_key = selection.numbers, gene_key
        self.n_vars = self._genes.n_genes
        self._cells = selection.cells
        self._layers = matrix_names("layers", layers, selection.descriptions)
        self._obsm = matrix_names("obsm", obsm, selection.descriptions)
        floats = dtype if dtype.startswith("float") else "float32"
        self.forms = [
            MatrixForm(matrix_name(layer), self.n_vars, layout, dtype, normalized),
            *(MatrixForm(MatrixName.layer(n), self.n_vars, layout, dtype) for n in self._layers),
            *(
                MatrixForm(MatrixName.obsm(name), _width(selection, name), "dense", floats)
                for name in self._obsm
            ),
        ]
        self.encoding = encoding
        self._tokens = None if encoding is None else encoding._columns(self._genes.names or [])
        self.settings: dict[str, Any] = {
            "genes": None if self._genes.names is None else digest(self._genes.names),
            "gene_key": gene_key,
            **({} if duplicates == "error" else {"duplicates": duplicates}),
            "matrices": [str(form.name) for form in self.forms],
            "layout": layout,
            "dtype": dtype,
            "normalize": None if normalized is None else list(normalized),
            **({} if encoding is None else {"encode": encoding._settings}),
        }

    def open(self, store: Store) -> Reader:
        """The core's reader of all these matrices."""
        return Reader(store._core, self._cells, self._genes, self.forms)

    def encode(self, epoch: int) -> tuple[TokenEncoding, int] | None:
        """What makes tokens of x in an epoch."""
        if self.encoding is None or self._tokens is None:
            return None
        return self.encoding._core(self._tokens), epoch

    def gene_names(self, store: Store) -> pl.Series:
        """The names of the columns of x and layers, (n_vars,); of all genes, they are read."""
        parts = [store._by_number[number] for number in self.parts] or store._core.parts
        return gene_names_of(store, parts, self._genes, self._gene_key)

    def entries(self) -> list[tuple[str, MatrixForm]]:
        """The matrices by their names among tensors: ``X``, ``layers/…``, ``obsm/…``."""
        return [(str(form.name) if i else "X", form) for i, form in enumerate(self.forms)]

    def names(self) -> list[str]:
        """What a batch's arrays are called among tensors."""
        tokens = () if self.encoding is None else self.encoding._dtypes
        return [*(name for name, _ in self.entries()), *tokens]

    def shaped(self, n_rows: int, read: list[Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """X, the layers and the obsm of what the reader gave for ``n_rows`` cells."""
        matrices = [f.shaped(n_rows, arrays) for f, arrays in zip(self.forms, read, strict=True)]
        n = 1 + len(self._layers)
        layers = dict(zip(self._layers, matrices[1:n], strict=True))
        return matrices[0], layers, dict(zip(self._obsm, matrices[n:], strict=True))


def _width(selection: Selection, name: str) -> int:
    matrix = MatrixName.obsm(name)
    widths: dict[int, str] = {}
    for dataset, description in zip(selection.parts(), selection.descriptions(), strict=True):
        if matrix not in description.matrices:
            here = [repr(key.name) for key in description.matrices if key.group == "obsm"]
            known = ", ".join(here) or "none"
            raise DaoKeyError(f"dataset {dataset.name!r} has no obsm {name!r}; it has: {known}")
        widths.setdefault(description.matrices[matrix].shape[1], dataset.name)
    if len(widths) > 1:
        listed = ", ".join(f"{width} in {dataset!r}" for width, dataset in widths.items())
        raise DaoValueError(f"obsm {name!r} has different numbers of columns: {listed}")
    return next(iter(widths), 0)
