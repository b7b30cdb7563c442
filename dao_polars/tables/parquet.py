"""Tables as parquet files.

Owns how they are written: what a scan of many of them reads quickly.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ..errors import DaoIOError

_ROW_GROUP = 65_536


def write_table(frame: pl.DataFrame, path: Path) -> None:
    """Writes a table.

    Raises:
        DaoIOError: a full disk, or no permission.
    """
    try:
        frame.write_parquet(path, compression="zstd", row_group_size=_ROW_GROUP)
    except (OSError, pl.exceptions.ComputeError) as error:
        raise writing_failed(path, error) from error


def writing_failed(path: Path, error: Exception) -> DaoIOError:
    """The error for a small file that cannot be written."""
    return DaoIOError(
        f"path '{path}': writing failed: {error}; is the disk full, or not writable? Nothing of "
        "what was written is kept"
    )
