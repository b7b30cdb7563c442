"""Arguments of ``write_dataset`` that are in each other's place.

Owns what is said about them. Looks at types and names of files alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import DaoTypeError, DaoValueError
from ..store.nearby import is_study

_CALL = "dao.write_dataset(store, source): the store comes first"


def check_places(uri: Any, source: Any) -> None:
    """Refuses a study where the store belongs, and a store where the study does.

    Raises:
        DaoTypeError: an object in the place of the store's path.
        DaoValueError: a file there, or a store as the source.
    """
    if hasattr(uri, "obs_names"):
        raise DaoTypeError(f"uri=: expected the store's path or URL, found an AnnData. {_CALL}")
    if isinstance(uri, str | os.PathLike) and _is_file(uri):
        raise DaoValueError(f"uri={os.fspath(uri)!r} is a file, and a store is a folder. {_CALL}")
    if isinstance(uri, str | os.PathLike) and is_study(Path(os.fspath(uri)).expanduser()):
        raise DaoValueError(f"uri={os.fspath(uri)!r} is a study, an AnnData .zarr. {_CALL}")
    if isinstance(source, str | os.PathLike) and (Path(source).expanduser() / "dao.json").is_file():
        raise DaoValueError(
            f"source {os.fspath(source)!r} is a store. {_CALL}. Datasets of a store are taken over "
            "by dao.copy(source, target), cells of it by dao.scan(source).dao.write_dataset(target)"
        )


def _is_file(uri: str | os.PathLike[str]) -> bool:
    text = os.fspath(uri)
    return isinstance(text, str) and "://" not in text and Path(text).expanduser().is_file()
