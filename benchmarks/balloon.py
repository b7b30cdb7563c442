"""Memory that is held by nobody's work, so that a store is larger than what is left.

For machines where no memory can be taken away by a cgroup. Without swap, pages that were touched
stay where they are; the kernel takes what it needs for others from the page cache.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import signal
import time
from pathlib import Path

STEP = 1 << 28
ROOM = 1 << 30  # so much is always left: less stops a machine


def available() -> int:
    """Bytes that could be had: free ones, and those of the page cache."""
    found = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    return int(found[1]) * 1024


class Balloon(contextlib.AbstractContextManager):
    """Leaves ``left`` bytes of memory while it is entered. Where others need more after all, the
    kernel ends it first."""

    def __init__(self, left: int) -> None:
        if left < ROOM:
            raise SystemExit(f"--memory: at least {ROOM / 1e9:.1f} GB")
        swap = re.search(r"SwapTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
        if int(swap[1]):
            raise SystemExit("--memory: not where there is swap; turn it off, or use a cgroup")
        self.left = left

    def __enter__(self) -> Balloon:
        self.child = os.fork()
        if self.child == 0:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            Path("/proc/self/oom_score_adj").write_text("1000")
            parent, held = os.getppid(), []
            while os.getppid() == parent:
                if available() > self.left + STEP:
                    held.append(filled(STEP))
                else:
                    time.sleep(0.1)
            os._exit(0)
        while available() > self.left + 2 * STEP and self.alive():
            time.sleep(0.1)
        return self

    def alive(self) -> bool:
        ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.child, ended) is None

    def __exit__(self, *exception: object) -> None:
        if not self.alive():
            raise SystemExit("--memory: the machine needed what was held: figures are of more")
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)


def filled(size: int) -> mmap.mmap:
    space = mmap.mmap(-1, size)
    for page in range(0, size, mmap.PAGESIZE):
        space[page] = 1
    return space
