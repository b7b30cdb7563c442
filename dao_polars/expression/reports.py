"""Log lines that say how cells were looked up.

Owns the logger ``dao_polars`` and the thread that brings the core's reports to it: the plugin
calls no Python. The thread is there once an expression was made while the logger was at DEBUG.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading

from .._core import keep_reports, next_report

LOGGER = logging.getLogger("dao_polars")

_lock = threading.Lock()
_thread: threading.Thread | None = None


def log_if_wanted() -> None:
    """Starts logging how cells are looked up, where the logger is at DEBUG."""
    global _thread
    if not LOGGER.isEnabledFor(logging.DEBUG):
        return
    with _lock:
        if _thread is None:
            keep_reports(True)
            _thread = threading.Thread(target=_log, name="dao-reports", daemon=True)
            _thread.start()


def _log() -> None:
    while report := next_report():
        LOGGER.debug("%s for %d cells; datasets: %s", *report)


@atexit.register
def _stop() -> None:
    """Ends the thread before the interpreter does."""
    if _thread is not None:
        keep_reports(False)
        _thread.join()


def _fork() -> None:
    """Forgets the thread, which a forked child lacks, and the lock, which may stay shut there."""
    global _lock, _thread
    _lock, _thread = threading.Lock(), None


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_fork)
