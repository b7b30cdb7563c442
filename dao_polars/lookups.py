"""What an expression asks of cells, made a lookup in an open store.

Owns the text that goes through polars to the plugin and what it means: the store, the columns of
each dataset, and the stores kept open between the plugin's calls. Called by the Rust side, at plan
time and for every piece of a column; knows no expressions and no values.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ._core import Lookup
from .cell import NAME, Cell
from .errors import DaoKeyError, DaoTypeError, DaoValueError
from .genes import FeatureSpace, refuse_ambiguous, refuse_unknown
from .selection import matrix_name, open_of
from .spaces import Entry, by_space, space_of
from .store import Store

__all__ = ["Ask", "forget", "report", "resolve"]

#: Says at DEBUG how cells were looked up: by rows, by the gene index, from totals.
LOGGER = logging.getLogger("dao_polars")

_STORES = 8  # kept open
_LOOKUPS = 64  # kept for each
_TOTALS = ["total_counts", "n_genes_by_counts"]

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


class _Resolver:
    """An ask, in a store: which columns of each dataset it means."""

    def __init__(self, store: Store, ask: Ask) -> None:
        self.store, self.ask = store, ask
        self.entries: dict[int, Entry] = {e["number"]: e for e in store.manifest["datasets"]}
        self.known: dict[str, NDArray[Any]] = {}
        if ask.sets is None:
            self._check_genes()
        else:
            self._check_sets()

    def lookup(self) -> Lookup:
        ask = self.ask
        target_sum, log1p = ask.normalize or (None, False)
        names = list(ask.names)
        if ask.sets is not None:
            names = [*_TOTALS, *(f"{kind}_{n}" for n in ask.sets for kind in _OF_SETS)]
        return Lookup(
            self.store.core,
            self.describe,
            shape=ask.shape,
            names=names,
            width=len(ask.names) if ask.sets is None else 2 + len(ask.sets),
            matrix=matrix_name(ask.layer),
            dtype=self._dtype(),
            target_sum=target_sum,
            log1p=log1p,
        )

    def describe(self, number: int) -> NDArray[Any]:
        """What is asked of a dataset, as `Lookup` wants it."""
        entry = self.entries[number]
        key = entry["var_id"] if self._by_name else entry["id"]
        if key not in self.known:
            self.known[key] = self._masks(entry) if self.ask.sets is not None else self._at(entry)
        return self.known[key]

    @cached_property
    def _by_name(self) -> bool:
        """Whether datasets with one var index are asked alike."""
        of_var = any(isinstance(rule, Mapping) for rule in (self.ask.sets or {}).values())
        return self.ask.gene_key is None and not of_var

    def _at(self, entry: Entry) -> NDArray[np.int64]:
        """For each gene its column, -1 where the dataset has none."""
        space = space_of(self.store, [entry], self.ask.gene_key)
        wanted = pl.Series("name", self.ask.names, dtype=pl.String)
        refuse_ambiguous(space, wanted)
        genes = pl.DataFrame({"name": space.names}).with_row_index("at").filter(
            pl.col("name").is_in(self.ask.names)
        )
        found = pl.DataFrame({"name": wanted}).join(
            genes, on="name", how="left", maintain_order="left"
        )
        return found["at"].cast(pl.Int64).fill_null(-1).to_numpy()

    def _masks(self, entry: Entry) -> NDArray[np.uint64]:
        """For each gene a bit for each set that it is in."""
        var = self.store.var(entry["id"])
        names = space_of(self.store, [entry], self.ask.gene_key).names
        masks = np.zeros(len(var), np.uint64)
        for bit, (name, rule) in enumerate((self.ask.sets or {}).items()):
            masks |= _members(name, rule, var, names, entry).astype(np.uint64) << np.uint64(bit)
        return masks

    def _check_genes(self) -> None:
        """Every gene is in some dataset of the store; looks at no more of them than that needs."""
        left, spaces = set(self.ask.names), []
        for members in by_space(self._with_key(), self.ask.gene_key):
            if not left:
                return
            spaces.append(space_of(self.store, members, self.ask.gene_key))
            left -= set(spaces[-1].names.filter(spaces[-1].names.is_in(list(left))))
        wanted = pl.Series("name", self.ask.names, dtype=pl.String)
        refuse_unknown(wanted, spaces or [FeatureSpace((), pl.Series([], dtype=pl.String))])

    def _check_sets(self) -> None:
        for entry in self._with_key()[:1]:
            self.describe(entry["number"])
        for rule in (self.ask.sets or {}).values():
            if isinstance(rule, list):
                _Resolver(self.store, replace(self.ask, shape="array", names=rule, sets=None))

    def _with_key(self) -> list[Entry]:
        """The datasets that can be asked."""
        entries, key = list(self.entries.values()), self.ask.gene_key
        if key is None:
            return entries
        having = [e for e in entries if key in self.store.var(e["id"]).columns]
        if not having and entries:
            space_of(self.store, entries[:1], key)  # says what there is
        return having

    def _dtype(self) -> str:
        if self.ask.sets is not None:
            return "float64"
        if self.ask.dtype is not None:
            return self.ask.dtype
        return _stored(self.store, self.ask.layer, list(self.entries.values()))


_OF_SETS = ("total_counts", "pct_counts")


def _members(
    name: str, rule: Any, var: pl.DataFrame, names: pl.Series, entry: Entry
) -> NDArray[np.bool_]:
    try:
        if isinstance(rule, str):
            members = names.str.contains(rule)
        elif isinstance(rule, list):
            members = names.is_in(rule)
        else:
            expr = pl.Expr.deserialize(rule["expr"].encode(), format="json")
            members = var.select(expr.alias(name)).to_series()
    except pl.exceptions.ColumnNotFoundError as error:
        raise DaoKeyError(
            f"gene set {name!r}: dataset {entry['id']!r} has no such column of var: {error}; its "
            f"columns: {', '.join(map(repr, var.columns))}"
        ) from error
    except pl.exceptions.PolarsError as error:
        raise DaoValueError(f"gene set {name!r}, {rule!r}: {error}") from error
    if members.dtype != pl.Boolean or len(members) != len(var):
        raise DaoTypeError(
            f"gene set {name!r}: expected a Boolean for each of {len(var)} genes of dataset "
            f"{entry['id']!r}, found {len(members)} of {members.dtype}"
        )
    return members.fill_null(False).to_numpy().astype(np.bool_)


def _stored(store: Store, layer: str | None, entries: list[Entry]) -> str:
    """The number type that holds every stored value of a matrix, in all datasets that have it."""
    name = matrix_name(layer)
    if name == "X":
        found = [entry["dtype"] for entry in entries]
    else:
        metas = [json.loads(store.core.dataset_meta(entry["id"])) for entry in entries]
        matrices = [meta.get("matrices", {}) for meta in metas]
        found = [known[name]["dtype"] for known in matrices if name in known]
        if not found:
            here = sorted({n for known in matrices for n in known if n.startswith("layers/")})
            raise DaoKeyError(
                f"no dataset has layer {layer!r}; there are: "
                f"{', '.join(repr(n.removeprefix('layers/')) for n in here) or 'none'}"
            )
    return str(np.result_type(*(np.dtype(dtype) for dtype in found)).name) if found else "float32"


# --- stores kept open between calls


@dataclass
class _Open:
    store: Store
    stamp: object
    lookups: OrderedDict[str, Lookup]


_open_stores: OrderedDict[tuple[str, str, str | None], _Open] = OrderedDict()
_lock = threading.Lock()


def resolve(metadata: str, ask: str, fresh: bool) -> tuple[Lookup, bool]:
    """What an ask means in the store that a cell type's metadata names.

    Args:
        metadata: of the column's type, JSON.
        ask: [`Ask`][] as JSON.
        fresh: open the store anew.

    Returns:
        The lookup, and whether [`report`][] is to be told how it went.

    Raises:
        DaoError: another store, or none; unknown genes, layer, column of var.
    """
    cell = Cell.ext_from_params(NAME, pl.UInt64(), metadata)
    asked = json.loads(ask)
    key = (cell.uri, cell.id, asked["store"])
    with _lock:
        known = _open_stores.get(key)
        if known is None or fresh or known.stamp != _stamp(known.store):
            store = open_of(cell.uri, cell.id, asked["store"])
            known = _Open(store, _stamp(store), OrderedDict())
            _open_stores[key] = known
            while len(_open_stores) > _STORES:
                _open_stores.popitem(last=False)
        _open_stores.move_to_end(key)
        if ask not in known.lookups:
            normalize = asked["normalize"] and tuple(asked["normalize"])
            resolver = _Resolver(known.store, Ask(**{**asked, "normalize": normalize}))
            known.lookups[ask] = resolver.lookup()
            while len(known.lookups) > _LOOKUPS:
                known.lookups.popitem(last=False)
        known.lookups.move_to_end(ask)
        return known.lookups[ask], LOGGER.isEnabledFor(logging.DEBUG)


def report(names: list[str], n_cells: int, roads: list[str]) -> None:
    """Logs how cells were looked up."""
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    LOGGER.debug("%s for %d cells; datasets: %s", shown, n_cells, ", ".join(roads) or "none")


def forget() -> None:
    """Lets go of the stores that are kept open."""
    _open_stores.clear()


os.register_at_fork(after_in_child=forget)


def _stamp(store: Store) -> object:
    """Changes when a local store's datasets do; that remote ones grew shows in unknown keys."""
    if not store.is_local:
        return None
    files = ["dao.json"]
    if store.core.legacy:
        files = [".", *(f"{e['path']}/zarr/X/.zarray" for e in store.manifest["datasets"])]
    stamps = []
    for file in files:
        try:
            found = os.stat(store.path_of(file))
        except OSError:
            return object()  # equal to nothing: opening says what is wrong
        stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
    return stamps
