"""Matrices requested from the core, and scipy's and numpy's matrices on the arrays it gives.

Owns the form in which a matrix is requested. Knows no cells and no files.
"""

from __future__ import annotations

from copy import copy
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from .._core import MatrixName

Layout = Literal["csr", "dense"]


class MatrixForm(NamedTuple):
    """The form in which one matrix is read; the core reads the attributes.

    Attributes:
        name: which matrix of each dataset.
        n_columns: columns of what is read.
        layout: sparse rows or dense ones.
        dtype: the number type of the values.
        normalize: the total that cells are brought to, and whether log(1 + x) is taken.
    """

    name: MatrixName
    n_columns: int
    layout: Layout = "csr"
    dtype: str = "float32"
    normalize: tuple[float | None, bool] | None = None

    def shaped(self, n_rows: int, arrays: Any) -> csr_matrix | NDArray[Any]:
        """The matrix of what the core gave for ``n_rows`` cells, without a copy.

        Rows of a CSR matrix are canonical: sorted, no column twice.
        """
        if self.layout == "dense":
            return np.asarray(arrays)
        matrix = copy(_empty(n_rows, self.n_columns))
        matrix.data, indices, matrix.indptr = arrays
        # scipy wants both index arrays of one type: 64 bits where there are 2^31 values.
        matrix.indices = indices.astype(matrix.indptr.dtype, copy=False)
        return matrix


@lru_cache
def _empty(n_rows: int, n_columns: int) -> csr_matrix:
    """A canonical matrix without values: scipy's checks of a new one take as long as 40 rows."""
    matrix = csr_matrix((n_rows, n_columns), dtype=np.float32)
    matrix.has_sorted_indices = True
    matrix.has_canonical_format = True
    return matrix
