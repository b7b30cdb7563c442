"""Two stores that are read as one, for the tests of them; none changes these."""

from __future__ import annotations

import numpy as np
import pytest

from tests.several import PANEL, values_of_each, write_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def expected(pair: tuple[str, str]) -> dict[int, np.ndarray]:
    """The values of the panel by the keys that both stores' cells have together."""
    keys, values = values_of_each(PANEL, *pair)
    return dict(zip(keys.tolist(), values, strict=True))
