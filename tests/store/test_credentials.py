"""Who is asked as: options in all spellings, the environment, profiles, roles, on real servers.

Which of them wins is tested beside the code (`src/storage/remote/credentials/tests.rs`). Here it is
that a server lets in who has the right ones: s3s-fs and Azurite check signatures.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import numpy as np
import polars as pl
import pytest

import dao_polars as dao
from tests.buckets import KEY, SECRET, Bucket, azurite, s3s_fs
from tests.cli import program
from tests.conftest import study
from tests.webserver import Handler, Server, serving

GENES = [f"g{i}" for i in range(20)]
ROOT = Path(__file__).parents[2]
QUICK = {"max_retries": 1, "retry_timeout_ms": 4000}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with s3s_fs(tmp_path_factory.mktemp("s3")) as bucket:
        write(bucket)
        yield bucket


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with azurite(tmp_path_factory.mktemp("azure")) as bucket:
        write(bucket)
        yield bucket


def write(bucket: Bucket) -> None:
    adata = study(1, 60, GENES)
    dao.write_dataset(
        bucket.uri, adata, dataset="a", storage_options=bucket.options, progress=False
    )


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment without credentials; the user's folder is empty."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "HF_", "IDENTITY_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def environment(**variables: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, **variables}


def run(code: str, *words: str, **variables: str) -> str:
    """What Python prints, in an environment of its own."""
    command = [sys.executable, "-c", code, *words]
    ran = subprocess.run(command, env=environment(**variables), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert SECRET not in ran.stdout + ran.stderr
    return ran.stdout


def of_environment(s3: Bucket) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{s3.address}",
    }


READ = """
import sys, dao_polars as dao
x = dao.scan(sys.argv[1]).dao.to_anndata(progress=False).X
print(x.shape[0], int(x.sum()))
"""


def expected() -> str:
    x = study(1, 60, GENES).X
    return f"{x.shape[0]} {int(x.sum())}\n"


@pytest.mark.parametrize(
    "endpoint", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"], ids=lambda name: name
)
def test_the_environment_is_enough(s3: Bucket, endpoint: str) -> None:
    variables = of_environment(s3)
    variables[endpoint] = variables.pop("AWS_ENDPOINT_URL")
    assert run(READ, s3.uri, **variables) == expected()


def test_a_saved_selection_is_read_with_the_environment_alone(s3: Bucket, tmp_path: Path) -> None:
    saved = tmp_path / "selection.parquet"
    cells = dao.scan(s3.uri, storage_options=s3.options)
    cells.filter(pl.col("obs_name") == "s1-7").collect().write_parquet(saved)
    again = """
import sys, polars as pl, dao_polars as dao
cells = pl.scan_parquet(sys.argv[1])
batch = next(iter(cells.dao.iter_batches(8)))
print(batch.x.sum(), cells.with_columns(g=dao.gene("g3")).collect()["g"].to_list())
"""
    row = study(1, 60, GENES).X.toarray()[7]
    total, gene = run(again, str(saved), **of_environment(s3)).split(" ", 1)
    assert float(total) == row.sum()
    assert json.loads(gene) == [row[3]]


def test_a_pickled_store_has_no_credentials_of_the_environment(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in of_environment(s3).items():
        monkeypatch.setenv(name, value)
    store = dao.load_store(s3.uri)
    pickled = pickle.dumps(store)
    assert SECRET.encode() not in pickled
    assert SECRET.encode() not in store.scan().serialize()
    assert pickle.loads(pickled).n_obs == 60


@pytest.mark.parametrize("how", ["variable", "option"])
def test_a_profile_is_enough(s3: Bucket, nobody: Path, how: str) -> None:
    files = nobody / ".aws"
    files.mkdir()
    (files / "credentials").write_text(
        f"[lab]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    )
    (files / "config").write_text(
        f"[profile lab]\nregion = us-east-1\nservices = own\n"
        f"[services own]\ns3 =\n  endpoint_url = http://{s3.address}\n"
    )
    if how == "variable":
        assert run(READ, s3.uri, AWS_PROFILE="lab") == expected()
        assert "60 cells" in program.run("info", s3.uri, env={"AWS_PROFILE": "lab"}).stdout
    else:
        store = dao.load_store(s3.uri, storage_options={"profile": "lab"})
        assert (store.n_obs, store._storage_options) == (60, {"profile": "lab"})
        shown = program.run("info", s3.uri, "--storage-option", "aws_profile=lab")
        assert "60 cells" in shown.stdout, shown.stderr
    with pytest.raises(dao.DaoValueError, match=r"no profile 'other'.* found lab\. Write"):
        dao.load_store(s3.uri, storage_options={"aws_profile": "other"})


def spellings(s3: Bucket) -> dict[str, dict[str, Any]]:
    url = f"http://{s3.address}"
    return {
        "object_store": {**s3.options, "allow_http": True, "aws_session_token": None},
        "short": {
            "access_key_id": KEY,
            "secret_access_key": SECRET,
            "endpoint": url,
            "region": "us-east-1",
            "max_retries": np.int64(2),
            "timeout": 30,
        },
        "s3fs": {
            "key": KEY,
            "secret": SECRET,
            "token": None,
            "anon": False,
            "client_kwargs": {"region_name": "us-east-1", "endpoint_url": url},
        },
        "s3fs, of late": {"key": KEY, "secret": SECRET, "endpoint_url": url, "use_ssl": False},
        "of several clouds": {**s3.options, "account_key": "x", "google_project": "y"},
    }


@pytest.mark.parametrize("whose", ["object_store", "short", "s3fs", "s3fs, of late"])
def test_what_others_write_works(s3: Bucket, whose: str) -> None:
    options = spellings(s3)[whose]
    assert dao.load_store(s3.uri, storage_options=options).n_obs == 60
    cells = dao.scan(s3.uri, storage_options=options).dao.to_anndata(progress=False)
    assert (cells.X != study(1, 60, GENES).X).nnz == 0


def test_options_win_over_the_environment(s3: Bucket) -> None:
    code = """
