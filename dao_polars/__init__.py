"""Single-cell atlases as one lazy polars table.

>>> import dao_polars as dao
>>> lf = dao.scan("atlas/")                                  # one row a cell
>>> cells = lf.filter(pl.col("cell_type") == "T cell")       # any polars query
>>> for x, obs in cells.dao.iter_batches(1024, shuffle=True, seed=0): ...
>>> adata = cells.dao.to_anndata()

The functions: ``load_store``, ``scan``, ``write_dataset``, ``copy``. The ``.dao``
namespace of LazyFrame and DataFrame is ``DaoFrame``; ``dao.frame(lf)`` is the
same for type checkers, which cannot see namespaces.
"""

from . import _core
from .analysis.partial import Partial, merge
from .batches.batch import Batch
from .batches.batches import BatchIterable
from .batches.tokens import BinEncoding, RankEncoding, Tokens
from .errors import (
    DaoConflictError,
    DaoCorruptError,
    DaoError,
    DaoFileExistsError,
    DaoFileNotFoundError,
    DaoImportError,
    DaoInternalError,
    DaoIOError,
    DaoKeyError,
    DaoTypeError,
    DaoValueError,
)
from .expression.expressions import DaoExpr, gene, genes, qc
from .frame import DaoFrame, frame
from .genes.ontology import load_ontology
from .genes.terms import Ontology
from .scan.cell import Cell
from .store.store import Store, load_store, scan
from .write.copy import copy
from .write.dataset import write_dataset

__version__ = _core.VERSION

__all__ = [
    "Batch",
    "BatchIterable",
    "BinEncoding",
    "Cell",
    "DaoConflictError",
    "DaoCorruptError",
    "DaoError",
    "DaoExpr",
    "DaoFileExistsError",
    "DaoFileNotFoundError",
    "DaoFrame",
    "DaoIOError",
    "DaoImportError",
    "DaoInternalError",
    "DaoKeyError",
    "DaoTypeError",
    "DaoValueError",
    "Ontology",
    "Partial",
    "RankEncoding",
    "Store",
    "Tokens",
    "copy",
    "frame",
    "gene",
    "genes",
    "load_ontology",
    "load_store",
    "merge",
    "qc",
    "scan",
    "write_dataset",
]
