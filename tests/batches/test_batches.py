"""iter_batches against dense matrices that numpy and pandas put together."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dao_polars as dao

quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def dense(studies: dict[str, ad.AnnData], genes: list[str]) -> dict[str, np.ndarray]:
    """Each study's matrix over ``genes``, absent ones zero."""
    return {
        name: pd.DataFrame(a.X.toarray(), columns=a.var_names)
        .reindex(columns=genes, fill_value=0)
        .to_numpy()
        for name, a in studies.items()
    }


def collect(batches: dao.BatchIterable) -> tuple[np.ndarray, pl.DataFrame, list[int]]:
    """All of an epoch: dense x, obs, sizes."""
    xs, frames, sizes = [], [], []
    for batch in batches:
        x, obs = batch
        assert x.shape == (len(batch), batches.n_vars)
        assert obs.height == len(batch) == len(batch.cells)
        if sp.issparse(x):
            assert x.indices.dtype == np.int32
            x.check_format(full_check=True)
            assert all((np.diff(x[i].indices) > 0).all() for i in range(x.shape[0]))
            x = x.toarray()
        xs.append(x)
        frames.append(obs)
        sizes.append(len(batch))
    empty = np.zeros((0, batches.n_vars), np.float32)
    return np.concatenate([empty, *xs]), pl.concat(frames) if frames else pl.DataFrame(), sizes


def row_of(studies: dict[str, ad.AnnData], obs: pl.DataFrame) -> list[tuple[str, int]]:
    return [
        (dataset, studies[dataset].obs_names.get_loc(name))
        for dataset, name in obs.select("dataset", "obs_name").iter_rows()
    ]


@quick
@given(
    picks=st.lists(st.integers(0, 100), max_size=60),
    batch_size=st.integers(1, 40),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
    layout=st.sampled_from(["csr", "dense"]),
    genes=st.one_of(
        st.sampled_from(["union", "intersection"]),
        st.lists(st.sampled_from([f"g{i}" for i in range(30)]), unique=True, min_size=1),
    ),
    drop_last=st.booleans(),
    threads=st.integers(1, 3),
    budget=st.sampled_from([0, 1000, 1 << 27]),
)
def test_any_frame_gives_its_own_cells(
    mixed, picks, batch_size, shuffle, seed, layout, genes, drop_last, threads, budget
):
    store, studies = mixed
    frame = store.scan().collect()[picks]  # any order, with repeats
    batches = frame.dao.iter_batches(
        batch_size,
        shuffle=shuffle,
        seed=seed,
        layout=layout,
        genes=genes,
        drop_last=drop_last,
        num_threads=threads,
        prefetch_bytes=budget,
    )
    used = {d: studies[d] for d in (frame["dataset"].unique() if picks else studies)}
    names = batches.genes.to_list()
    if isinstance(genes, list):
        assert names == genes
    else:
        combine = set.union if genes == "union" else set.intersection
        assert sorted(names) == sorted(combine(*(set(a.var_names) for a in used.values())))
    x, obs, sizes = collect(batches)
    n = len(picks) // batch_size * batch_size if drop_last else len(picks)
    assert sum(sizes) == n
    assert len(sizes) == len(batches)
    assert all(size == batch_size for size in sizes[:-1])
    if not n:
        return
    expected = dense(studies, names)
    rows = row_of(studies, obs)
    np.testing.assert_array_equal(x, np.stack([expected[d][i] for d, i in rows]))
    if not shuffle:
        assert obs.equals(frame.head(n).drop("cell"))
    elif not drop_last:
        key = ["dataset", "obs_name"]
        assert obs.sort(key).equals(frame.drop("cell").sort(key))


def test_a_gene_of_the_store_that_no_selected_dataset_has_is_zero(mixed):
    store, _ = mixed
    lf = store.scan().filter(pl.col("dataset") == "a")
    (batch,) = lf.dao.iter_batches(genes=["x", "g3"], layout="dense")
    assert not batch.x[:, 0].any()
    assert batch.x[:, 1].any()


