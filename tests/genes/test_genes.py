"""What a request for genes means, against a reckoning in pandas over random feature spaces."""

from __future__ import annotations

import hashlib
import json
import pickle
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from polars.exceptions import ComputeError

import dao_polars as dao
from dao_polars.genes.request import wanted
from tests.legacy.test_legacy import names as cell_names
from tests.legacy.test_legacy import write_sfaira

MODES = ("first", "sum", "drop")
N_CELLS = 7


def stores():
    """Three or four datasets' genes: repeats, other orders, other numbers; None is a null."""
    names = st.one_of(st.sampled_from([f"g{i}" for i in range(7)]), st.none())
    return st.lists(st.lists(names, min_size=1, max_size=9), min_size=3, max_size=4)


def counts(seed: int, n_vars: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.integers(1, 200, (N_CELLS, n_vars)) * (rng.random((N_CELLS, n_vars)) < 0.6)).astype(
        np.float32
    )


def write(path: Path, spaces: list[list[str | None]]) -> tuple[dao.Store, list[np.ndarray]]:
    """A store whose var column ``key`` has these names; the index has others."""
    matrices = []
    for i, names in enumerate(spaces):
        x = counts(i, len(names))
        var = pd.DataFrame({"key": names}, index=[f"{i}-{j}" for j in range(len(names))])
        adata = ad.AnnData(sp.csr_matrix(x) if i % 2 else x, var=var)
        store = dao.write_dataset(path, adata, dataset=f"d{i}", gene_index=i == 1, progress=False)
        matrices.append(x)
    return store, matrices


def wanted_genes(spaces: list[list[str | None]], genes, mode: str) -> list[str]:
    """The output's genes."""
    if not isinstance(genes, str):
        return list(genes)
    seen = []
    for names in spaces:
        named = [name for name in names if name is not None]
        if mode == "drop":
            named = [name for name in named if named.count(name) == 1]
        seen.append(list(dict.fromkeys(named)))
    if genes == "union":
        return list(dict.fromkeys(name for named in seen for name in named))
    return [name for name in seen[0] if all(name in named for named in seen)]


def expected(spaces, matrices, genes: list[str], mode: str) -> tuple[np.ndarray, np.ndarray]:
    """All cells' values of the genes, and of which cells they were measured."""
    values, measured = [], []
    for names, x in zip(spaces, matrices, strict=True):
        out, has = np.zeros((len(x), len(genes))), np.zeros((len(x), len(genes)), bool)
        for j, gene in enumerate(genes):
            columns = [i for i, name in enumerate(names) if name == gene]
            if mode == "drop" and len(columns) > 1:
                columns = []
            if mode == "first":
                columns = columns[:1]
            out[:, j] = x[:, columns].sum(1)
            has[:, j] = len(columns) > 0
        values.append(out)
        measured.append(has)
    return np.concatenate(values), np.concatenate(measured)


