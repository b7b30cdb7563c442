"""What Python parses of stores and sources: any bytes are a value or a DaoError, and no code runs.

The default run is some hundred cases, always the same. ``DAO_FUZZ_SECONDS`` a target goes on with
others, as ``make fuzz`` does; ``DAO_FUZZ_SEED`` repeats a run. What fails is kept in fuzz/failures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zlib

import pytest

from tests.conftest import ROOT
from tests.whole import fuzz

#: The cases of the default run.
CASES = {"pickle": 1000, "uns": 700, "pandas": 60, "notes": 300, "source": 30}
FAILURES = ROOT / "fuzz" / "failures"


@pytest.mark.parametrize("target", CASES)
def test_any_bytes_are_a_value_or_an_error(target, tmp_path):
    seconds = os.environ.get("DAO_FUZZ_SECONDS")
    seed = int(os.environ.get("DAO_FUZZ_SEED", 0 if seconds is None else time.time_ns()))
    cases = 0 if seconds else CASES[target]
    command = [target, seed, cases, seconds or 0, tmp_path / "case"]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.whole.fuzz", *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        # Each thread and each heap of the allocator takes address space: as many on any machine.
        env=os.environ | {"POLARS_MAX_THREADS": "2", "MALLOC_ARENA_MAX": "2"},
    )
    said = ran.stdout.strip()
    if ran.returncode or not said.endswith("pass"):
        case = int.from_bytes((tmp_path / "case").read_bytes(), "little")
        fuzz.Stores.folder = tmp_path
        data = fuzz.made(target, seed, case)
        FAILURES.mkdir(exist_ok=True)
        file = FAILURES / f"{target}-{zlib.crc32(data):08x}"
        file.write_bytes(data)
        pytest.fail(
            f"{target}: case {case} of DAO_FUZZ_SEED={seed}, {file}: {said} "
            f"(exit {ran.returncode})\n{ran.stderr[-3000:]}"
        )
    print(f"fuzz {target}: {said}, DAO_FUZZ_SEED={seed}")


def test_each_target_has_cases():
    assert CASES.keys() == fuzz.TARGETS.keys()