def test_real_cells_in_frame_order(real_store, real):
    lf = real_store.scan().filter(pl.col("dataset") == "pancreas_human")
    x, obs, sizes = collect(lf.dao.iter_batches(500, layout="dense"))
    np.testing.assert_array_equal(x, real["pancreas_human"].X.toarray())
    assert obs["obs_name"].to_list() == list(real["pancreas_human"].obs_names)
    assert sizes == [500] * 4 + [142]


def test_shuffled_epochs_are_permutations_that_the_seed_fixes(real_store):
    lf = real_store.scan().filter(pl.col("dataset") == "pbmc_human").select("cell", "obs_name")
    frame = lf.collect()
    names = frame["obs_name"].to_list()

    def epochs(seed: int | None, threads: int) -> list[list[str]]:
        batches = frame.dao.iter_batches(100, shuffle=True, seed=seed, num_threads=threads)
        return [[n for b in batches for n in b.obs["obs_name"]] for _ in range(2)]

    first, second = epochs(7, 1)
    assert first != names
    assert first != second
    assert sorted(first) == sorted(second) == sorted(names)
    assert epochs(7, 2) == [first, second]
    assert epochs(8, 1) != [first, second]
    assert epochs(None, 1) != epochs(None, 1)


def test_cells_are_keys_of_their_rows(mixed):
    store, _ = mixed
    frame = store.scan().collect().sample(fraction=1, shuffle=True, seed=3)
    genes = ["g7", "g3", "x"]
    for batch in frame.dao.iter_batches(10, shuffle=True, seed=0, genes=genes):
        again = batch.cells.to_frame().dao.iter_batches(10, genes=genes)
        (x,) = [b.x for b in again]
        assert (x != batch.x).nnz == 0


def test_obs_columns_are_chosen(mixed):
    store, _ = mixed
    lf = store.scan()
    (batch,) = lf.dao.iter_batches(1000, genes="union", obs=["score", "cell_type"])
    assert batch.obs.columns == ["score", "cell_type"]
    (batch,) = lf.dao.iter_batches(1000, genes="union", obs=False)
    assert batch.obs.columns == []
    assert len(batch) == store.n_obs


def test_columns_that_the_user_made_travel_along(mixed):
    store, _ = mixed
    lf = store.scan().filter(pl.col("dataset") == "b").with_columns(double=pl.col("score") * 2)
    for batch in lf.dao.iter_batches(7, shuffle=True, seed=1):
        assert (batch.obs["double"] == batch.obs["score"] * 2).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16", "int64", np.int32, "<f8"])
def test_dtypes(mixed, dtype):
    store, studies = mixed
    lf = store.scan().filter(pl.col("dataset") == "a")
    for layout in ("csr", "dense"):
        (batch,) = lf.dao.iter_batches(1000, dtype=dtype, layout=layout)
        assert batch.x.dtype == np.dtype(dtype)
        x = batch.x.toarray() if layout == "csr" else batch.x
        np.testing.assert_array_equal(x, studies["a"].X.toarray())


def test_a_number_that_does_not_fit_is_an_error(tmp_path):
    x = np.array([[16_777_217, 1], [0, 2]], np.int64)
    store = dao.write_dataset(tmp_path / "s", ad.AnnData(x), dataset="d", progress=False)
    with pytest.raises(dao.DaoValueError, match=r"dataset 'd'.*16777217 does not fit into float32"):
        list(store.scan().dao.iter_batches())
    (batch,) = store.scan().dao.iter_batches(dtype="float64", layout="dense")
    np.testing.assert_array_equal(batch.x, x)
    with pytest.raises(dao.DaoValueError, match="uint8"):
        list(store.scan().dao.iter_batches(dtype="uint8"))


def test_layers(tmp_path):
    adata = ad.AnnData(np.eye(4, dtype=np.float32))
    adata.layers["log"] = sp.csr_matrix(np.log1p(adata.X) / 3)
    store = dao.write_dataset(tmp_path / "s", adata, dataset="d", layers="log", progress=False)
    (batch,) = store.scan().dao.iter_batches(layer="log", layout="dense")
    np.testing.assert_array_equal(batch.x, adata.layers["log"].toarray())
    with pytest.raises(dao.DaoKeyError, match="has no layer 'raw'; it has: 'log'"):
        store.scan().dao.iter_batches(layer="raw")


