"""A reader of stores, written from docs/format.md and docs/pfor.md alone.

It shows that the pages are enough. Nothing of it is dao_polars: json, polars for parquet, numpy and
scipy. It reads whole parts of a store in a folder, and checks all that the page says there is to be
checked of what it reads.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import scipy.sparse as sp

from .pfor import DamageError, crc32c
from .zarr_v3 import array

HEAD = 30


def checksum(data: bytes) -> str:
    """A checksum as JSON has it."""
    return f"crc32c:{crc32c(data):08x}"


def sealed(data: bytes, kind: str) -> dict[str, Any]:
    """One of the format's JSON objects, which begin with the checksum of what follows."""
    if data[:HEAD] != b'{"checksum":"%s",' % checksum(data[HEAD:]).encode():
        raise DamageError("the checksum at the file's beginning does not hold")
    found = json.loads(data)
    if (found["format"], found["version"]) != (kind, 2):
        raise DamageError(f"no {kind} of version 2")
    return found


class Store:
    """A store in a folder, at its last version or at another one."""

    def __init__(self, root: Path, number: int | None = None) -> None:
        self.root = root
        self.id: str = sealed((root / "dao.json").read_bytes(), "dao-store")["id"]
        self.version = self._version(self._last() if number is None else number)
        self.number: int = self.version["number"]
        entries = {entry["number"]: entry for entry in self.version["parts"]}
        self.categories: dict[str, Any] = self.version["categories"]
        if "base" in self.version:
            base = self._version(self.version["base"])
            kept = {entry["number"]: entry for entry in base["parts"]}
            entries = kept | entries
            for gone in self.version.get("gone", []):
                del entries[gone]
            self.categories = base["categories"] | self.categories
        first: dict[str, int] = {}
        for number in sorted(entries):
            first.setdefault(entries[number]["dataset"], number)
        order = sorted(entries.values(), key=lambda e: (first[e["dataset"]], e["number"]))
        self.parts = [Part(self.root, entry) for entry in order]
        assert sum(len(part.rows) for part in self.parts) == self.version["n_obs"]

    def _last(self) -> int:
        folder = self.root / "versions"
        numbers = {int(path.stem) for path in folder.glob("*.json")}
        hint = folder / "latest"
        number = int(hint.read_text()) if hint.exists() else max(numbers)
        if number > max(numbers):
            raise DamageError("a version was lost")
        if number not in numbers:
            number = max(numbers)
        while number + 1 in numbers:
            number += 1
        return number

    def _version(self, number: int) -> dict[str, Any]:
        path = self.root / "versions" / f"{number:010}.json"
        found = sealed(path.read_bytes(), "dao-version")
        if (found["store"], found["number"]) != (self.id, number):
            raise DamageError(f"{path.name} is another version's")
        return found

    def dataset(self, name: str) -> list[Part]:
        """The parts of a dataset, in the order of its rows."""
        return [part for part in self.parts if part.dataset == name]


