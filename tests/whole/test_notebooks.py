"""Every notebook in notebooks/ runs from a clean kernel, and is committed as it ran."""

from __future__ import annotations

import re
import symtable
import time
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tests.notebooks import NEEDS, NOTEBOOKS, VARIES, code_cells, lacks, run, texts
from tests.whole.test_readme import SIZE

#: Where this machine keeps what is its own.
PLACES = re.compile(r"(?<![\w.])/(tmp|home|root|work|mnt|private|Users|usr|var|opt)/")


def name(path: Path) -> str:
    return path.stem


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def shown(cell: NotebookNode) -> list[tuple[str, object]]:
    """What a cell shows, of each output its kinds and its text; sizes on disk may be others."""
    varies = VARIES in cell.metadata.get("tags", [])
    found: list[tuple[str, object]] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            kinds: object = output.name
            text = output.text
        else:
            kinds = sorted(output.get("data", {}))
            text = output.get("data", {}).get("text/plain", "")
        found.append((output.output_type, (kinds, "" if varies else SIZE.sub("(size)", text))))
    return found


def test_there_are_notebooks():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]
    assert NEEDS.keys() <= {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_it_runs_from_a_clean_kernel_and_shows_the_same(path, tmp_path, record_property):
    if needed := lacks(path):
        pytest.skip(f"{path.name} needs {needed}: pip install {needed}")
    began = time.perf_counter()
    ran = run(path, tmp_path)
    record_property("seconds", round(time.perf_counter() - began))
    for committed, found in zip(code_cells(read(path)), code_cells(ran), strict=True):
        assert committed.source == found.source
        assert shown(committed) == shown(found), f"run `make notebooks`:\n{found.source}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_it_is_committed_as_it_ran(path):
    cells = code_cells(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_it_shows_nothing_of_the_machine(path):
    found = [text for cell in code_cells(read(path)) for _, _, text in texts(cell)]
    assert found
    assert [text for text in found if PLACES.search(text)] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_it_works_in_marimo_too(path):
    """Which has no magics, and wants each name that does not begin with ``_`` from one cell."""
    homes: Counter[str] = Counter()
    for cell in code_cells(read(path)):
        table = symtable.symtable(cell.source, path.name, "exec")  # magics are a SyntaxError
        given = (symbol for symbol in table.get_symbols() if symbol.is_assigned())
        homes.update({s.get_name() for s in given} | _imported(table))
    assert [name for name, n in homes.items() if n > 1 and not name.startswith("_")] == []


def _imported(table: symtable.SymbolTable) -> set[str]:
    return {symbol.get_name() for symbol in table.get_symbols() if symbol.is_imported()}


def test_they_are_small():
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 3_000_000
