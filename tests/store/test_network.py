"""Networks and servers that are silent, slow, wrong or hostile; passwords in addresses."""

from __future__ import annotations

import pickle
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import polars as pl
import pytest

import dao_polars as dao
from tests.conftest import study
from tests.webserver import Handler, Server, serving

GENES = [f"g{i}" for i in range(400)]
"""So many that the shards are no part of the outline."""
FAST = {"retry_timeout_ms": "1500"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("web")
    for seed, dataset in enumerate(["a", "b"]):
        adata = study(seed, 2000, GENES, high=200)
        dao.write_dataset(root / "store", adata, dataset=dataset, progress=False)
    return root


@pytest.fixture
def server(root: Path) -> Iterator[Server]:
    with serving(root, "store", etag='"1"') as server:
        yield server


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


CELLS = "store.scan()"
CALLS = {
    "load_store": (r"/versions/", "dao.load_store(url)"),
    "scan": (r"obs\.parquet", f"{CELLS}.collect()"),
    "scan, streaming": (r"obs\.parquet", f"{CELLS}.collect(engine='streaming')"),
    "var": (r"var\.parquet", "store.var('a')"),
    "iter_batches": (r"/c/", f"next(iter({CELLS}.dao.iter_batches(batch_size=8)))"),
    "to_anndata": (r"/c/", f"{CELLS}.dao.to_anndata()"),
    "gene": (r"/c/", f"{CELLS}.select(dao.gene('g1')).collect(engine='in-memory')"),
    "gene, streaming": (r"/c/", f"{CELLS}.select(dao.gene('g1')).collect(engine='streaming')"),
    "gene of few": (r"/c/", f"{CELLS}.head(5).collect().select(dao.gene('g1'))"),
    "pseudobulk": (r"/c/", f"{CELLS}.dao.pseudobulk('cell_type')"),
    "verify": (r"/c/", "store.verify()"),
    # Matrices are opened by who asks, and read by threads that he waits for and then joins.
    "iter_batches, threads": (r"/X/data/c/", f"list({CELLS}.dao.iter_batches(batch_size=8))"),
    "to_anndata, threads": (r"/X/data/c/", f"{CELLS}.dao.to_anndata()"),
    "pseudobulk, threads": (r"/X/data/c/", f"{CELLS}.dao.pseudobulk('cell_type')"),
    "gene, threads": (r"/X/data/c/", f"{CELLS}.select(dao.gene('g1')).collect()"),
}
SCRIPT = """
import sys, time
import polars as pl
import dao_polars as dao
url = sys.argv[1]
store = dao.load_store(url) if {opens} else None
try:
    try:
        {call}
    except Exception as error:  # of polars, which wraps errors; Python's own follows it at once
        for _ in range(1000):
            pass
        print(type(error), error)
    else:
        print("done")
except KeyboardInterrupt:
    try:
        print("interrupted", time.monotonic(), flush=True)
    except KeyboardInterrupt:  # polars may have raised the first
        print("interrupted", time.monotonic())
"""


@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c_ends_every_wait(server: Server, name: str) -> None:
    pattern, call = CALLS[name]
    server.wrong = server.silent(pattern)
    script = SCRIPT.format(opens=name != "load_store", call=call)
    process = subprocess.Popen(
        [sys.executable, "-c", script, server.url], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.silenced.wait(60), "nothing was asked for"
        time.sleep(0.3)
        begun = time.monotonic()  # a clock of the machine, so of the child too
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    said, at = out.split()[:2]
    assert said == "interrupted"
    assert float(at) - begun < 0.5


def test_what_a_handler_raises_is_what_comes(server: Server) -> None:
    server.wrong = server.silent(r"/versions/")
    script = textwrap.dedent("""
        import signal, sys
        import dao_polars as dao
        def alarm(*_):
            raise TimeoutError("enough")
        signal.signal(signal.SIGALRM, alarm)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        try:
            dao.load_store(sys.argv[1])
        except TimeoutError as error:
            print(error)
        signal.signal(signal.SIGALRM, lambda *_: print("went on"))
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        try:
            dao.load_store(sys.argv[1], storage_options={"retry_timeout_ms": "1500"})
        except dao.DaoIOError:
            print("too slow")
    """)
    command = [sys.executable, "-c", script, server.url]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert out.splitlines() == ["enough", "went on", "too slow"]


def test_a_silent_server_has_a_deadline(server: Server) -> None:
    server.wrong = server.silent(r"/versions/")
    with at_most(15), pytest.raises(dao.DaoIOError, match=r"no answer in .* s.*retry_timeout_ms"):
        dao.load_store(server.url, storage_options=FAST)


def test_bytes_that_trickle_have_a_deadline(server: Server) -> None:
    def trickle(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        handler.end_headers()
        while not server.closed.wait(0.1):
            handler.wfile.write(b" ")
        return True

    server.wrong = trickle
    with at_most(15), pytest.raises(dao.DaoIOError, match="no answer in"):
        dao.load_store(server.url, storage_options=FAST)


@pytest.mark.parametrize("length", ["chunked", "9000000000000000000", "20"])
@pytest.mark.parametrize("status", [200, 500])
def test_bodies_without_end(server: Server, length: str, status: int) -> None:
    sent = 0

    def endless(handler: Handler) -> bool:
        nonlocal sent
        handler.send_response(status)
        handler.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        if length == "chunked":
            handler.send_header("Transfer-Encoding", "chunked")
        else:
            handler.send_header("Content-Length", length)
        handler.end_headers()
        block = b" " * (1 << 16)
        while not server.closed.is_set() and sent < 1 << 28:
            head = b"10000\r\n" if length == "chunked" else b""
            handler.wfile.write(head + block + (b"\r\n" if head else b""))
            sent += len(block)
        return True

    server.wrong = endless
    options = {**FAST, "max_retries": "0"}
    with at_most(15), pytest.raises(dao.DaoError):
        dao.load_store(server.url, storage_options=options)
    assert sent < 1 << 26


def read_all(server: Server) -> pl.DataFrame:
    store = dao.load_store(server.url, storage_options=FAST)
    keys = dao.load_store(server.root / "store").scan().collect()
    adata = keys.dao.to_anndata(store=store, genes=GENES, progress=False)
    return pl.DataFrame(adata.X.toarray())


LIES = {
    "ignores": "Range request not supported",
    "another": r"Requested \S+, got",
    "short": "ends after",
    "long": "goes on after",
}
"""What is said of ranges that are not what was asked for: their checksums would be wrong, too."""


@pytest.mark.parametrize("how", LIES)
def test_servers_that_lie_about_ranges(server: Server, how: str) -> None:
    def wrong(handler: Handler) -> bool:
        if "/c/" not in handler.path or handler.wanted() is None:
            return False
        data = handler.file.read_bytes()
        start, stop = handler.wanted() or (0, 0)
        stop = min(stop, len(data))
        said = f"bytes {start}-{stop - 1}/{len(data)}"
        part = data[start:stop]
        if how == "ignores":
            handler.reply(200, data)
        elif how == "another":
            said = f"bytes {start + 1}-{stop}/{len(data) + 1}"
            handler.reply(206, part, {"Content-Range": said})
        elif how == "short":
            handler.reply(206, part[:-1], {"Content-Range": said})
        else:
            handler.reply(206, part + b"more", {"Content-Range": said})
        return True

    right = read_all(server)
    assert right.to_numpy().any()
    server.wrong = wrong
    with at_most(30), pytest.raises(dao.DaoIOError, match=rf"/c/.*{LIES[how]}"):
        read_all(server)


def test_redirects_go_round_or_on(server: Server) -> None:
    def to(root: str) -> Callable[[Handler], bool]:
        def wrong(handler: Handler) -> bool:
            if "/moved/" not in handler.path:
                return False
            handler.reply(302, b"", {"Location": root + handler.path.removeprefix("/moved")})
            return True

        return wrong

    url = f"http://{server.address}/moved/store"
    server.wrong = to("/moved")
    with at_most(15), pytest.raises(dao.DaoIOError, match="path 'http"):
        dao.load_store(url, storage_options=FAST)
    server.wrong = to("")
    assert dao.load_store(url).datasets.height == 2


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("kind", ["seconds", "date"])
def test_a_busy_server_is_given_its_time(server: Server, status: int, kind: str) -> None:
    at: list[float] = []

    def busy(handler: Handler) -> bool:
        if not handler.path.endswith("/latest"):
            return False
        at.append(time.monotonic())
        if len(at) > 1:
            return False
        asked = "2" if kind == "seconds" else formatdate(time.time() + 4, usegmt=True)
        handler.reply(status, b"", {"Retry-After": asked})
        return True

    server.wrong = busy
    assert dao.load_store(server.url).datasets.height == 2
    assert len(at) == 2
    assert at[1] - at[0] >= 2


def test_a_server_that_is_busy_for_long_is_not_waited_for(server: Server) -> None:
    def busy(handler: Handler) -> bool:
        handler.reply(503, b"", {"Retry-After": "7200"})
        return True

    server.wrong = busy
    with at_most(15), pytest.raises(dao.DaoIOError, match="asks to wait for 7200 s"):
        dao.load_store(server.url)
    assert len(server.asked) == 1


def test_a_server_that_recovers(server: Server) -> None:
    def failing(handler: Handler) -> bool:
        if len(server.asked) > 2:
            return False
        handler.reply(500, b"")
        return True

    server.wrong = failing
    assert dao.load_store(server.url).datasets.height == 2
    assert len(server.asked_for("/latest$")) == 3
    server.asked.clear()
    with pytest.raises(dao.DaoIOError, match="500"):
        dao.load_store(server.url, storage_options={"max_retries": "1"})
    assert len(server.asked) == 2


def test_passwords_are_used_and_not_seen(server: Server, tmp_path: Path) -> None:
    url = f"http://me:hush%40hush@{server.address}/store"
    store = dao.load_store(url)
    assert store.uri == server.url
    assert set(server.asked_as) == {"Basic bWU6aHVzaEBodXNo"}
    lf = store.scan()
    frame = lf.select("cell", gene=dao.gene("g1")).collect()
    frame.write_parquet(tmp_path / "cells.parquet")
    seen = [repr(store), store._repr_html_(), lf.explain(), str(frame.schema), store.uri]
    for text in seen:
        assert "hush" not in text
    assert b"hush" not in (tmp_path / "cells.parquet").read_bytes()
    again = pickle.loads(pickle.dumps(store))
    assert again.uri == server.url
    assert lf.select("cell").collect().height == 4000
    with pytest.raises(dao.DaoError) as caught:
        dao.load_store(f"{url}/nothing")
    assert "hush" not in str(caught.value)
    with pytest.raises(dao.DaoError) as caught:
        dao.write_dataset(url, study(0, 3, ["a"]), dataset="d", progress=False)
    assert "hush" not in str(caught.value)


def test_what_a_server_says_is_shown_without_secrets(server: Server) -> None:
    """Servers of S3 repeat in their errors what they were asked with."""
    secrets = {"access_key_id": "AKIAhush", "secret_access_key": "hush/hush", "token": "hushhush"}
    said = b"".join(f"<{key}>{value}</{key}>".encode() for key, value in secrets.items())

    def wrong(handler: Handler) -> bool:
        signed = handler.headers.get("Authorization", "").encode()
        handler.reply(403, b"<Error>no " + said + b"?X-Amz-Signature=hush " + signed + b"</Error>")
        return True

    server.wrong = wrong
    options = {f"aws_{key}": value for key, value in secrets.items()}
    options |= {"endpoint_url": f"http://{server.address}", "region": "a", "allow_http": "true"}
    with pytest.raises(dao.DaoIOError, match="<Error>no ") as caught:
        dao.load_store("s3://bucket/store", storage_options={**FAST, **options})
    assert any("AKIAhush" in (asked or "") for asked in server.asked_as)
    text = str(caught.value)
    assert "hush" not in text, text


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("http://me:hush@127.0.0.1:9/a.h5ad", "http://127.0.0.1:9/a.h5ad"),
        ("https://host/a.zarr?sig=hush", "without '?' and '#' is needed"),
        ("https://host/a?sig=hush/a.zarr", "without '?' and '#' is needed"),
        ("s3://key:hush@bucket/a.h5ad", "a password in the address"),
    ],
)
def test_a_source_that_is_an_address_is_not_echoed(source: str, why: str, tmp_path: Path) -> None:
    once = {"max_retries": 0}
    with pytest.raises(dao.DaoError, match=re.escape(why)) as caught:
        dao.write_dataset(tmp_path / "s", source, source_options=once, progress=False)
    assert "hush" not in str(caught.value)
    with pytest.raises(dao.DaoTypeError) as caught:
        dao.load_store(source.encode())  # type: ignore[arg-type]
    assert "hush" not in str(caught.value)


AGAIN = {
    "max_retries": "1",
    "retry_timeout_ms": "30000",
    "retry_init_backoff_ms": "10",
    "retry_max_backoff_ms": "20",
    "retry_base_multiplier": "1.5",
}


@pytest.mark.parametrize("remote", [True, False])
def test_options_for_trying_again_suit_all_readers(server: Server, remote: bool) -> None:
    uri = server.url if remote else str(server.root / "store")
    store = dao.load_store(uri, storage_options=AGAIN)
    assert store.scan().collect().height == 4000
    assert store.scan().select("cell").head(5).dao.to_anndata(store=store).shape == (5, len(GENES))
    assert store.verify().is_empty()
    again = pickle.loads(pickle.dumps(store))
    assert again.scan().filter(pl.col("dataset") == "b").collect().height == 2000


@pytest.mark.parametrize("name", AGAIN)
@pytest.mark.parametrize("value", ["hush", "-1", "nan", ""])
def test_options_for_trying_again_are_checked(server: Server, name: str, value: str) -> None:
    with pytest.raises(dao.DaoValueError, match=name) as caught:
        dao.load_store(server.url, storage_options={name: value})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "options", "named"),
    [
        ("https://host/store?sig=hush", {}, "sas_token"),
        ("http://me:hu/hush@host/store", {}, "http://…"),
        ("s3://key:hush@bucket/store", {}, "storage_options"),
        ("http://127.0.0.1:9/store", {"timeout": "hush"}, "timeout"),
        ("http://127.0.0.1:9/store", {"max_retries": "hush"}, "max_retries"),
        ("az://container/store", {"account_name": "a", "access_key": "hush!"}, "access_key"),
    ],
)
def test_secrets_are_not_echoed(url: str, options: dict[str, str], named: str) -> None:
    with pytest.raises(dao.DaoValueError, match=named) as caught:
        dao.load_store(url, storage_options=options)
    assert "hush" not in str(caught.value)
