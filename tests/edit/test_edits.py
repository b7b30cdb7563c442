"""Edits as users see them: what they write, what they refuse, and what stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal, assert_series_equal

import dao_polars as dao
from tests.conftest import study
from tests.whole.left import unnamed

GENES = ["a", "b", "c"]


@pytest.fixture
def store(tmp_path: Path) -> dao.Store:
    dao.write_dataset(tmp_path / "s", study(1, 30, GENES), dataset="lung", organism="human")
    return dao.write_dataset(tmp_path / "s", study(2, 20, GENES), dataset="heart")


def cells(store: dao.Store, dataset: str = "lung") -> pl.DataFrame:
    return store.scan().filter(pl.col("dataset") == dataset).select("cell", "obs_name").collect()


def column(store: dao.Store, name: str, dataset: str = "lung") -> pl.Series:
    found = store.scan().filter(pl.col("dataset") == dataset).select(name).collect()
    return found.to_series()


def refused(store: dao.Store, kind: type[Exception], what: str, edit: Callable[[], Any]) -> None:
    """An edit that is an error, and leaves nothing."""
    before = store.versions().height
    with pytest.raises(kind, match=what):
        edit()
    assert store.versions().height == before
    assert not unnamed(Path(store.uri))


TYPES = {
    "int": pl.Series([1, 2, None], dtype=pl.Int16),
    "unsigned": pl.Series([1, 2**64 - 1, None], dtype=pl.UInt64),
    "float": pl.Series([1.5, float("nan"), None]),
    "bool": pl.Series([True, None, False]),
    "text": pl.Series(["x", None, "ü"]),
    "enum": pl.Series(["mid", "low", None], dtype=pl.Enum(["low", "mid", "high"])),
    "categorical": pl.Series(["b", None, "a"], dtype=pl.Categorical()),
    "date": pl.Series(["2026-01-02", None, "1999-12-31"]).str.to_date(),
    "datetime": pl.Series(["2026-01-02 03:04", None, "1999-12-31 00:00"]).str.to_datetime(),
    "zoned": pl.Series(["2026-01-02 03:04"] * 3)
    .str.to_datetime(time_zone="UTC")
    .dt.convert_time_zone("Europe/Berlin"),
    "duration": pl.Series([1, None, 3]).cast(pl.Duration("ms")),
    "time": pl.Series([1, None, 3], dtype=pl.Int64).cast(pl.Time),
    "nothing": pl.Series([None, None, None]),
}


@pytest.mark.parametrize("name", TYPES)
def test_columns_of_every_type(store: dao.Store, name: str, tmp_path: Path) -> None:
    values = TYPES[name]
    some = cells(store).sample(3, seed=1, shuffle=True).select("cell")
    edited = store.update_obs(some.with_columns(values.alias("new")))
    assert edited.version == 3
    assert store.version == 2
    assert "new" not in store.schema
    got = some.lazy().join(edited.scan().select("cell", "new"), on="cell", maintain_order="left")
    got = got.collect()["new"]
    text = isinstance(values.dtype, pl.String | pl.Enum | pl.Categorical)
    if text:
        assert isinstance(got.dtype, pl.Enum)
        got, values = got.cast(pl.String), values.cast(pl.String)
    assert_series_equal(got, values.alias("new"))
    assert column(edited, "new", "heart").is_null().all()
    assert column(edited, "new").null_count() == 27 + values.null_count()
    # And through pandas, and back from a file.
    adata = edited.scan().filter(pl.col("dataset") == "lung").dao.to_anndata()
    if name in ("enum", "categorical"):
        assert isinstance(adata.obs["new"].dtype, pd.CategoricalDtype)
        if name == "enum":
            assert adata.obs["new"].cat.categories.tolist() == ["low", "mid", "high"]
    if name not in (
        "date",
        "time",
        "nothing",
        "datetime",
        "zoned",
        "duration",
    ):  # anndata writes no such
        adata.write_h5ad(tmp_path / "x.h5ad")
    assert edited.verify().is_empty()


def test_only_what_changed_is_written(store: dao.Store) -> None:
    def files() -> set[str]:
        root = Path(store.uri)
        return {str(p.relative_to(root)) for p in (root / "parts").rglob("*") if p.is_file()}

    before = files()
    edited = store.update_obs(cells(store).select("cell", x=pl.lit(1)))
    new = files() - before
    assert sorted(Path(name).name.split("-")[0] for name in new) == ["obs", "part"]
    assert all(name.startswith("parts/lung-") for name in new)
    # The same values again are no change of a table; the version is one all the same.
    again = edited.update_obs(cells(store).select("cell", x=pl.lit(1)))
    assert files() - before == new
    assert again.version == 4
    var = again.update_var(pl.DataFrame({"var_name": ["b"], "symbol": ["B"]}), dataset="heart")
    assert sorted(Path(n).name.split("-")[0] for n in files() - before - new) == ["part", "var"]
    assert var.verify().is_empty()


def test_pandas_comes_back_as_it_was_given(store: dao.Store) -> None:
    lung = store.scan().filter(pl.col("dataset") == "lung").dao.to_anndata()
    obs = lung.obs
    rng = np.random.default_rng(0)
    obs["ordered"] = pd.Categorical(rng.choice(["lo", "hi"], 30), ["lo", "mid", "hi"], ordered=True)
    obs["nullable"] = pd.array([1, None] * 15, dtype="Int32")
    obs["string"] = pd.array(["x", pd.NA] * 15, dtype="string")
    obs["f32"] = rng.normal(size=30).astype(np.float32)
    obs["cell_type"] = obs["cell_type"].cat.rename_categories({"B": "B cell"})
    edited = store.update_obs(obs, dataset="lung", author="me", message="all of obs")
    again = edited.scan().filter(pl.col("dataset") == "lung").dao.to_anndata().obs
    pd.testing.assert_frame_equal(again[obs.columns], obs)
    row = edited.versions().row(-1, named=True)
    assert (row["author"], row["message"], row["operation"]) == ("me", "all of obs", "update_obs")
    # Some of the cells, in another order; the others keep theirs, and the column its form.
    part = obs[["ordered"]].iloc[[5, 3]].copy()
    part["ordered"] = ["mid", "mid"]
    some = edited.update_obs(part, dataset="lung")
    found = some.scan().filter(pl.col("dataset") == "lung").dao.to_anndata().obs["ordered"]
    want = obs["ordered"].copy()
    want.iloc[[5, 3]] = "mid"
    pd.testing.assert_series_equal(found, want)


def test_categories_follow_the_cells(store: dao.Store) -> None:
    every = store.scan().select("cell", cell_type=pl.lit("one")).collect()
    edited = store.update_obs(every)
    assert edited.schema["cell_type"] == pl.Enum(["one"])
    more = edited.update_obs(every.head(2).with_columns(cell_type=pl.lit("two")))
    assert more.schema["cell_type"] == pl.Enum(["one", "two"])
    fewer = more.remove_cells(every.head(2))
    assert fewer.schema["cell_type"] == pl.Enum(["one"])
    assert fewer.scan().collect().height == 48
    assert fewer.verify().is_empty()
    assert more.schema["cell_type"] == pl.Enum(["one", "two"]), "each version has its own"


def test_a_constant_of_uns_may_become_a_column(store: dao.Store) -> None:
    some = cells(store).head(2).select("cell", organism=pl.lit("mouse"))
    edited = store.update_obs(some)
    assert column(edited, "organism").to_list() == ["mouse"] * 2 + ["human"] * 28
    assert column(edited, "organism", "heart").is_null().all()
    back = edited.drop_obs("organism")
    assert column(back, "organism").to_list() == ["human"] * 30
    refused(back, dao.DaoKeyError, "a value of uns", lambda: back.drop_obs("organism"))


def test_columns_change_places(store: dao.Store) -> None:
    edited = store.rename_obs({"cell_type": "score", "score": "cell_type"})
    assert_series_equal(column(edited, "score"), column(store, "cell_type"), check_names=False)
    assert_series_equal(column(edited, "cell_type"), column(store, "score"), check_names=False)
    one = edited.rename_obs({"score": "kind"}, datasets="heart")
    assert column(one, "kind").is_null().all()
    assert column(one, "score", "heart").is_null().all()
    less = one.drop_obs("kind", datasets=["heart"])
    assert "kind" not in less.schema
    assert less.verify().is_empty()


def test_what_does_not_fit_is_refused(store: dao.Store) -> None:
    some = cells(store).select("cell").head(3)
    with_column = lambda **columns: some.with_columns(**columns)  # noqa: E731
    update = lambda frame, **more: lambda: store.update_obs(frame, **more)  # noqa: E731
    for kind, what, edit in [
        (
            dao.DaoTypeError,
            "type String, for a column of type Float64",
            update(with_column(score=pl.lit("x"))),
        ),
        (dao.DaoTypeError, "for a column of type String", update(with_column(cell_type=pl.lit(1)))),
        (dao.DaoTypeError, "which a table does not hold", update(with_column(x=pl.lit([1])))),
        (
            dao.DaoValueError,
            "'dataset' has a reserved name",
            update(with_column(dataset=pl.lit("x"))),
        ),
        (
            dao.DaoValueError,
            "'obs_name' has a reserved name",
            update(with_column(obs_name=pl.lit("x"))),
        ),
        (dao.DaoValueError, "no columns to write", update(some)),
        (dao.DaoValueError, "has no column 'cell'", update(pl.DataFrame({"x": [1]}))),
        (dao.DaoTypeError, "numbers alone", update(pl.DataFrame({"cell": [1], "x": [1]}))),
        (
            dao.DaoValueError,
            "2 rows name a cell that another",
            update(pl.concat([with_column(x=1), with_column(x=1).head(1)])),
        ),
        (
            dao.DaoTypeError,
            "dataset= is for a pandas frame",
            update(with_column(x=1), dataset="lung"),
        ),
        (dao.DaoTypeError, "expected a polars frame", update({"x": 1})),
        (
            dao.DaoValueError,
            "say which, dataset=",
            update(pd.DataFrame({"x": [1]}, index=["s1-0"])),
        ),
        (
            dao.DaoKeyError,
            "no dataset 'liver'",
            update(pd.DataFrame({"x": [1]}, index=["s1-0"]), dataset="liver"),
        ),
        (
            dao.DaoKeyError,
            "1 of 2 names are no cells",
            update(pd.DataFrame({"x": [1, 2]}, index=["s1-0", "q"]), dataset="lung"),
        ),
        (
            dao.DaoValueError,
            "frame's index has 1 obs names more than once",
            update(pd.DataFrame({"x": [1, 2]}, index=["s1-0"] * 2), dataset="lung"),
        ),
        (
            dao.DaoValueError,
            "holds 1 in row 0; expected cells of store",
            update(pd.DataFrame({"cell": [1]}, index=["s1-0"]), dataset="lung"),
        ),
        (
            dao.DaoKeyError,
            "no dataset has an obs column 'no'",
            lambda: store.rename_obs({"no": "x"}),
        ),
        (
            dao.DaoValueError,
            "has a column 'score' already",
            lambda: store.rename_obs({"cell_type": "score"}),
        ),
        (dao.DaoValueError, "reserved", lambda: store.rename_obs({"cell_type": "cell"})),
        (dao.DaoTypeError, "expected {old: new", lambda: store.rename_obs({})),
        (
            dao.DaoKeyError,
            "no dataset has an obs column 'no'",
            lambda: store.drop_obs("score", "no"),
        ),
        (dao.DaoValueError, "no column is named", lambda: store.drop_obs()),
        (dao.DaoValueError, "the frame's own", lambda: store.drop_obs("obs_name")),
        (
            dao.DaoKeyError,
            "1 of 2 genes are in no dataset",
            lambda: store.update_var(pl.DataFrame({"var_name": ["a", "q"], "s": ["x", "y"]})),
        ),
        (
            dao.DaoValueError,
            "no column 'var_name'",
            lambda: store.update_var(pl.DataFrame({"s": ["x"]})),
        ),
        (
            dao.DaoValueError,
            "1 names of genes more than once",
            lambda: store.update_var(pl.DataFrame({"var_name": ["a", "a"], "s": ["x", "y"]})),
        ),
        (
            dao.DaoTypeError,
            "expected arrays of numbers",
            lambda: store.update_obsm("X_n", with_column(v=pl.lit("x"))),
        ),
        (
            dao.DaoValueError,
            "one of arrays",
            lambda: store.update_obsm("X_n", with_column(v=1, w=2)),
        ),
        (
            dao.DaoValueError,
            "several lengths",
            lambda: store.update_obsm("X_n", with_column(v=pl.Series([[1.0], [1.0, 2.0], [1.0]]))),
        ),
        (
            dao.DaoValueError,
            "nulls",
            lambda: store.update_obsm(
                "X_n",
                with_column(v=pl.Series([[1.0], [None], [1.0]], dtype=pl.Array(pl.Float32, 1))),
            ),
        ),
        (
            dao.DaoValueError,
            "obsm",
            lambda: store.update_obsm(
                "a/b", with_column(v=pl.Series([[1.0]] * 3, dtype=pl.Array(pl.Float32, 1)))
            ),
        ),
        (dao.DaoKeyError, "no dataset 'x'", lambda: store.rename_dataset("x", "y")),
        (dao.DaoFileExistsError, "heart", lambda: store.rename_dataset("lung", "heart")),
        (dao.DaoKeyError, "no dataset 'x'", lambda: store.remove_dataset("x")),
        (dao.DaoTypeError, "message=1", lambda: store.remove_dataset("lung", message=1)),
    ]:
        refused(store, kind, what, edit)


def test_names_that_repeat_are_refused(tmp_path: Path) -> None:
    adata = study(1, 4, GENES)
    adata.obs_names = ["x", "y", "x", "z"]
    store = dao.write_dataset(tmp_path, adata, dataset="lung")
    frame = pd.DataFrame({"q": [1.0, 2.0]}, index=["y", "x"])
    refused(
        store,
        dao.DaoValueError,
        "the dataset has 1 obs names more than once, such as 'x'",
        lambda: store.update_obs(frame, dataset="lung"),
    )
    edited = store.update_obs(frame.iloc[:1], dataset="lung")
    assert column(edited, "q").to_list() == [None, 1.0, None, None]


def test_cells_of_another_store_are_refused(store: dao.Store, tmp_path: Path) -> None:
    other = dao.write_dataset(tmp_path / "other", study(1, 30, GENES), dataset="lung")
    frame = other.scan().select("cell", x=pl.lit(1)).collect()
    for edit in (
        lambda: store.update_obs(frame),
        lambda: store.remove_cells(frame),
        lambda: store.update_obsm("X", frame),
    ):
        refused(store, dao.DaoValueError, "store", edit)


def test_var_is_a_gene_key(store: dao.Store) -> None:
    symbols = pl.DataFrame({"var_name": ["c", "a"], "symbol": ["CD3E", "CD19"]})
    edited = store.update_var(symbols)
    assert edited.var("lung")["symbol"].to_list() == ["CD19", None, "CD3E"]
    read = edited.scan().select(
        x=dao.gene("CD3E", gene_key="symbol"),
        y=dao.gene("c"),
        z=dao.gene("CD19", gene_key="symbol"),
    )
    frame = read.collect()
    assert frame["x"].to_list() == frame["y"].to_list()
    pandas = pd.DataFrame({"symbol": ["CD20"]}, index=["b"])
    again = edited.update_var(pandas, dataset="lung")
    assert again.var("lung")["symbol"].to_list() == ["CD19", "CD20", "CD3E"]
    assert again.var("heart")["symbol"].to_list() == ["CD19", None, "CD3E"]
    adata = (
        again.scan()
        .filter(pl.col("dataset") == "lung")
        .dao.to_anndata(genes=["CD20", "CD3E"], gene_key="symbol")
    )
    want = study(1, 30, GENES).X.toarray()[:, [1, 2]]
    np.testing.assert_array_equal(adata.X.toarray(), want)


def test_cells_that_are_appended_take_the_var_that_is_there_then(tmp_path: Path) -> None:
    store = dao.write_dataset(tmp_path, study(1, 30, GENES), dataset="lung")
    edited = store.update_var(pl.DataFrame({"var_name": ["a"], "symbol": ["CD19"]}))
    more = dao.write_dataset(tmp_path, study(2, 5, GENES), dataset="lung", mode="append")
    assert_frame_equal(more.var("lung"), edited.var("lung"))
    both = more.scan().select("obs_name", x=dao.gene("CD19", gene_key="symbol")).collect()
    want = np.concatenate([study(1, 30, GENES).X.toarray(), study(2, 5, GENES).X.toarray()])[:, 0]
    np.testing.assert_array_equal(both["x"], want)


def test_embeddings(store: dao.Store) -> None:
    rng = np.random.default_rng(0)
    some = cells(store).select("cell").sample(10, seed=0, shuffle=True)
    rows = rng.normal(size=(10, 4))
    values = pl.Series("v", rows, dtype=pl.Array(pl.Float64, 4))
    edited = store.update_obsm("X_scvi", some.with_columns(values))
    lung = edited.scan().filter(pl.col("dataset") == "lung")
    want = np.full((30, 4), np.nan)
    at = cells(store)["cell"].ext.storage().to_list()
    want[[at.index(key) for key in some["cell"].ext.storage()]] = rows
    np.testing.assert_array_equal(lung.dao.to_anndata().obsm["X_scvi"], want)
    assert "X_scvi" not in edited.scan().dao.to_anndata().obsm, "the other dataset has none"
    batches = list(lung.dao.iter_batches(7, obsm="X_scvi", dtype="float64"))
    np.testing.assert_array_equal(np.concatenate([b.obsm["X_scvi"] for b in batches]), want)
    narrow = some.with_columns(v=pl.Series([[1.0, 2.0]] * 10, dtype=pl.Array(pl.Float32, 2)))
    refused(
        edited, dao.DaoValueError, "has 4 columns", lambda: edited.update_obsm("X_scvi", narrow)
    )
    every = cells(store).select("cell", v=pl.lit([1, 2], dtype=pl.List(pl.Int64)))
    whole = edited.update_obsm("X_scvi", every)
    found = whole.scan().filter(pl.col("dataset") == "lung").dao.to_anndata().obsm["X_scvi"]
    np.testing.assert_array_equal(found, np.tile([1, 2], (30, 1)))
    assert whole.verify().is_empty()
    np.testing.assert_array_equal(lung.dao.to_anndata().obsm["X_scvi"], want)


def test_removed_cells(store: dao.Store, tmp_path: Path) -> None:
    store.add_gene_index()
    lf = store.scan()
    saved = tmp_path / "cells.parquet"
    lf.select("cell").collect().write_parquet(saved)
    gone = lf.filter(pl.col("cell_type") == "B")
    edited = dao.load_store(store.uri).remove_cells(gone, message="donor withdrew")
    kept = lf.filter(pl.col("cell_type") != "B").collect()
    n = 50 - kept.height
    assert (edited.n_obs, edited.versions()["cells"][-1]) == (kept.height, kept.height)
    columns = [name for name in kept.columns if name not in ("cell", "cell_type")]
    got = edited.scan()
    assert_frame_equal(got.select(columns).collect(), kept.select(columns))
    assert got.collect().schema["cell_type"] == pl.Enum(["NK", "T"])
    assert got.select(pl.len()).collect().item() == kept.height
    for length in (1, 7, 29, 45):
        want = kept.head(length)["obs_name"].to_list()
        assert got.head(length).collect()["obs_name"].to_list() == want
        assert got.head(length).select("obs_name").collect()["obs_name"].to_list() == want
        assert len(got.head(length).select("cell", "dataset").collect()) == len(want)
    assert got.tail(3).collect()["obs_name"].to_list() == kept.tail(3)["obs_name"].to_list()
    x = np.concatenate([study(1, 30, GENES).X.toarray(), study(2, 20, GENES).X.toarray()])
    names = lf.select("obs_name").collect()["obs_name"].to_list()
    x = x[[names.index(name) for name in kept["obs_name"]]]
    np.testing.assert_array_equal(got.dao.to_anndata().X.toarray(), x)
    np.testing.assert_array_equal(got.select(a=dao.gene("a")).collect()["a"], x[:, 0])
    np.testing.assert_allclose(got.dao.gene_stats()["total"], x.sum(axis=0))
    assert edited.datasets["nnz"].sum() == np.count_nonzero(x)
    # The selection of before.
    old = pl.read_parquet(saved)
    with pytest.raises(dao.DaoValueError, match=rf"{n} of 50 cells are no longer .*'s1-\d+' of"):
        old.dao.to_anndata()
    with pytest.raises(pl.exceptions.ComputeError, match="no longer in the store"):
        old.with_columns(a=dao.gene("a"))
    with pytest.raises(dao.DaoValueError, match="missing='x'"):
        old.dao.iter_batches(missing="x")
    np.testing.assert_array_equal(old.dao.to_anndata(missing="drop").X.toarray(), x)
    batches = [b.x.toarray() for b in old.dao.iter_batches(8, missing="drop")]
    np.testing.assert_array_equal(np.concatenate(batches), x)
    assert_frame_equal(old.dao.gene_stats(missing="drop"), got.dao.gene_stats())
    # A version that has them reads them; so does a frame that scans it.
    pinned = dao.scan(store.uri, version=store.version)
    assert pinned.dao.to_anndata().n_obs == 50
    assert lf.dao.to_anndata().n_obs == 50
    # Once more, and all.
    assert edited.remove_cells(gone).n_obs == kept.height
    none = edited.remove_cells(edited.scan())
    assert none.n_obs == 0
    assert none.scan().collect().height == 0
    assert none.verify().is_empty()
    assert none.datasets["n_obs"].to_list() == [0, 0]
    back = none.restore(store.version)
    assert back.n_obs == 50


def test_several_changes_are_one_version(store: dao.Store) -> None:
    some = cells(store)
    with store.edit("clusters", author="me") as edit:
        edit.update_obs(some.select("cell", leiden=pl.lit("1")))
        edit.rename_obs({"leiden": "cluster"})
        edit.drop_obs("score", datasets="lung")
        edit.update_obs(some.select("cell", score=pl.lit("high")))
        edit.remove_cells(some.head(1))
        edit.rename_dataset("lung", "air")
        edit.update_obs(pd.DataFrame({"y": [2]}, index=["s1-5"]), dataset="air")
        edit.remove_dataset("heart")
        assert edit.store is store
    edited = edit.store
    assert edited.version == 3
    frame = edited.scan().collect()
    assert frame["cluster"].to_list() == ["1"] * 29
    assert frame["score"].to_list() == ["high"] * 29
    assert frame["dataset"].unique().to_list() == ["air"]
    assert frame.filter(pl.col("y").is_not_null())["obs_name"].to_list() == ["s1-5"]
    row = edited.versions().row(-1, named=True)
    assert (row["operation"], row["message"], row["author"]) == ("edit", "clusters", "me")
    assert edited.verify().is_empty()
    assert not unnamed(Path(store.uri))
    with pytest.raises(dao.DaoValueError, match="finished"):
        edit.remove_dataset("air")


def test_an_edit_that_fails_makes_nothing(store: dao.Store) -> None:
    def leaves() -> None:
        with store.edit() as edit:
            edit.update_obs(cells(store).select("cell", x=pl.lit(1)))
            raise RuntimeError("changed my mind")

    refused(store, RuntimeError, "changed my mind", leaves)

    def is_wrong() -> None:
        with store.edit() as edit:
            edit.update_obs(cells(store).select("cell", x=pl.lit(1)))
            edit.drop_obs("no")

    refused(store, dao.DaoKeyError, "no dataset has an obs column 'no'", is_wrong)
    with store.edit():
        pass
    assert store.versions().height == 2


def test_sfairas_stores_are_not_edited(tmp_path: Path) -> None:
    from tests.conftest import SFAIRA

    store = dao.load_store(SFAIRA)
    with pytest.raises(dao.DaoValueError, match="sfaira wrote"):
        store.drop_obs("x")


def test_a_table_that_cannot_be_written(store: dao.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    refused(
        store,
        dao.DaoIOError,
        "No space left",
        lambda: store.update_obs(cells(store).select("cell", x=pl.lit(1))),
    )


def test_damage_of_what_edits_write(store: dao.Store) -> None:
    keys = cells(store).select("cell")
    array = pl.lit([1.0, 2.0], dtype=pl.Array(pl.Float64, 2))
    store = store.update_obs(keys.with_columns(x=pl.lit(1)))
    store = store.update_obsm("X_new", keys.with_columns(v=array))
    store = store.update_var(pl.DataFrame({"var_name": ["a"], "symbol": ["A"]}), dataset="lung")
    store = store.remove_cells(keys.head(2))
    lung = next((Path(store.uri) / "parts").glob("lung-*"))
    written = [*lung.glob("obs-*"), *lung.glob("var-*"), *lung.glob("removed-*")]
    written += [p for p in next(lung.glob("obsm-*")).rglob("*") if p.is_file()]
    assert len(written) > 5
    for path in written:
        whole = path.read_bytes()
        for damaged in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], None):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            again = dao.load_store(store.uri)
            problems = again.verify()
            assert path.name in "".join(problems["path"]), (path, damaged)
            if path.name.startswith("removed"):
                with pytest.raises((dao.DaoCorruptError, dao.DaoFileNotFoundError), match="lung"):
                    again.scan().collect()
                with pytest.raises((dao.DaoCorruptError, dao.DaoFileNotFoundError), match="lung"):
                    keys.tail(3).dao.to_anndata()
            path.write_bytes(whole)
    assert dao.load_store(store.uri).verify().is_empty()


def test_a_column_has_the_pandas_type_of_its_values(tmp_path: Path) -> None:
    """Not that of the values that were given: they are cast to the column's."""
    adata = study(1, 3, GENES)
    adata.uns["resolution"] = 0.5
    adata.obs["n"] = [10.5, 11.5, np.nan]
    adata.obs["half"] = np.array([1, 2, 3], np.float16)
    adata.obs["seconds"] = pd.to_datetime(["2020-01-01"] * 3).astype("datetime64[s]")
    store = dao.write_dataset(tmp_path, adata, dataset="lung")
    keys = store.scan().select("cell").collect()
    store = store.update_obs(keys.head(1).with_columns(resolution=pl.lit(1)))
    store = store.update_obs(keys.with_columns(n=pl.Series([10, None, 12])))
    seven = pd.DataFrame({"n": pd.array([7], "Int64")}, index=["s1-0"])
    store = store.update_obs(seven, dataset="lung")
    store = store.update_obs(keys.head(1).with_columns(half=pl.lit(1e5, pl.Float32)))
    late = pl.datetime(2021, 1, 1, 1, 1, 1, 456_000).cast(pl.Datetime("ms"))
    store = store.update_obs(keys.head(1).with_columns(seconds=late))
    frame, obs = store.scan().collect(), store.scan().dao.to_anndata().obs
    for name, values in {
        "resolution": [1.0, 0.5, 0.5],
        "n": [7.0, None, 12.0],
        "half": [1e5, 2.0, 3.0],
    }.items():
        assert frame[name].to_list() == values, name
        want = [np.nan if value is None else value for value in values]
        np.testing.assert_array_equal(obs[name].to_numpy(float), want, name)
    assert obs["seconds"].dt.microsecond.tolist() == [456_000, 0, 0]
    zoned = keys.with_columns(seconds=pl.datetime(2020, 6, 1, time_zone="Asia/Tokyo"))
    refused(store, dao.DaoTypeError, "another type", lambda: store.update_obs(zoned))


