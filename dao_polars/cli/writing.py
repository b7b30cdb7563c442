"""The commands that bring cells into a store: write, copy."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, get_args
from urllib.parse import unquote

from ..errors import DaoFileExistsError, DaoFileNotFoundError, DaoIOError, DaoValueError
from ..genes.request import Duplicates
from ..sources.remote import is_url
from ..store.show import human_size
from ..store.store import Store, load_store
from ..write.copy import copy
from ..write.dataset import write_dataset
from ..write.mistaken import check_places
from ..write.part import Mode, Profile
from .output import PROGRAM, Output, count
from .parser import Command, Parser, UsageError, add_note, add_version, key_value, natural


def _write(arguments: Any, output: Output) -> int:
    _check_usage(arguments)
    names = {source: arguments.dataset or _stem(source) for source in arguments.sources}
    _check_sources(arguments, names)
    options: dict[str, Any] = {
        name: getattr(arguments, name)
        for name in (
            "mode",
            "organism",
            "layer",
            "gene_key",
            "duplicates",
            "shuffle",
            "seed",
            "profile",
            "gene_index",
            "message",
            "author",
            "storage_options",
        )
    }
    if arguments.source_options:
        both = arguments.storage_options or {}
        options["source_options"] = both | dict(arguments.source_options)
    genes = _genes(arguments)
    written: list[dict[str, Any]] = []
    output.done["written"] = written
    for source, name in names.items():
        store = write_dataset(
            arguments.store,
            source,
            dataset=name,
            genes=genes,
            layers=True if arguments.all_layers else arguments.layers,
            obsm=() if arguments.no_obsm else arguments.obsm or True,
            uns=not arguments.no_uns,
            progress=output.progress,
            **options,
        )
        row = _row(store, name)
        size = f"{row['n_obs']:,} cells × {row['n_vars']:,} genes, {human_size(row['bytes'])}"
        output.say(f"{name}: {size}, version {store.version}")
        written.append({"source": _without_login(source), **row, "version": store.version})
    output.document({"store": store.uri, "version": store.version, "written": written})
    return 0


def _check_usage(arguments: Any) -> None:
    """Raises a UsageError for options that mean nothing together."""
    several, has_genes = len(arguments.sources) > 1, arguments.genes or arguments.genes_of
    wrong = {
        "--dataset names one dataset, and there are several sources; without it each is called "
        "after its file": several and arguments.dataset is not None,
        "a source is named twice": len(set(arguments.sources)) < len(arguments.sources),
        "--seed is the seed of --shuffle": arguments.seed is not None and not arguments.shuffle,
        "--gene-key and --duplicates are about --genes or --genes-of": not has_genes
        and (arguments.gene_key is not None or arguments.duplicates != "error"),
        "either --layers or --all-layers": arguments.layers and arguments.all_layers,
        "either --obsm or --no-obsm": arguments.obsm and arguments.no_obsm,
    }
    for message, is_wrong in wrong.items():
        if is_wrong:
            raise UsageError(f"{message}\nSee: {PROGRAM} write --help")


def _check_sources(arguments: Any, names: dict[str, str]) -> None:
    """Raises for what would stop the writing of sources half way through."""
    for source in names:
        check_places(arguments.store, source)
    missing = [source for source in names if "://" not in source and not _path(source).exists()]
    if missing and len(names) > 1:
        raise DaoFileNotFoundError(f"no such file: {_listed(missing)}; nothing was written")
    twice = [name for name, n in Counter(names.values()).items() if n > 1]
    if twice and arguments.mode == "error":
        raise DaoValueError(
            f"several sources are called {_listed(twice)}; write them one by one, with --dataset, "
            "or as one with --mode append; nothing was written"
        )
    if arguments.mode != "error":
        return
    try:
        store = load_store(arguments.store, storage_options=arguments.storage_options)
    except DaoFileNotFoundError:
        return
    if there := sorted(set(names.values()) & set(store.datasets["id"])):
        raise DaoFileExistsError(
            f"store {store.uri!r} has {_listed(there)} already; --mode replace puts another in its "
            "place, --mode append adds the cells to it, --dataset gives another name; nothing was "
            "written"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _path(source: str) -> Path:
    return Path(source.removeprefix("file://")).expanduser()


def _stem(source: str) -> str:
    if is_url(source):
        return PurePosixPath(unquote(source.rstrip("/").rpartition("/")[2])).stem
    return _path(source).stem


def _without_login(source: str) -> str:
    """A source as it may be shown."""
    return re.sub(r"(?<=://)[^/]*@", "", source) if is_url(source) else source


def _row(store: Store, name: str) -> dict[str, Any]:
    """What the store's table says about a dataset."""
    (found,) = (row for row in store.datasets.rows(named=True) if row["id"] == name)
    return found


def _genes(arguments: Any) -> Any:
    """``genes=``: of another dataset, of a file, or None."""
    if arguments.genes_of is not None:
        store = load_store(arguments.store, storage_options=arguments.storage_options)
        return store.var(arguments.genes_of)
    return None if arguments.genes is None else names_in(arguments.genes)


