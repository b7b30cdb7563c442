"""info, ls, versions, verify: what they print is what the functions give."""

from __future__ import annotations

import json
import shutil
from datetime import datetime

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import dao_polars as dao
from tests.cli.program import document, failure, fine, run
from tests.conftest import SFAIRA, STUDIES, study
from tests.storefab import part_path
from tests.webserver import serving

HTTP = ("--storage-option", "timeout=20 s")


def columns(text: str) -> list[list[str]]:
    """The rows of a printed table: its cells have two spaces between them."""
    return [[cell for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def test_ls(real_store):
    found = document("ls", real_store.uri)
    assert (found["store"], found["version"]) == (real_store.uri, 4)
    assert found["datasets"] == real_store.datasets.rows(named=True)
    head, *rows = columns(fine("ls", real_store.uri))
    assert [cell.strip() for cell in head][:4] == ["dataset", "organism", "cells", "genes"]
    assert [row[0].strip() for row in rows] == list(STUDIES)
    assert [row[2].strip() for row in rows] == [f"{n:,}" for n in real_store.datasets["n_obs"]]


def test_ls_of_a_version(real_store):
    found = document("ls", real_store.uri, "--at", 2)
    assert found["version"] == 2
    assert [row["id"] for row in found["datasets"]] == list(STUDIES[:2])
    assert "no version 9" in failure("ls", real_store.uri, "--at", 9)


def test_ls_names_all_datasets_in_full(tmp_path):
    adata = study(0, 3, ["a", "b"])
    names = [f"dataset-{'x' * 60}-{i}" for i in range(30)]
    store = dao.write_dataset(tmp_path / "s", adata, dataset=names[0], progress=False)
    for name in names[1:]:
        store = dao.write_dataset(tmp_path / "s", adata, dataset=name, progress=False)
    assert [row[0] for row in columns(fine("ls", store.uri))[1:]] == names


def test_info_is_what_the_store_says(real_store):
    assert fine("info", real_store.uri) == f"{real_store!r}\n"
    found = document("info", real_store.uri)
    assert found["id"] == real_store.id
    assert found["n_obs"] == real_store.n_obs == sum(real_store.datasets["n_obs"])
    assert found["bytes"] == real_store.datasets["bytes"].sum()
    schema = real_store.schema
    assert [column["name"] for column in found["columns"]] == list(schema)
    types = {column["name"]: (column["type"], column["categories"]) for column in found["columns"]}
    assert types["cell_type"] == ("Enum", len(schema["cell_type"].categories))
    assert types["obs_name"] == ("String", None)


def test_info_of_a_dataset(tmp_path, real):
    adata = real["pancreas_human"].copy()
    adata.layers["twice"] = adata.X * 2
    adata.obsm["X_pca"] = adata.X[:, :7].toarray()
    adata.uns["notes"] = {"a": 1}
    uri = tmp_path / "s"
    dao.write_dataset(uri, adata, layers="twice", dataset="d", gene_index=True, progress=False)
    found = document("info", uri, "d")
    assert (found["n_obs"], found["n_vars"], found["nnz"]) == (*adata.shape, adata.X.nnz)
    assert list(found["obs"]) == ["obs_name", *adata.obs.columns]
    assert list(found["var"]) == ["var_name", *adata.var.columns]
    assert (found["layers"], found["obsm"]) == (["twice"], {"X_pca": 7})
    assert set(found["uns"]) == set(adata.uns)
    assert (found["gene_index"], found["dtype"], found["parts"]) == (True, "float32", 1)
    text = fine("info", uri, "d")
    for said in ("2,142 cells × 20,125 genes", "layers:     twice", "X_pca (7 columns)"):
        assert said in text
    assert "gene index: yes" in text
    dao.write_dataset(uri, adata, layers="twice", dataset="d", mode="append", progress=False)
    again = document("info", uri, "d")
    assert (again["n_obs"], again["parts"], again["version"]) == (2 * adata.n_obs, 2, 3)
    assert again["gene_index"] is False


def test_info_of_no_dataset(real_store):
    assert "has no dataset 'pbmc'; the nearest: 'pbmc_human'" in failure(
        "info", real_store.uri, "pbmc"
    )


def test_options_stand_anywhere(real_store):
    expected = document("info", real_store.uri, "pbmc_human", "--at", 3)
    orders = (
        ("--json", real_store.uri, "pbmc_human", "--at=3"),
        (real_store.uri, "--at", 3, "--json", "pbmc_human"),
        ("--json", "--at", 3, "--", real_store.uri, "pbmc_human"),
    )
    for words in orders:
        assert json.loads(fine("info", *words)) == expected


def test_versions(tmp_path):
    adata = study(0, 3, ["a", "b"])
    uri = tmp_path / "s"
    dao.write_dataset(uri, adata, dataset="d", author="Ada", progress=False)
    store = dao.load_store(uri).rename_dataset("d", "e", message="two\nlines \x1b[31m")
    found = document("versions", uri)
    expected = store.versions()
    assert [row["version"] for row in found["versions"]] == [1, 2]
    times = [datetime.fromisoformat(row.pop("time")) for row in found["versions"]]
    assert times == expected["time"].to_list()
    read = pl.DataFrame(found["versions"], expected.drop("time").schema)
    assert_frame_equal(read, expected.drop("time"))
    text = fine("versions", uri)
    assert r"two\nlines \x1b[31m" in text
    assert len(text.splitlines()) == 3


def test_verify(tmp_path, real_store):
    assert "all is well: 4 datasets, 5,664 cells" in fine("verify", real_store.uri)
    assert fine("verify", real_store.uri, "--quiet") == ""
    assert document("verify", real_store.uri)["problems"] == []
    uri = shutil.copytree(real_store.uri, tmp_path / "s")
    for name in ("pbmc_human", "heart_human"):
        file = part_path(uri, name) / "obs.parquet"
        data = bytearray(file.read_bytes())
        data[100] ^= 1
        file.write_bytes(data)
    problems = dao.load_store(uri).verify()
    assert problems.height >= 2
    ran = run("verify", uri)
    assert ran.returncode == 1
    head, *rows = ran.stdout.splitlines()
    assert head.split() == ["dataset", "path", "problem"]
    for (name, path, problem), row in zip(problems.rows(), rows, strict=True):
        assert row.split(maxsplit=2) == [name, path, problem]
    assert ran.stderr == f"dao-polars: {problems.height} problems in 2 datasets\n"
    ran = run("verify", uri, "--json")
    assert (ran.returncode, ran.stderr) == (1, "")
    found = json.loads(ran.stdout)
    assert found["ok"] is False
    assert found["problems"] == problems.rows(named=True)
    assert run("verify", uri, "--at", 1, "-q").returncode == 1


def test_a_store_of_sfaira():
    store = dao.load_store(SFAIRA)
    found = document("ls", SFAIRA)
    assert found["version"] is None
    assert found["datasets"] == store.datasets.rows(named=True)
    assert fine("info", SFAIRA) == f"{store!r}\n"
    one = document("info", SFAIRA, store.datasets["id"][0])
    assert one["layout"] == "dense"
    assert "cell_type" in one["obs"]
    assert "all is well" in fine("verify", SFAIRA)
    assert "sfaira" in fine("versions", SFAIRA)
    assert document("versions", SFAIRA)["versions"] == []


@pytest.mark.parametrize(
    "words",
    [
        ("remove", SFAIRA, "human_blood_2021_10x_hao_001"),
        ("rename", SFAIRA, "human_blood_2021_10x_hao_001", "blood"),
        ("restore", SFAIRA, "1"),
        ("vacuum", SFAIRA, "--delete"),
    ],
    ids=lambda words: words[0],
)
def test_a_store_of_sfaira_is_only_read(words):
    before = sorted(path.stat().st_mtime_ns for path in SFAIRA.rglob("*"))
    assert "a store that sfaira wrote, which is read and not written" in failure(*words)
    assert sorted(path.stat().st_mtime_ns for path in SFAIRA.rglob("*")) == before


def test_a_store_behind_a_web_server(real_store, tmp_path):
    (tmp_path / "s").symlink_to(real_store.uri)
    with serving(tmp_path, "s") as server:
        found = document("ls", server.url, *HTTP)
        assert found["store"] == server.url
        assert found["datasets"] == real_store.datasets.rows(named=True)
        assert found["datasets"][0]["id"] in fine("info", server.url, *HTTP)
        assert document("info", server.url, "pbmc_human", *HTTP)["n_vars"] == 11180
        options = tmp_path / "options.json"
        options.write_text('{"timeout": "soon"}')
        assert "timeout" in failure("ls", server.url, "--options-file", options)
        fine("ls", server.url, "--options-file", options, *HTTP)  # which is the stronger one
        for wrong, why in (
            ('{"token": ["s3cret"]}', "found list; expected text, a number"),
            ('"s3cret"', "expected a JSON object"),
            ("s3cret", "expected a JSON object"),
        ):
            options.write_text(wrong)
            message = failure("ls", server.url, "--options-file", options, code=2)
            assert why in message
            assert "s3cret" not in message
        assert "http" in failure("remove", server.url, "pbmc_human", *HTTP)
        assert fine("ls", server.url) == fine("ls", server.url, *HTTP)
        assert "not" in failure("ls", f"{server.url}/nothing", *HTTP)