def test_a_dataset_of_parts_has_one_type_and_form(tmp_path: Path) -> None:
    for seed in (1, 2):
        adata = study(seed, 3, GENES)
        adata.obsm["P"] = np.ones((3, 2), np.float32)
        store = dao.write_dataset(tmp_path, adata, dataset="lung", mode="append")
    keys = store.scan().select("cell").collect()
    first, second = keys.head(3), keys.tail(3)
    wide = first.with_columns(v=pl.lit([1.0, 2.0, 3.0], dtype=pl.Array(pl.Float32, 3)))
    refused(store, dao.DaoValueError, "has 2 columns", lambda: store.update_obsm("P", wide))
    words = pd.DataFrame({"cell_type": ["x"] * 3}, index=["s1-0", "s1-1", "s1-2"])
    kinds = store.update_obs(words, dataset="lung").scan().dao.to_anndata().obs["cell_type"]
    assert isinstance(kinds.dtype, pd.CategoricalDtype)
    assert kinds.tolist()[:3] == ["x"] * 3
    some = dao.load_store(tmp_path).update_obs(first.with_columns(k=pl.lit(1, pl.Int32)))
    text = second.with_columns(k=pl.lit("text"))
    refused(some, dao.DaoTypeError, "another type", lambda: some.update_obs(text))
    both = some.update_obs(second.with_columns(k=pl.lit(2, pl.Int64)))
    assert both.scan().collect()["k"].to_list() == [1, 1, 1, 2, 2, 2]
    assert both.schema["k"] == pl.Int32


