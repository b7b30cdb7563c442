"""What a person sees in JupyterLab: outputs, tables, plots and progress bars are on the page.

JupyterLab runs in folders and on a port of its own; Debian's Chromium, without a window, opens a
notebook there and runs it from the menu. Screenshots are kept in the folder that DAO_SCREENSHOTS
names, else in target/screenshots.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest

from tests.notebooks import JUPYTER_SETTINGS, ROOT, code_cells

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
SCREENSHOTS = Path(os.environ.get("DAO_SCREENSHOTS") or ROOT / "target" / "screenshots")
FLAGS = [
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: All cells are on the page, those too that one would have to scroll to; nobody is asked for news.
SETTINGS = {
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}
MINUTE = 60_000  # as Playwright counts: milliseconds

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """A JupyterLab over a folder with the notebooks, without outputs, and what opens one there."""
    pytest.importorskip("jupyterlab", reason="needs jupyterlab: pip install jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    (folder / "data").symlink_to(ROOT / "data")
    (folder / "notebooks").mkdir()
    quickstart = nbformat.read(ROOT / "notebooks" / "01_quickstart.ipynb", as_version=4)
    for cell in code_cells(quickstart):
        cell.outputs, cell.execution_count = [], None
    nbformat.write(quickstart, folder / "notebooks" / "01_quickstart.ipynb")
    nbformat.write(bars(), folder / "notebooks" / "bars.ipynb")

    settings = folder / "jupyter_config_dir" / "labconfig"
    settings.mkdir(parents=True)
    (settings / "default_setting_overrides.json").write_text(json.dumps(SETTINGS))
    own = {name: str(folder / name.lower()) for name in JUPYTER_SETTINGS}
    own |= {"JUPYTER_PREFER_ENV_PATH": "1", "JUPYTERLAB_WORKSPACES_DIR": str(folder / "spaces")}
    own |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "TMPDIR": str(folder)}
    port, token = free_port(), secrets.token_hex(16)
    options = {
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": folder,
        "IdentityProvider.token": token,
        "ServerApp.allow_root": True,
        "ServerApp.open_browser": False,
        "LabApp.news_url": None,
        "LabApp.extension_manager": "readonly",  # which asks no registry
    }
    command = [sys.executable, "-m", "jupyterlab", *(f"--{k}={v}" for k, v in options.items())]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command, env=os.environ | own, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/api?token={token}", server, folder / "log")
        yield lambda name: f"{address}/lab/tree/notebooks/{name}.ipynb?reset&token={token}"
    finally:
        server.send_signal(signal.SIGTERM)  # on which it ends its kernels
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def bars() -> nbformat.NotebookNode:
    """A notebook of long work: with Jupyter's widgets if they are there, and without."""
    sources = [
        "import sys\nimport dao_polars as dao\nstudy = '../data/pancreas_human.h5ad'",
        "store = dao.write_dataset('bars', study, progress=True)",
        "adata = store.scan().dao.to_anndata(progress=True)",
        "sys.modules['ipywidgets'] = None  # as where they are not installed\n"
        "for name in [name for name in sys.modules if name.startswith('tqdm')]:\n"
        "    del sys.modules[name]",
        "counts = store.scan().dao.gene_stats(progress=True)",
        "store",
    ]
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in sources],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(120):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"JupyterLab does not answer:\n{log.read_text()}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Chromium with an empty profile, as wide as a laptop and long enough for a whole notebook."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install playwright"
    )
    with api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")),
            executable_path=CHROMIUM,
            headless=True,
            args=FLAGS,
            viewport={"width": 1280, "height": 900},
        )
        yield context
        context.close()


def run_all(browser, url: str, name: str):
    """The page of a notebook, all of whose cells were run from the menu; and its screenshot."""
    page = browser.new_page()
    page.goto(url)
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=MINUTE)
    page.get_by_text("| Idle").wait_for(timeout=MINUTE)  # the kernel, in the bar at the bottom
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    n = page.locator(".jp-Notebook .jp-CodeCell").count()
    try:
        page.wait_for_function(
            """n => {
                const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')];
                return prompts.filter(p => /^\\[\\d+\\]:$/.test(p.textContent)).length === n
                    || document.querySelector('.jp-OutputArea-output[data-mime-type*=error]');
            }""",
            arg=n,
            timeout=5 * MINUTE,
        )
    finally:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        height = page.evaluate(
            """() => {
                const panel = document.querySelector('.jp-WindowedPanel-outer');
                panel.scrollTop = 0;
                const cells = [...panel.querySelectorAll('.jp-Cell')];
                return Math.max(...cells.map(cell => cell.getBoundingClientRect().bottom));
            }"""
        )
        page.set_viewport_size({"width": 1280, "height": min(int(height) + 60, 16_000)})
        page.wait_for_timeout(500)
        page.screenshot(path=SCREENSHOTS / f"{name}.png")
    errors = page.locator(".jp-OutputArea-output[data-mime-type*=error]")
    assert errors.count() == 0, errors.first.inner_text()
    return page


def test_the_quickstart_is_on_the_page(lab, browser):
    page = run_all(browser, lab("01_quickstart"), "01_quickstart")
    committed = nbformat.read(ROOT / "notebooks" / "01_quickstart.ipynb", as_version=4)
    outputs = [output for cell in code_cells(committed) for output in cell.outputs]
    kinds = [set(output.get("data", {})) for output in outputs]

    plots = page.locator(".jp-OutputArea-output img")
    assert plots.count() == sum("image/png" in kind for kind in kinds) > 2
    drawn = "images => images.every(image => image.complete && image.naturalWidth > 200)"
    assert plots.evaluate_all(drawn)

    html = page.locator(".jp-OutputArea-output.jp-RenderedHTML:visible")
    assert html.count() >= sum("text/html" in kind for kind in kinds) > 2
    store = page.locator(".jp-OutputArea-output", has_text="pancreas_mouse").first
    assert "5,664 cells" in store.inner_text()
    rows = store.locator("table tbody tr")
    assert rows.count() == 4
    assert rows.first.is_visible()
    assert rows.first.bounding_box()["height"] > 10

    text = page.locator(".jp-Notebook").inner_text()
    assert "AnnData object with n_obs × n_vars = 1932 × 20125" in text
    assert "of the fourth donor's cells get the right type" in text
    page.close()


def test_progress_bars_are_on_the_page(lab, browser):
    page = run_all(browser, lab("bars"), "bars")
    outputs = [page.locator(".jp-CodeCell").nth(i).locator(".jp-OutputArea") for i in range(6)]
    for output, label in ((outputs[1], "writing 'pancreas_human'"), (outputs[2], "to_anndata")):
        output.get_by_text("100%").wait_for(timeout=MINUTE)
        assert label in output.inner_text().replace("\u2007", " ")  # tqdm's blanks do not break
        bar = output.locator(".widget-hprogress").first
        assert bar.is_visible()
        assert bar.bounding_box()["width"] > 100
    plain = outputs[4].inner_text()
    assert "100%" in plain
    assert "gene_stats" in plain
    assert page.locator('.jp-OutputArea-output[data-mime-type*="stderr"]').count() == 0  # red
    page.close()
