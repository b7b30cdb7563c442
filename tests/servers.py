"""Programs that tests start, each on a port of this machine; nginx, which serves a folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str | Path], port: int, env: dict[str, str] | None = None
) -> Iterator[None]:
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


NGINX = """
daemon off;
master_process off;
pid {own}/pid;
error_log {own}/error.log;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  client_body_temp_path {own}/body;
  proxy_temp_path {own}/proxy;
  fastcgi_temp_path {own}/fastcgi;
  uwsgi_temp_path {own}/uwsgi;
  scgi_temp_path {own}/scgi;
  sendfile on;
  server {{ listen 127.0.0.1:{port}; root {root}; {also} }}
}}
"""


@contextmanager
def nginx(root: Path, own: Path, also: str = "") -> Iterator[str]:
    """The address of an nginx that serves ``root``; what it writes goes to the folder ``own``.

    ``also`` is more of the server's configuration.
    """
    # Debian has it where a user's PATH does not look.
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    port = free_port()
    own.mkdir(parents=True, exist_ok=True)
    config = own / "nginx.conf"
    config.write_text(NGINX.format(own=own, port=port, root=root, also=also))
    command = [program, "-p", own, "-c", config, "-e", own / "error.log"]
    with running(command, port):
        yield f"127.0.0.1:{port}"
