"""The ``.dao`` namespace of LazyFrame and DataFrame.

Owns which methods there are; the work is in the rooms. Must not do any of it itself.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import polars as pl

from ._args import Column, Normalize, columns_of, integer, listed, namespace_method, texts
from ._extras import require
from .analysis.marker_genes import rank_genes_groups
from .analysis.partial import partial
from .analysis.pseudobulk import gene_stats, pseudobulk
from .analysis.variable_genes import highly_variable_genes
from .batches.batch import Batch
from .batches.batches import BatchIterable
from .batches.matrices import Matrices
from .batches.options import READ_OPTIONS, BatchOptions, TensorOptions
from .batches.pairs import Pairing, Unpaired, common_genes, controls_of, paired
from .batches.rows import Rows
from .batches.sampling import Sampling, Shuffle
from .batches.tokens import Encoding, genes_of
from .convert.arrays import Layout
from .convert.lazy import to_dask
from .convert.to_anndata import to_anndata
from .errors import DaoTypeError, DaoValueError
from .export.anndata import write_h5ad, write_zarr
from .expression.quality import qc
from .genes.request import Duplicates, Genes
from .select import splits
from .select.partitions import partitions, pieces
from .select.selection import Missing, StoreLike, select
from .select.show import describe
from .write import selection as written

if TYPE_CHECKING:
    from typing import Unpack

    import numpy as np
    import ray
    import tensorflow as tf
    import torch
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from .frameworks.scvi import ScviDataModule
    from .frameworks.torch import TorchDataset


T = TypeVar("T")


@pl.api.register_dataframe_namespace("dao")
@pl.api.register_lazyframe_namespace("dao")
class DaoFrame:
    """What a frame with a ``cell`` column can become."""

    def __init__(self, frame: pl.LazyFrame | pl.DataFrame) -> None:
        # Polars caches this object on the frame: holding the frame itself would be a cycle.
        self._subject = frame.lazy().clone()

    def __repr__(self) -> str:
        return describe(self._subject, type(self))

    @overload
    def iter_batches(
        self,
        batch_size: int = ...,
        *,
        transform: Callable[[Batch[Any]], T],
        layout: Layout = ...,
        **options: Unpack[BatchOptions],
    ) -> BatchIterable[T]: ...

    @overload
    def iter_batches(
        self,
        batch_size: int = ...,
        *,
        transform: None = ...,
        layout: Literal["csr"] = ...,
        **options: Unpack[BatchOptions],
    ) -> BatchIterable[Batch[csr_matrix]]: ...

    @overload
    def iter_batches(
        self,
        batch_size: int = ...,
        *,
        transform: None = ...,
        layout: Literal["dense"],
        **options: Unpack[BatchOptions],
    ) -> BatchIterable[Batch[NDArray[np.generic]]]: ...

    @overload
    def iter_batches(
        self,
        batch_size: int = ...,
        *,
        transform: None = ...,
        layout: Layout = ...,
        **options: Unpack[BatchOptions],
    ) -> BatchIterable[Batch[Any]]: ...

    def iter_batches(
        self,
        batch_size: int = 1024,
        *,
        shuffle: Shuffle = False,
        seed: int | None = None,
        block_size: int = 256,
        window: int = 64,
        weights: Column | None = None,
        balance: Column | None = None,
        class_weights: Mapping[Any, float] | None = None,
        replacement: bool | None = None,
        n_samples: int | None = None,
        group_by: Column | Iterable[Column] | None = None,
        genes: Genes = None,
        gene_key: str | None = None,
        duplicates: Duplicates = "error",
        layer: str | None = None,
        layers: Iterable[str] | str | bool = (),
        obsm: Iterable[str] | str | bool = (),
        layout: Layout = "csr",
        dtype: Any = "float32",
        normalize: Normalize = None,
        encode: Encoding | None = None,
        obs: Iterable[str] | bool | None = None,
        transform: Callable[[Batch[Any]], Any] | None = None,
        pair_with: pl.LazyFrame | pl.DataFrame | None = None,
        pair_by: Column | Iterable[Column] | None = None,
        unpaired: Unpaired = "error",
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        prefetch_bytes: int = 128 << 20,
        num_threads: int | None = None,
        missing: Missing = "error",
        store: StoreLike | None = None,
    ) -> BatchIterable[Any]:
        """Mini-batches of the frame's cells, read ahead on all cores.

        The frame is collected once, here; each pass over the result is an epoch.

        Args:
            batch_size: cells a batch; the last may have fewer.
            shuffle: False: frame order. True: a uniform random permutation of all cells, a new
                one each epoch. ``"block"``: blocks of neighbours in random order, and so many of
                them shuffled together: for cold disks and object stores.
            seed: 0 to 2**64 - 1; with it the epochs are the same everywhere. None: drawn.
            block_size: cells of a block, for ``shuffle="block"``.
            window: blocks shuffled together, for ``shuffle="block"``.
            weights: a column or expression that says how likely each cell is, ≥ 0, in any unit:
                cells are then drawn at random, whatever ``shuffle`` says.
            balance: a column or expression of classes: every class is as likely as any other,
                and within one every cell.
            class_weights: with ``balance``, how likely each class is.
            replacement: whether a drawn cell may come again in an epoch; None: yes with
                ``weights`` or ``balance``. Without, cells are drawn one after another, each in
                proportion to its weight among those left.
            n_samples: cells drawn an epoch; None: as many as are selected (without replacement:
                as have a weight above 0).
            group_by: columns or expressions: every batch is of one group; a group's last batch may
                be short. With ``shuffle``, groups are shuffled inside and batches between.
            genes: None: all, and the datasets selected must share one feature space. Names: the
                columns of x, in this order. ``"intersection"`` or ``"union"`` of the datasets'
                genes. A gene that a dataset lacks is zero there.
            gene_key: the var column that genes are matched on, instead of the index.
            duplicates: what a name means that several genes of a dataset have, as 10x symbols do:
                an error; the "first" of them; the "sum" of their values (of counts exactly, or an
                error where ``dtype`` cannot hold it; before ``normalize``); or "drop": no gene, as
                if the dataset had none of that name.
            layer: a layer's name; None: X.
            layers: names of layers for ``batch.layers``; True: all that the datasets selected have
                in common.
            obsm: names for ``batch.obsm``, or True likewise (of one width); their number type is
                ``dtype`` if that is a float.
            layout: ``"csr"``: scipy CSR, int32 indices, ascending. ``"dense"``: numpy, row-major.
            dtype: of x. Integers that it cannot hold exactly are an error, never rounded.
            normalize: what is done to x, cell by cell, as scanpy does: ``"log1p_cp10k"``
                (a total of 10,000, then log(1 + x)), ``"cp10k"``, ``"log1p_cpm"`` (a million),
                ``"cpm"``, ``"log1p"``, or ``{"target_sum": …, "log1p": …}`` (None leaves totals as
                they are). A cell's total is over all genes of its dataset, whatever ``genes`` says.
            encode: ``RankEncoding`` or ``BinEncoding``: ``batch.tokens`` of what x then has, the
                vocabulary's genes that any dataset selected has, without ``genes``.
            obs: columns of the frame for ``batch.obs``; None or True: all, False: none.
            transform: called with each ``Batch``; what it returns is given instead.
            pair_with: cells of another query, controls say: ``batch.pair`` has as many of them as
                the batch has cells, row by row of the same group, drawn at random with ``seed``,
                and read as the batch is. A cell that comes again in an epoch has the same one.
            pair_by: the columns or expressions whose values a cell and its pair have in common, of
                both frames; categories are compared as text, and null is no group.
            unpaired: cells whose group has no controls: an ``"error"`` that names them, or
                ``"drop"``: they are left out.
            drop_last: leave out batches that are short.
            rank: which of the processes that share each epoch; None: torch.distributed's, or
                that of RANK and WORLD_SIZE in the environment, else the only one. All get as many
                batches, and together the cells of one epoch, once: to that end the last batches
                are cut smaller (and only where there are not the cells for that, repeated).
            world_size: how many such processes.
            prefetch_bytes: memory for batches and rows read ahead; one batch may pass it.
            num_threads: reading threads; None: one a core.
            missing: cells that were removed from the store since they were selected: an
                ``"error"`` that counts and names them, or ``"drop"``: they are left out.
            store: where the store is now, if it moved; of cells of several stores all of theirs.

        Returns:
            A sized, re-iterable object of ``Batch``: ``for x, obs in …``.

        Raises:
            DaoValueError: bad arguments, no ``cell`` column, another store's cells, several
                feature spaces and no ``genes``.
            DaoTypeError: arguments of the wrong type.
            DaoKeyError: unknown genes, layer, obsm or columns.
            DaoFileNotFoundError, DaoCorruptError: a broken store; while iterating, too.
        """
        group_by = None if group_by is None else listed(group_by)  # an iterator gives them once
        pair_by = None if pair_by is None else listed(pair_by)
        if (pair_with is None) != (pair_by is None):
            raise DaoValueError(
                "pair_with= and pair_by= go together: which cells, and what of them"
            )
        by = columns_of(weights, balance, group_by, pair_by)
        selection = select(self._subject, store, obs, by, missing)
        controls = groups = None
        if pair_with is not None and pair_by is not None:
            controls = controls_of(selection, pair_with, pair_by, obs, missing)
            selection, groups = paired(selection, controls, pair_by, unpaired)
        if encode is not None:
            genes = genes_of(encode, genes, selection, controls, gene_key)
        if controls is not None:
            genes = common_genes(selection, controls, genes, gene_key, duplicates)
        sampling = Sampling(
            selection.frame,
            batch_size,
            shuffle=shuffle,
            block_size=block_size,
            window=window,
            seed=seed,
            weights=weights,
            balance=balance,
            class_weights=class_weights,
            replacement=replacement,
            n_samples=n_samples,
            group_by=group_by,
            drop_last=drop_last,
        )
        read = (genes, gene_key, duplicates, layer, layers, obsm, layout, dtype, normalize, encode)
        pairing = None
        if controls is not None and groups is not None:
            pairing = Pairing(Rows(controls, Matrices(controls, *read)), groups, seed)
        return BatchIterable(
            selection,
            sampling,
            Matrices(selection, *read),
            transform,
            rank,
            world_size,
            prefetch_bytes,
            num_threads,
            pairing,
        )

    def to_torch(
        self,
        batch_size: int = 1024,
        *,
        device: str | int | torch.device | None = None,
        pin_memory: bool = False,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        **options: Unpack[TensorOptions],
    ) -> TorchDataset:
        """Mini-batches as PyTorch tensors.

        Args:
            batch_size: cells a batch.
            device: where tensors are to be; on a CUDA device, copies from page-locked memory run
                beside the step, one batch ahead. Needs ``num_workers=0`` in a DataLoader.
            pin_memory: put tensors into page-locked memory, from which a GPU copies faster.
            transform: called with each batch's dict; what it returns is given instead. Workers
                that are spawned need one that pickles.
            options: those of ``iter_batches``, which explains them: which cells come when
                (``shuffle``, ``seed``, ``weights``, ``balance``, ``group_by``, …), what is read
                of them (``genes``, ``layer``, ``layout``, ``dtype``, ``normalize``, ``obs``, …),
                and who reads (``rank``, ``world_size``, …).

        Returns:
            An ``IterableDataset`` of dicts: ``"X"`` (n_cells, n_genes), on the reader's own memory
            unless it is pinned or sent to a device, sparse CSR (32-bit indices) or
            (``layout="dense"``) strided; ``"layers/…"``, ``"obsm/…"``; with
            ``encode`` ``"input_ids"``, ``"attention_mask"``, ``"bins"``; and the
            columns of obs, (n_cells,): numbers as they are (float64 with NaN where the column has
            nulls), dates as integers, categories as int64 codes into ``.classes_[column]`` (-1
            for null), text as lists. With ``pair_with`` the same of the controls, as
            ``"pair/X"``, ``"pair/…"``. It is iterated bare, or through
            ``DataLoader(dataset, batch_size=None)``; ``num_workers=0`` is as fast as it gets.

        Raises:
            DaoImportError: torch is not installed.
            DaoValueError: torch has no such device.
            Everything that ``iter_batches`` raises.
        """
        require("torch", "to_torch")
        from .frameworks.torch import TorchDataset

        batches = self.iter_batches(batch_size, **options)
        return TorchDataset(batches, transform=transform, pin_memory=pin_memory, device=device)

    def to_tensorflow(
        self, batch_size: int = 1024, **options: Unpack[TensorOptions]
    ) -> tf.data.Dataset:
        """Mini-batches as a ``tf.data.Dataset``.

        Args:
            batch_size: cells a batch.
            options: those of ``iter_batches``, which explains them, but for ``transform``: use
                ``Dataset.map``.

        Returns:
            A dataset of dicts with the entries of ``to_torch``: ``"X"`` a ``SparseTensor``, or
            dense with ``layout="dense"``; text as ``tf.string``. Each pass is an epoch.

        Raises:
            DaoImportError: tensorflow is not installed.
            DaoTypeError: a ``transform``.
            Everything that ``iter_batches`` raises.
        """
        require("tensorflow", "to_tensorflow")
        from .frameworks.tensorflow import dataset

        if options.get("pair_with") is not None:
            raise DaoTypeError("to_tensorflow takes no pair_with=; use iter_batches")
        if options.get("transform") is not None:
            raise DaoTypeError("to_tensorflow takes no transform=; use Dataset.map on its result")
        return dataset(self.iter_batches(batch_size, **options))

    def to_scvi(
        self,
        *,
        batch_key: str | None = None,
        labels_key: str | None = None,
        categorical_covariate_keys: Iterable[str] = (),
        continuous_covariate_keys: Iterable[str] = (),
        val: pl.LazyFrame | pl.DataFrame | None = None,
        batch_size: int = 128,
        **options: Unpack[BatchOptions],
    ) -> ScviDataModule:
        """A Lightning data module for ``scvi.model.SCVI``, without an AnnData in memory.

        ``model = SCVI(registry=module.registry)``, ``model.train(datamodule=module, …)``, and
        ``model.get_latent_representation(dataloader=module.inference_dataloader())``. Each epoch
        is a uniform permutation of the cells; X is read as dense float32, of counts as they are.

        Args:
            batch_key: the column of batches, as in ``SCVI.setup_anndata``.
            labels_key: the column of labels.
            categorical_covariate_keys: columns of categories.
            continuous_covariate_keys: columns of numbers.
            val: the cells of validation, as ``split`` gives them; None: no validation.
            batch_size: cells a batch.
            options: those of ``iter_batches``: ``seed``, ``genes``, ``layer``, ``weights``, …;
                ``shuffle`` is True if not given.

        Raises:
            DaoImportError: scvi-tools is not installed.
            DaoValueError: nulls in a column of categories, or one in ``val`` that the others lack.
            Everything that ``iter_batches`` raises.
        """
        if options.get("encode") is not None:
            raise DaoTypeError("to_scvi takes no encode=: SCVI reads counts")
        require("scvi", "to_scvi")
        from .frameworks.scvi import ScviDataModule, ScviKeys

        categories = texts(categorical_covariate_keys, "categorical_covariate_keys")
        numbers = texts(continuous_covariate_keys, "continuous_covariate_keys")
        keys = ScviKeys(batch_key, labels_key, categories, numbers)
        whole = self.iter_batches(batch_size, **options)
        if options.get("genes") is not None:  # of other cells, they would be others
            options["genes"] = whole.genes.to_list()

        def load(
            cells: pl.LazyFrame,
            shuffled: bool,
            size: int,
            transform: Callable[[Batch[Any]], Any] | None,
        ) -> BatchIterable[Any]:
            read: Any = {"shuffle": True} | options
            if not shuffled:
                read = {name: value for name, value in read.items() if name in READ_OPTIONS}
            read |= {"obs": keys.columns, "layout": "dense"}
            return DaoFrame(cells).iter_batches(size, transform=transform, **read)

        frame = None if val is None else val.lazy()
        return ScviDataModule(load, self._subject, frame, keys, batch_size)

    def to_ray(
        self,
        *,
        n_partitions: int | None = None,
        batch_size: int = 4096,
        **options: Unpack[TensorOptions],
    ) -> ray.data.Dataset:
        """The cells as a ``ray.data.Dataset``, a read task a piece of the selection.

        Nothing is read here but which cells there are. Tasks read where Ray runs them, each on one
        thread; all must see the store. Rows come in order of their keys, piece by piece.

        Args:
            n_partitions: how many tasks read, at most; None: as many as Ray wants.
            batch_size: cells a block.
            options: of those of ``iter_batches`` what says what is read: ``genes``, ``gene_key``,
                ``duplicates``, ``layer``, ``layers``, ``obsm``, ``layout``, ``dtype``,
                ``normalize``, ``obs``, ``missing``, ``store``.

        Returns:
            A dataset of Arrow blocks, a row a cell: ``cell`` (uint64, the key), the columns of
            obs (categories as text), and of x, layers and obsm, ``layout="dense"``: ``X`` (a
            list of fixed size, n_genes); else ``X/indices`` and ``X/data`` (lists of a cell's
            columns, ascending, and their values).

        Raises:
            DaoImportError: ray is not installed.
            DaoTypeError: an option that is not about what is read.
            Everything that ``iter_batches`` raises.
        """
        data = require("ray.data", "to_ray")
        from .frameworks.ray_data import CellsSource

        unknown = options.keys() - READ_OPTIONS
        if unknown:
            raise DaoTypeError(
                f"to_ray takes no {', '.join(f'{name}=' for name in sorted(unknown))}: what is "
                "shuffled, drawn or transformed is so by Ray's Dataset"
            )
        batch_size = integer("batch_size", batch_size, 1, 2**32 - 1)
        missing, store = options.get("missing", "error"), options.get("store")
        # All that could be wrong is so here, and names mean the genes of the whole.
        whole = self.iter_batches(batch_size, **options)
        if options.get("genes") is not None:
            options["genes"] = whole.genes.to_list()
        source = CellsSource(
            functools.partial(pieces, self._subject, missing=missing, store=store),
            functools.partial(_batches_of_piece, batch_size, options),
            whole.estimated_bytes(),
        )
        made: ray.data.Dataset = data.read_datasource(source, override_num_blocks=n_partitions)
        return made

    split = namespace_method(splits.split)
    partitions = namespace_method(partitions)
    sample = namespace_method(splits.sample)
    to_anndata = namespace_method(to_anndata)
    to_dask = namespace_method(to_dask)
    write_h5ad = namespace_method(write_h5ad)
    write_zarr = namespace_method(write_zarr)
    write_dataset = namespace_method(written.write_dataset)
    partial = namespace_method(partial)
    qc = namespace_method(qc)
    pseudobulk = namespace_method(pseudobulk)
    gene_stats = namespace_method(gene_stats)
    highly_variable_genes = namespace_method(highly_variable_genes)
    rank_genes_groups = namespace_method(rank_genes_groups)


def _batches_of_piece(
    batch_size: int, options: Mapping[str, Any], piece: pl.LazyFrame
) -> BatchIterable[Any]:
    """The batches of a piece of a selection, read on one thread: Ray counts a task as one."""
    return DaoFrame(piece).iter_batches(batch_size, num_threads=1, **options)


def frame(frame: pl.LazyFrame | pl.DataFrame) -> DaoFrame:
    """``frame.dao``, for type checkers: they do not see namespaces.

    Raises:
        DaoTypeError: no frame.
    """
    if not isinstance(frame, pl.LazyFrame | pl.DataFrame):
        hint = ": dao.frame(dao.scan(…))" if isinstance(frame, str | os.PathLike) else ""
        raise DaoTypeError(f"expected a LazyFrame or DataFrame{hint}; found {frame!r}")
    return DaoFrame(frame)