def test_gene_key(tmp_path):
    adata = ad.AnnData(
        np.arange(6, dtype=np.float32).reshape(2, 3),
        var=pd.DataFrame({"ids": ["E1", "E2", "E3"]}, index=["A", "A", "B"]),
    )
    store = dao.write_dataset(tmp_path / "s", adata, dataset="d", progress=False)
    lf = store.scan()
    (batch,) = lf.dao.iter_batches(genes=["E3", "E1"], gene_key="ids", layout="dense")
    np.testing.assert_array_equal(batch.x, [[2, 0], [5, 3]])
    (batch,) = lf.dao.iter_batches(layout="dense")  # repeated names matter only when asked for
    np.testing.assert_array_equal(batch.x, adata.X)
    with pytest.raises(dao.DaoValueError, match=r"ambiguous.*'A'.*gene_key"):
        lf.dao.iter_batches(genes=["A"])
    with pytest.raises(dao.DaoKeyError, match=r"gene_key='nope'.*'ids'"):
        lf.dao.iter_batches(genes=["A"], gene_key="nope")


def test_gene_key_joins_datasets_with_other_names(tmp_path):
    for name, index in (("a", ["A", "B"]), ("b", ["B2", "A2"])):
        ids = {"A": "E1", "B": "E2", "A2": "E1", "B2": "E2"}
        adata = ad.AnnData(
            np.array([[1, 2]], np.float32),
            var=pd.DataFrame({"ids": [ids[i] for i in index]}, index=index),
        )
        store = dao.write_dataset(tmp_path / "s", adata, dataset=name, progress=False)
    for genes in ("union", "intersection", ["E1", "E2"]):
        (batch,) = store.scan().dao.iter_batches(genes=genes, gene_key="ids", layout="dense")
        np.testing.assert_array_equal(batch.x, [[1, 2], [2, 1]])
    with pytest.raises(dao.DaoValueError, match="2 different feature spaces"):
        store.scan().dao.iter_batches(gene_key="ids")


def test_no_gene_in_common_is_an_error(real_store):
    lf = real_store.scan().filter(pl.col("dataset").is_in(["heart_human", "pbmc_human"]))
    with pytest.raises(dao.DaoValueError, match=r"no gene in common.*'heart_human'.*gene_key"):
        lf.dao.iter_batches(genes="intersection")


def test_members_of_a_gene_family_are_near(real_store):
    lf = real_store.scan().filter(pl.col("dataset") == "pbmc_human")
    with pytest.raises(dao.DaoKeyError, match=r"nearest: 'CD3\w'"):
        lf.dao.iter_batches(genes=["CD3"])


def test_gene_errors(mixed):
    store, _ = mixed
    lf = store.scan()
    spaces = r"3 different feature spaces[\s\S]*'a' \(20 genes\)"
    with pytest.raises(dao.DaoValueError, match=spaces):
        lf.dao.iter_batches()
    with pytest.raises(dao.DaoKeyError, match=r"unknown gene 'G7' \(nearest: 'g7'") as caught:
        lf.dao.iter_batches(genes=["G7"])
    assert isinstance(caught.value, KeyError)
    with pytest.raises(dao.DaoValueError, match="more than once"):
        lf.dao.iter_batches(genes=["g7", "g7"])
    with pytest.raises(dao.DaoValueError, match=r"genes=\['g7'\]"):
        lf.dao.iter_batches(genes="g7")
    with pytest.raises(dao.DaoTypeError, match="gene names"):
        lf.dao.iter_batches(genes=[7])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"batch_size": 0}, dao.DaoValueError),
        ({"batch_size": -1}, dao.DaoValueError),
        ({"batch_size": float("nan")}, dao.DaoTypeError),
        ({"batch_size": 2.0}, dao.DaoTypeError),
        ({"batch_size": True}, dao.DaoTypeError),
        ({"seed": -1}, dao.DaoValueError),
        ({"seed": float("nan")}, dao.DaoTypeError),
        ({"seed": 2**64}, dao.DaoValueError),
        ({"shuffle": "yes"}, dao.DaoTypeError),
        ({"layout": "coo"}, dao.DaoValueError),
        ({"dtype": "complex64"}, dao.DaoTypeError),
        ({"dtype": "nonsense"}, dao.DaoTypeError),
        ({"num_threads": 0}, dao.DaoValueError),
        ({"prefetch_bytes": -1}, dao.DaoValueError),
        ({"obs": ["nope"]}, dao.DaoKeyError),
        ({"obs": [1]}, dao.DaoTypeError),
        ({"obs": 5}, dao.DaoTypeError),
        ({"genes": 5}, dao.DaoTypeError),
        ({"genes": ["g3", None]}, dao.DaoTypeError),
        ({"genes": pl.Series([None], dtype=pl.String)}, dao.DaoTypeError),
        ({"store": 3}, dao.DaoTypeError),
        ({"dtype": None}, dao.DaoTypeError),
        ({"drop_last": "x"}, dao.DaoTypeError),
        ({"batch_size": 10**30}, dao.DaoValueError),
        ({"num_threads": 2**70}, dao.DaoValueError),
        ({"prefetch_bytes": 2**70}, dao.DaoValueError),
        ({"layer": 3}, dao.DaoTypeError),
    ],
)
def test_bad_arguments(mixed, arguments, error):
    store, _ = mixed
    with pytest.raises(error, match=next(iter(arguments))):
        store.scan().dao.iter_batches(**{"shuffle": True, "genes": "union", **arguments})


