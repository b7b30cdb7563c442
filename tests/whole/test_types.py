"""Type checkers find a misspelt option, and nothing wrong in the code of the pages and notebooks.

They do not see polars' namespaces: in the code that they are given, ``lf.dao.…`` is
``dao.frame(lf).…``, which is the same. What they say of lines without ``dao`` is about others'
types (AnnData's X is one of eight), and of variables that two blocks of a page use, about pages.
"""

from __future__ import annotations

import ast
import inspect
import json
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import nbformat
import pytest

import dao_polars as dao
from dao_polars.batches.options import BatchOptions, TensorOptions
from tests.whole.test_readme import PAGES, ROOT, blocks

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

#: Each line but the first three has an error, in what the comment says.
WRONG = """
import dao_polars as dao
cells = dao.frame(dao.scan("atlas"))
batches = cells.iter_batches(256, shuffle="block", genes=["INS"], layout="dense")
cells.iter_batches(256, shufle=True)  # an option
cells.iter_batches(256, shuffle="blocks")  # a value
cells.iter_batches(256, layout="sparse")  # a value
cells.iter_batches("256")  # a type
cells.to_torch(256, normalise="cp10k")  # an option that is handed on
cells.to_tensorflow(256, transform=print)  # one that is not
cells.to_anndata(gene=["INS"])  # an option
cells.to_anndata(missing="keep")  # a value
cells.pseudobulk("donor", statistic="mean")  # an option
cells.write_dataset("atlas", modes="append")  # an option
dao.gene("INS", normalise="cp10k")  # an option
dao.load_store("atlas", versions=3)  # an option
dao.write_dataset("atlas", "a.h5ad", mode="add")  # a value
batches.gene_names  # an attribute
next(iter(batches)).X  # an attribute
dao.load_store("atlas").rename_datasets("a", "b")  # a method
"""
RIGHT = 3


class _Frames(ast.NodeTransformer):
    """Has ``x.dao`` be ``dao.frame(x)``, or of an expression ``dao.DaoExpr(x)``."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if not (isinstance(node.value, ast.Attribute) and node.value.attr == "dao"):
            return node
        of = "DaoExpr" if hasattr(dao.DaoExpr, node.attr) else "frame"
        called = ast.Attribute(ast.Name("dao", ast.Load()), of, ast.Load())
        node.value = ast.Call(called, [node.value.value], [])
        return node


def seen_by_checkers(code: str) -> str:
    return ast.unparse(ast.fix_missing_locations(_Frames().visit(ast.parse(code))))


def documents() -> dict[str, str]:
    """The code of each page and notebook, as one script."""
    found = {page.stem: "\n".join(block.code for block in blocks(page)) for page in PAGES}
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        found[path.stem] = "\n".join(c.source for c in cells if c.cell_type == "code")
    return {name: seen_by_checkers(code) for name, code in found.items()}


def pyright(folder: Path) -> list[tuple[str, int, str]]:
    """What pyright reports of the scripts in a folder: file, line and message."""
    settings = {"typeCheckingMode": "standard", "extraPaths": [str(ROOT)], "pythonVersion": "3.11"}
    settings |= {"reportMissingImports": False, "reportMissingModuleSource": False}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run([*command, "-p", "."], cwd=folder, capture_output=True, text=True)
    if not done.stdout.startswith("{"):  # it could not be had: it comes from npm
        pytest.skip(f"pyright: {(done.stderr or done.stdout)[-300:]}")
    return [
        (Path(d["file"]).name, d["range"]["start"]["line"] + 1, d["message"])
        for d in json.loads(done.stdout)["generalDiagnostics"]
        if d["severity"] == "error"
    ]


def mypy(folder: Path) -> list[tuple[str, int, str]]:
    """What mypy reports, likewise."""
    flags = ["--output=json", "--ignore-missing-imports", "--follow-untyped-imports"]
    flags += ["--cache-dir", str(folder / "cache"), "--python-executable", sys.executable]
    files = sorted(path.name for path in folder.glob("*.py"))
    command = [sys.executable, "-m", "mypy", *flags, *files]
    env = {"MYPYPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        (Path(r["file"]).name, r["line"], r["message"])
        for r in reports
        if r["severity"] == "error" and r["code"] != "assignment"
        if '"**dict[' not in r["message"]  # options in a dict of their own: all or none fit
    ]


CHECKERS = pytest.mark.parametrize("check", [pyright, mypy])


@CHECKERS
def test_a_misspelt_option_is_found(tmp_path, check):
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    (tmp_path / "wrong.py").write_text(WRONG.lstrip())
    lines = WRONG.strip().splitlines()
    found = {line for _, line, _ in check(tmp_path)}
    assert found == set(range(RIGHT + 1, len(lines) + 1))


@CHECKERS
def test_the_code_of_pages_and_notebooks_is_typed_right(tmp_path, check):
    scripts = documents()
    assert len(scripts) > 2
    for name, code in scripts.items():
        (tmp_path / f"{name.replace('-', '_')}.py").write_text(code)
    (tmp_path / "wrong.py").write_text(WRONG.lstrip())  # it does look
    found = check(tmp_path)
    assert any(file == "wrong.py" for file, _, _ in found)
    assert [e for e in found if e[0] != "wrong.py" and "dao" in _line(tmp_path, e)] == []


def _line(folder: Path, error: tuple[str, int, str]) -> str:
    return (folder / error[0]).read_text().splitlines()[error[1] - 1]


def test_options_are_those_of_iter_batches():
    """What type checkers are told of options that are handed on, and what there is."""
    wanted = inspect.signature(dao.DaoFrame.iter_batches).parameters.keys()
    handed_on = typing.get_type_hints(TensorOptions, localns={"Store": dao.Store})
    assert {"self", "batch_size", "transform", *handed_on} == {*wanted}
    assert {*handed_on} - BatchOptions.__annotations__.keys() == {"layout"}
