"""Expression as columns: genes, aggregates and quality control, beside scanpy, AnnData and SLAF.

    python benchmarks/expression.py [--cells 200_000] [--repeats 3] [--only NAME,...]

On the cells of data.py. A measurement is a process of its own: it reads the files once, so that
they are in the page cache; opens them, and does one task; both are timed, and the peak of its
memory (VmHWM) is told above what it was before. Then every value of the result is checked: it must
be that of the .h5ad, which the first run reads block by block, within 1e-5 of it (of scores, within
1e-6 of the largest). Each round has every contender once per task; the table has medians. Who needs
longer than --patience seconds is stopped, and not asked again.

    one gene         values of a gene that a third of the cells express, for all cells
    gene filter      cells that express it, counted by cell type, and the mean of another gene there
    100 genes        the dense matrix of 100 genes and all cells
    100 cells        one gene for 100 random cells
    pseudobulk       sums of all genes by cell type, as a matrix
    gene statistics  mean and variance of every gene
    qc, plain        total_counts, n_genes_by_counts
    qc               and pct_counts of ribosomal genes (the data has no mitochondrial ones)
    markers          t-tests of every gene, each cell type against the rest, of log1p CP10k

Contenders (--only takes the words in brackets): dao-polars [dao] reads a store with a gene index,
"by rows" [rows] the same store without one. scanpy [scanpy] reads the .h5ad into memory, that is
its open; its functions were compiled before, on a few cells. AnnData backed [backed] reads slices,
and rows in blocks of 10,000. SLAF [slaf] has a store with indices; a gene's rows are read through
its Lance table, as its own conditions on genes fail with these versions and its default types (with
use_optimized_dtypes=False they do not, and are slower); it has no t-tests. Stores are in
benchmarks/.work/cells-<n>/expression, and stay for the next run (delete them to have them written
anew). Results go to benchmarks/results/expression.md, those of a part or of another number of cells
to benchmarks/.work/results.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from environments import CannotInstallError, environment
from measure import files, memory, warm, warm_memory

HERE = Path(__file__).parent
CELLS = 200_000
GENE, OTHER = "SYT7", "CTNND1"  # a third of the cells express them
RIBOSOMAL = "^RP[SL]"
TYPE = "cell_type"
BLOCK = 10_000
QUIET = {"PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1", "LOGURU_LEVEL": "ERROR"}


def hundred(genes) -> list[str]:
    return list(genes)[:: len(genes) // 100][:100]


def some_cells(n: int) -> np.ndarray:
    """Rows, sorted; a cell's name is its row."""
    return np.sort(np.random.default_rng(0).choice(n, 100, replace=False))


# --- contenders: open() is given what write() wrote, or the .h5ad. A task gives what turns its
# result into the array that all must arrive at: cells in order, cell types and markers sorted.


class Dao:
    title, packages = "dao-polars", ("dao-polars", "polars")
    gene_index = True

    def write(self, source: Path, store: Path) -> None:
        import dao_polars as dao

        dao.write_dataset(store, source, gene_index=self.gene_index, progress=False)

    def setup(self, task: str, source: Path) -> None:
        import anndata  # noqa: F401  (pseudobulk would do it)
        import polars

        import dao_polars

        self.dao, self.pl = dao_polars, polars

    def open(self, store: Path):
        return self.dao.scan(store)

    def one_gene(self, cells):
        found = cells.select(self.dao.gene(GENE)).collect()
        return lambda: found[GENE]

    def gene_filter(self, cells):
        gene = self.dao.gene
        found = cells.filter(gene(GENE) > 0).group_by(TYPE).agg(self.pl.len(), gene(OTHER).mean())
        found = found.collect()
        return lambda: found.sort(TYPE).select("len", OTHER)

    def genes_100(self, cells):
        names = hundred(self.dao.load_store(self.store).var("data")["var_name"])
        found = cells.select(self.dao.genes(names, as_array=True)).collect()["genes"].to_numpy()
        return lambda: found

    def cells_100(self, cells):
        chosen = self.pl.col("obs_name").is_in(self.names)
        found = cells.filter(chosen).select(self.dao.gene(GENE)).collect()
        return lambda: found[GENE]

    def pseudobulk(self, cells):
        found = cells.dao.pseudobulk(TYPE, as_anndata=True, progress=False)
        return lambda: found.X

    def gene_statistics(self, cells):
        found = cells.dao.gene_stats(progress=False)
        return lambda: found.select("mean", "variance")

    def qc_plain(self, cells):
        found = cells.select(self.dao.qc()).unnest("qc").collect()
        return lambda: found

    def qc(self, cells):
        found = cells.select(self.dao.qc({"ribo": RIBOSOMAL})).unnest("qc").collect()
        columns = ("total_counts", "n_genes_by_counts", "pct_counts_ribo")
        return lambda: found.select(columns)

    def markers(self, cells):
        found = cells.dao.rank_genes_groups(TYPE, progress=False)
        n = found["group"].n_unique()
        return lambda: found.sort("group", "names")["scores"].to_numpy().reshape(n, -1)


