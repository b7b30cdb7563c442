"""What the logger says of look-ups, once all of it has come: a thread of its own brings it."""

from __future__ import annotations

import logging
import time

import pytest

import dao_polars as dao
from tests.conftest import SFAIRA


class Log:
    """The records of the logger, but for those that this makes itself."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        store = dao.load_store(SFAIRA)
        self._mark = store.var(store.datasets["id"][0])["var_name"][0]
        self._cell = store.scan().select("cell").head(1).collect()

    @property
    def records(self) -> list[logging.LogRecord]:
        """The records, with those of all look-ups until now: they come in order."""
        before = len(self._marks())
        self._cell.select(dao.gene(self._mark))
        for _ in range(1000):
            if len(self._marks()) > before:
                break
            time.sleep(0.01)
        return [record for record in self._caplog.records if record.args[0] != self._mark]

    def clear(self) -> None:
        """Forgets what was said until now."""
        assert self.records is not None
        self._caplog.clear()

    def _marks(self) -> list[logging.LogRecord]:
        return [record for record in self._caplog.records if record.args[0] == self._mark]
