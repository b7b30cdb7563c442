"""The pages of the format are enough: a reader written by them reads what dao_polars wrote."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp

import dao_polars as dao
from tests.conftest import DATA
from tests.format import pfor, reader, zarr_v3

GENES = [f"g{i}" for i in range(9)]


def study(seed: int, n_obs: int, *, x: str = "counts") -> ad.AnnData:
    """A study with a layer, an embedding, and columns of many kinds."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 400, (n_obs, len(GENES))) * (rng.random((n_obs, len(GENES))) < 0.5)
    values = counts.astype("float32")
    if x == "floats":
        values = np.log1p(values) * rng.random(n_obs)[:, None].astype("float32")
    kinds = pd.CategoricalDtype(["T", "B", "NK"], ordered=True)
    obs = pd.DataFrame(
        {
            "kind": pd.Series(rng.choice(["B", "T"], n_obs), dtype=kinds).array,
            "score": rng.random(n_obs),
            "rank": pd.array([None, *range(n_obs - 1)], dtype="Int16"),
            "day": pd.date_range("2020-01-01", periods=n_obs, tz="Europe/Berlin"),
            "good": rng.random(n_obs) < 0.5,
            "note": [None, *("x" * int(n) for n in rng.integers(0, 9, n_obs - 1))],
        },
        index=[f"s{seed}-{i}" for i in range(n_obs)],
    )
    obs.loc[obs.index[2], "score"] = np.nan
    adata = ad.AnnData(
        values if x == "dense" else sp.csr_matrix(values),
        obs,
        pd.DataFrame({"length": np.arange(len(GENES))}, index=GENES),
        obsm={"X_pca": rng.random((n_obs, 3)).astype("float32")},
    )
    umap = rng.random((n_obs, 2))
    adata.obsm["umap"] = pd.DataFrame(umap, index=adata.obs_names, columns=["one", "two"])
    adata.layers["spliced"] = sp.csr_matrix(counts.astype("int32"))
    adata.uns = {
        "organism": "Homo sapiens",
        "year": seed,
        "nothing": float("nan"),
        "pca": {"variance": rng.random(3), "names": np.array(["a", "b"], dtype="U1")},
        "pairs": [("a", 1), ("b", 2)],
    }
    return adata


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was built and edited: parts, versions with a base, embeddings, removed cells."""
    root = tmp_path_factory.mktemp("format") / "atlas"
    options = {"layers": ["spliced"], "progress": False}
    for i in range(6):
        store = dao.write_dataset(root, study(i, 40 + i), dataset=f"d{i}", **options)
    store = dao.write_dataset(root, study(6, 700), dataset="d1", mode="append", **options)
    store = dao.write_dataset(
        root, study(7, 50, x="floats"), dataset="portable", profile="portable", **options
    )
    store = dao.write_dataset(root, study(8, 30, x="dense"), dataset="dense", **options)
    store.add_gene_index(["d1", "portable"], progress=False)
    store = dao.load_store(root)
    some = pl.col("dataset").is_in(["d1", "d3"])
    store = store.remove_cells(store.scan().filter(some, pl.col("score") < 0.3))
    cells = store.scan().filter(some)
    store = store.update_obs(cells.filter("good").select("cell", cluster=pl.lit("c1")))
    store = store.update_obsm(
        "X_new", cells.select("cell", pl.concat_list("score", "score").list.to_array(2))
    )
    store = store.update_var(
        pl.DataFrame({"var_name": GENES, "symbol": [g.upper() for g in GENES]}), dataset="d1"
    )
    store = store.remove_dataset("d5").rename_dataset("d4", "four")
    return root


def test_the_reader_is_not_dao_polars():
    for module in (reader, zarr_v3, pfor):
        text = Path(module.__file__).read_text()
        assert "import dao_polars" not in text
        assert "from dao_polars" not in text


def plain(frame: pl.DataFrame) -> pl.DataFrame:
    """Columns as they are on disk: categories as text."""
    return frame.with_columns(pl.col(pl.Enum).cast(pl.String))


def test_every_version_has_the_same_cells(root):
    versions = dao.load_store(root).versions()["version"].to_list()
    bases = set()
    for number in versions:
        theirs, ours = reader.Store(root, number), dao.load_store(root, version=number)
        bases.add(theirs.version.get("base"))
        frame = ours.scan().collect()
        assert np.concatenate([part.keys for part in theirs.parts]).tolist() == (
            frame["cell"].ext.storage().to_list()
        )
        tables = []
        for part in theirs.parts:
            constants = [pl.lit(v).alias(k) for k, v in part.constants().items()]
            named = part.obs().with_columns(*constants, dataset=pl.lit(part.dataset))
            tables.append(named.cast({pl.Categorical: pl.String}))
        table = pl.concat(tables, how="diagonal_relaxed")
        expected = plain(frame.drop("cell"))
        assert table.select(expected.columns).equals(expected, null_equal=True)
    assert None in bases
    assert len(bases) > 1, "no version with a base was read"


def test_the_last_version_is_found(root, tmp_path):
    assert reader.Store(root).number == dao.load_store(root).version
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    for hint in ("3", "1\n"):
        (copy / "versions" / "latest").write_text(hint)
        assert reader.Store(copy).number == dao.load_store(copy).version
    (copy / "versions" / "latest").unlink()
    assert reader.Store(copy).number == dao.load_store(copy).version
    (copy / "versions" / "latest").write_text("99")
    with pytest.raises(pfor.DamageError, match="a version was lost"):
        reader.Store(copy)
    with pytest.raises(dao.DaoFileNotFoundError):
        dao.load_store(copy)


def dense(matrix) -> np.ndarray:
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)


def test_matrices_and_tables_are_the_same(root):
    theirs, ours = reader.Store(root), dao.load_store(root)
    lf = ours.scan()
    kinds = set()
    for name in ours.datasets["id"]:
        adata = lf.filter(pl.col("dataset") == name).dao.to_anndata(
            layers=True, obsm=True, dtype="float64", progress=False
        )
        parts = theirs.dataset(name)
        kinds |= {(name, len(parts) > 1), ("removed", any("removed" in p._entry for p in parts))}
        x = np.concatenate([dense(part.matrix("X")) for part in parts])
        np.testing.assert_array_equal(x, dense(adata.X))
        layer = np.concatenate([dense(part.matrix("layers/spliced")) for part in parts])
        np.testing.assert_array_equal(layer, dense(adata.layers["spliced"]))
        for embedding in adata.obsm:
            found = np.concatenate([part.matrix(f"obsm/{embedding}") for part in parts])
            np.testing.assert_array_equal(found, adata.obsm[embedding])
        for part in parts:
            for matrix in ("X", "layers/spliced"):
                values = dense(part.matrix(matrix)).astype("float64")
                sums, counts = part.totals(matrix)
                np.testing.assert_allclose(sums, values.sum(1), rtol=1e-6)
                np.testing.assert_array_equal(counts, (values != 0).sum(1))
            index = part.gene_index()
            assert (index is not None) == ours.has_gene_index(name)
            if index is not None:
                np.testing.assert_array_equal(dense(index), dense(part.matrix("X")))
        assert plain(parts[0].var()).equals(plain(ours.var(name)))
    assert {("d1", True), ("removed", True), ("portable", False), ("dense", False)} <= kinds
    assert "X_new" in lf.filter(pl.col("dataset") == "d1").dao.to_anndata(obsm=True).obsm


def test_what_columns_and_uns_were(root):
    part = reader.Store(root).dataset("d2")[0]
    source = study(2, 42)
    assert part.category_order("kind") == ["T", "B", "NK"]
    assert part.category_order("score") is None
    assert part.embedding_columns("umap") == ["one", "two"]
    assert part.embedding_columns("X_pca") is None
    uns = part.uns()
    assert np.isnan(uns.pop("nothing"))
    np.testing.assert_array_equal(uns["pca"].pop("variance"), source.uns["pca"]["variance"])
    np.testing.assert_array_equal(uns["pca"].pop("names"), source.uns["pca"]["names"])
    assert uns == {"organism": "Homo sapiens", "year": 2, "pca": {}, "pairs": [("a", 1), ("b", 2)]}
    obs = part.obs()
    assert obs["day"][0] == pd.Timestamp("2020-01-01", tz="Europe/Berlin").to_pydatetime()
    assert obs["day"].dtype.time_zone == "Europe/Berlin"
    assert obs["rank"].to_list() == [None, *range(41)]
    assert obs["day"][1] - obs["day"][0] == dt.timedelta(days=1)


def test_real_cells(tmp_path):
    store = dao.write_dataset(tmp_path / "atlas", DATA / "heart_human.h5ad", progress=False)
    [part] = reader.Store(tmp_path / "atlas").parts
    source = ad.read_h5ad(DATA / "heart_human.h5ad")
    assert (part.matrix("X") != source.X).nnz == 0
    assert part.obs()["obs_name"].to_list() == source.obs_names.to_list()
    assert part.var()["var_name"].to_list() == source.var_names.to_list()
    assert part.category_order("cell_type") == source.obs["cell_type"].cat.categories.to_list()
    assert store.n_obs == len(part.rows)


# --- damage


def everything(root: Path) -> None:
    """Reads all that the reader reads, of the last version."""
    for part in reader.Store(root).parts:
        part.check_files()
        part.obs(), part.var(), part.uns(), part.gene_index()
        for name in part._description["matrices"]:
            part.matrix(name)
            if part._description["matrices"][name]["totals"]:
                part.totals(name)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one small dataset that has a file of every kind."""
    root = tmp_path_factory.mktemp("small") / "atlas"
    store = dao.write_dataset(
        root, study(0, 30), dataset="d", layers=["spliced"], gene_index=True, progress=False
    )
    store.remove_cells(store.scan().head(3))
    everything(root)
    return root