class Rows(Dao):
    title, gene_index = "dao-polars, by rows", False


class Scanpy:
    title, packages = "scanpy in memory", ("scanpy", "anndata")

    def setup(self, task: str, source: Path) -> None:
        import anndata
        import scanpy
        from sklearn.utils.sparsefuncs import mean_variance_axis

        self.anndata, self.scanpy, self.mean_variance = anndata, scanpy, mean_variance_axis
        few = anndata.read_h5ad(source, backed="r")[:300].to_memory()
        common = few.obs[TYPE].value_counts().index[:2]
        few = few[few.obs[TYPE].isin(common)].copy()
        names, self.names = self.names, few.obs_names[:10]
        getattr(self, task)(few)
        self.names = names

    def open(self, source: Path):
        return self.anndata.read_h5ad(source)

    def one_gene(self, adata):
        found = adata.obs_vector(GENE)
        return lambda: found

    def gene_filter(self, adata):
        expressing = adata.obs_vector(GENE) > 0
        frame = adata.obs.loc[expressing, [TYPE]].assign(other=adata.obs_vector(OTHER)[expressing])
        found = frame.groupby(TYPE, observed=True)["other"].agg(["size", "mean"])
        return lambda: found.sort_index()

    def genes_100(self, adata):
        found = adata[:, hundred(adata.var_names)].X.toarray()
        return lambda: found

    def cells_100(self, adata):
        found = adata[self.names, GENE].X.toarray()
        return lambda: found[:, 0]

    def pseudobulk(self, adata):
        found = self.scanpy.get.aggregate(adata, by=TYPE, func="sum")
        return lambda: found[found.obs_names.sort_values()].layers["sum"]

    def gene_statistics(self, adata):
        mean, variance = self.mean_variance(adata.X, axis=0)
        variance *= adata.n_obs / (adata.n_obs - 1)
        return lambda: np.stack([mean, variance], axis=1)

    def qc_plain(self, adata, *sets: str):
        metrics = self.scanpy.pp.calculate_qc_metrics
        metrics(adata, qc_vars=sets, percent_top=None, log1p=False, inplace=True)
        columns = ["total_counts", "n_genes_by_counts", *(f"pct_counts_{name}" for name in sets)]
        return lambda: adata.obs[columns]

    def qc(self, adata):
        adata.var["ribo"] = adata.var_names.str.match(RIBOSOMAL)
        return self.qc_plain(adata, "ribo")

    def markers(self, adata):
        self.scanpy.pp.normalize_total(adata, target_sum=1e4)
        self.scanpy.pp.log1p(adata)
        self.scanpy.tl.rank_genes_groups(adata, TYPE, method="t-test")

        def number():
            table = self.scanpy.get.rank_genes_groups_df(adata, None)
            return table.pivot(index="group", columns="names", values="scores").sort_index()

        return number


