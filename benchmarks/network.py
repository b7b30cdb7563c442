"""A bucket of the stores on this machine, and the line to it: as long and as wide as asked.

Owns how the stores come to lie behind S3, and how the proxy of ``tests/line`` is built: as a
release, since a slow one would be the narrowest place of a wide line.

nginx reads files, and hands what asks for lists to s3s-fs. That alone would be the whole bucket,
but reads all of a file for its hash whenever a range of it is asked for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # for tests.*, which are imported where they are needed
PIECE = 8 << 20  # bytes of a request of ``width``

# nginx lists nothing itself: the server at {lists} is asked.
LISTINGS = """
keepalive_requests 1000000;
open_file_cache max=10000;
location / {{
  # Signed for the host that the client knows.
  proxy_set_header Host $http_host;
  if ($args ~ "list-type=") {{ proxy_pass http://{lists}; }}
}}
"""


class NoServerError(Exception):
    """With what is missing, and how to get it."""


@dataclass(frozen=True)
class Bucket:
    """``s3://bucket`` of the server at ``address``, with credentials for the environment."""

    address: str
    options: dict[str, str] = field(repr=False)

    def url(self, store: str) -> str:
        return f"s3://bucket/{store}"

    def environment(self, address: str) -> dict[str, str]:
        """Of who reads over a line that listens at ``address``."""
        options = {name.upper(): value for name, value in self.options.items()}
        region = options["AWS_REGION"]
        server = f"http://{address}"
        # Names that one or the other has: botocore, object_store, Lance.
        named = {"AWS_DEFAULT_REGION": region, "AWS_ENDPOINT": server, "AWS_ALLOW_HTTP": "true"}
        return options | named | {"AWS_ENDPOINT_URL": server}


@contextmanager
def bucket(stores: dict[str, Path], work: Path) -> Iterator[Bucket]:
    """A bucket with these stores, whose files are linked into a folder below ``work``.

    Raises:
        NoServerError: a server is not installed.
    """
    import pytest

    from tests.buckets import s3s_fs
    from tests.servers import nginx

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=work))).resolve()
        try:
            lists = stack.enter_context(s3s_fs(folder))
            for name, store in stores.items():
                shutil.copytree(store, folder / "bucket" / name, copy_function=link)
            also = LISTINGS.format(lists=lists.address)
            address = stack.enter_context(nginx(folder, folder / "nginx", also))
        except pytest.skip.Exception as error:
            raise NoServerError(str(error)) from None
        yield Bucket(address, lists.options)


def link(source: str, target: str) -> None:
    """The file once more, without its bytes where the file system can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def build_line() -> None:
    """Builds the proxy, which takes minutes the first time; ``DAO_TEST_LINE`` names a built one.

    Raises:
        NoServerError: it cannot be built.
    """
    if "DAO_TEST_LINE" in os.environ:
        return
    if shutil.which("cargo") is None:
        raise NoServerError("the line is built by cargo, which is not there: https://rustup.rs")
    print("building the line ...", flush=True)
    command = ["cargo", "build", "--quiet", "--release", "--example", "line"]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise NoServerError(f"{' '.join(command)} failed, see above")
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    name = "line.exe" if os.name == "nt" else "line"
    os.environ["DAO_TEST_LINE"] = str(target / "release" / "examples" / name)


@contextmanager
def line(to: Bucket, latency_ms: float, bytes_per_s: float) -> Iterator[Any]:
    """A line to the bucket, a ``tests.line.Line``."""
    from tests.line import line as begin

    with begin(to.address, latency_ms, bytes_per_s / 1e6) as begun:
        yield begun


def width(url: str, size: int, seconds: float = 1.0) -> float:
    """Bytes a second that come over a line when nobody does anything with them: ranges of 8 MiB of
    a file of this size, sixteen at a time, after a second in which connections are made."""
    came = [0] * 16
    end = time.perf_counter() + 1 + seconds

    def fetch(number: int) -> None:
        buffer = bytearray(1 << 20)
        at = number * PIECE
        while time.perf_counter() < end:
            first = at % max(size - PIECE, 1)
            span = f"bytes={first}-{min(first + PIECE, size) - 1}"
            with urllib.request.urlopen(
                urllib.request.Request(url, headers={"Range": span})
            ) as got:
                while n := got.readinto(buffer):
                    came[number] += n
            at += len(came) * PIECE

    with ThreadPoolExecutor(len(came)) as pool:
        done = [pool.submit(fetch, number) for number in range(len(came))]
        time.sleep(1)
        before, began = sum(came), time.perf_counter()
        time.sleep(seconds)
        rate = (sum(came) - before) / (time.perf_counter() - began)
        for one in done:
            one.result()
    return rate
