"""Tensors, DataLoaders and their workers, ranks, Lightning and real training."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import polars as pl
import pytest

import dao_polars as dao

torch = pytest.importorskip("torch")
from torch.utils.data import DataLoader  # noqa: E402


@pytest.fixture(scope="module")
def cells(real_store) -> pl.LazyFrame:
    lf = real_store.scan().filter(pl.col("dataset") == "pancreas_human")
    return lf.select("cell", "cell_type", "obs_name")


OPTIONS = {"batch_size": 100, "shuffle": True, "seed": 5}


def content(batch: dict) -> tuple:
    x = batch["X"]
    parts = [x.crow_indices(), x.col_indices(), x.values()] if x.layout == torch.sparse_csr else [x]
    return (*(part.numpy().tobytes() for part in parts), tuple(batch["cell_type"].tolist()))


def contents(batches) -> list[tuple]:
    return [content(batch) for batch in batches]


@pytest.mark.parametrize("layout", ["csr", "dense"])
def test_batches_are_tensors_on_the_readers_memory(cells, layout):
    dataset = cells.dao.to_torch(**OPTIONS, layout=layout)
    plain = cells.dao.iter_batches(**OPTIONS, layout=layout)
    assert len(dataset) == len(plain)
    labels = dataset.classes_["cell_type"]
    for found, batch in zip(dataset, plain, strict=True):
        x = found["X"]
        assert x.dtype == torch.float32
        assert x.shape == (len(batch), plain.n_vars)
        if layout == "csr":
            assert x.layout == torch.sparse_csr
            np.testing.assert_array_equal(x.values().numpy(), batch.x.data)
            np.testing.assert_array_equal(x.to_dense().numpy(), batch.x.toarray())
        else:
            np.testing.assert_array_equal(x.numpy(), batch.x)
        assert found["cell_type"].dtype == torch.int64
        assert [labels[code] for code in found["cell_type"]] == batch.obs["cell_type"].to_list()
        assert found["obs_name"] == batch.obs["obs_name"].to_list()
    from dao_polars.frameworks.encoding import ObsEncoder
    from dao_polars.frameworks.torch import _Tensors

    to_tensors = _Tensors(ObsEncoder(plain.rows), None, None, False)
    batch = next(iter(plain))
    tensors = to_tensors(batch)
    values = tensors["X"].values().numpy() if layout == "csr" else tensors["X"].numpy()
    assert np.shares_memory(values, batch.x.data if layout == "csr" else batch.x)


def test_columns_of_each_type(cells):
    frame = cells.collect().with_columns(
        whole=pl.int_range(pl.len(), dtype=pl.Int16),
        gaps=pl.when(pl.int_range(pl.len()) % 2 == 0).then(1),
        flag=pl.int_range(pl.len()) % 3 == 0,
        none=pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.col("cell_type")),
        day=pl.date(2020, 1, 1),
        loose=pl.col("cell_type").cast(pl.String).cast(pl.Categorical),
    )
    dataset = frame.dao.to_torch(10)
    batch = next(iter(dataset))
    labels = [dataset.classes_["loose"][code] for code in batch["loose"]]
    assert labels == frame["cell_type"].head(10).to_list()
    types = {k: v.dtype for k, v in batch.items() if isinstance(v, torch.Tensor)}
    assert types == {
        "X": torch.float32,
        "cell_type": torch.int64,
        "whole": torch.int16,
        "gaps": torch.float64,
        "flag": torch.bool,
        "none": torch.int64,
        "day": torch.int32,
        "loose": torch.int64,
    }
    assert batch["whole"].tolist() == list(range(10))
    assert batch["gaps"].isnan().tolist() == [False, True] * 5
    assert (batch["none"] == -1).tolist() == [False, True] * 5
    with pytest.raises(dao.DaoValueError, match="'X'"):
        frame.rename({"whole": "X"}).dao.to_torch(10)


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("persistent", [True, False])
def test_workers_give_the_same_batches_each_epoch(cells, context, persistent):
    dataset = cells.dao.to_torch(**OPTIONS)
    alone = [contents(dataset) for _ in range(3)]
    assert alone[0] != alone[1] != alone[2]
    for workers in (0, 1, 3):
        more = {} if workers == 0 else {"multiprocessing_context": context, "timeout": 120}
        if workers:
            more["persistent_workers"] = persistent
        loader = DataLoader(
            cells.dao.to_torch(**OPTIONS), batch_size=None, num_workers=workers, **more
        )
        assert len(loader) == len(alone[0])
        assert [contents(loader) for _ in range(3)] == alone, workers


@pytest.mark.parametrize("persistent", [True, False])
def test_epochs_are_set_for_workers_too(cells, persistent):
    dataset = cells.dao.to_torch(**OPTIONS)
    orders = [contents(dataset) for _ in range(3)]
    dataset = cells.dao.to_torch(**OPTIONS)
    loader = DataLoader(
        dataset, batch_size=None, num_workers=2, persistent_workers=persistent, timeout=120
    )
    for epoch in (2, 0, 0, 1):
        dataset.set_epoch(epoch)
        assert contents(loader) == orders[epoch]
    # and one that was left early
    dataset.set_epoch(0)
    next(iter(loader))
    if not persistent:
        assert contents(loader) == orders[1]


def test_a_loader_that_was_left_early_goes_on_with_the_next_epoch(cells):
    dataset = cells.dao.to_torch(**OPTIONS)
    orders = [contents(dataset) for _ in range(3)]
    for context in ("fork", "spawn"):
        loader = DataLoader(
            cells.dao.to_torch(**OPTIONS),
            batch_size=None,
            num_workers=2,
            persistent_workers=True,
            multiprocessing_context=context,
            timeout=120,
        )
        assert content(next(iter(loader))) == orders[0][0]
        assert contents(loader) == orders[1]
        assert contents(loader) == orders[2]


def test_loaders_at_once_and_loaders_seeded_alike(cells):
    dataset = cells.dao.to_torch(**OPTIONS)
    orders = [contents(dataset) for _ in range(4)]
    dataset = cells.dao.to_torch(**OPTIONS)
    two = [DataLoader(dataset, batch_size=None, num_workers=2) for _ in range(2)]
    found = [[], []]
    for batches in zip(*two, strict=True):
        for one, batch in zip(found, batches, strict=True):
            one.append(content(batch))
    assert found == orders[:2]
    for epoch in (2, 3):
        torch.manual_seed(0)
        assert contents(two[0]) == orders[epoch]


def test_workers_know_where_they_are_and_the_dataset_says_so(cells):
    dataset = cells.dao.to_torch(**OPTIONS)
    list(DataLoader(dataset, batch_size=None, num_workers=2))
    assert dataset.epoch == 1
    with pytest.raises(dao.DaoValueError, match="StatefulDataLoader"):
        dataset.state_dict()
    list(dataset)
    assert dataset.state_dict()["epoch"] == dataset.epoch


def of_rank(dataset, rank, out):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    loader = DataLoader(dataset, batch_size=None, num_workers=1)
    out.put((rank, [contents(loader) for _ in range(2)]))


def test_ranks_that_are_spawned_with_a_dataset_find_their_own_rank(cells):
    alone = cells.dao.to_torch(**OPTIONS)
    orders = [contents(alone) for _ in range(2)]
    spawn = torch.multiprocessing.get_context("spawn")
    out = spawn.Queue()
    dataset = cells.dao.to_torch(**OPTIONS)
    processes = [spawn.Process(target=of_rank, args=(dataset, rank, out)) for rank in range(2)]
    for process in processes:
        process.start()
    found = dict(out.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(60)
    for epoch, order in enumerate(orders):
        assert found[0][epoch] == order[0::2]
        # the last round is shared out evenly
        assert found[1][epoch][:-1] == order[1::2][: len(found[1][epoch]) - 1]


def test_a_resumed_dataset_goes_on_with_any_number_of_workers(cells):
    whole = cells.dao.to_torch(**OPTIONS)
    iterator = iter(whole)
    for _ in range(4):
        next(iterator)
    state = json.loads(json.dumps(whole.state_dict()))
    rest, later = contents(iterator), contents(whole)
    for workers in (0, 2, 3):
        dataset = cells.dao.to_torch(**OPTIONS)
        dataset.load_state_dict(state)
        loader = DataLoader(dataset, batch_size=None, num_workers=workers)
        assert contents(loader) == rest
        assert contents(loader) == later


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_stateful_data_loaders_resume(cells, workers, steps):
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    loader = stateful(cells.dao.to_torch(**OPTIONS), batch_size=None, num_workers=workers)
    iterator = iter(loader)
    for _ in range(steps):
        next(iterator)
    state = copy.deepcopy(loader.state_dict())
    rest = contents(iterator)
    later = contents(loader)
    resumed = stateful(cells.dao.to_torch(**OPTIONS), batch_size=None, num_workers=workers)
    resumed.load_state_dict(state)
    assert contents(resumed) == rest
    assert contents(resumed) == later
    # the loader's state, into a dataset for another number of workers
    for other in (0, 1, 3):
        dataset = cells.dao.to_torch(**OPTIONS)
        dataset.load_state_dict(state)
        changed = DataLoader(dataset, batch_size=None, num_workers=other)
        assert contents(changed) == rest
        assert contents(changed) == later


class Classifier(torch.nn.Module):
    def __init__(self, n_genes: int, n_classes: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(n_genes, 32), torch.nn.ReLU(), torch.nn.Linear(32, n_classes)
        )

    def forward(self, x):
        return self.layers(x)


PREPARED = {"layout": "dense", "normalize": "log1p_cp10k"}


@pytest.fixture(scope="module")
def labelled(real_store) -> pl.LazyFrame:
    """Pancreas and blood cells, and which is which of five kinds."""
    common = ["alpha", "beta", "ductal", "acinar"]
    lf = real_store.scan().filter(pl.col("dataset").is_in(["pancreas_human", "pbmc_human"]))
    kind = (
        pl.when(pl.col("dataset") == "pbmc_human")
        .then(pl.lit("blood"))
        .otherwise(pl.col("cell_type").cast(pl.String))
    )
    kinds = pl.Enum([*common, "blood"])
    return (
        lf.with_columns(kind=kind)
        .filter(pl.col("kind").is_in(kinds.categories))
        .select("cell", "dataset", pl.col("kind").cast(kinds))
    )


def step(model, optimizer, x, y) -> None:
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def fresh(n_genes: int):
    torch.manual_seed(0)
    model = Classifier(n_genes, 5)
    return model, torch.optim.Adam(model.parameters(), lr=1e-3)


def in_memory(cells: pl.LazyFrame, genes: list[str]) -> dict[int, np.ndarray]:
    """Each cell's prepared values as scanpy makes them of an AnnData, by its key."""
    import scanpy as sc

    rows = {}
    for dataset in ("pancreas_human", "pbmc_human"):
        some = cells.filter(pl.col("dataset") == dataset)
        adata = some.dao.to_anndata(dtype="float64", progress=False)
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        x = adata[:, genes].X.toarray().astype(np.float32)
        rows |= dict(zip(some.collect()["cell"].ext.storage(), x, strict=True))
    return rows


