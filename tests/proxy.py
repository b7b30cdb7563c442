"""A proxy of this machine in front of a server of buckets, which may lose requests and answers."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fate = str
"""What becomes of a request: "" it is answered, "lost" it is not done, "unanswered" it is done."""


class Proxy(ThreadingHTTPServer):
    """Hands requests on to the server at ``address``.

    ``fate`` says by method and path what becomes of one. Puts that must not replace anything are
    handed on one at a time: s3s-fs looks whether the object is there and writes it then, so of two
    at once it lets both. ``asked`` are methods and paths of all requests.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.server = address
        self.fate: Callable[[str, str], Fate] = lambda *_: ""
        self.one_at_a_time = threading.Lock()
        self.asked: list[tuple[str, str]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        pass  # clients that went away


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path))
        fate = self.server.fate(self.command, self.path)
        if fate == "lost":
            self.hang_up()
            return
        if self.headers.get("If-None-Match"):
            with self.server.one_at_a_time:
                response, answer = self.asked_of_server(body)
        else:
            response, answer = self.asked_of_server(body)
        if fate == "unanswered":
            self.hang_up()
            return
        self.send_response_only(response.status)
        for key, value in response.getheaders():
            if key.lower() not in {"transfer-encoding", "connection", "content-length"}:
                self.send_header(key, value)
        if self.command == "HEAD":
            self.send_header("Content-Length", response.getheader("Content-Length") or "0")
        else:
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = hand_on  # noqa: N815

    def asked_of_server(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(self.server.server, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for key, value in self.headers.items():  # Host among them, which is signed
            if key.lower() != "connection":
                connection.putheader(key, value)
        connection.endheaders(body)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response, answer

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def in_front_of(address: str) -> Iterator[Proxy]:
    """A proxy in front of the server at ``address`` until it is left."""
    proxy = Proxy(address)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
