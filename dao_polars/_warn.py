"""Warnings to the user, which name the line of theirs that called."""

from __future__ import annotations

import os
import sys
import warnings

from . import _core

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def warn(message: str) -> None:
    """Gives a UserWarning for the nearest caller outside of this package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


def tell() -> None:
    """Warns of what the core noticed since the last time, in threads that cannot warn."""
    for text in _core.take_notices():
        warn(text)
