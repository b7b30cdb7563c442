"""Whether the values of a selection's matrix are counts, as far as the store knows.

Owns the warnings about what is done to values that are none.
"""

from __future__ import annotations

from .._core import MatrixName
from .._warn import warn
from .selection import Selection, stored_types


def check_counts(
    selection: Selection, name: MatrixName, normalized: tuple[float | None, bool] | None
) -> None:
    """Warns where cells are to be brought to one total and their values are no counts.

    ``normalized`` is what ``normalize=`` means. Counts are stored as integers. Of sfaira's stores,
    which hold floats throughout, nothing is known.
    """
    if normalized is None or normalized[0] is None:
        return
    stores = selection.store.stores
    for part in selection.parts():
        if stores[part.store]._core.has_sfaira_tables:
            continue
        if any(dtype.startswith("float") for dtype in stored_types(selection.store, [part], name)):
            what = "X" if name == MatrixName.X else f"layer {name.name!r}"
            warn(
                f"normalize= is for counts, and {what} of dataset {part.name!r} has values that "
                "are none, so it may be normalized already; layer= names another matrix"
            )
            return