class Backed(Scanpy):
    title, packages = "AnnData backed", ("anndata", "h5py", "scipy")

    def setup(self, task: str, source: Path) -> None:
        import anndata
        import pandas
        import scipy.sparse
        import scipy.stats

        self.anndata, self.pandas, self.scipy = anndata, pandas, scipy

    def open(self, source: Path):
        return self.anndata.read_h5ad(source, backed="r")

    def gene_filter(self, adata):
        both = adata[:, [GENE, OTHER]].X.toarray()
        frame = adata.obs[[TYPE]].assign(other=both[:, 1])[both[:, 0] > 0]
        found = frame.groupby(TYPE, observed=True)["other"].agg(["size", "mean"])
        return lambda: found.sort_index()

    def blocks(self, adata):
        """Rows and their counts, CSR."""
        x = adata.X
        for start in range(0, adata.n_obs, BLOCK):
            rows = slice(start, min(start + BLOCK, adata.n_obs))
            yield rows, x[rows]

    def sums(self, adata, codes, log1p=False):
        """Of groups: cells, and of each gene the sum and the sum of squares."""
        total = squares = 0
        for rows, x in self.blocks(adata):
            x = x.astype(np.float64)
            if log1p:
                cells = np.asarray(x.sum(axis=1)).ravel()
                x.data *= np.repeat(1e4 / np.maximum(cells, 1), np.diff(x.indptr))
                np.log1p(x.data, out=x.data)
            n = x.shape[0]
            member = (np.ones(n), (codes[rows], np.arange(n)))
            member = self.scipy.sparse.csr_matrix(member, shape=(codes.max() + 1, n))
            total = total + (member @ x).toarray()
            x.data **= 2
            squares = squares + (member @ x).toarray()
        return np.bincount(codes)[:, None], total, squares

    def pseudobulk(self, adata):
        codes, _ = self.pandas.factorize(adata.obs[TYPE].astype(str), sort=True)
        _, total, _ = self.sums(adata, codes)
        return lambda: total

    def gene_statistics(self, adata):
        n, total, squares = self.sums(adata, np.zeros(adata.n_obs, np.int64))
        found = np.stack([total[0] / n[0], (squares - total**2 / n)[0] / (n[0] - 1)], axis=1)
        return lambda: found

    def qc_plain(self, adata, *sets: str):
        masks = [adata.var[name].to_numpy() for name in sets]
        parts = []
        for _, x in self.blocks(adata):
            total = np.asarray(x.sum(axis=1)).ravel()
            shares = [100 * np.asarray(x[:, mask].sum(axis=1)).ravel() / total for mask in masks]
            parts.append(np.stack([total, x.getnnz(axis=1), *shares], axis=1))
        found = np.concatenate(parts)
        return lambda: found

    def markers(self, adata):
        codes, _ = self.pandas.factorize(adata.obs[TYPE].astype(str), sort=True)
        n, total, squares = self.sums(adata, codes, log1p=True)
        sides = []
        for cells, sum_, square in (
            (n, total, squares),
            (n.sum() - n, total.sum(0) - total, squares.sum(0) - squares),
        ):
            variance = np.maximum(square - sum_**2 / cells, 0) / (cells - 1)
            sides += [sum_ / cells, np.sqrt(variance), cells]
        with np.errstate(invalid="ignore"):
            scores, _ = self.scipy.stats.ttest_ind_from_stats(*sides, equal_var=False)
        return lambda: np.nan_to_num(scores)[:, np.argsort(adata.var_names)]


