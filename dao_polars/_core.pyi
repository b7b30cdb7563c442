"""The Rust core, as Python sees it. Arrays are C-contiguous; every call releases the GIL."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

__all__ = [
    "ColumnMeta",
    "Dataset",
    "DatasetWriter",
    "Description",
    "Epoch",
    "EpochPlan",
    "Genes",
    "MatrixMeta",
    "MatrixName",
    "Reader",
    "Sampler",
    "Store",
    "TableMeta",
    "feature_space_id",
    "keep_reports",
    "match_genes",
    "next_report",
    "pfor_decode",
    "pfor_encode",
]

@final
class MatrixName:
    """The name of a matrix within its dataset; as text its path below ``zarr``."""

    X: ClassVar[MatrixName]

    @staticmethod
    def layer(name: str) -> MatrixName:
        """The name of a layer."""

    @staticmethod
    def obsm(name: str) -> MatrixName:
        """The name of an embedding."""

    @staticmethod
    def parse(text: str) -> MatrixName:
        """``"X"``, ``"layers/<name>"`` or ``"obsm/<name>"``; DaoValueError for anything else."""

    @property
    def group(self) -> Literal["X", "layers", "obsm"]:
        """AnnData's word for matrices of this kind."""

    @property
    def name(self) -> str:
        """The name without its group."""

    @property
    def is_of_genes(self) -> bool:
        """Whether the columns of the matrix are the dataset's genes."""

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __lt__(self, other: MatrixName, /) -> bool: ...
    def __le__(self, other: MatrixName, /) -> bool: ...
    def __gt__(self, other: MatrixName, /) -> bool: ...
    def __ge__(self, other: MatrixName, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Dataset:
    """A dataset as its store lists it."""

    @property
    def number(self) -> int:
        """The number of the dataset: the upper half of its cell keys."""

    @property
    def name(self) -> str:
        """The name of the dataset, unique in its store."""

    @property
    def path(self) -> str:
        """The dataset's folder, relative to the store."""

    @property
    def n_obs(self) -> int:
        """The number of cells."""

    @property
    def n_vars(self) -> int:
        """The number of genes."""

    @property
    def nnz(self) -> int | None:
        """The number of stored values of X; None where it is not known."""

    @property
    def layout(self) -> Literal["csr", "dense"]:
        """The layout of X."""

    @property
    def dtype(self) -> str | None:
        """The number type that X is stored in; None for one that cannot be read."""

    @property
    def bytes(self) -> int:
        """The bytes of the dataset on disk."""

    @property
    def organism(self) -> str | None:
        """The organism of all cells; None where it is not said, or only in a table of sfaira's."""

    @property
    def obs(self) -> tuple[tuple[str, str], ...]:
        """The names and types of the columns of obs but the index; none for sfaira's."""

    @property
    def constants(self) -> Mapping[str, Any]:
        """The values that all cells share, by name; none for sfaira's."""

    @property
    def feature_space(self) -> str:
        """An id, the same exactly where the genes and their order are; empty for sfaira's."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers."""

    @property
    def obsm(self) -> tuple[str, ...]:
        """The names of the embeddings."""

@final
class MatrixMeta:
    """One matrix of a dataset."""

    @property
    def layout(self) -> Literal["csr", "dense"]:
        """The layout of the matrix."""

    @property
    def dtype(self) -> str | None:
        """The number type that the matrix is stored in; None for one that cannot be read."""

    @property
    def source_dtype(self) -> str:
        """The number type that the matrix had at its source, as numpy names it."""

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns."""

    @property
    def nnz(self) -> int | None:
        """The number of stored values; None where nobody has counted them."""

    @property
    def max_abs(self) -> float | None:
        """The largest absolute value; None where nobody has looked for it."""

@final
class ColumnMeta:
    """A column of a table: its form in parquet, and the one that it had in pandas."""

    def __new__(cls, name: str, source: str, dtype: str, pandas: dict[str, Any]) -> ColumnMeta: ...
    @property
    def name(self) -> str:
        """The column's name in parquet."""

    @property
    def source(self) -> str:
        """The column's name in pandas."""

    @property
    def dtype(self) -> str:
        """The column's type in parquet; see ``dao_polars.scan.dtypes``."""

    @property
    def pandas(self) -> dict[str, Any]:
        """The column's form in pandas; see ``dao_polars.convert``."""

@final
class TableMeta:
    """A table, obs or var: its index and its columns."""

    def __new__(
        cls, index_name: str | None, index: dict[str, Any] | None, columns: Sequence[ColumnMeta]
    ) -> TableMeta: ...
    @property
    def index_name(self) -> str | None:
        """The index's own name in pandas."""

    @property
    def index(self) -> dict[str, Any] | None:
        """The index's form in pandas; see ``dao_polars.convert``."""

    @property
    def columns(self) -> tuple[ColumnMeta, ...]:
        """The columns but the index, in their order."""

@final
class Description:
    """The description of a dataset, from its own ``dao.json``."""

    @property
    def matrices(self) -> Mapping[MatrixName, MatrixMeta]:
        """The matrices of the dataset, X first."""

    @property
    def obs(self) -> TableMeta:
        """The table of cells."""

    @property
    def var(self) -> TableMeta:
        """The table of genes."""

@final
class Store:
    """An opened store: its manifest, its small files, its matrices."""

    @staticmethod
    def open(uri: str, storage_options: dict[str, str] | None = None) -> Store:
        """Open the store at a path or URL: one read of ``dao.json``, or a listing.

        Raises DaoFileNotFoundError where there is no store, DaoValueError for a newer format
        version or an unusable URL, DaoCorruptError for an unreadable manifest.
        """

    @property
    def uri(self) -> str:
        """An absolute path with links resolved, or the URL without a trailing slash."""

    @property
    def id(self) -> str:
        """A UUID; ``sfaira-<fingerprint>`` for a store that sfaira wrote."""

    @property
    def has_sfaira_tables(self) -> bool:
        """Whether the tables are pandas' parquet and pickles, as sfaira wrote them."""

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """The datasets, by their numbers."""

    @property
    def categories(self) -> dict[str, set[str] | None]:
        """The union of the values of each string-like obs column; None where they are too many.

        Empty for a store that sfaira wrote, whose tables say it.
        """

    def description(self, dataset: str) -> Description:
        """The description of a dataset, checked against the manifest.

        Raises DaoKeyError for an unknown name, DaoFileNotFoundError or DaoCorruptError for a
        ``dao.json`` that is missing or not the one that was written.
        """

    def get_bytes(self, path: str, checksum_of: str | None = None) -> bytes:
        """A whole file by path in the store; its checksum is checked if a dataset is named."""

    def add_gene_index(self, dataset: str, advance: Callable[[int], object] | None = None) -> bool:
        """Write the gene-major copy of a dataset's X; False if there is one.

        ``advance`` is told how many cells were copied since. Raises DaoValueError for a store that
        is not written to, DaoIOError for a full disk; nothing of it stays then.
        """

    @staticmethod
    def options_of(uri: str) -> dict[str, str]:
        """The options that the store at ``uri`` was last opened with in this process."""

    def check_is(self, uri: str, id: str) -> None:
        """Raise DaoValueError unless it is the store ``id`` that cells at ``uri`` were of."""

    def feature_space(self, number: int) -> str:
        """A dataset's feature space id: equal exactly where the genes and their order are."""

    def genes(
        self,
        numbers: list[int],
        genes: str | list[str] | None = None,
        *,
        gene_key: str | None = None,
        duplicates: str = "error",
    ) -> Genes:
        """The genes that a request means in the datasets of these numbers; [] for no cells.

        Raises DaoValueError for several feature spaces and no ``genes``, for a name that is there
        twice or has several genes in a dataset, DaoKeyError for a gene that no dataset of the
        store has and for a ``gene_key`` that is no column of var.
        """

    def has_gene_index(self, dataset: str) -> bool:
        """Whether a dataset has a gene-major copy of X."""

    def verify(self, dataset: str) -> list[tuple[str, str]]:
        """Read all of a dataset but its tables' contents; gives (path, problem) of each fault."""

@final
class Sampler:
    """The settings of the epochs over a selection of ``n`` cells, as positions in it."""

    def __new__(
        cls,
        n: int,
        batch_size: int,
        *,
        seed: int | None = None,
        block_size: int | None = None,
        window: int = 1,
        n_samples: int | None = None,
        replacement: bool = False,
        weights: NDArray[np.float64] | None = None,
        groups: NDArray[np.uint32] | None = None,
        drop_last: bool = False,
    ) -> Sampler:
        """Epochs in frame order without ``seed``, else shuffled, ``block_size`` cells at a time.

        With ``n_samples`` so many are drawn, in proportion to ``weights`` (n,). A batch is of one
        of ``groups`` (n,), numbers below n. Raises DaoValueError for what cannot be drawn.
        """

    def n_batches(self, epoch: int, world_size: int = 1) -> int:
        """The number of batches of each of ``world_size`` ranks."""

    def plan(
        self,
        epoch: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        worker: int = 0,
        workers: int = 1,
        cells: int = 0,
        rounds: int = 0,
        skip: int = 0,
    ) -> EpochPlan:
        """The plan of one share of what is left of an epoch.

        Left out are its first ``cells``, then so many ``rounds`` of a batch for each rank, and
        ``skip`` batches of this worker's own.
        """

    def cells_after(self, epoch: int, *, world_size: int, cells: int, rounds: int) -> int:
        """The number of cells of the epoch that all ranks together have had by then."""

@final
class EpochPlan:
    """Positions in the order they are visited, cut into batches; ``len()`` of these."""

    def __len__(self) -> int: ...
    def order(self, start: int, stop: int) -> NDArray[np.uint32]:
        """The positions of rows ``start`` to ``stop``."""

    def ends(self) -> NDArray[np.uint64]:
        """The row after which each batch ends."""

    def first(self) -> int | None:
        """The position of the first row if the others follow one by one."""

@final
class Genes:
    """The requested genes, and the columns of each dataset that they are; pickles."""

    @staticmethod
    def restore(
        names: list[str] | None,
        n_genes: int,
        groups: list[tuple[list[int], tuple[int, NDArray[np.uint32], NDArray[np.uint32]] | None]],
    ) -> Genes:
        """Make them again from what pickle took apart: by datasets the columns and outputs."""

    @property
    def names(self) -> list[str] | None:
        """The names, (n_genes,), where genes were matched by name; None: all of one space."""

    @property
    def n_genes(self) -> int:
        """The number of genes."""

    def columns(self, number: int) -> NDArray[np.int64] | None:
        """The (first) column of each gene in a dataset, -1: none; None where these are the genes.

        Raises DaoValueError for a dataset that they were not resolved for.
        """

class _MatrixForm(Protocol):
    """One requested matrix; see ``convert.arrays.MatrixForm``."""

    @property
    def name(self) -> MatrixName: ...
    @property
    def n_columns(self) -> int: ...
    @property
    def layout(self) -> Literal["csr", "dense"]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def normalize(self) -> tuple[float | None, bool] | None: ...

@final
class Reader:
    """Cells of a store, in frame order, and the matrices that are read of each."""

    def __new__(
        cls,
        store: Store,
        keys: NDArray[np.uint64],
        genes: Genes,
        matrices: Sequence[_MatrixForm],
    ) -> Reader:
        """Open the matrices of the datasets that ``keys`` name.

        ``genes`` are the columns of X and layers, which all have the same. Rows are normalized
        (over all columns) while they are read. Raises DaoValueError for keys of no
        dataset or row, DaoKeyError for an unknown matrix, DaoFileNotFoundError or DaoCorruptError
        for broken ones.
        """

    def read(
        self,
        *,
        advance: Callable[[int], object] | None = None,
        budget: int = 134217728,
        threads: int | None = None,
    ) -> list[Any]:
        """The arrays of each matrix, as an epoch gives them, of all cells in frame order.

        ``advance`` is called now and then with the cells read since, once for each matrix;
        ``budget`` bounds what is held beside the result, in bytes; ``threads=None`` is one a core.
        """

    def moments(
        self,
        groups: NDArray[np.uint32],
        n_groups: int,
        *,
        clip: NDArray[np.float64] | None = None,
        advance: Callable[[int], object] | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[np.uint32], NDArray[np.float64], NDArray[np.float64]]:
        """Counts, sums and squared deviations of values that are not zero, (n_groups * n_columns,).

        Of a reader of one matrix. ``groups`` (n_cells,) are below ``n_groups``; ``clip``
        (n_groups * n_columns,) the largest values that count. Deviations are from the mean of the
        values that are not zero. The same in every run. Raises DaoValueError for groups that do
        not fit or a dtype that is no float.
        """

    def epoch(
        self, plan: EpochPlan, *, budget: int = 134217728, threads: int | None = None
    ) -> Epoch:
        """Start reading a plan's batches ahead; ``budget`` is in bytes.

        ``threads=None`` is one a core.
        """

@final
class Epoch:
    """An iterator of (n_rows, matrices); its threads end with it."""

    def __iter__(self) -> Epoch: ...
    def __next__(self) -> tuple[int, list[Any]]:
        """The number of cells of a batch, and each matrix: ``(data, indices, indptr)`` or an array.

        The arrays, (rows, columns) where dense, are writable; their memory is used again
        once nothing refers to it. Raises the first DaoError of reading.
        """

    def close(self) -> None:
        """Stop and join the reading threads."""

@final
class DatasetWriter:
    """A dataset being written: invisible until ``commit``, gone if dropped before."""

    @staticmethod
    def begin(uri: str, dataset: str) -> DatasetWriter:
        """Make the store if it is missing, and a folder to write to; clean up after dead writers.

        Raises DaoFileExistsError if the id is taken, DaoValueError if it cannot be a name.
        """

    @property
    def staging(self) -> str:
        """The folder that becomes the dataset's; ``parquet/`` is in it."""

    def scan(self, data: NDArray[Any]) -> int:
        """Look at values of the next matrix: any shape, any integer, float or bool type.

        Returns how many of its values were not zero so far.
        """

    def begin_matrix(
        self,
        name: MatrixName,
        layout: Literal["csr", "dense"],
        shape: tuple[int, int],
        source_dtype: str,
        *,
        portable: bool = False,
        columns: NDArray[np.int32] | None = None,
        most_summed: int = 1,
        rows: NDArray[np.uint32] | None = None,
    ) -> None:
        """Begin the matrix that was scanned, in this output shape.

        It is stored in the narrowest type that holds every value and every sum of ``most_summed``:
        ``uint8`` … ``uint64``; with negatives ``int8`` … ``int64``; else ``float32`` or
        ``float64``. ``portable``: CSR arrays in zarr's core codecs alone, instead of
        ``dao_polars.pfor``. ``columns`` maps source to output columns (-1: dropped), ``rows``
        source to output rows.
        """

    def push_sparse(
        self, by_columns: bool, indptr: NDArray[Any], indices: NDArray[Any], data: NDArray[Any]
    ) -> None:
        """Take the matrix's next rows (CSR) or columns (CSC) in source order.

        Unsorted columns are sorted, duplicates summed.
        """

    def push_dense(self, block: NDArray[Any]) -> None:
        """Take the matrix's next rows, (rows, columns)."""

    def finish_matrix(self) -> int:
        """Write the rest of the matrix; returns the number of stored values."""

    def commit(
        self,
        *,
        obs: TableMeta,
        var: TableMeta,
        organism: str | None,
        constants: dict[str, Any],
        categories: dict[str, list[str] | None],
        feature_space: str,
    ) -> None:
        """Describe the dataset and publish it.

        ``constants`` are values that all cells share, ``categories`` the values of each
        string-like obs column, None where they are too many.
        """

    def abort(self) -> None:
        """Remove what was written."""

def feature_space_id(names: list[str | None]) -> str:
    """The id of an ordered var index: equal exactly where the names and their order are."""

def match_genes(
    have: list[str | None], wanted: list[str], duplicates: str = "error"
) -> tuple[NDArray[np.int32], list[str]]:
    """The position in ``wanted`` of each of ``have``, or -1; and names that may not repeat."""

def keep_reports(wanted: bool) -> None:
    """Set whether reports of how cells were looked up are kept from now on."""

def next_report() -> tuple[str, int, str] | None:
    """Wait for the next report: names, cells, datasets by strategy; None once none are kept."""

def pfor_encode(values: NDArray[Any], delta: bool) -> bytes:
    """Make a chunk of ``dao_polars.pfor``: any integer, float or bool type; any shape, flattened.

    Raises DaoValueError for other arrays, and for a chunk of 4 GiB or more.
    """

def pfor_decode(
    encoded: Buffer | NDArray[np.uint8], dtype: str, n: int, delta: bool
) -> NDArray[Any]:
    """Read the ``n`` values of a chunk, one-dimensional; those of ``"bool"`` come as uint8.

    Raises DaoCorruptError for bytes that are no chunk of so many values, DaoValueError for an
    unknown type.
    """
