"""Writing a dataset in a given feature space: which source column goes where.

Owns the stored var table; the core matches names. Sees the source's var table alone: no matrices,
no files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from .._core import ColumnMeta, TableMeta, match_genes
from .._warn import warn
from ..errors import DaoKeyError, DaoTypeError, DaoValueError
from ..genes.request import Duplicates, each_once, first_few, gene_names
from ..tables.table import Table

_TEXT_NOTE = {"kind": "object", "of": "string"}


@dataclass(frozen=True)
class Alignment:
    """A dataset's genes, and how the source's columns become them.

    ``var``: as stored. ``columns``: int32, for each source column its output column or -1; None
    where they are the same. ``most_summed``: of how many of the source's genes an output gene is
    at most the sum.
    """

    var: Table
    columns: np.ndarray | None = None
    most_summed: int = 1


def align(
    var: Table,
    genes: Any,
    gene_key: str | None,
    duplicates: Duplicates,
    where: str,
) -> Alignment:
    """The alignment whose output columns are exactly ``genes``, in their order.

    The arguments are those of ``write_dataset``, whose caller gets a UserWarning that counts the
    genes that are dropped and those that are zero. ``var`` is the source's.

    Raises:
        DaoTypeError: ``genes`` holds something other than names.
        DaoKeyError: no such ``gene_key``, or not one gene in common.
        DaoValueError: ``genes`` is empty, a name is in it twice, or belongs to several genes of
            the source.
    """
    if genes is None:
        if gene_key is not None:
            raise DaoValueError(f"{where}: gene_key={gene_key!r} needs genes= to match with")
        return Alignment(var)
    wanted = _names(genes, where)
    if not len(wanted):
        raise DaoValueError(f"{where}: genes= is empty; expected the names of the output's genes")
    have = _source_names(var, gene_key, where)
    columns, repeated = match_genes(have.to_list(), wanted.to_list(), duplicates)
    key = "the var index" if gene_key is None else f"var column {gene_key!r}"
    if repeated:
        raise DaoValueError(
            f"{where}: {first_few(repeated)} of genes= belong to several genes of the source in "
            f'{key}; say with duplicates="first", "sum" or "drop" what that means, match on a '
            "column with unique values (gene_key='gene_ids', say), rename them first "
            "(adata.var_names_make_unique()), or leave them out of genes="
        )
    if len(have) and not have.is_in(wanted.implode()).any():
        raise DaoKeyError(
            f"{where}: not one of genes= ({first_few(wanted.head(3).to_list())}, ...) is in {key} "
            f"of the source ({first_few(have.drop_nulls().head(3).to_list())}, ...); match on "
            "another var column with gene_key="
        )
    source = np.full(len(wanted), -1, dtype=np.int64)
    places = np.flatnonzero(columns >= 0)[::-1]
    source[columns[places]] = places  # the first of several is written last
    dropped, absent = np.count_nonzero(columns < 0), np.count_nonzero(source < 0)
    changes = []
    if dropped:
        changes.append(f"{dropped:,} genes of the source are not in genes= and are dropped")
    if absent:
        changes.append(f"{absent:,} of genes= are not in the source and are zero")
    if changes:
        warn(f"{where}: {'; '.join(changes)}")
    return Alignment(
        _aligned_var(var, wanted, source, gene_key),
        None if np.array_equal(columns, np.arange(len(source))) else columns,
        most_summed=int(np.bincount(columns[columns >= 0], minlength=1).max(initial=1)),
    )


def _names(genes: Any, where: str) -> pl.Series:
    if isinstance(genes, str | bytes) or not isinstance(genes, Iterable | pl.Series):
        raise DaoTypeError(
            f"{where}: genes={genes!r}: expected a list of gene names, such as "
            'store.var("dataset")["var_name"]'
        )
    return pl.Series("name", each_once(gene_names(genes)), dtype=pl.String)


def _source_names(var: Table, gene_key: str | None, where: str) -> pl.Series:
    if gene_key is None:
        return var.frame["var_name"]
    stored = {column.source: column.name for column in var.meta.columns}
    if gene_key not in stored:
        raise DaoKeyError(
            f"{where}: gene_key={gene_key!r}: var has no such column; it has "
            f"{first_few(list(stored))}"
        )
    return var.frame[stored[gene_key]].cast(pl.String)


def _aligned_var(var: Table, wanted: pl.Series, source: np.ndarray, gene_key: str | None) -> Table:
    """The target's names, with the source's columns where it has the gene and nulls elsewhere."""
    rows = pl.Series(source)
    taken = var.frame.select(pl.all().gather(rows.set(rows < 0, None)))
    frame = taken.with_columns(wanted.alias("var_name"))
    columns = list(var.meta.columns)
    kept = "source_var_name"
    if gene_key is not None and kept not in frame.columns:
        frame = frame.with_columns(taken["var_name"].alias(kept))
        columns.append(ColumnMeta(kept, kept, "String", _TEXT_NOTE))
    return Table(frame, TableMeta(None, _TEXT_NOTE, columns))
