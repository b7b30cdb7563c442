"""dao-polars beside its peers over a network: a bucket of this machine, behind a line.

    python benchmarks/clouds.py            everything; results/ gets clouds.md and clouds.json
    python benchmarks/clouds.py --latencies 20 --widths 125e6 --batches 20 --results /tmp/small
    python benchmarks/clouds.py --contenders dao_polars,homeobox --patterns random

Writes the stores as bench.py does, where they are not there yet, and serves them as a bucket. For
each latency and width of the line, every contender has its turn at each pattern, in a process of
its own (remote.py). README.md beside this says what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import cloud_report
import network
import report
from bench import HERE, PARTS, QUIET, Bench, Contender, confine, enter, listed
from environments import CannotInstallError
from measure import warm

PATTERNS = ["in order", "blocks", "random"]
LATENCIES = [5.0, 20.0, 100.0]  # ms of a round trip
WIDTHS = [125e6, 1.25e9]  # bytes a second
NAMES = ["dao_polars", "annbatch", "homeobox", "slaf"]
PATIENCE = 60  # seconds beside those of the epoch, for imports, opening and the first batch


def measure(
    peer: Contender, what: tuple[str, str], url: str, env: dict[str, str], line: Any, args: Any
) -> dict[str, Any]:
    """What remote.py says, with what went over the line while it opened and while it read."""
    options = ["--data", args.data, "--url", url]
    options += ["--batches", args.batches, "--seconds", args.seconds]
    command = [peer.python, HERE / "remote.py", peer.name, *what, *options]
    cores = sorted(os.sched_getaffinity(0))
    limit = args.seconds + PATIENCE
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | QUIET | env,
            preexec_fn=lambda: confine(cores),
        )
        late = threading.Event()
        watch = threading.Timer(limit, lambda: (late.set(), process.kill()))
        watch.start()
        try:
            result = listen(process, line)
        finally:
            watch.cancel()
            process.kill()
            process.wait()
        if result is not None:
            return result
        if late.is_set():
            moved = line.stats()
            return {
                "error": f"not done after {limit:.0f} s, in which "
                f"{sum(moved['requests'].values()):,} requests "
                f"brought {moved['bytes_down'] / 1e6:,.0f} MB"
            }
        errors.seek(0)
        lines = errors.read().strip().splitlines() or [f"exit status {process.returncode}"]
        return {"error": lines[-1][:300]}


def listen(process: subprocess.Popen[str], line: Any) -> dict[str, Any] | None:
    """What it measured; None where it ended before it was done. The line is looked at whenever it
    says that it has opened or read, and it waits until that is done."""
    assert process.stdin is not None
    assert process.stdout is not None
    counted: dict[str, Any] = {}
    line.reset()
    for said in map(json.loads, process.stdout):
        event = said.pop("event")
        if event == "result":
            return said | {"line": counted}
        counted[event] = line.stats()
        if event == "opened":
            line.reset()
        with contextlib.suppress(BrokenPipeError):  # it was ended
            process.stdin.write("\n")
            process.stdin.flush()
    return None


class Clouds:
    """All measurements, by (latency, width), and what else the page says."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.runs: dict[tuple[float, float], list[dict[str, Any]]] = {}
        self.widths: dict[tuple[float, float], float] = {}
        self.peers, self.missing = enter(args.contenders)
        self.bench = Bench(PARTS["counts"], args.cells, args, list(self.peers))

    def prepare(self) -> None:
        """The stores, or why one is missing."""
        self.bench.prepare()
        if self.bench.skipped:
            raise SystemExit(self.bench.skipped)
        self.args.data = self.bench.folder
        for peer in list(self.peers):
            try:
                self.bench.ensure_store(peer)
            except CannotInstallError as error:
                self.missing[peer.name] = str(error)
                self.peers.remove(peer)

    def run(self) -> None:
        stores = {peer.name: self.bench.store(peer) for peer in self.peers}
        for store in stores.values():
            warm(store)
        with network.bucket(stores, self.args.work) as bucket:
            for latency in self.args.latencies:
                for width in self.args.widths:
                    self.line(bucket, latency, width)
                    self.write()

    def line(self, bucket: network.Bucket, latency: float, width: float) -> None:
        """All measurements over a line of this latency and width."""
        runs = self.runs[latency, width] = []
        print(f"{latency:g} ms, {width / 1e6:g} MB/s", flush=True)
        with network.line(bucket, latency, width) as line:
            self.widths[latency, width] = self.alone(line.address)
            print(f"  alone {self.widths[latency, width] / 1e6:,.0f} MB/s", flush=True)
            env = bucket.environment(line.address)
            for pattern in self.args.patterns:
                for peer in self.peers:
                    for setting in peer.listing["clouds"].get(pattern, []):
                        what = (pattern, setting)
                        run = measure(peer, what, bucket.url(peer.name), env, line, self.args)
                        run |= {"contender": peer.name, "pattern": pattern, "setting": setting}
                        runs.append(run)
                        self.say(run)

    def alone(self, address: str) -> float:
        """What the line gives to who does nothing else, of the largest file of the stores."""
        files = [
            (file.stat().st_size, f"{peer.name}/{file.relative_to(self.bench.store(peer))}")
            for peer in self.peers
            for file in self.bench.store(peer).rglob("*")
            if file.is_file()
        ]
        size, path = max(files)
        return network.width(f"http://{address}/bucket/{path}", size)

    def say(self, run: dict[str, Any]) -> None:
        head = f"  {run['pattern']:9} {run['contender']:11} {run['setting']:22}"
        if "error" in run:
            print(f"{head} failed: {run['error']}", flush=True)
            return
        row = cloud_report.row(run, self.needed(run["contender"]), 1.0)
        print(
            f"{head} {row['rate']:10,.0f} cells/s, first {row['first']:5.2f} s, "
            f"{row['requests']:9,.1f} requests, {row['moved']:6.2f} moved by needed, "
            f"{row['anon'] / 1e6:6,.0f} MB",
            flush=True,
        )

    def needed(self, name: str) -> float:
        """Bytes of a cell in a contender's own store, on average."""
        return self.bench.written()[name]["counts_bytes"] / self.args.cells

    def write(self) -> None:
        """The page, of what is known so far."""
        listings = {peer.name: peer.listing for peer in self.peers}
        cloud_report.write(
            self.args.results,
            machine=report.machine(None),
            settings={
                "cells": self.args.cells,
                "batches": self.args.batches,
                "seconds": self.args.seconds,
            },
            contenders=listings,
            needed={name: self.needed(name) for name in listings},
            missing=self.missing,
            widths=self.widths,
            runs=self.runs,
        )


