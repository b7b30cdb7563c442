"""Damages each file of a store in each way, and reads the store in each way: run by test_damage.py.

Every way of reading must give exactly the values that were written, or raise an error that says so, and
`verify()` must name the damage. Prints each case that does neither, as JSON; what aborts the process is
seen by who started it. `python -m tests.whole.damage <folder>`.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import polars as pl
import scipy.sparse as sp

import dao_polars as dao

GENES = [f"g{i}" for i in range(60)]
N_OBS = 300
SPACE = 4 << 30
"""Bytes of address space beyond those in use at the start: an allocation on a file's word is past them."""


def study(seed: int) -> ad.AnnData:
    """A study of one shape and other values for each seed, with something in every place that is kept."""
    rng = np.random.default_rng(seed)
    x = sp.random(N_OBS, len(GENES), 0.3, format="csr", dtype=np.float32, random_state=seed)
    x.data[:] = rng.integers(1, 40, x.nnz)
    obs = pl.DataFrame(
        {
            "cell_type": rng.choice(["B", "T", "NK"], N_OBS),
            "score": rng.normal(size=N_OBS),
            "n": rng.integers(0, 1000, N_OBS),
            "good": rng.random(N_OBS) > 0.5,
        }
    ).to_pandas()
    obs.index = [f"c{seed}_{i}" for i in range(N_OBS)]
    found = ad.AnnData(x, obs=obs)
    found.var_names = GENES
    found.var["symbol"] = [f"S{i}" for i in range(len(GENES))]
    found.layers["raw"] = x * 2
    found.obsm["X_pca"] = rng.normal(size=(N_OBS, 4)).astype(np.float32)
    found.uns["made"] = {"seed": seed, "values": rng.normal(size=5)}
    return found


def write(uri: Path) -> None:
    """Two datasets of one shape, so that each file has a twin."""
    for seed in range(2):
        dao.write_dataset(
            uri,
            study(seed),
            dataset=f"d{seed}",
            organism="Homo sapiens",
            layers=True,
            gene_index=True,
            progress=False,
        )


def digest(*values: object) -> str:
    """A digest of arrays and frames, bit by bit."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, pl.DataFrame):
            value = value.write_json()
        if sp.issparse(value):
            for part in (value.indptr, value.indices, value.data):
                found.update(np.ascontiguousarray(part).tobytes())
        elif isinstance(value, np.ndarray):
            found.update(np.ascontiguousarray(value).tobytes())
        else:
            found.update(repr(value).encode())
    return found.hexdigest()


def ways(uri: Path) -> dict[str, Callable[[], object]]:
    """The ways of reading a store."""

    def batches(**options: object) -> list[object]:
        lf = dao.scan(uri)
        return [
            part
            for batch in lf.dao.iter_batches(64, shuffle=True, seed=1, **options)
            for part in (batch.x, batch.obs.drop("cell"))
        ]

    def adata() -> list[object]:
        found = dao.scan(uri).dao.to_anndata(layers=["raw"], obsm=["X_pca"])
        return [found.X, found.layers["raw"], found.obsm["X_pca"], found.obs.to_csv(), found.var.to_csv()]

    def select(*exprs: pl.Expr) -> list[object]:
        return [dao.scan(uri).select(*exprs).collect()]

    return {
        "datasets": lambda: [dao.load_store(uri).datasets],
        "obs": lambda: [dao.scan(uri).drop("cell").collect()],
        "one column": lambda: select(pl.col("score")),
        "a filter": lambda: [
            dao.scan(uri).filter(pl.col("cell_type") == "T", pl.col("n") > 500).drop("cell").collect()
        ],
        "var": lambda: [dao.load_store(uri).var(d) for d in ("d0", "d1")],
        "uns": lambda: [dict(dao.load_store(uri).uns(d)) for d in ("d0", "d1")],
        "batches": batches,
        "batches of genes": lambda: batches(genes=["g3", "g50"]),
        "anndata": adata,
        "a gene": lambda: select(dao.gene("g7")),
        "qc": lambda: select(dao.qc(sets={"odd": ["g1", "g3"]})),
        "pseudobulk": lambda: [dao.scan(uri).dao.pseudobulk("cell_type").X],
    }


def read(way: Callable[[], object]) -> str:
    """The digest of what a way of reading gives, or the kind of its error."""
    try:
        return digest(*way())
    except dao.DaoInternalError as error:
        return f"a bug of ours: {error}"
    except dao.DaoError:
        return "error"
    except pl.exceptions.ComputeError as error:
        # Polars lets nothing else through from a plugin, or from a scan that fails in the middle of a query.
        return "error" if "dataset" in str(error) or "dao.json" in str(error) else f"polars: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def damages(path: Path, twin: Path | None, rng: np.random.Generator) -> Iterator[tuple[str, Callable[[], None]]]:
    """The ways to damage a file; each leaves it to the caller to mend it."""
    whole = path.read_bytes()

    def flip(at: int, bit: int) -> None:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])

    for _ in range(3 if whole else 0):
        at, bit = int(rng.integers(len(whole))), int(rng.integers(8))
        yield f"bit {bit} of byte {at} flipped", lambda at=at, bit=bit: flip(at, bit)
    if whole:
        yield "cut in half", lambda: path.write_bytes(whole[: len(whole) // 2])
        yield "its last byte gone", lambda: path.write_bytes(whole[:-1])
        yield "empty", lambda: path.write_bytes(b"")
    yield "gone", path.unlink

    def folder() -> None:
        path.unlink()
        path.mkdir()

    yield "a folder instead", folder
    if twin is not None and twin.read_bytes() != whole:
        yield "swapped with its twin's", lambda: path.write_bytes(twin.read_bytes())


def main(folder: Path, seed: int) -> None:
    """Every file below the second dataset, and the store's own."""
    uri = folder / "s"
    write(uri)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + SPACE, used + SPACE))
    expected = {name: read(way) for name, way in ways(uri).items()}
    assert "error" not in expected.values(), expected
    assert dao.load_store(uri).verify().is_empty()
    files = sorted(p for p in uri.rglob("*") if p.is_file() and "d0" not in p.relative_to(uri).parts)
    files = [p for p in files if p.name != ".dao.lock"]
    rng = np.random.default_rng(seed)
    cases = 0
    for path in files:
        inside = path.relative_to(uri)
        twin = uri / "d0" / inside.relative_to("d1") if inside.parts[0] == "d1" else None
        keep = folder / "keep"
        shutil.copy2(path, keep)
        for name, damage in damages(path, twin, rng):
            damage()
            found = {way: read(call) for way, call in ways(uri).items()}
            wrong = {way: what for way, what in found.items() if what not in (expected[way], "error")}
            try:
                told = dao.load_store(uri).verify().height > 0
            except dao.DaoError:
                told = True
            except BaseException as error:
                told, wrong["verify"] = True, f"{type(error).__name__}: {error}"
            if not told:
                wrong["verify"] = "says that all is well"
            if wrong:
                print(json.dumps({"file": str(inside), "damage": name, "wrong": wrong}), flush=True)
            if path.is_dir():
                path.rmdir()
            shutil.copy2(keep, path)
            cases += 1
    assert {name: read(way) for name, way in ways(uri).items()} == expected
    print(f"{cases} cases of {len(files)} files")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