import sys, dao_polars as dao
options = {"key": "key", "secret": "n0t-it", "max_retries": 0}
try:
    dao.load_store(sys.argv[1], storage_options=options)
except dao.DaoIOError as error:
    print(error)
"""
    text = run(code, s3.uri, **of_environment(s3))
    assert 'storage_options["key"]' in text
    assert "n0t-it" not in text


def test_who_is_nobody_is_told_how_to_be_somebody(s3: Bucket) -> None:
    options = {
        **QUICK,
        "endpoint_url": f"http://{s3.address}",
        "metadata_endpoint": "http://127.0.0.1:9",
    }
    with pytest.raises(dao.DaoIOError, match="none are in storage_options, the environment or a"):
        dao.load_store(s3.uri, storage_options=options)
    with pytest.raises(dao.DaoIOError, match=r'those of storage_options\["anon"\]'):
        dao.load_store(s3.uri, storage_options={**options, "anon": True})


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        (
            {"acces_key_id": "hush"},
            dao.DaoValueError,
            r'\["acces_key_id"\] is unknown.*"access_key_id"',
        ),
        ({"credential_provider": object()}, dao.DaoValueError, "No function of polars is called"),
        (
            {"config_kwargs": {"s3": {"x": "hush"}}},
            dao.DaoValueError,
            "virtual_hosted_style_request",
        ),
        ({"default_block_size": 1}, dao.DaoValueError, "leave it out"),
        (
            {"key": "hush", "access_key_id": "hush2", "secret": "x"},
            dao.DaoValueError,
            "mean the same",
        ),
        ({"key": ["hush"]}, dao.DaoTypeError, "found list; expected text"),
        ({"timeout": float("nan")}, dao.DaoValueError, "not a finite number"),
        ({"key": b"hush"}, dao.DaoTypeError, "found bytes"),
        ({1: "hush"}, dao.DaoTypeError, "a name is int"),
        (lambda: {"key": "hush"}, dao.DaoTypeError, "what a credential provider gives"),
        (["hush"], dao.DaoTypeError, "expected a dict, found list"),
    ],
)
def test_what_cannot_be_used_is_named_unseen(options: Any, error: type, why: str) -> None:
    with pytest.raises(error, match=why) as caught:
        dao.load_store("s3://bucket/a", storage_options=options)
    assert "hush" not in str(caught.value)


def test_the_command_line_says_it_in_its_words(s3: Bucket) -> None:
    ran = program.run("info", s3.uri, "--storage-option", "acces_key_id=hush")
    assert "--storage-option acces_key_id is unknown" in ran.stderr
    assert "hush" not in ran.stderr


# --- roles: servers that give out keys


class Roles(BaseHTTPRequestHandler):
    """What a container and an instance ask for their role's keys."""

    def do_PUT(self) -> None:
        self.reply("session")

    def do_GET(self) -> None:
        known = {"Authorization": "t0ken", "X-aws-ec2-metadata-token": "session"}
        if not any(self.headers.get(name) == value for name, value in known.items()):
            self.send_error(401)
        elif self.path.endswith("/security-credentials/"):
            self.reply("role")
        else:
            keys = {"AccessKeyId": KEY, "SecretAccessKey": SECRET, "Token": "s"}
            self.reply(
                json.dumps({**keys, "Expiration": "2100-01-01T00:00:00Z", "Code": "Success"})
            )

    def reply(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def roles() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Roles)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_role_of_a_machine_is_enough(s3: Bucket, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t0ken")
    where = {"AWS_ENDPOINT_URL": f"http://{s3.address}", "AWS_REGION": "us-east-1"}
    with roles() as url:
        container = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{url}/keys",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
        }
        for role in (container, {"AWS_METADATA_ENDPOINT": url}):
            assert run(READ, s3.uri, **where, **role) == expected()


