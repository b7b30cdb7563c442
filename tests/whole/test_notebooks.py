"""Every notebook in notebooks/ runs from a clean kernel, and is committed as it ran."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MINUTES = 5  # that no cell should need


def name(path: Path) -> str:
    return path.stem


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_it_runs_from_a_clean_kernel(path, tmp_path, monkeypatch):
    """In a copy, with this Python's own kernel, and without the user's Jupyter settings."""
    for variable in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    (tmp_path / "data").symlink_to(ROOT / "data")
    copy = tmp_path / "notebooks" / path.name
    copy.parent.mkdir()
    shutil.copy(path, copy)
    notebook = nbformat.read(copy, as_version=4)
    NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=60 * MINUTES,
        resources={"metadata": {"path": str(copy.parent)}},
    ).execute()  # raises CellExecutionError, which shows the cell and its traceback


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_it_is_committed_as_it_ran(path):
    assert path.stat().st_size < 1_000_000
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
