"""The types of the Rust core. Arrays are C-contiguous; every call releases the GIL.

What each class, attribute and function is, is said once, beside the code in ``src/python``:
``help(dao_polars._core.Store)`` shows it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, Protocol, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

__all__ = [
    "STORE_MOVED",
    "VERSION",
    "CellKeys",
    "ColumnMeta",
    "Description",
    "Edit",
    "Epoch",
    "EpochPlan",
    "Files",
    "Genes",
    "MatrixMeta",
    "MatrixName",
    "ObsTables",
    "Part",
    "PartWriter",
    "Reader",
    "Sampler",
    "Store",
    "TableFile",
    "TableMeta",
    "TokenEncoding",
    "decode_hdf5_chunks",
    "feature_space_id",
    "keep_reports",
    "match_genes",
    "next_report",
    "pfor_decode",
    "pfor_encode",
    "squared_deviations",
    "take_notices",
]

#: What to do about a store that is not where its cells were selected.
STORE_MOVED: str
VERSION: str

@final
class MatrixName:
    X: ClassVar[MatrixName]

    @staticmethod
    def layer(name: str) -> MatrixName: ...
    @staticmethod
    def obsm(name: str) -> MatrixName: ...
    @staticmethod
    def parse(text: str) -> MatrixName: ...
    group: Final[Literal["X", "layers", "obsm"]]
    name: Final[str]
    is_of_genes: Final[bool]
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __lt__(self, other: MatrixName, /) -> bool: ...
    def __le__(self, other: MatrixName, /) -> bool: ...
    def __gt__(self, other: MatrixName, /) -> bool: ...
    def __ge__(self, other: MatrixName, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Part:
    number: Final[int]
    name: Final[str]
    address: Final[str]
    store: Final[int]
    path: Final[str]
    obs_path: Final[str]
    n_obs: Final[int]
    n_cells: Final[int]
    removed: Final[tuple[str, str, int] | None]
    checksum: Final[str | None]
    n_vars: Final[int]
    nnz: Final[int | None]
    layout: Final[Literal["csr", "dense"]]
    dtype: Final[str | None]
    bytes: Final[int]
    organism: Final[str | None]
    obs: Final[tuple[tuple[str, str], ...]]
    obs_file: Final[TableFile | None]
    constants: Final[Mapping[str, Any]]
    feature_space: Final[str]
    layers: Final[tuple[str, ...]]
    obsm: Final[tuple[str, ...]]

@final
class TableFile:
    @staticmethod
    def of(path: str) -> TableFile: ...
    @staticmethod
    def parse(text: str) -> TableFile: ...
    json: Final[str]
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class Files:
    def __new__(cls, uri: str, storage_options: dict[str, str] | None = None) -> Files: ...
    uri: Final[str]
    can_list: Final[bool]
    def size(self, path: str) -> int | None: ...
    def get(self, path: str) -> bytes | None: ...
    def ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes] | None: ...
    def folders(self, path: str) -> list[str]: ...

@final
class ObsTables:
    def __new__(cls, uri: str, storage_options: dict[str, str] | None = None) -> ObsTables: ...
    is_remote: Final[bool]
    def check(
        self,
        parts: Sequence[tuple[str, str, int, TableFile | None]],
        columns: Sequence[str],
    ) -> None: ...
    def fetch(
        self,
        parts: Sequence[tuple[str, str, int, TableFile | None]],
        columns: Sequence[str],
    ) -> list[bytes]: ...
    def removed(
        self, dataset: str, n_obs: int, path: str, checksum: str, n_removed: int
    ) -> NDArray[np.uint32]: ...

@final
class MatrixMeta:
    layout: Final[Literal["csr", "dense"]]
    dtype: Final[str | None]
    source_dtype: Final[str]
    shape: Final[tuple[int, int]]
    nnz: Final[int | None]
    max_abs: Final[float | None]
    columns: Final[list[str] | None]

@final
class ColumnMeta:
    def __new__(cls, name: str, source: str, dtype: str, pandas: dict[str, Any]) -> ColumnMeta: ...
    name: Final[str]
    source: Final[str]
    dtype: Final[str]
    pandas: Final[dict[str, Any]]

@final
class TableMeta:
    def __new__(
        cls, index_name: str | None, index: dict[str, Any] | None, columns: Sequence[ColumnMeta]
    ) -> TableMeta: ...
    index_name: Final[str | None]
    index: Final[dict[str, Any] | None]
    columns: Final[tuple[ColumnMeta, ...]]

@final
class Description:
    matrices: Final[Mapping[MatrixName, MatrixMeta]]
    var_name: Final[str]
    uns_name: Final[str]
    categories: Final[dict[str, list[str] | None]]
    obs: Final[TableMeta]
    var: Final[TableMeta]

@final
class Store:
    @staticmethod
    def open(
        uri: str, storage_options: dict[str, str] | None = None, version: int | None = None
    ) -> Store: ...
    uri: Final[str]
    id: Final[str]
    has_sfaira_tables: Final[bool]
    parts: Final[tuple[Part, ...]]
    version: Final[int | None]
    made_by: Final[tuple[str, str] | None]
    categories: Final[dict[str, set[str] | None]]
    storage_options: Final[dict[str, str]]
    def description(self, number: int) -> Description: ...
    def read_file(self, number: int, path: str) -> tuple[str, bytes]: ...
    def versions(
        self,
    ) -> list[
        tuple[
            int,
            str,
            str,
            str,
            int,
            int,
            str | None,
            str,
            str | None,
            int | None,
            str | None,
        ]
    ]: ...
    def vacuum(
        self, oldest: int, dry_run: bool, message: str, author: str | None = None
    ) -> list[tuple[str, int]]: ...
    def restore(self, version: int, message: str, author: str | None = None) -> int: ...
    def check_writable(self) -> None: ...
    def cut(self, cells: CellKeys, n: int) -> list[int]: ...
    def removed(self, number: int) -> NDArray[np.uint32]: ...
    def copy(
        self,
        uri: str,
        storage_options: dict[str, str],
        datasets: list[str] | None,
        message: str,
        author: str | None = None,
        advance: Callable[[int], object] | None = None,
    ) -> int: ...
    def add_gene_index(
        self, number: int, advance: Callable[[int], object] | None = None
    ) -> bool: ...
    @staticmethod
    def options_of(uri: str) -> dict[str, str]: ...
    @staticmethod
    def join(stores: Sequence[Store]) -> Store: ...
    def check_is(self, cells: Sequence[tuple[str, str]]) -> None: ...
    def locate(self, cells: CellKeys) -> tuple[list[int], NDArray[np.uint64]]: ...
    def feature_space(self, number: int) -> str: ...
    def genes(
        self,
        numbers: list[int],
        genes: str | list[str] | None = None,
        *,
        gene_key: str | None = None,
        duplicates: str = "error",
    ) -> Genes: ...
    def has_gene_index(self, number: int) -> bool: ...
    def verify(self, number: int) -> list[tuple[str, str]]: ...

@final
class Sampler:
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
    ) -> Sampler: ...
    def n_batches(self, epoch: int, world_size: int = 1) -> int: ...
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
    ) -> EpochPlan: ...
    def cells_after(self, epoch: int, *, world_size: int, cells: int, rounds: int) -> int: ...

@final
class EpochPlan:
    def __len__(self) -> int: ...
    def order(self, start: int, stop: int) -> NDArray[np.uint32]: ...
    def with_order(self, order: NDArray[np.uint32]) -> EpochPlan: ...
    def ends(self) -> NDArray[np.uint64]: ...
    def first(self) -> int | None: ...

@final
class Genes:
    @staticmethod
    def restore(
        names: list[str] | None,
        n_genes: int,
        groups: list[tuple[list[int], tuple[int, NDArray[np.uint32], NDArray[np.uint32]] | None]],
    ) -> Genes: ...
    names: Final[list[str] | None]
    n_genes: Final[int]
    def columns(self, number: int) -> NDArray[np.int64] | None: ...

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
class CellKeys:
    def __new__(cls, pieces: Sequence[NDArray[np.uint64]]) -> CellKeys: ...
    def __len__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[list[tuple[bytes, int, bool]]]]: ...
    @staticmethod
    def unpack(pieces: Sequence[tuple[bytes, int, bool]]) -> CellKeys: ...
    def numpy(self) -> NDArray[np.uint64]: ...
    def take(self, positions: NDArray[np.uint32]) -> NDArray[np.uint64]: ...
    def slice(self, start: int, stop: int) -> NDArray[np.uint64]: ...

@final
class Reader:
    def __new__(
        cls,
        store: Store,
        keys: CellKeys,
        genes: Genes,
        matrices: Sequence[_MatrixForm],
    ) -> Reader: ...
    reads_rows: Final[bool]
    def read(
        self,
        *,
        advance: Callable[[int], object] | None = None,
        budget: int = 134217728,
        threads: int | None = None,
    ) -> list[Any]: ...
    def moments(
        self,
        groups: NDArray[np.uint32],
        n_groups: int,
        *,
        clip: NDArray[np.float64] | None = None,
        advance: Callable[[int], object] | None = None,
        threads: int | None = None,
    ) -> tuple[
        NDArray[np.uint32],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.uint32],
    ]: ...
    def epoch(
        self,
        plan: EpochPlan,
        *,
        encode: tuple[TokenEncoding, int] | None = None,
        budget: int = 134217728,
        threads: int | None = None,
    ) -> Epoch: ...

@final
class Epoch:
    def __iter__(self) -> Epoch: ...
    def __next__(self) -> tuple[int, list[Any], _TokenArrays | None]: ...
    def close(self) -> None: ...

_TokenArrays = tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64] | None]

@final
class TokenEncoding:
    @staticmethod
    def ranks(
        tokens: NDArray[np.int64],
        medians: NDArray[np.float64],
        *,
        length: int,
        pad: int,
        cls: int | None,
        eos: int | None,
    ) -> TokenEncoding: ...
    @staticmethod
    def bins(
        tokens: NDArray[np.int64],
        *,
        n_bins: int,
        pad_bin: int,
        seed: int,
        length: int,
        pad: int,
        cls: int | None,
        eos: int | None,
    ) -> TokenEncoding: ...

@final
class PartWriter:
    @staticmethod
    def begin(
        uri: str, dataset: str, mode: str, storage_options: dict[str, str] | None = None
    ) -> PartWriter: ...
    staging: Final[str]
    def scan(self, data: NDArray[Any]) -> int: ...
    def odd_values(self) -> tuple[int, int, float]: ...
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
        known: tuple[str, int] | None = None,
        column_names: list[str] | None = None,
    ) -> None: ...
    def push_sparse(
        self, by_columns: bool, indptr: NDArray[Any], indices: NDArray[Any], data: NDArray[Any]
    ) -> None: ...
    def push_ranges(
        self,
        starts: NDArray[np.int64],
        stops: NDArray[np.int64],
        indices: NDArray[Any],
        data: NDArray[Any],
    ) -> None: ...
    def push_dense(self, block: NDArray[Any]) -> None: ...
    def finish_matrix(self) -> int: ...
    def commit(
        self,
        *,
        obs: TableMeta,
        var: TableMeta,
        organism: str | None,
        constants: dict[str, Any],
        categories: dict[str, list[str] | None],
        feature_space: str,
        message: str,
        author: str | None = None,
        source: str | None = None,
        source_size: int | None = None,
    ) -> int: ...
    def abort(self) -> None: ...

@final
class Edit:
    @staticmethod
    def begin(store: Store, operation: str, message: str, author: str | None = None) -> Edit: ...
    version: Final[int]
    def begin_again(self) -> None: ...
    def new_table(self, number: int, kind: str) -> tuple[str, str]: ...
    def write_obsm(
        self,
        number: int,
        name: str,
        values: NDArray[Any],
        source_dtype: str,
        columns: list[str] | None = None,
    ) -> None: ...
    def change(
        self,
        store: Store,
        number: int,
        *,
        obs: tuple[str, TableMeta] | None = None,
        var: tuple[str, TableMeta] | None = None,
        categories: dict[str, list[str] | None] | None = None,
        constants: dict[str, Any] | None = None,
        organism: tuple[str | None] | None = None,
        removed: NDArray[np.uint32] | None = None,
    ) -> None: ...
    def change_again(self, number: int) -> bool: ...
    def rename_dataset(self, old: str, new: str) -> None: ...
    def remove_dataset(self, name: str) -> None: ...
    def commit(self) -> int | None: ...
    def close(self) -> None: ...

def feature_space_id(names: list[str | None]) -> str: ...
def match_genes(
    have: list[str | None], wanted: list[str], duplicates: str = "error"
) -> tuple[NDArray[np.int32], list[str]]: ...
def squared_deviations(
    count: NDArray[np.uint64], sum: NDArray[np.float64], squares: NDArray[np.float64]
) -> NDArray[np.float64]: ...
def take_notices() -> list[str]: ...
def keep_reports(wanted: bool) -> None: ...
def next_report() -> tuple[str, int, str] | None: ...
def decode_hdf5_chunks(
    chunks: list[tuple[int, bytes]],
    filters: list[str],
    chunk_len: int,
    skip: int,
    out: NDArray[Any],
) -> None: ...
def pfor_encode(values: NDArray[Any], delta: bool) -> bytes: ...
def pfor_decode(
    encoded: Buffer | NDArray[np.uint8], dtype: str, n: int, delta: bool
) -> NDArray[Any]: ...
