"""write, copy, rename, remove, restore, vacuum: the store afterwards is what the functions see."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta

import anndata as ad
import numpy as np
import pytest

import dao_polars as dao
from dao_polars.cli.parser import age
from tests.cli.program import document, failure, fine, run
from tests.conftest import DATA, STUDIES, study

FILES = [DATA / f"{name}.h5ad" for name in STUDIES]


def ids(uri: object) -> list[str]:
    return dao.load_store(uri).datasets["id"].to_list()


def same_cells(store: dao.Store, dataset: str, adata: ad.AnnData) -> bool:
    """Whether a dataset has the counts of an AnnData, cell by cell."""
    found = store.scan().filter(dataset=dataset).dao.to_anndata()
    assert found.obs_names.to_list() == adata.obs_names.to_list()
    assert found.var_names.to_list() == adata.var_names.to_list()
    return (found.X != adata.X).nnz == 0


def test_studies_into_a_store(tmp_path, real):
    uri = tmp_path / "a store with spaces – ünï"
    said = fine("write", uri, *FILES[:3])
    store = dao.load_store(uri)
    assert store.datasets["id"].to_list() == list(STUDIES[:3])
    assert (store.version, store.verify().height) == (3, 0)
    for number, (name, line) in enumerate(zip(STUDIES, said.splitlines(), strict=False), 1):
        assert same_cells(store, name, real[name])
        cells, genes = real[name].shape
        assert line.startswith(f"{name}: {cells:,} cells × {genes:,} genes, ")
        assert line.endswith(f", version {number}")
    found = document("write", uri, FILES[3], "--dataset", "heart", "--author", "Ada")
    assert (found["store"], found["version"]) == (str(uri), 4)
    (written,) = found["written"]
    assert written["source"] == str(FILES[3])
    (row,) = dao.load_store(uri).datasets.filter(id="heart").rows(named=True)
    assert written == {"source": str(FILES[3]), **row, "version": 4}
    assert dao.load_store(uri).versions()["author"].to_list() == [None] * 3 + ["Ada"]


def test_the_options_of_write(tmp_path, real):
    uri, file = tmp_path / "s", tmp_path / "d.h5ad"
    adata = real["pancreas_human"][:200].copy()
    adata.layers["twice"], adata.layers["thrice"] = adata.X * 2, adata.X * 3
    adata.obsm["a"], adata.obsm["b"] = np.eye(200)[:, :2], np.eye(200)[:, :3]
    adata.write_h5ad(file)
    words = "--layer twice --layers thrice --obsm b --shuffle --seed 5 --profile portable"
    words += " --gene-index --no-uns --organism Fish --message said --author Ada"
    ran = run("write", uri, file, *words.split())
    assert ran.returncode == 0
    assert ran.stderr.startswith("dao-polars: warning: dataset 'd': not kept: ")
    assert "X; layers 'twice'" not in ran.stderr
    assert "obsm 'a'" in ran.stderr
    store = dao.load_store(uri)
    order = np.random.default_rng(np.random.PCG64(5)).permutation(200)
    shuffled = adata[order].copy()
    shuffled.X = shuffled.layers["twice"]
    assert same_cells(store, "d", shuffled)
    found = document("info", uri, "d")
    assert (found["layers"], found["obsm"], found["uns"]) == (["thrice"], {"b": 3}, ["organism"])
    assert (found["organism"], found["gene_index"]) == ("Fish", True)
    written = store.versions().row(0, named=True)
    assert (written["message"], written["author"]) == ("said", "Ada")
    fine("write", uri, file, "--all-layers", "--mode", "replace")
    assert document("info", uri, "d")["layers"] == ["thrice", "twice"]
    assert document("info", uri, "d")["obsm"] == {"a": 2, "b": 3}
    ran = run("write", uri, file, "--all-layers", "--no-obsm", "--mode", "append", "-q")
    assert (ran.returncode, ran.stdout) == (0, "")
    assert "obsm 'a', 'b'" in ran.stderr
    assert dao.load_store(uri).n_obs == 400


def test_genes_of_another_dataset_or_of_a_file(tmp_path):
    uri, names = tmp_path / "s", tmp_path / "names.txt"
    fine("write", uri, FILES[0])
    key = ("--gene-key", "feature_name", "--duplicates", "first")
    ran = run("write", uri, FILES[3], "--genes-of", "pbmc_human", *key)
    assert ran.returncode == 0
    assert "genes of the source are not in --genes and are dropped" in ran.stderr
    store = dao.load_store(uri)
    genes = store.var("pbmc_human")["var_name"].to_list()
    assert store.var("heart_human")["var_name"].to_list() == genes
    names.write_text(" INS\n\nGCG \nnone-such\n", encoding="utf-8")
    run("write", uri, FILES[1], "--genes", names, "--dataset", "file")
    run("write", uri, FILES[1], "--genes", "-", "--dataset", "stdin", given="GCG\nINS\n")
    assert dao.load_store(uri).var("file")["var_name"].to_list() == ["INS", "GCG", "none-such"]
    assert dao.load_store(uri).var("stdin")["var_name"].to_list() == ["GCG", "INS"]
    assert "no such file" in failure("write", uri, FILES[1], "--genes", tmp_path / "none")
    assert "no text in UTF-8" in failure("write", uri, FILES[1], "--genes", FILES[1])
    assert "has no dataset 'x'" in failure("write", uri, FILES[1], "--genes-of", "x")


def test_several_sources_are_looked_at_before_the_first_is_written(tmp_path):
    uri, other = tmp_path / "s", tmp_path / "other"
    other.mkdir()
    (other / "pbmc_human.h5ad").symlink_to(FILES[1])
    assert "no such file: 'none.h5ad'; nothing was" in failure("write", uri, FILES[0], "none.h5ad")
    same = failure("write", uri, FILES[0], other / "pbmc_human.h5ad")
    assert "several sources are called 'pbmc_human'" in same
    assert not uri.exists()
    fine("write", uri, FILES[0])
    assert "has 'pbmc_human' already" in failure("write", uri, FILES[3], FILES[0])
    assert dao.load_store(uri).version == 1


def test_a_source_that_cannot_be_written_after_others(tmp_path):
    uri, broken = tmp_path / "s", tmp_path / "broken.h5ad"
    broken.write_bytes(FILES[3].read_bytes()[:50_000])
    ran = run("write", uri, FILES[0], broken, FILES[3], "--json")
    assert (ran.returncode, ran.stdout) == (1, "")
    error = json.loads(ran.stderr)
    assert error["error"] == "DaoCorruptError"
    assert "broken.h5ad" in error["message"]
    assert [done["id"] for done in error["written"]] == ids(uri) == ["pbmc_human"]
    assert "already" in failure("write", uri, FILES[0])


def test_copy(tmp_path, real_store):
    uri = tmp_path / "s"
    said = fine("copy", real_store.uri, uri, "heart_human", "pbmc_human", "--author", "Ada")
    assert "copied 2 datasets, 1,636 cells, " in said
    store = dao.load_store(uri)
    assert sorted(ids(uri)) == ["heart_human", "pbmc_human"]
    assert store.versions()["author"].to_list() == ["Ada"]
    assert store.verify().height == 0
    assert store.datasets["nnz"].sum() == sum(
        real_store.datasets.filter(id=name)["nnz"].item() for name in ids(uri)
    )
    assert "already" in failure("copy", real_store.uri, uri)
    found = document("copy", real_store.uri, tmp_path / "t", "--at", 2)
    assert [row["id"] for row in found["copied"]] == ids(tmp_path / "t") == list(STUDIES[:2])
    assert (found["store"], found["version"]) == (str(tmp_path / "t"), 1)


def test_curating(tmp_path):
    uri = tmp_path / "s"
    for i, name in enumerate("abcd"):
        dao.write_dataset(uri, study(i, 5, ["x", "y"]), dataset=name, progress=False)
    found = document("rename", uri, "a", "ä", "--message", "a mark")
    assert found == {"store": str(uri), "version": 5, "old": "a", "new": "ä"}
    found = document("remove", uri, "b", "c", "--author", "Ada")
    assert found == {"store": str(uri), "version": 6, "removed": ["b", "c"]}
    assert ids(uri) == ["ä", "d"]
    assert "version 7, 1 dataset left; older versions have it" in fine("remove", uri, "ä")
    found = document("restore", uri, 5)
    assert found == {"store": str(uri), "version": 8, "restored": 5}
    assert ids(uri) == ["ä", "b", "c", "d"]
    noted = dao.load_store(uri).versions().rows(named=True)
    assert (noted[4]["message"], noted[5]["author"]) == ("a mark", "Ada")
    assert "has no dataset 'zz'" in failure("remove", uri, "b", "zz")
    assert "'b'" in failure("rename", uri, "d", "b")
    assert "no version 99" in failure("restore", uri, 99)
    assert dao.load_store(uri).version == 8


def test_vacuum_removes_when_it_is_told_to(tmp_path):
    uri = tmp_path / "s"
    for i, name in enumerate("ab"):
        dao.write_dataset(uri, study(i, 5, ["x", "y"]), dataset=name, progress=False)
    dao.load_store(uri).remove_dataset("a")
    assert fine("vacuum", uri) == "nothing to remove\n"
    assert fine("vacuum", uri, "--older-than", "1d") == "nothing to remove\n"
    expected = dao.load_store(uri).vacuum(older_than=timedelta(0))
    *files, total = fine("vacuum", uri, "--older-than", "0s").splitlines()
    assert sorted(files) == sorted(expected["path"])
    assert total.startswith(f"{len(files)} files, ")
    assert total.endswith("; --delete removes them")
    assert dao.load_store(uri).versions().height == 3
    found = document("vacuum", uri, "--older-than", "0s", "--delete", "--author", "Ada")
    assert found["deleted"] is True
    assert sorted(file["path"] for file in found["files"]) == sorted(files)
    assert (
        found["bytes"] == sum(file["bytes"] for file in found["files"]) == expected["bytes"].sum()
    )
    assert not any((uri / file).exists() for file in files)
    store = dao.load_store(uri)
    assert (store.datasets["id"].to_list(), store.verify().height) == (["b"], 0)
    assert store.versions()["author"][-1] == "Ada"


def test_ages():
    given = {"30d": timedelta(30), "1w12h": timedelta(7, hours=12), "0s": timedelta()}
    given |= {"90m": timedelta(hours=1.5)}
    assert {text: age(text) for text in given} == given
    for text in ("", "30", "d", "-1d", "1.5d", "1y", "1d ", "9999999999d"):
        with pytest.raises(Exception, match=r"expected|longer") as raised:
            age(text)
        assert type(raised.value).__name__ == "ArgumentTypeError"


def test_old_files_alone_are_given_up(tmp_path):
    """What is written into ``--older-than`` is a span before now, by the clock of versions."""
    uri = tmp_path / "s"
    dao.write_dataset(uri, study(0, 5, ["x", "y"]), dataset="a", progress=False)
    store = dao.load_store(uri).rename_dataset("a", "b")
    born = store.versions()["time"][0]
    since = int((datetime.now(UTC) - born).total_seconds())
    assert fine("vacuum", uri, "--older-than", f"{since + 3600}s") == "nothing to remove\n"
    assert os.path.exists(uri / "versions" / "0000000001.json")
