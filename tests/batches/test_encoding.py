"""Batches as tokens: equal to numpy's of the same cells everywhere, and what is refused."""

from __future__ import annotations

import multiprocessing as mp
import pickle
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import dao_polars as dao
from tests.batches.tokens import binned, ranked

RNG = np.random.default_rng(4)


def vocabulary(genes: list[str], seed: int = 0) -> pl.DataFrame:
    """Genes in another order, with tokens and medians that have no order."""
    rng = np.random.default_rng(seed)
    genes = [genes[i] for i in rng.permutation(len(genes))]
    tokens = rng.permutation(3 * len(genes))[: len(genes)] + 10
    return pl.DataFrame({"gene": genes, "token": tokens, "median": rng.gamma(2.0, 1.0, len(genes))})


def genes_of(store: dao.Store, *datasets: str) -> list[str]:
    return list(dict.fromkeys(g for d in datasets for g in store.var(d)["var_name"].to_list()))


def expected(
    batch: dao.Batch, genes: list[str], words: pl.DataFrame, length: int, how: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tokens, mask and bins of a batch's cells as the reference has them."""
    x = batch.x if isinstance(batch.x, np.ndarray) else batch.x.toarray()
    x = pd.DataFrame(x, columns=genes).reindex(columns=words["gene"].to_list(), fill_value=0)
    x = x.to_numpy(np.float64)
    tokens = words["token"].to_numpy()
    cls, eos, pad = how.get("cls"), how.get("eos"), how.get("pad", 0)
    room = length - (cls is not None) - (eos is not None)
    ids, mask = np.full((len(x), length), pad), np.zeros((len(x), length), bool)
    bins = np.full((len(x), length), how.get("pad_bin", -2))
    for i, (row, key) in enumerate(zip(x, batch.cells.ext.storage().to_list(), strict=True)):
        if "n_bins" in how:
            drawn = (room, how["seed"], how["epoch"], key)
            found, values = binned(row, tokens, how["n_bins"], *drawn)
        else:
            found = ranked(row, tokens, words["median"].to_numpy())[:room]
            values = np.zeros(len(found), int)
        first, last = [[t] if t is not None else [] for t in (cls, eos)]
        row_of_tokens = np.concatenate([first, found, last]).astype(np.int64)
        ids[i, : len(row_of_tokens)] = row_of_tokens
        mask[i, : len(row_of_tokens)] = True
        bins[i, : len(row_of_tokens)] = np.concatenate([[0] * len(first), values, [0] * len(last)])
    return ids, mask, bins


def check(batch: dao.Batch, genes: list[str], words: pl.DataFrame, length: int, **how: Any) -> None:
    ids, mask, bins = expected(batch, genes, words, length, how)
    tokens = batch.tokens
    assert isinstance(tokens, dao.Tokens)
    assert (tokens.input_ids.dtype, tokens.attention_mask.dtype) == (np.int64, np.bool_)
    np.testing.assert_array_equal(tokens.input_ids, ids)
    np.testing.assert_array_equal(tokens.attention_mask, mask)
    if "n_bins" in how:
        assert tokens.bins is not None
        assert tokens.bins.dtype == np.int64
        np.testing.assert_array_equal(tokens.bins, bins)
    else:
        assert tokens.bins is None


@pytest.mark.parametrize("layout", ["csr", "dense"])
@pytest.mark.parametrize(
    ("length", "special"), [(40, {}), (300, {"cls": 2, "eos": 3, "pad": 1}), (5000, {"cls": 1})]
)
def test_ranks_of_real_cells_are_numpys(real_store, layout, length, special):
    lf = real_store.scan().filter(pl.col("dataset").is_in(["pancreas_human", "heart_human"]))
    words = vocabulary([*genes_of(real_store, "pancreas_human", "heart_human"), "nowhere"])
    encode = dao.RankEncoding(words, length, **special)
    batches = lf.dao.iter_batches(
        64, shuffle=True, seed=2, n_samples=400, layout=layout, encode=encode, duplicates="sum"
    )
    genes = batches.genes.to_list()
    assert genes == [gene for gene in words["gene"] if gene != "nowhere"]
    n = 0
    for batch in batches:
        check(batch, genes, words, length, **special)
        n += len(batch)
    assert n == 400


@pytest.mark.parametrize("normalize", [None, "log1p_cp10k"])
@pytest.mark.parametrize(
    ("length", "special"), [(30, {}), (200, {"cls": 2, "pad": 1, "pad_bin": -5}), (6000, {})]
)
def test_bins_of_real_cells_are_numpys(real_store, normalize, length, special):
    lf = real_store.scan().filter(pl.col("dataset") == "pancreas_human")
    words = vocabulary(genes_of(real_store, "pancreas_human"))
    encode = dao.BinEncoding(words, length, n_bins=17, seed=6, **special)
    options = {"shuffle": True, "seed": 2, "normalize": normalize, "encode": encode}
    batches = lf.head(300).dao.iter_batches(64, **options)
    genes = batches.genes.to_list()
    epochs = []
    for epoch in range(2):
        found = {}
        for batch in batches:
            check(batch, genes, words, length, n_bins=17, seed=6, epoch=epoch, **special)
            found |= zip(batch.cells.ext.storage(), batch.tokens.input_ids.tolist(), strict=True)
        epochs.append(found)
    assert (epochs[0] == epochs[1]) == (length == 6000)  # which all genes fit into


@given(
    values=st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=9),
    n_bins=st.integers(2, 9),
    length=st.integers(1, 8),
    seed=st.integers(0, 2**64 - 1),
)
def test_small_counts_with_many_ties(tmp_path_factory, values, n_bins, length, seed):
    genes = [f"g{i}" for i in range(6)]
    x = sp.csr_matrix(np.array(values, np.float32))
    adata = ad.AnnData(x, var=pd.DataFrame(index=genes))
    uri = tmp_path_factory.mktemp("ties") / "store"
    lf = dao.write_dataset(uri, adata, dataset="d", progress=False).scan()
    words = vocabulary(genes[:5], seed % 7).with_columns(median=pl.lit(1.0))
    for encode, how in [
        (dao.RankEncoding(words, length), {}),
        (
            dao.BinEncoding(words, length, n_bins=n_bins, seed=seed),
            {"n_bins": n_bins, "seed": seed, "epoch": 0},
        ),
    ]:
        batches = lf.dao.iter_batches(4, encode=encode)
        for batch in batches:
            check(batch, batches.genes.to_list(), words, length, **how)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Two datasets that share some genes, and have Ensembl ids beside their names."""
    uri = tmp_path_factory.mktemp("few") / "store"
    for name, genes in (("a", range(12)), ("b", range(4, 20))):
        x = sp.random(60, len(genes), 0.5, "csr", np.float32, RNG)
        x.data = np.ceil(9 * x.data)
        var = pd.DataFrame({"id": [f"ENSG{g}" for g in genes]}, index=[f"g{g}" for g in genes])
        adata = ad.AnnData(x, var=var)
        adata.obs["group"] = np.arange(60) % 3
        store = dao.write_dataset(uri, adata, dataset=name, progress=False)
    return store


WORDS = vocabulary([f"g{i}" for i in range(20)])


def epoch(batches) -> dict[int, list[list[int]]]:
    """What each cell of an epoch has: tokens and bins."""
    return {
        key: [ids, bins]
        for batch in batches
        for key, ids, bins in zip(
            batch.cells.ext.storage().to_list(),
            batch.tokens.input_ids.tolist(),
            batch.tokens.bins.tolist(),
            strict=True,
        )
    }


def test_order_batches_ranks_and_threads_change_no_cells_tokens(few):
    lf = few.scan()
    encode = dao.BinEncoding(WORDS, 4, n_bins=5)
    whole = epoch(lf.dao.iter_batches(7, encode=encode))
    assert len(whole) == 120
    assert any(0 not in ids for ids, _ in whole.values())
    for options in ({"shuffle": True}, {"shuffle": "block", "block_size": 5}, {"num_threads": 1}):
        assert epoch(lf.dao.iter_batches(31, seed=9, encode=encode, **options)) == whole
    ranks = [
        epoch(lf.dao.iter_batches(9, seed=1, rank=r, world_size=3, encode=encode, shuffle=True))
        for r in range(3)
    ]
    assert ranks[0] | ranks[1] | ranks[2] == whole
    drawn = lf.dao.iter_batches(9, seed=1, weights=pl.lit(1.0), n_samples=300, encode=encode)
    assert epoch(drawn).items() <= whole.items()
    alone = lf.filter(pl.col("dataset") == "b").dao.iter_batches(9, encode=encode)
    assert epoch(alone).items() <= whole.items()


def test_an_epoch_goes_on_and_pickles(few):
    encode = dao.BinEncoding(WORDS, 4, n_bins=5, seed=3)
    made = few.scan().dao.iter_batches(16, shuffle=True, seed=5, encode=encode)
    list(made)
    second = epoch(made)
    made.set_epoch(1)
    first = epoch([batch for _, batch in zip(range(3), made, strict=False)])
    state = made.state_dict()
    for again in (
        few.scan().dao.iter_batches(16, shuffle=True, encode=encode),
        pickle.loads(pickle.dumps(made)),
    ):
        again.load_state_dict(state)
        rest = epoch(again)
        assert first | rest == second
        assert not first.keys() & rest.keys()
    for other in (
        dao.BinEncoding(WORDS, 4, n_bins=6, seed=3),
        dao.BinEncoding(WORDS, 5, n_bins=5, seed=3),
        dao.BinEncoding(WORDS, 4, n_bins=5, seed=4),
        dao.BinEncoding(WORDS.reverse(), 4, n_bins=5, seed=3),
        dao.RankEncoding(WORDS, 4),
        None,
    ):
        batches = few.scan().dao.iter_batches(
            16, shuffle=True, encode=other, genes="union" if other is None else None
        )
        with pytest.raises(dao.DaoValueError, match="the state is of something else"):
            batches.load_state_dict(state)


def _in_child(batches, queue):
    queue.put(epoch(batches))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_has_the_same(few, method):
    batches = few.scan().dao.iter_batches(16, encode=dao.BinEncoding(WORDS, 4))
    context = mp.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(batches, queue))
    child.start()
    try:
        assert queue.get(timeout=60) == epoch(batches)
    finally:
        child.join()


def test_controls_have_tokens_of_the_same_genes(few):
    lf = few.scan()
    a, b = (lf.filter(pl.col("dataset") == name) for name in "ab")
    encode = dao.RankEncoding(WORDS, 30)
    batches = a.dao.iter_batches(16, pair_with=b, pair_by="group", seed=0, encode=encode)
    genes = batches.genes.to_list()
    assert sorted(genes) == sorted(WORDS["gene"])
    for batch in batches:
        check(batch, genes, WORDS, 30)
        check(batch.pair, genes, WORDS, 30)


def test_controls_of_another_store_have_the_vocabularys_genes_too(few, tmp_path):
    adata = ad.AnnData(sp.csr_matrix(np.ones((9, 3), np.float32)))
    adata.var_names = ["g3", "g4", "other"]
    adata.obs["group"] = np.arange(9) % 3
    other = dao.write_dataset(tmp_path / "other", adata, dataset="o", progress=False).scan()
    pairs = {"pair_with": other, "pair_by": "group", "seed": 0}
    with pytest.raises(dao.DaoValueError, match="one of the two stores only"):
        few.scan().dao.iter_batches(16, encode=dao.RankEncoding(WORDS, 4), **pairs)
    both = WORDS.filter(pl.col("gene").is_in(["g3", "g4"]))
    for batch in few.scan().dao.iter_batches(16, encode=dao.RankEncoding(both, 4), **pairs):
        check(batch, both["gene"].to_list(), both, 4)
        check(batch.pair, both["gene"].to_list(), both, 4)


def test_vocabularies_of_all_kinds_are_the_same(few):
    names = WORDS["gene"].to_list()
    ids = WORDS.with_columns(gene="ENSG" + pl.col("gene").str.slice(1))
    tokens = dict(zip(names, WORDS["token"].to_list(), strict=True))
    medians = dict(zip(names, WORDS["median"].to_list(), strict=True))
    kinds = [
        dao.RankEncoding(WORDS, 9),
        dao.RankEncoding(WORDS.lazy(), 9),
        dao.RankEncoding(WORDS.to_pandas(), 9),
        dao.RankEncoding(WORDS.with_columns(pl.col("gene").cast(pl.Categorical)), 9),
        dao.RankEncoding(tokens | {"<pad>": 0}, 9, medians=medians | {"more": 1.0}, pad="<pad>"),
        dao.RankEncoding(
            pl.concat(
                [
                    WORDS,
                    WORDS.head(1).with_columns(
                        gene=pl.lit("new"),
                        token=pl.lit(5, pl.Int64),
                        median=pl.lit(None, pl.Float64),
                    ),
                ]
            ),
            9,
        ),
    ]
    found = [
        [batch.tokens.input_ids.tolist() for batch in few.scan().dao.iter_batches(50, encode=kind)]
        for kind in kinds
    ]
    by_id = few.scan().dao.iter_batches(50, encode=dao.RankEncoding(ids, 9), gene_key="id")
    found.append([batch.tokens.input_ids.tolist() for batch in by_id])
    assert all(one == found[0] for one in found)
    assert found[0][0] != [[0] * 9] * 50


def test_named_special_tokens_are_no_genes(few):
    words = {"<pad>": 900, "<cls>": 901, "g5": 1, "g6": 0}
    encode = dao.BinEncoding(words, 4, n_bins=3, pad="<pad>", cls="<cls>", pad_bin=-1)
    assert encode.genes == ["g5", "g6"]
    tokens = next(iter(few.scan().dao.iter_batches(60, encode=encode))).tokens
    assert set(tokens.input_ids[:, 0]) == {901}
    assert set(tokens.input_ids[:, 3]) == {900}
    assert set(tokens.bins[:, 3]) == {-1}
    assert set(tokens.bins[:, 0]) == {0}


def test_what_batches_and_loaders_show(few):
    batches = few.scan().dao.iter_batches(10, encode=dao.BinEncoding(WORDS, 4))
    batch = next(iter(batches))
    assert "tokens: 10 × 4" in repr(batch)
    assert "with bins" in batch._repr_html_()
    assert "BinEncoding of 20 genes, length 4" in batches._repr_html_()


def changed(**columns: Any) -> pl.DataFrame:
    return WORDS.with_columns(**columns)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: dao.RankEncoding(3), dao.DaoTypeError, "vocabulary=3"),
        (lambda: dao.RankEncoding(WORDS.drop("token")), dao.DaoValueError, "no column 'token'"),
        (lambda: dao.RankEncoding(WORDS.drop("median")), dao.DaoValueError, "medians"),
        (lambda: dao.RankEncoding(changed(gene=1)), dao.DaoTypeError, "expected text"),
        (lambda: dao.RankEncoding(changed(token=1.5)), dao.DaoTypeError, "expected integers"),
        (lambda: dao.RankEncoding(changed(token=3)), dao.DaoValueError, "token 3 more than once"),
        (lambda: dao.RankEncoding(changed(token=-pl.col("token"))), dao.DaoValueError, "≥ 0"),
        (
            lambda: dao.RankEncoding(changed(gene=pl.lit("g3"))),
            dao.DaoValueError,
            "'g3' more than once",
        ),
        (
            lambda: dao.RankEncoding(changed(median=0.0)),
            dao.DaoValueError,
            f"gene '{WORDS['gene'][0]}' has the median 0.0",
        ),
        (lambda: dao.RankEncoding(changed(median=float("nan"))), dao.DaoValueError, "median nan"),
        (lambda: dao.RankEncoding(changed(median=pl.lit("x"))), dao.DaoTypeError, "medians"),
        (lambda: dao.RankEncoding(WORDS, medians={"g1": 1.0}), dao.DaoValueError, "give one"),
        (lambda: dao.RankEncoding({"g1": "x"}), dao.DaoTypeError, "integers"),
        (lambda: dao.RankEncoding({1: 1}), dao.DaoTypeError, "gene"),
        (lambda: dao.RankEncoding(WORDS, 0), dao.DaoValueError, "length=0"),
        (lambda: dao.RankEncoding(WORDS, 2, cls=1, eos=2), dao.DaoValueError, "at least 3"),
        (lambda: dao.RankEncoding(WORDS, 5, cls="<cls>"), dao.DaoKeyError, "<cls>"),
        (lambda: dao.RankEncoding(WORDS, 5, cls=1, eos=1), dao.DaoValueError, "the same token"),
        (
            lambda: dao.RankEncoding(WORDS, 5, pad=int(WORDS["token"][3])),
            dao.DaoValueError,
            f"gene '{WORDS['gene'][3]}'",
        ),
        (lambda: dao.BinEncoding(WORDS, 5, n_bins=1), dao.DaoValueError, "n_bins=1"),
        (lambda: dao.BinEncoding(WORDS, 5, n_bins=2**20), dao.DaoValueError, "n_bins="),
        (lambda: dao.BinEncoding(WORDS, 5, seed=-1), dao.DaoValueError, "seed"),
        (lambda: dao.BinEncoding(WORDS, True), dao.DaoTypeError, "length"),
    ],
)
def test_what_is_no_encoding_says_why(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_have_no_rank_are_an_error(tmp_path, value):
    adata = ad.AnnData(sp.csr_matrix(np.array([[1, 2], [value, 1]], np.float32)))
    adata.var_names = ["g0", "g1"]
    with pytest.warns(UserWarning, match="X has 1"):
        lf = dao.write_dataset(tmp_path / "s", adata, dataset="d", progress=False).scan()
    for encode in (dao.RankEncoding(WORDS, 4), dao.BinEncoding(WORDS, 4)):
        with pytest.raises(dao.DaoValueError, match="row 1"):
            list(lf.dao.iter_batches(2, encode=encode))


def test_what_does_not_go_with_an_encoding_says_why(few):
    lf = few.scan()
    with pytest.raises(dao.DaoTypeError, match="RankEncoding"):
        lf.dao.iter_batches(encode="ranks")
    with pytest.raises(dao.DaoValueError, match="genes="):
        lf.dao.iter_batches(encode=dao.RankEncoding(WORDS), genes=["g1"])
    with pytest.raises(dao.DaoTypeError, match="to_scvi takes no encode="):
        lf.dao.to_scvi(encode=dao.RankEncoding(WORDS))
    ids = WORDS.with_columns(gene="ENSG" + pl.col("gene").str.slice(1))
    with pytest.raises(dao.DaoKeyError, match="gene_key="):
        lf.dao.iter_batches(encode=dao.RankEncoding(ids))
