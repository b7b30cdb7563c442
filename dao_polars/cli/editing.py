"""The commands that curate a store: rename, remove, restore, vacuum."""

from __future__ import annotations

from typing import Any

from ..store.show import human_size
from ..store.store import Store, load_store
from .output import Output, count, shown
from .parser import Command, Parser, add_note, age, positive


def _last(arguments: Any) -> Store:
    return load_store(arguments.store, storage_options=arguments.storage_options)


def _note(arguments: Any) -> dict[str, Any]:
    return {"message": arguments.message, "author": arguments.author}


def _rename(arguments: Any, output: Output) -> int:
    store = _last(arguments).rename_dataset(arguments.old, arguments.new, **_note(arguments))
    output.say(f"{arguments.old} is now {arguments.new}: version {store.version}")
    document = {"old": arguments.old, "new": arguments.new}
    output.document({"store": store.uri, "version": store.version, **document})
    return 0


def _remove(arguments: Any, output: Output) -> int:
    names = list(dict.fromkeys(arguments.datasets))
    with _last(arguments).edit(**_note(arguments)) as edit:
        for name in names:
            edit.remove_dataset(name)
    store = edit.store
    left = f"{count(store.datasets.height, 'dataset')} left"
    before = "older versions have " + ("it still" if len(names) == 1 else "them still")
    output.say(f"removed {', '.join(names)}: version {store.version}, {left}; {before}")
    output.document({"store": store.uri, "version": store.version, "removed": names})
    return 0


def _restore(arguments: Any, output: Output) -> int:
    store = _last(arguments).restore(arguments.version, **_note(arguments))
    output.say(f"version {store.version} is like version {arguments.version}")
    document = {"restored": arguments.version}
    output.document({"store": store.uri, "version": store.version, **document})
    return 0


def _vacuum(arguments: Any, output: Output) -> int:
    store = _last(arguments)
    found = store.vacuum(
        older_than=arguments.older_than, dry_run=not arguments.delete, author=arguments.author
    )
    total = sum(found["bytes"])
    size = f"{count(found.height, 'file')}, {human_size(total)}"
    files = found.rows(named=True)
    if not arguments.delete:
        output.lines(shown(file["path"]) for file in files)
    if not files:
        output.say("nothing to remove")
    elif arguments.delete:
        output.say(f"removed {size}")
    else:
        output.say(f"{size} to be removed; --delete removes them")
    output.document(
        {"store": store.uri, "deleted": arguments.delete, "bytes": total, "files": files}
    )
    return 0


def _takes_store(parser: Parser) -> None:
    parser.add_argument("store", metavar="STORE", help="a folder or URL")


def _rename_arguments(parser: Parser) -> None:
    _takes_store(parser)
    parser.add_argument("old", metavar="OLD", help="the dataset's name")
    parser.add_argument("new", metavar="NEW", help="the name that it gets")
    add_note(parser)


def _remove_arguments(parser: Parser) -> None:
    _takes_store(parser)
    parser.add_argument("datasets", metavar="DATASET", nargs="+", help="names of datasets")
    add_note(parser)


def _restore_arguments(parser: Parser) -> None:
    _takes_store(parser)
    parser.add_argument("version", metavar="VERSION", type=positive, help="the version's number")
    add_note(parser)


def _vacuum_arguments(parser: Parser) -> None:
    _takes_store(parser)
    parser.add_argument(
        "--older-than",
        metavar="TIME",
        type=age,
        help="give up versions that are older than 30d, 12h, 1w12h, …, but for the last one; they "
        "cannot be read or restored again (default: all are kept)",
    )
    parser.add_argument("--delete", action="store_true", help="remove the files")
    parser.add_argument("--author", metavar="NAME", help="who gives up versions")


COMMANDS = (
    Command(
        "rename",
        "Gives a dataset another name.",
        "A new version; selections that were saved stay valid.",
        _rename_arguments,
        _rename,
        changes=True,
    ),
    Command(
        "remove",
        "Leaves datasets out of a store.",
        "A new version. Older versions have them still: `dao-polars restore` brings them back, "
        "until `dao-polars vacuum --delete` gives these versions up.",
        _remove_arguments,
        _remove,
        changes=True,
    ),
    Command(
        "restore",
        "Makes an older version of a store the last one again.",
        "A new version like it; none is lost.",
        _restore_arguments,
        _restore,
        changes=True,
    ),
    Command(
        "vacuum",
        "Lists the files that no version needs, or removes them.",
        "That is what writers left that were killed and, with --older-than, what only older "
        "versions have. It removes nothing without --delete. What is being written is left alone.",
        _vacuum_arguments,
        _vacuum,
        changes=True,
    ),
)
