"""Tables of statistics: a row a group and gene, or an AnnData whose cells are groups.

Owns which statistics there are and what they are called. The numbers are ``groups``'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from .._args import integer
from .._extras import require
from ..convert.to_pandas import to_pandas
from ..errors import DaoValueError
from .groups import CellGroups, GroupSums

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["gene_stats", "pseudobulk"]

#: Values, groups × genes, and how many cells must have been measured for them to mean something.
_Column = tuple[NDArray[Any], int]


def gene_stats(groups: CellGroups, *, ddof: int = 1, progress: bool | None = None) -> pl.DataFrame:
    """The table of statistics; see [`DaoFrame.gene_stats`][]."""
    ddof = integer("ddof", ddof, 0, 2**31)
    _check_names(groups, {"gene", *_STATISTICS})
    counted = groups.counted(progress=progress, label="gene_stats")
    values: list[_Column] = [
        (counted.cells, 0),
        (counted.count.astype(np.int64), 1),
        (counted.fraction, 1),
        (counted.total, 1),
        (counted.mean, 1),
        (counted.moments.variance(ddof), ddof + 1),
    ]
    return _tidy(groups, dict(zip(_STATISTICS, values, strict=True)))


_STATISTICS = ("n_cells", "n_expressing", "fraction", "total", "mean", "variance")


def _check_names(groups: CellGroups, own: set[str]) -> None:
    if taken := own & set(groups.labels.columns):
        raise DaoValueError(
            f"by= has columns of the result's own names: {', '.join(map(repr, sorted(taken)))}; "
            'rename them: pl.col("…").alias("…")'
        )


_AGGREGATES: dict[str, Callable[[GroupSums], _Column]] = {
    "sum": lambda counted: (counted.total, 1),
    "mean": lambda counted: (counted.mean, 1),
    "var": lambda counted: (counted.moments.variance(), 2),
    "std": lambda counted: (np.sqrt(counted.moments.variance()), 2),
    "count_nonzero": lambda counted: (counted.count.astype(np.int64), 1),
    "fraction": lambda counted: (counted.fraction, 1),
}


def pseudobulk(
    groups: CellGroups,
    agg: str | Iterable[str],
    *,
    as_anndata: bool = False,
    progress: bool | None = None,
) -> pl.DataFrame | AnnData:
    """The summed genes of each group; see [`DaoFrame.pseudobulk`][]."""
    names = [agg] if isinstance(agg, str) else list(agg)
    for name in names:
        if name not in _AGGREGATES:
            known = ", ".join(map(repr, _AGGREGATES))
            raise DaoValueError(f"agg={name!r}; expected one or several of {known}")
    if not names or len(set(names)) < len(names):
        raise DaoValueError(f"agg={agg!r}; expected each aggregate once, and at least one")
    if not groups.labels.columns:
        raise DaoValueError("by=None makes no groups; for all cells together: gene_stats()")
    _check_names(groups, {"n_cells"} | ({"obs_name"} if as_anndata else {"gene", *names}))
    anndata = require("anndata", "pseudobulk(as_anndata=True)") if as_anndata else None
    counted = groups.counted(progress=progress, label="pseudobulk")
    columns = {name: _AGGREGATES[name](counted) for name in names}
    if anndata is None:
        return _tidy(groups, {"n_cells": (counted.cells, 0), **columns})
    obs = groups.labels.with_columns(n_cells=pl.Series(groups.n_cells))
    layers = {name: values.astype(np.float64, copy=False) for name, (values, _) in columns.items()}
    x = layers.pop(names[0])
    obs_names = groups.labels.select(
        pl.concat_str(pl.all().cast(pl.String).fill_null("null"), separator="_")
    ).to_series()
    adata = anndata.AnnData(
        X=x,
        obs=to_pandas(obs.insert_column(0, obs_names.alias("obs_name")), [], complete=True),
        var=to_pandas(pl.DataFrame({"var_name": groups.genes}), [], complete=True),
        layers=layers,
    )
    adata.obs_names_make_unique()
    return adata


def _tidy(groups: CellGroups, columns: Mapping[str, _Column]) -> pl.DataFrame:
    """The table with one row for each group and gene; undefined values are null."""
    labels, (n_groups, n_genes) = groups.labels, groups.shape
    frame = pl.DataFrame(
        {
            "gene": groups.genes.gather(np.tile(np.arange(n_genes, dtype=np.uint32), n_groups)),
            **{name: values.ravel() for name, (values, _) in columns.items()},
        }
    )
    least = groups.measured.min(initial=1 << 62)
    for name, (_, needed) in columns.items():
        if least < needed:
            defined = pl.Series((groups.measured >= needed).ravel())
            frame = frame.with_columns(pl.when(defined).then(pl.col(name)))
    if not labels.columns:
        return frame
    rows = np.repeat(np.arange(n_groups, dtype=np.uint32), n_genes)
    return pl.concat([labels.select(pl.all().gather(rows)), frame], how="horizontal")