def test_empty_selections(mixed):
    store, _ = mixed
    none = store.scan().filter(pl.col("score") > 2)
    for genes in (None, "union", "intersection", ["g3"]):
        batches = none.dao.iter_batches(genes=genes, shuffle=True)
        assert len(batches) == 0
        assert list(batches) == []
    with pytest.raises(dao.DaoKeyError, match="unknown gene"):
        none.dao.iter_batches(genes=["nope"])


TASKS = Path("/proc/self/task")


def readers() -> list[str]:
    return [t for t in _thread_names() if t.startswith("dao-read")]


def _thread_names() -> list[str]:
    names = []
    for task in TASKS.iterdir():
        try:
            names.append((task / "comm").read_text().strip())
        except OSError:  # it ended meanwhile
            continue
    return names


@pytest.mark.skipif(not TASKS.exists(), reason="needs /proc")
def test_a_consumer_that_stops_leaves_no_thread(real_store):
    lf = real_store.scan().filter(pl.col("dataset") == "pancreas_human")
    batches = lf.dao.iter_batches(8, shuffle=True, seed=0, num_threads=3)
    waiting = lf.dao.iter_batches(8, shuffle=True, num_threads=3, prefetch_bytes=0)
    for _ in waiting:
        assert readers()
        break
    gc.collect()
    assert readers() == []

    def fail() -> None:
        for _ in batches:
            raise RuntimeError("the consumer's own")

    with pytest.raises(RuntimeError, match="own"):
        fail()
    gc.collect()
    assert readers() == []
    assert sum(len(b) for b in batches) == 2142
    assert readers() == []


def test_two_epochs_at_once(mixed):
    store, _ = mixed
    batches = store.scan().dao.iter_batches(9, genes="union", shuffle=True, seed=5)
    pairs = list(zip(batches, batches, strict=True))
    assert sum(len(a) for a, _ in pairs) == store.n_obs
    assert [b.obs["obs_name"].to_list() for b, _ in pairs] != [
        b.obs["obs_name"].to_list() for _, b in pairs
    ]


