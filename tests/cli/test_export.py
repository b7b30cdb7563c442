"""export: the file it writes is the one that the functions write."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import pytest

import dao_polars as dao
from tests.cli.program import document, failure, fine
from tests.conftest import study


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_cells_and_genes_are_chosen(real_store, tmp_path, kind):
    genes = tmp_path / "genes.txt"
    genes.write_text("INS\nGCG\n")
    out = tmp_path / f"a.{kind}"
    fine(
        *("export", real_store.uri, out, "pancreas_human", "--genes", genes, "-q"),
        *("--where", "cell_type = 'beta'", "--normalize", "log1p_cp10k"),
    )
    found = ad.read_h5ad(out) if kind == "h5ad" else ad.read_zarr(out)
    lf = real_store.scan().filter(
        pl.col("dataset") == "pancreas_human", pl.col("cell_type") == "beta"
    )
    expected = lf.dao.to_anndata(genes=["INS", "GCG"], normalize="log1p_cp10k", progress=False)
    assert found.n_obs > 50
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    pd.testing.assert_frame_equal(found.obs, expected.obs)


def test_a_version_and_a_join(real_store, tmp_path):
    out = tmp_path / "a.h5ad"
    said = document("export", real_store.uri, out, "--at", 2, "--join", "intersection")
    assert said == {"store": real_store.uri, "version": 2, "path": str(out)}
    assert ad.read_h5ad(out).n_obs == 1336 + 2142
    fine("export", real_store.uri, out, "heart_human", "--overwrite", "-q")
    assert ad.read_h5ad(out).n_obs == 300


def test_layers_and_embeddings_are_chosen(tmp_path):
    adata = study(0, 20, ["g0", "g1", "g2"])
    adata.layers["half"] = adata.X / 2
    adata.layers["twice"] = adata.X * 2
    adata.obsm["X_pca"] = np.ones((20, 2), np.float32)
    dao.write_dataset(tmp_path / "s", adata, dataset="d", layers=True, obsm=True, progress=False)
    out = tmp_path / "a.h5ad"
    for arguments, layers, obsm in [
        ((), ["half", "twice"], ["X_pca"]),
        (("--layers", "twice, half", "--obsm", ""), ["half", "twice"], []),
        (("--layers", "half"), ["half"], ["X_pca"]),
        (("--layers", ""), [], ["X_pca"]),
    ]:
        fine("export", tmp_path / "s", out, "--overwrite", "-q", *arguments)
        found = ad.read_h5ad(out)
        assert (sorted(found.layers), list(found.obsm)) == (layers, obsm)
    assert (found.X != adata.X).nnz == 0
    said = failure("export", tmp_path / "s", out, "--overwrite", "--layers", "third")
    assert "third" in said


def test_what_is_mistaken_is_said(real_store, tmp_path):
    out = tmp_path / "a.h5ad"
    assert ".h5ad or .zarr" in failure("export", real_store.uri, tmp_path / "a.txt", code=2)
    assert "no dataset 'nope'" in failure("export", real_store.uri, out, "nope")
    assert "--where" in failure("export", real_store.uri, out, "--where", "cell_type = = 3")
    assert "no such file" in failure("export", real_store.uri, out, "--genes", tmp_path / "no")
    out.touch()
    assert "there already" in failure("export", real_store.uri, out, "heart_human")
