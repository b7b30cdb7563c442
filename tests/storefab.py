"""Stores made by hand for tests of the scan: manifest and tables, no matrices.

Also the frame that a scan of such a store must give, built another way: polars' own diagonal
concat of the tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import polars as pl

from dao_polars import _core

STORE_ID = "11111111-2222-3333-4444-555555555555"


@dataclass
class Study:
    """One dataset: obs without ``obs_name``, constants, number."""

    obs: pl.DataFrame
    constants: dict[str, Any] = field(default_factory=dict)
    number: int | None = None
    genes: tuple[str, ...] = ("g0", "g1")
    row_group_size: int = 7

    @property
    def frame(self) -> pl.DataFrame:
        names = pl.Series("obs_name", [f"c{i}" for i in range(self.obs.height)], pl.String)
        return self.obs.select(names, pl.all())


def dtype_name(dtype: pl.DataType) -> str:
    if isinstance(dtype, pl.Datetime):
        return f"Datetime({dtype.time_unit}{',' + dtype.time_zone if dtype.time_zone else ''})"
    return f"Duration({dtype.time_unit})" if isinstance(dtype, pl.Duration) else str(dtype)


def checksum(data: bytes) -> str:
    """A checksum as a store's JSON files name it."""
    return f"crc32c:{google_crc32c.value(data):08x}"


def seal(manifest: dict[str, Any]) -> str:
    """The text of a store's or dataset's `dao.json`: JSON that begins with its own checksum."""
    rest = json.dumps({k: v for k, v in manifest.items() if k != "checksum"}).removeprefix("{")
    return f'{{"checksum":"{checksum(rest.encode())}",{rest}'


def last_version(store: Path) -> Path:
    """The file of a store's last version."""
    return max((store / "versions").glob("*.json"))


def read_version(store: Path) -> dict[str, Any]:
    """A store's last version, with all its parts: by the rules of docs/format.md alone."""
    found = json.loads(last_version(store).read_text())
    gone = found.pop("gone", [])
    if (base := found.pop("base", None)) is not None:
        whole = json.loads((store / "versions" / f"{base:010}.json").read_text())
        parts = {p["number"]: p for p in whole["parts"] if p["number"] not in gone}
        parts |= {part["number"]: part for part in found["parts"]}
        found["parts"] = [parts[number] for number in sorted(parts)]
        columns = whole["categories"] | found["categories"]
        found["categories"] = {c: v for c, v in columns.items() if v is not None}
    return found


def write_version(store: Path, manifest: dict[str, Any]) -> None:
    """Has a store's last version say something else, in place: as no writer would."""
    last_version(store).write_text(seal(manifest))


def entry(manifest: dict[str, Any], dataset: str) -> dict[str, Any]:
    """What a version says of the first part of a dataset."""
    return next(part for part in manifest["parts"] if part["dataset"] == dataset)


def part_path(store: Path, dataset: str) -> Path:
    """The folder of the first part of a dataset."""
    return store / entry(read_version(store), dataset)["path"]


def description_path(store: Path, dataset: str) -> Path:
    """The file that describes the first part of a dataset."""
    return part_path(store, dataset) / entry(read_version(store), dataset)["description"]


def read_description(store: Path, dataset: str) -> dict[str, Any]:
    """The description of the first part of a dataset."""
    return json.loads(description_path(store, dataset).read_text())


def gene_index_path(store: Path, dataset: str) -> Path:
    """The folder of the gene-major copy of a dataset's X."""
    return part_path(store, dataset) / read_description(store, dataset)["gene_index"]


def list_files(folder: Path) -> dict[str, dict[str, Any]]:
    """The files below a part's folder, as its description lists them."""
    own = ("part*.json", "outline")
    files = sorted(
        p for p in folder.rglob("*") if p.is_file() and not any(p.match(name) for name in own)
    )
    return {
        p.relative_to(folder).as_posix(): {
            "size": p.stat().st_size,
            "checksum": checksum(p.read_bytes()),
        }
        for p in files
    }


