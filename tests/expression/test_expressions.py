"""Expression as columns: dao.gene, dao.genes and dao.qc in polars queries."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scanpy as sc
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from polars.exceptions import ComputeError
from polars.testing import assert_frame_equal

import dao_polars as dao
from tests.conftest import DATA, study
from tests.expression.log import Log
from tests.storefab import last_version, part_path, read_version, write_version

ENGINES = ("in-memory", "streaming")


def values(adata: ad.AnnData, gene: str) -> np.ndarray:
    return np.asarray(adata[:, gene].X.todense()).ravel()


@pytest.fixture
def log(caplog):
    """What was looked up: lines of the logger."""
    caplog.set_level(logging.DEBUG, logger="dao_polars")
    return Log(caplog)


@pytest.fixture(scope="module")
def expected(mixed) -> pl.DataFrame:
    """The frame of the mixed store with three genes as anndata has them, null where not."""
    store, studies = mixed
    frame = store.scan().collect()
    for gene in ("g7", "x", "g3"):
        columns = [
            pl.Series(values(a, gene)) if gene in a.var_names else pl.Series([None] * a.n_obs)
            for a in studies.values()
        ]
        column = pl.concat([c.cast(pl.Float32) for c in columns]).alias(gene)
        frame = frame.with_columns(column)
    return frame


GENES = [dao.gene(g) for g in ("g7", "x", "g3")]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_genes_values_are_anndatas(real_store, real, engine):
    frame = real_store.scan().select("dataset", dao.gene("INS"), dao.gene("CD3E"))
    assert frame.collect_schema()["INS"] == pl.Float32
    frame = frame.collect(engine=engine)
    for name, adata in real.items():
        here = frame.filter(dataset=name)
        for gene in ("INS", "CD3E"):
            if gene in adata.var_names:
                assert np.array_equal(here[gene].to_numpy(), values(adata, gene))
            else:
                assert here[gene].null_count() == adata.n_obs


def steps():
    """Queries on a frame with a column g7."""
    return st.lists(
        st.sampled_from(
            [
                "filter",
                "filter_obs",
                "sort",
                "head",
                "tail",
                "repeat",
                "join_left",
                "concat",
                "over",
                "group_first",
                "unique",
            ]
        ),
        max_size=4,
    )


def apply(step: str, lf: pl.LazyFrame, seed: int, other: pl.LazyFrame) -> pl.LazyFrame:
    g7 = pl.col("g7")
    match step:
        case "filter":
            return lf.filter(g7 > 20 * (seed % 7))
        case "filter_obs":
            return lf.filter(pl.col("cell_type") != "T")
        case "sort":
            return lf.sort("score", descending=bool(seed % 2), nulls_last=True, maintain_order=True)
        case "head":
            return lf.head(seed % 60)
        case "tail":
            return lf.tail(seed % 60)
        case "repeat":
            return lf.select(pl.all().gather([seed % 5, 0, 3, 3, 1]) if seed % 3 == 0 else pl.all())
        case "join_left":
            return other.join(lf, on="obs_name", how="left", maintain_order="left_right")
        case "concat":
            return pl.concat([lf, lf.head(3)])
        case "over":
            return lf.filter(g7 >= g7.mean().over("cell_type"))
        case "group_first":
            return lf.group_by("cell_type", "dataset", maintain_order=True).agg(pl.all().first())
        case "unique":
            return lf.unique("cell", keep="first", maintain_order=True)
    raise AssertionError(step)


@given(todo=steps(), seed=st.integers(0, 200), engine=st.sampled_from(ENGINES), late=st.booleans())
def test_queries_are_those_on_a_frame_with_the_column(mixed, expected, todo, seed, engine, late):
    """The gene first, or after all else: on filtered, shuffled, repeated, joined, null cells."""
    others = pl.DataFrame({"obs_name": ["s1-3", "no such", "s2-7", "s2-7", "s3-1"]}).lazy()
    lf = mixed[0].scan().with_columns(dao.gene("g7"))
    eager = expected.lazy().drop("x", "g3")
    try:
        for step in todo:
            lf, eager = apply(step, lf, seed, others), apply(step, eager, seed, others)
        wanted = eager.collect()
    except pl.exceptions.PolarsError:
        return  # no such query: gather past the end
    if late:
        lf = lf.drop("g7").with_columns(dao.gene("g7"))
        # a null key has no value, whatever the frame had
        wanted = wanted.with_columns(pl.when(pl.col("cell").is_not_null()).then(pl.col("g7")))
        wanted = wanted.select(*(c for c in wanted.columns if c != "g7"), "g7")
    assert_frame_equal(lf.collect(engine=engine), wanted)


@pytest.mark.parametrize("engine", ENGINES)
def test_genes_in_group_by_and_over(mixed, expected, engine):
    def query(lf: pl.LazyFrame, g7: pl.Expr) -> pl.LazyFrame:
        return (
            lf.group_by("dataset", "cell_type")
            .agg(g7.mean().alias("mean"), (g7 > 0).sum().alias("n"), g7.null_count().alias("null"))
            .sort("dataset", "cell_type")
        )

    found = query(mixed[0].scan(), dao.gene("g7")).collect(engine=engine)
    assert_frame_equal(found, query(expected.lazy(), pl.col("g7")).collect())
    found = mixed[0].scan().select(dao.gene("g7").max().over("cell_type")).collect(engine=engine)
    assert_frame_equal(found, expected.select(pl.col("g7").max().over("cell_type")))


def test_filters_on_genes_are_pushed_into_the_scan(mixed, expected):
    lf = mixed[0].scan().filter(dao.gene("g7") > 100, pl.col("dataset") != "b")
    plan = lf.explain()
    assert "FILTER" not in plan
    assert "SELECTION" in plan
    wanted = expected.filter(pl.col("g7") > 100, pl.col("dataset") != "b").drop("g7", "x", "g3")
    for engine in ENGINES:
        assert_frame_equal(lf.collect(engine=engine), wanted)


def test_only_cells_that_are_left_are_read(mixed, log):
    lf = mixed[0].scan()
    left = lf.filter(pl.col("cell_type") == "B", pl.col("dataset") == "a").collect().height
    log.clear()
    lf.with_columns(dao.gene("g7")).filter(
        pl.col("cell_type") == "B", pl.col("dataset") == "a"
    ).collect()
    assert sum(record.args[1] for record in log.records) == left
    log.clear()
    lf.with_columns(dao.gene("g7")).head(4).collect()
    assert sum(record.args[1] for record in log.records) <= 4


def test_many_genes_are_a_struct_or_an_array(mixed, expected):
    lf = mixed[0].scan()
    names = ["g7", "x", "g3"]
    struct = lf.select(dao.genes(names)).collect()
    assert struct.schema["genes"] == pl.Struct(dict.fromkeys(names, pl.Float32))
    assert_frame_equal(struct.unnest("genes"), expected.select(names))
    arrays = lf.select(dao.genes(names, as_array=True)).collect()["genes"]
    assert arrays.dtype == pl.Array(pl.Float32, 3)
    assert arrays.to_list() == [list(row) for row in expected.select(names).iter_rows()]
    both = ["g7", "g19"]
    only = lf.filter(pl.col("dataset") != "c").select(dao.genes(both, as_array=True)).collect()
    matrix = only["genes"].to_numpy(allow_copy=False)
    assert matrix.shape == (only.height, 2)
    x = [a[:, both].X.toarray() for n, a in mixed[1].items() if n != "c"]
    assert np.array_equal(matrix, np.concatenate(x))


def test_more_genes_than_are_searched_for_one_by_one(real_store, real):
    adata = real["pancreas_human"]
    names = list(np.random.default_rng(0).permutation(adata.var_names)[:300])
    lf = real_store.scan().filter(pl.col("dataset") == "pancreas_human")
    found = lf.select(dao.genes(names, as_array=True)).collect()["genes"].to_numpy()
    assert np.array_equal(found, adata[:, names].X.toarray())


def test_null_and_repeated_keys(mixed, expected):
    rows = [5, None, 5, 60, None, 95, 0]
    frame = expected.select("cell").with_row_index().select(pl.col("cell").gather(rows))
    wanted = expected.select(pl.col("g7", "x").gather(rows))
    assert_frame_equal(frame.select(dao.gene("g7"), dao.gene("x")), wanted)
    arrays = frame.select(dao.genes(["g7", "x"], as_array=True)).to_series()
    assert arrays.is_null().to_list() == [row is None for row in rows]
    assert arrays.drop_nulls().to_list() == [
        [*row] for row, key in zip(wanted.iter_rows(), rows, strict=True) if key is not None
    ]
    qc = frame.select(dao.qc({"few": ["g7", "x"]})).unnest("qc")
    for column in qc:
        assert column.is_null().to_list() == [row is None for row in rows]
    assert frame.select(dao.qc()).to_series().is_null().to_list() == [row is None for row in rows]
    structs = frame.select(dao.genes(["g7", "x"])).to_series()
    assert structs.is_null().to_list() == [row is None for row in rows]
    nothing = frame.filter(pl.col("cell").is_null())
    assert nothing.select(dao.gene("g7"))["g7"].to_list() == [None, None]
    assert frame.clear().select(dao.gene("g7")).schema == {"g7": pl.Float32}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_planned_type_stays_when_the_store_changes(tmp_path, engine):
    x = sp.csr_matrix(np.array([[1, 0], [3, 1]]))
    dao.write_dataset(tmp_path, ad.AnnData(x), dataset="counts", progress=False)

    def grow(frame: pl.DataFrame) -> pl.DataFrame:
        """Between planning and reading: a study of floats comes, and another query is planned."""
        dao.write_dataset(tmp_path, ad.AnnData(x * 0.5), dataset="floats", progress=False)
        other = dao.scan(tmp_path).select(dao.gene("0", dtype=None))
        assert other.collect_schema()["0"] == pl.Float64
        return frame

    genes = dao.genes(["0", "1"], dtype=None)
    lf = dao.scan(tmp_path).map_batches(grow).select(dao.gene("0", dtype=None), genes)
    frame = lf.collect(engine=engine)
    assert frame["0"].to_list() == [1, 3]
    assert frame.schema["0"] == pl.UInt8
    assert frame.schema["genes"] == pl.Struct({"0": pl.UInt8, "1": pl.UInt8})


def test_stored_and_other_number_types(mixed, tmp_path):
    lf = mixed[0].scan()
    assert lf.select(dao.gene("g7", dtype=None)).collect_schema()["g7"] == pl.UInt16
    exact = lf.select(
        dao.gene("g7"), i=dao.gene("g7", dtype=None), d=dao.gene("g7", dtype="float64")
    )
    frame = exact.collect()
    assert frame.schema == {"g7": pl.Float32, "i": pl.UInt16, "d": pl.Float64}
    assert frame["g7"].cast(pl.UInt16).equals(frame["i"].alias("g7"))
    big = ad.AnnData(sp.csr_matrix(np.array([[2**24 + 1, 0], [3, 1]])))
    dao.write_dataset(tmp_path, big, dataset="big", progress=False)
    lf = dao.scan(tmp_path)
    assert lf.select(dao.gene("0", dtype=None)).collect()["0"].to_list() == [2**24 + 1, 3]
    with pytest.raises(ComputeError, match=r"dataset 'big'.*16777217 does not fit into float32"):
        lf.select(dao.gene("0")).collect()
    with pytest.raises(dao.DaoValueError, match="integers"):
        dao.gene("0", dtype="int32", normalize="cp10k")


def test_normalized_values_are_scanpys_and_those_of_batches(real_store, real):
    adata = real["pbmc_human"].copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    lf = real_store.scan().filter(pl.col("dataset") == "pbmc_human")
    frame = lf.select("cell", dao.gene("CD3E", normalize="log1p_cp10k"))
    found = frame.collect()["CD3E"].to_numpy()
    np.testing.assert_allclose(found, values(adata, "CD3E"), rtol=1e-6)
    batch = next(iter(lf.dao.iter_batches(5000, genes=["CD3E"], normalize="log1p_cp10k")))
    assert np.array_equal(found, batch.x.toarray().ravel())


def test_layers_and_other_names_of_genes(real_store, real, tmp_path):
    heart = real["heart_human"]
    symbol, id = heart.var["feature_name"].iloc[77], heart.var_names[77]
    lf = real_store.scan().filter(pl.col("dataset") == "heart_human")
    frame = lf.select(dao.gene(str(symbol), gene_key="feature_name"), dao.gene(id)).collect()
    assert frame[str(symbol)].to_list() == frame[id].to_list() == values(heart, id).tolist()
    with pytest.raises(ComputeError, match="no column of var"):
        real_store.scan().select(dao.gene("INS", gene_key="nope")).collect_schema()
    adata = study(3, 20, ["a", "b"])
    adata.layers["half"] = adata.X * 0.5
    lf = dao.write_dataset(tmp_path, adata, dataset="s", layers=["half"], progress=False).scan()
    assert np.array_equal(
        lf.select(dao.gene("b", layer="half")).collect()["b"].to_numpy(), values(adata, "b") / 2
    )
    assert lf.select(dao.gene("b", layer="half", dtype=None)).collect_schema()["b"] == pl.Float32
    with pytest.raises(ComputeError, match="no dataset has a layer 'none'; there are: 'half'"):
        lf.select(dao.gene("b", layer="none")).collect_schema()
    other = dao.write_dataset(tmp_path, adata, dataset="t", progress=False).scan()
    with pytest.raises(ComputeError, match="message: dataset 't' has no layer 'half'; it has: "):
        other.select(dao.gene("b", layer="half")).collect()


def test_errors_come_before_anything_is_read(mixed, real_store):
    lf = mixed[0].scan()
    for wrong, message in [
        (dao.gene("g999"), r"unknown gene 'g999'"),
        (dao.genes(["g7", "G3x"]), r"unknown gene 'G3x' \(nearest: 'g3'"),
        (dao.qc({"s": ["nope"]}), r"unknown gene 'nope'"),
        (dao.qc({"s": "("}), r"gene set 's'"),
        (dao.qc({"mt": "^MT-"}), r"gene set 'mt': no gene of any dataset matches '\^MT-'"),
        (dao.qc(["mito"]), r"gene set 'mito'.*no such column of var"),
        (pl.col("dataset").dao.gene("g7"), r"column 'dataset' should hold cell keys"),
        (
            pl.col("cell").ext.storage().dao.gene("g7"),
            r"should hold cell keys \(dao.cell\), found UInt64",
        ),
        (pl.struct("cell").dao.gene("g7"), r"should hold cell keys"),
        (pl.col("cell").implode().dao.gene("g7"), r"should hold cell keys"),
        (dao.gene("g7", store=real_store), r"the cells are of store"),
        (dao.gene("g7", store="/no/such/place"), r"no store"),
    ]:
        with pytest.raises(ComputeError, match=message):
            lf.select(wrong).collect_schema()
    for call in (
        lambda: dao.gene(["g7"]),
        lambda: dao.genes("g7"),
        lambda: dao.genes([1]),
        lambda: dao.gene("g7", dtype="text"),
        lambda: dao.gene("g7", layer=1),
        lambda: dao.gene("g7", gene_key=1),
        lambda: dao.qc("^MT-"),
        lambda: dao.qc({1: "x"}),
    ):
        with pytest.raises(dao.DaoTypeError):
            call()
    for call in (
        lambda: dao.genes([]),
        lambda: dao.genes(["g7", "g7"]),
        lambda: dao.gene("g7", normalize="cpx"),
        lambda: dao.qc({f"s{i}": "x" for i in range(65)}),
    ):
        with pytest.raises(dao.DaoValueError):
            call()


def test_ambiguous_names_are_refused_where_they_are(tmp_path):
    one, two = study(1, 5, ["a", "b"]), study(2, 5, ["a", "a", "c"])
    dao.write_dataset(tmp_path, one, dataset="one", progress=False)
    lf = dao.write_dataset(tmp_path, two, dataset="two", progress=False).scan()
    assert lf.filter(pl.col("dataset") == "one").select(dao.gene("a")).collect().height == 5
    with pytest.raises(ComputeError, match="ambiguous gene name 'a': several genes of 'two'"):
        lf.select(dao.gene("a")).collect()


def test_a_store_that_moves_grows_or_is_damaged(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    adata = study(1, 30, ["a", "b"])
    frame = dao.write_dataset(old, adata, dataset="s", progress=False).scan().collect()
    assert frame.select(dao.gene("a"))["a"].to_list() == values(adata, "a").tolist()
    more = study(2, 9, ["b", "z"])
    lf = dao.write_dataset(old, more, dataset="more", progress=False).scan()
    assert lf.select(dao.gene("z")).collect()["z"].to_list()[30:] == values(more, "z").tolist()
    shutil.move(old, new)
    with pytest.raises(ComputeError, match="If the store moved"):
        frame.select(dao.gene("a"))
    moved = frame.select(dao.gene("a", store=new))
    assert moved["a"].to_list() == values(adata, "a").tolist()
    damaged = shutil.copytree(new, tmp_path / "damaged")
    for file in (part_path(damaged, "s") / "zarr" / "X" / "data" / "c").rglob("*"):
        file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(ComputeError, match=r"dataset 's', path '.*data"):
        frame.select(dao.gene("a", store=damaged))


def test_keys_that_the_store_does_not_have(mixed):
    frame = mixed[0].scan().head(2).collect()
    cell = frame.schema["cell"]
    wrong = pl.DataFrame({"cell": pl.Series([99 << 32], dtype=pl.UInt64)})
    past = pl.DataFrame({"cell": pl.Series([5000], dtype=pl.UInt64)})
    for bad, message in [(wrong, "part number 99"), (past, "names row 5000")]:
        with pytest.raises(ComputeError, match=message):
            bad.select(pl.col("cell").ext.to(cell)).select(dao.gene("g7"))


def test_queries_with_genes_pickle(mixed, expected):
    lf = mixed[0].scan().with_columns(dao.gene("g7")).filter(pl.col("g7") > 3)
    again = pickle.loads(pickle.dumps(lf)).collect()
    assert_frame_equal(again, expected.filter(pl.col("g7") > 3).drop("x", "g3"))


def test_concurrent_and_nested_queries(mixed, expected):
    lf = mixed[0].scan()
    frames = pl.collect_all([lf.select(dao.gene(g)) for g in ("g7", "x", "g3")] * 5)
    for frame in frames:
        assert_frame_equal(frame, expected.select(frame.columns))
    inner = lf.filter(dao.gene("g7") > 50).select("cell")
    outer = inner.with_columns(dao.gene("g3")).join(inner, on="cell").collect()
    wanted = expected.filter(pl.col("g7") > 50).select("cell", "g3")
    assert_frame_equal(outer.sort(pl.col("cell").ext.storage()), wanted)


def test_many_threads_plan_and_run_at_once(mixed):
    """New genes are resolved while others' queries run on all of polars' threads."""
    changed = str(last_version(Path(mixed[0].uri)))
    code = f"""
        import os
        from concurrent.futures import ThreadPoolExecutor
        import polars as pl
        import dao_polars as dao

        lf = dao.scan({mixed[0].uri!r})

        def ask(i):
            if i % 10 == 0:
                os.utime({changed!r})  # as if it had changed: opened again
            gene, other = dao.gene(f"g{{i % 30}}"), dao.genes([f"g{{i % 7}}", f"g{{7 + i % 11}}"])
            query = lf.filter(gene.fill_null(1) > 0).with_columns(other, gene.alias("again"))
            return query.collect(engine=["streaming", "in-memory"][i % 2]).height

        with ThreadPoolExecutor(8) as pool:
            print(sum(pool.map(ask, range(200))) > 0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "True", done.stderr


def test_queries_that_polars_plans_on_its_own_threads(mixed, expected):
    """collect_batches and collect_async plan there, where polars must not be asked for anything."""
    lf = mixed[0].scan()
    wanted = expected.select("g3", g7=pl.col("g7").cast(pl.Float64))
    asks = [dao.gene("g3"), dao.gene("g7", dtype="float64")]

    async def ask(query: pl.LazyFrame) -> pl.DataFrame:
        return await query.collect_async()

    for engine in ENGINES:
        os.utime(last_version(Path(mixed[0].uri)))  # as if it had changed: opened again
        batches = list(lf.select(asks).collect_batches(engine=engine))
        assert_frame_equal(pl.concat(batches), wanted)
    os.utime(last_version(Path(mixed[0].uri)))
    assert_frame_equal(asyncio.run(ask(lf.select(asks))), wanted)
    with pytest.raises(ComputeError, match=r"unknown gene 'G3x' \(nearest: 'g3'"):
        asyncio.run(ask(lf.select(dao.gene("G3x"))))
    sets = dao.qc({"s": pl.col("var_name").is_in(["g7", "g12"])}, store=mixed[0])
    assert_frame_equal(asyncio.run(ask(lf.select(sets))), lf.select(sets).collect())
    by_names = lf.select(dao.qc({"s": "^g(7|12)$"}))
    assert_frame_equal(lf.select(sets).collect(), by_names.collect())
    inside = lf.select(
        pl.col("cell").map_batches(
            lambda cells: cells.to_frame().select(dao.gene("g9", dtype="float64")).to_series(),
            return_dtype=pl.Float64,
        )
    )
    found = inside.collect().to_series().cast(pl.Float32).alias("g9")
    assert found.equals(lf.select(dao.gene("g9")).collect()["g9"])


def test_an_error_that_passes_is_not_kept(tmp_path):
    for seed, name in enumerate(["a", "b"]):
        store = dao.write_dataset(
            tmp_path, study(seed, 9, ["g", name]), dataset=name, progress=False
        )
    file = part_path(tmp_path, "b") / "var.parquet"
    file.rename(tmp_path / "away")
    lf = store.scan()
    with pytest.raises(ComputeError, match=r"dataset 'b'.*file is missing"):
        lf.select(dao.gene("g")).collect()
    assert lf.filter(pl.col("dataset") == "a").select(dao.gene("g")).collect().height == 9
    (tmp_path / "away").rename(file)
    assert lf.select(dao.gene("g")).collect().height == 18


def test_a_relative_path_is_that_of_when_it_was_given(mixed, tmp_path, monkeypatch):
    frame = mixed[0].scan().head(3).collect()
    monkeypatch.chdir(Path(mixed[0].uri).parent)
    expr = dao.gene("g7", store=Path(mixed[0].uri).name)
    monkeypatch.chdir(tmp_path)
    assert frame.select(expr).equals(frame.select(dao.gene("g7")))
    for wrong in (3, b"/x"):
        with pytest.raises(dao.DaoTypeError):
            dao.gene("g7", store=wrong)
    with pytest.raises(dao.DaoValueError):
        dao.gene("\ud800")
    assert frame.select(dao.gene("g7", dtype=pl.UInt16)).schema == {"g7": pl.UInt16}
    for name in ("", "a\0b", "g" * 10_000):
        with pytest.raises(ComputeError, match="unknown gene"):
            frame.select(dao.gene(name))


# --- quality control


@pytest.mark.parametrize("name", ["pbmc_human", "pancreas_human"])
@pytest.mark.parametrize("engine", ENGINES)
def test_quality_control_is_scanpys(real_store, real, name, engine, log):
    adata = real[name].copy()
    adata.var["mt"] = adata.var_names.str.startswith("MT-")
    adata.var["ribo"] = adata.var_names.str.contains("^RP[SL]")
    few = list(adata.var_names[10:500:7])
    adata.var["few"] = adata.var_names.isin(few)
    sets = ["mt", "ribo", "few"]
    wanted, _ = sc.pp.calculate_qc_metrics(adata, qc_vars=sets, percent_top=None, log1p=False)
    lf = real_store.scan().filter(pl.col("dataset") == name)
    rules = {"mt": "^MT-", "ribo": pl.col("var_name").str.contains("^RP[SL]"), "few": few}
    found = lf.select(dao.qc(rules, store=real_store)).unnest("qc").collect(engine=engine)
    assert list(found.columns)[:2] == ["total_counts", "n_genes_by_counts"]
    for column in found:
        if name == "pancreas_human" and column.name.endswith("_mt"):
            assert column.is_null().all()  # it has no such genes; scanpy says 0
            continue
        np.testing.assert_allclose(
            column.to_numpy(), wanted[column.name].to_numpy(), rtol=1e-6, err_msg=column.name
        )
    log.clear()
    plain = lf.select(dao.qc()).unnest("qc").collect(engine=engine)
    assert_frame_equal(plain, found.select(plain.columns))
    assert plain.schema == {"total_counts": pl.Float64, "n_genes_by_counts": pl.UInt32}
    assert all("1 by totals" in record.getMessage() for record in log.records)


def test_totals_are_those_of_the_cells_as_they_were_written(tmp_path):
    adata = study(5, 40, [f"g{i}" for i in range(12)])
    adata.layers["log"] = adata.X.log1p()
    zeros = adata.X.copy()
    zeros.data[::3] = 0  # kept as they are, and no genes by counts
    adata.layers["zeros"] = zeros
    store = dao.write_dataset(
        tmp_path,
        adata,
        dataset="s",
        shuffle=True,
        seed=1,
        layers=True,
        genes=["g3", "g5", "g1"],
        progress=False,
    )
    back = store.scan().dao.to_anndata()
    for layer in (None, "log", "zeros"):
        matrix = back.X if layer is None else back.layers[layer]
        frame = store.scan().select(dao.qc(layer=layer)).unnest("qc").collect()
        np.testing.assert_allclose(frame["total_counts"], matrix.sum(1).A1, rtol=1e-6)
        assert frame["n_genes_by_counts"].to_list() == (matrix.toarray() != 0).sum(1).tolist()
    assert store.verify().is_empty()


def test_quality_control_without_kept_totals():
    """sfaira's stores have none: the rows are read."""
    store = dao.load_store(DATA.parent / "tests" / "data" / "sfaira_store")
    lf = store.scan()
    frame = lf.select("cell", dao.qc()).unnest("qc").collect()
    for name in store.datasets["id"]:
        here = lf.filter(pl.col("dataset") == name)
        x = here.dao.to_anndata().X
        found = here.select("cell").collect().join(frame, on="cell", maintain_order="left")
        np.testing.assert_allclose(found["total_counts"], x.sum(1).A1, rtol=1e-6)
        assert found["n_genes_by_counts"].to_list() == (x.toarray() != 0).sum(1).tolist()


def test_a_set_says_nothing_of_datasets_without_its_genes(mixed, real_store):
    """A share of 0 would pass for cells of which it is not known."""
    frame = mixed[0].scan().select("dataset", dao.qc({"s": ["x", "y"], "t": "^g7$"})).unnest("qc")
    frame = frame.collect()
    for column in ("total_counts_s", "pct_counts_s"):
        assert (frame[column].is_null() == (frame["dataset"] != "c")).all()
    assert (
        frame.select("total_counts", "n_genes_by_counts", "pct_counts_t")
        .null_count()
        .sum_horizontal()
        .item()
        == 0
    )
    by_symbol = real_store.scan().select("dataset", dao.qc({"mt": "^MT-"}, gene_key="feature_name"))
    by_symbol = by_symbol.unnest("qc").collect()
    assert (by_symbol["pct_counts_mt"].is_null() == (by_symbol["dataset"] != "heart_human")).all()


def test_a_cell_of_zeros_has_no_shares(tmp_path):
    adata = ad.AnnData(sp.csr_matrix((3, 2), dtype=np.float32), var=pd.DataFrame(index=["a", "b"]))
    lf = dao.write_dataset(tmp_path, adata, dataset="s", progress=False).scan()
    frame = lf.select(dao.qc({"s": ["a"]})).unnest("qc").collect()
    assert frame["total_counts"].to_list() == [0, 0, 0]
    assert frame["pct_counts_s"].is_nan().all()


@pytest.mark.parametrize("engine", ENGINES)
def test_genes_of_sfairas_stores(engine):
    store = dao.load_store(DATA.parent / "tests" / "data" / "sfaira_store")
    name = store.datasets["id"][0]
    gene = store.var(name)["var_name"][11]
    lf = store.scan().filter(pl.col("dataset") == name)
    found = lf.select(dao.gene(gene)).collect(engine=engine)[gene].to_numpy()
    adata = lf.dao.to_anndata(genes=[gene])
    assert np.array_equal(found, adata.X.toarray().ravel())


def test_sql_keeps_the_cells(real_store, real):
    with pl.SQLContext(cells=real_store.scan(), eager=False) as sql:
        beta = sql.execute("SELECT cell, donor FROM cells WHERE cell_type = 'beta' ORDER BY donor")
    adata = beta.dao.to_anndata(genes=["INS", "GCG"])
    assert adata.n_obs == beta.select(pl.len()).collect().item()
    frame = beta.with_columns(dao.gene("INS")).collect()
    assert frame.height == adata.n_obs
    with pl.SQLContext(cells=real_store.scan().with_columns(dao.gene("INS"))) as sql:
        mean = sql.execute(
            "SELECT donor, AVG(INS) AS mean FROM cells WHERE dataset = 'pancreas_human' "
            "GROUP BY donor ORDER BY donor"
        ).collect()
    pancreas = real["pancreas_human"]
    for donor, found in mean.iter_rows():
        np.testing.assert_allclose(
            found, values(pancreas[pancreas.obs.donor == donor], "INS").mean(), rtol=1e-5
        )


def test_damaged_totals_are_noticed(tmp_path):
    store = dao.write_dataset(tmp_path, study(1, 30, ["a", "b"]), dataset="s", progress=False)
    counts = part_path(tmp_path, "s") / "zarr" / "totals" / "X" / "total_counts" / "c"
    for file in counts.rglob("*"):
        data = bytearray(file.read_bytes())
        data[len(data) // 3] ^= 1
        file.write_bytes(data)
    with pytest.raises(ComputeError, match=r"dataset 's', path '.*totals/X/total_counts"):
        store.scan().select(dao.qc()).collect()
    assert store.verify()["path"].to_list() == [str((counts / "0").relative_to(tmp_path))]
    assert store.scan().select(dao.gene("a")).collect().height == 30


def test_a_store_whose_files_were_replaced_is_read_again(tmp_path):
    """The same store id, names, sizes and cells, and the genes in another order."""
    genes, order = ["a", "b", "c", "d"], [2, 0, 3, 1]
    first = study(3, 9, genes)
    second = first[:, order].copy()
    for folder, adata in (("one", first), ("two", second)):
        dao.write_dataset(tmp_path / folder, adata, dataset="s", progress=False)
    ours = read_version(tmp_path / "one")["store"]
    write_version(tmp_path / "two", {**read_version(tmp_path / "two"), "store": ours})
    lf = dao.scan(tmp_path / "one")
    query = lf.select(dao.gene("c", dtype="float64"))
    expected = first[:, "c"].X.toarray().ravel()
    assert query.collect()["c"].to_list() == expected.tolist()
    shutil.rmtree(tmp_path / "one")
    (tmp_path / "two").rename(tmp_path / "one")
    assert query.collect()["c"].to_list() == expected.tolist()  # by name, wherever it is now
