"""Real cells in a store, and random studies to compare against."""

from __future__ import annotations

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, settings

import dao_polars as dao

# No test is about speed; and a change is judged by the same examples each time.
settings.register_profile(
    "dao",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("dao")

ROOT = Path(__file__).parent.parent
DATA = ROOT / "data"
SFAIRA = ROOT / "tests" / "data" / "sfaira_store"
STUDIES = ("pbmc_human", "pancreas_human", "pancreas_mouse", "heart_human")


@pytest.fixture(scope="session")
def real_store(tmp_path_factory: pytest.TempPathFactory) -> dao.Store:
    """The four real studies, as one store; tests must not change it."""
    uri = tmp_path_factory.mktemp("real") / "atlas"
    for name in STUDIES:
        store = dao.write_dataset(uri, DATA / f"{name}.h5ad", progress=False)
    return store


@pytest.fixture(scope="session")
def real() -> dict[str, ad.AnnData]:
    """The same studies as anndata reads them."""
    return {name: ad.read_h5ad(DATA / f"{name}.h5ad") for name in STUDIES}


def study(
    seed: int, n_obs: int, genes: list[str], *, density: float = 0.3, high: int = 300
) -> ad.AnnData:
    """A random study: integer counts as float32 CSR, one categorical and one float column."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, high, (n_obs, len(genes))) * (
        rng.random((n_obs, len(genes))) < density
    )
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(rng.choice(["B", "T", "NK"], n_obs)),
            "score": rng.random(n_obs),
        },
        index=[f"s{seed}-{i}" for i in range(n_obs)],
    )
    return ad.AnnData(
        sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=genes)
    )


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dao.Store, dict[str, ad.AnnData]]:
    """Three small studies whose genes overlap in part and stand in different orders."""
    uri = tmp_path_factory.mktemp("mixed") / "store"
    studies = {
        "a": study(1, 37, [f"g{i}" for i in range(20)]),
        "b": study(2, 53, [f"g{i}" for i in reversed(range(5, 30))]),
        "c": study(3, 11, ["x", "g7", "g3", "y", "g19"]),
    }
    for name, adata in studies.items():
        store = dao.write_dataset(uri, adata, dataset=name, progress=False)
    return store, studies
