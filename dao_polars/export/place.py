"""A file or folder that is there whole, or not at all.

Owns the name it has while it is written. Knows nothing of what is in it.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DaoFileExistsError


@contextmanager
def placed(target: Path, overwrite: bool) -> Iterator[Path]:
    """A name beside ``target`` to write under, which becomes the target if all goes well.

    Raises:
        DaoFileExistsError: something is there, and ``overwrite`` is False.
    """
    _refuse(target, overwrite)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield beside
        # Who came in between is not overwritten either.
        _refuse(target, overwrite)
        if target.is_dir():
            # A folder is not renamed onto one that is full: the old one steps aside first.
            aside = beside.with_suffix(".old")
            os.rename(target, aside)
            try:
                os.rename(beside, target)
            except BaseException:
                os.rename(aside, target)
                raise
            remove(aside)
        else:
            os.replace(beside, target)
    except BaseException:  # Ctrl-C as well
        remove(beside)
        raise


def remove(path: Path) -> None:
    """Removes a file or folder, where it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _refuse(target: Path, overwrite: bool) -> None:
    if os.path.lexists(target) and not overwrite:
        raise DaoFileExistsError(
            f"{str(target)!r} is there already; name another, or overwrite=True"
        )
