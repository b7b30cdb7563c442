"""The program ``dao-polars``: from its words to its exit code.

Owns which commands there are, and what an error looks like and costs.
"""

from __future__ import annotations

import difflib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from ..errors import DaoError, DaoInternalError
from . import editing, exporting, reading, writing
from .output import PROGRAM, Output
from .parser import Command, HelpAskedError, UsageError
from .words import as_typed

FAILED, USAGE, INTERRUPTED = 1, 2, 130

COMMANDS: dict[str, Command] = {
    command.name: command
    for room in (reading, writing, exporting, editing)
    for command in room.COMMANDS
}

#: A variable of the environment that has errors show where they were raised.
DEBUG = "DAO_POLARS_DEBUG"


def main(words: Sequence[str] | None = None) -> int:
    """Runs a command; gives the exit code.

    Args:
        words: what stands after ``dao-polars``; None: what the program was started with.
    """
    words = sys.argv[1:] if words is None else words
    options = words[: words.index("--")] if "--" in words else words
    output = Output(as_json="--json" in options)
    command = COMMANDS.get(words[0]) if words else None
    try:
        return _main(command, words, output)
    except KeyboardInterrupt:
        return _interrupted(command, output)


def _main(command: Command | None, words: Sequence[str], output: Output) -> int:
    try:
        if not words:
            raise UsageError(f"a command is missing\n\n{_help()}")
        for word in words:
            if not _is_text(word):
                raise UsageError(f"{word!a} is not text in UTF-8: rename the file, or mend LC_ALL")
        if words[0] in ("-h", "--help"):
            raise HelpAskedError(_help())
        if words[0] == "--version":
            raise HelpAskedError(f"{PROGRAM} {_version()}")
        if command is None:
            raise UsageError(_unknown(words[0]))
        arguments = command.parse(words[1:])
        output.quiet = arguments.quiet
        return _run(command, arguments, output)
    except UsageError as error:
        return output.error("UsageError", str(error), USAGE)
    except HelpAskedError as asked:
        text = Output()
        text.lines([str(asked).rstrip()])
        return 0


def _run(command: Command, arguments: Any, output: Output) -> int:
    with warnings.catch_warnings():
        if not os.environ.get(DEBUG):
            warnings.simplefilter("ignore")  # other packages' words to their developers
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: output.warning(as_typed(str(message)))
        try:
            return command.run(arguments, output)
        except (DaoError, OSError, MemoryError) as error:
            if os.environ.get(DEBUG) or isinstance(error, DaoInternalError):
                traceback.print_exc()
            kind = type(error).__name__
            return output.error(kind, as_typed(str(error)) or "out of memory", FAILED)
        except (UsageError, HelpAskedError):
            raise
        except Exception as error:
            traceback.print_exc()
            return output.error("DaoInternalError", f"a bug in dao-polars: {error!r}", FAILED)


def _interrupted(command: Command | None, output: Output) -> int:
    """Ends what Ctrl-C ended."""
    try:
        # Polars raises for the signal and Python does so again: the second is not to be heard.
        signal.signal(signal.SIGINT, lambda *_: None)
    except KeyboardInterrupt:
        return _interrupted(command, output)
    # Where Ctrl-C ended code that is executed as text, as classes are made of at an import, Python
    # would end by the signal though it was caught; it forgets that when other text is executed.
    exec("")
    whole = "; the store is whole, and nothing in it is half done"
    said = whole if command is not None and command.changes else ""
    return output.error("KeyboardInterrupt", f"interrupted{said}", INTERRUPTED)


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unknown(word: str) -> str:
    if word.startswith("-"):
        return f"{word}: options stand after a command\nSee: {PROGRAM} --help"
    near = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"no command {word!r}{hint}\nThere are: {', '.join(COMMANDS)}"


def _version() -> str:
    try:
        return metadata.version("dao-polars")
    except metadata.PackageNotFoundError:  # run from a folder that was not installed
        return "(not installed)"


def _help() -> str:
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {c.name:{width}}  {c.summary}" for c in COMMANDS.values())
    return f"""\
usage: {PROGRAM} COMMAND ...

Stores of single-cell studies: what is in them, writing studies into them, curating them.
A STORE is a folder, or an s3://, gs://, az:// or https:// URL.

commands:
{listed}

{PROGRAM} COMMAND --help   what a command does, and its options
{PROGRAM} --version        the version of the package

exit codes: 0 all is well; 1 it failed, or something is damaged; 2 wrong usage; 130 Ctrl-C.
With {DEBUG}=1 in the environment an error shows where it was raised.
"""
