"""An open store: what is in it, and its small tables.

Owns ``Store``, what users ask a store, and how one is opened. Reading cells is
``scan``'s, bytes and manifests are the Rust core's, tables are
``tables``'s.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, cast

import polars as pl

from .. import _core
from .._args import integer
from .._progress import progress_bar
from .._warn import tell
from ..errors import (
    DaoCorruptError,
    DaoError,
    DaoFileNotFoundError,
    DaoTypeError,
    DaoValueError,
)
from ..legacy.tables import SfairaTables
from ..scan.cell import Cell, CellStore
from ..scan.columns import frame_schema
from ..scan.source import ScannedMember, ScannedStore, scan_store
from . import show
from .editing import EditingVerbs
from .named import common_part, parts_of
from .nearby import nearby
from .options import StorageOptions, core_options, with_cache
from .several import JoinedTables, Place, each_version, listed, of_each
from .tables import OwnTables


def load_store(
    uri: Place | Iterable[Place],
    *,
    storage_options: StorageOptions = None,
    cache: str | os.PathLike[str] | None = None,
    cache_bytes: int | None = None,
    version: int | Iterable[int | None] | None = None,
) -> Store:
    """Opens the store at a path or URL; reads what the version lists and nothing else.

    Several, in a list, are one store to read: see ``dao.scan``. Each is changed alone.

    Args:
        uri: path, or ``s3://``, ``gs://``, ``az://``, ``https://`` URL. Stores that sfaira wrote
            are opened as they are. ``hf://datasets/owner/name/path`` is on the Hugging Face hub.
            Or a list of them, at most 256.
        storage_options: credentials and the like, in the words of polars, object_store or fsspec
            (``key``, ``secret``, ``endpoint_url``, ``account_key``, ``anon``, ``token``, …), and
            of any type that fits. What is not given is looked for in the environment, in files of
            profiles and logins, and in the machine's role. Also ``timeout`` (of one request, in
            seconds or as ``"30 s"``), ``max_retries`` and ``retry_timeout_ms`` (how long one read
            may go without an answer, retries included: 60,000). Of several stores: for all.
        cache: a folder of this machine in which what is read of stores behind URLs is kept, so
            that it is asked for once: later epochs, and other processes, read it from there. It is
            made where it is not there, and is for the cache alone; several stores and processes
            may share one. What is asked for is widened to pages of 4 KiB. It goes where the store
            goes: pickles, selections, processes of loaders. Stores on this machine, and those that
            sfaira wrote, do without.
        cache_bytes: about the most bytes that the folder takes (each process may be a sixteenth
            above it), at least 1 MiB; None for 64 GiB. What was not used for longest goes. What
            was used in the last ten minutes stays, and while there is no room nothing is added.
        version: the number of a version, see ``Store.versions``; None for the last one. Of
            several stores a list of these, one for each.

    Raises:
        DaoFileNotFoundError: there is no store.
        DaoIOError: a network or server that fails, or does not answer in time; a folder of the
            cache that cannot be written to.
        DaoTypeError, DaoValueError: a store of another format version, a version that is not there,
            or options that cannot be used; a cache in a folder that has other files; a list without
            stores, or with one twice.
        DaoCorruptError: a version that cannot be understood.
    """
    storage_options = with_cache(storage_options, cache, cache_bytes)
    places = listed(uri)
    if places is None:
        return Store(as_uri(cast(Place, uri)), storage_options, cast("int | None", version))
    versions = each_version(version, len(places))
    return joined(
        [
            Store(as_uri(place), storage_options, asked)
            for place, asked in zip(places, versions, strict=True)
        ]
    )


def scan(
    uri: Place | Iterable[Place],
    *,
    storage_options: StorageOptions = None,
    cache: str | os.PathLike[str] | None = None,
    cache_bytes: int | None = None,
    version: int | Iterable[int | None] | None = None,
) -> pl.LazyFrame:
    """A store's cells as a lazy frame, one row a cell, in the order of datasets and rows.

    Several stores, ``dao.scan([uri, uri])``, are one frame, the cells of one after those of the
    other, and everything that can be made of a frame works over all of them. (``pl.concat`` of
    two scans is polars' own error: their cells are of two types.)

    Columns: ``cell`` (the key), ``dataset``, ``obs_name``, then the union of the datasets' obs
    columns and of the constants in their uns; null where a dataset has no such column. Columns
    of text are Enums over the store's values: to join one with text of your own, cast that to
    ``lf.collect_schema()[name]``. They are String past 65,536 values, and where some dataset has
    nearly a value a cell, as barcodes are (more than 100, and more than half as many as cells).
    A column that is Boolean in one dataset and the text ``"True"``, ``"False"`` in another is
    Boolean; with other text among it, bools read ``"True"`` and ``"False"``.

    Reads what the version lists now and obs when the query runs: only the datasets, columns and
    row groups that it can need. Their checksums are checked before, column by column: of local
    files once in a process for each state of a file (size, times, inode). Of remote ones the
    columns are fetched whole, and up to 64 MB of them are kept with the frame for its next query.

    Of several stores, ``store`` follows ``dataset``: the URI of each cell's, an Enum in the order
    given. Datasets of two stores may have one name, and are two: ``group_by("store", "dataset")``.
    A column of theirs that is called ``store`` is ``obs_store`` then. Keys say which of these
    stores a cell is of, and so a selection that was saved belongs to this list, in this order.

    Args:
        uri: path, or ``s3://``, ``gs://``, ``az://``, ``https://``, ``hf://`` URL of the store; or
            a list of them, at most 256.
        storage_options: credentials and the like, see ``dao.load_store``; of several stores for
            all of them.
        cache: a folder in which what is read of stores behind URLs is kept, see
            ``dao.load_store``.
        cache_bytes: about the most bytes that it takes.
        version: the number of a version, which the cells then name; None for the last one. Of
            several stores a list of these, one for each.

    Raises:
        DaoFileNotFoundError: there is no store.
        DaoTypeError, DaoValueError: a store of another format version, or a version that is not
            there; a list without stores, or with one twice.
        DaoCorruptError: now or when the query runs: files that contradict the manifest.
    """
    return load_store(
        uri, storage_options=storage_options, cache=cache, cache_bytes=cache_bytes, version=version
    ).scan()


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
    if isinstance(uri, (list, tuple)):
        raise DaoValueError(
            f"uri=: expected one store, found a list of {len(uri)}: each is written to, changed "
            "and copied alone. dao.scan and dao.load_store read several as one"
        )
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


class Store(EditingVerbs):
    """Datasets below one path or URL, in one version. Made by ``load_store``.

    What is changed in a store is a new version of it: this one stays as it is. Pickles by URI,
    storage options and version: the copy opens the same version again.

    Several that were opened as one, ``load_store([uri, uri])``, are read as one is; what changes
    a store, or lists its versions, is an error there: open that one alone.
    """

    def __init__(
        self,
        uri: str,
        storage_options: StorageOptions = None,
        version: int | None = None,
    ) -> None:
        self._pinned = None if version is None else integer("version", version, 1, 2**63)
        try:
            self._core = _core.Store.open(uri, core_options(storage_options), self._pinned)
        except (DaoFileNotFoundError, DaoCorruptError) as error:
            if hint := nearby(uri):
                raise DaoFileNotFoundError(f"no store at {uri!r}: {hint}") from error
            raise
        tell()
        self._own: list[int] = []
        self._storage_options = self._core.storage_options or None
        self._tables: SfairaTables | OwnTables | JoinedTables = (
            SfairaTables(self._core)
            if self._core.has_sfaira_tables
            else OwnTables(self._core, self._storage_options)
        )
        self._members: tuple[Store, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._members:
            return joined, (self._members,)
        return _reopened, (self.uri, self._storage_options, self.version, self._pinned)

    @property
    def stores(self) -> tuple[Store, ...]:
        """The stores that were opened as one, in their order; of one store itself."""
        return self._members or (self,)

    @property
    def uri(self) -> str:
        """The store's absolute path, or URL without a trailing slash.

        Of several stores theirs, with `` + `` between: see ``stores``.
        """
        return self._core.uri

    @property
    def id(self) -> str:
        """The id, the same after a move; for sfaira's stores a fingerprint of names and counts.

        Of several stores theirs, with `` + `` between.
        """
        return self._core.id

    @property
    def version(self) -> int | None:
        """The number of the version; None for a store that sfaira wrote, which has none.

        None for several stores, too: see ``stores``.
        """
        return self._core.version

    def _again(self) -> Store:
        """The same store, opened anew at the same version."""
        if self._members:
            return joined([store._again() for store in self._members])
        return Store(self.uri, self._storage_options, self.version)

    def _at(self, version: int) -> Store:
        """The store at a version that cells do not name."""
        return store_at(self.uri, self._storage_options, version)

    @property
    def n_obs(self) -> int:
        """The number of cells of all datasets."""
        return sum(part.n_cells for part in self._core.parts)

    @cached_property
    def _scanned(self) -> ScannedStore:
        parts = self._tables.parts()
        cell = Cell.of([CellStore(s.uri, s.id, s._pinned) for s in self.stores])
        uris = [store.uri for store in self._members]
        schema = frame_schema(parts, self._tables.categories(), cell, uris)
        members = [ScannedMember(s.uri, s._storage_options, s.version) for s in self.stores]
        return ScannedStore(members, parts, schema)

    @property
    def schema(self) -> pl.Schema:
        """The schema of the frame that ``scan`` gives."""
        return self._scanned.schema

    @cached_property
    def datasets(self) -> pl.DataFrame:
        """One row a dataset: id, organism, n_obs, n_vars, nnz, layout, bytes (on disk).

        ``nnz``, the number of stored values of X, is null where it is not known. Of several stores,
        ``store``, the URI of each dataset's, follows its id.
        """
        if self._members:
            return of_each(self._members, lambda store: store.datasets)
        found = list(self._by_dataset.values())
        text, count = pl.String(), pl.Int64()

        def total(values: Iterable[int | None]) -> int | None:
            known = [value for value in values if value is not None]
            return sum(known) if known else None

        return pl.DataFrame(
            [
                pl.Series("id", list(self._by_dataset), text),
                pl.Series("organism", [self._tables.organism(parts[0]) for parts in found], text),
                pl.Series("n_obs", [total(p.n_cells for p in parts) for parts in found], count),
                pl.Series("n_vars", [parts[0].n_vars for parts in found], count),
                pl.Series("nnz", [total(p.nnz for p in parts) for parts in found], count),
                pl.Series("layout", [parts[0].layout for parts in found], text),
                pl.Series("bytes", [total(p.bytes for p in parts) for parts in found], count),
            ]
        )

    @cached_property
    def _by_dataset(self) -> dict[str, list[_core.Part]]:
        """The parts of each dataset, by its name; of several stores by their URI, ``/``, its name.

        Two stores may have datasets of one name.
        """
        found: dict[str, list[_core.Part]] = {}
        for part in self._core.parts:
            found.setdefault(part.address, []).append(part)
        return found

    @cached_property
    def _by_number(self) -> dict[int, _core.Part]:
        """The parts by their numbers."""
        return {part.number: part for part in self._core.parts}

    def scan(self) -> pl.LazyFrame:
        """The cells as a lazy frame; see ``dao.scan``."""
        return scan_store(self._scanned)

    def var(self, dataset: str | None = None) -> pl.DataFrame:
        """The genes ``(n_vars, columns)``: ``var_name`` (AnnData's var index) first.

        Args:
            dataset: a dataset's id; None for the var that all datasets have in common, which
                is the first dataset's where their columns differ. Where several stores have one of
                this id: ``"<URI of the store>/<id>"``.

        Raises:
            DaoKeyError: no such dataset.
            DaoValueError: no dataset is named and they do not have the same genes in one order.
            DaoCorruptError: the file is not the one that was written.
        """
        return self._tables.var(common_part(self) if dataset is None else self._dataset(dataset)[0])

    def uns(self, dataset: str) -> Uns:
        """A dataset's ``uns``; its ``refused`` lists what a pickle of sfaira's had beside data.

        Raises:
            DaoKeyError: no such dataset.
            DaoCorruptError: the file is not the one that was written, or no uns.
        """
        return Uns(*self._tables.uns(self._dataset(dataset)[0]))

    def add_gene_index(
        self, datasets: str | Sequence[str] | None = None, *, progress: bool | None = None
    ) -> list[str]:
        """Write a gene-major copy of X, so that one gene of many cells is read quickly.

        ``dao.gene`` uses it where it pays. Out of core; the copy takes about as
        much disk as X. Each is a new version, in which the dataset has it: this store, which was
        opened before, has not.

        Args:
            datasets: ids; None for all. Those that have one already are left as they are.
            progress: a tqdm bar; None shows one on a terminal or in a notebook.

        Returns:
            The ids of the datasets that got one.

        Raises:
            DaoKeyError: no such dataset.
            DaoValueError: a store that is not written to: sfaira's, or one behind plain HTTP.
            DaoIOError: a full disk, no permission, or a network or server that fails; nothing of
                that copy stays, but for what ``vacuum`` removes.
        """
        self._core.check_writable()
        names = [datasets] if isinstance(datasets, str) else datasets
        found = self._core.parts if names is None else [p for n in names for p in self._dataset(n)]
        total = sum(part.n_obs for part in found)
        with progress_bar(progress, total=total, unit="cell", label="gene index") as advance:
            made = [p.name for p in found if self._core.add_gene_index(p.number, advance)]
        return list(dict.fromkeys(made))

    def has_gene_index(self, dataset: str | None = None) -> bool:
        """Whether a dataset, or (None) every one, has a gene-major copy of X.

        See ``add_gene_index``.

        Raises:
            DaoKeyError: no such dataset.
            DaoCorruptError: a description that is not the one that was written.
        """
        found = self._core.parts if dataset is None else self._dataset(dataset)
        return all(self._core.has_gene_index(part.number) for part in found)

    def verify(self, *, progress: bool | None = None) -> pl.DataFrame:
        """Reads everything and lists what is wrong: dataset, path, problem; no rows if all is well.

        Checksums, matrices, and the row counts and columns of obs and var. Of several stores,
        ``store``, the URI of each dataset's, follows ``dataset``.

        Args:
            progress: a tqdm bar; None shows one on a terminal or in a notebook.
        """
        if self._members:
            return of_each(self._members, lambda store: store.verify(progress=progress))
        total = sum(part.bytes for part in self._core.parts)
        rows: list[tuple[str, str, str]] = []
        with progress_bar(progress, total=total, unit="B", label="verifying") as advance:
            for part in self._core.parts:
                rows += [(part.name, path, problem) for path, problem in self._problems(part)]
                advance(part.bytes)
        return pl.DataFrame(
            rows, dict.fromkeys(("dataset", "path", "problem"), pl.String), orient="row"
        )

    def _problems(self, part: _core.Part) -> list[tuple[str, str]]:
        """The files of a part that are damaged, and what is wrong with each."""
        problems = self._core.verify(part.number)
        damaged = {path for path, _ in problems}
        checks: dict[str, Callable[[_core.Part], object]]
        checks = {part.obs_path: self._tables.check_obs}
        with suppress(DaoError):  # of the description, which is among the problems
            checks[f"{part.path}/{self._tables.var_name(part)}"] = self._tables.var
            checks[f"{part.path}/{self._tables.uns_name(part)}"] = self._tables.uns
        for path, check in checks.items():
            try:
                if path not in damaged:
                    check(part)
            except DaoError as error:
                problems.append((path, str(error)))
        return problems

    def _dataset(self, name: str) -> list[_core.Part]:
        """The parts of a dataset."""
        return parts_of(self, name)

    def __repr__(self) -> str:
        return show.text(self)

    def _repr_html_(self) -> str:
        return show.html(self)


def joined(stores: Sequence[Store]) -> Store:
    """Several stores, each opened alone, as one to read; a single one is itself."""
    if len(stores) == 1:
        return stores[0]
    store = Store.__new__(Store)
    store._core = _core.Store.join([member._core for member in stores])
    store._tables = JoinedTables(store._core, stores)
    store._pinned = store._storage_options = None
    store._own, store._members = [], tuple(stores)
    return store


def store_at(uri: str, storage_options: StorageOptions, version: int | None) -> Store:
    """The store at a version that was just made: its cells do not name it."""
    return _reopened(uri, storage_options, version, None)


def _reopened(
    uri: str, storage_options: StorageOptions, version: int | None, pinned: int | None
) -> Store:
    """The store at a version, whose cells name it only where it was asked for."""
    store = Store(uri, storage_options, version)
    store._pinned = pinned
    return store
