"""Each file and folder of a store damaged in every way, and read in every way; test_damage.py
starts it.

Each way of reading must give exactly the values that were written, or raise a DaoError, and
`verify()` must tell. What does neither is printed, a case a line, as JSON; an allocation on a
file's word ends this process, which has little address space. For SEEDS flips and cuts of each:
`python -m tests.whole.damage FOLDER KIND SEEDS`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import scipy.sparse as sp

import dao_polars as dao
from tests.conftest import SFAIRA
from tests.storefab import (
    description_path,
    last_version,
    part_path,
    read_description,
)

N_OBS, N_VARS = 300, 60
DAMAGED_SFAIRA = "mouse_pancreas_2016_indrop_baron_001"
SPACE = 4 << 30
"""Bytes of address space beyond those in use: an allocation on a file's word is past them."""

KINDS = ("packed", "portable", "dense", "shards", "sfaira")
ERROR = "error"


def study(seed: int, kind: str) -> ad.AnnData:
    """A study of the same shape and other values for each seed."""
    rng = np.random.default_rng(seed)
    n_obs, n_vars = (8200, 100) if kind == "shards" else (N_OBS, N_VARS)
    if kind == "shards":  # shards are made for values that are not zero, a third of those here
        ends, columns = np.arange(n_obs + 1) * (n_vars // 10), np.arange(0, n_vars, 10)
        values = rng.integers(1, 40, ends[-1], dtype=np.uint8) * (rng.random(ends[-1]) < 1 / 3)
        counts = sp.csr_matrix((values, np.tile(columns, n_obs), ends), (n_obs, n_vars))
    else:
        counts = rng.integers(1, 40, (n_obs, n_vars), dtype=np.uint8)
        if kind != "dense":
            counts = sp.csr_matrix(counts * (rng.random(counts.shape) < 0.3))
    obs = pd.DataFrame(
        {
            "cell_type": rng.choice(["B", "T", "NK"], n_obs),
            "score": rng.normal(size=n_obs),
            "n": rng.integers(0, 1000, n_obs),
            "good": rng.random(n_obs) > 0.5,
        },
        index=[f"c{seed}_{i}" for i in range(n_obs)],
    )
    var = pd.DataFrame(
        {"symbol": [f"S{i}" for i in range(n_vars)]}, index=[f"g{i}" for i in range(n_vars)]
    )
    found = ad.AnnData(
        counts, obs=obs, var=var, uns={"made": {"seed": seed, "values": rng.normal(size=5)}}
    )
    if kind == "packed":
        found.obsm["X_pca"] = rng.normal(size=(n_obs, 4)).astype(np.float32)
    if kind == "shards":
        # a shard has 8192 inner chunks, each a row here
        found.obsm["X_pca"] = rng.integers(0, 9, (n_obs, 4096), dtype=np.uint8)
    if kind == "dense":
        found.layers["raw"] = counts * 2
    return found


def write(uri: Path, kind: str) -> None:
    """A store of two datasets of one shape, so that each file has a twin."""
    if kind == "sfaira":
        shutil.copytree(SFAIRA / DAMAGED_SFAIRA, uri / DAMAGED_SFAIRA)
        return
    for seed in range(1 if kind == "shards" else 2):
        dao.write_dataset(
            uri,
            study(seed, kind),
            dataset=f"d{seed}",
            organism="Homo sapiens",
            layers=True,
            profile="portable" if kind == "portable" else "packed",
            gene_index=kind == "packed",
            progress=False,
        )


def digest(values: list[Any]) -> str:
    """A digest of arrays and frames, bit by bit."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            found.update(np.ascontiguousarray(value).tobytes())
        elif sp.issparse(value):
            for part in (value.indptr, value.indices, value.data):
                found.update(np.ascontiguousarray(part).tobytes())
        else:
            found.update(
                (value.write_json() if isinstance(value, pl.DataFrame) else repr(value)).encode()
            )
    return found.hexdigest()


def ways(uri: Path, kind: str) -> dict[str, Callable[[], list[Any]]]:
    """The ways of reading a store."""
    store = dao.load_store(uri)
    names = store.datasets["id"].to_list()
    layers, obsm = ["raw"] * (kind == "dense"), ["X_pca"] * (kind in ("packed", "shards"))
    var = store.var(names[-1])
    genes = var[var.columns[0]][[3, 50]].to_list()
    text = next(
        name
        for name, dtype in store.schema.items()
        if isinstance(dtype, pl.Enum) and name != "dataset"
    )
    floats = [name for name, dtype in store.schema.items() if dtype.is_numeric()]

    def batches(**options: Any) -> list[Any]:
        found = dao.scan(uri).dao.iter_batches(64, shuffle=True, seed=1, **options)
        return [part for batch in found for part in (batch.x, batch.obs)]

    def adata() -> list[Any]:
        found = dao.scan(uri).dao.to_anndata(genes="union", layers=layers, obsm=obsm)
        parts = [
            found.X,
            *(found.layers[name] for name in layers),
            *(found.obsm[name] for name in obsm),
        ]
        return [*parts, found.obs.to_dict("split"), found.var.to_dict("split")]

    def select(*exprs: pl.Expr | str) -> list[Any]:
        return [dao.scan(uri).select(*exprs).collect()]

    def filtered() -> list[Any]:
        chosen = dao.scan(uri).filter(pl.col(text) == pl.col(text).min())
        return [chosen.drop("cell").collect()]

    return {
        "datasets": lambda: [dao.load_store(uri).datasets],
        "obs": lambda: [dao.scan(uri).drop("cell").collect()],
        "one column": lambda: select(*floats[:1] or [text]),
        "a filter": filtered,
        "var": lambda: [dao.load_store(uri).var(name) for name in names],
        "uns": lambda: [dict(dao.load_store(uri).uns(name)) for name in names],
        "batches": lambda: batches(genes="union"),
        "batches of genes": lambda: batches(genes=genes),
        "anndata": adata,
        "a gene": lambda: select(dao.gene(genes[0])),
        "totals": lambda: select(dao.qc()),
        "pseudobulk": lambda: [dao.scan(uri).dao.pseudobulk(text, genes="union")],
    }


def read(way: Callable[[], list[Any]]) -> str:
    """The digest of what a way of reading gives, `ERROR` for a good error, or what else came."""
    try:
        return digest(way())
    except dao.DaoInternalError as error:
        return f"a bug of ours: {error}"
    except dao.DaoError:
        return ERROR
    except pl.exceptions.ComputeError as error:
        # Polars lets nothing else through from a plugin, or from a scan that has begun.
        return (
            ERROR if "dataset '" in str(error) or "/versions/" in str(error) else f"polars: {error}"
        )
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


Case = tuple[str, Callable[[], object]]


def of_file(path: Path, twin: Path | None, rng: np.random.Generator, seeds: int) -> Iterator[Case]:
    """The ways to damage a file; another mends it."""
    whole = path.read_bytes()

    def flip(at: int, bit: int) -> None:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])

    def folder() -> None:
        path.unlink()
        path.mkdir()

    for _ in range(seeds if whole else 0):
        at, bit = int(rng.integers(len(whole))), int(rng.integers(8))
        yield f"bit {bit} of byte {at} flipped", lambda at=at, bit=bit: flip(at, bit)
        yield f"cut to {at} bytes", lambda at=at: path.write_bytes(whole[:at])
    if whole:
        yield "empty", lambda: path.write_bytes(b"")
    yield "gone", path.unlink
    yield "a folder instead", folder
    if twin is not None and twin.is_file() and twin.read_bytes() != whole:
        yield "swapped with its twin", lambda: path.write_bytes(twin.read_bytes())


def of_folder(path: Path, twin: Path | None) -> Iterator[Case]:
    """The ways to damage a folder; another mends it."""

    def swap() -> None:
        shutil.rmtree(path)
        shutil.copytree(twin, path)

    yield "gone", lambda: shutil.rmtree(path)
    if twin is not None and content(path) != content(twin):
        yield "swapped with its twin", swap


def content(folder: Path) -> list[tuple[Path, bytes]]:
    """The files below a folder."""
    return sorted(
        (path.relative_to(folder), path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    )


def of_shards(folder: Path) -> Iterator[Case]:
    """The files of one array swapped with each other."""
    shards = sorted(path for path in folder.rglob("*") if path.is_file())
    for a, b in itertools.pairwise(shards):

        def swap(a: Path = a, b: Path = b) -> None:
            first, second = a.read_bytes(), b.read_bytes()
            a.write_bytes(second)
            b.write_bytes(first)

        yield f"{a.relative_to(folder)} and {b.relative_to(folder)} swapped", swap


def files(uri: Path, kind: str) -> Iterator[tuple[Path, Path | None]]:
    """What is damaged: files and folders that the last dataset is read from; and their twins."""
    if kind == "sfaira":
        for path in [uri / DAMAGED_SFAIRA, *sorted((uri / DAMAGED_SFAIRA).rglob("*"))]:
            yield path, None
        return
    last = last_version(uri)
    yield last, None
    if (base := json.loads(last.read_text()).get("base")) is not None:
        yield last.with_name(f"{base:010}.json"), None
    yield uri / "versions", None
    yield uri / "parts", None
    name = "d0" if kind == "shards" else "d1"
    damaged, meta = part_path(uri, name), read_description(uri, name)
    description = description_path(uri, name)
    listed = [damaged / path for path in meta["files"]]
    folders = {above for path in listed for above in path.parents if above.is_relative_to(damaged)}
    twin, other = part_path(uri, "d0"), read_description(uri, "d0")
    for path in [description, *sorted({*folders, *listed})]:
        at = str(path.relative_to(damaged))
        if "gene_index" in meta:
            at = at.replace(meta["gene_index"], other["gene_index"])
        its = description_path(uri, "d0") if path == description else twin / at
        yield path, its if name == "d1" else None


def cases(uri: Path, kind: str, seeds: int) -> Iterator[tuple[Path, str, Callable[[], object]]]:
    """All damage of a store's last dataset, whose twin is the first: to what, its name, how."""
    rng = np.random.default_rng(seeds)
    for path, twin in files(uri, kind):
        if kind == "shards":
            found = of_shards(path) if path.name == "c" else iter(())
        elif path.is_file():
            found = of_file(path, twin, rng, seeds)
        else:
            # What is gone from sfaira's folder was never there: it has no manifest.
            found = of_folder(path, twin) if path != uri / DAMAGED_SFAIRA else iter(())
        for name, damage in found:
            yield path, name, damage


def add_strangers(uri: Path) -> None:
    """Files that are nobody's, one in each folder of a store."""
    for folder in [uri, *(path for path in uri.rglob("*") if path.is_dir())]:
        (folder / "stranger").write_bytes(b"stranger")


def replace(path: Path, copy: Path) -> None:
    """Makes `path` what `copy` is."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    shutil.copytree(copy, path) if copy.is_dir() else shutil.copy2(copy, path)


def main(folder: Path, kind: str, seeds: int) -> None:
    """Every case of one kind of store."""
    uri, keep = folder / "s", folder / "keep"
    write(uri, kind)

    def calls_at(place: Path) -> dict[str, Callable[[], object]]:
        calls = ways(place, kind)
        if kind == "shards":  # the others take long there
            calls = {name: calls[name] for name in ("batches of genes", "anndata")}
        return calls

    calls = calls_at(uri)
    expected = {name: read(way) for name, way in calls.items()}
    assert all(len(value) == 64 for value in expected.values()), expected
    assert dao.load_store(uri).verify().is_empty()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + SPACE, used + SPACE))

    def say(path: Path, name: str, wrong: dict[str, str]) -> None:
        print(
            json.dumps({"path": str(path.relative_to(uri)), "damage": name, "wrong": wrong}),
            flush=True,
        )

    n_cases = 0
    for path, name, damage in list(cases(uri, kind, seeds)):
        replace(keep, path)
        (folder / "case").write_text(
            f"{path.relative_to(uri)}: {name}"
        )  # for who sees this process die
        damage()
        # At a place of its own: expressions keep stores open, whose files stay as they are.
        place = uri.rename(folder / f"s{n_cases}")
        found = {way: read(lambda at=place, way=way: calls_at(at)[way]()) for way in calls}
        place.rename(uri)
        if kind == "sfaira":  # nothing there has a checksum: what cannot be told is trusted
            wrong = {way: what for way, what in found.items() if len(what) != 64 and what != ERROR}
        else:
            wrong = {way: what for way, what in found.items() if what not in (expected[way], ERROR)}
        try:
            told = dao.load_store(uri).verify().height > 0 or kind == "sfaira"
        except dao.DaoError:
            told = True
        except BaseException as error:
            told, wrong["verify"] = True, f"{type(error).__name__}: {error}"
        if not told:
            wrong["verify"] = "says that all is well"
        if wrong:
            wrong = {
                way: "other values" if len(what) == 64 else what for way, what in wrong.items()
            }
            say(path, name, wrong)
        replace(path, keep)
        n_cases += 1
    assert {name: read(way) for name, way in calls.items()} == expected
    if kind in ("packed", "portable", "dense"):
        add_strangers(uri)
        assert dao.load_store(uri).verify().is_empty()
        assert {name: read(way) for name, way in calls.items()} == expected
    print(n_cases)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