class Slaf:
    title, packages = "SLAF", ("slafdb", "pylance", "polars")

    def write(self, source: Path, store: Path) -> None:
        from slaf.data import SLAFConverter

        SLAFConverter(create_indices=True).convert(str(source), str(store))

    def setup(self, task: str, source: Path) -> None:
        import polars
        from slaf import SLAFArray

        self.pl, self.array = polars, SLAFArray

    def open(self, store: Path):
        return self.array(str(store))

    def values(self, array, names):
        """Rows of genes, with ``at``, the gene's place among them."""
        ids = dict(zip(array.var["gene_id"], array.var["gene_integer_id"], strict=True))
        wanted = [ids[name] for name in names]
        condition = f"gene_integer_id IN ({', '.join(map(str, wanted))})"
        found = self.pl.from_arrow(array.expression.to_table(filter=condition))
        places = {id_: at for at, id_ in enumerate(wanted)}
        gene = self.pl.col("gene_integer_id").cast(self.pl.Int64)
        return found.with_columns(at=gene.replace_strict(places, return_dtype=self.pl.Int64))

    def matrix(self, table, shape, row, column, value="value"):
        found = np.zeros(shape, np.float32 if value == "value" else np.float64)
        found[table[row].to_numpy(), table[column].to_numpy()] = table[value].to_numpy()
        return found

    def one_gene(self, array):
        rows = self.values(array, [GENE])
        found = self.matrix(rows, (array.shape[0], 1), "cell_integer_id", "at")
        return lambda: found[:, 0]

    def gene_filter(self, array):
        rows, pl = self.values(array, [GENE, OTHER]), self.pl
        other = rows.filter(at=1).select("cell_integer_id", other="value")
        cells = array.obs.select(pl.col("cell_integer_id").cast(pl.UInt32), TYPE)
        joined = rows.filter(at=0).join(other, on="cell_integer_id", how="left")
        by_type = joined.join(cells, on="cell_integer_id").group_by(TYPE)
        found = by_type.agg(pl.len(), pl.col("other").fill_null(0).mean())
        return lambda: found.sort(TYPE).select("len", "other")

    def genes_100(self, array):
        names = hundred(array.var["gene_id"])
        rows = self.values(array, names)
        found = self.matrix(rows, (array.shape[0], 100), "cell_integer_id", "at")
        return lambda: found

    def cells_100(self, array):
        at = array.var["gene_id"].to_list().index(GENE)
        chosen = array.obs.filter(self.pl.col("cell_id").is_in(self.names))
        rows = chosen["cell_integer_id"].to_list()
        table = array.get_submatrix(cell_selector=rows, gene_selector=[at])
        values = dict(zip(table["cell_id"], table["value"], strict=True))
        return lambda: [values.get(name, 0) for name in self.names]

    def pseudobulk(self, array):
        sums = array.query(
            f"""SELECT c.{TYPE}, e.gene_integer_id, SUM(e.value) AS total
            FROM expression e JOIN cells c ON e.cell_integer_id = c.cell_integer_id
            GROUP BY c.{TYPE}, e.gene_integer_id"""
        )
        sums = sums.with_columns(self.pl.col(TYPE).rank("dense").alias("group") - 1)
        shape = sums["group"].max() + 1, array.shape[1]
        found = self.matrix(sums, shape, "group", "gene_integer_id", "total")
        return lambda: found

    def gene_statistics(self, array):
        sums = array.query(
            """SELECT gene_integer_id, SUM(CAST(value AS DOUBLE)) AS total,
            SUM(CAST(value AS DOUBLE) * value) AS squares
            FROM expression GROUP BY gene_integer_id"""
        )
        n, found = array.shape[0], np.zeros((array.shape[1], 2))
        total, squares = sums["total"].to_numpy(), sums["squares"].to_numpy()
        variance = (squares - total**2 / n) / (n - 1)
        found[sums["gene_integer_id"].to_numpy()] = np.stack([total / n, variance], axis=1)
        return lambda: found

    def totals(self, array):
        return array.query(
            """SELECT cell_integer_id, SUM(value) AS total_counts, COUNT(*) AS n_genes_by_counts
            FROM expression GROUP BY cell_integer_id ORDER BY cell_integer_id"""
        )

    def qc_plain(self, array):
        found = self.totals(array)
        return lambda: found.drop("cell_integer_id")

    def qc(self, array):
        pl = self.pl
        names = [name for name in array.var["gene_id"] if re.match(RIBOSOMAL, name)]
        cells = self.values(array, names).group_by("cell_integer_id")
        cells = cells.agg(pl.col("value").cast(pl.Float64).sum())
        cells = self.totals(array).join(cells, on="cell_integer_id", how="left")
        share = 100 * pl.col("value").fill_null(0) / pl.col("total_counts")
        found = cells.select("total_counts", "n_genes_by_counts", share, "cell_integer_id")
        return lambda: found.sort("cell_integer_id").drop("cell_integer_id")


