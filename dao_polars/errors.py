"""The errors dao-polars raises.

Owns the exception classes alone; knows neither stores nor frames. Each class
derives from ``DaoError`` *and* from the builtin that fits, so ``except
FileNotFoundError`` works as well as ``except dao.DaoError``. The Rust core
raises these same classes.
"""

from __future__ import annotations


class DaoError(Exception):
    """Base of every error that dao-polars raises."""


class DaoFileNotFoundError(DaoError, FileNotFoundError):
    """A store, a dataset or one of its files is not where it should be."""


class DaoFileExistsError(DaoError, FileExistsError):
    """A dataset of that id is already in the store."""


class DaoIOError(DaoError, OSError):
    """The system failed to read or write: permissions, a full disk, a network."""


class DaoCorruptError(DaoError, ValueError):
    """Bytes on disk contradict what describes them (truncated, changed, mixed up)."""


class DaoValueError(DaoError, ValueError):
    """An argument has the right type and a value that cannot be used."""


class DaoTypeError(DaoError, TypeError):
    """An argument, or a column of a frame, has the wrong type."""


class DaoKeyError(DaoError, KeyError):
    """A gene, dataset, layer or column that does not exist was asked for."""

    def __str__(self) -> str:  # KeyError would print the message's repr
        return Exception.__str__(self)


class DaoConflictError(DaoError, RuntimeError):
    """An edit changes what another changed since the store was opened; the message says what."""


class DaoImportError(DaoError, ImportError):
    """An optional dependency is missing; the message names the extra to install."""


class DaoInternalError(DaoError, RuntimeError):
    """A bug in dao-polars, never in the files it reads; the message or its cause says what."""
