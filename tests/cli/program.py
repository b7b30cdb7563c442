"""The program as a shell starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "dao_polars"]
LIMIT = 120  # seconds that no command here should need


def environment(**more: str) -> dict[str, str]:
    """The environment of a command: this package, wherever it is started."""
    path = os.pathsep.join(filter(None, [more.pop("PYTHONPATH", ""), str(ROOT)]))
    return {**os.environ, "PYTHONPATH": path, **more}


def start(*words: object, **how: Any) -> subprocess.Popen[str]:
    """A command that runs on."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    how = pipes | {"env": environment()} | how
    return subprocess.Popen([*PROGRAM, *map(str, words)], text=True, encoding="utf-8", **how)


def run(
    *words: object, env: Mapping[str, str] | None = None, given: str = "", **how: Any
) -> subprocess.CompletedProcess[str]:
    """A command, to its end."""
    process = start(*words, env=environment(**(env or {})), **how)
    try:
        out, err = process.communicate(given, timeout=LIMIT)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def fine(*words: object, **how: Any) -> str:
    """What a command prints that ends well and has nothing to complain of."""
    ran = run(*words, **how)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    return ran.stdout


def document(*words: object, **how: Any) -> Any:
    """The one JSON document that a command prints."""
    return json.loads(fine(*words, "--json", **how))


def failure(*words: object, code: int = 1, **how: Any) -> str:
    """The message of a command that ends with this code and prints nothing else."""
    ran = run(*words, **how)
    assert (ran.returncode, ran.stdout) == (code, ""), (ran.stdout, ran.stderr)
    assert "Traceback" not in ran.stderr
    assert ran.stderr.startswith("dao-polars: ")
    return ran.stderr.removeprefix("dao-polars: ")


def interrupt(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """The exit code and the output of a command at which Ctrl-C is pressed."""
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    return process.returncode, out, err
