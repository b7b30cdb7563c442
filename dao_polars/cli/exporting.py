"""The command that brings cells out of a store: export."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import polars as pl

from ..errors import DaoFileExistsError, DaoKeyError, DaoValueError
from ..frame import DaoFrame
from ..genes.request import Duplicates
from ..store.store import load_store
from .output import PROGRAM, Output
from .parser import Command, Parser, UsageError, add_version
from .writing import names_in

_SUFFIXES = (".h5ad", ".zarr")
_TOTALS = ("log1p_cp10k", "cp10k", "log1p_cpm", "cpm", "log1p")


def _export(arguments: Any, output: Output) -> int:
    path = Path(arguments.out)
    if path.suffix not in _SUFFIXES:
        raise UsageError(
            f"{arguments.out!r}: expected a name that ends in .h5ad or .zarr\n"
            f"See: {PROGRAM} export --help"
        )
    if path.exists() and not arguments.overwrite:
        raise DaoFileExistsError(f"{str(path)!r} is there already; name another, or --overwrite")
    store = load_store(
        arguments.store, storage_options=arguments.storage_options, version=arguments.at
    )
    lf = store.scan()
    if arguments.datasets:
        there = set(store.datasets["id"])
        if missing := [name for name in arguments.datasets if name not in there]:
            raise DaoKeyError(f"store {store.uri!r} has no dataset {missing[0]!r}")
        lf = lf.filter(pl.col("dataset").cast(pl.String).is_in(arguments.datasets))
    if arguments.where is not None:
        lf = lf.filter(_condition(arguments.where))
    # Once, for the count too: cells and columns of obs are held in any case.
    cells = lf.collect()
    write = DaoFrame(cells).write_h5ad if path.suffix == ".h5ad" else DaoFrame(cells).write_zarr
    write(
        path,
        overwrite=arguments.overwrite,
        progress=output.progress,
        genes=_genes(arguments),
        gene_key=arguments.gene_key,
        duplicates=arguments.duplicates,
        layer=arguments.layer,
        layers=_names(arguments.layers),
        obsm=_names(arguments.obsm),
        normalize=arguments.normalize,
        store=store,
    )
    output.say(f"{cells.height:,} cells to {str(path)!r}")
    output.document({"store": store.uri, "version": store.version, "path": str(path)})
    return 0


def _condition(text: str) -> pl.Expr:
    try:
        return pl.sql_expr(text)
    except pl.exceptions.PolarsError as error:
        raise DaoValueError(f"--where {text!r}: {error}") from error


def _names(text: str | None) -> list[str] | None:
    """Names with commas between; None where nothing was said."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _genes(arguments: Any) -> Any:
    """``genes=``: what datasets share or have together, the names in a file, or None."""
    if arguments.genes is None:
        return arguments.join
    return names_in(arguments.genes)


def _arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("store", metavar="STORE", help="a folder or URL")
    add("out", metavar="OUT", help="the file to write, .h5ad, or the folder, .zarr")
    add("datasets", metavar="DATASET", nargs="*", help="those to take (default: all)")
    add_version(parser)
    add("--where", metavar="SQL", help="which cells: a condition on the columns of obs")
    add("--overwrite", action="store_true", help="replace what is there")
    add("--layer", metavar="NAME", help="a layer that becomes X")
    for kind in ("layers", "obsm"):
        add(
            f"--{kind}",
            metavar="NAMES",
            help="those to take, with commas between, '' for none (default: those that all "
            "datasets have)",
        )
    add("--normalize", choices=_TOTALS, help="what is done to X, cell by cell")
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--join",
        choices=("intersection", "union"),
        help="the genes that all datasets have, or that any has (default: they must be the same)",
    )
    given.add_argument("--genes", metavar="FILE", help="the genes of a file, a name a line")
    add("--gene-key", metavar="COLUMN", help="the column of var that has these names")
    add(
        "--duplicates",
        choices=get_args(Duplicates),
        default="error",
        help="what a name means that several genes of a dataset have: it is an error (the "
        "default), the first of them, the sum of their values, or no gene",
    )


COMMANDS = (
    Command(
        "export",
        "Writes cells of a store into an AnnData file.",
        "Block by block: X, layers and embeddings may be larger than memory. The file is there "
        "once it is whole.",
        _arguments,
        _export,
    ),
)
