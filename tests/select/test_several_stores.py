"""What becomes of cells of several stores: as of the cells of each alone, put together."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import pytest

import dao_polars as dao
from dao_polars.scan.cell import keys_of
from tests.conftest import DATA
from tests.several import PANEL, mixed, of_each, plain, rows_of, write_pair

C = pl.col


# --- batches


def test_batches_pair_every_cell_with_its_row(
    pair: tuple[str, str], expected: dict[int, np.ndarray]
) -> None:
    frame = mixed(pair)
    known = of_each(*pair)
    for options in ({}, {"shuffle": True, "seed": 1}, {"shuffle": "block", "seed": 2}):
        batches = frame.dao.iter_batches(64, genes=PANEL, layout="dense", **options)
        seen = []
        for batch in batches:
            cells = batch.cells.to_frame()
            assert np.array_equal(batch.x, rows_of(cells, expected))
            names = plain(cells).join(known, on="cell", how="left", maintain_order="left")
            assert batch.obs["obs_name"].to_list() == names["obs_name"].to_list()
            assert batch.obs["store"].to_list() == names["store"].to_list()
            seen += keys_of(cells).numpy().tolist()
        assert sorted(seen) == sorted(keys_of(frame.collect()).numpy().tolist())
        assert len(seen) == 750


def test_genes_in_common_and_of_all(pair: tuple[str, str]) -> None:
    frame = dao.scan(pair).filter(C("dataset") == "pbmc_human")
    x, obs = next(iter(frame.dao.iter_batches(10_000)))  # two datasets of one feature space
    assert x.shape[0] == 500 + 344
    assert obs["store"].to_list() == [pair[0]] * 500 + [pair[1]] * 344
    alone = [dao.scan(uri).filter(C("dataset") == "pbmc_human").dao.to_anndata() for uri in pair]
    assert (x != ad.concat(alone).X).nnz == 0
    with pytest.raises(dao.DaoValueError, match="feature spaces"):
        dao.scan(pair).dao.iter_batches()
    names = (C("dataset") == "pancreas_human") | (C("dataset") == "pbmc_human")
    a, b = (dao.load_store(uri) for uri in pair)
    each = [a.var("pancreas_human"), a.var("pbmc_human"), b.var("pbmc_human")]
    sets = [set(var["var_name"]) for var in each]
    for genes, joined in (("intersection", set.intersection), ("union", set.union)):
        found = dao.scan(pair).filter(names).dao.iter_batches(genes=genes)
        assert set(found.genes) == joined(*sets)
    with pytest.raises(dao.DaoKeyError, match="unknown gene 'Nope'"):
        dao.scan(pair).dao.iter_batches(genes=["Nope"])


def test_a_loader_goes_on_elsewhere(pair: tuple[str, str], tmp_path: Path) -> None:
    options = {"genes": PANEL, "layout": "dense", "shuffle": True, "seed": 4}
    batches = dao.scan(pair).dao.iter_batches(128, **options)
    whole = [batch.x for batch in batches]
    batches.set_epoch(0)
    steps = iter(batches)
    assert np.array_equal(next(steps).x, whole[0])
    state = json.loads(json.dumps(batches.state_dict()))
    assert state["store_version"] == [2, 5]
    again = dao.scan(pair).dao.iter_batches(128, **options)
    again.load_state_dict(state)
    assert all(np.array_equal(b.x, x) for b, x in zip(again, whole[1:], strict=True))
    turned = dao.scan(pair[::-1]).dao.iter_batches(128, **options)
    with pytest.raises(dao.DaoValueError, match="something else"):
        turned.load_state_dict(state)
    batches.set_epoch(0)
    unpickled = pickle.loads(pickle.dumps(batches))
    assert all(np.array_equal(b.x, x) for b, x in zip(unpickled, whole, strict=True))


FORKED = """
import os, sys, signal
import dao_polars as dao
batches = dao.scan(sys.argv[1:]).dao.iter_batches(128, genes="union", shuffle=True, seed=4)
total = lambda: repr([(float(x.sum()), len(obs), obs["store"][0]) for x, obs in batches])
expected = total()
for _ in range(3):
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        signal.alarm(60)
        batches.set_epoch(0)
        os._exit(0 if total() == expected else 1)
    assert os.waitpid(pid, 0)[1] == 0