class Part:
    """A part of a dataset. Matrices and tables are of its cells: rows that were removed are not."""

    def __init__(self, root: Path, entry: dict[str, Any]) -> None:
        self._entry = entry
        self._folder = root / entry["path"]
        self.number: int = entry["number"]
        self.dataset: str = entry["dataset"]

    @cached_property
    def _description(self) -> dict[str, Any]:
        data = (self._folder / self._entry["description"]).read_bytes()
        if checksum(data) != self._entry["checksum"]:
            raise DamageError("another description than the version's")
        return sealed(data, "dao-part")

    def _read(self, path: str) -> bytes | None:
        """A file of the part, which its description vouches for; None for one that it has not."""
        listed = self._description["files"].get(path)
        if listed is None:
            return None
        data = (self._folder / path).read_bytes()
        if (len(data), checksum(data)) != (listed["size"], listed["checksum"]):
            raise DamageError(f"{path} is not as it was written")
        return data

    def _file(self, path: str) -> bytes:
        data = self._read(path)
        if data is None:
            raise DamageError(f"{path} is not the part's")
        return data

    def check_files(self) -> None:
        """Holds every file that the description lists against its checksum."""
        for path in self._description["files"]:
            self._file(path)

    @cached_property
    def rows(self) -> np.ndarray:
        """The rows that are cells."""
        rows = np.arange(self._entry["n_obs"])
        if "removed" not in self._entry:
            return rows
        removed = self._entry["removed"]
        data = (self._folder / removed["path"]).read_bytes()
        numbers = np.frombuffer(data, "<u4")
        if checksum(data) != removed["checksum"] or len(numbers) != removed["n_obs"]:
            raise DamageError("other removed rows than the version's")
        return np.delete(rows, numbers)

    @property
    def keys(self) -> np.ndarray:
        """The cell keys."""
        return np.uint64(self.number) << np.uint64(32) | self.rows.astype(np.uint64)

    def obs(self) -> pl.DataFrame:
        """The table of cells, after all checks of its bytes."""
        path = self._folder / self._entry["obs_path"]
        check_table(path, self._entry["obs_file"])
        table = pl.read_parquet(path)
        typed = [(name, name_of(dtype)) for name, dtype in table.schema.items()]
        assert typed == [("obs_name", "String"), *map(tuple, self._entry["obs"])]
        return table[self.rows]

    def var(self) -> pl.DataFrame:
        """The table of genes."""
        table = pl.read_parquet(self._file(self._description["var_path"]))
        names = json.dumps(table["var_name"].to_list(), ensure_ascii=False).encode()
        if hashlib.sha256(names).hexdigest()[:32] != self._entry["var_id"]:
            raise DamageError("other genes than the version's")
        return table

    def embedding_columns(self, name: str) -> list[str] | None:
        """The names of an embedding's columns, where it was a table."""
        return self._description["matrices"][f"obsm/{name}"].get("columns")

    def uns(self) -> Any:
        """The dataset's unstructured part."""
        return plain(json.loads(self._file(self._description["uns_path"])))

    def constants(self) -> dict[str, Any]:
        """Values that hold for all its cells."""
        return self._entry["constants"]

    def category_order(self, column: str) -> list[str] | None:
        """The categories of a column of obs in pandas, in their order; None: no category there."""
        [note] = [c for c in self._description["obs"]["columns"] if c["name"] == column]
        pandas = note["pandas"]
        if pandas["kind"] != "category":
            return None
        if pandas["categories"] is None:
            return sorted(self.obs()[column].drop_nulls().unique())
        return pandas["categories"]

    def matrix(self, name: str) -> sp.csr_matrix | np.ndarray:
        """X, ``layers/<name>`` or ``obsm/<name>``, of the cells."""
        meta = self._description["matrices"][name]
        path = "/".join(filter(None, [meta.get("folder"), "zarr", name]))
        if meta["layout"] == "dense":
            return array(self._read, path)[self.rows]
        found = self._compressed(path, "csr_matrix", sp.csr_matrix)
        assert found.shape == tuple(meta["shape"])
        assert found.nnz == meta["nnz"]
        assert found.has_canonical_format
        return found[self.rows]

    def gene_index(self) -> sp.csc_matrix | None:
        """X by genes, of the cells, where there is such a copy."""
        folder = self._description.get("gene_index")
        if folder is None:
            return None
        return self._compressed(f"{folder}/zarr/X", "csc_matrix", sp.csc_matrix)[self.rows]

    def totals(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The sum, and the number of values, of each cell's row of a matrix."""
        assert self._description["matrices"][name]["totals"]
        found = [
            array(self._read, f"zarr/totals/{name}/{which}")[self.rows]
            for which in ("total_counts", "n_genes_by_counts")
        ]
        return found[0], found[1]

    def _compressed(self, path: str, encoding: str, kind: type) -> Any:
        attributes = json.loads(self._file(f"{path}/zarr.json"))["attributes"]
        assert attributes["encoding-type"] == encoding
        arrays = [array(self._read, f"{path}/{name}") for name in ("data", "indices", "indptr")]
        return kind((arrays[0], arrays[1].astype(np.int64), arrays[2]), attributes["shape"])


def check_table(path: Path, file: dict[str, Any]) -> None:
    """Holds a table of cells against what the version says of it, column by column."""
    data = path.read_bytes()
    if len(data) != file["size"] or crc32c(data[-file["tail"] :]) != file["tail_crc32c"]:
        raise DamageError(f"{path.name}: another size or tail than the version's")
    footer = pq.read_metadata(path)
    assert footer.num_rows == file["rows"]
    starts = []
    for group in range(footer.num_row_groups):
        for leaf in range(footer.num_columns):
            column = footer.row_group(group).column(leaf)
            pages = [column.data_page_offset, column.dictionary_page_offset]
            starts.append((min(page for page in pages if page is not None), leaf))
    starts.sort()
    ends = [start for start, _ in starts[1:]] + [len(data) - file["tail"]]
    chunks = [b""] * footer.num_columns
    begin = 0
    for (_, leaf), end in zip(starts, ends, strict=True):
        chunks[leaf] += data[begin:end]
        begin = end
    for leaf, (chunk, expected) in enumerate(zip(chunks, file["columns"], strict=True)):
        if crc32c(chunk) != expected:
            raise DamageError(f"{path.name}: column {leaf} is not as it was written")


def name_of(dtype: pl.DataType) -> str:
    """The page's name of a type of polars, of those that the tests have."""
    if isinstance(dtype, pl.Datetime):
        return f"Datetime({dtype.time_unit}{f',{dtype.time_zone}' if dtype.time_zone else ''})"
    return f"Duration({dtype.time_unit})" if isinstance(dtype, pl.Duration) else str(dtype)


def plain(value: Any) -> Any:
    """A value of uns.json, of the kinds that need no pandas."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("__dao__")
    parts = {key: plain(part) for key, part in value.items() if key != "__dao__"}
    match kind:
        case None:
            return parts
        case "float":
            return float(parts["value"])
        case "bytes":
            return base64.b64decode(parts["data"])
        case "tuple":
            return tuple(parts["items"])
        case "dict":
            return dict(zip(parts["keys"], parts["values"], strict=True))
        case "array":
            if "data" in parts:
                values = np.frombuffer(base64.b64decode(parts["data"]), parts["dtype"])
            else:
                values = np.array(parts["items"], parts["dtype"])
            values = values.reshape(parts["shape"])
            return values[()] if parts.get("scalar") else values
    raise NotImplementedError(kind)
