"""An open store: what is in it, and its small tables.

Owns [`Store`][], what users ask a store, and how it shows itself. Reading cells is
[`scan`][dao_polars.scan]'s, bytes and manifests are the Rust core's, sfaira's files are
[`legacy`][dao_polars.legacy]'s.
"""

from __future__ import annotations

import difflib
import html
import io
import json
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import polars as pl

from . import _core, legacy
from . import uns as uns_json
from .cell import Cell
from .errors import DaoCorruptError, DaoError, DaoKeyError, DaoTypeError, DaoValueError
from .frame_schema import Dataset, datasets_of, frame_schema
from .obs_files import check_rows
from .progress import progress_bar
from .scan import scan_store
from .schema import dtype_name

_SHOWN = 20  # rows and columns that a repr lists


def load_store(
    uri: str | os.PathLike[str], *, storage_options: Mapping[str, str] | None = None
) -> Store:
    """Opens the store at a path or URL; reads its manifest and nothing else.

    Args:
        uri: path, or ``s3://``, ``gs://``, ``az://``, ``https://`` URL. Stores that sfaira wrote
            are opened as they are.
        storage_options: credentials and the like, as for `polars.scan_parquet`.

    Raises:
        DaoFileNotFoundError: there is no store.
        DaoValueError: a store of a newer format version.
        DaoCorruptError: a manifest that cannot be understood.
    """
    return Store(as_uri(uri), storage_options)


def as_uri(uri: str | os.PathLike[str]) -> str:
    """What a user names a store with, as the core takes it: ``~`` expanded.

    Raises:
        DaoTypeError, DaoValueError: it is no path and no URL.
    """
    try:
        text = os.fspath(uri)
    except TypeError:
        raise DaoTypeError(f"uri={uri!r}: expected a path or a URL") from None
    if not isinstance(text, str):
        raise DaoTypeError(f"uri={uri!r}: expected a path or a URL as text")
    if not text:
        raise DaoValueError("uri='': expected a path or a URL; '.' is the working directory")
    return text if "://" in text else os.path.expanduser(text)


#: Options of the stores opened by this process, so that keys, which do not carry them, need none.
_OPTIONS: dict[str, dict[str, str]] = {}


def options_of(uri: str) -> dict[str, str] | None:
    """The storage options that the store at ``uri`` was last opened with in this process."""
    return _OPTIONS.get(uri)


class Uns(dict[str, Any]):
    """A dataset's ``uns``; ``refused`` lists what its pickle had beside plain data.

    Each as ``"['key']: module.name"``. Only the pickles of sfaira's stores have such things;
    nothing of them was imported or run, and an inert placeholder stands in their place.
    """

    refused: list[str]

    def __init__(self, values: Mapping[Any, Any], refused: Sequence[str] = ()) -> None:
        super().__init__(values)
        self.refused = list(refused)


