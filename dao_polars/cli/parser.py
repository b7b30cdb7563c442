"""The words of the command line: how a command's options are read, and its help.

Owns what all commands have in common. Which options one has is its own.
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from ..errors import DaoError
from ..store.options import core_options
from .output import PROGRAM, Output

_WIDTH = 92  # of help texts
_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


class UsageError(Exception):
    """Wrong usage; the message says of what."""


class HelpAskedError(Exception):
    """Help was asked for; the message is it."""


class _Help(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        raise HelpAskedError(parser.format_help())


class Parser(argparse.ArgumentParser):
    """The parser of one command: its errors are exceptions, and options stand anywhere."""

    def __init__(self, command: str, summary: str, details: str) -> None:
        super().__init__(
            prog=f"{PROGRAM} {command}",
            description=f"{summary}\n\n{textwrap.fill(details, _WIDTH)}",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.color = False  # of Python 3.14 on

    def error(self, message: str) -> NoReturn:
        """Raises a UsageError."""
        raise UsageError(f"{message}\nSee: {self.prog} --help")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=_WIDTH)


@dataclass(frozen=True)
class Command:
    """One command: its name, what it does, its arguments, and what runs it.

    ``run`` gives the exit code. ``changes``: whether it makes versions of a store.
    """

    name: str
    summary: str
    details: str
    add_arguments: Callable[[Parser], None]
    run: Callable[[Any, Output], int]
    changes: bool = False

    def parser(self) -> Parser:
        """The parser of its arguments."""
        parser = Parser(self.name, self.summary, self.details)
        self.add_arguments(parser)
        common = parser.add_argument_group("options of all commands")
        common.add_argument(
            "--storage-option",
            dest="storage_options",
            metavar="KEY=VALUE",
            type=key_value,
            action="append",
            default=[],
            help="of a store behind a URL: credentials, timeout='30 s', …; may be repeated. What "
            "is not given is looked for in the environment and in files of profiles. Other users "
            "of this machine can see what is on a command line",
        )
        common.add_argument(
            "--options-file",
            metavar="FILE",
            type=options_file,
            default={},
            help="a JSON object of such options, for what others are not to see",
        )
        common.add_argument("--json", action="store_true", help="one JSON document on stdout")
        common.add_argument(
            "-q",
            "--quiet",
            action="store_true",
            help="no progress bars, and nothing said where all went well",
        )
        common.add_argument("-h", "--help", action=_Help, help="this text")
        return parser

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """What the words after the command's name say.

        Raises:
            UsageError, HelpAskedError: these.
        """
        parser = self.parser()
        if any(word.split("=")[0] == "--version" for word in words):
            parser.error(
                f"a version of a store is --at VERSION; `{PROGRAM} --version` is that of "
                "the package"
            )
        found = parser.parse_intermixed_args(list(words))
        found.storage_options = found.options_file | dict(found.storage_options) or None
        return found


def add_version(parser: Parser, of: str = "the store") -> None:
    """Adds ``--at``, where a store is read."""
    parser.add_argument(
        "--at", metavar="VERSION", type=positive, help=f"a version of {of} (default: its last one)"
    )


def add_note(parser: Parser) -> None:
    """Adds ``--message`` and ``--author``, where a version is made."""
    parser.add_argument(
        "--message", metavar="TEXT", help=f"what `{PROGRAM} versions` says about it"
    )
    parser.add_argument("--author", metavar="NAME", help="who makes it")


def key_value(text: str) -> tuple[str, str]:
    """``KEY=VALUE`` as a pair. The error does not show it: there may be a password in it."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError("expected KEY=VALUE")
    return key, value


def options_file(path: str) -> dict[str, str]:
    """The storage options in a JSON file. Errors do not show what is in it."""
    try:
        found = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path!r}: {error.strerror}") from error
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{path!r}: expected a JSON object")
    try:
        return core_options(found)
    except DaoError as error:
        raise argparse.ArgumentTypeError(f"{path!r}: {error}") from None


def positive(text: str) -> int:
    """A number from 1 on, such as a version's."""
    return _number(text, 1)


def natural(text: str) -> int:
    """A number from 0 on, such as a seed."""
    return _number(text, 0)


def _number(text: str, least: int) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number from {least} on")
    return int(text)


def age(text: str) -> timedelta:
    """A time span such as ``30d`` or ``1w12h``."""
    parts = re.findall(r"(\d+)([wdhms])", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise argparse.ArgumentTypeError(
            f"{text!r}; expected numbers of weeks, days, hours, minutes or seconds, such as 30d, "
            "12h or 1w12h"
        )
    try:
        return sum((timedelta(**{_UNITS[unit]: int(n)}) for n, unit in parts), timedelta())
    except OverflowError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: longer than there are dates") from error
