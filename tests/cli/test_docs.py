"""docs/command-line.md is true: its commands run, in order, and print what it says.

Compared as doctest does: ``...`` stands for anything, blank space counts alike; sizes on disk and
times may be others. Standard output and errors are one, as on a terminal.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

from dao_polars.cli.main import COMMANDS
from tests.cli.program import LIMIT, ROOT, environment
from tests.whole.test_readme import says

PAGE = ROOT / "docs" / "command-line.md"
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def examples() -> list[tuple[str, str]]:
    """Each command of the page's console blocks, and what it prints."""
    blocks = re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    found = [block.removeprefix("$ ").split("\n$ ") for block in blocks]
    return [
        (command, expected)
        for block in found
        for command, _, expected in (example.partition("\n") for example in block)
    ]


def test_what_is_written_is_what_happens(tmp_path):
    program = tmp_path / "bin" / "dao-polars"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dao_polars "$@"\n')
    program.chmod(0o755)
    (tmp_path / "data").symlink_to(ROOT / "data")
    env = environment(PATH=f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    wrong, code = [], 0
    for command, expected in examples():
        ran = subprocess.run(
            ["bash", "-c", f"(exit {code}); {command}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            cwd=tmp_path,
            env=env,
            timeout=LIMIT,
        )
        code = ran.returncode
        if not says(TIME.sub("(time)", expected), TIME.sub("(time)", ran.stdout)):
            wrong.append(f"$ {command}\nit says:\n{expected}\nfound:\n{ran.stdout}")
    assert not wrong, "\n\n".join(wrong)


def test_the_page_has_every_command_and_every_option():
    text = PAGE.read_text(encoding="utf-8")
    shown = {command.split()[1] for command, _ in examples() if command.startswith("dao-polars ")}
    assert set(COMMANDS) <= shown
    for name, command in COMMANDS.items():
        for option in re.findall(r"^  (--[a-z-]+)", command.parser().format_help(), re.M):
            assert option in text, f"{name} {option}"
