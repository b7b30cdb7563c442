"""A web server of this machine that serves a folder, for tests; it may be silent, slow or wrong."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    """Serves a folder, and notes what it was asked for.

    ``wrong`` may answer a request in its place, and says whether it did. ``asked`` are the paths
    of all requests, ``asked_as`` who asked, ``sent`` the bytes of bodies. ``silenced`` is set once
    somebody waits for an answer, ``closed`` when nobody is to wait any longer.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, root: Path, name: str, etag: str | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.name, self.etag = root, name, etag
        self.asked: list[str] = []
        self.asked_as: list[str | None] = []
        self.sent = 0
        self.wrong: Callable[[Handler], bool] = lambda _: False
        self.silenced, self.closed = threading.Event(), threading.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}/{self.name}".rstrip("/")

    def asked_for(self, pattern: str) -> list[str]:
        """The requests for paths like this."""
        return [path for path in self.asked if re.search(pattern, path)]

    def silent(self, pattern: str, first: int = 1) -> Callable[[Handler], bool]:
        """Says nothing to requests for paths like this, from the ``first``-th on."""

        def wrong(handler: Handler) -> bool:
            if not re.search(pattern, handler.path) or len(self.asked_for(pattern)) < first:
                return False
            self.silenced.set()
            self.closed.wait()
            return True

        return wrong

    def handle_error(self, *_: object) -> None:
        pass  # clients that went away


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD of files, whole or by range."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    @property
    def file(self) -> Path:
        return self.server.root / self.path.lstrip("/")

    def answer(self) -> None:
        self.server.asked.append(self.path)
        self.server.asked_as.append(self.headers.get("Authorization"))
        if self.server.wrong(self):
            self.close_connection = True
            return
        if not self.file.is_file():
            self.reply(404, b"")
            return
        data, wanted = self.file.read_bytes(), self.wanted()
        if wanted is None:
            self.reply(200, data)
        else:
            start, stop = wanted[0], min(wanted[1], len(data))
            part = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
            self.reply(206, data[start:stop], part)

    def wanted(self) -> tuple[int, int] | None:
        """The range that was asked for."""
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if found is None:
            return None
        first, last = found.groups()
        size = self.file.stat().st_size
        if not first:
            return max(0, size - int(last)), size
        return int(first), int(last) + 1 if last else size

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        everything = {"Content-Length": str(len(body)), **(headers or {})}
        everything["Last-Modified"] = "Wed, 21 Oct 2015 07:28:00 GMT"
        if self.server.etag is not None:
            everything["ETag"] = self.server.etag
        for key, value in everything.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.server.sent += len(body)
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(root: Path, name: str = "", etag: str | None = None) -> Iterator[Server]:
    """Serves ``root`` while it is entered; ``url`` is that of ``name`` in it."""
    server = Server(root, name, etag)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closed.set()
        server.shutdown()
        server.server_close()
        thread.join()
