"""Storage options as users write them in Python, as text for the core.

Owns the types of values. What names mean, and which are known, is the core's alone.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._args import integer
from ..errors import DaoTypeError, DaoValueError

#: ``storage_options=`` of the public methods.
StorageOptions = Mapping[str, Any] | None

#: Objects of others that are refused by name: the core says what to write instead.
_OF_OTHERS = {"credential_provider", "credential", "session"}

_EXPECTED = "expected text, a number, True or False, a path, None, or a dict of these"


def core_options(options: StorageOptions, argument: str = "storage_options") -> dict[str, str]:
    """Options as the core takes them: values are text, and dicts in them are dotted names.

    None is an option that is not given. A dict of credentials, as gcsfs takes for ``token``, is
    JSON. Errors show no value: each may be secret.

    Raises:
        DaoTypeError, DaoValueError: an option, or all of them, of a type that has no meaning.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise DaoTypeError(
            f"{argument}=: expected a dict, found {type(options).__name__}{_instead(options)}"
        )
    found: dict[str, str] = {}
    for name, value in options.items():
        if not isinstance(name, str):
            raise DaoTypeError(f"{argument}=: a name is {type(name).__name__}; expected text")
        found.update(_texts(name, value, argument))
    return found


def with_cache(
    options: StorageOptions, cache: str | os.PathLike[str] | None, cache_bytes: int | None
) -> StorageOptions:
    """Options with those of the cache, among which they go wherever a store is opened again.

    Raises:
        DaoTypeError, DaoValueError: a cache that is no path, or bytes that are no number.
    """
    if cache is None and cache_bytes is None:
        return options
    found: dict[str, Any] = core_options(options)
    if cache is not None:
        folder = os.fspath(cache) if isinstance(cache, (str, os.PathLike)) else None
        if not isinstance(folder, str):
            raise DaoTypeError(f"cache={cache!r}; expected the path of a folder, or None")
        if "://" in folder:
            raise DaoValueError(f"cache={folder!r}; expected a folder on this machine")
        # Whoever opens the store again may be in another folder.
        found["cache"] = os.path.abspath(os.path.expanduser(folder))
    if cache_bytes is not None:
        if "cache" not in found:
            raise DaoValueError('cache_bytes= without cache=; name the folder too, cache="folder"')
        found["cache_bytes"] = integer("cache_bytes", cache_bytes, 1 << 20, 2**63)
    return found


def _instead(options: object) -> str:
    if callable(options) or "Credential" in type(options).__name__:
        return (
            "; give what a credential provider gives, such as {'aws_access_key_id': …, "
            "'aws_secret_access_key': …}, or nothing: environment and profiles are looked at"
        )
    return ""


def _texts(name: str, value: object, argument: str) -> dict[str, str]:
    """An option by its name, or the options in a dict by theirs."""
    where = f"{argument}[{name!r}]"
    if value is None:
        return {}
    if name.lower() in _OF_OTHERS:
        return {name: "an object"}
    if isinstance(value, Mapping):
        if name.endswith(("token", "_key")):
            try:
                return {name: json.dumps(dict(value))}
            except (TypeError, ValueError):
                raise DaoTypeError(f"{where}: a dict that cannot be written as JSON") from None
        found: dict[str, str] = {}
        for inner, part in value.items():
            found.update(_texts(f"{name}.{inner}", part, argument))
        return found
    if isinstance(value, (bool, np.bool_)):
        return {name: "true" if value else "false"}
    if isinstance(value, (int, float, np.integer, np.floating)):
        if not math.isfinite(value):
            raise DaoValueError(f"{where}: not a finite number")
        return {name: str(value)}
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise DaoTypeError(f"{where}: found {type(value).__name__}; {_EXPECTED}")
    return {name: value}