def test_ordered_categories_written_back_stay(store: dao.Store) -> None:
    kinds = pd.Categorical(["lo", "hi", "mid"] * 10, ["lo", "mid", "hi", "never"], ordered=True)
    frame = pd.DataFrame({"kind": kinds}, index=[f"s1-{i}" for i in range(30)])
    store = store.update_obs(frame, dataset="lung")
    lung = store.scan().filter(pl.col("dataset") == "lung").select("cell", "kind").collect()
    again = store.update_obs(lung)
    found = again.scan().filter(pl.col("dataset") == "lung").dao.to_anndata().obs["kind"]
    assert found.cat.ordered
    assert found.cat.categories.tolist() == ["lo", "mid", "hi", "never"]
    other = again.update_obs(lung.with_columns(kind=pl.lit("hi")))
    found = other.scan().filter(pl.col("dataset") == "lung").dao.to_anndata().obs["kind"]
    assert found.cat.categories.tolist() == ["hi", "never"]


def test_nothing_is_no_trouble(store: dao.Store) -> None:
    none = store.scan().filter(pl.lit(False)).select("cell")
    store = store.remove_cells(none).update_obs(none.with_columns(x=pl.lit(1)))
    array = pl.lit([1.0], dtype=pl.Array(pl.Float32, 1))
    store = store.update_obsm("X_n", none.with_columns(v=array))
    store = store.update_obs(pd.DataFrame({"x": []}, index=[]), dataset="lung")
    assert store.version == 6
    assert store.verify().is_empty()
    edit = store.edit()
    assert edit.commit() is store
    with store.edit() as edit:
        edit.drop_obs("score")
        edit.commit()
    assert edit.store.version == 7