def relist(store: Path, dataset: str) -> None:
    """Lists the files of a dataset anew: what is in them was meant."""
    meta = read_description(store, dataset)
    describe(store, dataset, {**meta, "files": list_files(part_path(store, dataset))})


def describe(store: Path, dataset: str, meta: dict[str, Any]) -> None:
    """Gives a dataset another description, in place, and has the version name its checksum.

    And no outline, which has the old one.
    """
    manifest = read_version(store)
    part = entry(manifest, dataset)
    path = store / part["path"] / part["description"]
    path.write_text(seal(meta))
    part["checksum"] = checksum(path.read_bytes())
    part.pop("outline", None)
    write_version(store, manifest)


def obs_file(path: Path) -> dict[str, Any]:
    """The rows and checksums of an obs table, as a manifest has them."""
    return json.loads(_core.TableFile.of(str(path)).json)


def take_as_written(path: Path, name: str) -> None:
    """Has the version list a dataset's obs table as it is now, but for its rows, and whatever else
    it says of it."""
    manifest = read_version(path)
    part = entry(manifest, name)
    found = obs_file(path / part["path"] / part["obs_path"])
    part["obs_file"] = {**found, "rows": part["n_obs"]}
    write_version(path, manifest)
    relist(path, name)


def make_store(path: Path, studies: Mapping[str, Study], store_id: str = STORE_ID) -> Path:
    """Writes a store of these datasets; numbers default to the order given."""
    words: dict[str, dict[str, int]] = {}
    entries = []
    for position, (name, study) in enumerate(studies.items()):
        number = position if study.number is None else study.number
        tables = path / "parts" / name
        tables.mkdir(parents=True)
        frame = study.frame
        frame.write_parquet(
            tables / "obs.parquet", row_group_size=study.row_group_size, statistics=True
        )
        pl.DataFrame({"var_name": study.genes}, schema={"var_name": pl.String}).write_parquet(
            tables / "var.parquet"
        )
        (tables / "uns.json").write_text(json.dumps(study.constants))
        of_part = {
            column.name: sorted(set(column.drop_nulls()))
            for column in study.obs
            if column.dtype == pl.String
        }
        for column, values in of_part.items():
            known = words.setdefault(column, {})
            known.update({value: known.get(value, 0) + 1 for value in values})
        part = {
            "number": number,
            "dataset": name,
            "path": f"parts/{name}",
            "description": "part.json",
            "obs_path": "obs.parquet",
            "n_obs": frame.height,
            "n_vars": len(study.genes),
            "nnz": 0,
            "layout": "csr",
            "dtype": "uint16",
            "bytes": 1234,
            "obs": [[c, dtype_name(t)] for c, t in study.obs.schema.items()],
            "obs_file": obs_file(tables / "obs.parquet"),
            "constants": study.constants,
            "var_id": "-".join(study.genes),
            "layers": [],
            "obsm": [],
        }
        entries.append(part)
        meta = {
            "format": "dao-part",
            "version": 2,
            "n_obs": frame.height,
            "n_vars": len(study.genes),
            "nnz": 0,
            "matrices": {},
            "obs": {"index_name": None, "columns": []},
            "var": {"index_name": None, "columns": []},
            "var_path": "var.parquet",
            "uns_path": "uns.json",
            "categories": of_part,
            "constants": study.constants,
            "var_id": part["var_id"],
            "files": list_files(tables),
        }
        (tables / "part.json").write_text(seal(meta))
        part["checksum"] = checksum((tables / "part.json").read_bytes())
    manifest = {
        "format": "dao-version",
        "version": 2,
        "store": store_id,
        "number": 1,
        "since_base": 0,
        "oldest": 1,
        "next_number": max((e["number"] for e in entries), default=-1) + 1,
        "operation": "test",
        "message": "made by hand",
        "time": "2026-01-02T03:04:05.678Z",
        "package": "none",
        "attempt": "none",
        "n_datasets": len(entries),
        "n_obs": sum(part["n_obs"] for part in entries),
        "parts": entries,
        "categories": {
            name: {"unlisted": 0, "values": values if len(values) <= 65_536 else None}
            for name, values in words.items()
        },
    }
    (path / "versions").mkdir(parents=True)
    (path / "versions" / f"{1:010}.json").write_text(seal(manifest))
    (path / "versions" / "latest").write_text("1")
    identity = {"format": "dao-store", "version": 2, "id": store_id}
    (path / "dao.json").write_text(seal(identity))
    return path