def numbers(text: str) -> list[float]:
    return [float(part) for part in listed(text)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--latencies", type=numbers, default=LATENCIES, help="ms: 5,20,100")
    parser.add_argument("--widths", type=numbers, default=WIDTHS, help="bytes/s: 125e6,1.25e9")
    parser.add_argument("--contenders", type=listed, default=NAMES, help=", ".join(NAMES))
    parser.add_argument("--patterns", type=listed, default=PATTERNS, help=", ".join(PATTERNS))
    parser.add_argument("--batches", type=int, default=0, help="of 1,024; 0: an epoch")
    parser.add_argument("--seconds", type=float, default=8, help="from the first batch, at most")
    parser.add_argument("--work", type=Path, default=HERE / ".work", help="data and stores")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    args = parser.parse_args()
    unknown = {*args.contenders} - {*NAMES} | {*args.patterns} - {*PATTERNS}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    args.cold, args.cores = False, None  # of writing the stores
    args.work.mkdir(exist_ok=True)
    return args


def main() -> None:
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # servers end with us
    try:
        network.build_line()
        clouds = Clouds(args)
        clouds.prepare()
        clouds.run()
    except network.NoServerError as error:
        raise SystemExit(str(error)) from None
    print((args.results / "clouds.md").read_text())


if __name__ == "__main__":
    sys.exit(main())
