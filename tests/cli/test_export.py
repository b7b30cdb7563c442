"""export: the file has what was asked for, and errors say what is wrong."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import polars as pl
import pytest

from tests.cli.program import run


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_the_file_has_the_cells(real_store, tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    where = "cell_type = 'beta' AND donor <> 'human4'"
    words = ["--dataset", "pancreas_human", "--where", where, "--gene", "INS", "--gene", "GCG"]
    done = run("export", real_store.uri, path, *words, "--json", "--normalize", "log1p_cp10k")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    cells = real_store.scan().filter(
        pl.col("dataset") == "pancreas_human", pl.col("cell_type") == "beta"
    )
    cells = cells.filter(pl.col("donor") != "human4")
    wanted = cells.dao.to_anndata(genes=["INS", "GCG"], normalize="log1p_cp10k")
    found = ad.read_h5ad(path) if kind == "h5ad" else ad.read_zarr(path)
    assert said["n_obs"] == wanted.n_obs == found.n_obs > 0
    assert list(found.obs_names) == list(wanted.obs_names)
    assert np.array_equal(found.X.toarray(), wanted.X.toarray())


def test_what_is_wrong_is_said(real_store, tmp_path):
    uri = real_store.uri
    for words, code, text in (
        ([tmp_path / "a.csv"], 2, "expected a name in .h5ad or .zarr"),
        ([tmp_path / "a.zarr", "--compression", "gzip"], 2, "--compression is of an .h5ad"),
        ([tmp_path / "a.h5ad", "--where", "nope = 3"], 1, "--where names 'nope'"),
        ([tmp_path / "a.h5ad", "--where", "((("], 1, "--where '((('"),
        ([tmp_path / "a.h5ad", "--dataset", "nope"], 1, "nope"),
        ([tmp_path / "a.h5ad"], 1, "feature space"),
    ):
        done = run("export", uri, *words)
        assert done.returncode == code, done.stderr
        assert text in done.stderr
    assert list(tmp_path.iterdir()) == []
    there = tmp_path / "there.h5ad"
    there.write_text("something")
    done = run("export", uri, there, "--dataset", "pbmc_human")
    assert done.returncode == 1
    assert "exists" in done.stderr
    assert there.read_text() == "something"
