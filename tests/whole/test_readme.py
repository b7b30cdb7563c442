"""README.md and docs/expression.md are true: their Python blocks run, in order, and print what
they say; the demo passes.

A ``python`` block is run. The ``text`` block right after it is what it prints, compared as doctest
does: ``...`` stands for anything, blank space counts alike; sizes on disk may be others. A block
without one prints nothing. Of a block that raises, the last lines of the traceback are printed.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = (README, ROOT / "docs" / "expression.md")
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.M | re.S)
SIZE = re.compile(r"\d+(\.\d+)? [kM]?B\b")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(doc: Path) -> list[tuple[int, str, str]]:
    """Of each Python block: its line in the file, the code, what it prints."""
    text = doc.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start(1)) + 1, found[1], found[2] or "")
        for found in BLOCK.finditer(text)
    ]


def printed(line: int, code: str, names: dict[str, object]) -> str:
    """Runs a block and gives what it prints; tracebacks show the file's own line numbers."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pl.Config() as config, warnings.catch_warnings():
        config.restore_defaults().set_tbl_width_chars(100)
        warnings.simplefilter("ignore")
        try:
            exec(compile("\n" * (line - 1) + code, README, "exec"), names)
        except Exception as error:
            out.writelines(traceback.format_exception_only(error))
    return out.getvalue()


def says(expected: str, found: str) -> bool:
    """Whether what is written is the real output."""
    checker = doctest.OutputChecker()
    return checker.check_output(SIZE.sub("(size)", expected), SIZE.sub("(size)", found), FLAGS)


@pytest.mark.parametrize("doc", DOCS, ids=lambda doc: doc.name)
def test_what_is_written_is_what_happens(tmp_path, monkeypatch, doc):
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "doc"}
    examples = blocks(doc)
    assert len(examples) > 5
    wrong = []
    for line, code, expected in examples:
        found = printed(line, code, names)
        if not says(expected, found):
            wrong.append(f"line {line}:\n{code}\nit says:\n{expected}\nfound:\n{found}")
    assert not wrong, "\n\n".join(wrong)


def test_the_readme_names_files_that_are_there():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_the_demo(tmp_path):
    command = [sys.executable, str(ROOT / "demo.py"), "--keep", "kept"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert "Every count is as anndata reads it" in ran.stdout
    assert (tmp_path / "kept" / "dao.json").exists()
