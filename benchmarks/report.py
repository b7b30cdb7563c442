"""results.json, table.md and plot.png from the runs of a benchmark."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bars import OURS, Figures, bars

from data import Data

TITLES = {
    "in order": "In order",
    "shuffled": "Shuffled",
    "first epoch": "Shuffled, the first epoch of a process, with opening",
    "batches of 256": "Shuffled, batches of 256",
    "selection": "Shuffled, through a selection",
    "dense": "Shuffled, 2,000 genes, dense",
    "to_anndata": "Everything as AnnData",
    "writing": "Writing, from .h5ad",
}
Runs = dict[tuple[str, str, str], list[dict[str, Any]]]


@dataclass(frozen=True)
class Results:
    """What is known of one part of the benchmark. ``data`` is None where it was ``skipped``."""

    title: str
    cells: int
    data: Data | None
    skipped: str
    runs: Runs
    written: dict[str, Any]

    @property
    def heading(self) -> str:
        return f"{self.cells:,} cells: {self.title}" if self.title else ""


def machine(cores: int | None) -> dict[str, Any]:
    """What it ran on."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": cores or len(os.sched_getaffinity(0)),
        "memory": int(memory[1]) * 1024,
        "kernel": platform.release(),
        "load": round(os.getloadavg()[2], 1),
        "commit": commit.stdout.strip(),
        "date": datetime.date.today().isoformat(),
    }


def write(folder: Path, **said: Any) -> None:
    """Everything that is known now; written again after each round."""
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Results] = said["parts"]
    figures = {name: Figures(part.runs, part.written) for name, part in parts.items()}
    none = Figures({}, {})
    cells = {name: part.cells for name, part in parts.items()}
    judged = bars(
        figures.get("counts", none),
        figures.get("large", none),
        cells.get("counts", 200_000),
        cells.get("large", 1_000_000),
    )
    (folder / "table.md").write_text("\n".join(table(said, judged)) + "\n")
    (folder / "results.json").write_text(
        json.dumps(
            {
                **{k: said[k] for k in ("machine", "settings", "contenders", "skipped")},
                "bars": [asdict(b) | {"ratio": b.ratio, "met": b.met} for b in judged],
                "parts": {
                    name: {
                        "cells": part.cells,
                        "data": asdict(part.data) if part.data else None,
                        "skipped": part.skipped,
                        "written": part.written,
                        "runs": records(part.runs),
                    }
                    for name, part in parts.items()
                },
            },
            indent=1,
            ensure_ascii=False,
        )
    )
    plot(folder / "plot.png", said)


def records(runs: Runs) -> list[dict[str, Any]]:
    return [
        {"pattern": pattern, "contender": name, "setting": setting, "runs": each}
        for (pattern, name, setting), each in runs.items()
    ]


def table(said: dict[str, Any], judged: list) -> list[str]:
    m, settings = said["machine"], said["settings"]
    lines = [
        f"{m['cpu']}, {m['cores']} cores, {m['memory'] / 2**30:.0f} GiB, Linux {m['kernel']}; "
        f"dao-polars {m['commit']}, {m['date']} (load {m['load']}). "
        f"Medians of up to {settings['repeats']} runs, "
        f"{'cold' if settings['cold'] else 'warm'} page cache"
        + (f", {settings['memory']:g} GB of memory left." if settings["memory"] else "."),
        "",
    ]
    if "counts" in said["parts"] and not settings["cold"] and not settings["memory"]:
        lines += [
            "| bar | ours | beside | ratio | needed | |",
            "|---|---:|---:|---:|---:|---|",
        ]
        for bar in judged:
            verdict = {True: "met", False: "**not met**", None: "not measured"}[bar.met]
            ratio = "" if bar.ratio is None else f"{bar.ratio:.2f}"
            lines.append(
                f"| {bar.text} | {quantity(bar.ours, bar.unit)} | {quantity(bar.theirs, bar.unit)} "
                f"| {ratio} | {bar.needed} | {verdict} |"
            )
    for part in said["parts"].values():
        lines += part_table(said, part)
    lines += ["", "## Who", ""]
    for listing in said["contenders"].values():
        versions = ", ".join(f"{name} {number}" for name, number in listing["versions"].items())
        lines.append(f"- {listing['note']} ({versions})")
    for name, reason in said["skipped"].items():
        lines.append(f"- {name}: skipped, {reason}")
    return lines


