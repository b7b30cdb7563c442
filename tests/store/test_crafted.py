"""Crafted JSON: whatever a store's files say, the answer is right or a DaoError."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from polars.exceptions import ComputeError

import dao_polars as dao
from dao_polars.errors import DaoCorruptError, DaoError
from tests.conftest import study
from tests.storefab import (
    Study,
    checksum,
    describe,
    description_path,
    gene_index_path,
    last_version,
    list_files,
    make_store,
    part_path,
    read_description,
    read_version,
    relist,
    write_version,
)

Change = Callable[[dict[str, Any]], object]


def studies() -> dict[str, Study]:
    obs = pl.DataFrame({"n": [1, 2, 3], "word": ["a", "b", None]})
    return {"one": Study(obs, {"organism": "human", "year": 2020}), "two": Study(obs, {"year": 7})}


def whole(path: Path) -> None:
    """All that the manifest decides."""
    store = dao.load_store(path)
    assert store.n_obs >= 0
    repr(store)
    store._repr_html_()
    assert store.datasets.height >= 0
    frame = store.scan()
    assert list(store.schema) == list(frame.collect_schema())
    frame.collect()
    for name in store.datasets["id"]:
        store.var(name)
        store.uns(name)


def steps(path: Path) -> list[BaseException]:
    """What each step raises, by itself: an earlier error must not hide a later crash."""
    raised: list[BaseException] = []

    def tried(step: Callable[[], object]) -> Any:
        try:
            return step()
        except BaseException as error:
            raised.append(error)

    store = tried(lambda: dao.load_store(path))
    if store is not None:
        for step in (
            lambda: repr(store),
            lambda: store._repr_html_(),
            lambda: store.n_obs,
            lambda: store.datasets,
            lambda: store.schema,
            lambda: store.scan().collect(),
            lambda: store.scan().select("cell").collect(),
            lambda: store.scan().filter(pl.col("dataset") == "one").collect(),
            lambda: store.scan().dao.to_anndata(layers=True),
            lambda: [store.var(name) for name in store.datasets["id"]],
            lambda: [store.uns(name) for name in store.datasets["id"]],
            lambda: store.verify(),
        ):
            tried(step)
    return raised


def entry(**values: Any) -> Change:
    """Changes the first part's entry."""
    return lambda manifest: manifest["parts"][0].update(values)


def without(key: str) -> Change:
    return lambda manifest: manifest["parts"][0].pop(key)


def top(**values: Any) -> Change:
    return lambda manifest: manifest.update(values)


def values(found: object) -> Change:
    """Changes what a column's categories are."""
    return top(categories={"word": {"unlisted": 0, "values": found}})


