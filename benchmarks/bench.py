"""dao-polars beside its peers, on the same cells: `make bench`.

    python benchmarks/bench.py                     everything; results/ gets the table and the plot
    python benchmarks/bench.py --only dao_polars,cellstream --patterns shuffled --cells 50000

Makes the data and the environments, then takes one measurement after another, each in a process
of its own: in every round all contenders have their turn at a pattern, so that what else the
machine does falls on all of them. README.md beside this says what is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import report
from environments import OURS, CannotInstallError, contenders, environment

from data import prepare

HERE = Path(__file__).parent
PATTERNS = ["writing", "in order", "shuffled", "selection", "dense", "to_anndata"]
LARGE = ["in order", "shuffled", "selection"]
QUIET = {"PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1", "LOGURU_LEVEL": "ERROR"}


@dataclass
class Contender:
    name: str
    python: Path
    listing: dict[str, Any]

    def settings(self, pattern: str) -> list[str]:
        if pattern == "writing":
            return self.listing["writes"]
        return self.listing["reads"].get(pattern, [])


@dataclass
class Bench:
    """One set of cells: its folder, and how to run things on it. ``runs``: every measurement, by
    (pattern, contender, setting)."""

    folder: Path
    args: argparse.Namespace
    runs: dict[tuple[str, str, str], list[dict[str, Any]]] = field(default_factory=dict)

    def round(self, peers: list[Contender], patterns: list[str]) -> None:
        for pattern in patterns:
            for peer in peers:
                for setting in peer.settings(pattern):
                    key = (pattern, peer.name, setting)
                    runs = self.runs.setdefault(key, [])
                    spent = sum(run.get("seconds", 0) for run in runs)
                    if spent > self.args.patience or any("error" in run for run in runs):
                        continue
                    run = self.measure(peer, pattern, setting)
                    runs.append(run)
                    print(f"  {pattern:11} {peer.name:11} {setting:22} {told(run)}", flush=True)

    def measure(self, peer: Contender, pattern: str, setting: str) -> dict[str, Any]:
        if pattern == "writing":
            return self.write(peer, setting)
        return self.run(peer, "read", pattern, setting, store=self.store(peer))

    def store(self, peer: Contender) -> Path:
        return self.folder / "stores" / peer.name

    def ensure_store(self, peer: Contender) -> None:
        """What a contender reads is written now if it is missing or of another version."""
        if not peer.listing["writes"]:
            return
        notes = self.store(peer).with_suffix(".json")
        if notes.exists() and json.loads(notes.read_text())["version"] == version(peer):
            return
        print(f"  writing {peer.name}'s store ...", flush=True)
        run = self.write(peer, peer.listing["writes"][0])
        if "error" in run:
            raise CannotInstallError(f"could not write its store: {run['error']}")

    def write(self, peer: Contender, setting: str) -> dict[str, Any]:
        """Its first setting is the one that is read from."""
        store = self.store(peer)
        store.parent.mkdir(exist_ok=True)
        target = store.with_name(f"{peer.name}-{PATTERNS[0]}")
        remove(target)
        run = self.run(peer, "write", setting, store=target)
        if "error" not in run and setting == peer.listing["writes"][0]:
            remove(store)
            target.rename(store)
            notes = {"version": version(peer), "run": run}
            store.with_suffix(".json").write_text(json.dumps(notes))
        remove(target)
        return run

    def run(self, peer: Contender, *what: str, store: Path) -> dict[str, Any]:
        options = ["--data", str(self.folder), "--store", str(store)]
        options += ["--cold"] if self.args.cold else []
        try:
            return launch(peer.name, peer.python, *what, *options, cores=self.args.cores)
        except ChildProcessError as error:
            return {"error": str(error)}


def launch(name: str, python: Path, *what: str, cores: int | None = None) -> dict[str, Any]:
    """The JSON of a process of its own."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    try:
        done = subprocess.run(
            [str(python), str(HERE / "measure.py"), name, *what],
            capture_output=True,
            text=True,
            env=os.environ | QUIET,
            timeout=3600,
            check=False,
            preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        )
    except subprocess.TimeoutExpired:
        raise ChildProcessError("it took more than an hour") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ChildProcessError(lines[-1][:300])
    return json.loads(done.stdout.strip().splitlines()[-1])


