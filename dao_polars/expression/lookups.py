"""What an expression asks of cells, made a lookup in an open store.

Owns the text that goes through polars to the plugin and what it means: the store, the columns of
each dataset, and the stores kept open between queries. Called by the Rust side when a query is
planned; knows no expressions and no values.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from .._core import Dataset, Lookup
from ..errors import DaoError, DaoKeyError, DaoTypeError, DaoValueError
from ..genes.request import FeatureSpace, refuse_ambiguous, refuse_unknown
from ..genes.spaces import by_space, space_of
from ..scan.cell import NAME, Cell
from ..select.selection import matrix_name, open_of, stored_types
from ..store.store import Store

__all__ = ["Ask", "forget", "report", "resolve"]

#: Says at DEBUG how cells were looked up: by rows, by the gene index, from totals.
LOGGER = logging.getLogger("dao_polars")

_STORES = 8  # kept open
_LOOKUPS = 4096  # kept for each: more than a query has
_SPACES = 32  # whose names are kept, for each
_TOTALS = ["total_counts", "n_genes_by_counts"]

K = TypeVar("K")
V = TypeVar("V")
Shape = Literal["one", "struct", "array", "sums"]


@dataclass(frozen=True)
class Ask:
    """What is asked of each cell, as JSON has it.

    ``names``: genes, or sets of genes. ``sets``: by name a regular expression, a list of names, or
    (``{"expr": …}``) an expression over var, serialized. ``dtype``: None for the stored type.
    """

    shape: Shape
    names: list[str]
    layer: str | None = None
    gene_key: str | None = None
    normalize: tuple[float | None, bool] | None = None
    dtype: str | None = "float32"
    sets: Mapping[str, Any] | None = None
    store: str | None = None

    def to_json(self) -> str:
        """The text; the same for equal asks."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)


class _Names:
    """The names of a feature space, and where each is."""

    def __init__(self, space: FeatureSpace) -> None:
        self.space = space
        self.at: dict[str, int] = {}
        self.repeated: set[str] = set()
        for at, name in enumerate(space.names.to_list()):
            if name is not None and self.at.setdefault(name, at) != at:
                self.repeated.add(name)


