"""clouds.json and clouds.md from the measurements of clouds.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from environments import OURS
from report import three

BATCH = 1024
PATTERNS = {"in order": "In order", "blocks": "Blocks, shuffled", "random": "Random"}


def row(run: dict[str, Any], needed: float, width: float) -> dict[str, Any]:
    """The figures of a measurement, where a cell has ``needed`` bytes in the contender's store and
    the line has a ``width`` in bytes a second."""
    opened, read = run["line"]["opened"], run["line"]["read"]
    rate = run["cells"] / run["seconds"]
    return {
        "rate": rate,
        "first": run["first"],
        "requests": sum(read["requests"].values()) / run["cells"] * BATCH,
        "moved": read["bytes_down"] / (needed * run["cells"]),
        "share": rate * needed / width,
        "opening_requests": sum(opened["requests"].values()),
        "opening_bytes": opened["bytes_down"],
        "most": read["most_in_flight"],
        "anon": run["anon"] - run["imports_anon"],
        "peak": run["peak"] - run["imports"],
    }


def write(folder: Path, **said: Any) -> None:
    """Everything that is known now; written again after each line."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clouds.md").write_text("\n".join(page(said)) + "\n", encoding="utf-8")
    kept = {
        **{key: value for key, value in said.items() if key not in ("runs", "widths")},
        "lines": [
            {
                "latency_ms": ms,
                "width": width,
                "alone": said["widths"].get((ms, width)),
                "runs": runs,
            }
            for (ms, width), runs in said["runs"].items()
        ],
    }
    text = json.dumps(kept, indent=1, ensure_ascii=False)
    (folder / "clouds.json").write_text(text + "\n", encoding="utf-8")


def page(said: dict[str, Any]) -> list[str]:
    m, settings = said["machine"], said["settings"]
    much = f"{settings['batches']} batches" if settings["batches"] else "an epoch"
    lines = [
        f"{m['cpu']}, {m['cores']} cores, {m['memory'] / 2**30:.0f} GiB, Linux {m['kernel']}; "
        f"dao-polars {m['commit']}, {m['date']} (load {m['load']}). {settings['cells']:,} cells, "
        f"batches of {BATCH:,}, one run of {much} or "
        f"of {settings['seconds']:g} seconds from the first batch. "
        "What is measured: [benchmarks/README.md](../README.md#over-a-network).",
    ]
    for pattern, title in PATTERNS.items():
        lines += summary(said, pattern, title)
    for (latency, width), runs in said["runs"].items():
        lines += ["", f"## {name_of(latency, width)}", ""]
        alone = said["widths"].get((latency, width))
        if alone:
            lines += [f"Without anybody to decode: {alone / 1e6:,.0f} MB/s.", ""]
        for pattern, title in PATTERNS.items():
            lines += details(said, width, [r for r in runs if r["pattern"] == pattern], title)
    lines += ["", "## Who", ""]
    for name, listing in said["contenders"].items():
        versions = ", ".join(f"{what} {number}" for what, number in listing["versions"].items())
        lines.append(f"- {listing['note']} {said['needed'][name]:,.0f} bytes a cell. ({versions})")
    lines += [f"- {name}: not measured, {why}" for name, why in said["missing"].items()]
    return lines


def name_of(latency: float, width: float) -> str:
    wide = f"{width / 1e9:g} GB/s" if width >= 1e9 else f"{width / 1e6:g} MB/s"
    return f"{latency:g} ms, {wide}"


def label(said: dict[str, Any], run: dict[str, Any]) -> str:
    title = said["contenders"][run["contender"]]["title"]
    text = ", ".join(part for part in (title, run["setting"]) if part)
    return f"**{text}**" if run["contender"] == OURS else text


def summary(said: dict[str, Any], pattern: str, title: str) -> list[str]:
    """Cells a second of all lines side by side, and the share of the line that is."""
    found: dict[str, dict[tuple[float, float], str]] = {}
    for line, runs in said["runs"].items():
        for run in (run for run in runs if run["pattern"] == pattern):
            cell = "failed"
            if "error" not in run:
                figures = row(run, said["needed"][run["contender"]], line[1])
                cell = f"{three(figures['rate'])} ({figures['share']:.0%})"
            found.setdefault(label(said, run), {})[line] = cell
    if not found:
        return []
    head = " | ".join(name_of(*line) for line in said["runs"])
    lines = ["", f"**{title}: cells/s, and the share of the line that the needed bytes have**", ""]
    lines += [f"| | {head} |", "|---|" + "---:|" * len(said["runs"])]
    for name, cells in found.items():
        lines.append(f"| {name} | {' | '.join(cells.get(x, '') for x in said['runs'])} |")
    return lines


def details(said: dict[str, Any], width: float, runs: list[Any], title: str) -> list[str]:
    rows = [
        (label(said, run), run, row(run, said["needed"][run["contender"]], width))
        for run in runs
        if "error" not in run
    ]
    lines = [f"**{title}**", ""] if runs else []
    if rows:
        lines += [
            "| | cells/s | first batch s | requests per 1,024 cells | most at once "
            "| moved by needed | share of the line | to open | anonymous MB | peak MB | cells |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
    for name, run, one in sorted(rows, key=lambda entry: -entry[2]["rate"]):
        lines.append(
            f"| {name} | {three(one['rate'])} | {one['first']:.2f} | {one['requests']:,.1f} "
            f"| {one['most']} | {one['moved']:.2f} | {one['share']:.1%} "
            f"| {one['opening_requests']} requests, {one['opening_bytes'] / 1e6:.1f} MB "
            f"| {one['anon'] / 1e6:,.0f} | {one['peak'] / 1e6:,.0f} "
            f"| {run['cells']:,}{' of the epoch' if run['part'] else ''} |"
        )
    lines += [""] if rows else []
    failed = [f"- {label(said, run)}: failed, {run['error']}" for run in runs if "error" in run]
    return lines + (([*failed, ""]) if failed else [])
