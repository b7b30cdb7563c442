"""An open store: what is in it, and its small tables.

Owns [`Store`][], what users ask a store, and how one is opened. Reading cells is
[`scan`][dao_polars.scan]'s, bytes and manifests are the Rust core's, tables are
[`tables`][dao_polars.store.tables]'s.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import polars as pl

from .. import _core
from .._progress import progress_bar
from ..errors import DaoError, DaoKeyError, DaoTypeError, DaoValueError
from ..legacy.tables import SfairaTables
from ..scan.cell import Cell
from ..scan.columns import frame_schema
from ..scan.source import ScannedStore, scan_store
from . import show
from .tables import OwnTables


def load_store(
    uri: str | os.PathLike[str], *, storage_options: Mapping[str, str] | None = None
) -> Store:
    """Opens the store at a path or URL; reads its manifest and nothing else.

    Args:
        uri: path, or ``s3://``, ``gs://``, ``az://``, ``https://`` URL. Stores that sfaira wrote
            are opened as they are.
        storage_options: credentials and the like, as for `polars.scan_parquet`; also ``timeout``
            (of one request, ``"30 s"``), ``max_retries`` and ``retry_timeout_ms`` (how long one
            read may go without an answer, retries included: 60,000).

    Raises:
        DaoFileNotFoundError: there is no store.
        DaoIOError: a network or server that fails, or does not answer in time.
        DaoValueError: a store of a newer format version, or options that cannot be used.
        DaoCorruptError: a manifest that cannot be understood.
    """
    return Store(as_uri(uri), storage_options)


def scan(
    uri: str | os.PathLike[str], *, storage_options: Mapping[str, str] | None = None
) -> pl.LazyFrame:
    """A store's cells as a lazy frame, one row a cell, in the order of datasets and rows.

    Columns: ``cell`` (the key), ``dataset``, ``obs_name``, then the union of the datasets' obs
    columns and of the constants in their uns; null where a dataset has no such column. Columns
    of text are Enums over the store's values: to join one with text of your own, cast that to
    ``lf.collect_schema()[name]``. They are String past 65,536 values, and where some dataset has
    nearly a value a cell, as barcodes are (more than 1,000, and more than half as many as cells).
    A column that is Boolean in one dataset and the text ``"True"``, ``"False"`` in another is
    Boolean; with other text among it, bools read ``"True"`` and ``"False"``.

    Reads the manifest now and obs when the query runs: only the datasets, columns and row groups
    that it can need. Their checksums are checked before, column by column: of local files once in
    a process for each state of a file (size, times, inode). Of remote ones the columns are fetched
    whole, and up to 64 MB of them are kept with the frame for its next query.

    Args:
        uri: path, or ``s3://``, ``gs://``, ``az://``, ``https://`` URL of the store.
        storage_options: credentials and the like, as for `polars.scan_parquet`.

    Raises:
        DaoFileNotFoundError: there is no store.
        DaoValueError: a store of a newer format version.
        DaoCorruptError: now or when the query runs: files that contradict the manifest.
    """
    return load_store(uri, storage_options=storage_options).scan()


def as_uri(uri: str | os.PathLike[str]) -> str:
    """The path or URL of a store as the core takes it: ``~`` expanded.

    Raises:
        DaoTypeError, DaoValueError: it is no path and no URL.
    """
    text: Any
    try:
        text = os.fspath(uri)
    except TypeError:
        text = None
    if not isinstance(text, str):  # and is not shown: bytes, say, may have a password in them
        raise DaoTypeError(f"uri=: expected a path or a URL as text, found {type(uri).__name__}")
    if not text:
        raise DaoValueError("uri='': expected a path or a URL; '.' is the working directory")
    return text if "://" in text else os.path.expanduser(text)


class Uns(dict[str, Any]):
    """A dataset's ``uns``; ``refused`` lists what its pickle had beside plain data.

    Each as ``"['key']: module.name"``. Only the pickles of sfaira's stores have such things;
    nothing of them was imported or run, and an inert placeholder stands in their place.
    """

    refused: list[str]

    def __init__(self, values: Mapping[Any, Any], refused: Sequence[str] = ()) -> None:
        super().__init__(values)
        self.refused = list(refused)


class Store:
    """Datasets below one path or URL, as they were when it was opened. Made by [`load_store`][].

    Pickles by URI and storage options: the copy opens the store again.
    """

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        texts = {key: str(value) for key, value in (storage_options or {}).items()}
        self._core = _core.Store.open(uri, texts)
        self._storage_options = self._core.storage_options or None
        self._tables = (
            SfairaTables(self._core)
            if self._core.has_sfaira_tables
            else OwnTables(self._core, self._storage_options)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.uri, self._storage_options)

    @property
    def uri(self) -> str:
        """The store's absolute path, or URL without a trailing slash."""
        return self._core.uri

    @property
    def id(self) -> str:
        """The id, the same after a move; for sfaira's stores a fingerprint of names and counts."""
        return self._core.id

    @property
    def n_obs(self) -> int:
        """The number of cells of all datasets."""
        return sum(dataset.n_obs for dataset in self._core.datasets)

    @cached_property
    def _scanned(self) -> ScannedStore:
        datasets = self._tables.datasets()
        schema = frame_schema(datasets, self._tables.categories(), Cell(self.uri, self.id))
        return ScannedStore(self.uri, self._storage_options, datasets, schema)

    @property
    def schema(self) -> pl.Schema:
        """The schema of the frame that [`scan`][Store.scan] gives."""
        return self._scanned.schema

    @cached_property
    def datasets(self) -> pl.DataFrame:
        """One row a dataset: id, organism, n_obs, n_vars, nnz, layout, bytes (on disk).

        ``nnz``, the number of stored values of X, is null where it is not known.
        """
        found = self._core.datasets
        text, count = pl.String(), pl.Int64()
        return pl.DataFrame(
            [
                pl.Series("id", [d.name for d in found], text),
                pl.Series("organism", [self._tables.organism(d) for d in found], text),
                pl.Series("n_obs", [d.n_obs for d in found], count),
                pl.Series("n_vars", [d.n_vars for d in found], count),
                pl.Series("nnz", [d.nnz for d in found], count),
                pl.Series("layout", [d.layout for d in found], text),
                pl.Series("bytes", [d.bytes for d in found], count),
            ]
        )

    def scan(self) -> pl.LazyFrame:
        """The cells as a lazy frame; see [`dao.scan`][dao_polars.scan]."""
        return scan_store(self._scanned)

    def var(self, dataset: str | None = None) -> pl.DataFrame:
        """The genes ``(n_vars, columns)``: ``var_name`` (AnnData's var index) first.

        Args:
            dataset: a dataset's id; None for the var that all datasets have in common, which
                is the first dataset's where their columns differ.

        Raises:
            DaoKeyError: no such dataset.
            DaoValueError: no dataset is named and they do not have the same genes in one order.
            DaoCorruptError: the file is not the one that was written.
        """
        return self._tables.var(self._common() if dataset is None else self._dataset(dataset))

    def uns(self, dataset: str) -> Uns:
        """A dataset's ``uns``; its ``refused`` lists what a pickle of sfaira's had beside data.

        Raises:
            DaoKeyError: no such dataset.
            DaoCorruptError: the file is not the one that was written, or no uns.
        """
        return Uns(*self._tables.uns(self._dataset(dataset)))

    def add_gene_index(
        self, datasets: str | Sequence[str] | None = None, *, progress: bool | None = None
    ) -> list[str]:
        """Write a gene-major copy of X beside it, so that one gene of many cells is read quickly.

        [`dao.gene`][dao_polars.gene] uses it where it pays. Out of core; the copy takes about as
        much disk as X, and appears when it is complete.

        Args:
            datasets: ids; None for all. Those that have one already are left as they are.
            progress: a tqdm bar; None shows one on a terminal or in a notebook.

        Returns:
            The ids of the datasets that got one.

        Raises:
            DaoKeyError: no such dataset.
            DaoValueError: a store that is not written to: sfaira's, or a remote one.
            DaoIOError: a full disk, or no permission; nothing of that copy stays.
        """
        names = [datasets] if isinstance(datasets, str) else datasets
        found = self._core.datasets if names is None else [self._dataset(name) for name in names]
        total = sum(dataset.n_obs for dataset in found)
        with progress_bar(progress, total=total, unit="cell", label="gene index") as advance:
            return [d.name for d in found if self._core.add_gene_index(d.name, advance)]

    def has_gene_index(self, dataset: str | None = None) -> bool:
        """Whether a dataset, or (None) every one, has a gene-major copy of X.

        See [`add_gene_index`][].

        Raises:
            DaoKeyError: no such dataset.
            DaoCorruptError: it has one that was made of another dataset.
        """
        found = self._core.datasets if dataset is None else [self._dataset(dataset)]
        return all(self._core.has_gene_index(dataset.name) for dataset in found)

    def verify(self) -> pl.DataFrame:
        """Reads everything and lists what is wrong: dataset, path, problem; no rows if all is well.

        Checksums, matrices, and the row counts and columns of obs and var.
        """
        checks: dict[str, Callable[[_core.Dataset], object]] = {
            "parquet/obs.parquet": self._tables.check_obs,
            "parquet/var.parquet": self._tables.var,
            self._tables.uns_path: self._tables.uns,
        }
        rows: list[tuple[str, str, str]] = []
        for dataset in self._core.datasets:
            problems = self._core.verify(dataset.name)
            damaged = {path for path, _ in problems}
            for path, check in checks.items():
                try:
                    if f"{dataset.path}/{path}" not in damaged:
                        check(dataset)
                except DaoError as error:
                    problems.append((f"{dataset.path}/{path}", str(error)))
            rows += [(dataset.name, path, problem) for path, problem in problems]
        return pl.DataFrame(
            rows, dict.fromkeys(("dataset", "path", "problem"), pl.String), orient="row"
        )

    def _dataset(self, name: str) -> _core.Dataset:
        names = [dataset.name for dataset in self._core.datasets]
        if name in names:
            return self._core.datasets[names.index(name)]
        near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4) or names[:3]
        named = ", ".join(map(repr, near)) or "none, the store is empty"
        raise DaoKeyError(
            f"store {self.uri!r} has no dataset {name!r}; the nearest: {named}. "
            "store.datasets lists them all"
        )

    def _common(self) -> _core.Dataset:
        """The first dataset, where all have the same genes in one order."""
        spaces: dict[str, list[_core.Dataset]] = {}
        for dataset in self._core.datasets:
            spaces.setdefault(self._core.feature_space(dataset.number), []).append(dataset)
        if len(spaces) == 1:
            return self._core.datasets[0]
        if not spaces:
            raise DaoValueError(f"store {self.uri!r} has no datasets, and so no genes")
        listed = "; ".join(
            f"{len(members)} dataset(s) with {members[0].n_vars} genes, such as {members[0].name!r}"
            for members in list(spaces.values())[:5]
        )
        raise DaoValueError(
            f"the datasets of store {self.uri!r} have {len(spaces)} feature spaces: {listed}"
            f"{'; …' if len(spaces) > 5 else ''}. Name a dataset: store.var(dataset); or, where "
            "cells are read, give genes= a list of names, 'intersection' or 'union'"
        )

    def __repr__(self) -> str:
        return show.text(self)

    def _repr_html_(self) -> str:
        return show.html(self)
