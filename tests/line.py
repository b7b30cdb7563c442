"""A line to a server of this machine: as long and as wide as asked, with faults and a log.

The program is ``tests/line/line.rs``, which ``cargo test`` builds (``cargo build --example line``).
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or Path(__file__).parent.parent / "target")
NAME = "line.exe" if os.name == "nt" else "line"


def program() -> Path:
    """The newest build of the program, or that which ``DAO_TEST_LINE`` names."""
    named = os.environ.get("DAO_TEST_LINE")
    places = [TARGET / profile / "examples" / NAME for profile in ("debug", "release")]
    found = [Path(named)] if named else [place for place in places if place.exists()]
    if not found:
        pytest.skip("the program of tests/line is not built: cargo build --example line")
    return max(found, key=lambda place: place.stat().st_mtime)


@dataclass
class Request:
    """A line of the log: times in ms, the first since the line began; no answer is status 0."""

    ms: float
    method: str
    path: str
    range: str
    status: int
    bytes: int
    took_ms: float


class Line:
    """A line that runs: what it counted, and what is to go wrong on it."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        assert process.stdout is not None
        self.process = process
        self._log = log
        port = process.stdout.readline().strip()
        if not port:
            pytest.fail(f"the line does not start, exit status {process.wait()}")
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"

    def ask(self, command: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer or answer.startswith("error"):
            raise ValueError(f"the line does not take {command!r}: {answer}")
        return answer

    def stats(self) -> dict[str, Any]:
        """Sums since the last ``reset``.

        ``requests`` by method, ``statuses`` of what has ended, ``bytes_down`` and ``bytes_up`` of
        bodies, ``bytes_sent`` with heads, ``connections``, ``faults``, ``in_flight`` and
        ``most_in_flight``.
        """
        return dict(json.loads(self.ask("stats")))

    def rest(self) -> None:
        """Waits until nothing is under way: a client has its answer before that is counted."""
        for _ in range(2_000):
            if self.stats()["in_flight"] == 0:
                return
            time.sleep(0.005)
        pytest.fail(f"requests do not end: {self.stats()}")

    def reset(self) -> None:
        self.ask("reset")

    def requests(self) -> list[Request]:
        """All requests that have ended, in that order; ``reset`` forgets none."""
        self.ask("stats")  # which has the log written
        with self._log.open(newline="") as file:
            rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            next(rows)
            return [
                Request(float(ms), method, path, span, int(status), int(sent), float(took))
                for ms, method, path, span, status, sent, took in rows
            ]

    def fault(self, **words: object) -> None:
        """What becomes of requests.

        ``status=429`` (with ``retry_after=1``, ``code="SlowDown"``), ``cut=100`` and ``short=100``
        (bytes of the body, then reset or closed), ``endless="length"`` or ``"chunks"``,
        ``hang=True``, ``reset="before"`` or ``"after"`` the server answers, ``slow=1`` (bytes a
        second). Of those whose ``path``, ``method`` and ``range`` have these words: after ``skip``
        of them, every ``every``-th, so many ``times``.
        """
        spelt = (key if value is True else f"{key}={value}" for key, value in words.items())
        self.ask("fault " + " ".join(spelt))

    def clear(self) -> None:
        """Nothing goes wrong any more, and what hangs is hung up."""
        self.ask("clear")

    def down(self) -> None:
        """As if the server were gone: connections are reset, and no more are made."""
        self.ask("down")

    def up(self) -> None:
        self.ask("up")

    def latency(self, ms: float) -> None:
        self.ask(f"latency {ms}")

    def width(self, mbytes_per_s: float) -> None:
        self.ask(f"mbytes {mbytes_per_s}")


@contextmanager
def line(address: str, latency_ms: float = 0, mbytes_per_s: float = 0) -> Iterator[Line]:
    """A line to the server at ``address`` until it is left; 0 megabytes a second are no bound."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.tsv"
        shape = ["--latency-ms", str(latency_ms), "--mbytes-per-s", str(mbytes_per_s)]
        process = subprocess.Popen(
            [program(), "--to", address, *shape, "--log", log],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield Line(process, log)
        finally:
            process.kill()
            process.communicate()
