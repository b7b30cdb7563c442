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

#: Says at DEBUG how cells were looked up: by rows, by the gene index, from totals.
LOGGER = logging.getLogger("dao_polars")

_lock = threading.Lock()
_thread: tuple[int, threading.Thread] | None = None  # and whose process it is


def log_if_wanted() -> None:
    """Starts logging how cells are looked up, where the logger is at DEBUG."""
    global _thread
    if not LOGGER.isEnabledFor(logging.DEBUG):
        return
    with _lock:
        if _thread is None or _thread[0] != os.getpid():
            keep_reports(True)
            thread = threading.Thread(target=_log, name="dao-reports", daemon=True)
            thread.start()
            _thread = os.getpid(), thread


def _log() -> None:
    while report := next_report():
        LOGGER.debug("%s for %d cells; datasets: %s", *report)


@atexit.register
def _stop() -> None:
    """Ends the thread before the interpreter does."""
    if _thread is not None and _thread[0] == os.getpid():
        keep_reports(False)
        _thread[1].join()


def _fork() -> None:
    global _lock
    _lock = threading.Lock()


# In a forked child the lock may be held by a thread that does not exist there.
os.register_at_fork(after_in_child=_fork)
