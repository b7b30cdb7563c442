"""A store behind HTTP, served from this machine by a server that knows byte ranges."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

import dao_polars as dao
from tests.conftest import study

OPTIONS = {"allow_http": "true"}


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD of files below ``root``, whole or by range."""

    def __init__(self, root: Path, *args) -> None:
        self.root = root
        super().__init__(*args)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        path = self.root / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        size = len(content)
        if found:
            first, last = found.groups()
            start = int(first) if first else max(size - int(last), 0)
            stop = min(int(last) + 1 if first and last else size, size)
            content = content[start:stop]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{size}"')
        self.send_header("Last-Modified", "Sun, 22 Nov 2026 00:00:00 GMT")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def url(real_store) -> Iterator[str]:
    root = Path(real_store.uri).parent
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, root))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/{Path(real_store.uri).name}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_store_behind_a_url(url, real_store):
    store = dao.load_store(url + "/", storage_options=OPTIONS)
    assert store.uri == url
    assert store.id == real_store.id
    assert store.datasets.equals(real_store.datasets)
    assert store.uns("pbmc_human") == real_store.uns("pbmc_human")
    cells = [
        s.scan().filter(pl.col("dataset") == "pbmc_human", pl.col("cell_type") == "Monocytes")
        for s in (store, real_store)
    ]
    remote, local = (c.drop("cell").collect() for c in cells)
    assert remote.equals(local)
    remote, local = (c.dao.to_anndata(genes=["CD14", "LYZ"]) for c in cells)
    assert remote.n_obs > 50
    assert (remote.X != local.X).nnz == 0
    assert (remote.obs == local.obs).all().all()


def test_nothing_behind_a_url(url):
    with pytest.raises(dao.DaoError, match="no store"):
        dao.load_store(url + "/nothing", storage_options=OPTIONS)
    with pytest.raises(dao.DaoError, match=r"127\.0\.0\.1:9/x"):
        dao.load_store("http://127.0.0.1:9/x", storage_options={**OPTIONS, "timeout": "2s"})
    with pytest.raises(dao.DaoValueError, match="cannot write to"):
        dao.write_dataset(url, study(0, 3, ["a"]), dataset="d", progress=False)
