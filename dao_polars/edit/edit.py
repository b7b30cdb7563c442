"""Several changes of a store as one version.

Owns ``Edit``, what users say, and how it is made: on the last version, after what others changed
since the store was opened was looked at, and again where another was quicker. What each operation
does is in a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import polars as pl

from .. import _core
from .._args import optional_text, texts
from ..errors import DaoConflictError, DaoFileNotFoundError, DaoTypeError, DaoValueError
from .cells import RemoveCells
from .datasets import RemoveDataset, RenameDataset
from .frames import cell_columns, gene_columns
from .obs import DropObs, RenameObs, UpdateObs
from .obsm import UpdateObsm
from .operations import ConflictError, Operation
from .part import PartDraft
from .var import UpdateVar

if TYPE_CHECKING:
    from ..store.store import Store


class Edit:
    """Several changes of a store as one version; made by ``Store.edit``.

    Its methods are the store's, without ``message``. They check what they are given; the version
    is made at the end of the ``with`` block, or none where an error leaves it. Changes follow each
    other: a column that one adds is there for the next. Datasets are called as they are then.
    """

    def __init__(self, store: Store, message: str | None, author: str | None) -> None:
        optional_text("message", message)
        optional_text("author", author)
        store._core.check_writable()
        self._handle, self._message, self._author = store, message, author
        #: The store with what was changed through it, up to where others came between.
        self._opened = _as_edited(store)
        self._operations: list[Operation | RenameDataset | RemoveDataset] = []
        #: The parts of datasets by the names that they have after the operations so far.
        by_name = self._opened._by_dataset.items()
        self._datasets = {name: [part.number for part in parts] for name, parts in by_name}
        self._made: Store | None = None

    def __enter__(self) -> Edit:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.commit()

    @property
    def store(self) -> Store:
        """The store at the version that was made; as it was opened, before."""
        return self._handle if self._made is None else self._made

    def update_obs(self, frame: Any, *, dataset: str | None = None) -> None:
        """Adds or changes columns of obs; see ``Store.update_obs``."""
        known = None if dataset is None else self._name_when_opened(dataset)
        self._add(UpdateObs(cell_columns(self._opened, frame, known)))

    def rename_obs(
        self, names: Mapping[str, str], *, datasets: str | Iterable[str] | None = None
    ) -> None:
        """Gives columns of obs other names; see ``Store.rename_obs``."""
        self._add(RenameObs(names, self._numbers(datasets)))

    def drop_obs(self, *columns: str, datasets: str | Iterable[str] | None = None) -> None:
        """Leaves columns of obs out; see ``Store.drop_obs``."""
        self._add(DropObs(columns, self._numbers(datasets)))

    def update_var(self, frame: Any, *, dataset: str | Iterable[str] | None = None) -> None:
        """Adds or changes columns of var; see ``Store.update_var``."""
        names, columns, of_pandas = gene_columns(frame, "update_var")
        self._add(UpdateVar(names, columns, of_pandas, self._numbers(dataset)))

    def update_obsm(self, name: str, frame: pl.DataFrame | pl.LazyFrame) -> None:
        """Adds or changes an embedding; see ``Store.update_obsm``."""
        self._add(UpdateObsm(self._opened, name, frame))

    def remove_cells(self, selection: pl.DataFrame | pl.LazyFrame) -> None:
        """Removes cells; see ``Store.remove_cells``."""
        self._add(RemoveCells(self._opened, selection))

    def rename_dataset(self, old: str, new: str) -> None:
        """Gives a dataset another name; see ``Store.rename_dataset``."""
        if not isinstance(new, str):
            raise DaoTypeError(f"rename_dataset: {new!r}; expected a name (str)")
        parts = self._parts(old)
        self._add(RenameDataset(old, new, parts))
        self._datasets[new] = self._datasets.pop(old)

    def remove_dataset(self, name: str) -> None:
        """Leaves a dataset out; see ``Store.remove_dataset``."""
        self._add(RemoveDataset(name, self._parts(name)))
        del self._datasets[name]

    def _add(self, operation: Operation | RenameDataset | RemoveDataset) -> None:
        if self._made is not None:
            raise DaoValueError("this edit is finished; begin another: store.edit(…)")
        self._operations.append(operation)

    def _parts(self, dataset: str) -> list[int]:
        if not isinstance(dataset, str):
            raise DaoTypeError(f"{dataset!r}; expected the name of one dataset (str)")
        if dataset not in self._datasets:
            self._opened._dataset(dataset)  # an error, unless it is an earlier operation's
            raise DaoValueError(f"dataset {dataset!r} was renamed or removed in this edit")
        return self._datasets[dataset]

    def _numbers(self, datasets: str | Iterable[str] | None) -> list[int] | None:
        if datasets is None:
            return None
        names = texts(datasets, "datasets")
        if not names:
            raise DaoValueError("datasets=[] names none; None means all")
        return [number for name in names for number in self._parts(name)]

    def _name_when_opened(self, dataset: str) -> str:
        return self._opened._by_number[self._parts(dataset)[0]].name

    def commit(self) -> Store:
        """Makes the version; the store at it. Where it is made, or nothing is to be, does nothing.

        Raises:
            DaoConflictError: another changed the same since the store was opened.
        """
        operations = self._operations
        if self._made is not None or not operations:
            return self.store
        name = operations[0].name if len(operations) == 1 else "edit"
        said = "; ".join(
            f"{o.name} {o.said}" if len(operations) > 1 else o.said for o in operations
        )
        message = said if self._message is None else self._message
        opened, seen = self._opened, 0
        edit = _core.Edit.begin(opened._core, name, message, self._author)
        try:
            while True:
                last = self._version(edit.version)
                self._check(last, seen)
                seen = edit.version
                self._apply(edit, last)
                version = edit.commit()
                if version is not None:
                    break
                edit.begin_again()
        finally:
            edit.close()
        self._handle._own.append(version)
        self._made = opened._at(version)
        return self._made

    def _check(self, last: Store, seen: int) -> None:
        """Looks at what others changed since the store was opened, and after version ``seen``."""
        number = last.version or 0
        for first, then in _others(self._opened.version or 0, self._handle._own, number):
            if then <= seen:
                continue
            before = self._version(max(first, seen))
            after = last if then == number else self._version(then)
            try:
                for operation in self._operations:
                    operation.check(before, after)
            except DaoFileNotFoundError as error:
                raise _unknown(before.version, error) from error
            except ConflictError as conflict:
                made = [row for row in last._core.versions() if first < row[0] <= then]
                who = "; ".join(f"version {n}, {op} {said}" for n, _, op, said, *_ in made[-3:])
                raise DaoConflictError(
                    f"store {last.uri!r}: since version {first}, another {conflict} ({who}). Open "
                    "the store again, look, and make the edit on what is there now"
                ) from None

    def _version(self, number: int) -> Store:
        if number == self._opened.version:
            return self._opened
        try:
            return self._opened._at(number)
        except DaoValueError as error:
            raise _unknown(number, error) from error

    def _apply(self, edit: _core.Edit, last: Store) -> None:
        """Puts the edit into the version in the making, with the parts of it that are done."""
        of_parts: dict[int, list[Operation]] = {}
        for operation in self._operations:
            if not isinstance(operation, RenameDataset | RemoveDataset):
                for number in operation.numbers(last, of_parts.keys()):
                    of_parts.setdefault(number, []).append(operation)
        parts = last._by_number
        for number, operations in of_parts.items():
            if number not in parts:
                raise DaoValueError(f"{operations[0].name}: cells that are no longer in the store")
            if not edit.change_again(number):
                draft = PartDraft(last, parts[number])
                for operation in operations:
                    operation.apply(draft)
                draft.write(edit)
        names = {number: part.name for number, part in parts.items()}
        for operation in self._operations:
            if isinstance(operation, RenameDataset | RemoveDataset):
                operation.apply(edit, names)
            else:
                operation.finish()


def _unknown(version: int | None, error: Exception) -> DaoConflictError:
    """The error where vacuum has removed what others' changes would be seen by."""
    return DaoConflictError(
        f"what others changed since version {version} is not known any more: {error}. Open the "
        "store again, and make the edit on what is there now"
    )


def _as_edited(store: Store) -> Store:
    """A store at the last of the versions that were made through it without others between."""
    version = store.version or 0
    while version + 1 in store._own:
        version += 1
    try:
        return store if version == store.version else store._at(version)
    except DaoValueError as error:
        raise _unknown(store.version, error) from error


def _others(opened: int, own: list[int], last: int) -> list[tuple[int, int]]:
    """From which versions to which others changed a store.

    Args:
        opened: the version that a store was opened in.
        own: versions that were made through that store, ascending; those before do not count.
        last: the last one.
    """
    found, at = [], opened
    for number in [*(version for version in own if version > opened), last + 1]:
        if number - 1 > at:
            found.append((at, number - 1))
        at = number
    return found
