"""A process that writes to a store in a child when it is told to, for test_ladders.py.

It reads what to do (after a colon, the store that cells are of), a store's path and a dataset's
name, a line each, and prints the child's pid; the child begins at the next line, and how it ended
is printed. So a step costs a fork and no
imports.
"""

from __future__ import annotations

import ctypes
import os
import sys
import traceback
from collections.abc import Callable

import tqdm.auto  # noqa: F401 - or the first step would be its import

import dao_polars as dao
from tests.conftest import study

WRITTEN, REFUSED, BROKEN = 0, 3, 4
PR_SET_PTRACER, PR_SET_PTRACER_ANY = 0x59616D61, ctypes.c_ulong(-1)


def write(uri: str, dataset: str, _: str = "") -> int:
    return ended(
        lambda: dao.write_dataset(uri, study(1, 20, ["a", "b"]), dataset=dataset, progress=False)
    )


def select(uri: str, dataset: str, source: str) -> int:
    return ended(lambda: dao.scan(source).dao.write_dataset(uri, dataset=dataset, progress=False))


def copy(uri: str, dataset: str, source: str) -> int:
    return ended(lambda: dao.copy(source, uri, dataset, progress=False))


def index(uri: str, dataset: str, _: str = "") -> int:
    return ended(lambda: dao.load_store(uri).add_gene_index(dataset, progress=False))


CALLS = {"write": write, "select": select, "copy": copy, "index": index}


def ended(call: Callable[[], object]) -> int:
    try:
        call()
    except dao.DaoError:
        return REFUSED
    except BaseException:
        traceback.print_exc()
        return BROKEN
    return WRITTEN


def main() -> None:
    while line := sys.stdin.readline().strip():
        call, _, source = line.partition(":")
        uri, dataset = (sys.stdin.readline().strip() for _ in range(2))
        wait, go = os.pipe()
        if (pid := os.fork()) == 0:
            # Some systems let none but a parent trace a process.
            ctypes.CDLL(None).prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)
            os.read(wait, 1)
            os._exit(CALLS[call](uri, dataset, source))
        print(pid, flush=True)
        sys.stdin.readline()
        os.write(go, b"g")
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        os.close(wait)
        os.close(go)


if __name__ == "__main__":
    main()