def test_training_from_the_store_is_training_from_memory(labelled):
    parts = labelled.dao.split({"train": 0.7, "test": 0.3}, seed=1)
    options = {"genes": "intersection", **PREPARED}
    train = parts["train"].select("cell", "kind").dao.to_torch(128, shuffle=True, seed=0, **options)
    model, optimizer = fresh(train.batches.n_vars)
    for _ in range(3):
        for batch in train:
            step(model, optimizer, batch["X"], batch["kind"])

    # the same cells from memory, in the same order
    cells = parts["train"].collect()
    rows = in_memory(parts["train"], train.batches.genes.to_list())
    x = torch.from_numpy(np.stack([rows[key] for key in cells["cell"].ext.storage()]))
    y = torch.tensor(cells["kind"].to_physical().to_list())
    other, optimizer = fresh(x.shape[1])
    for epoch in range(3):
        order = torch.from_numpy(
            train.batches.sampling.sampler.plan(epoch).order(0, len(y)).astype(np.int64)
        )
        for at in range(0, len(y), 128):
            chosen = order[at : at + 128]
            step(other, optimizer, x[chosen], y[chosen])
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)

    right = {"ours": 0, "theirs": 0, "cells": 0}
    with torch.no_grad():
        for batch in parts["test"].select("cell", "kind").dao.to_torch(500, **options):
            right["ours"] += int((model(batch["X"]).argmax(1) == batch["kind"]).sum())
            right["theirs"] += int((other(batch["X"]).argmax(1) == batch["kind"]).sum())
            right["cells"] += len(batch["kind"])
    assert abs(right["ours"] - right["theirs"]) <= 0.002 * right["cells"]
    assert right["ours"] / right["cells"] > 0.9