def part_table(said: dict[str, Any], part: Results) -> list[str]:
    lines = ["", f"## {part.heading or f'{part.cells:,} cells'}", ""]
    data = part.data
    if data is None:
        return [*lines, f"Skipped: {part.skipped}."]
    lines.append(
        f"{data.genes:,} genes, {data.nnz / data.cells:,.0f} values a cell; the selection is "
        f"`cell_type == {data.cell_type!r}`, {data.selected:,} cells "
        f"({data.selected / data.cells:.1%})."
    )
    for pattern, title in TITLES.items():
        rows = ranked(part.runs, pattern)
        if rows:
            lines += ["", f"**{title}**", "", *pattern_table(said, rows)]
    sizes = {n: w for n, w in part.written.items() if w.get("bytes")}
    lines += ["", "**On disk**", "", "| | all MB | values MB | bytes a value |"]
    lines += ["|---|---:|---:|---:|"]
    for name, written in sorted(sizes.items(), key=lambda item: item[1]["bytes"]):
        title = said["contenders"][name]["title"]
        counts = written["counts_bytes"]
        each = "" if counts is None else f"{counts / data.nnz:.2f}"
        size = quantity(counts, "MB").removesuffix(" MB")
        lines.append(f"| {title} | {written['bytes'] / 1e6:,.0f} | {size} | {each} |")
    lines.append(f"| the .h5ad | {data.bytes / 1e6:,.0f} | | {data.bytes / data.nnz:.2f} |")
    failed = [
        f"- {name}, {pattern} {setting}: failed, {run['error']}"
        for (pattern, name, setting), runs in part.runs.items()
        for run in runs
        if "error" in run
    ]
    return [*lines, "", *failed] if failed else lines


