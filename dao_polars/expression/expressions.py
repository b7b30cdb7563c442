"""Expressions on the column ``cell``: a gene's values, many genes', quality control.

Owns the public functions and the expression namespace, and what they tell the plugin: all of a
request, so that it asks nobody. What it means is the Rust core's to say.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import polars as pl
from polars.plugins import register_plugin_function

from .. import _core
from .._args import Normalize, namespace_method, normalization
from ..errors import DaoTypeError, DaoValueError
from ..genes.ontology import is_a
from ..genes.request import Duplicates, each_once, gene_names
from ..scan.cell import COLUMN
from ..select.selection import StoreLike as Known
from ..select.selection import matrix_name, number_type
from ..store.several import Place, listed
from ..store.store import Store, as_uri, load_store
from .lookup import Lookup, call
from .reports import log_if_wanted

_PLUGIN = Path(str(_core.__file__))
_MAX_SETS = 64

StoreLike = Known | None


@pl.api.register_expr_namespace("dao")
class DaoExpr:
    """What a column can become; all but ``is_a`` are of a column of cell keys."""

    def __init__(self, expr: pl.Expr) -> None:
        self._subject = expr

    def __repr__(self) -> str:
        return f"DaoExpr of {self._subject}: gene, genes, qc, is_a"

    def gene(
        self,
        name: str,
        *,
        layer: str | None = None,
        gene_key: str | None = None,
        duplicates: Duplicates = "error",
        normalize: Normalize = None,
        dtype: Any = "float32",
        store: StoreLike = None,
    ) -> pl.Expr:
        """Each cell's value of a gene, read from the store when the query needs it.

        ``pl.col("cell").dao.gene(…)`` is the same for a column of another name. Elementwise:
        filters and ``head`` go first, and only cells that are left are read. Each gene is a pass
        over these cells: for several, ``dao.genes`` takes one.

        Args:
            name: as in the var index, or in ``gene_key``.
            layer: a layer's name; None: X.
            gene_key: the column of var that holds ``name``; None: its index.
            duplicates: what a name means that several genes of a dataset have: an ``"error"``; the
                ``"first"`` of them; the ``"sum"`` of their values (before ``normalize``); or
                ``"drop"``: none.
            normalize: what is done to the values, cell by cell, as scanpy does:
                ``"log1p_cp10k"`` (a total of 10,000, then log(1 + x)), ``"cp10k"``,
                ``"log1p_cpm"`` (a million), ``"cpm"``, ``"log1p"``, or
                ``{"target_sum": …, "log1p": …}``. A cell's total is over all its genes.
            dtype: of the column. An integer that it cannot hold exactly is an error. None: the
                stored type, that of all datasets together when the query is planned.
            store: where the store is now, if it moved; of cells of several stores all of theirs.

        Returns:
            Numbers, named as the gene. Null for a null key, and where the cell's dataset has no
            such gene.

        Raises:
            DaoTypeError, DaoValueError: now, for bad arguments.
            polars.exceptions.ComputeError: from ``collect_schema`` and ``collect``, with our
                message (polars knows no errors of plugins): a gene that no dataset has, no column
                of cell keys, another store. Only from ``collect``: a name that several genes have,
                a damaged file.
        """
        if not isinstance(name, str):
            raise DaoTypeError(f"gene {name!r}; expected a name (str). For several: dao.genes([…])")
        settings = _settings(layer, gene_key, duplicates, normalize, dtype, store)
        found = self._look_up("one", names=gene_names([name]), **settings).alias(name)
        return self._shown("gene", found, name, settings | {"normalize": normalize})

    def genes(
        self,
        names: Iterable[str] | pl.Series,
        *,
        as_array: bool = False,
        layer: str | None = None,
        gene_key: str | None = None,
        duplicates: Duplicates = "error",
        normalize: Normalize = None,
        dtype: Any = "float32",
        store: StoreLike = None,
    ) -> pl.Expr:
        """Each cell's values of several genes, in one pass.

        Args:
            names: each once.
            as_array: arrays instead of structs.
            layer: a layer's name; None: X.
            gene_key: the column of var that holds the names; None: its index.
            duplicates: what a name means that several genes of a dataset have: an ``"error"``; the
                ``"first"`` of them; the ``"sum"`` of their values; or ``"drop"``: none.
            normalize: what is done to the values, cell by cell, such as ``"log1p_cp10k"``; see
                ``gene``.
            dtype: of the values. An integer that it cannot hold exactly is an error. None: the
                stored type.
            store: where the store is now, if it moved.

        Returns:
            A struct ``genes`` with a field for each, in the order of ``names`` (``unnest`` makes
            them columns); or ``Array`` of that width, which ``to_numpy`` gives as
            ``(cells, genes)`` without a copy. Nulls as in ``gene``.

        Raises:
            As ``gene``.
        """
        if isinstance(names, str):
            raise DaoTypeError(f"genes {names!r}; expected a list of names. For one: dao.gene(…)")
        wanted = each_once(gene_names(names))
        if not wanted:
            raise DaoValueError("genes=[] names no gene")
        settings = _settings(layer, gene_key, duplicates, normalize, dtype, store)
        shape = "array" if as_array else "struct"
        found = self._look_up(shape, names=wanted, **settings).alias("genes")
        shown = {"as_array": as_array or None, **settings, "normalize": normalize}
        return self._shown("genes", found, wanted, shown)

    def qc(
        self,
        sets: Mapping[str, str | Iterable[str] | pl.Expr] | Iterable[str] | None = None,
        *,
        layer: str | None = None,
        gene_key: str | None = None,
        prefix: str = "",
        store: StoreLike = None,
    ) -> pl.Expr:
        """Each cell's quality control figures, as scanpy's ``calculate_qc_metrics`` has them.

        Without ``sets`` they are those that were kept when the dataset was written.

        Args:
            sets: sets of genes by name, such as ``{"mt": "^MT-"}``: a regular expression for their
                names, the names themselves, or a Boolean column of var (``pl.col("mt")``). Or names
                of such columns. With ``store=`` any Boolean expression over the columns of var.
                Genes of one name are in a set together.
            layer: a layer's name; None: X.
            gene_key: the column of var that holds the names of genes; None: its index.
            prefix: what the names of the struct's fields begin with, where obs has columns of
                these names: ``with_columns(dao.qc(prefix="qc_")).unnest("qc")``.
            store: where the store is now, if it moved; or whose var an expression in ``sets`` is
                of.

        Returns:
            A struct ``qc``: ``total_counts`` (Float64), ``n_genes_by_counts`` (UInt32, of genes
            that are not zero), and for each set ``total_counts_<set>`` and ``pct_counts_<set>``
            (Float64, in percent; NaN for a cell of zeros). Null for a null key; a set's fields also
            where the cell's dataset has none of its genes.

        Raises:
            As ``gene``; a listed gene that no dataset has is an error too, and so is a regular
            expression that finds none.
        """
        if not isinstance(prefix, str):
            raise DaoTypeError(f"prefix={prefix!r}; expected text")
        settings = _settings(layer, gene_key, "error", None, "float64", store)
        found = self._look_up("sums", sets=_sets(sets, store), **settings)
        if prefix:
            found = found.name.prefix_fields(prefix)
        named = settings | {"dtype": "float32", "prefix": prefix or None}
        return self._shown("qc", found.alias("qc"), sets, named)

    is_a = namespace_method(is_a)

    def _shown(self, name: str, expr: pl.Expr, first: Any, settings: dict[str, Any]) -> pl.Expr:
        usual = {"duplicates": "error", "dtype": "float32", "normalize": None}
        given = {k: v for k, v in settings.items() if v is not None and v != usual.get(k)}
        return Lookup.of(expr, call(name, self._subject, first, given))

    def _look_up(self, shape: str, **request: Any) -> pl.Expr:
        log_if_wanted()
        inputs = [self._subject]
        if request["dtype"] is None:
            # Polars finds this type when it plans a query, so it stays while the store changes.
            one = {**request, "shape": "one", "names": request["names"][:1]}
            inputs.append(pl.lit(None).cast(pl.dtype_of(_plugin(inputs, one))))
        return _plugin(inputs, {**request, "shape": shape})


def _plugin(inputs: list[pl.Expr], request: dict[str, Any]) -> pl.Expr:
    return register_plugin_function(
        plugin_path=_PLUGIN,
        function_name="dao_lookup",
        args=inputs,
        kwargs=request,
        is_elementwise=True,
    )


#: The same of the column ``cell``.
_cells = DaoExpr(pl.col(COLUMN))
gene, genes, qc = _cells.gene, _cells.genes, _cells.qc


def _settings(
    layer: str | None,
    gene_key: str | None,
    duplicates: Duplicates,
    normalize: Normalize,
    dtype: Any,
    store: StoreLike,
) -> dict[str, Any]:
    matrix_name(layer)
    if duplicates not in get_args(Duplicates):
        known = ", ".join(map(repr, get_args(Duplicates)))
        raise DaoValueError(f"duplicates={duplicates!r}; expected one of {known}")
    if gene_key is not None and not isinstance(gene_key, str):
        raise DaoTypeError(f"gene_key={gene_key!r}; expected the name of a column of var, or None")
    if dtype is None and normalize is not None:
        raise DaoValueError("normalize= gives no stored values; leave dtype as it is")
    named = None if dtype is None else number_type(dtype)
    return {
        "layer": layer,
        "gene_key": gene_key,
        "duplicates": duplicates,
        "normalize": normalization(normalize, named or "float32"),
        "dtype": named,
        "store": None if store is None else _places(store),
    }


def _places(store: Known) -> list[str]:
    """Where a store is, or several are, for a query that is planned later."""
    if isinstance(store, Store):
        return [member.uri for member in store.stores]
    uris = [as_uri(place) for place in listed(store) or [cast(Place, store)]]
    # Maybe from another working directory.
    return [uri if "://" in uri else os.path.abspath(uri) for uri in uris]


def _sets(sets: Any, store: StoreLike) -> list[dict[str, Any]]:
    """Sets of genes as the plugin takes them."""
    if sets is None:
        return []
    if isinstance(sets, str) or not isinstance(sets, Iterable):
        raise DaoTypeError(f"sets={sets!r}; expected sets of genes by name, or columns of var")
    named = sets if isinstance(sets, Mapping) else {name: pl.col(name) for name in sets}
    if len(named) > _MAX_SETS:
        raise DaoValueError(f"sets= has {len(named)} sets; expected at most {_MAX_SETS}")
    return [_set(name, rule, store) for name, rule in named.items()]


def _set(name: Any, rule: Any, store: StoreLike) -> dict[str, Any]:
    if not isinstance(name, str):
        raise DaoTypeError(f"sets= holds {name!r}; expected names (str)")
    if isinstance(rule, str):
        return {"name": name, "pattern": gene_names([rule])[0]}
    if not isinstance(rule, pl.Expr):
        return {"name": name, "names": each_once(gene_names(rule))}
    if rule.meta.is_column():
        return {"name": name, "column": rule.meta.output_name()}
    if store is None:
        raise DaoValueError(
            f"gene set {name!r} is an expression over columns of var, which says nothing before it "
            "is known whose: pass store=, or a regular expression, names, or a Boolean column"
        )
    opened = store if isinstance(store, Store) else load_store(store)
    members = {
        dataset: _members(name, rule, opened.var(dataset), dataset)
        for dataset in opened._by_dataset
    }
    if members and all("refused" in found for found in members.values()):
        raise DaoValueError(f"gene set {name!r}: {next(iter(members.values()))['refused']}")
    return {"name": name, "members": members}


def _members(name: str, rule: pl.Expr, var: pl.DataFrame, dataset: str) -> dict[str, Any]:
    """For which genes of a dataset an expression over var is true, or why that cannot be said."""
    try:
        found = var.select(rule.alias(name)).to_series()
    except pl.exceptions.PolarsError as error:
        return {"refused": f"var of dataset {dataset!r}: {error}"}
    if found.dtype != pl.Boolean or len(found) != len(var):
        why = f"expected a Boolean for each of {len(var)} genes, found {len(found)} {found.dtype}"
        return {"refused": f"var of dataset {dataset!r}: {why}"}
    return {"columns": np.flatnonzero(found.fill_null(False).to_numpy()).tolist()}
