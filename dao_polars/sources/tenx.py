"""10x Genomics matrices: the .h5 files of Cell Ranger 2 (a group a genome) and of 3 and later.

Owns their layout. Tables come out as scanpy's ``read_10x_h5`` makes them: barcodes index obs, gene
symbols index var (repeated ones stay), gene ids are ``gene_ids``. All features are kept, whatever
their ``feature_types``.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from .._warn import warn
from ..errors import DaoCorruptError, DaoValueError
from .matrix_source import SparseSource, member_array, reading

if TYPE_CHECKING:
    import h5py
    import pandas as pd

_MATRIX_PARTS = ("indptr", "indices", "data")
_TABLE_PARTS = ("barcodes", "filtered_barcodes", "features", "genes", "gene_names")
_PARTS = {"shape", *_MATRIX_PARTS, *_TABLE_PARTS}
_FEATURE_COLUMNS = {"name", "feature_type", "id", "gene_id", "_all_tag_keys"}


def is_10x(file: h5py.File) -> bool:
    """Whether a file looks like one of 10x's: a ``matrix``, or groups that hold barcodes."""
    return "matrix" in file or any(
        hasattr(group, "keys") and "barcodes" in group for group in file.values()
    )


def read_10x(
    file: h5py.File, where: str
) -> tuple[pd.DataFrame, pd.DataFrame, SparseSource, list[str]]:
    """obs, var, the matrix (cells by features, not read yet), and what else the file holds.

    Raises:
        DaoValueError: a Cell Ranger 2 file with several genomes.
        DaoCorruptError: parts are missing or do not fit together.
    """
    with reading(where):
        group = file["matrix"] if "matrix" in file else _one_genome(file, where)
        at = f"{where}: {group.name}"
        obs, var = _tables(group, at)
        others = [f"/{name}" for name in file if f"/{name}" != group.name]
        others += [f"{group.name}/{name}" for name in group if name not in _PARTS]
        for name, item in group["features"].items() if "features" in group else ():
            if not hasattr(item, "shape"):
                others.append(f"{group.name}/features/{name}")
        shape = group["shape"][:].tolist()
    indptr, indices, data = (member_array(group, name, at) for name in _MATRIX_PARTS)
    if shape != [len(var), len(obs)]:
        raise DaoCorruptError(
            f"{at}: shape says {shape}, features and barcodes, found {len(var)} and {len(obs)}; "
            "the file is damaged"
        )
    # 10x stores features x barcodes by column, which is barcodes x features by row
    matrix = SparseSource(at, "csr", shape[::-1], indptr, indices, data)
    return obs, var, matrix, others


def _one_genome(file: h5py.File, where: str) -> Any:
    genomes = [name for name, group in file.items() if hasattr(group, "keys")]
    if len(genomes) != 1:
        raise DaoValueError(
            f"{where}: holds several genomes ({', '.join(genomes)}), each with cells of its own; "
            "write them one by one: scanpy.read_10x_h5(path, genome=...), then write_dataset"
        )
    return file[genomes[0]]


def _tables(group: Any, where: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    obs = {}
    if "filtered_barcodes" in group:
        obs["filtered_barcodes"] = group["filtered_barcodes"][:].astype(bool)
    if "features" not in group:
        names, var = group["gene_names"], {"gene_ids": _text(group["genes"])}
    else:
        features = group["features"]
        names = features["name"]
        if "gene_id" in features:  # a matrix of probes
            var = {"gene_ids": _text(features["gene_id"]), "probe_ids": _text(features["id"])}
        else:
            var = {"gene_ids": _text(features["id"])}
        var["feature_types"] = _text(features["feature_type"])
        kinds = Counter(var["feature_types"].tolist())
        if len(kinds) > 1:
            listed = ", ".join(f"{n:,} {kind}" for kind, n in kinds.items())
            warn(
                f"{where}: has features of several types ({listed}), all of which are kept and "
                "count in each cell's total; for one alone give write_dataset what "
                "scanpy.read_10x_h5 reads"
            )
        for name, item in features.items():
            if hasattr(item, "shape") and name not in _FEATURE_COLUMNS:
                var[name] = item[:] if item.dtype.kind == "b" else _text(item)
    return _frame(obs, _text(group["barcodes"]), where), _frame(var, _text(names), where)


def _frame(columns: dict[str, np.ndarray], index: np.ndarray, where: str) -> pd.DataFrame:
    import pandas as pd

    for name, values in columns.items():
        if values.shape != index.shape:
            raise DaoCorruptError(
                f"{where}: {name} has shape {values.shape}, and there are {len(index)} rows; the "
                "file is damaged"
            )
    return pd.DataFrame(columns, index=index, columns=pd.Index(list(columns), dtype=object))


def _text(dataset: Any) -> np.ndarray:
    """Strings of any HDF5 kind as an object array of str."""
    text = dataset.asstr("utf-8")[:] if dataset.dtype.kind in "SO" else dataset[:].astype(str)
    return np.asarray(text, dtype=object)
