"""The ledger is true: each test and folder that docs/trust.md names is there."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

LEDGER = ROOT / "docs" / "trust.md"
TEXT = LEDGER.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:tests|src)/[^`]+)`", TEXT))))
def test_a_test_that_the_ledger_names(name):
    path, test = name.split("::")
    code = (ROOT / path).read_text(encoding="utf-8")
    assert re.search(rf"^\s*(def|fn) {test}\(", code, re.MULTILINE), name


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_a_file_that_the_ledger_names(path):
    assert (LEDGER.parent / path).exists()


def test_the_ledger_has_its_tests():
    assert len(re.findall(r"::test_", TEXT)) > 10
