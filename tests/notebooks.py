"""How a notebook is run: from a clean kernel, in a folder of its own, beside the cells in data/.

``python -m tests.notebooks`` (``make notebooks``) runs those in notebooks/, or those that are
named, and saves what they show.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

#: What a notebook needs that not every developer has.
NEEDS = {"04_training": "torch"}
#: The tag of cells whose text is another one each time, such as that of memory; nbval's.
VARIES = "nbval-ignore-output"
LIMIT = 600  # seconds that no cell should need
TARGET = 120  # seconds that a notebook should need, on two cores


def lacks(path: Path) -> str | None:
    """The package that a notebook needs and that is not installed."""
    needed = NEEDS.get(path.stem)
    return needed if needed and importlib.util.find_spec(needed) is None else None


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def run(path: Path, folder: Path) -> NotebookNode:
    """A notebook as it is after a run in a folder, with this Python's own kernel.

    The user's Jupyter settings play no part, and there are no progress bars. Temporary folders of
    the run are shown as ``...``.
    """
    (folder / "data").symlink_to(ROOT / "data")
    copy, temporary = folder / "notebooks" / path.name, folder / "tmp"
    copy.parent.mkdir()
    temporary.mkdir()
    shutil.copy(path, copy)
    settings = {name: str(folder / name.lower()) for name in JUPYTER_SETTINGS}
    own = {"JUPYTER_PREFER_ENV_PATH": "1", "TQDM_DISABLE": "1", "TMPDIR": str(temporary)}
    notebook = nbformat.read(copy, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=LIMIT,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(copy.parent)}},
    )
    with patch.dict(os.environ, settings | own):
        client.execute()  # raises CellExecutionError, which shows the cell and its traceback
    notebook.metadata.language_info = {"name": "python"}  # and not this Python's version
    made = re.compile(re.escape(str(temporary)) + r"/\w+")
    for cell in code_cells(notebook):
        for holder, key, text in texts(cell):
            holder[key] = made.sub("...", text)
    return notebook


JUPYTER_SETTINGS = ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")


def texts(cell: NotebookNode) -> Iterator[tuple[NotebookNode, str, str]]:
    """Each text among what a cell shows, and where it is."""
    for output in cell.outputs:
        holder = output if output.output_type == "stream" else output.get("data", {})
        for key, value in list(holder.items()):
            if key == "text" or key.startswith("text/"):
                yield holder, key, value


def main() -> None:
    """Runs the notebooks that are named on the command line, else all, and saves them."""
    for path in [Path(name).resolve() for name in sys.argv[1:]] or NOTEBOOKS:
        if needed := lacks(path):
            print(f"{path.name}: not run, it needs {needed}")
            continue
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            notebook = run(path, Path(folder).resolve())
        took = time.perf_counter() - began
        nbformat.write(notebook, path)
        long = f"; it should take less than {TARGET}" if took > TARGET else ""
        print(f"{path.name}: {took:.0f} s{long}")


if __name__ == "__main__":
    main()