def test_a_resumed_run_ends_with_the_same_weights(labelled, tmp_path):
    options = {"shuffle": True, "seed": 0, "genes": "intersection", **PREPARED}

    def train(until: int | None, resume=None):
        dataset = labelled.dao.to_torch(256, **options)
        model, optimizer = fresh(dataset.batches.n_vars)
        if resume is not None:
            saved = torch.load(resume)
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            dataset.load_state_dict(saved["data"])
        steps = 0
        while dataset.epoch < 3:
            for batch in dataset:
                step(model, optimizer, batch["X"], batch["kind"])
                steps += 1
                if steps == until:
                    states = {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "data": dataset.state_dict(),
                    }
                    torch.save(states, tmp_path / "checkpoint.pt")
                    return model
        return model

    whole = train(None)
    train(7)
    resumed = train(None, tmp_path / "checkpoint.pt")
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_two_processes_train_one_model(real_store, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent("""
        import sys, torch, torch.distributed as dist, polars as pl, dao_polars as dao
        from torch.nn.parallel import DistributedDataParallel

        dist.init_process_group("gloo")
        lf = dao.scan(sys.argv[1]).filter(pl.col("dataset") == "pancreas_human")
        genes = dao.load_store(sys.argv[1]).var("pancreas_human")["var_name"].head(50).to_list()
        data = lf.select("cell", "cell_type").dao.to_torch(
            64, shuffle=True, seed=0, genes=genes, layout="dense", normalize="log1p_cp10k")
        torch.manual_seed(0)
        model = DistributedDataParallel(torch.nn.Linear(50, len(data.classes_["cell_type"])))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        seen, steps = [], 0
        for epoch in range(2):
            loader = torch.utils.data.DataLoader(
                data, batch_size=None, num_workers=int(sys.argv[3]))
            for batch in loader:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(batch["X"]), batch["cell_type"]).backward()
                optimizer.step()
                seen.append(len(batch["cell_type"])); steps += 1
        total = torch.tensor([sum(seen), steps])
        parts = [torch.zeros_like(total) for _ in range(2)]
        dist.all_gather(parts, total)
        if dist.get_rank() == 0:
            weights = model.module.weight.detach()
            torch.save({"weights": weights, "parts": parts, "len": len(data)}, sys.argv[2])
        dist.destroy_process_group()
        """)
    )
    found = []
    for workers in (0, 2):
        out = tmp_path / f"{workers}.pt"
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
        ]
        done = subprocess.run(
            [*command, str(script), real_store.uri, str(out), str(workers)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(torch.load(out))
    n = real_store.datasets.filter(pl.col("id") == "pancreas_human")["n_obs"].item()
    for result in found:
        parts = torch.stack(result["parts"])
        assert parts[:, 0].sum() == 2 * n
        assert parts[0, 1] == parts[1, 1] == 2 * result["len"]
    assert torch.equal(found[0]["weights"], found[1]["weights"])


def test_lightning_trains_with_the_docs_data_module(real_store, tmp_path):
    lightning = pytest.importorskip("lightning")
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    block = text.split("```python lightning\n", 1)[1].split("```", 1)[0]
    scope: dict = {}
    exec(compile(block, "docs/training.md", "exec"), scope)
    data = scope["Cells"](real_store.uri, dataset="pancreas_human", label="cell_type")

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.LazyLinear(60)

        def training_step(self, batch, _):
            return torch.nn.functional.cross_entropy(self.net(batch["X"]), batch["cell_type"])

        def validation_step(self, batch, _):
            accuracy = (self.net(batch["X"]).argmax(1) == batch["cell_type"]).float().mean()
            self.log("accuracy", accuracy, batch_size=len(batch["cell_type"]))

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    model = Model()
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, data)
    assert trainer.callback_metrics["accuracy"] > 0.8


def test_pinned_memory_needs_a_device(cells):
    if torch.cuda.is_available():
        batch = next(iter(cells.dao.to_torch(10, pin_memory=True)))
        assert batch["cell_type"].is_pinned()
    else:
        with pytest.raises(dao.DaoValueError, match="CUDA"):
            cells.dao.to_torch(10, pin_memory=True)
    with pytest.raises(dao.DaoTypeError, match="transform"):
        cells.dao.to_torch(10, transform=3)
    assert next(iter(cells.dao.to_torch(1000, transform=lambda d: len(d["obs_name"])))) == 1000


def test_controls_are_tensors_too(real_store):
    cells = real_store.scan().filter(pl.col("dataset") == "pancreas_human")
    cells = cells.select("cell", "cell_type", "donor")
    controls, treated = (
        cells.filter(pl.col("donor") == "human1"),
        cells.filter(pl.col("donor") != "human1"),
    )
    options = {"pair_with": controls, "pair_by": "cell_type", "unpaired": "drop", "seed": 4}
    dataset = treated.dao.to_torch(200, shuffle=True, **options)
    for tensors, batch in zip(
        dataset, treated.dao.iter_batches(200, shuffle=True, **options), strict=True
    ):
        assert np.array_equal(tensors["X"].to_dense().numpy(), batch.x.toarray())
        assert np.array_equal(tensors["pair/X"].to_dense().numpy(), batch.pair.x.toarray())
        labels = dataset.classes_["pair/donor"][tensors["pair/donor"].numpy()]
        assert labels.tolist() == batch.pair.obs["donor"].to_list()
        assert tensors["pair/cell_type"].tolist() == tensors["cell_type"].tolist()


@pytest.mark.parametrize("encode", ["ranks", "bins"])
def test_tokens_are_tensors(real_store, encode):
    genes = real_store.var("pancreas_human")["var_name"].to_list()
    words = {gene: 1 + i for i, gene in enumerate(genes)}
    encoding = (
        dao.RankEncoding(words, 128, medians=dict.fromkeys(genes, 1.0))
        if encode == "ranks"
        else dao.BinEncoding(words, 128, n_bins=9)
    )
    cells = real_store.scan().filter(pl.col("dataset") == "pancreas_human")
    options = {"shuffle": True, "seed": 2, "encode": encoding, "obs": ["cell_type"]}
    for tensors, batch in zip(
        cells.dao.to_torch(100, **options), cells.dao.iter_batches(100, **options), strict=True
    ):
        found = batch.tokens.entries()
        assert list(found) == ["input_ids", "attention_mask", *(["bins"] * (encode == "bins"))]
        for name, array in found.items():
            assert tensors[name].numpy().dtype == array.dtype
            assert np.array_equal(tensors[name].numpy(), array)
    clash = cells.with_columns(input_ids=pl.lit(1))
    with pytest.raises(dao.DaoValueError, match="input_ids"):
        clash.dao.to_torch(100, encode=encoding)


#: CUDA too, where there is a device.
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["csr", "dense"])
def test_batches_on_a_device_are_the_same_in_the_same_order(cells, device, layout):
    options = {"shuffle": True, "seed": 3, "layout": layout}
    there = cells.dao.to_torch(150, device=device, **options)
    here = cells.dao.to_torch(150, **options)
    for epoch in range(2):
        n = 0
        for a, b in zip(there, here, strict=True):
            assert a.keys() == b.keys()
            for name, value in b.items():
                if isinstance(value, list):
                    assert a[name] == value
                    continue
                assert a[name].device.type == device
                assert (a[name].layout, a[name].dtype) == (value.layout, value.dtype)
                assert torch.equal(a[name].cpu().to_dense(), value.to_dense())
            if layout == "csr":
                assert a["X"].col_indices().dtype == torch.int32
            n += 1
        assert n == len(here), epoch


