"""One part of a store, written from a source.

Owns the order of things: validate, stage, write matrices and tables, publish. What a source is,
how tables and uns are stored and how matrices reach the disk is elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from .._args import optional_text
from .._core import ColumnMeta, PartWriter, TableMeta, feature_space_id
from .._progress import progress_bar
from .._warn import warn
from ..errors import DaoTypeError, DaoValueError
from ..genes.request import Duplicates
from ..scan.columns import RESERVED, categories_of
from ..scan.constants import constants, organism_of
from ..sources.source import Source
from ..store import uns as uns_json
from ..store.options import StorageOptions, core_options
from ..store.store import Store, load_store, store_at
from ..tables.from_pandas import from_pandas
from ..tables.parquet import write_table, writing_failed
from ..tables.table import Table
from .alignment import align
from .existing import find_existing
from .matrices import work_of, write_matrix

Profile = Literal["packed", "portable"]
Mode = Literal["error", "replace", "append"]

_SOURCE_ROW = "source_row"


@dataclass(frozen=True)
class PartSettings:
    """What is to become of a source: the arguments of ``write_dataset`` of these names.

    ``genes``, ``gene_key`` and ``duplicates`` are for a source whose genes are not as wanted yet.
    """

    dataset: str | None
    mode: Mode
    organism: str | None
    shuffle: bool
    seed: int | None
    profile: Profile
    gene_index: bool
    progress: bool | None
    uns: bool
    message: str | None
    author: str | None
    storage_options: StorageOptions
    genes: Any = None
    gene_key: str | None = None
    duplicates: Duplicates = "error"

    def __post_init__(self) -> None:
        """Raises DaoTypeError or DaoValueError for what is none of the values."""
        if self.profile not in get_args(Profile):
            raise DaoValueError(f"profile={self.profile!r}; expected 'packed' or 'portable'")
        if self.mode not in get_args(Mode):
            raise DaoValueError(f"mode={self.mode!r}; expected 'error', 'replace' or 'append'")
        optional_text("message", self.message)
        optional_text("author", self.author)


def write_part(uri: str, source: Source, settings: PartSettings) -> Store:
    """Writes a source into the store at ``uri`` as a dataset; gives the store, opened anew.

    Raises:
        Everything that ``write_dataset`` raises; nothing of the part stays then.
    """
    dataset = _dataset_id(settings.dataset, source)
    where = f"dataset {dataset!r}"
    obs = from_pandas(
        source.obs, index_name="obs_name", reserved=set(RESERVED), where=f"{where}: obs"
    )
    var = from_pandas(source.var, index_name="var_name", reserved=set(), where=f"{where}: var")
    order = _permutation(source.n_obs, settings.seed) if settings.shuffle else None
    if order is not None:
        obs = _shuffled(obs, order, where)
    kept_uns = (source.uns if settings.uns else {}) | _named_organism(settings.organism)
    left_out = list(source.left_out)
    options, genes = settings.storage_options, settings.genes
    existing = find_existing(uri, dataset, options) if settings.mode == "append" else None
    if existing is not None:
        genes = existing.genes(var, genes, settings.gene_key, where)
        if kept_uns and uns_json.encode(kept_uns, where) != uns_json.encode(existing.uns, where):
            left_out.append("uns (the dataset has its own)")
        kept_uns = existing.uns
    uns_text = uns_json.encode(kept_uns, where)
    alignment = align(var, genes, settings.gene_key, settings.duplicates, where)
    if existing is not None:
        alignment = existing.adopted(alignment, where)
    # nothing but reading and writing can fail from here on
    if left_out:
        warn(f"{where}: not kept: {'; '.join(left_out)}")
    writer = PartWriter.begin(uri, dataset, settings.mode, core_options(options))
    try:
        total = sum(map(work_of, source.matrices.values()))
        label, portable = f"writing {dataset!r}", settings.profile == "portable"
        with progress_bar(settings.progress, total=total, unit="value", label=label) as advance:
            odd = [
                write_matrix(writer, name, matrix, alignment, order, portable, advance)
                for name, matrix in source.matrices.items()
            ]
        if any(odd):
            warn(f"{where}: {'; '.join(filter(None, odd))}. They are kept as they are")
        _write_tables(Path(writer.staging), obs.frame, alignment.var.frame, uns_text)
        version = writer.commit(
            obs=obs.meta,
            var=alignment.var.meta,
            organism=organism_of(kept_uns, obs.frame.get_column("organism", default=None)),
            constants=constants(kept_uns, obs.frame.columns),
            categories=_categories(obs.frame),
            feature_space=feature_space_id(alignment.var.frame["var_name"].to_list()),
            message=f"{dataset!r}" if settings.message is None else settings.message,
            author=settings.author,
            source=source.path,
            source_size=source.size,
        )
    except BaseException:
        writer.abort()
        raise
    if settings.gene_index:
        load_store(uri, storage_options=options).add_gene_index(dataset, progress=settings.progress)
        return load_store(uri, storage_options=options)
    return store_at(uri, options, version)


def _named_organism(organism: str | None) -> dict[str, Any]:
    if organism is not None and not isinstance(organism, str):
        raise DaoTypeError(f"organism: expected a string or None, found {organism!r}")
    return {} if organism is None else {"organism": organism}


def _dataset_id(dataset: str | None, opened: Source) -> str:
    if dataset is None:
        dataset = opened.name if opened.name is not None else opened.uns.get("id")
        if not isinstance(dataset, str):
            raise DaoValueError(
                "dataset: an AnnData in memory has no name of its own; pass dataset='...' or set "
                "adata.uns['id']"
            )
    if not isinstance(dataset, str):
        raise DaoTypeError(f"dataset: expected a string, found {dataset!r}")
    return str(dataset)


def _permutation(n_obs: int, seed: int | None) -> np.ndarray:
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if seed is not None and not (whole and seed >= 0):
        raise DaoValueError(f"seed: expected an integer from 0, or None, found {seed!r}")
    return np.random.Generator(np.random.PCG64(seed)).permutation(n_obs)


def _shuffled(obs: Table, order: np.ndarray, where: str) -> Table:
    if _SOURCE_ROW in obs.frame.columns:
        raise DaoValueError(
            f"{where}: shuffle=True keeps the original row in obs column {_SOURCE_ROW!r}, and obs "
            "has one of that name; rename or drop it first"
        )
    rows = pl.Series(_SOURCE_ROW, order.astype(np.uint32))
    note = {"kind": "numpy", "dtype": "uint32"}
    columns = [*obs.meta.columns, ColumnMeta(_SOURCE_ROW, _SOURCE_ROW, "UInt32", note)]
    meta = TableMeta(obs.meta.index_name, obs.meta.index, columns)
    return Table(obs.frame[order].with_columns(rows), meta)


def _categories(frame: pl.DataFrame) -> dict[str, list[str] | None]:
    """The values of each string column but the index; None for one that has no categories."""
    return {
        name: categories_of(frame[name])
        for name, dtype in frame.schema.items()
        if dtype == pl.String and name != "obs_name"
    }


def _write_tables(folder: Path, obs: pl.DataFrame, var: pl.DataFrame, uns: str) -> None:
    path = folder / "uns.json"
    try:
        path.write_text(uns, encoding="utf-8")
    except OSError as error:
        raise writing_failed(path, error) from error
    write_table(obs, folder / "obs.parquet")
    write_table(var, folder / "var.parquet")