class _Resolver:
    """An ask, in a store: which columns of each dataset it means."""

    def __init__(self, opened: _Open, ask: Ask) -> None:
        self.opened, self.store, self.ask = opened, opened.store, ask
        self.failed = False  # to read something, which may pass
        if self.store._core.has_sfaira_tables:
            _need_polars("a store of sfaira's")
        self.entries: list[Dataset] = list(self.store._core.datasets)

    def lookup(self) -> Lookup:
        ask = self.ask
        target_sum, log1p = ask.normalize or (None, False)
        names = list(ask.names)
        if ask.sets is not None:
            names = [*_TOTALS, *(f"{kind}_{n}" for n in ask.sets for kind in _OF_SETS)]
        return Lookup(
            self.store._core,
            self._parts(),
            shape=ask.shape,
            names=names,
            width=len(ask.names) if ask.sets is None else 2 + len(ask.sets),
            matrix=matrix_name(ask.layer),
            dtype=self._dtype(),
            target_sum=target_sum,
            log1p=log1p,
        )

    def _parts(self) -> list[tuple[list[int], Any]]:
        """What is asked of datasets, or why nothing can be: told where their cells are met."""
        self._check_layer()
        if self.ask.gene_key is not None:
            self._check_key()
        found: set[str] = set()
        parts: list[tuple[list[int], Any]] = []
        for members in self._groups():
            try:
                if self.ask.sets is not None:
                    asked: Any = self._masks(members)
                else:
                    asked = self._at(members)
                    found.update(n for n, at in zip(self.ask.names, asked, strict=True) if at >= 0)
            except (DaoKeyError, DaoTypeError, DaoValueError) as error:
                asked = str(error)
            except DaoError as error:
                asked, self.failed = str(error), True
            parts.append(([entry.number for entry in members], asked))
        if set(self.ask.names) - found:
            self._refuse(self.ask.names)
        if self.ask.sets:
            self._check_sets(parts)
        return parts

    def _groups(self) -> list[list[Dataset]]:
        if any(isinstance(rule, Mapping) for rule in (self.ask.sets or {}).values()):
            return [[entry] for entry in self.entries]
        return by_space(self.store, self.entries, self.ask.gene_key)

    def _names(self, members: list[Dataset]) -> _Names:
        """Names of genes; none where a dataset has no such column of var."""
        entry, column = members[0], self.ask.gene_key
        known = self.opened.names.get((entry.name, column))
        if known is None:
            known = _Names(self._space(members))
            self.opened.names.put((entry.name, column), known)
        return known

    def _space(self, members: list[Dataset]) -> FeatureSpace:
        if self._has_key(members[0]):
            return space_of(self.store, members, self.ask.gene_key)
        names = pl.Series("var_name", [None] * members[0].n_vars, dtype=pl.String)
        return FeatureSpace((members[0].name,), names)

    def _has_key(self, entry: Dataset) -> bool:
        key = self.ask.gene_key
        if key is None or (
            not self.store._core.has_sfaira_tables
            and self.store._core.var_text(entry.name, key) is not None
        ):
            return True
        _need_polars(f"gene_key={key!r}, which is no column of text in every dataset,")
        return key in self.store.var(entry.name).columns

    def _at(self, members: list[Dataset]) -> NDArray[np.int64]:
        """For each gene its column, -1 where the datasets have none."""
        names = self._names(members)
        if not names.repeated.isdisjoint(self.ask.names):
            refuse_ambiguous(names.space, pl.Series("name", self.ask.names, dtype=pl.String))
        return np.array([names.at.get(name, -1) for name in self.ask.names], np.int64)

    def _masks(self, members: list[Dataset]) -> NDArray[np.uint64]:
        """For each gene a bit for each set that it is in."""
        names, entry = self._names(members).space.names.to_list(), members[0]
        masks = np.zeros(len(names), np.uint64)
        for bit, (name, rule) in enumerate((self.ask.sets or {}).items()):
            if isinstance(rule, Mapping):
                _need_polars("a set of genes by an expression")
                member = _selected(name, rule["expr"], self.store.var(entry.name), entry)
            else:
                member = _named(name, rule, names)
            masks |= member.astype(np.uint64) << np.uint64(bit)
        return masks

    def _check_key(self) -> None:
        key = self.ask.gene_key
        if self.entries and not any(map(self._has_key, self.entries)):
            space_of(self.store, list(self.entries[:1]), key)  # says what there is

    def _check_sets(self, parts: list[tuple[list[int], Any]]) -> None:
        """Sets that mean something nowhere."""
        refused = [asked for _, asked in parts if isinstance(asked, str)]
        if refused and len(refused) == len(parts):
            raise DaoValueError(refused[0])
        for bit, (name, rule) in enumerate((self.ask.sets or {}).items()):
            if isinstance(rule, list):
                known = {n for members in self._groups() for n in self._names(members).at}
                if set(rule) - known:
                    self._refuse(rule)
            elif isinstance(rule, str):
                masks = [asked for _, asked in parts if not isinstance(asked, str)]
                if not any((mask >> np.uint64(bit) & np.uint64(1)).any() for mask in masks):
                    raise DaoValueError(
                        f"gene set {name!r}: no gene of any dataset matches {rule!r}; names are "
                        "matched as they are, and gene_key= picks another column of var"
                    )

    def _refuse(self, names: list[str]) -> None:
        wanted = pl.Series("name", names, dtype=pl.String)
        spaces = [self._names(members).space for members in self._groups()]
        nowhere = FeatureSpace((), pl.Series([], dtype=pl.String))
        refuse_unknown(wanted, spaces or [nowhere])

    def _check_layer(self) -> None:
        layer = self.ask.layer
        if layer is None or layer == "X":
            return
        there = {name for entry in self.entries for name in entry.layers}
        if layer not in there:
            known = ", ".join(map(repr, sorted(there))) or "none"
            raise DaoKeyError(f"no dataset has a layer {layer!r}; there are: {known}")

    def _dtype(self) -> str:
        if self.ask.sets is not None:
            return "float64"
        if self.ask.dtype is not None:
            return self.ask.dtype
        found = stored_types(self.store, self.entries, matrix_name(self.ask.layer))
        return str(np.result_type(*found).name) if found else "float32"


_OF_SETS = ("total_counts", "pct_counts")


def _named(name: str, rule: str | list[str], names: list[str | None]) -> NDArray[np.bool_]:
    """Which genes a regular expression finds, or a list names."""
    if isinstance(rule, list):
        listed = set(rule)
        return np.array([n in listed for n in names], np.bool_)
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise DaoValueError(
            f"gene set {name!r}: {rule!r} is no regular expression: {error}"
        ) from error
    return np.array([n is not None and bool(pattern.search(n)) for n in names], np.bool_)