def test_epochs_in_many_threads(mixed):
    store, _ = mixed
    batches = store.scan().dao.iter_batches(9, genes="union", obs=["score"])
    sums: list[float] = []

    def run() -> None:
        sums.append(sum(float(b.x.sum()) for b in batches))

    threads = [threading.Thread(target=run) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert len(sums) == 6
    assert len(set(sums)) == 1


def test_the_consumer_is_not_waited_for_beyond_the_budget(real_store):
    """With a budget of nothing, one window is in flight and the epoch still ends."""
    lf = real_store.scan().filter(pl.col("dataset") == "pbmc_human")
    batches = lf.dao.iter_batches(50, prefetch_bytes=0, num_threads=2)
    seen = 0
    for batch in batches:
        seen += len(batch)
        time.sleep(0.001)
    assert seen == 1336


def test_repr_tells_what_it_is(mixed):
    store, _ = mixed
    text = repr(store.scan().dao.iter_batches(10, genes=["g3"], shuffle=True, seed=4))
    assert text == "11 batches of 10 from 101 cells × 1 genes, csr, shuffled, seed 4"


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> tuple[pl.LazyFrame, dict[str, ad.AnnData]]:
    """Three studies whose X, layer and embedding differ in every cell."""
    rng = np.random.default_rng(5)
    root = tmp_path_factory.mktemp("three") / "store"
    studies = {}
    for i, name in enumerate(["a", "b", "c"]):
        n = 700 + 31 * i
        x = sp.random(n, 20 + i, 0.3, "csr", np.float32, rng)
        adata = ad.AnnData(x, var=pd.DataFrame(index=[f"g{j}" for j in range(20 + i)][::-1]))
        adata.obs_names = [f"{name}{j}" for j in range(n)]
        adata.layers["twice"] = x * 2
        adata.obsm["X_pca"] = rng.normal(size=(n, 3))
        studies[name] = adata
        dao.write_dataset(root, adata, dataset=name, layers=["twice"], obsm="X_pca", progress=False)
    return dao.scan(root), studies


@pytest.mark.parametrize("batch_size", [7, 300, 5000])
@pytest.mark.parametrize("layout", ["csr", "dense"])
@pytest.mark.parametrize(("budget", "threads"), [(0, 1), (0, 3), (20_000, 2), (1 << 27, 3)])
def test_all_matrices_are_of_the_same_cells(three, batch_size, layout, budget, threads):
    lf, studies = three
    genes = ["g19", "g3", "g0", "g7"]
    counts = dense(studies, genes)
    embeddings = {name: a.obsm["X_pca"] for name, a in studies.items()}
    places = {name: {c: i for i, c in enumerate(a.obs_names)} for name, a in studies.items()}
    batches = lf.dao.iter_batches(
        batch_size,
        shuffle=True,
        seed=3,
        genes=genes,
        layers=["twice"],
        obsm=["X_pca"],
        layout=layout,
        dtype="float64",
        prefetch_bytes=budget,
        num_threads=threads,
    )
    seen = 0
    for _ in range(2):  # buffers are used again
        for batch in batches:
            x, twice = (
                m.toarray() if sp.issparse(m) else m for m in (batch.x, batch.layers["twice"])
            )
            names = batch.obs.select("dataset", "obs_name").iter_rows()
            rows = [(dataset, places[dataset][name]) for dataset, name in names]
            expected = np.stack([counts[d][i] for d, i in rows])
            np.testing.assert_array_equal(x, expected)
            np.testing.assert_array_equal(twice, 2 * expected)
            embedding = np.stack([embeddings[d][i] for d, i in rows])
            np.testing.assert_array_equal(batch.obsm["X_pca"], embedding)
            batch.obsm["X_pca"][:] = -1  # what is handed out is the consumer's alone
            x[:] = -1
            seen += len(batch)
    assert seen == 2 * sum(a.n_obs for a in studies.values())


def test_only_x_is_normalized(three):
    lf, _ = three
    kwargs = {"genes": "intersection", "layout": "dense", "layers": ["twice"]}
    (plain,) = lf.dao.iter_batches(5000, **kwargs)
    (batch,) = lf.dao.iter_batches(5000, normalize="log1p", **kwargs)
    np.testing.assert_allclose(batch.x, np.log1p(plain.x), rtol=1e-6)
    np.testing.assert_array_equal(batch.layers["twice"], plain.layers["twice"])


def test_a_bug_is_an_internal_error():
    assert issubclass(dao.DaoInternalError, dao.DaoError)
    assert issubclass(dao.DaoInternalError, RuntimeError)


def test_a_transform_that_has_no_more_does_not_end_the_epoch(real_store):
    few = iter([1, 2])
    batches = (
        real_store.scan()
        .filter(pl.col("dataset") == "pbmc_human")
        .dao.iter_batches(100, transform=lambda batch: (batch, next(few)))
    )
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(batches)