MANIFESTS: dict[str, Change] = {
    **{f"{key} missing": without(key) for key in ("number", "dataset", "path", "n_obs", "obs")},
    **{f"{key} missing too": without(key) for key in ("layout", "constants", "layers", "var_id")},
    **{f"{key} missing as well": without(key) for key in ("bytes", "description", "obs_path")},
    "no parts": lambda manifest: manifest.pop("parts"),
    "parts are a dict": top(parts={}),
    "parts hold null": lambda manifest: manifest["parts"].append(None),
    "format is another": top(format="dao-store"),
    "version is text": top(version="1"),
    "version is negative": top(version=-1),
    "version is of the future": top(version=10**9),
    "store is a number": top(store=5),
    "no store": lambda manifest: manifest.pop("store"),
    "version's number is another": top(number=2),
    "version's number is negative": top(number=-1),
    "base is itself": top(base=1),
    "base is newer": top(base=2),
    "base is not there": top(base=0),
    "base is text": top(base="0"),
    "since_base is negative": top(since_base=-1),
    "gone is a number": top(gone=1),
    "oldest is text": top(oldest="1"),
    "message is a number": top(message=1),
    "next_number is negative": top(next_number=-1),
    "next_number is huge": top(next_number=2**40),
    "number is text": entry(number="0"),
    "number is negative": entry(number=-1),
    "number is huge": entry(number=2**33),
    "number is taken": entry(number=1),
    "n_obs is negative": entry(n_obs=-3),
    "n_obs is a float": entry(n_obs=3.5),
    "n_obs is huge": entry(n_obs=2**63),
    "n_obs is 2**32": entry(n_obs=2**32),
    "n_obs is one more": entry(n_obs=4),
    "n_obs is null": entry(n_obs=None),
    "n_vars is huge": entry(n_vars=2**64 - 1),
    "n_vars past 64 bits": entry(n_vars=2**70),
    "nnz is huge": entry(nnz=2**63),
    "bytes are huge": entry(bytes=2**64 - 1),
    "layout is unknown": entry(layout="csc"),
    "dtype is unknown": entry(dtype="uint128"),
    "dtype is a number": entry(dtype=16),
    "organism is a list": entry(organism=["human"]),
    "obs dtype is unknown": entry(obs=[["n", "Int128"], ["word", "String"]]),
    "obs dtype is a number": entry(obs=[["n", 64]]),
    "obs time zone is unknown": entry(obs=[["n", "Datetime(us,Mars/Base)"], ["word", "String"]]),
    "obs dtype is another": entry(obs=[["n", "Float32"], ["word", "String"]]),
    "obs column that is not there": entry(obs=[["m", "Int64"], ["word", "String"]]),
    "obs column twice": entry(obs=[["n", "Int64"], ["n", "Int64"]]),
    "obs column twice, of two types": entry(obs=[["n", "Int64"], ["n", "String"]]),
    "obs column named cell": entry(obs=[["cell", "Int64"]]),
    "obs column named dataset": entry(obs=[["dataset", "String"]]),
    "obs pairs are triples": entry(obs=[["n", "Int64", "more"]]),
    "obs is a dict": entry(obs={"n": "Int64"}),
    "constants are a list": entry(constants=[1]),
    "a constant is a list": entry(constants={"year": [1, 2]}),
    "a constant is nested": entry(constants={"year": {"a": {"b": 1}}}),
    "a constant is null": entry(constants={"year": None}),
    "name with a slash": entry(dataset="a/b"),
    "name with a NUL": entry(dataset="a\0b"),
    "name is empty": entry(dataset=""),
    "name is that of other genes": entry(dataset="two", var_id="other"),
    "path is absolute": entry(path="/etc"),
    "path leaves the store": entry(path="../one"),
    "path leaves the store within": entry(path="parts/../../one"),
    "path with a NUL": entry(path="parts/one\0"),
    "path is not there": entry(path="parts/three"),
    "path is a number": entry(path=1),
    "description lies elsewhere": entry(description="../two/part.json"),
    "description is absolute": entry(description="/etc/passwd"),
    "description is not there": entry(description="none.json"),
    "description is another's": entry(path="parts/two"),
    "obs lies elsewhere": entry(obs_path="../two/obs.parquet"),
    "obs is not there": entry(obs_path="none.parquet"),
    "obs is another file": entry(obs_path="var.parquet"),
    "layer is a path": entry(layers=["../../X"]),
    "layer with a NUL": entry(layers=["a\0b"]),
    "layer is a number": entry(layers=[1]),
    "obsm is a path": entry(obsm=["/etc/passwd"]),
    "var_id is a number": entry(var_id=3),
    "categories are a list": top(categories=["word"]),
    "categories of one are text": top(categories={"word": "ab"}),
    "categories of one are a list": top(categories={"word": ["a", "b"]}),
    "categories of one lack a count": top(categories={"word": {"values": {"a": 1, "b": 1}}}),
    "values are a list": values(["a", "b"]),
    "values are numbers": values({"a": "1", "b": "1"}),
    "values are counted below none": values({"a": -1, "b": 1}),
    "values lack one": values({"a": 2}),
    "values are nested": values({"a": {"b": 1}}),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_crafted_manifest_is_an_error_that_says_so(what: str, tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", studies())
    whole(path)
    manifest = read_version(path)
    MANIFESTS[what](manifest)
    write_version(path, manifest)
    with pytest.raises(DaoError):
        whole(path)
    others = [error for error in steps(path) if not isinstance(error, DaoError)]
    assert not others, [repr(error) for error in others]


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "1e999", '{"a":', "[" * 100_000, "\xff"])
def test_what_is_no_manifest_is_corrupt(text: str, tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", studies())
    last_version(path).write_bytes(text.encode("latin1"))
    with pytest.raises(DaoCorruptError):
        dao.load_store(path)
    # What says that there are versions is read where there are none.
    shutil.rmtree(path / "versions")
    (path / "dao.json").write_bytes(text.encode("latin1"))
    with pytest.raises(DaoCorruptError):
        dao.load_store(path)


@pytest.mark.parametrize("text", ["", "0", "-1", "1e999", "99999999999999999999", "\xff", "x"])
def test_a_hint_that_is_wrong_does_no_harm(text: str, tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", studies())
    (path / "versions" / "latest").write_bytes(text.encode("latin1"))
    assert dao.load_store(path).version == 1
    whole(path)


DESCRIPTIONS: dict[str, Change] = {
    "no matrices": top(matrices={}),
    "matrices are a list": top(matrices=[]),
    "matrix is null": lambda d: d["matrices"].update(X=None),
    "matrix name is a path": lambda d: d["matrices"].update({"layers/../X": d["matrices"]["X"]}),
    "layout is another": lambda d: d["matrices"]["X"].update(layout="dense"),
    "dtype is unknown": lambda d: d["matrices"]["X"].update(dtype="complex64"),
    "dtype is another": lambda d: d["matrices"]["X"].update(dtype="float64"),
    "source_dtype is none": lambda d: d["matrices"]["obsm/X_pca"].update(source_dtype="nonsense"),
    "source_dtype is text": lambda d: d["matrices"]["obsm/X_pca"].update(source_dtype="U9"),
    "source_dtype is an object": lambda d: d["matrices"]["obsm/X_pca"].update(source_dtype="O"),
    "source_dtype is a list": lambda d: d["matrices"]["obsm/X_pca"].update(source_dtype="f4,f4"),
    "shape is short": lambda d: d["matrices"]["X"].update(shape=[5]),
    "shape is negative": lambda d: d["matrices"]["X"].update(shape=[-5, 2]),
    "shape is huge": lambda d: d["matrices"]["X"].update(shape=[5, 2**62]),
    "shape of obsm is huge": lambda d: d["matrices"]["obsm/X_pca"].update(shape=[5, 2**62]),
    "n_vars is huge": top(n_vars=2**62),
    "n_obs is text": top(n_obs="5"),
    "obs is missing": lambda d: d.pop("obs"),
    "obs columns are a dict": top(obs={"columns": {}}),
    "obs column without dtype": top(obs={"columns": [{"name": "n"}]}),
    "obs column of no dtype": lambda d: d["obs"]["columns"][1].update(dtype="Int129"),
    "pandas' note is a list": lambda d: d["obs"]["columns"][0].update(pandas=[1]),
    "pandas' note is text": lambda d: d["obs"]["columns"][1].update(pandas="object"),
    "pandas' kind is unknown": lambda d: d["obs"]["columns"][0].update(pandas={"kind": "?"}),
    "pandas' kind is a list": lambda d: d["obs"]["columns"][0].update(pandas={"kind": ["x"]}),
    "pandas' note has no kind": lambda d: d["obs"]["columns"][0].update(pandas={"of": 1}),
    "pandas' categories are text": lambda d: d["obs"]["columns"][0]["pandas"].update(
        categories={"a": "b"}
    ),
    "pandas' categories are numbers": lambda d: d["obs"]["columns"][0]["pandas"].update(
        categories=[[1], 2]
    ),
    "pandas' dtype is unknown": lambda d: d["obs"]["columns"][1]["pandas"].update(dtype="float129"),
    "index note is a list": lambda d: d["obs"].update(index=[1, 2]),
    "index note is nonsense": lambda d: d["obs"].update(index={"kind": "range", "start": "x"}),
    "var index note is a list": lambda d: d["var"].update(index=[1, 2]),
    "files are a list": top(files=["a"]),
    "a file's size is text": lambda d: d["files"]["uns.json"].update(size="2"),
    "a file's size is negative": lambda d: d["files"]["uns.json"].update(size=-2),
    "a file lies elsewhere": lambda d: d["files"].update({"../x": d["files"]["uns.json"]}),
    "version is of the future": top(version=10**9),
    "format is another": top(format="dao-version"),
    "var lies elsewhere": top(var_path="../../dao.json"),
    "var is not there": top(var_path="none"),
    "var is another file": top(var_path="obs.parquet"),
    "var is a number": top(var_path=1),
    "uns lies elsewhere": top(uns_path="../../dao.json"),
    "uns is not there": top(uns_path="none"),
    "uns is another file": top(uns_path="obs.parquet"),
    "uns is missing": lambda d: d.pop("uns_path"),
    "gene index is a number": top(gene_index=1),
    "categories are a list": top(categories=["cell_type"]),
    "categories are numbers": top(categories={"cell_type": [1, 2]}),
}


def real(path: Path) -> dict[str, Any]:
    """A store with a real dataset; gives its description."""
    adata = study(1, 5, ["g0", "g1"])
    adata.obsm["X_pca"] = adata.X.toarray()[:, :2].astype("float16")
    adata.layers["twice"] = adata.X * 2
    dao.write_dataset(path, adata, dataset="one", layers=True, progress=False)
    return read_description(path, "one")


def used(path: Path) -> None:
    """All that a description decides. Values are right, or it is an error."""
    lf = dao.scan(path)
    adata = lf.dao.to_anndata()
    expected = study(1, 5, ["g0", "g1"])
    assert (adata.X != expected.X).nnz == 0
    assert (adata.layers["twice"] != expected.X * 2).nnz == 0
    assert (adata.obsm["X_pca"] == expected.X.toarray()).all()
    for batch in lf.dao.iter_batches(layers=True, obsm=True):
        assert (batch.x != expected.X).nnz == 0
    assert lf.select(dao.gene("g1")).collect().to_series().sum() == expected.X[:, 1].sum()


@pytest.mark.parametrize("what", DESCRIPTIONS)
def test_a_crafted_description_is_an_error_or_changes_nothing(what: str, tmp_path: Path) -> None:
    path = tmp_path / "store"
    description = real(path)
    used(path)
    DESCRIPTIONS[what](description)
    describe(path, "one", description)
    with suppress(DaoError):
        used(path)
    raised = steps(path)
    assert all(isinstance(error, DaoError) for error in raised), raised


def indexed(path: Path) -> Path:
    """A store with a gene index; gives its folder."""
    adata = study(1, 5, ["g0", "g1"])
    dao.write_dataset(path, adata, dataset="one", gene_index=True, progress=False)
    return gene_index_path(path, "one")


def gene(path: Path) -> None:
    found = dao.scan(path).select(dao.gene("g1")).collect().to_series()
    assert found.to_list() == study(1, 5, ["g0", "g1"]).X.toarray()[:, 1].tolist()


#: What reads matrices, and what reads and makes a gene index.
BY_CELL: list[Callable[[Path], object]] = [
    gene,
    lambda path: dao.scan(path).dao.to_anndata(layers=True, progress=False),
    lambda path: dao.load_store(path).verify(),
]
BY_GENE: list[Callable[[Path], object]] = [
    lambda path: dao.load_store(path).has_gene_index(),
    gene,
    lambda path: dao.load_store(path).add_gene_index(progress=False),
    gene,
    lambda path: dao.load_store(path).verify(),
]


def each(calls: list[Callable[[Path], object]], path: Path) -> list[BaseException]:
    """What each call raises, as [`steps`][] does."""
    raised: list[BaseException] = []
    for call in calls:
        try:
            call(path)
        except BaseException as error:
            # What polars makes of ours is its own, and says which it was.
            is_ours = isinstance(error, ComputeError) and "a bug in" not in str(error)
            raised += [] if is_ours else [error]
    return raised


def only_dao_errors(raised: list[BaseException]) -> None:
    others = [error for error in raised if not isinstance(error, DaoError)]
    others += [error for error in raised if isinstance(error, dao.DaoInternalError)]
    assert not others, [repr(error) for error in others]


def data(description: dict[str, Any]) -> str:
    """A file of the gene index."""
    return f"{description['gene_index']}/zarr/X/data/c/0"


def listed(**values: Any) -> Change:
    """Changes what is said of that file."""
    return lambda d: d["files"][data(d)].update(values)


def also(path: str) -> Change:
    """Lists another file as that one is listed."""
    return lambda d: d["files"].update({path: d["files"][data(d)]})


INDEXES: dict[str, Change] = {
    "folder is empty": top(gene_index=""),
    "folder is a number": top(gene_index=5),
    "folder is a list": top(gene_index=["gene_index"]),
    "folder is another": top(gene_index="gene_index-none"),
    "folder is the part": top(gene_index="."),
    "folder lies elsewhere": top(gene_index="../gene_index"),
    "folder is absolute": top(gene_index="/etc"),
    "folder has a NUL": top(gene_index="gene_index\0"),
    "files are a list": lambda d: d.update(files=[data(d)]),
    "files are missing": lambda d: d.pop("files"),
    "no files": top(files={}),
    "a file is missing": lambda d: d["files"].pop(data(d)),
    "a file that is not there": also("gene_index/zarr/more"),
    "a file lies elsewhere": also("../dao.json"),
    "a file's size is text": listed(size="2"),
    "a file's size is negative": listed(size=-2),
    "a file's size is huge": listed(size=2**63),
    "a file's checksum is null": listed(checksum=None),
    "a file's checksum is another": listed(checksum="crc32c:00000000"),
    "a file is null": lambda d: d["files"].update({data(d): None}),
    "format is another": top(format="dao-dataset"),
    "version is of the future": top(version=10**9),
    "version is text": top(version="1"),
}


@pytest.mark.parametrize("what", INDEXES)
def test_a_crafted_gene_index_is_an_error_or_changes_nothing(what: str, tmp_path: Path) -> None:
    path = tmp_path / "store"
    indexed(path)
    assert each(BY_GENE, path) == []
    description = read_description(path, "one")
    INDEXES[what](description)
    describe(path, "one", description)
    only_dao_errors(each(BY_GENE, path))
    assert not dao.load_store(path).verify().is_empty()


@pytest.mark.parametrize("vouched", [False, True])
@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"a":', "[" * 100_000, "\xff"])
def test_what_is_no_description_is_corrupt(text: str, vouched: bool, tmp_path: Path) -> None:
    path = tmp_path / "store"
    indexed(path)
    file = description_path(path, "one")
    file.write_bytes(text.encode("latin1"))
    if vouched:
        manifest = read_version(path)
        manifest["parts"][0]["checksum"] = checksum(file.read_bytes())
        write_version(path, manifest)
    only_dao_errors(each(BY_GENE, path))
    with pytest.raises(DaoCorruptError, match=rf"dataset 'one'.*{file.name}"):
        dao.load_store(path).has_gene_index()
    assert dao.load_store(path).verify()["path"][0] == str(file.relative_to(path))


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"a":', "[" * 100_000, "\xff"])
def test_what_is_no_gene_index_is_corrupt(text: str, tmp_path: Path) -> None:
    path = tmp_path / "store"
    file = indexed(path) / "zarr" / "X" / "zarr.json"
    file.write_bytes(text.encode("latin1"))
    relist(path, "one")
    only_dao_errors(each(BY_GENE, path))
    problems = dao.load_store(path).verify()
    assert problems["path"].to_list() == [str(file.parents[2].relative_to(path))]
    assert "gene_index" in problems["problem"][0]


def inner(metadata: dict[str, Any]) -> dict[str, Any]:
    """The configuration of an array's first codec."""
    return metadata["codecs"][0]["configuration"]


ZARR: dict[str, Change] = {
    "no format": lambda d: d.pop("zarr_format"),
    "format 99": top(zarr_format=99),
    "another node": lambda d: d.update(node_type="group" if d["node_type"] == "array" else "array"),
    "no attributes": lambda d: d.pop("attributes"),
    "attributes are a list": top(attributes=[1]),
    "attributes say nothing": lambda d: d["attributes"].clear(),
    "the encoding is another": lambda d: d["attributes"].update({"encoding-type": "array"}),
    "the encoding is a number": lambda d: d["attributes"].update({"encoding-type": 1}),
    "the shape of the matrix is huge": lambda d: d["attributes"].update(shape=[2**62, 2**62]),
    "the shape of the matrix is text": lambda d: d["attributes"].update(shape="5"),
    "the tag is a number": lambda d: d["attributes"].update({"dao_polars.shard_tag": 7}),
    "the tag is another": lambda d: d["attributes"].update({"dao_polars.shard_tag": "0" * 16}),
    "extra": top(extra={"must_understand": True}),
    "deep": top(attributes=json.loads("[" * 120 + "]" * 120)),
    "shape is huge": top(shape=[2**62]),
    "shape is 2**64": top(shape=[2**64]),
    "shape is empty": top(shape=[]),
    "shape is of two": top(shape=[5, 5]),
    "shape is text": top(shape="5"),
    "type is another": top(data_type="float64"),
    "type is text": top(data_type="string"),
    "type is unknown": top(data_type="float7"),
    "fill is text": top(fill_value="x"),
    "fill is a list": top(fill_value=[1]),
    "chunks are huge": lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[2**62]),
    "chunks are none": lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[0]),
    "chunks are of two": lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[1, 1]),
    "grid is unknown": lambda d: d["chunk_grid"].update(name="?"),
    "keys are unknown": lambda d: d["chunk_key_encoding"].update(name="?"),
    "keys climb": lambda d: d["chunk_key_encoding"].update(
        name="default", configuration={"separator": "/../"}
    ),
    "no codecs": top(codecs=[]),
    "codecs are a dict": top(codecs={}),
    "a codec is unknown": lambda d: d["codecs"].append({"name": "?"}),
    "inner chunks are huge": lambda d: inner(d).update(chunk_shape=[2**62]),
    "inner chunks are none": lambda d: inner(d).update(chunk_shape=[0]),
    "inner chunks are many": lambda d: inner(d).update(chunk_shape=[1]),
    "inner codecs are none": lambda d: inner(d).update(codecs=[]),
    "inner codecs are pickles": lambda d: inner(d).update(codecs=[{"name": "numcodecs.pickle"}]),
    "the index is elsewhere": lambda d: inner(d).update(index_location="start"),
    "the index has no checksum": lambda d: inner(d)["index_codecs"].pop(),
    "the index is compressed": lambda d: inner(d)["index_codecs"].append(
        {"name": "gzip", "configuration": {"level": 1}}
    ),
}


