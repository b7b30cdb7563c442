"""The line of the tests: what it counts, its length and width, and that faults do as they say."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.line import Line, line
from tests.webserver import Server, serving

SMALL, BIG = bytes(range(250)), os.urandom(8_000_000)
NO_ANSWER = (http.client.RemoteDisconnected, ConnectionError)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("line")
    (root / "small").write_bytes(SMALL)
    (root / "big").write_bytes(BIG)
    with serving(root, etag='"1"') as server:
        yield server


@pytest.fixture
def far(server: Server) -> Iterator[Line]:
    with line(server.address) as far:
        yield far


def connect(far: Line) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(far.address, timeout=30)


def get(
    far: Line, path: str = "/small", span: str = "", method: str = "GET"
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = connect(far)
    try:
        connection.request(method, path, headers={"Range": span} if span else {})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def ended(far: Line, n: int) -> None:
    """Waits until as many requests have ended: a client that hangs up is noticed a little later."""
    for _ in range(1000):
        if len(far.requests()) >= n:
            return
        time.sleep(0.01)
    raise AssertionError(f"{far.requests()}")


def test_what_goes_over_it_is_unchanged_and_counted(far: Line, server: Server) -> None:
    connection = connect(far)
    for path, span, body in [
        ("/small", "", SMALL),
        ("/big", "bytes=5-1000004", BIG[5:1_000_005]),
        ("/none", "", b""),
    ]:
        connection.request("GET", path, headers={"Range": span} if span else {})
        assert connection.getresponse().read() == body
    connection.request("HEAD", "/big")
    assert connection.getresponse().getheader("Content-Length") == str(len(BIG))
    assert get(far)[1] == SMALL
    stats = far.stats()
    assert stats["requests"] == {"GET": 4, "HEAD": 1}
    assert stats["statuses"] == {"200": 3, "206": 1, "404": 1}
    assert stats["bytes_down"] == 2 * len(SMALL) + 1_000_000
    assert stats["bytes_sent"] > stats["bytes_down"]
    assert (stats["connections"], stats["in_flight"], stats["most_in_flight"]) == (2, 0, 1)
    asked = [(r.method, r.path, r.range, r.status, r.bytes) for r in far.requests()]
    assert asked == [
        ("GET", "/small", "", 200, len(SMALL)),
        ("GET", "/big", "bytes=5-1000004", 206, 1_000_000),
        ("GET", "/none", "", 404, 0),
        ("HEAD", "/big", "", 200, 0),
        ("GET", "/small", "", 200, len(SMALL)),
    ]
    far.reset()
    assert far.stats() == {**stats, "requests": {}, "statuses": {}} | dict.fromkeys(
        ("bytes_down", "bytes_sent", "bytes_up", "connections", "most_in_flight"), 0
    )


def test_chunks_and_uploads_go_over_it(tmp_path: Path) -> None:
    """Bodies in chunks both ways, which end where their last chunk does, and one after another."""
    heard, pieces = [], [b"a" * 70_000, b"b", b"c" * 5]
    message = b"".join(b"%x;x=1\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\nX: y\r\n\r\n"

    def serve(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer, peer.makefile("rb") as file:
            for _ in range(2):
                got = b""
                while not got.endswith(b"0\r\nX: y\r\n\r\n"):
                    got += file.readline()
                heard.append(got)
                peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + message)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        with line(f"127.0.0.1:{listener.getsockname()[1]}") as far:
            connection = connect(far)
            for _ in range(2):
                head = {"Transfer-Encoding": "chunked"}
                connection.putrequest("PUT", "/x")
                for key, value in head.items():
                    connection.putheader(key, value)
                connection.endheaders()
                connection.send(message)
                assert connection.getresponse().read() == b"".join(pieces)
            thread.join()
            stats = far.stats()
    assert all(got.endswith(b"\r\n\r\n" + message) for got in heard)
    assert (stats["bytes_up"], stats["bytes_down"]) == (2 * len(message), 2 * len(message))
    assert stats["connections"] == 1


def test_a_round_trip_takes_the_latency_and_a_connection_one_more(server: Server) -> None:
    with line(server.address, latency_ms=50) as far:
        connection = connect(far)
        took = []
        for _ in range(3):
            begun = time.monotonic()
            connection.request("GET", "/small")
            connection.getresponse().read()
            took.append(time.monotonic() - begun)
        assert took[0] >= 0.1
        assert min(took[1:]) >= 0.05
        far.latency(0)
        far.reset()
        connection.request("GET", "/small")
        assert connection.getresponse().read() == SMALL


def test_the_width_is_shared(server: Server) -> None:
    """16 MB on two connections at 40 MB/s; the first millisecond or two may be made up for."""
    with line(server.address, mbytes_per_s=40) as far:
        bodies: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: bodies.append(get(far, "/big")[1])) for _ in range(2)
        ]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - begun >= 0.39
        assert bodies == [BIG, BIG]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_answers_of_its_own(far: Line, server: Server, method: str) -> None:
    far.fault(status=429, retry_after=7, code="SlowDown", path="/small", times=2)
    server.asked.clear()
    for _ in range(2):
        status, body, headers = get(far, method=method)
        assert (status, headers["Retry-After"]) == (429, "7")
        assert (b"<Code>SlowDown</Code>" in body) == (method == "GET")
    assert server.asked == []
    assert get(far, method=method)[0] == 200
    assert far.stats()["faults"] == 2


def test_which_requests_a_fault_meets(far: Line) -> None:
    far.fault(status=500, path="/small", skip=2, every=3, times=2)
    far.fault(status=503, method="HEAD")
    far.fault(status=404, range="bytes=7-")
    assert get(far, "/big", "bytes=7-9")[0] == 404
    assert get(far, "/big", method="HEAD")[0] == 503
    found = [get(far)[0] for _ in range(12)]
    assert [i for i, status in enumerate(found) if status == 500] == [4, 7]
    far.clear()
    assert get(far, method="HEAD")[0] == 200
    with pytest.raises(ValueError, match="unknown word"):
        far.fault(hush=True)
    with pytest.raises(ValueError, match="no fate"):
        far.fault(path="/small")


def test_resets(far: Line, server: Server) -> None:
    server.asked.clear()
    for when, asked in [("before", []), ("after", ["/small"])]:
        far.fault(reset=when, times=1)
        with pytest.raises(NO_ANSWER):
            get(far)
        assert server.asked == asked
    assert get(far)[1] == SMALL


@pytest.mark.parametrize(
    ("how", "error"), [("cut", ConnectionResetError), ("short", http.client.IncompleteRead)]
)
def test_bodies_that_stop(far: Line, how: str, error: type[Exception]) -> None:
    far.fault(**{how: 100, "times": 1})
    with pytest.raises((error, http.client.IncompleteRead)):
        get(far, "/big")
    ended(far, 1)
    assert [r.bytes for r in far.requests()] == [100]
    assert get(far, "/big")[1] == BIG


@pytest.mark.parametrize("how", ["length", "chunks"])
def test_bodies_without_end(far: Line, how: str) -> None:
    far.fault(endless=how, times=1)
    peer = socket.create_connection(far.address.split(":"))
    with peer, peer.makefile("rb") as file:
        peer.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += file.readline()
        assert (b"Content-Length: 250" in head) == (how == "length")
        assert (b"chunked" in head) == (how == "chunks")
        if how == "chunks":
            assert file.readline() == b"fa\r\n"
        assert file.read(250) == SMALL
        assert len(file.read(1_000_000)) == 1_000_000
    ended(far, 1)
    assert get(far)[1] == SMALL


def test_requests_that_hang(far: Line, server: Server) -> None:
    far.fault(hang=True)
    server.asked.clear()
    peers = [socket.create_connection(far.address.split(":")) for _ in range(2)]
    for peer in peers:
        peer.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n")
        peer.settimeout(0.2)
        with pytest.raises(TimeoutError):
            peer.recv(1)
    assert far.stats()["in_flight"] == 2
    peers[0].close()
    ended(far, 1)
    far.clear()
    peers[1].settimeout(30)
    assert peers[1].recv(1) == b""
    peers[1].close()
    assert server.asked == []
    assert get(far)[1] == SMALL


def test_bytes_that_trickle(far: Line) -> None:
    far.fault(slow=20, times=1)
    with socket.create_connection(far.address.split(":")) as peer:
        begun = time.monotonic()
        peer.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.3)
        sent = far.stats()["bytes_down"]
        assert 0 < sent <= 20 * (time.monotonic() - begun)
    ended(far, 1)


def again(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/small")
    connection.getresponse().read()


def test_a_server_that_is_gone_comes_back(far: Line) -> None:
    connection = connect(far)
    again(connection)
    far.down()
    with pytest.raises(NO_ANSWER):
        again(connection)
    with pytest.raises(ConnectionRefusedError):
        get(far)
    far.up()
    assert get(far)[1] == SMALL