def test_an_edit_holds_the_values_that_it_was_given(store: dao.Store) -> None:
    buffer, keys = np.zeros(30), cells(store).select("cell")
    with store.edit() as edit:
        for name, value in (("p", 1.0), ("q", 2.0)):
            buffer[:] = value
            edit.update_obs(keys.with_columns(pl.Series(name, buffer)))
    assert column(edit.store, "p").to_list() == [1.0] * 30


def test_durations_conflict_like_others(store: dao.Store) -> None:
    keys, mine = cells(store).select("cell").head(2), dao.load_store(store.uri)
    store.update_obs(keys.with_columns(z=pl.duration(days=1)))
    with pytest.raises(dao.DaoConflictError, match="'z' in 2 of the cells"):
        mine.update_obs(keys.with_columns(z=pl.duration(days=2)))


@pytest.mark.parametrize("name", ["*", "^s.*$"])
def test_names_that_are_patterns(store: dao.Store, name: str, tmp_path: Path) -> None:
    some = cells(store).select("cell")
    frame = pl.DataFrame([some["cell"], pl.Series(name, [1] * 30)])
    refused(store, dao.DaoValueError, "reserved name", lambda: store.update_obs(frame))
    refused(store, dao.DaoValueError, "reserved", lambda: store.rename_obs({"score": name}))
    adata = study(3, 4, GENES)
    adata.obs[name] = [1, 2, 3, 4]
    written = dao.write_dataset(tmp_path / "w", adata, dataset="lung")
    assert written.scan().collect()[f"obs_{name}"].to_list() == [1, 2, 3, 4]
    assert written.scan().dao.to_anndata().obs[name].tolist() == [1, 2, 3, 4]


