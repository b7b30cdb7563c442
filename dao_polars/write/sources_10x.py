"""10x Genomics matrices: the .h5 files of Cell Ranger 2 (a group a genome) and of 3 and later.

Owns their layout. Tables come out as scanpy's ``read_10x_h5`` makes them: barcodes index obs, gene
symbols index var (repeated ones stay), gene ids are ``gene_ids``. All features are kept, whatever
their ``feature_types``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DaoCorruptError, DaoValueError
from .matrix_source import SparseSource, reading

if TYPE_CHECKING:
    import h5py
    import pandas as pd

_FEATURE_COLUMNS = {"name", "feature_type", "id", "gene_id", "_all_tag_keys"}


def is_10x(file: h5py.File) -> bool:
    """Whether a file looks like one of 10x's: a ``matrix``, or groups that hold barcodes."""
    return "matrix" in file or any(
        hasattr(group, "keys") and "barcodes" in group for group in file.values()
    )


def read_10x(file: h5py.File, where: str) -> tuple[pd.DataFrame, pd.DataFrame, SparseSource]:
    """obs, var and the matrix, cells by features; the matrix is not read yet.

    Raises:
        DaoValueError: a Cell Ranger 2 file with several genomes.
        DaoCorruptError: parts are missing or do not fit together.
    """
    with reading(where):
        if "matrix" in file:
            group = file["matrix"]
            obs, var = _tables_v3(group)
        else:
            group = _one_genome(file, where)
            obs, var = _tables_v2(group)
        n_vars, n_obs = (int(size) for size in group["shape"][:])
        indptr, indices, data = (group[name] for name in ("indptr", "indices", "data"))
    where = f"{where}: {group.name}"
    if (len(obs), len(var)) != (n_obs, n_vars):
        raise DaoCorruptError(
            f"{where}: shape says {n_obs} barcodes and {n_vars} features, found {len(obs)} and "
            f"{len(var)}; the file is damaged"
        )
    # 10x stores features x barcodes by column, which is barcodes x features by row
    return obs, var, SparseSource(where, "csr", (n_obs, n_vars), indptr, indices, data)


def _one_genome(file: h5py.File, where: str) -> Any:
    genomes = [name for name, group in file.items() if hasattr(group, "keys")]
    if len(genomes) != 1:
        raise DaoValueError(
            f"{where}: holds several genomes ({', '.join(genomes)}), each with cells of its own; "
            "write them one by one: scanpy.read_10x_h5(path, genome=...), then write_dataset"
        )
    return file[genomes[0]]


def _tables_v2(group: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    import pandas as pd

    obs = pd.DataFrame(index=_text(group["barcodes"]), columns=pd.Index([], dtype=object))
    var = pd.DataFrame({"gene_ids": _text(group["genes"])}, index=_text(group["gene_names"]))
    return obs, var


def _tables_v3(group: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    import pandas as pd

    features = group["features"]
    obs = pd.DataFrame(index=_text(group["barcodes"]), columns=pd.Index([], dtype=object))
    if "filtered_barcodes" in group:
        obs["filtered_barcodes"] = group["filtered_barcodes"][:].astype(bool)
    if "gene_id" in features:  # a matrix of probes
        columns = {"gene_ids": _text(features["gene_id"]), "probe_ids": _text(features["id"])}
    else:
        columns = {"gene_ids": _text(features["id"])}
    columns["feature_types"] = _text(features["feature_type"])
    for name, item in features.items():
        if hasattr(item, "shape") and name not in _FEATURE_COLUMNS:
            columns[name] = item[:] if item.dtype.kind == "b" else _text(item)
    return obs, pd.DataFrame(columns, index=_text(features["name"]))


def _text(dataset: Any) -> np.ndarray:
    """Strings of any HDF5 kind as an object array of str."""
    text = dataset.asstr("utf-8")[:] if dataset.dtype.kind in "SO" else dataset[:].astype(str)
    return np.asarray(text, dtype=object)
