"""One measurement of one contender that reads over a network, in this process.

    python remote.py CONTENDER PATTERN SETTING --data FOLDER --url URL [--batches N] [--seconds S]

Runs in the contender's own environment, beside measure.py, whose pieces it uses. What a contender
does is in ``peers/CONTENDER.py``, in

    CLOUDS    as READS of measure.py: what opens the store at ``task.url``, with credentials of the
              environment, and gives what begins an epoch
    BEFORE    by setting: epochs that are read before the one that is measured (caches)

It says on stdout when it has opened the store and when it has read, and waits after each for a
line on stdin: who started it looks meanwhile at what went over the line. What it measured comes
last.

Some load cells by the ten thousand and hand them out in batches. So the time that an epoch may take
begins with its first batch, when it is up batches are taken as long as one follows the other at
once, and the clock, which began with the epoch, stops at the last of them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from measure import Sampled, Sums, Task, check, load, memory

AT_ONCE = 0.05  # seconds: a batch that was there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("contender", "pattern", "setting"):
        parser.add_argument(name)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--url")
    parser.add_argument("--batches", type=int, default=0, help="to be content with; 0 is an epoch")
    parser.add_argument("--seconds", type=float, default=10, help="from the first batch, at most")
    args = parser.parse_args()
    # What a contender prints must not come between what we say.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(what: dict) -> None:
        print(json.dumps(what), file=out, flush=True)

    def say(event: str) -> None:
        tell({"event": event})
        sys.stdin.readline()

    peer = load(args.contender)
    task = Task(args.data, None, args.pattern)
    task.url = args.url
    tell({"event": "result", **read(peer, task, args, say)})
    os._exit(0)  # not waiting for what some read ahead


def read(peer, task: Task, args: argparse.Namespace, say) -> dict:
    """Opens, then reads an epoch or the beginning of one, whose values are summed as they come."""
    imports = {"imports": memory("VmHWM"), "imports_anon": memory("RssAnon")}
    with Sampled(0.02) as sampled:
        began = time.perf_counter()
        epoch = peer.CLOUDS[args.pattern][args.setting](task)
        opening = time.perf_counter() - began
        for _ in range(getattr(peer, "BEFORE", {}).get(args.setting, 0)):
            for _batch in epoch():
                pass
        say("opened")
        sums, first, seconds = drain(epoch, args, say)
    cells = task.data["cells"]
    part = sums.cells < cells
    if part and not args.batches and seconds < first + args.seconds:
        raise SystemExit(f"{sums.cells:,} cells were delivered, not {cells:,}")
    check(task.data, args.pattern, sums, None if part else [cells])
    return {
        "cells": sums.cells,
        "seconds": seconds,
        "opening": opening,
        "first": opening + first,
        "part": part,
        "peak": memory("VmHWM"),
        "anon": sampled.peak,
        **imports,
    }


def drain(epoch, args: argparse.Namespace, say) -> tuple:
    """Sums of what came, and the seconds until the first and the last batch."""
    sums, first, seconds = Sums(), None, 0.0
    began = asked = time.perf_counter()
    over = False
    for batches, (x, _samples) in enumerate(epoch(), 1):
        if over and time.perf_counter() - asked > AT_ONCE:
            break
        sums.count(x)
        seconds = time.perf_counter() - began
        first = seconds if first is None else first
        over = seconds > first + args.seconds
        if over or batches == args.batches:
            say("read")
        if batches == args.batches:
            break
        asked = time.perf_counter()
    else:
        say("read")
    if first is None:
        raise SystemExit("no batch was delivered")
    return sums, first, seconds


if __name__ == "__main__":
    main()
