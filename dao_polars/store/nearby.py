"""What to open instead, where a path is no store.

Owns the hints. Looks at names of files alone, on this machine.
"""

from __future__ import annotations

from pathlib import Path

_DEPTH = 5  # folders that a path may be deep inside of a store


def is_study(path: Path) -> bool:
    """Whether a folder is an AnnData that was written to zarr, by the folders in it."""
    return (path / "obs").is_dir() and (path / "var").is_dir()


def nearby(uri: str) -> str | None:
    """A hint for a path that is no store: the store that it is inside of, or a study to write."""
    if "://" in uri:
        return None
    path = Path(uri).absolute()
    try:
        if (path / "dao.json").is_file():
            return None
        for parent in list(path.parents)[:_DEPTH]:
            if (parent / "dao.json").is_file():
                return f"it is inside of the store '{parent}': open that"
        if (path / "zarr" / "X").is_dir() and (path / "parquet").is_dir():
            return (
                f"it is one dataset of a store that sfaira wrote: open its parent '{path.parent}'"
            )
        if is_study(path) or (path.is_file() and path.suffix in (".h5ad", ".h5")):
            return f"it is a study; write it into a store: dao.write_dataset('atlas', {uri!r})"
    except OSError:  # a hint is no reason for another error
        pass
    return None
