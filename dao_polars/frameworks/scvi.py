"""A Lightning data module that scvi-tools trains on: what ``.dao.to_scvi`` gives.

Owns the registry and the tensors of a mini-batch as scvi-tools has them for custom data modules:
<https://docs.scvi-tools.org/en/stable/user_guide/use_case/custom_dataloaders.html>. Imports
scvi-tools: only ``frame`` imports this, when asked to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import scvi
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from scvi import REGISTRY_KEYS

from ..batches.batch import Batch
from ..batches.batches import BatchIterable
from ..errors import DaoValueError

#: The batches of a frame, shuffled or not, so many cells each, each given to this function.
Load = Callable[[pl.LazyFrame, bool, int, Callable[[Batch[Any]], Any] | None], BatchIterable[Any]]


@dataclass(frozen=True)
class ScviKeys:
    """The columns of obs that a model is told of, as ``SCVI.setup_anndata`` calls them."""

    batch_key: str | None
    labels_key: str | None
    categorical_covariate_keys: list[str]
    continuous_covariate_keys: list[str]

    @property
    def categorical(self) -> list[str]:
        """Those that are categories."""
        keys = [self.batch_key, self.labels_key, *self.categorical_covariate_keys]
        return list(dict.fromkeys(key for key in keys if key is not None))

    @property
    def columns(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys([*self.categorical, *self.continuous_covariate_keys]))


class ScviDataModule(LightningDataModule):
    """Cells of a selection for ``scvi.model.SCVI``: ``SCVI(registry=module.registry)``, and then
    ``model.train(datamodule=module, max_epochs=…)``.

    Attributes:
        registry: what the model is to know of the data, as ``setup_anndata`` would make it.
        categories: of each categorical column the sorted values (as text), by their codes.
        n_obs: cells of the training selection.
        n_vars: genes.
    """

    def __init__(
        self, load: Load, train: pl.LazyFrame, val: pl.LazyFrame | None, keys: ScviKeys, size: int
    ) -> None:
        super().__init__()
        self._log_hyperparams = False
        self.allow_zero_length_dataloader_with_multiple_devices = False
        self._load, self._frame, self._keys = load, train, keys
        whole = load(train, True, size, None)
        self.categories = {key: _categories(key, whole.obs) for key in keys.categorical}
        self._train = load(train, True, size, self._tensors)
        self._val = None if val is None else load(val, False, size, self._tensors)
        self.n_obs, self.n_vars = whole.n_obs, whole.n_vars
        self._genes = whole.genes.to_numpy()
        if self._val is not None:
            self._check(self._val)

    def _check(self, batches: BatchIterable[Any]) -> None:
        """Refuses cells with categories that those of training lack."""
        for key, known in self.categories.items():
            found = set(_categories(key, batches.obs))
            if unknown := sorted(found - set(known)):
                raise DaoValueError(
                    f"{key!r} has values that the cells of training lack: "
                    f"{', '.join(map(repr, unknown[:5]))}; a model has no codes for them"
                )

    def train_dataloader(self) -> BatchIterable[Any]:
        """The batches of training, shuffled anew each epoch."""
        return self._train

    def val_dataloader(self) -> BatchIterable[Any] | list[Any]:
        """The batches of validation; none where no cells were given for it."""
        return [] if self._val is None else self._val

    def inference_dataloader(
        self, frame: pl.LazyFrame | pl.DataFrame | None = None, batch_size: int = 4096
    ) -> BatchIterable[Any]:
        """Batches in frame order, for ``model.get_latent_representation(dataloader=…)``.

        Args:
            frame: the cells, of the same genes; None: those of training.
            batch_size: cells a batch.

        Raises:
            DaoValueError: a batch, label or covariate that the cells of training lack.
        """
        cells = self._frame if frame is None else frame.lazy()
        batches = self._load(cells, False, batch_size, self._tensors)
        self._check(batches)
        return batches

    def _tensors(self, batch: Batch[Any]) -> dict[str, torch.Tensor | None]:
        """A batch as scvi-tools' modules take it: (n_cells, …) each."""
        keys, n = self._keys, len(batch)
        zeros = np.zeros(n, np.int64)
        columns = {
            REGISTRY_KEYS.BATCH_KEY: self._codes(batch.obs, keys.batch_key, zeros),
            REGISTRY_KEYS.LABELS_KEY: self._codes(batch.obs, keys.labels_key, zeros),
        }
        tensors: dict[str, torch.Tensor | None] = {
            REGISTRY_KEYS.X_KEY: torch.from_numpy(batch.x),
            **{name: torch.from_numpy(codes)[:, None] for name, codes in columns.items()},
            REGISTRY_KEYS.CAT_COVS_KEY: None,
            REGISTRY_KEYS.CONT_COVS_KEY: None,
        }
        if names := keys.categorical_covariate_keys:
            codes = [self._codes(batch.obs, name, zeros) for name in names]
            tensors[REGISTRY_KEYS.CAT_COVS_KEY] = torch.from_numpy(np.column_stack(codes))
        if names := keys.continuous_covariate_keys:
            values = batch.obs.select(pl.col(names).cast(pl.Float32)).to_numpy()
            tensors[REGISTRY_KEYS.CONT_COVS_KEY] = torch.from_numpy(np.ascontiguousarray(values))
        return tensors

    def _codes(
        self, obs: pl.DataFrame, key: str | None, zeros: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        if key is None:
            return zeros
        values = obs[key].cast(pl.String).cast(pl.Enum(self.categories[key])).to_physical()
        return values.to_numpy().astype(np.int64)

    def _labels(self, key: str | None) -> NDArray[np.object_]:
        """The values behind the codes of a column; of no column the one that all cells have."""
        found = ["0"] if key is None else self.categories[key]
        return np.array(found, dtype=object)

    @property
    def batch_labels(self) -> NDArray[np.object_]:
        """The batches by their codes, (n_batch,)."""
        return self._labels(self._keys.batch_key)

    @property
    def labels(self) -> NDArray[np.object_]:
        """The labels by their codes, (n_labels,)."""
        return self._labels(self._keys.labels_key)

    @property
    def n_batch(self) -> int:
        """The number of batches, at least one."""
        return len(self.batch_labels)

    @property
    def n_labels(self) -> int:
        """The number of labels, at least one."""
        return len(self.labels)

    @property
    def n_samples(self) -> int:
        """The number of samples: models of those are told of none."""
        return 0

    @property
    def registry(self) -> dict[str, Any]:
        """What a model is to know of the data: ``SCVI(registry=…)``."""
        keys = self._keys
        covariates, values = keys.categorical_covariate_keys, keys.continuous_covariate_keys
        mapping = {key: self._labels(key) for key in covariates}
        categorical = {
            "field_keys": covariates,
            "mapping": mapping,
            "n_cats_per_key": [len(found) for found in mapping.values()],
        }
        continuous = {"columns": np.array(values, dtype=object)}
        fields = {
            "X": _field(
                ("X", None),
                {"n_obs": self.n_obs, "n_vars": self.n_vars, "column_names": self._genes},
                {"n_vars": self.n_vars, "n_cells": self.n_obs},
            ),
            "batch": _field(
                ("obs", "_scvi_batch"),
                {"categorical_mapping": self.batch_labels, "original_key": keys.batch_key},
                {"n_batch": self.n_batch},
            ),
            "labels": _field(
                ("obs", "_scvi_labels"),
                {"categorical_mapping": self.labels, "original_key": keys.labels_key},
                {"n_labels": self.n_labels},
            ),
            "size_factor": _field(None, {}, {}),
            "extra_categorical_covs": _field(
                ("obsm", "_scvi_extra_categorical_covs") if covariates else None,
                categorical if covariates else {},
                {"n_extra_categorical_covs": len(covariates)},
            ),
            "extra_continuous_covs": _field(
                ("obsm", "_scvi_extra_continuous_covs") if values else None,
                continuous if values else {},
                {"n_extra_continuous_covs": len(values)},
            ),
        }
        return {
            "scvi_version": scvi.__version__,
            "model_name": "SCVI",
            "setup_args": {
                "layer": None,
                "batch_key": keys.batch_key,
                "labels_key": keys.labels_key,
                "size_factor_key": None,
                "categorical_covariate_keys": covariates or None,
                "continuous_covariate_keys": values or None,
            },
            "field_registries": fields,
            "setup_method_name": "setup_datamodule",
        }


def _field(
    place: tuple[str, str | None] | None, state: dict[str, Any], stats: dict[str, int]
) -> dict[str, Any]:
    """An entry of a registry: where AnnData would have it, what it is, and its sizes."""
    names = {} if place is None else {"attr_name": place[0], "attr_key": place[1]}
    return {"data_registry": names, "state_registry": state, "summary_stats": stats}


def _categories(key: str, obs: list[pl.Series]) -> list[str]:
    """The values of a column, as text, sorted."""
    column = next(column for column in obs if column.name == key)
    if nulls := column.null_count():
        raise DaoValueError(
            f"{key!r} is null for {nulls:,} of {len(column):,} cells; filter them out, or give "
            "them a value with fill_null"
        )
    return column.cast(pl.String).unique().sort().to_list()
