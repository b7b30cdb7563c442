"""The ``.dao`` namespace of LazyFrame and DataFrame.

Owns names, defaults and docstrings of the public methods; the work is in
``selection``, ``batches`` and ``anndata``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import polars as pl

from .anndata import to_anndata
from .batches import BatchIterable, Layout
from .genes import Genes
from .selection import select

if TYPE_CHECKING:
    from anndata import AnnData

    from .store import Store

__all__ = ["DaoFrame", "frame"]

#: Bytes of batches and decoded rows that are kept ahead of the consumer.
PREFETCH_BYTES = 128 << 20


@pl.api.register_dataframe_namespace("dao")
@pl.api.register_lazyframe_namespace("dao")
class DaoFrame:
    """What a frame with a ``cell`` column can become."""

    def __init__(self, frame: pl.LazyFrame | pl.DataFrame) -> None:
        # Polars caches this object on the frame: holding the frame itself would be a cycle.
        self._frame = frame.lazy().clone()

    def iter_batches(
        self,
        batch_size: int = 1024,
        *,
        shuffle: bool = False,
        seed: int | None = None,
        genes: Genes = None,
        gene_key: str | None = None,
        layer: str | None = None,
        layout: Layout = "csr",
        dtype: Any = "float32",
        obs: Iterable[str] | bool | None = None,
        drop_last: bool = False,
        prefetch_bytes: int = PREFETCH_BYTES,
        num_threads: int | None = None,
        store: Store | str | None = None,
    ) -> BatchIterable:
        """Mini-batches of the frame's cells, read ahead on all cores.

        The frame is collected once, here; each pass over the result is an epoch.

        Args:
            batch_size: cells a batch; the last may have fewer.
            shuffle: False: frame order. True: a uniform random permutation of all cells, a new
                one each epoch.
            seed: 0 to 2**64 - 1; with it the epochs are the same everywhere. None: drawn.
            genes: None: all, and the datasets selected must share one feature space. Names: the
                columns of x, in this order. ``"intersection"`` or ``"union"`` of the datasets'
                genes. A gene that a dataset lacks is zero there.
            gene_key: the var column that genes are matched on, instead of the index.
            layer: a layer's name; None: X.
            layout: ``"csr"``: scipy CSR, int32 indices, ascending. ``"dense"``: numpy, row-major.
            dtype: of x. Integers that it cannot hold exactly are an error, never rounded.
            obs: columns of the frame for ``batch.obs``; None or True: all, False: none.
            drop_last: leave out a last short batch.
            prefetch_bytes: memory for reading ahead; one batch may pass it.
            num_threads: reading threads; None: one a core.
            store: where the store is now, if it moved.

        Returns:
            A sized, re-iterable object of [`Batch`][]: ``for x, obs in …``.

        Raises:
            DaoValueError: bad arguments, no ``cell`` column, another store's cells, several
                feature spaces and no ``genes``.
            DaoTypeError: arguments of the wrong type.
            DaoKeyError: unknown genes, layer or columns.
            DaoFileNotFoundError, DaoCorruptError: a broken store; while iterating, too.
        """
        return BatchIterable(
            select(self._frame, store, obs),
            batch_size,
            shuffle=shuffle,
            seed=seed,
            genes=genes,
            gene_key=gene_key,
            layer=layer,
            layout=layout,
            dtype=dtype,
            drop_last=drop_last,
            prefetch_bytes=prefetch_bytes,
            num_threads=num_threads,
        )

    def to_anndata(
        self,
        *,
        genes: Genes = None,
        gene_key: str | None = None,
        layer: str | None = None,
        layers: Iterable[str] | str | None = None,
        obsm: Iterable[str] | str | None = None,
        dtype: Any = None,
        progress: bool | None = None,
        store: Store | str | None = None,
    ) -> AnnData:
        """The frame's cells in memory, as scanpy wants them.

        Args:
            genes: as in [`iter_batches`][].
            gene_key: as in [`iter_batches`][]; the matched names become the var index.
            layer: what becomes X; None: X.
            layers: names of layers; None: those that every dataset selected has; ``[]``: none.
            obsm: as ``layers``.
            dtype: of X and layers; None: the first of float32, float64 and the stored type that
                holds the stored values exactly.
            progress: show a bar; None: where somebody looks on.
            store: where the store is now, if it moved.

        Returns:
            X CSR, (n_cells, n_genes), rows in frame order. obs: the frame's columns but ``cell``,
            ``obs_name`` as index, each column as the pandas type it had at its source; ``dataset``
            and values from uns are among them, columns that only other datasets have are not. var
            from the store. obsm in its source's dtype. uns of the dataset where there is just one.

        Raises:
            DaoImportError: anndata is not installed.
            Everything that [`iter_batches`][] raises.
        """
        return to_anndata(
            self._frame,
            genes=genes,
            gene_key=gene_key,
            layer=layer,
            layers=layers,
            obsm=obsm,
            dtype=dtype,
            progress=progress,
            store=store,
        )


def frame(frame: pl.LazyFrame | pl.DataFrame) -> DaoFrame:
    """``frame.dao``, for type checkers: they do not see namespaces."""
    return DaoFrame(frame)
