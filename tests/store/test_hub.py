"""Stores on the Hugging Face hub, of which two servers do what matters.

The hub redirects large files to another host, by addresses that are signed for GET alone. A token
is the hub's, and that host must not see it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

import dao_polars as dao
from tests.conftest import study
from tests.webserver import Handler, Server, serving

GENES = [f"g{i}" for i in range(20)]
TOKEN = "hf_hush"
CLOSE = {"Connection": "close"}
URI = "hf://datasets/lab/atlas/stores/a"


@dataclass
class Hub:
    hub: Server
    cdn: Server

    @property
    def options(self) -> dict[str, str]:
        return {"hf_endpoint": f"http://{self.hub.address}", "token": TOKEN}


def redirecting(cdn: Server, revision: str) -> object:
    """What the hub says to a request, in the place of the file."""
    below = f"/datasets/lab/atlas/resolve/{revision}/"

    def wrong(handler: Handler) -> bool:
        if handler.headers.get("Authorization") != f"Bearer {TOKEN}":
            handler.reply(401, b"", CLOSE)
        elif (
            not handler.path.startswith(below)
            or not (cdn.root / handler.path.removeprefix(below)).is_file()
        ):
            handler.reply(404, b"", CLOSE)
        else:
            url = f"http://{cdn.address}/{handler.path.removeprefix(below)}"
            handler.reply(302, b"", {**CLOSE, "Location": f"{url}?Signature=x"})
        return True

    return wrong


def of_cdn(handler: Handler) -> bool:
    """What is signed for GET is refused to HEAD."""
    handler.path = handler.path.partition("?")[0]
    if handler.command == "HEAD":
        handler.reply(403, b"", CLOSE)
        return True
    return False


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    root = tmp_path / "repository"
    dao.write_dataset(root / "stores" / "a", study(1, 60, GENES), dataset="d", progress=False)
    with serving(tmp_path / "nothing") as hub, serving(root) as cdn:
        hub.wrong = redirecting(cdn, "main")
        cdn.wrong = of_cdn
        yield Hub(hub, cdn)


def test_a_store_on_the_hub(hub: Hub) -> None:
    store = dao.load_store(URI, storage_options=hub.options)
    assert (store.uri, store.n_obs) == (URI, 60)
    assert TOKEN not in repr(store)
    read = store.scan().dao.to_anndata(progress=False)
    assert (read.X != study(1, 60, GENES).X).nnz == 0
    cells = store.scan().filter(pl.col("obs_name") == read.obs_names[9])
    gene = cells.select(g=dao.gene("g3")).collect()["g"].to_list()
    assert gene == [study(1, 60, GENES).X.toarray()[9, 3]]
    # The token stays with the hub.
    assert set(hub.hub.asked_as) == {f"Bearer {TOKEN}"}
    assert set(hub.cdn.asked_as) == {None}


def test_ranges_outlive_the_redirect(hub: Hub) -> None:
    ranges = []
    hub.cdn.wrong = lambda handler: ranges.append(handler.headers.get("Range")) or of_cdn(handler)
    store = dao.load_store(URI, storage_options=hub.options)
    cells = store.scan().head(3).collect().lazy()
    assert next(iter(cells.dao.iter_batches(3))).x.shape[0] == 3
    assert any(wanted and wanted != "bytes=0-0" for wanted in ranges)


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/7"])
def test_a_revision_is_named(hub: Hub, revision: str) -> None:
    hub.hub.wrong = redirecting(hub.cdn, revision.replace("/", "%2F"))
    uri = f"hf://datasets/lab/atlas@{revision}/stores/a"
    assert dao.load_store(uri, storage_options=hub.options).n_obs == 60
    with pytest.raises(dao.DaoFileNotFoundError):
        dao.load_store(URI, storage_options=hub.options)


def test_the_token_of_the_environment_and_of_the_login(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_ENDPOINT", f"http://{hub.hub.address}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with pytest.raises(dao.DaoIOError, match="HF_TOKEN, or `hf auth login`"):
        dao.load_store(URI)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(f"{TOKEN}\n")
    assert dao.load_store(URI).n_obs == 60
    with pytest.raises(dao.DaoIOError):
        dao.load_store(URI, storage_options={"token": False})
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(dao.DaoIOError, match="the environment variable HF_TOKEN") as caught:
        dao.load_store(URI)
    assert "hf_other" not in str(caught.value)
    assert dao.load_store(URI, storage_options={"hf_token": TOKEN}).n_obs == 60


def test_the_hub_is_only_read(hub: Hub) -> None:
    with pytest.raises(dao.DaoValueError, match="cannot write to 'hf://datasets/lab/atlas/new'"):
        dao.write_dataset(
            "hf://datasets/lab/atlas/new",
            study(1, 5, GENES),
            dataset="d",
            storage_options=hub.options,
            progress=False,
        )
    with pytest.raises(dao.DaoValueError, match="expected hf://datasets/owner/name"):
        dao.load_store("hf://lab/model/a")