print("done")
"""


def test_a_forked_child_reads(pair: tuple[str, str]) -> None:
    command = [sys.executable, "-c", FORKED, *pair]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout == "done\n", done.stderr


# --- AnnData


def test_anndata_is_that_of_both(pair: tuple[str, str], expected: dict[int, np.ndarray]) -> None:
    frame = mixed(pair)
    found = frame.dao.to_anndata(genes=PANEL, progress=False)
    assert found.var_names.to_list() == PANEL
    assert np.array_equal(found.X.toarray(), rows_of(frame.collect(), expected))
    assert found.obs["store"].to_list() == frame.collect()["store"].to_list()
    assert found.uns == {}


def test_whole_stores_are_what_anndata_concatenates(pair: tuple[str, str]) -> None:
    alone = [dao.scan(uri).dao.to_anndata(genes="union", progress=False) for uri in pair]
    expected = ad.concat(alone, join="outer", fill_value=0)
    found = dao.scan(pair).dao.to_anndata(genes="union", progress=False)
    assert set(found.var_names) == set(expected.var_names)
    assert found.obs_names.to_list() == expected.obs_names.to_list()
    assert (found.X != expected[:, found.var_names].X).nnz == 0
    assert (found.obs["store"] == np.repeat(pair, [900, 844])).all()
    for name in set(expected.obs.columns):
        # concat makes objects or other categories of columns that differ; the values stay
        values = expected.obs[name].astype(object).where(expected.obs[name].notna(), None)
        here = found.obs[name].astype(object).where(found.obs[name].notna(), None)
        assert here.tolist() == values.tolist(), name


def test_one_dataset_keeps_its_uns_and_types(pair: tuple[str, str]) -> None:
    both = dao.scan(pair)
    for uri in pair:
        cells = (C("store") == uri) & (C("dataset") == "pbmc_human")
        found = both.filter(cells).dao.to_anndata(progress=False)
        alone = dao.scan(uri).filter(C("dataset") == "pbmc_human").dao.to_anndata(progress=False)
        assert found.uns == alone.uns
        assert found.uns["citation"]
        pd.testing.assert_frame_equal(found.var, alone.var)
        pd.testing.assert_frame_equal(
            found.obs[alone.obs.columns], alone.obs, check_categorical=False
        )
    assert both.filter(C("dataset") == "pbmc_human").dao.to_anndata(progress=False).uns == {}


def test_obs_columns_called_store_come_back_as_they_were(tmp_path: Path) -> None:
    uris = []
    for i in range(2):
        study = ad.read_h5ad(DATA / "heart_human.h5ad")[30 * i : 30 * i + 30, :50].copy()
        study.obs["store"] = pd.Categorical(["x", "y", "z"] * 10, ["z", "y", "x"], ordered=True)
        study.obs["n"] = pd.array([i, None] * 15, "Int16")
        uris.append(dao.write_dataset(tmp_path / str(i), study, progress=False).uri)
    found = dao.scan(uris).dao.to_anndata(progress=False)
    assert found.obs["store"].to_list() == [uris[0]] * 30 + [uris[1]] * 30
    assert found.obs["obs_store"].dtype == study.obs["store"].dtype
    assert found.obs["obs_store"].to_list() == ["x", "y", "z"] * 20
    assert found.obs["n"].dtype == "Int16"
    without = dao.scan(uris).drop("store").dao.to_anndata(progress=False)
    assert without.obs["store"].to_list() == ["x", "y", "z"] * 20  # its name, which is free again


def test_what_is_made_of_both_goes_back_into_each(tmp_path: Path) -> None:
    uris = write_pair(tmp_path)
    adata = mixed(uris).unique("cell").dao.to_anndata(genes=["B2M"], cell=True, progress=False)
    adata.obs["total"] = adata.X.toarray().sum(axis=1)
    for uri in uris:
        store = dao.load_store(uri)
        own = adata.obs[adata.obs["store"] == uri]
        changed = store.update_obs(pl.from_pandas(own[["cell", "total"]]))
        b2m = changed.scan().select(dao.gene("B2M").fill_null(0), "total").collect()
        written = b2m.filter(C("total").is_not_null())
        assert written.height == len(own) > 0
        assert written["B2M"].equals(written["total"].alias("B2M"))
    with pytest.raises(dao.DaoValueError, match="expected cells of store"):
        changed.update_obs(pl.from_pandas(adata.obs[["cell", "total"]]))


# --- expressions and aggregates


def test_genes_are_columns(pair: tuple[str, str], expected: dict[int, np.ndarray]) -> None:
    frame = mixed(pair)
    wanted = rows_of(frame.collect(), expected)
    for at, gene in enumerate(PANEL):
        found = frame.select(dao.gene(gene)).collect().to_series()
        assert np.array_equal(found.fill_null(0).to_numpy(), wanted[:, at])
    alone = pl.concat([dao.scan(uri).select(dao.gene("INS")).collect() for uri in pair[:1]])
    ins = dao.scan(pair).select(dao.gene("INS")).collect()
    assert ins.head(900).equals(alone)
    positive = dao.scan(pair).filter(dao.gene("CD3E") > 0).select("cell").collect()
    have = [key for key, row in expected.items() if row[PANEL.index("CD3E")] > 0]
    assert keys_of(positive).numpy().tolist() == have
    together = frame.select(dao.genes(PANEL, as_array=True)).collect().to_series()
    assert np.array_equal(np.nan_to_num(together.to_numpy()), wanted)
    sets = {"mt": "^MT-", "heart": ["ENSG00000198804"]}
    qc = dao.scan(pair).select(dao.qc(sets)).unnest("qc").collect()
    each = [
        dao.scan(uri).select(dao.qc(s)).unnest("qc").collect()
        for uri, s in zip(pair, ({"mt": "^MT-"}, sets), strict=True)
    ]
    assert qc["total_counts"].equals(pl.concat([e["total_counts"] for e in each]))
    assert qc["total_counts_mt"].equals(pl.concat([e["total_counts_mt"] for e in each]))
    assert qc["total_counts_heart"].tail(844).equals(each[1]["total_counts_heart"])
    assert qc["total_counts_heart"].head(900).null_count() == 900


def test_sets_by_expressions_over_var(pair: tuple[str, str]) -> None:
    rule = {"mine": C("var_name").str.starts_with("RPL")}
    found = dao.scan(pair).select(dao.qc(rule, store=list(pair))).unnest("qc").collect()
    each = [dao.scan(u).select(dao.qc(rule, store=u)).unnest("qc").collect() for u in pair]
    assert found.equals(pl.concat(each), null_equal=True)
    assert found["total_counts_mine"].sum() > 0


def test_pseudobulk_is_numpys(pair: tuple[str, str], expected: dict[int, np.ndarray]) -> None:
    frame = dao.scan(pair).collect()
    values = rows_of(frame, expected)
    found = frame.dao.pseudobulk(["store", "dataset"], "sum", genes=PANEL, progress=False)
    groups = [tuple(row) for row in frame.select("store", "dataset").rows()]
    assert found.height == 5 * len(PANEL)
    for row in found.iter_rows(named=True):
        of_group = values[[g == (row["store"], row["dataset"]) for g in groups]]
        total = of_group[:, PANEL.index(row["gene"])].sum()
        if row["n_cells"]:
            assert (row["n_cells"], row["sum"]) == (len(of_group), total)
        else:  # of a gene that the group's dataset lacks
            assert total == 0
    measured = found.filter(C("n_cells") > 0).group_by("store", "dataset").len()
    assert sorted(measured["len"]) == [1, 2, 3, 3, 4]


def test_statistics_and_markers_are_over_both(pair: tuple[str, str]) -> None:
    frame = dao.scan(pair).filter(C("dataset") == "pbmc_human")
    joined = ad.concat(
        [dao.scan(u).filter(C("dataset") == "pbmc_human").dao.to_anndata() for u in pair]
    )
    found = frame.dao.gene_stats(progress=False)
    means = joined.X.toarray().mean(axis=0)
    by_gene = dict(zip(found["gene"], found["mean"], strict=True))
    assert np.allclose([by_gene[g] for g in joined.var_names], means)


# --- selections


def test_splits_have_each_cell_once(pair: tuple[str, str]) -> None:
    both = dao.scan(pair)
    parts = both.dao.split({"train": 0.6, "val": 0.4}, seed=1)
    keys = [keys_of(part.select("cell").collect()).numpy() for part in parts.values()]
    assert sorted(np.concatenate(keys).tolist()) == plain(both)["cell"].sort().to_list()
    alone = dao.scan(pair[0]).dao.split({"train": 0.6, "val": 0.4}, seed=1)["train"]
    here = parts["train"].filter(C("store") == pair[0])
    assert plain(here)["cell"].to_list() == plain(alone)["cell"].to_list()
    by = both.dao.split({"train": 0.5, "val": 0.5}, by=["store", "dataset"], seed=3)
    groups = [set(p.select("store", "dataset").collect().rows()) for p in by.values()]
    assert not groups[0] & groups[1]
    assert len(groups[0] | groups[1]) == 5


def test_selections_are_saved_and_found_again(
    pair: tuple[str, str], expected: dict[int, np.ndarray], tmp_path: Path
) -> None:
    mixed(pair).select("cell", "store").sink_parquet(tmp_path / "saved.parquet")
    saved = pl.scan_parquet(tmp_path / "saved.parquet")
    wanted = rows_of(saved.collect(), expected)
    x = saved.dao.to_anndata(genes=PANEL, progress=False).X.toarray()
    assert np.array_equal(x, wanted)
    genes = saved.select(dao.gene("B2M")).collect().to_series().fill_null(0).to_numpy()
    assert np.array_equal(genes, wanted[:, PANEL.index("B2M")])
    joined = saved.join(dao.scan(pair), on="cell", how="left", maintain_order="left")
    assert joined.select((C("store") == C("store_right")).all()).collect().item()


def test_a_selection_becomes_a_dataset_elsewhere(pair: tuple[str, str], tmp_path: Path) -> None:
    frame = mixed(pair).filter(C("dataset").is_in(["pbmc_human", "pancreas_human"]))
    made = frame.dao.write_dataset(
        tmp_path / "made", dataset="both", genes="union", shuffle=True, seed=2, progress=False
    )
    found = made.scan().sort("source_row").dao.to_anndata(progress=False)
    expected = frame.dao.to_anndata(genes="union", progress=False)
    assert found.var_names.to_list() == expected.var_names.to_list()
    assert (found.X != expected.X).nnz == 0
    assert found.obs["store"].to_list() == expected.obs["store"].to_list()
    assert found.obs["obs_dataset"].to_list() == expected.obs["dataset"].to_list()
    with pytest.raises(dao.DaoValueError, match="say with dataset="):
        frame.dao.write_dataset(tmp_path / "unnamed", genes="union", progress=False)
    one = frame.filter(C("store") == pair[1])
    assert one.dao.write_dataset(tmp_path / "one", progress=False).datasets["id"].to_list() == [
        "pbmc_human"
    ]
    three = [*pair, made.uri]
    assert dao.load_store(three).n_obs == 1744 + made.n_obs
    assert "obs_store" in dao.scan(three).collect_schema()
