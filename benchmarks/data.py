"""The cells that the benchmarks read: real ones, drawn again and thinned to any number.

Owns how they are made and what is known of them (``Data``): sizes, and the sums of counts that
everybody who reads them has to arrive at. Written piece by piece, so that memory stays small.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import scipy.sparse as sp

SOURCE = Path(__file__).parent.parent / "data" / "pancreas_human.h5ad"
BLOCK = 10_000
PANEL = 2_000  # genes of the dense pattern: the first ones of var
SHARE = 0.05  # the share of cells that the selection should have


@dataclass(frozen=True)
class Data:
    """What is known of a file of cells. Totals are sums of counts; ``panel`` is of PANEL genes."""

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


def thinned(
    counts: sp.csr_matrix, rng: np.random.Generator, n: int
) -> tuple[sp.csr_matrix, np.ndarray]:
    """``n`` cells drawn with replacement, each thinned binomially (a rate a cell, uniform 0.4 to
    0.9), so that sparsity and gene-gene structure are real; and the rows that were drawn."""
    rows = rng.integers(0, counts.shape[0], n)
    x = counts[rows]
    rates = np.repeat(rng.uniform(0.4, 0.9, n), np.diff(x.indptr))
    x.data = rng.binomial(x.data.astype(np.int64), rates).astype(np.float32)
    x.eliminate_zeros()
    return x, rows


def make_h5ad(path: Path, cells: int, compression: str = "gzip") -> Data:
    """Writes the file as anndata would with ``compression``, a block of cells at a time."""
    source = ad.read_h5ad(SOURCE)
    shares = source.obs["cell_type"].value_counts(normalize=True)
    cell_type = str((shares - SHARE).abs().idxmin())
    rng = np.random.default_rng(0)
    drawn, lengths = [], [np.zeros(1, np.int64)]
    total = selected_total = panel_total = 0.0
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["encoding-type"] = "csr_matrix"
        group.attrs["encoding-version"] = "0.1.0"
        group.attrs["shape"] = (cells, source.n_vars)
        # h5py sizes chunks by the shape at first; cut to the real length in the end.
        expected = max(cells * source.X.nnz // source.n_obs, 1)
        options = {"maxshape": (None,), "chunks": True, "compression": compression}
        arrays = {
            name: group.create_dataset(name, (expected,), dtype, **options)
            for name, dtype in (("data", np.float32), ("indices", np.int32))
        }
        at = 0
        for start in range(0, cells, BLOCK):
            x, rows = thinned(source.X, rng, min(BLOCK, cells - start))
            for name, array in arrays.items():
                if at + x.nnz > len(array):
                    array.resize((at + x.nnz,))
                array[at : at + x.nnz] = getattr(x, name)
            at += x.nnz
            drawn.append(rows)
            lengths.append(np.diff(x.indptr))
            total += x.data.sum(dtype=np.float64)
            chosen = (source.obs["cell_type"].iloc[rows] == cell_type).to_numpy()
            selected_total += x[chosen].data.sum(dtype=np.float64)
            panel_total += x[:, :PANEL].data.sum(dtype=np.float64)
        for array in arrays.values():
            array.resize((at,))
        indptr = np.cumsum(np.concatenate(lengths), dtype=np.int64)
        # scipy's rule; older versions read no other.
        group["indptr"] = indptr.astype(np.int32) if at < 2**31 else indptr
    obs = source.obs.iloc[np.concatenate(drawn)]
    obs.index = np.arange(cells).astype(str)
    with h5py.File(path, "r+") as file:
        file.attrs["encoding-type"] = "anndata"
        file.attrs["encoding-version"] = "0.1.0"
        for name, value in (("obs", obs), ("var", source.var), ("uns", {})):
            ad.io.write_elem(file, name, value)
        for name in ("layers", "obsm", "varm", "obsp", "varp"):
            ad.io.write_elem(file, name, {})
    return Data(
        cells=cells,
        genes=source.n_vars,
        nnz=at,
        total=float(total),
        cell_type=cell_type,
        selected=int((obs["cell_type"] == cell_type).sum()),
        selected_total=float(selected_total),
        panel=PANEL,
        panel_total=float(panel_total),
        bytes=path.stat().st_size,
    )


def prepare(folder: Path, cells: int, compression: str = "gzip") -> Data:
    """``folder``/data.h5ad and data.json; as they are where they were made before."""
    notes = folder / "data.json"
    if notes.exists():
        return Data(**json.loads(notes.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "data.h5ad.partial"
    data = make_h5ad(partial, cells, compression)
    partial.rename(folder / "data.h5ad")
    notes.write_text(json.dumps(asdict(data), indent=2))
    return data