CONTENDERS = {"dao": Dao, "rows": Rows, "scanpy": Scanpy, "backed": Backed, "slaf": Slaf}
TASKS = {
    "one gene": "one_gene",
    "gene filter": "gene_filter",
    "100 genes": "genes_100",
    "100 cells": "cells_100",
    "pseudobulk": "pseudobulk",
    "gene statistics": "gene_statistics",
    "qc, plain": "qc_plain",
    "qc": "qc",
    "markers": "markers",
}


# --- one measurement, in the contender's process


def child(name: str, task: str, folder: Path, patience: int) -> None:
    contender, data = CONTENDERS[name](), json.loads((folder / "data.json").read_text())
    source, own = folder / "data.h5ad", folder / "expression" / name
    if task == "versions":
        told = {package: importlib.metadata.version(package) for package in contender.packages}
    elif task == "write":
        began = time.perf_counter()
        contender.write(source, own.with_name(f"{name}.partial"))
        own.with_name(f"{name}.partial").rename(own)
        told = {"seconds": time.perf_counter() - began}
    else:
        contender.store = own if hasattr(contender, "write") else source
        contender.names = [str(row) for row in some_cells(data["cells"])]
        warm(contender.store)
        contender.setup(task, source)
        warm_memory(16 * data["nnz"])
        imports = memory("VmHWM")
        signal.alarm(patience)
        began = time.perf_counter()
        opened = contender.open(contender.store)
        open_ = time.perf_counter() - began
        result = getattr(contender, task)(opened)
        query = time.perf_counter() - began - open_
        signal.alarm(0)
        told = {"open": open_, "query": query, "peak": memory("VmHWM") - imports}
        found, known = np.asarray(result()), folder / "expression" / f"{task}.npy"
        if known.exists():
            # Scores near zero are differences of large numbers.
            check(found, np.load(known), near=1e-6 if task == "markers" else 0)
        else:
            np.save(known, found)
    print(json.dumps(told))


def check(found: np.ndarray, known: np.ndarray, near: float) -> None:
    if found.shape != known.shape:
        raise SystemExit(f"the result is {found.shape}, not {known.shape}")
    wrong = ~np.isclose(found, known, rtol=1e-5, atol=near * np.abs(known).max())
    if wrong.any():
        which = tuple(np.argwhere(wrong)[0].tolist())
        raise SystemExit(
            f"{wrong.sum():,} of {wrong.size:,} values are wrong: {found[which]}, "
            f"not {known[which]}, at {which}"
        )


# --- all of them


