"""What users do to a store: its versions, and the edits that make them.

Owns the verbs of ``Store`` and what they say. What an edit does is
``edit``'s, and what a version is the core's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from .. import _core
from .._args import integer
from ..edit.edit import Edit
from ..errors import DaoTypeError

if TYPE_CHECKING:
    from .store import Store

_VERSIONS = {
    "version": pl.UInt64,
    "time": pl.String,
    "operation": pl.String,
    "message": pl.String,
    "datasets": pl.UInt64,
    "cells": pl.UInt64,
    "author": pl.String,
    "package": pl.String,
    "source": pl.String,
    "source_bytes": pl.UInt64,
    "source_checksum": pl.String,
}


class EditingVerbs:
    """The methods of ``Store`` that make versions, and tell them.

    Each edit is one new version, whole or not at all, and returns the store at it; this one stays
    as it is. Where others changed the store since it was opened, an edit is made on top of that;
    where they changed the same, it is a ``DaoConflictError`` that says what, and nothing is made.
    """

    _core: _core.Store
    _own: list[int]
    _at: Callable[[int], Store]

    def versions(self) -> pl.DataFrame:
        """The versions that are there, oldest first: one row each.

        Columns: ``version`` (UInt64), ``time`` (UTC, by the clock of who made it), ``operation``,
        ``message``, ``datasets`` and ``cells`` (numbers of them, UInt64), ``author`` (null where
        none was given), ``package`` (with its version); and of the file that a dataset was written
        from, else null, ``source`` (its name), ``source_bytes`` and ``source_checksum`` (CRC-32C;
        null for a folder, or a file behind a URL).

        Raises:
            DaoCorruptError: a version that cannot be understood.
        """
        found = pl.DataFrame(self._core.versions(), schema=_VERSIONS, orient="row")
        return found.with_columns(pl.col("time").str.to_datetime(time_unit="ms", time_zone="UTC"))

    def edit(self, message: str | None = None, *, author: str | None = None) -> Edit:
        """Several changes as one version::

            with store.edit("clusters of May") as edit:
                edit.update_obs(clusters)
                edit.drop_obs("leiden_old")
            store = edit.store

        The version is made at the end of the block; none where an error leaves it, or nothing is
        in it.

        Raises:
            DaoValueError: a store that is not written to.
            DaoConflictError: at the end: another changed the same since this store was opened.
        """
        return Edit(cast("Store", self), message, author)

    def update_obs(
        self,
        frame: Any,
        *,
        dataset: str | None = None,
        message: str | None = None,
        author: str | None = None,
    ) -> Store:
        """Adds or changes columns of obs in some cells.

        Only the tables of the parts that have such cells are written anew, one at a time. A new
        column is null in the other cells. Enums and Categoricals are stored as categories.

        Args:
            frame: polars: ``cell`` and the columns, in any order of rows. pandas, as AnnData's obs
                is: its column ``cell`` says which cells, as ``to_anndata(cell=True)`` gives it; or
                its index has the obs names of a dataset.
            dataset: of a pandas frame without ``cell``: the one whose cells it names.
            message: what ``versions`` says about it; None: what it changes.
            author: who makes it.

        Raises:
            DaoTypeError: a column of another type than the one of its name; a type that tables do
                not hold.
            DaoValueError: cells that the store does not have or no longer has, that are there
                twice, or whose obs names repeat; a reserved name (``cell``, ``dataset``,
                ``obs_name``).
            DaoKeyError: no such dataset, or obs names that it does not have.
            DaoConflictError: another gave the same cells other values, removed them, or dropped or
                renamed the column.
        """
        return self._once(message, author, lambda edit: edit.update_obs(frame, dataset=dataset))

    def rename_obs(
        self,
        names: Mapping[str, str],
        *,
        datasets: str | Iterable[str] | None = None,
        message: str | None = None,
        author: str | None = None,
    ) -> Store:
        """Gives columns of obs other names, in all datasets that have them.

        Args:
            names: ``{"old": "new"}``; two may change places.
            datasets: those meant; None for all.
            message: what ``versions`` says about it; None: what it changes.
            author: who makes it.

        Raises:
            DaoKeyError: a column that no dataset has.
            DaoValueError: a name that a dataset has already, or a reserved one.
            DaoConflictError: another dropped or renamed the column, or added one of the new name.
        """
        return self._once(message, author, lambda edit: edit.rename_obs(names, datasets=datasets))

    def drop_obs(
        self,
        *columns: str,
        datasets: str | Iterable[str] | None = None,
        message: str | None = None,
        author: str | None = None,
    ) -> Store:
        """Leaves columns of obs out, of all datasets that have them; older versions keep them.

        Args:
            columns: names.
            datasets: those meant; None for all.
            message: what ``versions`` says about it; None: what it changes.
            author: who makes it.

        Raises:
            DaoKeyError: a column that no dataset has.
            DaoConflictError: another changed, dropped or renamed it.
        """
        return self._once(message, author, lambda edit: edit.drop_obs(*columns, datasets=datasets))

    def update_var(
        self,
        frame: Any,
        *,
        dataset: str | Iterable[str] | None = None,
        message: str | None = None,
        author: str | None = None,
    ) -> Store:
        """Adds or changes columns of var, such as symbols: for ``gene_key=``.

        Args:
            frame: polars: ``var_name`` and the columns, in any order of rows. pandas, as AnnData's
                var is: its index has the genes' names. Other genes have nulls in a new column.
            dataset: the dataset, or several; None for all that have some of the genes.
            message: what ``versions`` says about it; None: what it changes.
            author: who makes it.

        Raises:
            DaoKeyError: no such dataset; genes that none of those meant has.
            DaoTypeError: a column of another type than the one of its name.
            DaoValueError: genes that are there twice, in the frame or in a dataset.
            DaoConflictError: another gave the same genes other values.
        """
        return self._once(message, author, lambda edit: edit.update_var(frame, dataset=dataset))

    def update_obsm(
        self,
        name: str,
        frame: pl.DataFrame | pl.LazyFrame,
        *,
        message: str | None = None,
        author: str | None = None,
    ) -> Store:
        """Adds or changes rows of an embedding.

        The datasets of these cells have it then; in their other cells a new one is NaN.

        Args:
            name: the embedding's, such as ``"X_scvi"``.
            frame: ``cell`` and one column of arrays of numbers, all of one length.
            message: what ``versions`` says about it; None: what it changes.
            author: who makes it.

        Raises:
            DaoTypeError: another type of column.
            DaoValueError: nulls; cells as in ``update_obs``; another width than a dataset's
                embedding has, unless all its cells are given.
            DaoConflictError: another gave the same cells other rows, or removed them.
        """
        return self._once(message, author, lambda edit: edit.update_obsm(name, frame))

    def remove_cells(
        self,
        selection: pl.DataFrame | pl.LazyFrame,
        *,
        message: str | None = None,
        author: str | None = None,
    ) -> Store:
        """Removes cells; older versions have them still.

        Their keys are not used again: a selection that has them is an error, or leaves them out
        with ``missing="drop"``. The rows of matrices stay on disk, until the dataset is written
        anew and its older versions are vacuumed.

        Args:
            selection: a frame with ``cell``. Cells that are removed already do no harm.
            message: what ``versions`` says about it; None: what it changes.
            author: who makes it.

        Raises:
            DaoValueError: cells that never were in the store, or no column ``cell``.
        """
        return self._once(message, author, lambda edit: edit.remove_cells(selection))

    def rename_dataset(
        self, old: str, new: str, *, message: str | None = None, author: str | None = None
    ) -> Store:
        """Gives a dataset another name. Cell keys stay as they are.

        Raises:
            DaoKeyError: no such dataset.
            DaoFileExistsError: another dataset has the new name.
            DaoValueError: a name that no folder can have, or a store that is not written to.
            DaoConflictError: another renamed, replaced or removed it.
        """
        return self._once(message, author, lambda edit: edit.rename_dataset(old, new))

    def remove_dataset(
        self, name: str, *, message: str | None = None, author: str | None = None
    ) -> Store:
        """Leaves a dataset out. Older versions have it still.

        Raises:
            DaoKeyError: no such dataset.
            DaoValueError: a store that is not written to.
            DaoConflictError: another changed, replaced or removed it, or added cells to it.
        """
        return self._once(message, author, lambda edit: edit.remove_dataset(name))

    def restore(
        self, version: int, *, message: str | None = None, author: str | None = None
    ) -> Store:
        """Makes an older version the last one again: a new version like it.

        What others changed since is undone, too: it is theirs to see in ``versions``.

        Args:
            version: the number of the version that the new one is like.
            message: what ``versions`` says about it; None: what it changes.
            author: who makes it.

        Raises:
            DaoTypeError, DaoValueError: no such version, or a store that is not written to.
        """
        number = integer("version", version, 1, 2**63)
        said = message if message is not None else f"version {number}"
        made = self._core.restore(number, said, author)
        self._own.append(made)
        return self._at(made)

    def vacuum(
        self,
        *,
        older_than: timedelta | None = None,
        dry_run: bool = True,
        author: str | None = None,
    ) -> pl.DataFrame:
        """Removes what no version needs any more; or, unless told otherwise, says what that is.

        That is what writers left that were killed, and what only versions had that are given up.
        Files of a writer that is at work are left alone, and so is whatever you put in the store.
        On a bucket a writer counts as killed once it has not said for 10 minutes that it lives.
        Versions that are given up cannot be read or restored again; that is a version, too.

        Args:
            older_than: how old versions must be to be given up, by the clock of who made them; the
                last one is always kept. None: all are kept.
            dry_run: remove nothing.
            author: who makes it.

        Returns:
            One row a file: ``path`` in the store, String, and ``bytes``, UInt64.

        Raises:
            DaoTypeError: ``older_than`` is no timedelta.
            DaoValueError: a store that is not written to.
            DaoCorruptError: a version that cannot be read; nothing is removed.
        """
        if not isinstance(older_than, timedelta | None):
            raise DaoTypeError(f"older_than={older_than!r}; expected a datetime.timedelta")
        kept = self.versions()
        if older_than is not None:
            kept = kept.filter(pl.col("time") >= datetime.now(UTC) - older_than)
        oldest = min(kept["version"].to_list(), default=2**63 - 1)  # which is past the last one
        files = self._core.vacuum(oldest, dry_run, f"older than {older_than}", author)
        return pl.DataFrame(files, schema={"path": pl.String, "bytes": pl.UInt64}, orient="row")

    def _once(
        self, message: str | None, author: str | None, change: Callable[[Edit], None]
    ) -> Store:
        """The store after one change."""
        edit = self.edit(message, author=author)
        change(edit)
        return edit.commit()
