"""The keyword arguments of ``iter_batches`` by name, for type checkers.

Owns what methods that hand them on declare: a name that is none is found before the code runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import polars as pl

from .._args import Column, Normalize
from ..convert.arrays import Layout
from ..genes.request import Duplicates, Genes
from ..select.selection import Missing, StoreLike
from .pairs import Unpaired
from .sampling import Shuffle
from .tokens import Encoding


class BatchOptions(TypedDict, total=False):
    """The options of ``iter_batches`` that do not change the type of what comes out."""

    shuffle: Shuffle
    seed: int | None
    block_size: int
    window: int
    weights: Column | None
    balance: Column | None
    class_weights: Mapping[Any, float] | None
    replacement: bool | None
    n_samples: int | None
    group_by: Column | Iterable[Column] | None
    genes: Genes
    gene_key: str | None
    duplicates: Duplicates
    layer: str | None
    layers: Iterable[str] | str | bool
    obsm: Iterable[str] | str | bool
    dtype: Any
    normalize: Normalize
    encode: Encoding | None
    obs: Iterable[str] | bool | None
    pair_with: pl.LazyFrame | pl.DataFrame | None
    pair_by: Column | Iterable[Column] | None
    unpaired: Unpaired
    drop_last: bool
    rank: int | None
    world_size: int | None
    prefetch_bytes: int
    num_threads: int | None
    missing: Missing
    store: StoreLike | None


class TensorOptions(BatchOptions, total=False):
    """The options of ``to_torch`` and ``to_tensorflow`` that are those of ``iter_batches``."""

    layout: Layout


READ_OPTIONS = frozenset(
    {
        *("genes", "gene_key", "duplicates", "layer", "layers", "obsm", "layout", "dtype"),
        *("normalize", "obs", "missing", "store"),
    }
)
"""The options that say what is read of cells."""
