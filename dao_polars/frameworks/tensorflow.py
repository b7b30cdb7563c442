"""Batches as a ``tf.data.Dataset``: what ``.dao.to_tensorflow`` gives.

Owns the element's specification. Imports tensorflow: only ``frame`` imports this, when asked to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from scipy.sparse import csr_matrix

from ..batches.batches import BatchIterable
from .encoding import ObsEncoder


def dataset(batches: BatchIterable[Any]) -> Any:
    """The batches as a ``tf.data.Dataset``; see ``DaoFrame.to_tensorflow``."""
    encoder = ObsEncoder(batches.rows)

    def elements() -> Iterator[dict[str, Any]]:
        for batch in batches:
            yield {name: _tensor(x) for name, x in batch.arrays().items()} | {
                name: np.array(["" if v is None else str(v) for v in column], dtype=object)
                if isinstance(column, list)
                else column
                for name, column in encoder.encode(batch.obs).items()
            }

    spec: dict[str, Any] = {}
    for entry, form in batches.matrices.entries():
        make = tf.SparseTensorSpec if form.layout == "csr" else tf.TensorSpec
        spec[entry] = make([None, form.n_columns], tf.as_dtype(form.dtype))
    encoding = batches.matrices.encoding
    if encoding is not None:
        for name, kind in encoding._dtypes.items():
            spec[name] = tf.TensorSpec([None, encoding.length], tf.as_dtype(kind))
    for name, number in encoder.dtypes.items():
        spec[name] = tf.TensorSpec([None], tf.string if number.hasobject else tf.as_dtype(number))
    made = tf.data.Dataset.from_generator(elements, output_signature=spec)
    settings = batches.sampling.settings
    if None not in (settings["group_by"], settings["n_samples"]):
        return made  # epochs have different numbers of batches
    return made.apply(tf.data.experimental.assert_cardinality(len(batches)))


def _tensor(x: Any) -> Any:
    if not isinstance(x, csr_matrix):
        return x
    rows = np.repeat(np.arange(x.shape[0], dtype=np.int64), np.diff(x.indptr))
    return tf.SparseTensor(np.column_stack([rows, x.indices.astype(np.int64)]), x.data, x.shape)
