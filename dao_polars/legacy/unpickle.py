"""Reads the plain data in a pickle that nobody vouches for, and runs nothing in it.

Gives None, bools, numbers, text, bytes, lists, tuples, dicts, sets and numpy scalars, arrays and
dtypes, as numpy 1 and 2 pickle them; anything else is an inert ``Refused``.

Python's own unpickler reads the opcodes, without its hands: names are not looked up and calls not
made, but noted as ``_Call``s. Then the calls of a few names are made by functions of ours, within
bounds of depth and size. Knows nothing of stores.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import DaoCorruptError
from . import unpickle_numpy
from .unpickle_numpy import MalformedError, Spend

_MAX_DEPTH = 100  # values in values
_MAX_NODES = 10_000_000  # values of the result, counted as often as they are reached
_MAX_KEY = 256  # values in one dict key or set member


def load(data: bytes, where: str) -> tuple[dict[Any, Any], list[str]]:
    """The dict in a pickle, and a list of what in it was refused.

    Args:
        data: the pickle; bytes after its end are ignored.
        where: the file, for errors.

    Returns:
        The dict (ordered and default dicts become dict), with a ``Refused`` wherever the
        pickle has anything but plain data; and one ``"['key'][0]: module.name"`` for each of
        these, or ``"(not in the data): module.name"`` for a name that the pickle used elsewhere.

    Raises:
        DaoCorruptError: no pickle, cut short, contradicting itself, too deeply nested, or one of
            something else than a dict.
    """
    machine, maker = _Machine(data), _Maker(len(data))
    try:
        top = maker.value(machine.load(), "", 0)
    except Exception as error:
        raise DaoCorruptError(
            f"{where}: not a pickle that can be read (expected a pickled dict of plain data): "
            f"{str(error) or type(error).__name__}"
        ) from error
    if not isinstance(top, dict):
        found = repr(top) if isinstance(top, Refused) else type(top).__name__
        raise DaoCorruptError(f"{where}: expected a pickled dict, found {found}")
    reached = {name for _, name in maker.refused}
    unreached = [name for name in machine.names if name not in reached]
    refused = [f"{place}: {name}" for place, name in maker.refused]
    return top, refused + [f"(not in the data): {name}" for name in unreached]


@dataclass(frozen=True, eq=False, repr=False)
class Refused:
    """Stands for what a pickle named and this reader does not build; does nothing."""

    name: str

    def __post_init__(self) -> None:
        clean = "".join(c if c.isprintable() else "?" for c in self.name[:200])
        object.__setattr__(self, "name", clean)

    def __repr__(self) -> str:
        return f"<refused {self.name}>"


class _Call:
    """A call that a pickle asks for, and the changes to its result; only noted, never made.

    Dicts and sets are calls too, so that nothing is hashed before it is known to be small.
    ``args`` is None for the name alone.
    """

    __slots__ = ("args", "changes", "name", "state")

    def __init__(self, name: str, args: tuple[Any, ...] | None = None) -> None:
        self.name, self.args, self.state = name, args, None
        self.changes: list[tuple[str, Any]] = []

    def __call__(self, *args: Any) -> _Call:
        return _Call(self.name, args)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.changes.append(("key", (key, value)))

    def add(self, member: Any) -> None:
        self.changes.append(("member", member))

    def append(self, item: Any) -> None:
        self.changes.append(("list item", item))


def _dict(m: Any) -> None:
    items = m.pop_mark()
    made = _Call("builtins.dict", ())
    for key, value in zip(items[::2], items[1::2], strict=True):
        made[key] = value
    m.append(made)


def _frozenset(m: Any) -> None:
    items = m.pop_mark()
    m.append(_Call("builtins.frozenset", (items,)))


def _reduce(m: Any) -> None:
    if not isinstance(m.stack[-1], tuple):
        raise MalformedError(f"calls with a {type(m.stack[-1]).__name__}")
    m.load_reduce()


def _new_with_keywords(m: Any) -> None:
    m.load_tuple2()  # arguments and keywords: no builder takes these two
    m.load_reduce()


def _build(m: Any) -> None:
    state = m.stack.pop()
    if isinstance(m.stack[-1], _Call):  # lists have no state
        m.stack[-1].state = state


_OPCODES: dict[int, Callable[[Any], Any]] = {
    pickle.EMPTY_DICT[0]: lambda m: m.append(_Call("builtins.dict", ())),
    pickle.DICT[0]: _dict,
    pickle.EMPTY_SET[0]: lambda m: m.append(_Call("builtins.set", ())),
    pickle.FROZENSET[0]: _frozenset,
    pickle.BYTEARRAY8[0]: lambda m: m.append(bytearray(m.read(*struct.unpack("<Q", m.read(8))))),
    pickle.REDUCE[0]: _reduce,
    pickle.NEWOBJ[0]: _reduce,
    pickle.NEWOBJ_EX[0]: _new_with_keywords,
    pickle.BUILD[0]: _build,
    pickle.READONLY_BUFFER[0]: lambda m: None,
}


class _Machine(pickle._Unpickler):
    """Python's unpickler, whose stack holds lists, tuples, plain values and ``_Call``s alone.

    The one in Python: that in C allocates what sizes claim, and cannot be kept from hashing.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], Any]]] = pickle._Unpickler.dispatch | _OPCODES
    stack: list[Any]

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.names: dict[str, None] = {}  # those that are not built, in the order met

    def find_class(self, module: str, name: str) -> _Call:
        full = f"{_MODULES.get(module, module)}.{name}"
        if full not in _BUILDERS:
            self.names.setdefault(Refused(full).name)
        return _Call(full)

    def persistent_load(self, pid: Any) -> _Call:
        return _Call("persistent id")

    def get_extension(self, code: int) -> None:
        self.stack.append(_Call(f"extension code {code}"))