def _selected(name: str, text: str, var: pl.DataFrame, entry: Dataset) -> NDArray[np.bool_]:
    """For which genes an expression over var is true."""
    expr = pl.Expr.deserialize(text.encode(), format="json")
    missing = [c for c in expr.meta.root_names() if c not in var.columns]
    if missing:
        raise DaoKeyError(
            f"gene set {name!r}: dataset {entry.name!r} has no such column of var: "
            f"{missing[0]!r}; its columns: {', '.join(map(repr, var.columns))}"
        )
    try:
        members = var.select(expr.alias(name)).to_series()
    except pl.exceptions.PolarsError as error:
        raise DaoValueError(f"gene set {name!r}: {error}") from error
    if members.dtype != pl.Boolean or len(members) != len(var):
        raise DaoTypeError(
            f"gene set {name!r}: expected a Boolean for each of {len(var)} genes of dataset "
            f"{entry.name!r}, found {len(members)} of {members.dtype}"
        )
    return members.fill_null(False).to_numpy().astype(np.bool_)


# --- stores kept open between queries


class _Recent(Generic[K, V]):
    """What was used last.

    Its lock is not held for any work, which might wait for those who wait for the lock.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: K, value: V) -> None:
        with self._lock:
            self._kept[key] = value
            self._kept.move_to_end(key)
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)


class _Open:
    def __init__(self, store: Store) -> None:
        self.store, self.stamp = store, _stamp(store)
        self.lookups: _Recent[str, Lookup] = _Recent(_LOOKUPS)
        self.names: _Recent[tuple[str, str | None], _Names] = _Recent(_SPACES)


_stores: _Recent[tuple[str, str, str | None], _Open] = _Recent(_STORES)


def resolve(metadata: str, ask: str, known: bool) -> tuple[Lookup, bool] | None:
    """What an ask means in the store that a cell type's metadata names, as it is now.

    Called when a query is planned: on the caller's thread, or on one of polars'
    (``collect_batches``, ``collect_async``, the store's own IO source), where nothing may be asked
    of polars.

    Args:
        metadata: of the column's type, JSON.
        ask: [`Ask`][] as JSON.
        known: whether it was resolved before.

    Returns:
        The lookup, and whether [`report`][] is to be told how it went; None: as it was before.

    Raises:
        DaoError: another store, or none; unknown genes, layer, column of var.
    """
    if known and _on_foreign_thread():
        return None
    cell = Cell.ext_from_params(NAME, pl.UInt64(), metadata)
    asked = json.loads(ask)
    key = (cell.uri, cell.id, asked["store"])
    opened = _stores.get(key)
    if opened is None or opened.stamp != _stamp(opened.store):
        now = _Open(open_of(cell.uri, cell.id, asked["store"]))
        if opened is not None and _listed(opened.store) == _listed(now.store):
            opened.stamp = now.stamp  # the same datasets: what is open of them stays so
        else:
            opened = now
            _stores.put(key, opened)
    lookup = opened.lookups.get(ask)
    if lookup is None:
        normalize = asked["normalize"] and tuple(asked["normalize"])
        resolver = _Resolver(opened, Ask(**{**asked, "normalize": normalize}))
        lookup = resolver.lookup()
        if not resolver.failed:
            opened.lookups.put(ask, lookup)
    return lookup, LOGGER.isEnabledFor(logging.DEBUG)


def _listed(store: Store) -> list[tuple[object, ...]]:
    return [(d.number, d.name, d.n_obs, d.n_vars, d.bytes) for d in store._core.datasets]


def report(names: list[str], n_cells: int, roads: list[str]) -> None:
    """Logs how cells were looked up."""
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    LOGGER.debug("%s for %d cells; datasets: %s", shown, n_cells, ", ".join(roads) or "none")


def _on_foreign_thread() -> bool:
    """Whether this is no thread of Python's, but maybe one of polars' that Python came to."""
    return isinstance(threading.current_thread(), threading._DummyThread)


def _need_polars(what: str) -> None:
    """Polars, asked on a thread of its own, may wait for that thread, or come back into Python."""
    if _on_foreign_thread():
        raise DaoValueError(
            f"{what} is looked up by polars, which cannot be done on the thread that this query is "
            "planned on (as by collect_batches or collect_async); call collect_schema() on the "
            "frame first"
        )


def forget() -> None:
    """Lets go of the stores that are kept open, so that the next query opens them anew."""
    global _stores
    _stores = _Recent(_STORES)


# In a child a lock may be held by a thread that is not there.
os.register_at_fork(after_in_child=forget)


def _stamp(store: Store) -> object:
    """Changes when a local store's datasets do; of remote ones every minute."""
    if "://" in store.uri:
        return time.monotonic() // 60
    files = ["dao.json"]
    if store._core.has_sfaira_tables:
        files = [".", *(f"{e.path}/zarr/X/.zarray" for e in store._core.datasets)]
    stamps = []
    for file in files:
        try:
            found = os.stat(f"{store.uri}/{file}")
        except OSError:
            return object()  # equal to nothing: opening says what is wrong
        stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
    return stamps