def plain_frame(studies: Mapping[str, Study]) -> pl.DataFrame:
    """What a scan must give, with ``cell`` as plain UInt64: eager, by diagonal concat."""
    numbered = [
        (i if study.number is None else study.number, name, study)
        for i, (name, study) in enumerate(studies.items())
    ]
    frames = []
    for number, name, study in sorted(numbered, key=lambda item: item[0]):
        keys = pl.Series("cell", range(study.obs.height), dtype=pl.UInt64) + (number << 32)
        frame = study.frame.select(keys, pl.lit(name).alias("dataset"), pl.all())
        frame = frame.with_columns(
            pl.lit(
                value,
                dtype={str: pl.String, bool: pl.Boolean, int: pl.Int64}.get(
                    type(value), pl.Float64
                ),
            ).alias(key)
            for key, value in study.constants.items()
            if key not in study.frame.columns  # obs goes before constants
        )
        frames.append(frame)
    whole = pl.concat(spelled_alike(list(frames)), how="diagonal_relaxed")
    order = ["cell", "dataset", "obs_name"]
    order += [c for _, _, s in sorted(numbered, key=lambda i: i[0]) for c in s.obs.columns]
    order += [c for _, _, s in sorted(numbered, key=lambda i: i[0]) for c in s.constants]
    texts = {  # columns that are text wherever they are
        name
        for name, dtype in whole.schema.items()
        if dtype == pl.String
        and name != "obs_name"
        and all(f.schema.get(name, pl.String) in (pl.String, pl.Null) for f in frames)
    }
    casts = []
    for name in texts:
        said = {study.constants[name] for study in studies.values() if name in study.constants}
        values = sorted(set(studies) if name == "dataset" else {*whole[name].drop_nulls(), *said})
        if len(values) <= 65_536:
            casts.append(pl.col(name).cast(pl.Enum(values)))
    return whole.select(list(dict.fromkeys(order))).with_columns(casts)


def spelled_alike(frames: list[pl.DataFrame]) -> list[pl.DataFrame]:
    """Columns that are Boolean in one frame and text in another, value by value in Python."""
    for name in {column for frame in frames for column in frame.columns}:
        having = [i for i, frame in enumerate(frames) if name in frame.columns]
        kinds = {frames[i][name].dtype for i in having} - {pl.Null}
        if not {pl.Boolean, pl.String} <= kinds:
            continue
        texts = {
            v for i in having if frames[i][name].dtype == pl.String for v in frames[i][name] if v
        }
        alike = kinds == {pl.Boolean, pl.String} and {t.lower() for t in texts} <= {"true", "false"}
        for i in having:
            values = frames[i][name].to_list()
            if alike and frames[i][name].dtype == pl.String:
                values = [None if v is None else v.lower() == "true" for v in values]
            if not alike and frames[i][name].dtype == pl.Boolean:
                values = [None if v is None else str(v) for v in values]
            if frames[i][name].dtype in (pl.Boolean, pl.String):
                dtype = pl.Boolean if alike else pl.String
                frames[i] = frames[i].with_columns(pl.Series(name, values, dtype=dtype))
    return frames


def plain_cells(frame: pl.DataFrame) -> pl.DataFrame:
    """A scan's frame with plain integers for keys, to compare."""
    if "cell" not in frame.columns:
        return frame
    return frame.with_columns(pl.col("cell").ext.storage())