def test_the_organism_is_that_of_the_cells(tmp_path: Path) -> None:
    adata = study(1, 6, GENES)
    adata.obs["organism"] = ["human"] * 4 + ["mouse"] * 2
    store = dao.write_dataset(tmp_path, adata, dataset="lung")
    assert store.datasets["organism"].to_list() == [None]
    fewer = store.remove_cells(store.scan().tail(2))
    assert fewer.datasets["organism"].to_list() == ["human"]


def test_embeddings_of_integers_stay_exact(store: dao.Store) -> None:
    keys = cells(store).select("cell")
    large = keys.with_columns(v=pl.lit([2**53 + 1], dtype=pl.Array(pl.Int64, 1)))
    store = store.update_obsm("X_n", large)
    halves = keys.head(2).with_columns(v=pl.lit([0.5], dtype=pl.Array(pl.Float32, 1)))
    refused(store, dao.DaoTypeError, "does not have all", lambda: store.update_obsm("X_n", halves))


def test_what_is_no_frame(store: dao.Store) -> None:
    adata = store.scan().filter(pl.col("dataset") == "lung").dao.to_anndata()
    for what, edit in [
        ("pass its .obs", lambda: store.update_obs(adata, dataset="lung")),
        (".to_frame", lambda: store.update_obs(adata.obs["score"], dataset="lung")),
        ("found a builtins.dict", lambda: store.update_obs({"x": [1]}, dataset="lung")),
    ]:
        refused(store, dao.DaoTypeError, what, edit)
    empty = cells(store).select("cell", v=pl.lit([], dtype=pl.Array(pl.Float32, 0)))
    refused(store, dao.DaoValueError, "are empty", lambda: store.update_obsm("X_n", empty))
    frame = pl.DataFrame({"x": [1]})
    refused(store, dao.DaoValueError, "has no column 'cell'", lambda: store.remove_cells(frame))
    with pytest.raises(dao.DaoValueError, match="names none"):
        store.drop_obs("score", datasets=[])