@pytest.mark.parametrize("of", ["part", "gene index"])
def test_crafted_metadata_of_zarr_are_an_error_or_a_value(of: str, tmp_path: Path) -> None:
    path = tmp_path / "store"
    if of == "part":
        real(path)
        folder = part_path(path, "one")
    else:
        folder = indexed(path)
    files = [folder / file for file in list_files(folder)]
    # Layers are as X is, and indices and data as each other.
    left_out = ("/layers/", "/indices/", "/total_counts/")
    files = [f for f in files if f.name == "zarr.json" and not any(x in str(f) for x in left_out)]
    assert len(files) > 3
    failed: list[str] = []
    for file in files:
        text = file.read_text()
        for what, change in ZARR.items():
            metadata = json.loads(text)
            with suppress(LookupError, TypeError):  # of groups, which have no codecs
                change(metadata)
            file.write_text(json.dumps(metadata))
            relist(path, "one")
            raised = each(BY_CELL if of == "part" else BY_GENE, path)
            # Values may be others: of who writes a store and its checksums, nothing is known.
            raised = [error for error in raised if not isinstance(error, AssertionError)]
            try:
                only_dao_errors(raised)
            except AssertionError as error:
                failed.append(f"{file}: {what}: {error}")
        file.write_text(text)
        relist(path, "one")
    assert not failed
    assert dao.load_store(path).verify().is_empty()


