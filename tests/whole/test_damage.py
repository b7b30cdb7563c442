"""Every file and folder of a store damaged in every way and read in every way: values or an error.

`DAO_DAMAGE_SEEDS=50` flips 50 bits of each file, and cuts it at 50 places; at one otherwise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.whole import damage

LIMIT = 600 * int(os.environ.get("DAO_DAMAGE_SEEDS", "1"))  # seconds that none needs

# Each thread's arena takes address space, which the limit is not about.
ENVIRONMENT = {**os.environ, "MALLOC_ARENA_MAX": "2"}


@pytest.mark.parametrize("kind", damage.KINDS)
def test_damage_is_an_error_and_never_a_value(tmp_path, kind):
    seeds = os.environ.get("DAO_DAMAGE_SEEDS", "1")
    ran = subprocess.run(
        [sys.executable, "-m", "tests.whole.damage", tmp_path, kind, seeds],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
        timeout=LIMIT,
    )
    case = tmp_path / "case"
    assert ran.returncode == 0, (
        case.exists() and case.read_text(),
        ran.returncode,
        ran.stderr[-2000:],
    )
    *failed, n_cases = map(json.loads, ran.stdout.splitlines())
    assert n_cases > (50 if kind != "shards" else 1)
    assert not failed, "\n".join(
        [
            f"{len(failed)} of {n_cases} cases:",
            *(f"{case['path']}: {case['damage']}: {case['wrong']}" for case in failed),
        ]
    )