def files_of(root: Path) -> list[str]:
    """The files that the last version names."""
    store = reader.Store(root)
    [part] = store.parts
    folder = part._entry["path"]
    own = [part._entry["description"], part._entry["obs_path"], part._entry["removed"]["path"]]
    names = [*own, *part._description["files"]]
    return ["dao.json", f"versions/{store.number:010}.json", *(f"{folder}/{n}" for n in names)]


def test_any_flipped_byte_is_noticed(small, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(small, copy)
    unnoticed = []
    rng = np.random.default_rng(0)
    paths = files_of(copy)
    assert len(paths) > 25
    for path in paths:
        whole = (copy / path).read_bytes()
        places = {0, len(whole) - 1, len(whole) // 2, *rng.integers(0, len(whole), 3).tolist()}
        for place in places:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            (copy / path).write_bytes(damaged)
            try:
                everything(copy)
            except pfor.DamageError:
                continue
            except Exception as error:
                unnoticed.append((path, place, repr(error)))
            else:
                unnoticed.append((path, place, "read"))
        (copy / path).write_bytes(whole)
    assert unnoticed == []
    everything(copy)


def shards(root: Path) -> list[tuple[str, bytes]]:
    """The arrays of the small store by their paths, with their only shards."""
    found = [path.parents[1] for path in root.glob("parts/*/**/c/0") if path.is_file()]
    assert len(found) >= 10
    return [(str(path), (path / "c/0").read_bytes()) for path in found]


def read_with(path: str, shard: bytes) -> np.ndarray:
    """An array whose shard is something else; no checksum of whole files is looked at."""
    return zarr_v3.array(
        lambda file: shard if file.endswith("/c/0") else Path(file).read_bytes(), path
    )


def test_shards_notice_every_byte_by_themselves(small):
    for path, shard in shards(small):
        read_with(path, shard)
        for place in range(0, len(shard), 1 + len(shard) // 400):
            damaged = bytearray(shard)
            damaged[place] ^= 0x40
            with pytest.raises(pfor.DamageError):
                read_with(path, bytes(damaged))


def test_shards_of_other_arrays_are_noticed(small):
    found = dict(shards(small))
    alike = 0
    for path in found:
        for other, shard in found.items():
            if other == path or len(shard) != len(found[path]):
                continue
            alike += 1
            with pytest.raises(pfor.DamageError):
                read_with(path, shard)
    assert alike > 0


def test_columns_of_obs_notice_every_byte(small, tmp_path):
    [part] = reader.Store(small).parts
    whole = (part._folder / part._entry["obs_path"]).read_bytes()
    path = tmp_path / "obs.parquet"
    path.write_bytes(whole)
    reader.check_table(path, part._entry["obs_file"])
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(pfor.DamageError):
            reader.check_table(path, part._entry["obs_file"])


def test_versions_of_other_stores_and_of_other_formats_are_refused(small, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(small, copy)
    number = reader.Store(copy).number
    path = copy / "versions" / f"{number:010}.json"
    for key, value in (("version", 3), ("format", "dao-part"), ("store", "another"), ("number", 1)):
        found = json.loads((small / "versions" / path.name).read_text())
        del found["checksum"]
        text = json.dumps(found | {key: value})[1:].encode()
        path.write_bytes(b'{"checksum":"%s",' % reader.checksum(text).encode() + text)
        with pytest.raises(pfor.DamageError):
            reader.Store(copy)
        if key != "store":  # dao_polars opens a store by its last version alone
            with pytest.raises(dao.DaoError):
                dao.load_store(copy)
