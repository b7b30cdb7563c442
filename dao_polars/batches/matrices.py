"""What a batch has of each cell: the readers of X, layers and obsm.

Owns which matrices are read, as which number type, and what is done to X while it is read.
Knows no order of cells and no batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_matrix

from .._core import MatrixName, Reader
from ..errors import DaoKeyError, DaoTypeError, DaoValueError
from ..genes.request import Genes
from ..select.selection import Selection, matrix_name, number_type
from ..store.store import Store
from .sampling import digest

__all__ = ["Layout", "Matrices", "as_csr", "normalization"]

Layout = Literal["csr", "dense"]

#: Totals that cells are brought to, and whether the logarithm of one more is taken then.
_NORMALIZE: dict[str, tuple[float | None, bool]] = {
    "cp10k": (1e4, False),
    "log1p_cp10k": (1e4, True),
    "cpm": (1e6, False),
    "log1p_cpm": (1e6, True),
    "log1p": (None, True),
}


class Matrices:
    """The matrices of a selection's batches: x first, then layers and obsm by name.

    Attributes:
        genes: names of the columns of x and layers where genes were asked for by name.
        n_vars: columns of x.
        names: what the store calls each.
        settings: what makes values what they are, as JSON has it.
    """

    def __init__(
        self,
        selection: Selection,
        *,
        genes: Genes,
        gene_key: str | None,
        layer: str | None,
        layers: Iterable[str] | str,
        obsm: Iterable[str] | str,
        layout: Layout,
        dtype: Any,
        normalize: str | Mapping[str, Any] | None,
    ) -> None:
        if layout not in ("csr", "dense"):
            raise DaoValueError(f"layout={layout!r}; expected 'csr' or 'dense'")
        self.layout = layout
        self._dtype = number_type(dtype)
        self._normalize = normalization(normalize, self._dtype)
        resolved, parts = selection.resolve(genes, gene_key)
        self.genes = resolved.names
        self.n_vars = resolved.n_genes
        self._parts = parts if len(selection.keys) else []
        self._keys = selection.keys
        self._layers = _listed(layers, "layers")
        self._obsm = {name: _width(selection, name) for name in _listed(obsm, "obsm")}
        self.names = [
            matrix_name(layer),
            *(MatrixName.layer(name) for name in self._layers),
            *(MatrixName.obsm(name) for name in self._obsm),
        ]
        self.settings: dict[str, Any] = {
            "genes": None if self.genes is None else digest(self.genes.to_list()),
            "gene_key": gene_key,
            "matrices": [str(name) for name in self.names],
            "layout": layout,
            "dtype": self._dtype,
            "normalize": None if self._normalize is None else list(self._normalize),
        }

    def open(self, store: Store) -> list[Reader]:
        """A reader of each, in the order of ``names``."""
        return [self._open(store, i) for i in range(len(self.names))]

    def _open(self, store: Store, i: int) -> Reader:
        name, n_columns, dtype, _ = self.described()[i]
        target_sum, log1p = self._normalize if self._normalize and i == 0 else (None, False)
        of_genes = i <= len(self._layers)
        return Reader(
            store._core,
            self._keys,
            self._parts if of_genes else [(number, None) for number, _ in self._parts],
            matrix=name,
            n_columns=n_columns,
            layout=self.layout if of_genes else "dense",
            dtype=dtype,
            target_sum=target_sum,
            log1p=log1p,
        )

    def described(self) -> list[tuple[MatrixName, int, str, bool]]:
        """Of each matrix: its name in the store, columns, number type, whether it is sparse."""
        n_genes = 1 + len(self._layers)
        return [
            (name, self.n_vars, self._dtype, self.layout == "csr")
            if i < n_genes
            else (name, self._obsm[name.name], self._floats, False)
            for i, name in enumerate(self.names)
        ]

    @property
    def _floats(self) -> str:
        return self._dtype if self._dtype.startswith("float") else "float32"

    def shaped(self, i: int, n_rows: int, parts: Any) -> Any:
        """What a reader gave of some rows, as a matrix."""
        if self.layout == "dense" or i > len(self._layers):
            return parts
        return as_csr(parts, (n_rows, self.n_vars))

    def by_group(self, matrices: list[Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """X, the layers and the obsm of a batch."""
        n = 1 + len(self._layers)
        layers = dict(zip(self._layers, matrices[1:n], strict=True))
        return matrices[0], layers, dict(zip(self._obsm, matrices[n:], strict=True))


def as_csr(parts: Any, shape: tuple[int, int]) -> csr_matrix:
    """Scipy's matrix on ``(data, indices, indptr)``, without a copy; its rows are canonical."""
    matrix = csr_matrix(parts, shape=shape)
    matrix.has_sorted_indices = True
    matrix.has_canonical_format = True
    return matrix


def _width(selection: Selection, name: str) -> int:
    matrix = MatrixName.obsm(name)
    widths: dict[int, str] = {}
    for dataset, description in zip(selection.datasets(), selection.descriptions(), strict=True):
        known = description.matrices
        if matrix not in known:
            here = [key.name for key in known if key.group == "obsm"]
            raise DaoKeyError(
                f"dataset {dataset.name!r} has no obsm {name!r}; it has: "
                f"{', '.join(map(repr, here)) or 'none'}"
            )
        widths.setdefault(known[matrix].shape[1], dataset.name)
    if len(widths) > 1:
        listed = ", ".join(f"{width} in {dataset!r}" for width, dataset in widths.items())
        raise DaoValueError(f"obsm {name!r} has different numbers of columns: {listed}")
    return next(iter(widths), 0)


def _listed(names: Iterable[str] | str, what: str) -> list[str]:
    listed = [names] if isinstance(names, str) else list(names)
    for name in listed:
        if not isinstance(name, str):
            raise DaoTypeError(f"{what}= holds {name!r}; expected names (str)")
    return list(dict.fromkeys(listed))


def normalization(
    normalize: str | Mapping[str, Any] | None, dtype: str
) -> tuple[float | None, bool] | None:
    """The total that cells are brought to, and whether log(1 + x) is taken; None for neither.

    Raises:
        DaoValueError, DaoTypeError: ``normalize`` is nothing known, or ``dtype`` no float.
    """
    if normalize is None:
        return None
    if not dtype.startswith("float"):
        raise DaoValueError(f"normalize= gives no integers; dtype={dtype!r} is one")
    if isinstance(normalize, str):
        if normalize not in _NORMALIZE:
            known = ", ".join(map(repr, _NORMALIZE))
            raise DaoValueError(
                f"normalize={normalize!r}; expected one of {known}, or "
                "{'target_sum': a number or None, 'log1p': True or False}"
            )
        return _NORMALIZE[normalize]
    entries = {"target_sum", "log1p"}
    if not isinstance(normalize, Mapping) or not normalize or set(normalize) - entries:
        raise DaoTypeError(
            f"normalize={normalize!r}; expected a name or "
            "{'target_sum': a number or None, 'log1p': True or False}"
        )
    target = normalize.get("target_sum")
    if target is not None:
        if isinstance(target, bool) or not isinstance(target, (int, float, np.number)):
            raise DaoTypeError(f"normalize= has target_sum={target!r}; expected a number or None")
        target = float(target)
        if not (np.isfinite(target) and target > 0):
            raise DaoValueError(f"normalize= has target_sum={target!r}; expected one above 0")
    log1p = normalize.get("log1p", False)
    if not isinstance(log1p, (bool, np.bool_)):
        raise DaoTypeError(f"normalize= has log1p={log1p!r}; expected True or False")
    return target, bool(log1p)