class _Maker:
    """Makes the values that a machine noted: cycles cut, depth and size bounded.

    ``refused``: the place and the name of what was refused.
    """

    def __init__(self, file_size: int) -> None:
        self.refused: list[tuple[str, str]] = []
        self._budget = 16 * file_size + (1 << 20)  # bytes that builders may still copy
        self._done: dict[int, tuple[Any, int, int]] = {}  # by id: the value, its nodes and height
        self._open: set[int] = set()  # ids of what we are inside of
        self._nodes = self._deepest = 0

    def value(self, noted: Any, place: str, depth: int) -> Any:
        """The value of something that was on the machine's stack."""
        if not isinstance(noted, list | tuple | _Call):
            self._reach(1, depth)
            return noted
        key = id(noted)
        if key in self._open:
            return self._refuse("a value inside itself", place)
        if key in self._done:
            value, nodes, height = self._done[key]
            self._reach(nodes, depth + height)
            return self._refuse(value.name, place) if isinstance(value, Refused) else value
        nodes, deepest, self._deepest = self._nodes, self._deepest, depth
        self._reach(1, depth)
        self._open.add(key)
        if isinstance(noted, _Call):
            value = self._result(noted, place, depth + 1)
        else:
            items = (self.value(v, f"{place}[{i}]", depth + 1) for i, v in enumerate(noted))
            value = type(noted)(items)
        self._open.remove(key)
        self._done[key] = value, self._nodes - nodes, self._deepest - depth
        self._deepest = max(self._deepest, deepest)
        return value

    def _reach(self, nodes: int, depth: int) -> None:
        self._nodes += nodes
        self._deepest = max(self._deepest, depth)
        if depth > _MAX_DEPTH:
            raise MalformedError(f"values lie more than {_MAX_DEPTH} deep in each other")
        if self._nodes > _MAX_NODES:
            raise MalformedError("it repeats its parts too often")

    def _refuse(self, name: str, place: str) -> Refused:
        value = Refused(name)
        self.refused.append((place, value.name))
        return value

    def _spend(self, n_bytes: int) -> None:
        """Accounts for a copy, so that a few bytes of pickle cannot fill the memory."""
        self._budget -= n_bytes
        if self._budget < 0:
            raise MalformedError("it builds far more than it holds")

    def _result(self, call: _Call, place: str, depth: int) -> Any:
        """The result of a call by our own function, or a refusal of what it names."""
        build, value = _BUILDERS.get(call.name), NotImplemented
        if isinstance(build, type) and call.args is not None:
            value = self._container(build, call, place, depth)
        elif build is not None and call.args is not None:
            state = call.state
            if isinstance(state, tuple):
                state = self._parts(state, place, depth)
            value = build(self._spend, state, *self._parts(call.args, place, depth))
            if call.changes and value is not NotImplemented:
                raise MalformedError(f"a {type(value).__name__} is given a {call.changes[0][0]}")
        if value is NotImplemented:
            named = [part.name for part in call.args or () if _is_name(part)]
            known = call.name in _BUILDERS and named  # such as an array of a subclass
            return self._refuse(named[0] if known else call.name, place)
        return value

    def _container(self, kind: type, call: _Call, place: str, depth: int) -> Any:
        """A list, tuple, set or dict of the items that a call has as its argument or is given."""
        args = [part for part in call.args or () if not _is_name(part)]  # a default dict's factory
        items = args[0] if args else ()
        if not isinstance(items, list | tuple):
            return NotImplemented
        self._spend(64 * len(items))
        for change, _ in call.changes:
            if change != {"dict": "key", "set": "member"}.get(kind.__name__):
                raise MalformedError(f"a {kind.__name__} is given a {change}")
        items = [*items, *(change for _, change in call.changes)]
        if kind is not dict:
            part = self.value if kind in (list, tuple) else self._key
            return kind(part(item, f"{place}[{i}]", depth) for i, item in enumerate(items))
        value = {}
        for noted_key, noted in items:
            n = len(self.refused)
            key = self._key(noted_key, place, depth)
            at = f"{place}[{_label(key)}]"
            self.refused[n:] = [(at, name) for _, name in self.refused[n:]]
            value[key] = self.value(noted, at, depth)
        return value

    def _key(self, noted: Any, place: str, depth: int) -> Any:
        """The value of a dict key or set member, which is small, so that it can be hashed."""
        nodes = self._nodes
        key = self.value(noted, place, depth)
        if self._nodes - nodes > _MAX_KEY:
            raise MalformedError("a key or set member is too large")
        return key

    def _parts(self, noted: tuple[Any, ...], place: str, depth: int) -> tuple[Any, ...]:
        """The values of arguments or of a state; names among them stay as they are."""
        return tuple(part if _is_name(part) else self.value(part, place, depth) for part in noted)