def pattern_table(said: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    ours = max((row["rate"] for row in rows if row["name"] == OURS), default=None)
    lines = [
        "| | setting | mixed | cells/s | lowest to highest | ours is | anonymous MB | peak MB "
        "| opening s | cells | runs |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        times = f"{ours / row['rate']:,.1f} ×" if ours and row["name"] != OURS else ""
        opening = "" if row["opening"] is None else f"{row['opening']:.2f}"
        mixed = "" if row["mixed"] is None else f"{row['mixed']:.2f}"
        cells = f"{row['cells']:,}{' of the epoch' if row['part'] else ''}"
        title = said["contenders"][row["name"]]["title"]
        lines.append(
            f"| {title} | {row['setting'] or 'as said below'} | {mixed} | {three(row['rate'])} "
            f"| {three(row['low'])} to {three(row['high'])} | {times} | {row['anon'] / 1e6:,.0f} "
            f"| {row['above'] / 1e6:,.0f} | {opening} | {cells} | {row['runs']} |"
        )
    return lines


def ranked(runs: Runs, pattern: str) -> list[dict[str, Any]]:
    """Medians of each contender and setting, the fastest first."""
    rows = []
    for (of, name, setting), all_runs in runs.items():
        each = [run for run in all_runs if "error" not in run]
        if of != pattern or not each:
            continue
        rates = [run["cells"] / run["seconds"] for run in each]
        rows.append(
            {
                "pattern": pattern,
                "name": name,
                "setting": setting,
                "rate": median(rates),
                "low": min(rates),
                "high": max(rates),
                "above": median(run["peak"] - run["imports"] for run in each),
                "anon": median(run["anon"] - run["imports_anon"] for run in each),
                "mixed": each[0].get("diversity"),
                "opening": median(run["opening"] for run in each) if "opening" in each[0] else None,
                "cells": each[0]["cells"],
                "runs": len(each),
                "part": each[0].get("part", False),
            }
        )
    return sorted(rows, key=lambda row: -row["rate"])


def label(said: dict[str, Any], row: dict[str, Any]) -> str:
    title = said["contenders"][row["name"]]["title"]
    return f"{title}, {row['setting']}" if row["setting"] else title


def three(number: float) -> str:
    """Three significant figures."""
    return f"{float(f'{number:.3g}'):,.0f}"


def quantity(number: float | None, unit: str) -> str:
    if number is None:
        return ""
    return f"{number / 1e6:,.0f} MB" if unit == "MB" else three(number)


def plot(path: Path, said: dict[str, Any]) -> None:
    """A panel a pattern, a bar a contender and setting, log scales; memory and size, linear. Of
    the parts, those of the same cells as the first one."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    known = {name: part for name, part in said["parts"].items() if part.data is not None}
    cells = next(iter(known.values())).cells if known else 0
    panels = [
        panel
        for name, part in known.items()
        if part.cells == cells
        for panel in part_panels(said, part, "" if name == "counts" else f"{name}: ")
    ]
    if not panels:
        return
    lines = [panels[at : at + 2] for at in range(0, len(panels), 2)]
    heights = [max(len(bars_) for _, bars_, _ in line) + 2 for line in lines]
    figure = plt.figure(figsize=(13, 0.27 * sum(heights) + 0.8), layout="constrained")
    grid = figure.add_gridspec(len(lines), 2, height_ratios=heights)
    for number, line in enumerate(lines):
        for column, (title, bars_, log) in enumerate(line):
            axes = figure.add_subplot(grid[number, column])
            draw(axes, title, bars_, log, heights[number] - 2)
    m, data = said["machine"], next(iter(known.values())).data
    figure.suptitle(
        f"{data.cells:,} cells × {data.genes:,} genes; {m['cpu']}, {m['cores']} "
        f"cores, {m['date']}" + ("" if not starred(panels) else "; * a part of the epoch"),
        fontsize=11,
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def part_panels(said: dict[str, Any], part: Results, of: str) -> list[tuple[str, list, bool]]:
    """Titles that begin with ``of``, bars, and whether their scale is logarithmic."""

    def bar(row: dict[str, Any], value: float, text: str) -> tuple[str, float, str, bool]:
        star = "*" if row["part"] else ""
        return label(said, row) + star, value, text, row["name"] == OURS

    panels = []
    for pattern, title in TITLES.items():
        rows = ranked(part.runs, pattern)
        if pattern == "selection" and rows:
            title = f"{title}: {part.data.selected / part.data.cells:.1%} of the cells"
        if rows:
            bars_ = [bar(row, row["rate"], three(row["rate"])) for row in rows]
            panels.append((f"{title} (cells a second)", bars_, True))
    rows = sorted(ranked(part.runs, "shuffled"), key=lambda row: row["anon"])
    if rows:
        bars_ = [bar(row, row["anon"] / 1e6, f"{row['anon'] / 1e6:,.0f}") for row in rows]
        panels.append(("Anonymous memory above imports, shuffled (MB)", bars_, False))
    sizes = sorted(
        (w["counts_bytes"] / 1e6, name) for name, w in part.written.items() if w["counts_bytes"]
    )
    if sizes:
        bars_ = [
            (said["contenders"][name]["title"], size, f"{size:,.0f}", name == OURS)
            for size, name in sizes
        ]
        panels.append(("Values on disk (MB)", bars_, False))
    return [(of + title, bars_, log) for title, bars_, log in panels]


def starred(panels: list) -> bool:
    return any(name.endswith("*") for _, bars_, _ in panels for name, *_ in bars_)


def draw(axes: Any, title: str, bars_: list, log: bool, rows: int) -> None:
    values = [value for _, value, _, _ in bars_]
    axes.barh(
        range(len(bars_)),
        values,
        color=["#d1495b" if ours else "#9db4c0" for *_, ours in bars_],
        height=0.72,
    )
    axes.set_yticks(range(len(bars_)), [name for name, *_ in bars_], fontsize=9)
    for at, (_, value, text, ours) in enumerate(bars_):
        weight = "bold" if ours else "normal"
        axes.annotate(
            text, (value, at), (4, 0), textcoords="offset points", va="center", fontsize=8,
            fontweight=weight,
        )  # fmt: skip
        if ours:
            axes.get_yticklabels()[at].set_fontweight("bold")
    axes.set_ylim(rows - 0.4, -0.6)
    if log:
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 3, max(values) * 4)
        axes.xaxis.set_minor_formatter("")
    else:
        axes.set_xlim(0, max(values) * 1.18)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
