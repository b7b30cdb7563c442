"""scvi-tools trains on a selection: beside the same model on an AnnData in memory."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import dao_polars as dao

scvi = pytest.importorskip("scvi")
torch = pytest.importorskip("torch")

KEYS = {"batch_key": "donor", "labels_key": "cell_type"}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def cells(real_store):
    lf = real_store.scan().filter(pl.col("dataset") == "pancreas_human")
    variable = lf.dao.gene_stats().sort("total", descending=True)["gene"].head(600).to_list()
    return lf, variable


def test_a_batch_is_what_setup_anndata_makes_of_it(cells):
    lf, genes = cells
    numbers = lf.with_columns(depth=dao.qc().struct.field("total_counts").log())
    module = numbers.dao.to_scvi(
        **KEYS,
        genes=genes,
        categorical_covariate_keys=["donor"],
        continuous_covariate_keys=["depth"],
        seed=3,
    )
    adata = numbers.dao.to_anndata(genes=genes)
    scvi.model.SCVI.setup_anndata(
        adata,
        **KEYS,
        categorical_covariate_keys=["donor"],
        continuous_covariate_keys=["depth"],
    )
    theirs = scvi.model.SCVI(adata)
    ours = scvi.model.SCVI(registry=module.registry)
    assert ours.summary_stats.n_batch == theirs.summary_stats.n_batch == 4
    assert ours.summary_stats.n_labels == theirs.summary_stats.n_labels
    assert ours.summary_stats.n_vars == theirs.summary_stats.n_vars == 600
    for name in ("batch", "labels"):
        fields = [m.registry["field_registries"][name]["state_registry"] for m in (ours, theirs)]
        a, b = (list(map(str, field["categorical_mapping"])) for field in fields)
        assert a == b
    wanted = {
        name: torch.cat([batch[name] for batch in theirs._make_data_loader(adata, batch_size=500)])
        for name in ("X", "batch", "labels", "extra_categorical_covs", "extra_continuous_covs")
    }
    batches = list(module.inference_dataloader(batch_size=500))
    for name, tensor in wanted.items():
        found = torch.cat([batch[name] for batch in batches])
        assert found.shape == tensor.shape, name
        assert torch.allclose(found.double(), tensor.double()), name
    shuffled = torch.cat([batch["X"] for batch in module.train_dataloader()])
    assert not torch.equal(shuffled, wanted["X"])
    assert torch.equal(shuffled.sum(0), wanted["X"].sum(0))


def test_it_trains_as_in_memory(cells):
    lf, genes = cells
    parts = lf.dao.split({"train": 0.8, "val": 0.2}, seed=1)
    module = parts["train"].dao.to_scvi(**KEYS, genes=genes, val=parts["val"], seed=0)
    options = {"n_latent": 8, "n_hidden": 64}
    scvi.settings.seed = 0
    ours = scvi.model.SCVI(registry=module.registry, **options)
    ours.train(max_epochs=12, datamodule=module, check_val_every_n_epoch=1, **QUIET)
    adata = parts["train"].dao.to_anndata(genes=genes)
    scvi.model.SCVI.setup_anndata(adata, **KEYS)
    scvi.settings.seed = 0
    theirs = scvi.model.SCVI(adata, **options)
    theirs.train(max_epochs=12, train_size=1.0, batch_size=128, **QUIET)
    a, b = (model.history["elbo_train"].to_numpy(dtype=float).ravel() for model in (ours, theirs))
    assert len(a) == len(b) == 12
    assert a[-1] < 0.8 * a[0]
    assert abs(a[-1] - b[-1]) < 0.03 * b[-1]
    assert len(ours.history["elbo_validation"]) == 12
    latent = ours.get_latent_representation(dataloader=module.inference_dataloader())
    assert latent.shape == (adata.n_obs, 8)
    assert np.isfinite(latent).all()
    # Of cells of one type closer than of others, as in memory.
    types = parts["train"].select("cell_type").collect()["cell_type"].to_numpy()
    assert separation(latent, types) > 0.5 * separation(theirs.get_latent_representation(), types)


def separation(latent: np.ndarray, types: np.ndarray) -> float:
    """How much farther than their own the other types' centres are, on average."""
    names = np.unique(types)
    centres = np.stack([latent[types == name].mean(axis=0) for name in names])
    away = np.linalg.norm(latent[:, None] - centres[None], axis=2)
    own = away[np.arange(len(types)), np.searchsorted(names, types)]
    return float(away.mean() / own.mean() - 1)


def test_without_keys(cells):
    lf, genes = cells
    module = lf.dao.to_scvi(genes=genes, seed=0)
    model = scvi.model.SCVI(registry=module.registry, n_hidden=32)
    model.train(max_epochs=1, datamodule=module, **QUIET)
    latent = model.get_latent_representation(
        dataloader=module.inference_dataloader(lf.head(50), batch_size=20)
    )
    assert latent.shape == (50, 10)


def test_what_is_wrong_is_said(cells):
    lf, genes = cells
    with pytest.raises(dao.DaoKeyError, match="nope"):
        lf.dao.to_scvi(batch_key="nope", genes=genes)
    holes = lf.with_columns(lane=pl.when(pl.col("donor") != "human1").then("donor"))
    with pytest.raises(dao.DaoValueError, match="'lane' is null for"):
        holes.dao.to_scvi(batch_key="lane", genes=genes)
    some = lf.filter(pl.col("donor") != "human1")
    with pytest.raises(dao.DaoValueError, match=r"'donor' has values that .*: 'human1'"):
        some.dao.to_scvi(batch_key="donor", genes=genes, val=lf)
