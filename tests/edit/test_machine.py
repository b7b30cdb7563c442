"""All operations in any order, against a model; each version stays what it was."""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import dao_polars as dao
from tests.buckets import SERVING, Bucket
from tests.edit.model import Cell, Model, cells_of, check, copied, dataset_of, study

GENES = [f"g{i}" for i in range(6)]
NAMES = ["lung", "heart", "liver"]
TEXT = ["T", "B", "other", "üñ"]
COLUMNS = {"score": pl.Int64, "kind": pl.String, "flag": pl.Boolean, "x": pl.Float64}
VALUES: dict[Any, Any] = {
    pl.Int64: st.integers(-3, 3),
    pl.String: st.sampled_from(TEXT),
    pl.Boolean: st.booleans(),
    pl.Float64: st.floats(-2, 2, width=16),
}

seeds = st.integers(0, 2**32 - 1)


class Machine(RuleBasedStateMachine):
    bucket: Bucket | None = None
    """Where stores are made; None: in folders."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp())
        self.uri, self.options = str(self.path / "store"), None
        if self.bucket is not None:
            self.uri = f"{self.bucket.uri}/{self.path.name}"
            self.options = self.bucket.options
        self.model: Model = {}
        self.versions: dict[int, Model] = {}
        self.oldest = 1
        self.n_written = 0
        self.types: dict[str, Any] = dict(COLUMNS)
        self.selection: tuple[Path, list[str]] | None = None

    def teardown(self) -> None:
        shutil.rmtree(self.path)

    @property
    def store(self) -> dao.Store:
        return dao.load_store(self.uri, storage_options=self.options)

    def made(self, store: dao.Store) -> None:
        assert store.version == max(self.versions, default=0) + 1
        self.versions[store.version] = copied(self.model)

    def study(self, seed: int, n: int) -> Any:
        self.n_written += 1
        return study(np.random.default_rng(seed), f"c{self.n_written}", n, GENES)

    @initialize(seed=seeds)
    def begin(self, seed: int) -> None:
        adata = self.study(seed, 6)
        self.model["lung"] = dataset_of(adata)
        self.made(dao.write_dataset(self.uri, adata, dataset="lung", storage_options=self.options))

    @rule(seed=seeds, n=st.integers(1, 8), name=st.sampled_from(NAMES), index=st.booleans())
    def write(self, seed: int, n: int, name: str, index: bool) -> None:
        if not {"score", "kind"} <= {c for c, t in self.types.items() if t == COLUMNS.get(c)}:
            return  # a rename changed what these names are
        adata = self.study(seed, n)
        mode = "append" if name in self.model and seed % 2 else "replace"
        if mode == "append":
            dataset = self.model[name]
            dataset.cells += cells_of(adata)
            dataset.columns |= set(adata.obs.columns)
            # an embedding of one part alone is none of the dataset's
            dataset.obsm = {k: w for k, w in dataset.obsm.items() if k in adata.obsm}
        else:
            self.model.pop(name, None)
            self.model[name] = dataset_of(adata)
        store = dao.write_dataset(
            self.uri, adata, dataset=name, mode=mode, storage_options=self.options
        )
        if index:
            self.made(store)
            assert store.add_gene_index(name)
            for version in range(store.version + 1, self.store.version + 1):
                self.versions[version] = copied(self.model)
        else:
            self.made(store)

    def chosen(self, seed: int) -> list[Cell]:
        rng = np.random.default_rng(seed)
        cells = [cell for dataset in self.model.values() for cell in dataset.cells]
        return [cell for cell in cells if rng.random() < 0.4]

    def frame(self, cells: list[Cell], **columns: pl.Series) -> pl.DataFrame:
        names = pl.DataFrame(
            {"obs_name": pl.Series([c.name for c in cells], dtype=pl.String), **columns}
        )
        keys = self.store.scan().select("cell", "obs_name").collect()
        return names.join(keys, on="obs_name", maintain_order="left").drop("obs_name")

    @rule(seed=seeds, data=st.data(), column=st.sampled_from([*COLUMNS, "new"]))
    def update_obs(self, seed: int, data: st.DataObject, column: str) -> None:
        if not (cells := self.chosen(seed)):
            return
        dtype = self.types.setdefault(column, data.draw(st.sampled_from(list(VALUES))))
        drawn = data.draw(
            st.lists(st.none() | VALUES[dtype], min_size=len(cells), max_size=len(cells))
        )
        values = pl.Series(drawn, dtype=dtype)
        if dtype == pl.String and seed % 2:
            values = values.cast(pl.Enum(TEXT) if seed % 3 else pl.Categorical())
        store = self.store.update_obs(self.frame(cells, **{column: values}), author="a machine")
        self.put(cells, column, drawn)
        self.made(store)

    def put(self, cells: list[Cell], column: str, values: list[Any]) -> None:
        ids = {id(cell) for cell in cells}
        for cell, value in zip(cells, values, strict=True):
            cell.obs[column] = value
        for dataset in self.model.values():
            if any(id(cell) in ids for cell in dataset.cells):
                dataset.columns.add(column)

    @precondition(lambda self: self.model)
    @rule(seed=seeds, data=st.data())
    def update_obs_of_pandas(self, seed: int, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        cells = [c for c in self.chosen(seed) if c in self.model[name].cells]
        if not cells or self.types.get("x") != pl.Float64:
            return
        values = data.draw(st.lists(VALUES[pl.Float64], min_size=len(cells), max_size=len(cells)))
        frame = pd.DataFrame({"x": values}, index=[cell.name for cell in cells])
        store = self.store.update_obs(frame, dataset=name)
        self.put(cells, "x", values)
        self.made(store)

    @rule(data=st.data())
    def rename_obs(self, data: st.DataObject) -> None:
        known = sorted(set().union(*(d.columns for d in self.model.values())))
        if not known:
            return
        old = data.draw(st.sampled_from(known))
        new = data.draw(st.sampled_from(sorted({*COLUMNS, "other"} - set(known)) or [None]))
        if new is None:
            return
        store = self.store.rename_obs({old: new})
        for dataset in self.model.values():
            if old in dataset.columns:
                dataset.columns = dataset.columns - {old} | {new}
                for cell in dataset.cells:
                    cell.obs[new] = cell.obs.pop(old, None)
        self.types[new] = self.types.pop(old)
        self.made(store)

    @rule(data=st.data())
    def drop_obs(self, data: st.DataObject) -> None:
        known = sorted(set().union(*(d.columns for d in self.model.values())))
        if not known:
            return
        column = data.draw(st.sampled_from(known))
        store = self.store.drop_obs(column)
        for dataset in self.model.values():
            dataset.columns.discard(column)
            for cell in dataset.cells:
                cell.obs.pop(column, None)
        self.types.pop(column, None)
        if column in COLUMNS:
            self.types[column] = COLUMNS[column]
        self.made(store)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def update_var(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        genes = data.draw(st.lists(st.sampled_from(GENES), min_size=1, unique=True))
        symbols = [f"s{data.draw(st.integers(0, 9))}" for _ in genes]
        frame = pl.DataFrame({"var_name": genes, "symbol": symbols})
        store = self.store.update_var(frame, dataset=name)
        var = self.model[name].var
        given = dict(zip(genes, symbols, strict=True))
        old = var["symbol"].to_list() if "symbol" in var.columns else [None] * var.height
        new = [given.get(g, o) for g, o in zip(var["var_name"], old, strict=True)]
        self.model[name].var = var.with_columns(pl.Series("symbol", new, pl.String))
        self.made(store)

    @rule(seed=seeds, key=st.sampled_from(["X_pca", "X_new"]))
    def update_obsm(self, seed: int, key: str) -> None:
        if not (cells := self.chosen(seed)):
            return
        rows = np.random.default_rng(seed).normal(size=(len(cells), 2)).astype(np.float32)
        frame = self.frame(cells, v=pl.Series(rows, dtype=pl.Array(pl.Float32, 2)))
        store = self.store.update_obsm(key, frame)
        for cell, row in zip(cells, rows, strict=True):
            cell.obsm[key] = row.tolist()
        ids = {id(cell) for cell in cells}
        for dataset in self.model.values():
            if any(id(cell) in ids for cell in dataset.cells):
                dataset.obsm[key] = 2
        self.made(store)

    @rule(seed=seeds)
    def remove_cells(self, seed: int) -> None:
        if not (cells := self.chosen(seed)):
            return
        store = self.store.remove_cells(self.frame(cells))
        ids = {id(cell) for cell in cells}
        for dataset in self.model.values():
            dataset.cells = [cell for cell in dataset.cells if id(cell) not in ids]
        self.made(store)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def rename_dataset(self, data: st.DataObject) -> None:
        free = sorted({*NAMES, "air"} - self.model.keys())
        if not free:
            return
        old, new = data.draw(st.sampled_from(sorted(self.model))), data.draw(st.sampled_from(free))
        store = self.store.rename_dataset(old, new)
        self.model = {new if name == old else name: d for name, d in self.model.items()}
        self.made(store)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove_dataset(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        store = self.store.remove_dataset(name)
        del self.model[name]
        self.made(store)

    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.versions)))
        store = self.store.restore(version)
        self.model = copied(self.versions[version])
        present = set().union(*(d.columns for d in self.model.values()))
        frame = store.scan().collect_schema()
        for column in present:
            dtype = frame[column]
            text = isinstance(dtype, pl.Enum)
            self.types[column] = pl.String if text else dtype.base_type()
        self.made(store)

    @rule(seed=seeds)
    def several(self, seed: int) -> None:
        cells = self.chosen(seed)
        if not cells or self.types.get("flag") != pl.Boolean or "several" in self.model:
            return  # a dataset has the name in a version that was restored
        flags = [bool(seed >> i & 1) for i in range(len(cells))]
        name = next(name for name, d in self.model.items() if cells[0] in d.cells)
        with self.store.edit("several") as edit:
            edit.update_obs(self.frame(cells, flag=pl.Series(flags)))
            edit.remove_cells(self.frame(cells[:1]))
            edit.rename_dataset(name, "several")
        self.put(cells, "flag", flags)
        self.model[name].cells.remove(cells[0])
        self.model = {"several" if n == name else n: d for n, d in self.model.items()}
        self.made(edit.store)
        store = edit.store.rename_dataset("several", name)
        self.model = {name if n == "several" else n: d for n, d in self.model.items()}
        self.made(store)

    @rule(keep=st.booleans())
    def vacuum(self, keep: bool) -> None:
        store = self.store
        store.vacuum(older_than=None if keep else timedelta(0), dry_run=False)
        if not keep and len(self.versions) > 1:
            last = max(self.versions)
            self.versions = {last: self.versions[last]}
            if self.store.version > last:
                self.made(self.store)

    @precondition(lambda self: self.selection is None)
    @rule(seed=seeds)
    def save_selection(self, seed: int) -> None:
        cells = self.chosen(seed)
        path = self.path / "selection.parquet"
        self.frame(cells).write_parquet(path)
        self.selection = path, [cell.name for cell in cells]

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        if not self.versions:
            return
        store = self.store
        check(store, self.model)
        assert store.verify().is_empty()
        assert [*store.versions()["version"]] == sorted(self.versions)
        old = sorted(self.versions)[len(self.versions) // 2]
        pinned = dao.load_store(self.uri, version=old, storage_options=self.options)
        check(pinned, self.versions[old])
        if self.selection is not None and self.model:
            path, names = self.selection
            there = {c.name: c for d in self.model.values() for c in d.cells}
            frame = pl.read_parquet(path)
            kept = [name for name in names if name in there]
            if len(kept) < len(names):
                n_gone = len(names) - len(kept)
                with pytest.raises(dao.DaoValueError, match=f"{n_gone} of {len(names)} cells are"):
                    frame.dao.to_anndata()
            batches = list(frame.dao.iter_batches(64, genes=GENES, missing="drop"))
            found = np.concatenate([b.x.toarray() for b in batches] or [np.zeros((0, 6))])
            want = np.array([there[n].counts for n in kept]).reshape(-1, 6)
            np.testing.assert_array_equal(found, want)


EXAMPLES = int(os.environ.get("DAO_EDITS", "15"))


def run(machine: type[Machine], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            phases=(Phase.generate,),  # a shorter sequence is sought for too long
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_order_of_edits() -> None:
    run(Machine, EXAMPLES, 20)


@pytest.mark.parametrize("server", SERVING)
def test_any_order_of_edits_on_a_bucket(server: str, tmp_path: Path) -> None:
    with SERVING[server](tmp_path) as bucket:
        run(
            type("BucketMachine", (Machine,), {"bucket": bucket}), EXAMPLES // 15, 8
        )  # 40 ms a request
