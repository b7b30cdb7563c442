"""What the command line prints: text for people, or one JSON document for programs.

Owns both streams: characters that a terminal does not have, and readers that went away.
"""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

PROGRAM = "dao-polars"

#: How characters of ours are written where the encoding lacks them; others are escaped.
_PLAIN = str.maketrans({"×": "x", "…": "...", "’": "'", "“": '"', "”": '"', "–": "-", "\xa0": " "})

#: What is in a store need not be its reader's friend: no escape sequence reaches a terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Output:
    """The output of one command.

    Attributes:
        as_json: a JSON document on stdout, and errors and warnings as one each on stderr.
        quiet: no progress bars, and nothing said about what went well.
        done: of a command that does several things, what it has done so far: an error has it too.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.done: dict[str, Any] = {}

    @property
    def progress(self) -> bool | None:
        """What ``progress=`` is: None shows a bar where stderr is a terminal."""
        return False if self.as_json or self.quiet else None

    def lines(self, lines: Iterable[str]) -> None:
        """What was asked for, as text."""
        if not self.as_json:
            _write(sys.stdout, "".join(f"{line}\n" for line in lines))

    def say(self, line: str) -> None:
        """What a command has done, as text."""
        if not self.quiet:
            self.lines([line])

    def document(self, document: dict[str, Any]) -> None:
        """What was asked for, or what was done, as JSON."""
        if self.as_json:
            _write(sys.stdout, _json(document))

    def warning(self, message: str) -> None:
        """Something to know, on stderr."""
        if self.as_json:
            _write(sys.stderr, _json({"warning": message}))
        else:
            _write(sys.stderr, f"{PROGRAM}: warning: {message}\n")

    def error(self, kind: str, message: str, code: int) -> int:
        """Why the command ends, on stderr; gives its exit code."""
        if self.as_json:
            error = {"error": kind, "message": message, "exit_code": code}
            _write(sys.stderr, _json(error | self.done))
        else:
            _write(sys.stderr, f"{PROGRAM}: {message}\n")
        return code


def table(head: Sequence[str], rows: Iterable[Sequence[object]], sides: str) -> list[str]:
    """The lines of a table; ``sides`` has ``<`` for a column of text, ``>`` for one of numbers."""
    cells = [head, *([shown(value) for value in row] for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = (
            value + gap if side == "<" else gap + value
            for value, width, side in zip(row, widths, sides, strict=True)
            for gap in [" " * (width - _width(value))]
        )
        lines.append("  ".join(padded).rstrip())
    return lines


def shown(value: object) -> str:
    """A value in a line: numbers with thousands, null as nothing, control characters escaped."""
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return _CONTROL.sub(_escape, str(value)).replace("\n", r"\n").replace("\t", r"\t")


def count(n: int, what: str) -> str:
    """A number of things: ``1 dataset``, ``1,200 datasets``."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _width(text: str) -> int:
    """The columns that a terminal shows a text in."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)


def _json(document: dict[str, Any]) -> str:
    # ASCII, so that any terminal takes it
    return json.dumps(document, indent=2) + "\n"


def _write(stream: TextIO | None, text: str) -> None:
    """Writes to a stream at once. A reader that went away is no error: the work goes on."""
    if stream is None:  # closed before the program started
        return
    try:
        stream.write(_encodable(text, stream))
        stream.flush()
    except BrokenPipeError:
        silence(stream)
    except OSError as error:
        silence(stream)
        raise OSError(f"cannot write to {stream.name}: {error.strerror}") from error


def silence(stream: TextIO) -> None:
    """Has what is still in a stream go nowhere, or Python would complain of it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _escape(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def _encodable(text: str, stream: TextIO) -> str:
    text = _CONTROL.sub(_escape, text)
    encoding, errors = stream.encoding or "utf-8", stream.errors or "strict"
    try:
        text.encode(encoding, errors)
    except UnicodeEncodeError:
        plain = text.translate(_PLAIN)
        return plain.encode(encoding, "backslashreplace").decode(encoding)
    return text
