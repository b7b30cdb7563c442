"""The command that takes cells out of a store: export."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import polars as pl

from ..errors import DaoKeyError, DaoValueError
from ..frame import DaoFrame
from ..genes.request import Duplicates
from ..store.show import human_size
from ..store.store import load_store
from .output import PROGRAM, Output
from .parser import Command, Parser, UsageError, add_version

#: What is written, by the ending of the file's name.
_WRITERS = {".h5ad": DaoFrame.write_h5ad, ".zarr": DaoFrame.write_zarr}


def _export(arguments: Any, output: Output) -> int:
    target = Path(arguments.file)
    if target.suffix not in _WRITERS:
        raise UsageError(f"FILE: expected a name in .h5ad or .zarr\nSee: {PROGRAM} export --help")
    if arguments.compression and target.suffix != ".h5ad":
        raise UsageError(f"--compression is of an .h5ad\nSee: {PROGRAM} export --help")
    store = load_store(
        arguments.store, storage_options=arguments.storage_options, version=arguments.at
    )
    cells = store.scan()
    if arguments.datasets:
        for name in arguments.datasets:
            store._dataset(name)
        cells = cells.filter(pl.col("dataset").cast(pl.String).is_in(arguments.datasets))
    if arguments.where is not None:
        cells = cells.filter(_condition(arguments.where, cells))
    compression = {"compression": arguments.compression} if arguments.compression else {}
    path = _WRITERS[target.suffix](
        DaoFrame(cells),
        target,
        genes=arguments.genes or arguments.gene or None,
        gene_key=arguments.gene_key,
        duplicates=arguments.duplicates,
        layer=arguments.layer,
        normalize=arguments.normalize,
        overwrite=arguments.overwrite,
        progress=output.progress,
        store=store,
        **compression,
    )
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    size = sum(file.stat().st_size for file in files)
    n_obs = cells.select(pl.len()).collect().item()
    output.say(f"{n_obs:,} cells, {human_size(size)}, to {str(path)!r}")
    output.document(
        {"store": store.uri, "version": store.version, "file": str(path), "n_obs": n_obs}
        | {"bytes": size}
    )
    return 0


def _condition(text: str, cells: pl.LazyFrame) -> pl.Expr:
    """A condition in SQL as an expression.

    Raises:
        DaoValueError: it is none.
        DaoKeyError: it names columns that there are not.
    """
    try:
        condition = pl.sql_expr(text)
    except pl.exceptions.PolarsError as error:
        raise DaoValueError(f"--where {text!r}: {error}") from error
    names = cells.collect_schema().names()
    unknown = [name for name in condition.meta.root_names() if name not in names]
    if unknown:
        raise DaoKeyError(
            f"--where names {', '.join(map(repr, unknown))}; the columns: {', '.join(names[1:])}"
        )
    return condition


def _arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("store", metavar="STORE", help="a folder or URL")
    add("file", metavar="FILE", help="the .h5ad or .zarr to write")
    add_version(parser)
    add("--overwrite", action="store_true", help="replace a FILE that is there")
    add("--compression", choices=("gzip", "lzf"), help="of an .h5ad (default: none)")

    cells = parser.add_argument_group("which cells")
    add = cells.add_argument
    add(
        "--dataset",
        dest="datasets",
        metavar="NAME",
        action="append",
        default=[],
        help="those of this dataset; may be repeated (default: all)",
    )
    add(
        "--where",
        metavar="SQL",
        help="those for which this is true, in the columns of obs: \"cell_type = 'beta'\"",
    )

    genes = parser.add_argument_group("what of them")
    given = genes.add_mutually_exclusive_group()
    given.add_argument(
        "--genes",
        choices=("intersection", "union"),
        help="the genes that all of the cells' datasets have, or those that any has",
    )
    given.add_argument("--gene", metavar="NAME", action="append", help="this gene; may be repeated")
    add = genes.add_argument
    add("--gene-key", metavar="COLUMN", help="the column of var that has the genes' names")
    add(
        "--duplicates",
        choices=get_args(Duplicates),
        default="error",
        help="what a name means that several genes of a dataset have",
    )
    add("--layer", metavar="NAME", help="a layer that becomes X")
    add("--normalize", metavar="NAME", help="what is done to X, such as log1p_cp10k")


COMMANDS = (
    Command(
        "export",
        "Writes cells of a store into an AnnData file.",
        "An .h5ad or a .zarr that anndata and scanpy read, larger than memory if need be. It is "
        "there whole, or not at all.",
        _arguments,
        _export,
    ),
)