def names_in(file: str) -> list[str]:
    """The genes that ``--genes FILE`` names, one a line; ``-`` is stdin."""
    if file == "-":
        text = sys.stdin.read()
    else:
        try:
            text = Path(file).expanduser().read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise DaoFileNotFoundError(f"--genes {file!r}: no such file") from error
        except OSError as error:
            raise DaoIOError(f"--genes {file!r}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise DaoValueError(
                f"--genes {file!r}: no text in UTF-8; expected a gene's name a line"
            ) from error
    return [name for line in text.splitlines() if (name := line.strip())]


def _copy(arguments: Any, output: Output) -> int:
    both = arguments.storage_options or {}
    options = both | dict(arguments.source_options)
    source = load_store(arguments.source, storage_options=options, version=arguments.at)
    wanted = set(arguments.datasets or source.datasets["id"])
    store = copy(
        arguments.source,
        arguments.target,
        arguments.datasets or None,
        source_options=options,
        target_options=both | dict(arguments.target_options),
        version=arguments.at,
        message=arguments.message,
        author=arguments.author,
        progress=output.progress,
    )
    copied = [row for row in store.datasets.rows(named=True) if row["id"] in wanted]
    cells, size = (sum(row[key] for row in copied) for key in ("n_obs", "bytes"))
    said = f"{count(len(copied), 'dataset')}, {cells:,} cells, {human_size(size)}"
    output.say(f"copied {said} to {store.uri!r}, version {store.version}")
    output.document({"store": store.uri, "version": store.version, "copied": copied})
    return 0


def _write_arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("store", metavar="STORE", help="a folder or URL; made if it is missing")
    add(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="an .h5ad, an AnnData .zarr or a 10x .h5, or the URL of one; each becomes a dataset",
    )
    add(
        "--source-option",
        dest="source_options",
        metavar="KEY=VALUE",
        type=key_value,
        action="append",
        default=[],
        help="a storage option of SOURCE alone, beside those of both; may be repeated",
    )
    add("--dataset", metavar="NAME", help="the dataset's name (default: the file's)")
    add(
        "--mode",
        choices=get_args(Mode),
        default="error",
        help="what becomes of a dataset of that name: it is an error (the default), this one takes "
        "its place, or the cells are added to it",
    )
    add("--organism", metavar="NAME", help="kept in uns, and so a column of all its cells")
    add("--message", metavar="TEXT", help="what `dao-polars versions` says about it")
    add("--author", metavar="NAME", help="who writes it")

    kept = parser.add_argument_group("what is kept")
    add = kept.add_argument
    add("--layer", metavar="NAME", help="a layer, or raw, that becomes X")
    add(
        "--layers",
        metavar="NAME",
        action="append",
        default=[],
        help="a layer to keep beside X; may be repeated",
    )
    add("--all-layers", action="store_true", help="keep all layers")
    add(
        "--obsm",
        metavar="NAME",
        action="append",
        default=[],
        help="an embedding to keep; may be repeated (default: all)",
    )
    add("--no-obsm", action="store_true", help="keep no embeddings")
    add("--no-uns", action="store_true", help="keep nothing of uns")

    genes = parser.add_argument_group("genes")
    given = genes.add_mutually_exclusive_group()
    given.add_argument(
        "--genes-of",
        metavar="DATASET",
        help="the genes of this dataset of the store, in its order: what it lacks is dropped, what "
        "the source lacks is zero",
    )
    given.add_argument(
        "--genes", metavar="FILE", help="likewise those of a file, a name a line; - is stdin"
    )
    add = genes.add_argument
    add("--gene-key", metavar="COLUMN", help="the column of the source's var that has these names")
    add(
        "--duplicates",
        choices=get_args(Duplicates),
        default="error",
        help="what a name means that several genes of the source have: it is an error (the "
        "default), the first of them, the sum of their values, or no gene",
    )

    disk = parser.add_argument_group("on disk")
    add = disk.add_argument
    add("--shuffle", action="store_true", help="permute the cells")
    add("--seed", metavar="NUMBER", type=natural, help="of the permutation")
    add(
        "--profile",
        choices=get_args(Profile),
        default="packed",
        help="the codec of sparse matrices: dao-polars' own (the default), or one that any reader "
        "of zarr has",
    )
    add("--gene-index", action="store_true", help="write a copy of X by genes, too")


def _copy_arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("source", metavar="SOURCE", help="the store that has the datasets: a folder or URL")
    add("target", metavar="TARGET", help="the store that gets them; made if it is missing")
    add("datasets", metavar="DATASET", nargs="*", help="those to copy (default: all)")
    add_version(parser, "SOURCE")
    add_note(parser)
    for end in ("source", "target"):
        add(
            f"--{end}-option",
            dest=f"{end}_options",
            metavar="KEY=VALUE",
            type=key_value,
            action="append",
            default=[],
            help=f"a storage option of {end.upper()} alone; may be repeated",
        )


COMMANDS = (
    Command(
        "write",
        "Writes studies into a store, a dataset each.",
        "Files are converted block by block: memory does not grow with them. Each becomes visible "
        "when it is complete, as a version of its own. A warning names what is not kept.",
        _write_arguments,
        _write,
        changes=True,
    ),
    Command(
        "copy",
        "Copies datasets from one store into another.",
        "Byte for byte, each file checked on the way, as one version. What cannot be copied whole "
        "is not there at all.",
        _copy_arguments,
        _copy,
        changes=True,
    ),
)
