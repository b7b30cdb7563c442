"""results.json, table.md and plot.png from the runs of a benchmark."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from bars import OURS, Figures, bars

TITLES = {
    "in order": "In order",
    "shuffled": "Shuffled",
    "selection": "Shuffled, through a selection",
    "dense": "Shuffled, 2,000 genes, dense",
    "to_anndata": "Everything as AnnData",
    "writing": "Writing, from .h5ad",
}
Runs = dict[tuple[str, str, str], list[dict[str, Any]]]


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


def write(folder: Path, **parts: Any) -> None:
    """Everything that is known now; written again after each round."""
    folder.mkdir(parents=True, exist_ok=True)
    here = Figures(parts["runs"], parts["written"])
    large = Figures(parts["large_runs"], {})
    large_cells = parts["large"].cells if parts["large"] else 1_000_000
    judged = bars(here, large, parts["data"].cells, large_cells)
    lines = table(parts, judged)
    (folder / "table.md").write_text("\n".join(lines) + "\n")
    (folder / "results.json").write_text(
        json.dumps(
            {
                **{
                    k: parts[k] for k in ("machine", "settings", "contenders", "skipped", "written")
                },
                "data": asdict(parts["data"]),
                "large": asdict(parts["large"]) if parts["large"] else None,
                "bars": [asdict(b) | {"ratio": b.ratio, "met": b.met} for b in judged],
                "runs": records(parts["runs"]),
                "large_runs": records(parts["large_runs"]),
            },
            indent=1,
            ensure_ascii=False,
        )
    )
    plot(folder / "plot.png", parts)


def records(runs: Runs) -> list[dict[str, Any]]:
    return [
        {"pattern": pattern, "contender": name, "setting": setting, "runs": each}
        for (pattern, name, setting), each in runs.items()
    ]


def table(parts: dict[str, Any], judged: list) -> list[str]:
    m, data, settings = parts["machine"], parts["data"], parts["settings"]
    share = data.selected / data.cells
    lines = [
        f"{m['cpu']}, {m['cores']} cores, {m['memory'] / 2**30:.0f} GiB, Linux {m['kernel']}; "
        f"dao-polars {m['commit']}, {m['date']} (load {m['load']}).  ",
        f"{data.cells:,} cells × {data.genes:,} genes, {data.nnz / data.cells:,.0f} values a cell; "
        f"the selection is `cell_type == {data.cell_type!r}`, {data.selected:,} cells "
        f"({share:.1%}). Medians of up to {settings['repeats']} runs, "
        f"{'cold' if settings['cold'] else 'warm'} page cache.",
        "",
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
    for pattern, title in TITLES.items():
        rows = ranked(parts["runs"], pattern)
        if rows:
            lines += ["", f"**{title}**", "", *pattern_table(parts, rows)]
    large = [row for pattern in TITLES for row in ranked(parts["large_runs"], pattern)]
    if large:
        lines += ["", f"**dao-polars, {parts['large'].cells:,} cells**", ""]
        lines += ["| | cells/s | peak MB above imports | keys and obs MB |", "|---|---:|---:|---:|"]
        lines += [
            f"| {TITLES[r['pattern']]} | {three(r['rate'])} | {r['above'] / 1e6:,.0f} "
            f"| {r['held'] / 1e6:,.0f} |"
            for r in large
        ]
    sizes = {n: w for n, w in parts["written"].items() if w.get("bytes")}
    lines += ["", "**On disk**", "", "| | all MB | counts MB |", "|---|---:|---:|"]
    for name, written in sorted(sizes.items(), key=lambda item: item[1]["bytes"]):
        title = parts["contenders"][name]["title"]
        counts = quantity(written["counts_bytes"], "MB")
        lines.append(f"| {title} | {written['bytes'] / 1e6:,.0f} | {counts.removesuffix(' MB')} |")
    lines += [f"| the .h5ad (gzip) | {data.bytes / 1e6:,.0f} | |", "", "**Who**", ""]
    for listing in parts["contenders"].values():
        versions = ", ".join(f"{name} {number}" for name, number in listing["versions"].items())
        lines.append(f"- {listing['note']} ({versions})")
    for name, reason in parts["skipped"].items():
        lines.append(f"- {name}: skipped, {reason}")
    for (pattern, name, setting), runs in parts["runs"].items():
        errors = [run["error"] for run in runs if "error" in run]
        if errors:
            lines.append(f"- {name}, {pattern} {setting}: failed, {errors[0]}")
    return lines


def pattern_table(parts: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    ours = max((row["rate"] for row in rows if row["name"] == OURS), default=None)
    lines = [
        "| | cells/s | lowest to highest | ours is | peak MB (above imports) | opening s | cells "
        "| runs |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        times = f"{ours / row['rate']:,.1f} ×" if ours and row["name"] != OURS else ""
        opening = "" if row["opening"] is None else f"{row['opening']:.2f}"
        memory = f"{row['peak'] / 1e6:,.0f} ({row['above'] / 1e6:,.0f})"
        cells = f"{row['cells']:,}{' of the epoch' if row['part'] else ''}"
        lines.append(
            f"| {label(parts, row)} | {three(row['rate'])} | {three(row['low'])} to "
            f"{three(row['high'])} | {times} | {memory} | {opening} | {cells} | {row['runs']} |"
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
                "peak": median(run["peak"] for run in each),
                "above": median(run["peak"] - run["imports"] for run in each),
                "opening": median(run["opening"] for run in each) if "opening" in each[0] else None,
                "held": each[0].get("held", 0),
                "cells": each[0]["cells"],
                "runs": len(each),
                "part": each[0].get("part", False),
            }
        )
    return sorted(rows, key=lambda row: -row["rate"])


def label(parts: dict[str, Any], row: dict[str, Any]) -> str:
    title = parts["contenders"][row["name"]]["title"]
    return f"{title}, {row['setting']}" if row["setting"] else title


def three(number: float) -> str:
    """Three significant figures."""
    return f"{float(f'{number:.3g}'):,.0f}"


def quantity(number: float | None, unit: str) -> str:
    if number is None:
        return ""
    return f"{number / 1e6:,.0f} MB" if unit == "MB" else three(number)


def plot(path: Path, parts: dict[str, Any]) -> None:
    """A panel a pattern, a bar a contender and setting, log scales; memory and size, linear."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def bar(row: dict[str, Any], value: float, text: str) -> tuple[str, float, str, bool]:
        star = "*" if row["part"] else ""
        return label(parts, row) + star, value, text, row["name"] == OURS

    panels = []
    for pattern, title in TITLES.items():
        rows = ranked(parts["runs"], pattern)
        if pattern == "selection" and rows:
            title = f"{title}: {parts['data'].selected / parts['data'].cells:.1%} of the cells"
        if rows:
            bars_ = [bar(row, row["rate"], three(row["rate"])) for row in rows]
            panels.append((f"{title} (cells a second)", bars_, True))
    rows = sorted(ranked(parts["runs"], "shuffled"), key=lambda row: row["above"])
    if rows:
        bars_ = [bar(row, row["above"] / 1e6, f"{row['above'] / 1e6:,.0f}") for row in rows]
        panels.append(("Peak memory above imports, shuffled (MB)", bars_, False))
    sizes = sorted(
        (w["counts_bytes"] / 1e6, name) for name, w in parts["written"].items() if w["counts_bytes"]
    )
    if sizes:
        bars_ = [
            (parts["contenders"][name]["title"], size, f"{size:,.0f}", name == OURS)
            for size, name in sizes
        ]
        panels.append(("Counts on disk (MB)", bars_, False))
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
    m = parts["machine"]
    figure.suptitle(
        f"{parts['data'].cells:,} cells × {parts['data'].genes:,} genes; {m['cpu']}, {m['cores']} "
        f"cores, {m['date']}" + ("" if not starred(panels) else "; * a part of the epoch"),
        fontsize=11,
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


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