def _is_name(noted: Any) -> bool:
    return isinstance(noted, _Call) and noted.args is None


def _label(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= 60 else f"{text[:59]}…"


# --- what the calls of allowed names give: a container, or what a function does, unless it refuses


def _bytes(kind: type) -> Callable[..., Any]:
    def build(spend: Spend, _state: Any, text: Any = b"", encoding: Any = "latin1") -> Any:
        if isinstance(text, str) and encoding in ("latin1", "latin-1"):
            text = text.encode("latin1")
        if not isinstance(text, bytes | bytearray):
            return NotImplemented
        spend(len(text))
        return kind(text)

    return build


_MODULES = {  # where Python 2 and the numpys had what is now elsewhere
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy.rec": "numpy",
    "numpy.core.records": "numpy",
    "numpy._core.records": "numpy",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
}
_BUILDERS: dict[str, type | Callable[..., Any] | None] = {
    "builtins.bytearray": _bytes(bytearray),
    "builtins.bytes": _bytes(bytes),
    "builtins.complex": lambda _spend, _state, *parts: complex(*parts),
    "builtins.dict": dict,
    "builtins.frozenset": frozenset,
    "builtins.list": list,
    "builtins.set": set,
    "builtins.tuple": tuple,
    "_codecs.encode": _bytes(bytes),
    "collections.OrderedDict": dict,
    "collections.defaultdict": dict,
    "numpy.dtype": unpickle_numpy.new_dtype,
    "numpy._core.multiarray._reconstruct": unpickle_numpy.new_array,
    "numpy._core.multiarray.scalar": unpickle_numpy.scalar,
    "numpy._core.numeric._frombuffer": unpickle_numpy.frombuffer,
    # what others name, as a default dict names its factory
    **dict.fromkeys([*unpickle_numpy.TYPES, "copyreg._reconstructor"]),
    **dict.fromkeys(f"builtins.{name}" for name in ("bool", "float", "int", "object", "str")),
}