# --- Azure


def connection_string(azure: Bucket) -> str:
    return (
        f"DefaultEndpointsProtocol=http;AccountName={KEY};AccountKey={SECRET};"
        f"BlobEndpoint={azure.options['azure_endpoint']};"
    )


def test_a_connection_string_is_enough(azure: Bucket) -> None:
    text = connection_string(azure)
    assert run(READ, azure.uri, AZURE_STORAGE_CONNECTION_STRING=text) == expected()
    for name in ("connection_string", "azure_storage_connection_string"):
        store = dao.load_store(azure.uri, storage_options={name: text})
        assert store.n_obs == 60
        assert SECRET not in repr(store)


def test_the_environment_of_azure_is_enough(azure: Bucket) -> None:
    variables = {
        "AZURE_STORAGE_ACCOUNT_NAME": KEY,
        "AZURE_STORAGE_ACCOUNT_KEY": SECRET,
        "AZURE_STORAGE_ENDPOINT": azure.options["azure_endpoint"],
    }
    assert run(READ, azure.uri, **variables) == expected()
    short = {
        "account_name": KEY,
        "account_key": SECRET,
        "endpoint": azure.options["azure_endpoint"],
    }
    assert dao.load_store(azure.uri, storage_options=short).n_obs == 60


# --- Google


def of_google(handler: Handler) -> bool:
    """Names as Google's are, and the list of a folder."""
    path, _, query = handler.path.partition("?")
    handler.path = unquote(path)
    if "list-type=2" not in query:
        return False
    prefix = parse_qs(query)["prefix"][0]
    root = handler.server.root / "bucket"
    files = [p for p in (root / prefix).glob("*") if p.is_file()]
    listed = "".join(
        f"<Contents><Key>{p.relative_to(root)}</Key><Size>{p.stat().st_size}</Size>"
        "<LastModified>2015-10-21T07:28:00.000Z</LastModified></Contents>"
        for p in files
    )
    body = f"<ListBucketResult>{listed}</ListBucketResult>"
    handler.reply(200, body.encode(), {"Connection": "close"})
    return True


@pytest.fixture
def google(tmp_path: Path) -> Iterator[Server]:
    root = tmp_path / "google"
    dao.write_dataset(root / "bucket" / "atlas", study(1, 60, GENES), dataset="a", progress=False)
    with serving(root, etag='"1"') as server:
        server.wrong = of_google
        yield server


def test_who_asks_google(google: Server, tmp_path: Path) -> None:
    file = tmp_path / "account.json"
    keys = {"client_email": "", "private_key": "", "private_key_id": ""}
    file.write_text(json.dumps({**keys, "disable_oauth": True, "gcs_base_url": google.url}))
    broken = tmp_path / "broken.json"
    broken.write_text("hush")
    at = {"google_base_url": google.url}
    for options, who in (
        ({**at, "bearer_token": "ya29.x"}, "Bearer ya29.x"),
        ({**at, "token": "ya29.x"}, "Bearer ya29.x"),
        ({**at, "token": "anon"}, None),
        ({**at, "anon": True}, None),
        ({"google_service_account": file}, None),
    ):
        google.asked_as.clear()
        assert dao.load_store("gs://bucket/atlas", storage_options=options).n_obs == 60
        assert {(asked or "").strip() for asked in google.asked_as} == {who or ""}
    assert run(READ, "gs://bucket/atlas", GOOGLE_SERVICE_ACCOUNT=str(file)) == expected()
    emulator = {"STORAGE_EMULATOR_HOST": google.address}
    assert run(READ, "gs://bucket/atlas", **emulator) == expected()
    options = {**at, "google_application_credentials": broken}
    with pytest.raises(dao.DaoValueError, match=r"broken\.json.*no JSON") as caught:
        dao.load_store("gs://bucket/atlas", storage_options=options)
    assert "hush" not in str(caught.value)
