"""The cells that the benchmarks read: real ones, drawn again and thinned to any number.

Owns how they are made and what is known of them (``Data``): sizes, and the sums of values that
everybody who reads them has to arrive at. Written piece by piece, so that memory stays small.

There are three ``KINDS``: ``counts``; ``floats``, the same cells as ``log1p`` of their share of
10,000; and ``sparse``, five values a cell, as of panels and of what is left of an atlas.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

SOURCE = Path(__file__).parent.parent / "data" / "pancreas_human.h5ad"
KINDS = ("counts", "floats", "sparse")
BLOCK = 10_000
PANEL = 2_000  # genes of the dense pattern: the first ones of var
SHARE = 0.05  # the share of cells that the selection has
SAMPLE = 1_000  # cells that lie together, as in files that were put together from samples
FEW = 5  # values of a cell that has few


@dataclass(frozen=True)
class Data:
    """What is known of a file of cells. Totals are sums of values; ``panel`` is of PANEL genes."""

    kind: str
    cells: int
    genes: int
    nnz: int
    total: float
    cell_type: str
    selected: int
    selected_total: float
    panel: int
    panel_total: float
    bytes: int


def thinned(counts: sp.csr_matrix, rng: np.random.Generator, rows: np.ndarray) -> sp.csr_matrix:
    """Those rows, each thinned binomially (a rate a cell, uniform 0.4 to 0.9), so that sparsity
    and gene-gene structure are real."""
    x = counts[rows]
    rates = np.repeat(rng.uniform(0.4, 0.9, len(rows)), np.diff(x.indptr))
    x.data = rng.binomial(x.data.astype(np.int64), rates).astype(np.float32)
    x.eliminate_zeros()
    return x


def log_normalised(x: sp.csr_matrix) -> sp.csr_matrix:
    """As ``normalize_total(target_sum=10_000)`` and ``log1p`` make them."""
    totals = np.maximum(np.asarray(x.sum(axis=1)).ravel(), 1)
    x.data = np.log1p(x.data * np.repeat(1e4 / totals, np.diff(x.indptr))).astype(np.float32)
    return x


def few_values(genes: int, rng: np.random.Generator, n: int) -> sp.csr_matrix:
    """``n`` cells of five small counts, one in each fifth of the genes."""
    places = (np.arange(FEW) + rng.random((n, FEW))) * (genes / FEW)
    counts = rng.geometric(0.6, n * FEW).astype(np.float32)
    return sp.csr_matrix(
        (counts, places.astype(np.int32).ravel(), np.arange(n + 1) * FEW), shape=(n, genes)
    )


def blocks(
    source: ad.AnnData, kind: str, rows: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[slice, sp.csr_matrix]]:
    """The values of all cells, a block of them at a time."""
    for first in range(0, len(rows), BLOCK):
        some = slice(first, min(first + BLOCK, len(rows)))
        if kind == "sparse":
            yield some, few_values(source.n_vars, rng, some.stop - first)
        else:
            x = thinned(source.X, rng, rows[some])
            yield some, log_normalised(x) if kind == "floats" else x


def make_h5ad(path: Path, cells: int, compression: str | None = None, kind: str = "counts") -> Data:
    """Writes the file as anndata would with ``compression``, a block of cells at a time."""
    source = ad.read_h5ad(SOURCE)
    shares = source.obs["cell_type"].value_counts(normalize=True)
    cell_type = str((shares - SHARE).abs().idxmin())
    chosen = (source.obs["cell_type"] == cell_type).to_numpy()
    likely = np.where(chosen, SHARE / chosen.sum(), (1 - SHARE) / (~chosen).sum())
    rng = np.random.default_rng(0)
    rows = rng.choice(source.n_obs, cells, p=likely)
    lengths = [np.zeros(1, np.int64)]
    total = selected_total = panel_total = 0.0
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, h5py.File(path, "w") as file:
        # The length is known at the end, and without compression anndata writes in one piece.
        pieces = {"data": Path(folder) / "data", "indices": Path(folder) / "indices"}
        with open(pieces["data"], "wb") as data, open(pieces["indices"], "wb") as indices:
            for some, x in blocks(source, kind, rows, rng):
                x.data.tofile(data)
                x.indices.astype(np.int32, copy=False).tofile(indices)
                lengths.append(np.diff(x.indptr))
                total += x.data.sum(dtype=np.float64)
                selected_total += x[chosen[rows[some]]].data.sum(dtype=np.float64)
                panel_total += x[:, :PANEL].data.sum(dtype=np.float64)
        indptr = np.cumsum(np.concatenate(lengths), dtype=np.int64)
        nnz = int(indptr[-1])
        group = file.create_group("X")
        group.attrs["encoding-type"] = "csr_matrix"
        group.attrs["encoding-version"] = "0.1.0"
        group.attrs["shape"] = (cells, source.n_vars)
        for name, dtype in (("data", np.float32), ("indices", np.int32)):
            array = group.create_dataset(name, (nnz,), dtype, compression=compression)
            with open(pieces[name], "rb") as stream:
                for at in range(0, nnz, 1 << 24):
                    part = np.fromfile(stream, dtype, 1 << 24)
                    array[at : at + len(part)] = part
        # scipy's rule; older versions read no other.
        group["indptr"] = indptr.astype(np.int32) if nnz < 2**31 else indptr
    obs = source.obs.iloc[rows]
    if kind == "sparse":  # ten million cells: what is read of them
        obs = obs[["cell_type"]]
    numbers = np.arange(cells) // SAMPLE
    names = [f"sample {number}" for number in range(numbers[-1] + 1)]
    obs = obs.assign(sample=pd.Categorical.from_codes(numbers, names))
    obs.index = np.arange(cells).astype(str)
    with h5py.File(path, "r+") as file:
        file.attrs["encoding-type"] = "anndata"
        file.attrs["encoding-version"] = "0.1.0"
        for name, value in (("obs", obs), ("var", source.var), ("uns", {})):
            ad.io.write_elem(file, name, value)
        for name in ("layers", "obsm", "varm", "obsp", "varp"):
            ad.io.write_elem(file, name, {})
    return Data(
        kind=kind,
        cells=cells,
        genes=source.n_vars,
        nnz=nnz,
        total=float(total),
        cell_type=cell_type,
        selected=int((obs["cell_type"] == cell_type).sum()),
        selected_total=float(selected_total),
        panel=PANEL,
        panel_total=float(panel_total),
        bytes=path.stat().st_size,
    )


def prepare(folder: Path, cells: int, kind: str = "counts", compression: str | None = None) -> Data:
    """``folder``/data.h5ad and data.json; as they are where they were made before."""
    notes = folder / "data.json"
    if notes.exists():
        return Data(**json.loads(notes.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "data.h5ad.partial"
    data = make_h5ad(partial, cells, compression, kind)
    partial.rename(folder / "data.h5ad")
    notes.write_text(json.dumps(asdict(data), indent=2))
    return data