def launch(python: Path, name: str, task: str, folder: Path, patience: int = 0) -> dict:
    """What ``child`` tells; ``error`` where it does not."""
    command = [python, __file__, "--child", name, task, folder, "--patience", patience]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=os.environ | QUIET, check=False
    )
    if done.returncode == -signal.SIGALRM:
        return {"error": f"more than {patience} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Invalid)\b", line)] or lines
        return {"error": f"failed: {errors[-1][:200].replace('|', ' ')}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def know(folder: Path, total: float) -> None:
    """Writes what is to be found, as it is in the .h5ad."""
    for task in TASKS.values():
        if (folder / "expression" / f"{task}.npy").exists():
            continue
        print(f"reading what {task} has to find ...", flush=True)
        run = launch(Path(sys.executable), "backed", task, folder)
        if "error" in run:
            raise SystemExit(run["error"])
    counts = np.load(folder / "expression" / "pseudobulk.npy").sum()
    if counts != total:
        raise SystemExit(f"{counts:,.0f} counts are there, not {total:,.0f}")


def enter(names: list[str], folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Pythons of those who can take part, with their stores written, and why others cannot."""
    pythons, skipped = {}, {}
    for name in names:
        try:
            python = environment(name) if name == "slaf" else Path(sys.executable)
        except CannotInstallError as error:
            skipped[name] = str(error)
            continue
        store = folder / "expression" / name
        if hasattr(CONTENDERS[name], "write") and not store.exists():
            shutil.rmtree(store.with_name(f"{name}.partial"), ignore_errors=True)
            run = launch(python, name, "write", folder)
            if "error" in run:
                skipped[name] = run["error"]
                continue
            print(f"{CONTENDERS[name].title}: store written in {run['seconds']:.0f} s", flush=True)
        pythons[name] = python
    return pythons, skipped


def table(runs: dict[str, dict[str, list[dict]]]) -> list[str]:
    lines = [
        "| | | open s | query s | peak MB above imports | open + query, beside dao-polars |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for task, contenders in runs.items():
        ours, first = None, task
        for name, each in contenders.items():
            row, first = f"| {first} | {CONTENDERS[name].title} |", ""
            if errors := [run["error"] for run in each if "error" in run]:
                lines.append(f"{row} {errors[0]} | | | |")
                continue
            open_, query, peak = (median(run[k] for run in each) for k in ("open", "query", "peak"))
            ours = open_ + query if name == "dao" else ours
            ratio = f"{(open_ + query) / ours:.1f} ×" if ours else ""
            lines.append(f"{row} {open_:.3f} | {query:.3f} | {peak / 1e6:,.0f} | {ratio} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=CELLS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, comma-separated")
    parser.add_argument("--patience", type=int, default=120, help="seconds for open and query")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        name, task, folder = args.child
        child(name, task, Path(folder), args.patience)
        return
    names = args.only.split(",")
    if unknown := set(names) - set(CONTENDERS):
        parser.error(f"--only: no {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}")
    from report import machine

    from data import prepare

    folder = HERE / ".work" / f"gzip-{args.cells}"
    data = prepare(folder, args.cells, compression="gzip")
    (folder / "expression").mkdir(exist_ok=True)
    know(folder, data.total)
    pythons, skipped = enter([name for name in CONTENDERS if name in names], folder)
    runs: dict[str, dict[str, list[dict]]] = {t: {name: [] for name in pythons} for t in TASKS}
    for turn in range(args.repeats):
        print(f"round {turn + 1}", flush=True)
        for task, contenders in runs.items():
            for name, each in contenders.items():
                if any("error" in run for run in each):
                    continue
                run = {"error": "it has no such function"}
                if hasattr(CONTENDERS[name], TASKS[task]):
                    run = launch(pythons[name], name, TASKS[task], folder, args.patience)
                each.append(run)
                told = run.get("error") or f"{run['open']:.3f} + {run['query']:.3f} s"
                print(f"  {task:16} {CONTENDERS[name].title:20} {told}", flush=True)

    m, versions = machine(None), {}
    for name, python in pythons.items():
        versions[name] = launch(python, name, "versions", folder)
    sizes = [("the .h5ad", folder / "data.h5ad")]
    sizes += [(CONTENDERS[n].title, folder / "expression" / n) for n in pythons]
    sizes = [
        f"{title} {sum(f.stat().st_size for f in files(place)) / 1e6:,.0f} MB"
        for title, place in sizes
        if place.exists()
    ]
    lines = [
        f"{m['cpu']}, {m['cores']} cores, {m['memory'] / 2**30:.0f} GiB, Linux {m['kernel']}; "
        f"dao-polars {m['commit']}, {m['date']} (load {m['load']}).  ",
        f"{data.cells:,} cells × {data.genes:,} genes, {data.nnz / data.cells:,.0f} values a cell. "
        f"Medians of {args.repeats} runs, warm page cache.",
        "",
        *table(runs),
        "",
        f"On disk: {', '.join(sizes)}.",
        "",
    ]
    for name, packages in versions.items():
        told = ", ".join(f"{package} {number}" for package, number in packages.items())
        lines.append(f"- {CONTENDERS[name].title}: {told}")
    lines += [f"- {CONTENDERS[name].title}: skipped, {why}" for name, why in skipped.items()]
    text = "\n".join(lines) + "\n"
    print(f"\n{text}")
    whole = args.cells == CELLS and set(names) == set(CONTENDERS)
    results = HERE / "results" if whole else HERE / ".work" / "results"
    results.mkdir(exist_ok=True)
    (results / "expression.md").write_text(text)


if __name__ == "__main__":
    main()
