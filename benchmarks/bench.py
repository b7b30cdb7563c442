"""dao-polars beside its peers, on the same cells: `make bench`.

    python benchmarks/bench.py                     everything; results/ gets the table and the plot
    python benchmarks/bench.py --only dao_polars,cellstream --patterns shuffled --cells 50000
    python benchmarks/bench.py --parts large,sparse
    python benchmarks/bench.py --cold --only dao_polars,annbatch --patterns shuffled,selection
    python benchmarks/bench.py --parts large --memory 1.5

Makes the data and the environments, then takes one measurement after another, each in a process
of its own: in every round all contenders have their turn at a pattern, so that what else the
machine does falls on all of them. README.md beside this says what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import report
from balloon import Balloon, available
from environments import OURS, CannotInstallError, contenders, environment

from data import FEW, Data, prepare

HERE = Path(__file__).parent
PATTERNS = [
    "writing",
    "in order",
    "shuffled",
    "first epoch",
    "batches of 256",
    "selection",
    "dense",
    "to_anndata",
]
EPOCHS = ["in order", "shuffled", "first epoch"]
QUIET = {"PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1", "LOGURU_LEVEL": "ERROR"}
IN_MEMORY = {"to_anndata": 16, "from memory": 24}  # bytes a value, by pattern or setting
VALUES = 1_407  # of a cell that is not sparse


@dataclass(frozen=True)
class Part:
    """Cells of a kind, and what is measured on them: ``patterns`` of all contenders that can hold
    them, or of ``only`` some."""

    title: str
    kind: str
    patterns: tuple[str, ...]
    only: tuple[str, ...] | None = None

    @property
    def values(self) -> int:
        """Of a cell, about."""
        return FEW if self.kind == "sparse" else VALUES


FAST = (OURS, "annbatch", "bpcells", "cellstream", "homeobox")
PARTS = {
    "counts": Part("", "counts", tuple(PATTERNS)),
    "floats": Part("log1p of normalised counts, float32", "floats", ("writing", *EPOCHS[:2])),
    # The others' writers hold all cells in memory.
    "large": Part("more cells", "counts", ("writing", *EPOCHS, "selection"), (OURS, "bpcells")),
    "sparse": Part("five values a cell", "sparse", ("writing", *EPOCHS), FAST),
}


@dataclass
class Contender:
    name: str
    python: Path
    listing: dict[str, Any]

    def settings(self, pattern: str) -> list[str]:
        if pattern == "writing":
            return self.listing["writes"]
        return self.listing["reads"].get(pattern, [])

    @property
    def stored(self) -> bool:
        """It reads a store of its own."""
        return bool(self.listing["writes"])


@dataclass
class Bench:
    """One part: its folder, and how to run things on it. ``runs``: every measurement, by
    (pattern, contender, setting); ``data`` is None where the part is ``skipped``, with why."""

    part: Part
    cells: int
    args: argparse.Namespace
    peers: list[Contender]
    runs: dict[tuple[str, str, str], list[dict[str, Any]]] = field(default_factory=dict)
    spent: dict[tuple[str, str, str], float] = field(default_factory=dict)
    data: Data | None = None
    skipped: str = ""

    def __post_init__(self) -> None:
        only = self.part.only
        self.folder = self.args.work / f"{self.part.kind}-{self.cells}"
        self.patterns = [p for p in self.part.patterns if p in self.args.patterns]
        self.peers = [
            peer
            for peer in self.peers
            if self.part.kind in peer.listing["kinds"] and (only is None or peer.name in only)
        ]

    def prepare(self) -> None:
        """Makes the data, or says why there is none."""
        values = self.cells * self.part.values
        stores = sum(peer.stored for peer in self.peers) + 1  # one is written anew beside them
        made = (self.folder / "data.json").exists()
        # The file takes 8 bytes a value, twice while it is made; stores take up to 4.
        needed = values * (4 * stores if made else max(16, 8 + 4 * stores))
        free = shutil.disk_usage(self.args.work).free
        if needed > free:
            self.skipped = f"{needed / 1e9:.0f} GB of disk may be needed, {free / 1e9:.0f} are free"
        else:
            print(f"data: {self.cells:,} cells, {self.part.kind}", flush=True)
            self.data = prepare(self.folder, self.cells, self.part.kind)

    def round(self) -> None:
        if "writing" not in self.patterns:
            for peer in list(self.peers):
                try:
                    self.ensure_store(peer)
                except CannotInstallError as error:
                    self.runs[("writing", peer.name, "")] = [{"error": str(error)}]
                    self.peers.remove(peer)
        for pattern in self.patterns:
            for peer in self.peers:
                for setting in peer.settings(pattern):
                    key = (pattern, peer.name, setting)
                    runs = self.runs.setdefault(key, [])
                    spent = self.spent.get(key, 0)
                    if spent > self.args.patience or any("error" in run for run in runs):
                        continue
                    began = time.perf_counter()
                    run = self.measure(peer, pattern, setting)
                    self.spent[key] = spent + time.perf_counter() - began
                    runs.append(run)
                    print(f"  {pattern:14} {peer.name:11} {setting:22} {told(run)}", flush=True)

    def measure(self, peer: Contender, pattern: str, setting: str) -> dict[str, Any]:
        needed = self.data.nnz * IN_MEMORY.get(pattern, IN_MEMORY.get(setting, 0))
        if needed > available():
            return {"error": f"{needed / 1e9:.0f} GB of memory may be needed"}
        if pattern == "writing":
            return self.write(peer, setting)
        if peer.stored and not self.store(peer).exists():
            return {"error": "it has no store"}
        return self.run(peer, "read", pattern, setting, store=self.store(peer))

    def store(self, peer: Contender) -> Path:
        return self.folder / "stores" / peer.name

    def notes(self, peer: Contender) -> Path:
        return self.folder / "stores" / f"{peer.name}.json"

    def ensure_store(self, peer: Contender) -> None:
        """What a contender reads is written now if it is missing or of another version."""
        notes = self.notes(peer)
        if not peer.stored:
            return
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
            self.notes(peer).write_text(json.dumps(notes))
        remove(target)
        return run

    def written(self) -> dict[str, Any]:
        notes = {peer.name: self.notes(peer) for peer in self.peers if peer.stored}
        return {n: json.loads(f.read_text())["run"] for n, f in notes.items() if f.exists()}

    def run(self, peer: Contender, *what: str, store: Path) -> dict[str, Any]:
        options = ["--data", str(self.folder), "--store", str(store)]
        options += ["--cold"] if self.args.cold else []
        try:
            return launch(peer.name, peer.python, *what, *options, cores=self.args.cores)
        except ChildProcessError as error:
            return {"error": str(error)}

    def results(self) -> report.Results:
        return report.Results(
            self.part.title, self.cells, self.data, self.skipped, self.runs, self.written()
        )


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
            preexec_fn=lambda: confine(allowed),
        )
    except subprocess.TimeoutExpired:
        raise ChildProcessError("it took more than an hour") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ChildProcessError(lines[-1][:300])
    return json.loads(done.stdout.strip().splitlines()[-1])


def confine(cores: list[int]) -> None:
    """Of a process that was just begun: where memory runs out, it is the one to end."""
    os.sched_setaffinity(0, cores)
    Path("/proc/self/oom_score_adj").write_text("500")


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
        files = sorted([*package.rglob("*.py"), *package.glob("*.so")])
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
    rate, above = run["cells"] / run["seconds"], (run["anon"] - run["imports_anon"]) / 1e6
    return f"{rate:12,.0f} cells/s {above:8,.0f} MB"


def listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=listed, default=["counts", "floats"], help=", ".join(PARTS))
    parser.add_argument("--cells", type=int, default=200_000, help="of counts and floats")
    parser.add_argument("--large-cells", type=int, default=1_000_000)
    parser.add_argument("--sparse-cells", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--only", type=listed, help=f"of {','.join(contenders())}")
    parser.add_argument("--without", type=listed, default=[], help="contenders to leave out")
    parser.add_argument("--patterns", type=listed, default=PATTERNS, help=", ".join(PATTERNS))
    parser.add_argument("--cores", type=int, help="how many cores all may use (default: all)")
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each pass")
    parser.add_argument(
        "--memory", type=float, help="GB to leave to the processes and the page cache together"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=20,
        help="seconds, all in all, after which a measurement is not repeated",
    )
    parser.add_argument("--work", type=Path, default=HERE / ".work", help="data and stores")
    parser.add_argument("--results", type=Path, help="default: results/, .work/results/ for a part")
    args = parser.parse_args()
    unknown = {*(args.only or []), *args.without} - set(contenders())
    unknown |= set(args.patterns) - set(PATTERNS) | set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    args.names = [
        name
        for name in contenders()
        if name in (args.only or contenders()) and name not in args.without
    ]
    if args.results is None:
        part = args.only or args.without or args.patterns != PATTERNS or args.cells != 200_000
        part = part or args.cold or args.memory or "counts" not in args.parts
        args.results = args.work / "results" if part else HERE / "results"
    args.work.mkdir(exist_ok=True)
    return args


def main() -> None:
    args = arguments()
    peers, skipped = enter(args.names)
    sizes = {"large": args.large_cells, "sparse": args.sparse_cells}
    benches = {
        name: Bench(part, sizes.get(name, args.cells), args, peers)
        for name, part in PARTS.items()
        if name in args.parts
    }
    for bench in benches.values():
        bench.prepare()
    with contextlib.ExitStack() as stack:
        if args.memory:
            stack.enter_context(Balloon(int(args.memory * 1e9)))
        for number in range(args.repeats):
            print(f"round {number + 1} of {args.repeats}", flush=True)
            for bench in benches.values():
                if bench.data is not None:
                    bench.round()
            report.write(
                args.results,
                machine=report.machine(args.cores),
                settings={"repeats": number + 1, "cold": args.cold, "memory": args.memory},
                contenders={peer.name: peer.listing for peer in peers},
                skipped=skipped,
                parts={name: bench.results() for name, bench in benches.items()},
            )
    print((args.results / "table.md").read_text())


if __name__ == "__main__":
    sys.exit(main())