OURS = ["\0row", "\0position", "\0code", "\0place", "\x000", "code", "index", "source_var_name"]


def test_columns_named_as_ours_are_neither_lost_nor_mixed_up(tmp_path: Path) -> None:
    adata = study(1, 8, ["g0", "g1", "g2"])
    for i, name in enumerate([*OURS, "var_name"]):
        adata.obs[name] = [(j // 2 + i) % 4 for j in range(8)]
    for i, name in enumerate([*OURS, "obs_name", "cell", "gene"]):
        adata.var[name] = [i, i + 1, i + 2]
    lf = dao.write_dataset(tmp_path / "s", adata, dataset="one", progress=False).scan()
    for genes in (None, ["g2", "g0"]):
        expected = adata[:, genes or adata.var_names].copy()
        found = lf.dao.to_anndata(genes=genes, progress=False)
        pd.testing.assert_frame_equal(found.obs.drop(columns="dataset"), expected.obs)
        pd.testing.assert_frame_equal(found.var, expected.var)
    total = adata.X.sum()
    for name in [*OURS, "var_name"]:
        bulk = lf.dao.pseudobulk(name, progress=False)
        assert bulk["sum"].sum() == total
        assert bulk[name].unique().sort().to_list() == [0, 1, 2, 3]
        bulk = lf.dao.pseudobulk([name, "cell_type"], as_anndata=True, progress=False)
        assert bulk.X.sum() == total
        assert list(bulk.var_names) == ["g0", "g1", "g2"]
        assert lf.dao.rank_genes_groups(name, progress=False).height == 12
        parts = lf.dao.split({"a": 0.5, "b": 0.5}, by=name)
        assert sum(part.collect().height for part in parts.values()) == 8
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a part has none of a value
            parts = lf.dao.split({"a": 0.5, "b": 0.5}, stratify=name)
        assert sum(part.collect().height for part in parts.values()) == 8
        batches = lf.dao.iter_batches(4, shuffle=True, seed=0, balance=name)
        assert sum(len(batch) for batch in batches) == 8


ARRAYS = (
    '"dtype": "f8"',
    '"dtype": "nonsense", "shape": [1], "items": [1]',
    '"dtype": "f8", "shape": [-1], "items": [1]',
    '"dtype": "f8", "shape": ["x"], "items": [1]',
    '"dtype": "f8", "shape": 3, "items": [1]',
    '"dtype": "f8", "shape": [4611686018427387904], "items": []',
    '"dtype": "f8", "shape": [2], "data": "AAAA"',
    '"dtype": "O", "shape": [1], "data": "AAAAAAAAAAA="',
    '"dtype": "S0", "shape": [4611686018427387904, 9], "data": ""',
    '"dtype": "V8", "shape": [1], "items": [1]',
    '"dtype": [], "shape": [0]',
    '"dtype": "f8,f8", "shape": [1], "items": [1]',
)
TAGGED = (
    '"?"',
    "[]",
    "{}",
    "null",
    *(f'"array", {parts}' for parts in ARRAYS),
    '"dict", "keys": [[1]], "values": [1]',
    '"float", "value": "nonsense"',
    '"missing"',
    '"missing", "value": "x"',
    '"range", "bounds": 1',
    '"sparse", "format": "csr", "compressed": "csr", "array": true, "shape": [1, 1], '
    + ", ".join(
        f'"{name}": {{"__dao__": "array", "dtype": "i8", "shape": [{len(v)}], "items": {v}}}'
        for name, v in (("data", [1]), ("indices", [7]), ("indptr", [0, 1]))
    ),
    '"sparse", "format": "csr", "compressed": "csr", "array": true, "shape": [1, 1], '
    '"data": [1], "indices": [0], "indptr": [0, 1]',
    '"categorical", "codes": [5], "categories": [1], "ordered": false',
    '"zoned", "dtype": "int8", "instants": [1]',
    '"frame", "index": 1, "columns": [1], "label": null',
    '"nullable", "values": [1], "mask": [0]',
    '"structured", "shape": [1099511627776], "fields": [["a", {"__dao__": "array", "dtype": "i8", '
    '"shape": [1], "items": [1]}]]',
)
UNS = ["null", "[]", "5", "{", *(f'{{"a": {{"__dao__": {tagged}}}}}' for tagged in TAGGED)]
UNS += ['{"a": ' * 900 + "1" + "}" * 900, '{"a":' + "[" * 90_000 + "]" * 90_000 + "}"]


@pytest.mark.parametrize("text", UNS, ids=[text[:70] for text in UNS])
def test_crafted_uns_is_corrupt(text: str, tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", studies())
    (part_path(path, "one") / "uns.json").write_text(text)
    relist(path, "one")
    with pytest.raises(DaoCorruptError, match="one"):
        dao.load_store(path).uns("one")
    assert dao.load_store(path).verify()["path"].to_list() == ["parts/one/uns.json"]
