"""What an atlas of 100,000,000 real cells costs, reckoned from what the other benchmarks "
"measured.

    python benchmarks/reckon.py        of results/*.json makes results/atlas.md

Nothing is run. A figure is said to be measured where it stands in one of the files; all others
are these, multiplied by cells, by shares, or divided by machines, as the line says.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"
CELLS = 100_000_000
DATASETS = 1_000
MACHINES = (1, 4, 16, 64)
#: The lines that epochs are reckoned over: ms to the first byte, bytes a second.
LINES = ((20.0, 125_000_000.0), (20.0, 1_250_000_000.0), (100.0, 1_250_000_000.0))


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def time(seconds: float) -> str:
    """Seconds in the unit that people would say."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def local(runs: list[Any], pattern: str, setting: str = "") -> float:
    """The median rate of ours, cells a second."""
    ours = [r for r in runs if (r["contender"], r["pattern"]) == ("dao_polars", pattern)]
    found = [r for r in ours if r["setting"] == setting] or ours
    return median(run["cells"] / run["seconds"] for run in found[0]["runs"])


def far(clouds: Any, line: tuple[float, float], pattern: str, setting: str) -> dict[str, float]:
    """Of ours over a line: cells a second, and of a cell the requests and bytes."""
    (runs,) = (
        found["runs"] for found in clouds["lines"] if (found["latency_ms"], found["width"]) == line
    )
    (run,) = (
        r
        for r in runs
        if (r["contender"], r["pattern"], r["setting"]) == ("dao_polars", pattern, setting)
    )
    asked = run["line"]["read"]
    return {
        "rate": run["cells"] / run["seconds"],
        "requests": sum(asked["requests"].values()) / run["cells"],
        "bytes": asked["bytes_down"] / run["cells"],
    }


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def page() -> str:
    scale, results, clouds = read("scale.json"), read("results.json"), read("clouds.json")
    counts = results["parts"]["counts"]
    runs, data = counts["runs"], counts["data"]
    written = counts["written"]["dao_polars"]
    a_cell = written["bytes"] / written["cells"]
    shuffled, ordered = local(runs, "shuffled"), local(runs, "in order")
    writing = local(runs, "writing", "in order")
    loading = scale["found"]["loading all, random"]
    opening = scale["found"]["opening"]
    lines = [
        f"An atlas of {CELLS:,} cells in {DATASETS:,} datasets, with "
        f"{data['nnz'] / data['cells']:,.0f} "
        f"values a cell as the pancreas has them. What is **measured** is so on 2 cores: real "
        f"cells "
        f"in stores of {counts['cells']:,} ([Results](table.md), [over a "
        f"network](clouds.md)), and "
        f"{scale['datasets'] * scale['cells']:,} cells of 5 values ([at 100 million](scale.md)). "
        "The rest is reckoned from it, in the way that each line says.",
        "",
        "## One machine",
        "",
        row("what", "figure", "how"),
        row("---", "---:", "---"),
        row(
            "disk, counts",
            f"{CELLS * a_cell / 1e9:,.0f} GB",
            f"reckoned: {a_cell:,.0f} bytes a cell, measured with X and two columns of obs; "
            f"times cells",
        ),
        row(
            "files",
            f"{scale['files']:,}",
            f"measured with {scale['datasets']:,} datasets; a dataset whose arrays pass a "
            f"shard has more",
        ),
        row(
            "writing, one machine",
            time(CELLS / writing),
            f"reckoned: {writing:,.0f} cells/s, measured from .h5ad; datasets are written "
            f"beside each other",
        ),
        row("opening, and the LazyFrame", f"{opening['open']:.2f} s", "measured at "
        "100,000,000 cells"),
        row("a group_by of all cells", f"{opening['group_by']:.1f} s", "measured at "
        "100,000,000 cells"),
        row(
            "all cells shuffled, until batches can be asked for",
            f"{loading['ready']:.1f} s",
            "measured at 100,000,000 cells",
        ),
        row("until the first batch", f"{loading['first']:.1f} s", "measured at 100,000,000 "
        "cells"),
        row(
            "memory of a loader of all cells",
            f"{CELLS * loading['bytes_a_cell'] / 1e9:.1f} GB",
            f"measured: {loading['bytes_a_cell']:.1f} bytes a cell with one column of obs; on "
            f"every "
            "machine, since each knows the whole order",
        ),
        row(
            "a shuffled epoch from memory",
            time(CELLS / shuffled),
            f"reckoned: {shuffled:,.0f} cells/s, measured with the store in the page cache",
        ),
        row(
            "an epoch in order from memory",
            time(CELLS / ordered),
            f"reckoned: {ordered:,.0f} cells/s, likewise",
        ),
        row(
            "a shuffled epoch's reads from a disk",
            f"{shuffled * a_cell / 1e6:,.0f} MB/s",
            "reckoned: what a disk has to give at that rate; one that gives half makes it "
            "twice as long",
        ),
        "",
        "Not measured: an atlas that does not fit the page cache, on a disk; more than 2 cores.",
        "",
        "## From a bucket",
        "",
        "Rates, requests and bytes of a cell are measured over a line of that latency and "
        "width to a "
        "server of objects; an epoch is that, times cells. Each machine has a line of its own "
        "and its "
        "share of the epoch, so that times are divided by machines: that was measured only "
        "for up to "
        "8 ranks on one machine. Requests and bytes are of all machines together. The bucket is "
        "taken to give each machine what it gives one.",
        "",
        row("line", "order", "cells/s, one machine", "requests", "GB moved", *(
            f"{n} machine{'s' * (n > 1)}" for n in MACHINES
        )),
        row("---", "---", *["---:"] * (3 + len(MACHINES))),
    ]  # fmt: skip
    for line in LINES:
        for name, pattern, setting in (
            ("in order", "in order", ""),
            ("blocks, 256 × 64", "blocks", "256 × 64"),
            ("random", "random", ""),
        ):
            found = far(clouds, line, pattern, setting)
            epochs = (time(CELLS / found["rate"] / n) for n in MACHINES)
            lines.append(
                row(
                    f"{line[0]:.0f} ms, {line[1] * 8 / 1e9:.0f} Gbit/s",
                    name,
                    f"{found['rate']:,.0f}",
                    f"{CELLS * found['requests'] / 1e6:,.2f} million",
                    f"{CELLS * found['bytes'] / 1e9:,.0f}",
                    *epochs,
                )
            )
    lines += [
        "",
        "Opening asks for two files a dataset, 32 at a time (measured with 50 datasets). With "
        "`cache=` a "
        "second epoch asks for nothing, and is as fast as the disk that the cache is on.",
        "",
        "Random order asks for each cell alone, two ranges each: blocks cost a hundredth of "
        "the requests. "
        "A store that was written shuffled (`write_dataset(shuffle=True)`) makes blocks as "
        "mixed as "
        "random order.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    (RESULTS / "atlas.md").write_text(page())
    print(page())


if __name__ == "__main__":
    main()