class Store:
    """Datasets below one path or URL, as they were when it was opened. Made by [`load_store`][].

    Pickles by URI and storage options: the copy opens the store again.
    """

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.storage_options = dict(storage_options) if storage_options else None
        self.core = _core.Store.open(uri, self.storage_options)
        if self.storage_options:
            _OPTIONS[self.core.uri] = self.storage_options
        self.rows_seen: dict[tuple[str | int, ...], int] = {}  # of remote obs files
        self._raw: dict[str, Any] = json.loads(self.core.manifest())
        self._raw["datasets"].sort(key=lambda entry: entry["number"])

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.uri, self.storage_options)

    @property
    def uri(self) -> str:
        """Absolute path, or URL without a trailing slash."""
        return self.core.uri

    @property
    def id(self) -> str:
        """Stays when the store moves; for sfaira's stores a fingerprint of names and counts."""
        return self.core.id

    @property
    def is_local(self) -> bool:
        """Whether ``uri`` is a path."""
        return "://" not in self.uri

    @property
    def n_obs(self) -> int:
        """Cells of all datasets."""
        return sum(entry["n_obs"] for entry in self._raw["datasets"])

    def path_of(self, path: str) -> str:
        """The full path or URL of a file named relative to the store."""
        return f"{self.uri}/{path}"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What is in the store, as JSON has it; for sfaira's stores found in their tables."""
        if self.core.legacy:
            return legacy.complete(self._raw, self.uri, self.core.get_bytes)
        return self._raw

    @cached_property
    def obs_datasets(self) -> list[Dataset]:
        """The datasets as a scan sees them, in the order of the frame's rows."""
        return datasets_of(self.manifest)

    @cached_property
    def schema(self) -> pl.Schema:
        """The schema of the frame that [`scan`][Store.scan] gives."""
        return frame_schema(self.obs_datasets, self.manifest["categories"], Cell(self.uri, self.id))

    @cached_property
    def datasets(self) -> pl.DataFrame:
        """One row a dataset: id, organism, n_obs, n_vars, nnz, layout, bytes (on disk).

        ``nnz``, the number of stored values of X, is null where it is not known.
        """
        columns: dict[str, list[Any]] = {
            "id": [entry["id"] for entry in self._raw["datasets"]],
            "organism": [_organism(entry) for entry in self.manifest["datasets"]],
        }
        for name in ("n_obs", "n_vars", "nnz", "layout", "bytes"):
            columns[name] = [entry.get(name) for entry in self._raw["datasets"]]
        text = ("id", "organism", "layout")
        return pl.DataFrame(
            columns, schema={name: pl.String if name in text else pl.Int64 for name in columns}
        )

    def scan(self) -> pl.LazyFrame:
        """The cells as a lazy frame; see [`dao.scan`][dao_polars.scan]."""
        return scan_store(self)

    def var(self, dataset: str | None = None) -> pl.DataFrame:
        """The genes ``(n_vars, columns)``: ``var_name`` (AnnData's var index) first.

        Args:
            dataset: a dataset's id; None for the var that all datasets have in common, which
                is the first dataset's where their columns differ.

        Raises:
            DaoKeyError: no such dataset.
            DaoValueError: no dataset is named and they do not have the same genes in one order.
            DaoCorruptError: the file is not the one that was written.
        """
        entry = self._entry(dataset) if dataset is not None else self._common()
        if self.core.legacy:
            return legacy.read_var(self.core.get_bytes, entry, self.uri)
        path = f"{entry['path']}/parquet/var.parquet"
        try:
            frame = pl.read_parquet(io.BytesIO(self.core.get_bytes(path, entry["id"])))
        except pl.exceptions.PolarsError as error:
            raise DaoCorruptError(f"{self._where(entry, path)}: not readable: {error}") from error
        if frame.height != entry["n_vars"] or frame.columns[:1] != ["var_name"]:
            raise DaoCorruptError(
                f"{self._where(entry, path)}: expected {entry['n_vars']} rows and a first column "
                f"'var_name', found {frame.height} rows and columns {frame.columns[:5]}; restore "
                "the file from a copy, or write the dataset again"
            )
        return frame

    def uns(self, dataset: str) -> Uns:
        """A dataset's ``uns``; its ``refused`` lists what a pickle of sfaira's had beside data.

        Raises:
            DaoKeyError: no such dataset.
            DaoCorruptError: the file is not the one that was written, or no uns.
        """
        entry = self._entry(dataset)
        if self.core.legacy:
            return Uns(*legacy.read_uns(self.core.get_bytes, entry, self.uri))
        path = f"{entry['path']}/uns.json"
        data = self.core.get_bytes(path, entry["id"])
        try:
            return Uns(uns_json.decode(data))
        except DaoCorruptError as error:
            raise DaoCorruptError(f"{self._where(entry, path)}: {error}") from error

    def add_gene_index(
        self, datasets: str | Sequence[str] | None = None, *, progress: bool | None = None
    ) -> list[str]:
        """Write a gene-major copy of X beside it, so that one gene of many cells is read quickly.

        [`dao.gene`][dao_polars.gene] uses it where it pays. Out of core; the copy takes about as
        much disk as X, and appears when it is complete.

        Args:
            datasets: ids; None for all. Those that have one already are left as they are.
            progress: a tqdm bar; None shows one on a terminal or in a notebook.

        Returns:
            The ids of the datasets that got one.

        Raises:
            DaoKeyError: no such dataset.
            DaoValueError: a store that is not written to: sfaira's, or a remote one.
            DaoIOError: a full disk, or no permission; nothing of that copy stays.
        """
        if datasets is None:
            ids = [entry["id"] for entry in self._raw["datasets"]]
        else:
            ids = [datasets] if isinstance(datasets, str) else list(datasets)
        total = sum(self._entry(id)["n_obs"] for id in ids)
        from .lookups import forget  # which opens stores

        added = []
        try:
            with progress_bar(progress, total=total, unit="cell", label="gene index") as advance:
                for id in ids:
                    if self.core.add_gene_index(id, advance):
                        added.append(id)
        finally:
            forget()
        return added

    def has_gene_index(self, dataset: str | None = None) -> bool:
        """Whether a dataset, or (None) every one, has a gene-major copy of X.

        See [`add_gene_index`][].

        Raises:
            DaoKeyError: no such dataset.
            DaoCorruptError: it has one that was made of another dataset.
        """
        entries = self._raw["datasets"] if dataset is None else [self._entry(dataset)]
        return all(self.core.has_gene_index(entry["id"]) for entry in entries)

    def verify(self) -> pl.DataFrame:
        """Reads everything and lists what is wrong: dataset, path, problem; no rows if all is well.

        Checksums, matrices, and the row counts and columns of obs and var.
        """
        rows: list[tuple[str, str, str]] = []
        for entry in self._raw["datasets"]:
            found = self.core.verify(entry["id"])
            known = {path for path, _ in found}
            found += [item for item in self._table_problems(entry) if item[0] not in known]
            rows += [(entry["id"], path, problem) for path, problem in found]
        return pl.DataFrame(
            rows, schema=dict.fromkeys(("dataset", "path", "problem"), pl.String), orient="row"
        )

    def _table_problems(self, entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        checks: list[tuple[str, Callable[[], object]]] = [
            (f"{entry['path']}/parquet/obs.parquet", lambda: self._check_obs(entry)),
            (f"{entry['path']}/parquet/var.parquet", lambda: self.var(entry["id"])),
            (
                f"{entry['path']}/{'pickle/uns.pickle' if self.core.legacy else 'uns.json'}",
                lambda: self.uns(entry["id"]),
            ),
        ]
        for path, check in checks:
            try:
                check()
            except DaoError as error:
                yield path, str(error)

    def _check_obs(self, entry: Mapping[str, Any]) -> None:
        if self.core.legacy:
            legacy.read_obs(self.core.get_bytes, entry, self.uri)
            return
        dataset = next(d for d in self.obs_datasets if d.id == entry["id"])
        check_rows(self, [dataset])
        lf = self.scan().filter(pl.col("dataset") == entry["id"])
        for _ in lf.collect_batches():
            pass

    def _entry(self, dataset: str) -> dict[str, Any]:
        entry: dict[str, Any]
        for entry in self._raw["datasets"]:
            if entry["id"] == dataset:
                return entry
        ids = [entry["id"] for entry in self._raw["datasets"]]
        near = difflib.get_close_matches(str(dataset), ids, n=3, cutoff=0.4) or ids[:3]
        named = ", ".join(map(repr, near)) or "none, the store is empty"
        raise DaoKeyError(
            f"store {self.uri!r} has no dataset {dataset!r}; the nearest: {named}. "
            "store.datasets lists them all"
        )

    def _common(self) -> dict[str, Any]:
        entries: list[dict[str, Any]] = self.manifest["datasets"]
        spaces: dict[str, list[dict[str, Any]]] = {}
        for entry in entries:
            spaces.setdefault(entry["var_id"], []).append(entry)
        if len(spaces) == 1:
            return entries[0]
        if not spaces:
            raise DaoValueError(f"store {self.uri!r} has no datasets, and so no genes")
        listed = "; ".join(
            f"{len(members)} dataset(s) with {members[0]['n_vars']} genes, such as "
            f"{members[0]['id']!r}"
            for members in list(spaces.values())[:5]
        )
        raise DaoValueError(
            f"the datasets of store {self.uri!r} have {len(spaces)} feature spaces: {listed}"
            f"{'; …' if len(spaces) > 5 else ''}. Name a dataset: store.var(dataset); or, where "
            "cells are read, give genes= a list of names, 'intersection' or 'union'"
        )

    def _where(self, entry: Mapping[str, Any], path: str) -> str:
        return f"dataset {entry['id']!r}, {self.path_of(path)!r}"

    # --- how it shows itself

    def __repr__(self) -> str:
        table = _shown_datasets(self)
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [f"Store {self.uri!r}: {_summary(self)}"]
        for row in table:
            cells = [
                value.ljust(width) if i in _LEFT else value.rjust(width)
                for i, (value, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  " + "  ".join(cells).rstrip())
        if (more := len(self._raw["datasets"]) - _SHOWN) > 0:
            lines.append(f"  … and {more} more")
        # A column and its type stay on one line: textwrap does not break at \xa0.
        obs = "obs: " + ", ".join(column.replace(" ", "\xa0") for column in _shown_columns(self))
        wrapped = textwrap.fill(obs, 100, subsequent_indent="     ", break_long_words=False)
        return "\n".join([*lines, wrapped.replace("\xa0", " ")])

    def _repr_html_(self) -> str:
        head, *rows = _shown_datasets(self)

        def line(values: tuple[str, ...], tag: str) -> str:
            cells = "".join(
                f'<{tag} style="text-align:{"left" if i in _LEFT else "right"}">'
                f"{html.escape(value)}</{tag}>"
                for i, value in enumerate(values)
            )
            return f"<tr>{cells}</tr>"

        more = len(self._raw["datasets"]) - _SHOWN
        return (
            f"<div><b>Store</b> <code>{html.escape(self.uri)}</code>"
            f"<div>{html.escape(_summary(self))}</div>"
            f"<table><thead>{line(head, 'th')}</thead>"
            f"<tbody>{''.join(line(row, 'td') for row in rows)}</tbody></table>"
            + (f"<div>… and {more} more</div>" if more > 0 else "")
            + f"<div><b>obs</b> {html.escape(', '.join(_shown_columns(self)))}</div></div>"
        )


_LEFT = (0, 1, 4)  # columns of the shown table that are text


def _organism(entry: Mapping[str, Any]) -> str | None:
    value = entry.get("organism") or entry["constants"].get("organism")
    return value if isinstance(value, str) else None


def _summary(store: Store) -> str:
    entries = store._raw["datasets"]
    size = human_size(sum(entry.get("bytes") or 0 for entry in entries))
    datasets = f"{len(entries)} dataset{'' if len(entries) == 1 else 's'}"
    return f"{datasets}, {store.n_obs:,} cells, {size}"


def _shown_datasets(store: Store) -> list[tuple[str, ...]]:
    try:
        organisms = dict(store.datasets.select("id", "organism").iter_rows())
    except DaoError:
        organisms = {}
    rows: list[tuple[str, ...]] = [("dataset", "organism", "cells", "genes", "layout", "size")]
    for entry in store._raw["datasets"][:_SHOWN]:
        rows.append(
            (
                entry["id"],
                organisms.get(entry["id"]) or "",
                f"{entry['n_obs']:,}",
                f"{entry['n_vars']:,}",
                entry.get("layout") or "",
                human_size(entry.get("bytes") or 0),
            )
        )
    return rows


def _shown_columns(store: Store) -> list[str]:
    try:
        schema = store.schema
    except DaoError as error:
        return [f"not readable: {error}"]
    names = [name for name in schema if name not in ("cell", "dataset", "obs_name")]
    shown = [f"{name} ({_shown_type(schema[name])})" for name in names[:_SHOWN]]
    more = [f"… and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return [*shown, *more] or ["no columns"]


def _shown_type(dtype: pl.DataType) -> str:
    if isinstance(dtype, pl.Enum):
        n = len(dtype.categories)
        return f"{n} categor{'y' if n == 1 else 'ies'}"
    if isinstance(dtype, pl.Datetime | pl.Duration):
        return dtype_name(dtype)
    return str(dtype)


def human_size(n_bytes: int) -> str:
    """``1234567`` as ``"1.2 MB"``."""
    size, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
