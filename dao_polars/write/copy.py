"""copy: datasets of a store taken over into another as they are.

Owns what the caller says and is told; the core reads and writes the files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from .._args import texts
from .._progress import progress_bar
from ..genes.request import first_few
from ..store.options import StorageOptions, core_options
from ..store.store import Store, as_uri, load_store, store_at


def copy(
    source_uri: str | os.PathLike[str],
    target_uri: str | os.PathLike[str],
    datasets: str | Iterable[str] | None = None,
    *,
    source_options: StorageOptions = None,
    target_options: StorageOptions = None,
    version: int | None = None,
    message: str | None = None,
    author: str | None = None,
    progress: bool | None = None,
) -> Store:
    """Copies datasets from one store into another, byte for byte, as one version of it.

    Every file is held against its size and its checksum on the way, in pieces, so that memory does
    not grow with it. The cells get keys of the store that they are copied to; names, genes, parts
    and gene indexes are as they were.

    Args:
        source_uri: path or URL of the store that has the datasets.
        target_uri: path or URL of the store that gets them; made if it is missing.
        datasets: ids; None for all.
        source_options: credentials and the like of the source, see ``dao.load_store``.
        target_options: likewise, of the store that gets them.
        version: the number of a version of the source; None for the last one.
        message: what is said about it in ``Store.versions``; None: from where, and which.
        author: who copies, for ``Store.versions`` too.
        progress: a tqdm bar; None shows one on a terminal or in a notebook.

    Returns:
        The store that got them, at that version.

    Raises:
        DaoFileNotFoundError: there is no store, or a file of it is missing.
        DaoFileExistsError: the other store has a dataset of one of these ids.
        DaoKeyError: no such dataset.
        DaoTypeError: ids that are no text.
        DaoValueError: no dataset at all, a store that sfaira wrote (write its cells:
            ``lf.dao.write_dataset``), or a place that is not written to.
        DaoCorruptError: a file that is not as it was written.
        DaoIOError: a full disk, no permission, or a network that fails. Whatever is raised, nothing
            is visible in the other store.
    """
    target = as_uri(target_uri)
    names = None if datasets is None else list(dict.fromkeys(texts(datasets, "datasets")))
    source = load_store(source_uri, storage_options=source_options, version=version)
    found = source._core.parts
    parts = found if names is None else [part for n in names for part in source._dataset(n)]
    copied = list(dict.fromkeys(part.name for part in parts))
    said = f"{first_few(copied)} of {source.uri!r}" if message is None else message
    options = core_options(target_options, "target_options")
    total = sum(part.bytes for part in parts)
    with progress_bar(progress, total=total, unit="B", label="copying") as advance:
        version = source._core.copy(target, options, names, said, author, advance)
    return store_at(target, target_options, version)
