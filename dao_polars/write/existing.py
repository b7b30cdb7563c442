"""The dataset that cells are added to: its genes and its uns are those of the new part too.

Owns what the two must have in common. Opens no matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from ..errors import DaoFileNotFoundError, DaoValueError
from ..genes.request import first_few
from ..store.options import StorageOptions
from ..store.store import load_store
from ..tables.table import Table
from .alignment import Alignment


@dataclass(frozen=True)
class Existing:
    """A dataset of a store: ``var`` as stored, and ``uns``."""

    name: str
    var: Table
    uns: dict[str, Any]

    def genes(self, source: Table, genes: Any, gene_key: str | None, where: str) -> Any:
        """The ``genes=`` that make a source's genes the dataset's; None where they are already.

        Raises:
            DaoValueError: no ``genes`` were given, and the source has others than the dataset.
        """
        if genes is not None or gene_key is not None:
            return genes
        have, wanted = source.frame["var_name"], self.var.frame["var_name"]
        if have.equals(wanted):
            return None
        lacking = wanted.filter(~wanted.is_in(have.implode()))
        more = have.filter(~have.is_in(wanted.implode()))
        if len(lacking) or len(more) or len(have) != len(wanted):
            shown = [*lacking.head(2).to_list(), *more.head(2).to_list()]
            raise DaoValueError(
                f"{where}: the cells to be added have other genes than the dataset: "
                f"{len(lacking):,} of its {len(wanted):,} genes are not in the source, and "
                f"{len(more):,} of the source's {len(have):,} not in it ({first_few(shown)}). To "
                f"drop these and have zeros for those, say genes=store.var({self.name!r})"
            )
        return wanted

    def adopted(self, alignment: Alignment, where: str) -> Alignment:
        """An alignment whose genes are the dataset's, with the dataset's var.

        Raises:
            DaoValueError: they are others, or in another order.
        """
        if not alignment.var.frame["var_name"].equals(self.var.frame["var_name"]):
            raise DaoValueError(
                f"{where}: genes= are not the genes of the dataset that cells are added to, in "
                f"its order; say genes=store.var({self.name!r})"
            )
        return replace(alignment, var=self.var)


def find_existing(uri: str, dataset: str, storage_options: StorageOptions) -> Existing | None:
    """The dataset of this name in the store at ``uri``, if there are both."""
    try:
        store = load_store(uri, storage_options=storage_options)
    except DaoFileNotFoundError:
        return None
    parts = store._by_dataset.get(dataset)
    if parts is None:
        return None
    frame: pl.DataFrame = store.var(dataset)
    meta = store._core.description(parts[0].number).var
    return Existing(dataset, Table(frame, meta), dict(store.uns(dataset)))
