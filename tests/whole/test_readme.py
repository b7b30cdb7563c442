"""What README.md and the pages of docs/ show is true: their Python blocks run, in order, and print
what they say; the demo passes.

A ``python`` block is run, in a folder that has ``data/``. The ``text`` block right after it is what
it prints, compared as doctest does: ``...`` stands for anything, blank space counts alike; sizes on
disk may be others. A block without one prints nothing. Of a block that raises, the last lines of
the traceback are printed.

A block that cannot be run here says so in the line before it, ``<!-- not run: why -->``, and is
counted in `NOT_RUN`; one that wants a package that is not among what a developer needs says which,
``<!-- needs: torch -->``, and is run where that is there. They are compiled all the same.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib.util
import io
import re
import subprocess
import sys
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = {"docs/guides/clouds.md": 2, "docs/guides/engines.md": 1, "docs/guides/urls.md": 5}
"""How many blocks of a page are not run; each says why."""
NEEDS = {"torch", "lightning", "tensorflow", "ray", "scvi"}

BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run|needs): (?P<why>.+?) -->\n+)?"
    r"^```python(?: \w+)?\n(?P<code>.*?)^```$(?:\n\n^```text\n(?P<out>.*?)^```$)?",
    re.M | re.S,
)
SIZE = re.compile(r"\d+(\.\d+)? [kM]?B\b")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass
class Block:
    """A Python block of a page: its line in the file, the code, what it prints, its mark."""

    line: int
    code: str
    out: str
    mark: str | None
    why: str


def blocks(page: Path) -> list[Block]:
    """The Python blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            text.count("\n", 0, found.start("code")) + 1,
            found["code"],
            found["out"] or "",
            found["mark"],
            found["why"] or "",
        )
        for found in BLOCK.finditer(text)
    ]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def runs(block: Block) -> bool:
    """Whether a block is run here."""
    if block.mark == "needs":
        return importlib.util.find_spec(block.why) is not None
    return block.mark is None


def printed(page: Path, block: Block, names: dict[str, object]) -> str:
    """Runs a block and gives what it prints; tracebacks show the file's own line numbers."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pl.Config() as config, warnings.catch_warnings():
        config.restore_defaults().set_tbl_width_chars(100)
        warnings.simplefilter("ignore")
        try:
            exec(compile("\n" * (block.line - 1) + block.code, page, "exec"), names)
        except Exception as error:
            out.writelines(traceback.format_exception_only(error))
    return out.getvalue()


def says(expected: str, found: str) -> bool:
    """Whether what is written is the real output."""
    checker = doctest.OutputChecker()
    return checker.check_output(SIZE.sub("(size)", expected), SIZE.sub("(size)", found), FLAGS)


def prepare(folder: Path) -> None:
    """What the pages find where they are run: real cells, and a store that sfaira wrote."""
    (folder / "data").symlink_to(ROOT / "data")
    (folder / "sfaira_store").symlink_to(ROOT / "tests" / "data" / "sfaira_store")


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=name_of)
def test_what_is_written_is_what_happens(tmp_path, monkeypatch, page):
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "doc"}
    wrong = []
    for block in blocks(page):
        compile(block.code, page, "exec")
        if runs(block) and not says(block.out, found := printed(page, block, names)):
            at = f"line {block.line}:\n{block.code}"
            wrong.append(f"{at}\nit says:\n{block.out}\nfound:\n{found}")
    assert not wrong, "\n\n".join(wrong)


def test_few_blocks_are_not_run_and_say_why():
    found: dict[str, int] = {}
    n_run = 0
    for page in PAGES:
        for block in blocks(page):
            if block.mark == "not run":
                assert len(block.why) > 10, f"{name_of(page)}, line {block.line}: why?"
                found[name_of(page)] = found.get(name_of(page), 0) + 1
            elif block.mark == "needs":
                assert block.why in NEEDS
            else:
                n_run += 1
    assert found == NOT_RUN
    assert n_run >= 35


@pytest.mark.parametrize("package", sorted(NEEDS))
def test_blocks_that_need_a_package_are_run_where_it_is(package):
    needing = [b for page in PAGES for b in blocks(page) if (b.mark, b.why) == ("needs", package)]
    assert needing
    if not all(map(runs, needing)):
        pytest.skip(f"{package} is not installed, {len(needing)} blocks of pages were not run")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_python_fence_is_a_block(page):
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^```(?:python|py)\b", text, re.M)) == len(blocks(page))


def test_the_readme_names_files_that_are_there():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert len(links) > 10
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_figures_of_the_readme_are_those_of_the_last_run():
    table = (ROOT / "benchmarks" / "results" / "table.md").read_text(encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    row = re.search(r"^\| shuffled, cells/s \|.*$", text, re.M)
    speeds = re.findall(r"\d+,\d{3}", row[0]) if row else []
    assert len(speeds) == 4
    assert [speed for speed in speeds if f"| {speed} |" not in table] == []
    ratio, memory = re.search(r"([\d.]+) of the\s+speed .*?, in (\d+ MB)", text, re.S).groups()
    assert re.search(rf"^\| shuffled, beside our own in order .*\| {ratio} \|", table, re.M)
    assert f"epochs of 200,000 cells, beside 150 MB | {memory} |" in table


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 260


def test_the_demo(tmp_path):
    command = [sys.executable, str(ROOT / "demo.py"), "--keep", "kept"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert "Every count is as anndata reads it" in ran.stdout
    assert (tmp_path / "kept" / "dao.json").exists()
