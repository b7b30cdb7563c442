"""tf.data datasets with their specification."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import dao_polars as dao

tf = pytest.importorskip("tensorflow")


@pytest.mark.parametrize("layout", ["csr", "dense"])
def test_elements_are_what_the_specification_says(real_store, layout):
    cells = real_store.scan().filter(pl.col("dataset") == "pancreas_human")
    cells = cells.select("cell", "cell_type", "obs_name", whole=pl.int_range(pl.len()))
    options = {"shuffle": True, "seed": 1, "layout": layout}
    dataset = cells.dao.to_tensorflow(200, **options)
    plain = cells.dao.iter_batches(200, **options)
    spec = dataset.element_spec
    kind = tf.SparseTensorSpec if layout == "csr" else tf.TensorSpec
    assert spec["X"] == kind([None, plain.n_vars], tf.float32)
    assert spec["cell_type"] == tf.TensorSpec([None], tf.int64)
    assert spec["obs_name"] == tf.TensorSpec([None], tf.string)
    assert len(dataset) == len(plain)
    for epoch in range(2):
        n = 0
        for found, batch in zip(dataset, plain, strict=True):
            x = found["X"]
            if layout == "csr":
                np.testing.assert_array_equal(tf.sparse.to_dense(x), batch.x.toarray())
            else:
                np.testing.assert_array_equal(x, batch.x)
            np.testing.assert_array_equal(found["cell_type"], batch.obs["cell_type"].to_physical())
            assert [name.decode() for name in found["obs_name"].numpy()] == batch.obs[
                "obs_name"
            ].to_list()
            n += len(batch)
        assert n == plain.n_obs, epoch


def test_keras_trains(real_store):
    cells = real_store.scan().filter(pl.col("dataset") == "pancreas_human")
    genes = real_store.var("pancreas_human")["var_name"].head(100).to_list()
    dataset = cells.select("cell", "cell_type").dao.to_tensorflow(
        64, shuffle=True, seed=0, genes=genes, layout="dense", normalize="log1p_cp10k"
    )
    pairs = dataset.map(lambda batch: (batch["X"], batch["cell_type"]))
    model = tf.keras.Sequential([tf.keras.layers.Dense(60)])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    history = model.fit(pairs, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_a_transform_is_refused(real_store):
    with pytest.raises(dao.DaoTypeError, match="map"):
        real_store.scan().dao.to_tensorflow(10, genes="union", transform=len)