@pytest.mark.parametrize("device", DEVICES)
def test_an_epoch_goes_on_after_the_batch_given_not_the_one_on_its_way(cells, device):
    def dataset():
        return cells.dao.to_torch(
            100, shuffle=True, seed=3, device=device, transform=lambda d: d["obs_name"]
        )

    whole = list(dataset())
    for n in range(len(whole) + 1):
        first = dataset()
        begun = iter(first)
        assert [next(begun) for _ in range(n)] == whole[:n]
        again = dataset()
        again.load_state_dict(first.state_dict())
        rest = list(again)
        assert rest == whole[n:] or (n == len(whole) and len(rest) == len(whole))


def test_the_first_batch_is_given_at_once_and_then_one_is_ahead():
    from dao_polars.frameworks.device import ahead

    begun = []

    def make():
        for i in range(5):
            begun.append(i)
            yield {"i": torch.tensor(i)}

    given = ahead(make(), torch.device("cpu"))
    for i, n in enumerate([1, 3, 4, 5, 5]):
        assert next(given)["i"] == i
        assert len(begun) == n
    assert next(given, None) is None
    assert list(ahead(iter([]), torch.device("cpu"))) == []


def test_tensors_are_on_the_readers_own_memory(cells):
    dataset = cells.dao.to_torch(100)
    first = next(iter(dataset.batches))
    tensor = dataset._tensors(first)["X"]
    for ours, theirs in [
        (first.x.indices, tensor.col_indices()),
        (first.x.indptr, tensor.crow_indices()),
        (first.x.data, tensor.values()),
    ]:
        assert ours.ctypes.data == theirs.data_ptr()


def test_devices_that_are_none_are_refused(cells):
    for device in ("cuda:99", "nothing", 3.5):
        with pytest.raises(dao.DaoValueError, match="device="):
            cells.dao.to_torch(10, device=device)