def enter(names: list[str]) -> tuple[list[Contender], dict[str, str]]:
    """Those who can take part, and why others cannot."""
    able, skipped = [], {}
    for name in names:
        try:
            python = environment(name)
            able.append(Contender(name, python, launch(name, python, "list")))
        except (CannotInstallError, ChildProcessError) as error:
            skipped[name] = str(error)
            print(f"skipping {name}: {error}", flush=True)
    return able, skipped


def version(peer: Contender) -> str:
    """Changes when a store should be written again. Ours: whenever the package did."""
    text = json.dumps(peer.listing["versions"])
    if peer.name == OURS:
        package = HERE.parent / "dao_polars"
        files = sorted([*package.glob("*.py"), *package.glob("*.so")])
        text += "".join(f"{file.name}{file.stat().st_mtime_ns}" for file in files)
    return hashlib.sha256(text.encode()).hexdigest()


def remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def told(run: dict[str, Any]) -> str:
    if "error" in run:
        return f"failed: {run['error']}"
    rate, above = run["cells"] / run["seconds"], (run["peak"] - run["imports"]) / 1e6
    return f"{rate:12,.0f} cells/s {above:8,.0f} MB"


def listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", type=listed, help=f"of {','.join(contenders())}")
    parser.add_argument("--patterns", type=listed, default=PATTERNS, help=", ".join(PATTERNS))
    parser.add_argument("--cores", type=int, help="how many cores all may use (default: all)")
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each pass")
    parser.add_argument("--large", action="store_true", help="ours on 1,000,000 cells too")
    parser.add_argument("--large-cells", type=int, default=1_000_000)
    parser.add_argument(
        "--patience",
        type=float,
        default=240,
        help="seconds after which a measurement is not repeated",
    )
    parser.add_argument("--work", type=Path, default=HERE / ".work", help="data and stores")
    parser.add_argument("--results", type=Path, help="default: results/, .work/results/ for a part")
    args = parser.parse_args()
    unknown = set(args.only or []) - set(contenders()) | set(args.patterns) - set(PATTERNS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if args.results is None:
        part = args.only or args.patterns != PATTERNS or args.cells != 200_000 or args.cold
        args.results = args.work / "results" if part else HERE / "results"
    return args


def main() -> None:
    args = arguments()
    bench = Bench(args.work / f"cells-{args.cells}", args)
    print(f"data: {args.cells:,} cells", flush=True)
    data = prepare(bench.folder, args.cells)
    peers, skipped = enter([name for name in contenders() if name in (args.only or contenders())])
    patterns = [pattern for pattern in PATTERNS if pattern in args.patterns]
    for peer in list(peers):
        try:
            if "writing" not in patterns:  # which comes first in each round
                bench.ensure_store(peer)
        except CannotInstallError as error:
            skipped[peer.name] = str(error)
            peers.remove(peer)
            print(f"skipping {peer.name}: {error}", flush=True)
    large = Bench(args.work / f"cells-{args.large_cells}", args)
    large_data = None
    if args.large:
        print(f"data: {args.large_cells:,} cells", flush=True)
        large_data = prepare(large.folder, args.large_cells, "lzf")
    ours = [peer for peer in peers if peer.name == OURS]
    for number in range(args.repeats):
        print(f"round {number + 1} of {args.repeats}", flush=True)
        bench.round(peers, patterns)
        if args.large and number == 0:
            for peer in ours:
                large.ensure_store(peer)
        if args.large:
            large.round(ours, LARGE)
        stores = {p.name: bench.store(p).with_suffix(".json") for p in peers}
        report.write(
            args.results,
            machine=report.machine(args.cores),
            settings={"repeats": number + 1, "cold": args.cold, "cells": args.cells},
            data=data,
            large=large_data,
            contenders={peer.name: peer.listing for peer in peers},
            skipped=skipped,
            runs=bench.runs,
            large_runs=large.runs,
            written={n: json.loads(f.read_text())["run"] for n, f in stores.items() if f.exists()},
        )
    print((args.results / "table.md").read_text())


if __name__ == "__main__":
    sys.exit(main())