@settings(max_examples=40)
@given(
    spaces=stores(),
    how=st.sampled_from(["union", "intersection", "list"]),
    mode=st.sampled_from(MODES),
    normalize=st.sampled_from([None, "log1p_cp10k"]),
    order=st.randoms(use_true_random=False),
)
def test_all_who_are_told_genes_mean_the_same(spaces, how, mode, normalize, order):
    with tempfile.TemporaryDirectory() as folder:
        store, matrices = write(Path(folder), spaces)
        genes = how
        if how == "list":
            genes = sorted({name for names in spaces for name in names if name is not None})
            order.shuffle(genes)
        names = wanted_genes(spaces, genes, mode)
        assume(names)
        raw, measured = expected(spaces, matrices, names, mode)
        rows = [*range(len(raw)), 0, 3, 3]
        order.shuffle(rows)
        options = {"gene_key": "key", "duplicates": mode}
        frame = store.scan().collect()[rows]

        resolved = store._core.genes([0, 1, 2], wanted(genes), **options)
        again = pickle.loads(pickle.dumps(resolved))
        assert (again.names, again.n_genes) == (resolved.names, resolved.n_genes)
        for number in range(3):
            np.testing.assert_equal(again.columns(number), resolved.columns(number))

        found = frame.dao.to_anndata(genes=genes, **options)
        assert found.var_names.tolist() == names
        assert np.array_equal(found.X.toarray(), raw[rows])
        assert found.X.has_canonical_format
        for j, gene in enumerate(names):  # the first gene of that name, of the first dataset
            firsts = [
                f"{i}-{space.index(gene)}"
                for i, space in enumerate(spaces)
                if gene in space and not (mode == "drop" and space.count(gene) > 1)
                if i in {row // N_CELLS for row in rows}
            ]
            if firsts:
                assert found.var["source_var_name"].iloc[j] == firsts[0]

        total = np.concatenate([x.sum(1) for x in matrices])[:, None]
        values = raw
        if normalize:
            with np.errstate(invalid="ignore", divide="ignore"):
                values = np.log1p(np.where(total > 0, raw * 1e4 / total, raw))
        for layout in ("csr", "dense"):
            batches = frame.dao.iter_batches(
                5, genes=genes, layout=layout, normalize=normalize, **options
            )
            x = [b.x if layout == "dense" else b.x.toarray() for b in batches]
            np.testing.assert_allclose(np.concatenate(x), values[rows], rtol=1e-5)

        looked_up = frame.select(
            dao.genes(names, as_array=True, normalize=normalize, **options),
            *(dao.gene(name, normalize=normalize, **options) for name in names[:2]),
        )
        array = np.array([[np.nan if v is None else v for v in row] for row in looked_up["genes"]])
        assert np.array_equal(~np.isnan(array), measured[rows])
        np.testing.assert_allclose(np.nan_to_num(array), values[rows], rtol=1e-5)
        for j, name in enumerate(names[:2]):
            np.testing.assert_array_equal(
                looked_up[name].to_numpy(), array[:, j].astype(np.float32)
            )

        stats = frame.dao.gene_stats(genes=genes, normalize=normalize, **options)
        assert stats["gene"].to_list() == names
        assert stats["n_cells"].to_list() == measured[rows].sum(0).tolist()
        for j in range(len(names)):
            cells = values[rows][measured[rows][:, j], j]
            if len(cells) > 1:
                np.testing.assert_allclose(stats["total"][j], cells.sum(), rtol=1e-6)
                np.testing.assert_allclose(
                    stats["variance"][j], cells.var(ddof=1), rtol=1e-6, atol=1e-9
                )
                assert stats["n_expressing"][j] == (cells > 0).sum()
        bulk = frame.dao.pseudobulk("dataset", "sum", genes=genes, normalize=normalize, **options)
        for (dataset,), part in bulk.group_by("dataset"):
            at = [i for i, row in enumerate(rows) if f"d{row // N_CELLS}" == dataset]
            sums = np.where(measured[rows][at].any(0), values[rows][at].sum(0), np.nan)
            np.testing.assert_allclose(
                part["sum"].cast(pl.Float64).fill_null(np.nan).to_numpy(), sums, rtol=1e-6
            )


@settings(max_examples=30)
@given(spaces=stores(), how=st.sampled_from(["union", "intersection", "list"]))
def test_repeats_are_an_error_that_says_what_to_do(spaces, how):
    with tempfile.TemporaryDirectory() as folder:
        store, matrices = write(Path(folder), spaces)
        genes = how
        if how == "list":
            genes = sorted({name for names in spaces for name in names if name is not None})
        names = wanted_genes(spaces, genes, "error")
        repeats = any(
            names.count(name) > 1 for names in spaces for name in names if name is not None
        )
        lf = store.scan()
        if repeats:
            with pytest.raises(dao.DaoValueError, match=r"ambiguous gene name.*duplicates="):
                lf.dao.to_anndata(genes=genes, gene_key="key")
        elif names:
            found = lf.dao.to_anndata(genes=genes, gene_key="key")
            assert np.array_equal(found.X.toarray(), expected(spaces, matrices, names, "error")[0])


def repeated(path: Path, x: np.ndarray, names: list[str]) -> dao.Store:
    adata = ad.AnnData(sp.csr_matrix(x), var=pd.DataFrame(index=names))
    return dao.write_dataset(path, adata, dataset="s", progress=False)


def test_sums_that_do_not_fit_are_errors(tmp_path):
    store = repeated(tmp_path / "a", np.array([[200, 50, 1], [200, 56, 2]]), ["a", "a", "b"])
    lf, options = store.scan(), {"duplicates": "sum"}
    fits = lf.head(1).select(dao.gene("a", dtype=None, **options))
    assert fits.collect().to_series().to_list() == [250]
    for query in (
        lambda: lf.select(dao.gene("a", dtype=None, **options)).collect(),
        lambda: list(lf.dao.iter_batches(genes=["a"], dtype="uint8", **options)),
    ):
        with pytest.raises((ComputeError, dao.DaoValueError), match="256, does not fit into uint8"):
            query()
    large = repeated(tmp_path / "b", np.array([[2**24, 1, 1], [2**24, 1, 0]]), ["a", "a", "a"])
    (one,) = large.scan().head(1).dao.iter_batches(genes=["a"], **options)
    assert one.x.toarray().tolist() == [[2**24 + 2]]
    with pytest.raises(dao.DaoValueError, match="16777217, does not fit into float32"):
        list(large.scan().dao.iter_batches(genes=["a"], **options))
    assert large.scan().dao.gene_stats(genes=["a"], **options)["total"][0] == 2**25 + 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_of_floats_are_the_same_by_genes_and_by_rows(tmp_path, dtype):
    x = np.random.default_rng(0).lognormal(0, 4, (3000, 6))
    adata = ad.AnnData(sp.csr_matrix(x), var=pd.DataFrame(index=list("aabaab")))
    options = {"duplicates": "sum", "dtype": dtype}
    for gene_index in (False, True):
        store = dao.write_dataset(
            tmp_path / str(gene_index), adata, dataset="s", gene_index=gene_index, progress=False
        )
        lf = store.scan()
        columns = lf.select(a=dao.gene("a", **options), b=dao.gene("b", **options)).collect()
        (batch,) = lf.dao.iter_batches(3000, genes=["a", "b"], **options)
        assert np.array_equal(columns.to_numpy(), batch.x.toarray())
        np.testing.assert_allclose(columns["b"], x[:, 2] + x[:, 5], rtol=1e-6)


def test_a_gene_that_repeats_everywhere_is_dropped_and_known(tmp_path):
    lf = repeated(tmp_path, np.array([[1, 2, 3]]), ["a", "a", "b"]).scan()
    (batch,) = lf.dao.iter_batches(genes=["a", "b"], duplicates="drop")
    assert batch.x.toarray().tolist() == [[0, 3]]
    assert lf.select(dao.gene("a", duplicates="drop")).collect()["a"].to_list() == [None]
    with pytest.raises(dao.DaoValueError, match=r"duplicates='all'.*expected"):
        lf.dao.iter_batches(genes=["a"], duplicates="all")
    with pytest.raises(dao.DaoValueError, match="duplicates='all'"):
        dao.gene("a", duplicates="all")
    assert lf.dao.to_anndata().shape == (1, 3)  # nothing is matched
    assert lf.select(dao.qc({"s": ["a"]})).unnest("qc").collect()["total_counts_s"].to_list() == [3]


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_repeats_while_writing(tmp_path, kind):
    x = np.array([[200, 100, 1, 7], [255, 255, 0, 0]], np.float32)
    matrix = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[kind](x)
    adata = ad.AnnData(matrix, var=pd.DataFrame({"n": range(4)}, index=["a", "a", "b", "c"]))
    for mode, a in (("first", [200, 255]), ("sum", [300, 510]), ("drop", [0, 0])):
        with pytest.warns(UserWarning, match="genes"):
            store = dao.write_dataset(
                tmp_path / mode,
                adata,
                dataset="s",
                genes=["b", "a", "z"],
                duplicates=mode,
                progress=False,
            )
        found = store.scan().dao.to_anndata()
        assert found.X.toarray().tolist() == [[1, a[0], 0], [0, a[1], 0]]
        rows = [2, None if mode == "drop" else 0, None]
        assert store.var()["n"].to_list() == rows
        assert store.verify().is_empty()


@pytest.mark.parametrize("index", ["text", "category", "integers", "range"])
def test_names_in_sfairas_tables(tmp_path, index):
    x = counts(0, 4)
    labels = {
        "text": pd.Index(["a", "b", "b", "c"], name="names"),
        "category": pd.CategoricalIndex(["a", "b", "b", "c"]),
        "integers": pd.Index([3, 5, 5, 9]),
        "range": pd.RangeIndex(2, 10, 2),
    }[index]
    var = pd.DataFrame(
        {
            "ids": pd.Categorical(["E1", "E2", "E3", "E3"]),
            "n": [7, -8, 9, 9],
            "mt": [True, False, True, False],
            "var_name": ["p", "q", "r", "s"],
        },
        index=labels,
    )
    obs = pd.DataFrame(index=cell_names(N_CELLS))
    store = dao.load_store(write_sfaira(tmp_path / "s", "one", x, obs, var))
    lf = store.scan()
    shown = [str(label) for label in labels]
    assert store.var("one")["var_name"].to_list() == shown

    def found(name: str, **options) -> np.ndarray:
        batches = list(lf.dao.iter_batches(genes=[name], layout="dense", **options))
        looked_up = lf.select(dao.gene(name, **options)).collect()[name].to_numpy()
        assert np.array_equal(batches[0].x.ravel(), looked_up)
        return looked_up

    assert np.array_equal(found(shown[0]), x[:, 0])
    if index != "range":
        assert np.array_equal(found(shown[1], duplicates="sum"), x[:, 1] + x[:, 2])
        with pytest.raises(dao.DaoValueError, match="ambiguous"):
            found(shown[1])
    else:
        assert np.array_equal(found("6"), x[:, 2])
    assert np.array_equal(found("E2", gene_key="ids"), x[:, 1])
    assert np.array_equal(found("-8", gene_key="n"), x[:, 1])
    assert np.array_equal(found("r", gene_key=store.var("one").columns[-1]), x[:, 2])
    mt = lf.select(dao.qc(["mt"])).unnest("qc").collect()["total_counts_mt"].to_numpy()
    assert np.array_equal(mt, x[:, [0, 2]].sum(1))
    with pytest.raises(dao.DaoKeyError, match=r"gene_key='nope'.*'ids'"):
        lf.dao.iter_batches(genes=["a"], gene_key="nope")


def test_columns_of_numbers_and_booleans_are_names(tmp_path):
    var = pd.DataFrame({"n": [10, 20, 30], "b": [True, False, False]}, index=["x", "y", "z"])
    x = counts(1, 3)
    store = dao.write_dataset(tmp_path, ad.AnnData(x, var=var), dataset="s", progress=False)
    lf = store.scan()
    (batch,) = lf.dao.iter_batches(genes=["30", "10"], gene_key="n", layout="dense")
    assert np.array_equal(batch.x, x[:, [2, 0]])
    (batch,) = lf.dao.iter_batches(genes=["true"], gene_key="b", layout="dense")
    assert np.array_equal(batch.x, x[:, [0]])


def test_feature_spaces_keep_their_ids(tmp_path):
    names = ["a", 'quote"d', "täb\t", "b\\", "", "\x7f"]
    store = dao.write_dataset(
        tmp_path, ad.AnnData(counts(0, 6), var=pd.DataFrame(index=names)), dataset="s"
    )
    text = json.dumps(names, ensure_ascii=False).encode()
    expected = hashlib.sha256(text).hexdigest()[:32]
    assert store._core.parts[0].feature_space == expected
    assert store._core.feature_space(0) == expected


def test_queries_from_many_threads_and_planned_long_ago(mixed):
    store, studies = mixed
    lf = store.scan()
    queries = [lf.select(dao.gene(f"g{i}", dtype="float64")) for i in range(5, 20)]

    def values(i: int) -> list[float | None]:
        return [
            None if f"g{i}" not in a.var_names else float(v)
            for a in studies.values()
            for v in (
                a[:, f"g{i}"].X.toarray().ravel() if f"g{i}" in a.var_names else range(a.n_obs)
            )
        ]

    def ask(i: int) -> list[float | None]:
        batches = queries[i - 5].collect_batches()
        return pl.concat(batches).to_series().to_list()

    with ThreadPoolExecutor(8) as pool:
        for i, found in zip(range(5, 20), pool.map(ask, range(5, 20)), strict=True):
            assert found == values(i)
    # more requests than are kept, and the first again
    for i in range(40):
        lf.select(dao.gene("g5", normalize={"target_sum": 1.0 + i})).collect_schema()
    assert queries[0].collect().to_series().to_list() == values(5)


def test_sums_of_float32_are_stored_as_float32(tmp_path):
    x = np.array([[0.5, 0.25, 1.5], [0.0, 3.5, 0.125]], np.float32)
    adata = ad.AnnData(x, var=pd.DataFrame(index=["a", "b", "a"]))
    store = dao.write_dataset(
        tmp_path, adata, dataset="s", genes=["a", "b"], duplicates="sum", progress=False
    )
    assert store._core.parts[0].dtype == "float32"
    read = store.scan().dao.to_anndata().X
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read.toarray(), [[2.0, 0.25], [0.125, 3.5]])
