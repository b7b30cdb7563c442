"""A progress bar for long work: shown on a terminal or in a notebook, never a failure."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHOWN_AFTER = 0.5  # seconds: what ends before needs no bar


@contextmanager
def progress_bar(
    progress: bool | None, *, total: int, unit: str, label: str
) -> Iterator[Callable[[int], object]]:
    """A context that gives a function to call with each amount of work done.

    Args:
        progress: True or False to force the bar; None shows one where a person is looking, unless
            TQDM_DISABLE is set, which tqdm heeds on terminals alone.
        total: amount of work.
        unit: what it is counted in, singular.
        label: what is being done.
    """
    shown = _is_watched() if progress is None else progress
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about missing notebook widgets
            from tqdm.auto import tqdm
    except ImportError:
        shown = False
    if not shown:
        yield lambda amount: None
        return
    delay = SHOWN_AFTER if progress is None else 0
    # A bar of text on stderr would be red in a notebook, as errors are.
    file = sys.stdout if _is_notebook() else None
    with tqdm(total=total, unit=unit, unit_scale=True, desc=label, delay=delay, file=file) as bar:
        yield bar.update


def _is_watched() -> bool:
    if os.environ.get("TQDM_DISABLE", "0") != "0":
        return False
    return _is_notebook() or bool(sys.stderr and sys.stderr.isatty())


def _is_notebook() -> bool:
    """Whether the code runs in a kernel; who has imported ipykernel may be anybody."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
