"""The commands that look at a store: info, ls, versions, verify."""

from __future__ import annotations

import textwrap
from typing import Any

import polars as pl

from .._core import MatrixName
from ..scan.dtypes import dtype_name
from ..store.show import human_size
from ..store.store import Store, load_store
from .output import Output, count, shown, table
from .parser import Command, Parser, add_version


def _opened(arguments: Any) -> Store:
    return load_store(
        arguments.store, storage_options=arguments.storage_options, version=arguments.at
    )


def _named(store: Store) -> dict[str, Any]:
    """Which store, at which version, as documents begin."""
    return {"store": store.uri, "version": store.version}


def _info(arguments: Any, output: Output) -> int:
    store = _opened(arguments)
    if arguments.dataset is not None:
        return _dataset_info(store, arguments.dataset, output)
    if not output.as_json:
        output.lines([repr(store)])
        return 0
    output.document(
        {
            **_named(store),
            "id": store.id,
            "n_obs": store.n_obs,
            "bytes": _size(store),
            "datasets": store.datasets.rows(named=True),
            "columns": [
                {"name": name, "type": _type(dtype), "categories": _n_categories(dtype)}
                for name, dtype in store.schema.items()
            ],
        }
    )
    return 0


def _size(store: Store) -> int:
    return sum(store.datasets["bytes"].to_list())


def _type(dtype: pl.DataType) -> str:
    """A type's name; of an Enum without its categories, which may be thousands."""
    is_named = isinstance(dtype, pl.Datetime | pl.Duration)
    return dtype_name(dtype) if is_named else str(dtype.base_type())


def _n_categories(dtype: pl.DataType) -> int | None:
    return len(dtype.categories) if isinstance(dtype, pl.Enum) else None


def _dataset_info(store: Store, name: str, output: Output) -> int:
    parts = store._dataset(name)
    row = store.datasets.row(by_predicate=pl.col("id") == name, named=True)
    scanned = [part for part in store._scanned.parts if part.name == name]
    obs = {n: _type(c.dtype) for part in scanned for n, c in part.columns.items()}
    var = {n: _type(dtype) for n, dtype in store.var(name).schema.items()}
    matrices = store._core.description(parts[0].number).matrices
    layers = list(dict.fromkeys(layer for part in parts for layer in part.layers))
    names = dict.fromkeys(embedding for part in parts for embedding in part.obsm)
    widths = {str(key.name): matrix.shape[1] for key, matrix in matrices.items()}
    document = {
        **_named(store),
        **row,
        "dtype": matrices[MatrixName.X].source_dtype,
        "parts": len(parts),
        "obs": obs,
        "var": var,
        "layers": layers,
        "obsm": {n: widths.get(n) for n in names},
        "uns": list(map(str, store.uns(name))),
        "gene_index": store.has_gene_index(name),
    }
    output.lines(_dataset_lines(document))
    output.document(document)
    return 0


def _dataset_lines(d: dict[str, Any]) -> list[str]:
    version = "" if d["version"] is None else f", version {d['version']}"
    size = f"{d['n_obs']:,} cells × {d['n_vars']:,} genes"
    nnz = "" if d["nnz"] is None else f", {d['nnz']:,} stored values"
    written = "" if d["parts"] == 1 else f", written at {d['parts']} times"
    fields = {
        "organism": [d["organism"]] if d["organism"] else [],
        "X": [f"{d['layout']} of {d['dtype']}{nnz}, {human_size(d['bytes'])}{written}"],
        "obs": [f"{n} ({kind})" for n, kind in d["obs"].items()],
        "var": [f"{n} ({kind})" for n, kind in d["var"].items()],
        "layers": d["layers"],
        "obsm": [f"{n} ({'?' if w is None else w} columns)" for n, w in d["obsm"].items()],
        "uns": d["uns"],
        "gene index": ["yes" if d["gene_index"] else "no"],
    }
    lines = [f"Dataset {d['id']!r} of {d['store']!r}{version}: {size}"]
    for name, values in fields.items():
        # A column and its type stay on one line: textwrap does not break at \xa0.
        joined = ", ".join(shown(value).replace(" ", "\xa0") for value in values) or "none"
        joined = joined if len(values) > 1 else joined.replace("\xa0", " ")
        label = f"{name + ':':<12}"
        lines.append(
            textwrap.fill(
                label + joined,
                100,
                subsequent_indent=" " * 12,
                break_long_words=False,
                break_on_hyphens=False,
            ).replace("\xa0", " ")
        )
    return lines


def _ls(arguments: Any, output: Output) -> int:
    store = _opened(arguments)
    rows = store.datasets.rows(named=True)
    head = ("dataset", "organism", "cells", "genes", "values", "layout", "size")
    lines = table(
        head,
        ([*list(row.values())[:-1], human_size(row["bytes"])] for row in rows),
        "<<>>><>",
    )
    output.lines(lines)
    output.document({**_named(store), "datasets": rows})
    return 0


def _versions(arguments: Any, output: Output) -> int:
    store = load_store(arguments.store, storage_options=arguments.storage_options)
    rows = store.versions().rows(named=True)
    head = ("version", "time (UTC)", "operation", "message", "datasets", "cells", "author")
    lines = table(
        head,
        (
            [row["version"], f"{row['time']:%Y-%m-%d %H:%M:%S}"]
            + [row[name] for name in ("operation", "message", "datasets", "cells", "author")]
            for row in rows
        ),
        "><<<>><",
    )
    output.lines(lines if store.version is not None else ["none: sfaira wrote this store"])
    for row in rows:
        row["time"] = row["time"].isoformat()
    output.document({"store": store.uri, "versions": rows})
    return 0


def _verify(arguments: Any, output: Output) -> int:
    store = _opened(arguments)
    found = store.verify(progress=output.progress)
    problems = found.rows(named=True)
    checked = f"{count(store.datasets.height, 'dataset')}, {store.n_obs:,} cells, "
    checked += human_size(_size(store))
    if problems:
        output.lines(table(("dataset", "path", "problem"), found.rows(), "<<<"))
    else:
        output.say(f"all is well: {checked}")
    output.document({**_named(store), "ok": not problems, "problems": problems})
    if problems and not output.as_json:
        damaged = count(found["dataset"].n_unique(), "dataset")
        output.error("", f"{count(len(problems), 'problem')} in {damaged}", 1)
    return 1 if problems else 0


def _takes_store(parser: Parser) -> None:
    parser.add_argument("store", metavar="STORE", help="a folder or URL")


def _takes_version(parser: Parser) -> None:
    _takes_store(parser)
    add_version(parser)


def _takes_dataset(parser: Parser) -> None:
    _takes_store(parser)
    parser.add_argument("dataset", metavar="DATASET", nargs="?", help="one dataset of it")
    add_version(parser)


COMMANDS = (
    Command(
        "info",
        "What a store has, or one dataset of it.",
        "Of a store its datasets and the columns of all its cells; of a dataset the columns of its "
        "cells and genes, its layers, embeddings and uns, and whether it has a gene index.",
        _takes_dataset,
        _info,
    ),
    Command(
        "ls",
        "The datasets of a store, one a line.",
        "values: how many of X are stored; nothing where it is not known.",
        _takes_version,
        _ls,
    ),
    Command(
        "versions",
        "The versions of a store, oldest first.",
        "Who made each of them, when and how.",
        _takes_store,
        _versions,
    ),
    Command(
        "verify",
        "Reads all of a store and lists what is damaged.",
        "The exit code is 1 where something is.",
        _takes_version,
        _verify,
    ),
)
