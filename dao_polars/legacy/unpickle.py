"""Reads the plain data in a pickle that nobody vouches for, and runs nothing in it.

Owns an interpreter of pickle opcodes (all protocols) that builds None, bools, numbers, text,
bytes, lists, tuples, dicts, sets and numpy scalars, arrays and dtypes, as numpy 1 and 2 pickle
them. It imports nothing that a pickle names and calls nothing but the functions in ``_BUILDERS``
below; any other name becomes an inert [`Refused`][]. Memory is bounded by the pickle's size.
Knows nothing of stores.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import DaoCorruptError
from .unpickle_numpy import (
    NUMPY_TYPES,
    ArrayBox,
    DtypeBox,
    MalformedError,
    frombuffer,
    new_dtype,
    scalar,
)

__all__ = ["Refused", "load"]

_MAX_DEPTH = 100  # containers in containers
_MAX_NODES = 10_000_000  # values of the result, counted as often as they are reached
_MAX_KEY = 256  # values in one dict key or set member
_SCALARS = (type(None), bool, int, float, complex, str, bytes, np.generic)


class Refused:
    """Stands for what a pickle named and this reader does not build; does nothing."""

    __slots__ = ("name",)
    name: str

    def __init__(self, name: str) -> None:
        clean = "".join(c if c.isprintable() else "?" for c in name[:200])
        object.__setattr__(self, "name", clean)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a refused value cannot be changed")

    def __reduce__(self) -> tuple[type[Refused], tuple[str]]:
        return Refused, (self.name,)

    def __repr__(self) -> str:
        return f"<refused {self.name}>"


def load(data: bytes, where: str) -> tuple[dict[Any, Any], list[str]]:
    """The dict in a pickle, and a list of what in it was refused.

    Args:
        data: the pickle; bytes after its end are ignored.
        where: the file, for errors.

    Returns:
        The dict (ordered and default dicts become dict), with a [`Refused`][] wherever the
        pickle has anything but plain data; and one ``"['key'][0]: module.name"`` for each of
        these, or ``"(not in the data): module.name"`` for a name that the pickle used elsewhere.

    Raises:
        DaoCorruptError: no pickle, cut short, contradicting itself, too deeply nested, or one of
            something else than a dict.
    """
    machine = _Machine(data)
    try:
        top, places = _Finisher().finish(machine.run())
    except Exception as error:
        raise DaoCorruptError(
            f"{where}: not a pickle that can be read (expected a pickled dict of plain data): "
            f"{error or type(error).__name__}"
        ) from error
    if not isinstance(top, dict):
        found = repr(top) if isinstance(top, Refused) else type(top).__name__
        raise DaoCorruptError(f"{where}: expected a pickled dict, found {found}")
    reached = {name for _, name in places}
    refused = [f"{place}: {name}" for place, name in places]
    refused += [f"(not in the data): {name}" for name in machine.refused if name not in reached]
    return top, refused


class _Known:
    """A name of the table: may be called with arguments, by us."""

    __slots__ = ("build", "name")

    def __init__(self, name: str, build: Callable[..., Any]) -> None:
        self.name, self.build = name, build


class _Machine:
    """The pickle virtual machine: a stack, marks and a memo."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.refused: dict[str, None] = {}  # names, in the order met
        self.budget = 16 * len(data) + (1 << 20)  # bytes that builders may still copy
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The value on the stack at STOP."""
        for op, arg, _ in pickletools.genops(self.data):
            if op.name == "STOP":
                return self.stack.pop()
            _OPCODES[op.name](self, arg)
        raise MalformedError("no STOP")

    def refuse(self, name: str) -> Refused:
        value = Refused(name)
        self.refused.setdefault(value.name)
        return value

    def spend(self, n_bytes: int) -> None:
        """Accounts for a copy, so that a few bytes of pickle cannot fill the memory."""
        self.budget -= n_bytes
        if self.budget < 0:
            raise MalformedError("it builds far more than it holds")

    def find(self, module: str, name: str) -> _Known | Refused:
        full = f"{_MODULES.get(module, module)}.{name}"
        build = _BUILDERS.get(full)
        return self.refuse(full) if build is None else _Known(full, build)

    def call(self, function: Any, args: Any) -> Any:
        """What calling gives: ours for known names, inert for the rest."""
        if isinstance(function, Refused):
            return function
        if not isinstance(function, _Known) or not isinstance(args, tuple):
            raise MalformedError(f"calls a {type(function).__name__} with a {type(args).__name__}")
        value = function.build(self, *args)
        return self.refuse(function.name) if value is NotImplemented else value

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def push(self, value: Any) -> None:
        self.stack.append(value)


# --- what known names build; NotImplemented refuses


def _collection(kind: type) -> Callable[..., Any]:
    def build(machine: _Machine, items: Any = ()) -> Any:
        if not isinstance(items, list | tuple | set | frozenset):
            return NotImplemented
        machine.spend(64 * len(items))
        return kind(map(_key, items)) if kind in (set, frozenset) else kind(items)

    return build


def _mapping(machine: _Machine, items: Any = ()) -> Any:
    if not isinstance(items, list | tuple | dict):
        return NotImplemented
    machine.spend(64 * len(items))
    pairs = items.items() if isinstance(items, dict) else items
    return {_key(key): value for key, value in pairs}


def _default_dict(machine: _Machine, _factory: Any = None, items: Any = ()) -> Any:
    return _mapping(machine, items)


def _bytes(kind: type) -> Callable[..., Any]:
    def build(machine: _Machine, text: Any = b"", encoding: Any = "latin1") -> Any:
        if isinstance(text, str) and encoding in ("latin1", "latin-1"):
            text = text.encode("latin1")
        if not isinstance(text, bytes | bytearray):
            return NotImplemented
        machine.spend(len(text))
        return kind(text)

    return build


def _complex(_machine: _Machine, real: Any = 0.0, imag: Any = 0.0) -> Any:
    ok = all(isinstance(part, int | float) for part in (real, imag))
    return complex(real, imag) if ok else NotImplemented


def _reconstructor(machine: _Machine, cls: Any, _base: Any, state: Any) -> Any:
    return machine.call(cls, () if state is None else (state,))


def _new_array(machine: _Machine, cls: Any, _shape: Any = (), _code: Any = b"b") -> Any:
    if isinstance(cls, Refused):  # a subclass of ndarray
        return cls
    return ArrayBox(machine.spend, len(machine.data)) if cls.name in NUMPY_TYPES else NotImplemented


def _inert(_machine: _Machine, *_args: Any) -> Any:
    return NotImplemented


_MODULES = {  # where Python 2 and the numpys had what is now elsewhere
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy.rec": "numpy",
    "numpy.core.records": "numpy",
    "numpy._core.records": "numpy",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
}
_BUILDERS: dict[str, Callable[..., Any]] = {
    "builtins.bytearray": _bytes(bytearray),
    "builtins.bytes": _bytes(bytes),
    "builtins.complex": _complex,
    "builtins.dict": _mapping,
    "builtins.frozenset": _collection(frozenset),
    "builtins.list": _collection(list),
    "builtins.set": _collection(set),
    "builtins.tuple": _collection(tuple),
    "_codecs.encode": _bytes(bytes),
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _default_dict,
    "copyreg._reconstructor": _reconstructor,
    "numpy.dtype": lambda machine, *args: new_dtype(*args),
    "numpy._core.multiarray._reconstruct": _new_array,
    "numpy._core.multiarray.scalar": lambda machine, *args: scalar(machine.spend, *args),
    "numpy._core.numeric._frombuffer": lambda machine, *args: frombuffer(machine.spend, *args),
    # types that others name, as a default dict names its factory
    **{f"builtins.{name}": _inert for name in ("bool", "float", "int", "object", "str")},
    **dict.fromkeys(NUMPY_TYPES, _inert),
}


def _key(key: Any) -> Any:
    """A dict key or set member that is safe to hash: small, flat enough, no container."""
    pending, seen = [key], 0
    while pending:
        part = pending.pop()
        seen += 1
        if isinstance(part, tuple | frozenset):
            pending.extend(part if len(part) <= _MAX_KEY else [[]])
        elif not isinstance(part, (*_SCALARS, Refused, _Known, DtypeBox)):
            raise MalformedError(f"a key or set member is a {type(part).__name__}")
        if seen > _MAX_KEY:
            raise MalformedError("a key or set member is too large")
    return key


# --- the opcodes


def _memoize(m: _Machine, index: int) -> None:
    m.memo[index] = m.stack[-1]


def _set_items(m: _Machine, items: list[Any]) -> None:
    if len(items) % 2:
        raise MalformedError("a dict's key has no value")
    target = m.stack[-1]
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value
    elif not isinstance(target, Refused):
        raise MalformedError(f"sets items of a {type(target).__name__}")


def _append(m: _Machine, items: list[Any]) -> None:
    target = m.stack[-1]
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Refused):
        raise MalformedError(f"appends to a {type(target).__name__}")


def _add_items(m: _Machine, items: list[Any]) -> None:
    target = m.stack[-1]
    if isinstance(target, set):
        target.update(map(_key, items))
    elif not isinstance(target, Refused):
        raise MalformedError(f"adds to a {type(target).__name__}")


def _build(m: _Machine, _: Any) -> None:
    state = m.stack.pop()
    if isinstance(m.stack[-1], DtypeBox | ArrayBox):
        m.stack[-1].set_state(state)


def _reduce(m: _Machine, _: Any) -> None:
    args = m.stack.pop()
    m.push(m.call(m.stack.pop(), args))


def _new_object_kw(m: _Machine, _: Any) -> None:
    kwargs, args, cls = m.stack.pop(), m.stack.pop(), m.stack.pop()
    m.push(m.refuse(cls.name) if kwargs and isinstance(cls, _Known) else m.call(cls, args))


def _stack_global(m: _Machine, _: Any) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if not (isinstance(name, str) and isinstance(module, str)):
        raise MalformedError("a name is not text")
    m.push(m.find(module, name))


def _global(m: _Machine, arg: str) -> _Known | Refused:
    module, _, name = arg.partition(" ")
    return m.find(module, name)


def _inst(m: _Machine, arg: str) -> None:
    args = tuple(m.pop_mark())
    m.push(m.call(_global(m, arg), args))


def _obj(m: _Machine, _: Any) -> None:
    cls, *args = m.pop_mark()
    m.push(m.call(cls, tuple(args)))


def _pop(m: _Machine, _: Any) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()


def _pop_mark(m: _Machine, _: Any) -> None:
    m.pop_mark()


def _mark(m: _Machine, _: Any) -> None:
    m.marks.append(m.stack)
    m.stack = []


def _take(m: _Machine, n: int) -> tuple[Any, ...]:
    if len(m.stack) < n:
        raise MalformedError("the stack is too short")
    items = tuple(m.stack[-n:])
    del m.stack[-n:]
    return items


def _dict(m: _Machine, _: Any) -> None:
    items = m.pop_mark()
    m.push({})
    _set_items(m, items)


def _proto(_m: _Machine, version: int) -> None:
    if version > 5:
        raise MalformedError(f"pickle protocol {version} is not known")


def _no_op(_m: _Machine, _: Any) -> None:
    pass


def _next_buffer(_m: _Machine, _: Any) -> None:
    raise MalformedError("it needs buffers that lie outside of it")


_Op = Callable[[_Machine, Any], None]


def _table() -> dict[str, _Op]:
    ops: dict[str, _Op] = {
        "MARK": _mark,
        "POP": _pop,
        "POP_MARK": _pop_mark,
        "DUP": lambda m, _: m.push(m.stack[-1]),
        "NONE": lambda m, _: m.push(None),
        "NEWTRUE": lambda m, _: m.push(True),
        "NEWFALSE": lambda m, _: m.push(False),
        "EMPTY_LIST": lambda m, _: m.push([]),
        "EMPTY_TUPLE": lambda m, _: m.push(()),
        "EMPTY_DICT": lambda m, _: m.push({}),
        "EMPTY_SET": lambda m, _: m.push(set()),
        "LIST": lambda m, _: m.push(m.pop_mark()),
        "TUPLE": lambda m, _: m.push(tuple(m.pop_mark())),
        "TUPLE1": lambda m, _: m.push(_take(m, 1)),
        "TUPLE2": lambda m, _: m.push(_take(m, 2)),
        "TUPLE3": lambda m, _: m.push(_take(m, 3)),
        "DICT": _dict,
        "FROZENSET": lambda m, _: m.push(frozenset(map(_key, m.pop_mark()))),
        "APPEND": lambda m, _: _append(m, [m.stack.pop()]),
        "APPENDS": lambda m, _: _append(m, m.pop_mark()),
        "SETITEM": lambda m, _: _set_items(m, list(_take(m, 2))),
        "SETITEMS": lambda m, _: _set_items(m, m.pop_mark()),
        "ADDITEMS": lambda m, _: _add_items(m, m.pop_mark()),
        "MEMOIZE": lambda m, _: _memoize(m, len(m.memo)),
        "GLOBAL": lambda m, arg: m.push(_global(m, arg)),
        "STACK_GLOBAL": _stack_global,
        "REDUCE": _reduce,
        "NEWOBJ": _reduce,
        "NEWOBJ_EX": _new_object_kw,
        "INST": _inst,
        "OBJ": _obj,
        "BUILD": _build,
        "PERSID": lambda m, arg: m.push(m.refuse("persistent id")),
        "BINPERSID": lambda m, _: m.push((m.stack.pop(), m.refuse("persistent id"))[1]),
        "NEXT_BUFFER": _next_buffer,
        "READONLY_BUFFER": _no_op,
        "FRAME": _no_op,
        "PROTO": _proto,
    }
    values = "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING"
    values += " SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE"
    values += " SHORT_BINUNICODE BINUNICODE BINUNICODE8"
    ops |= dict.fromkeys(values.split(), _Machine.push)
    ops |= dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT"], _memoize)
    ops |= dict.fromkeys(["GET", "BINGET", "LONG_BINGET"], lambda m, i: m.push(m.memo[i]))
    ops |= dict.fromkeys(
        ["EXT1", "EXT2", "EXT4"], lambda m, code: m.push(m.refuse(f"extension code {code}"))
    )
    return ops


_OPCODES = _table()


class _Finisher:
    """Copies what the machine built: boxes opened, cycles cut, depth and size bounded."""

    def __init__(self) -> None:
        self.places: list[tuple[str, str]] = []
        self.done: dict[int, tuple[Any, int]] = {}  # by id: the copy, and its nodes
        self.open: set[int] = set()  # containers that we are inside of

    def finish(self, value: Any) -> tuple[Any, list[tuple[str, str]]]:
        return self._copy(value, "", 0)[0], self.places

    def _copy(self, value: Any, place: str, depth: int) -> tuple[Any, int]:
        if isinstance(value, _Known):
            value = Refused(value.name)
        if isinstance(value, DtypeBox):
            return value.dtype, 1
        if isinstance(value, ArrayBox) and value.array is None:
            value = Refused(value.why)
        if isinstance(value, Refused):
            self.places.append((place, value.name))
            return value, 1
        if isinstance(value, (*_SCALARS, bytearray)):
            return value, 1
        key = id(value)
        if key in self.done:
            return self.done[key]
        if key in self.open:
            self.places.append((place, "a value inside itself"))
            return Refused("a value inside itself"), 1
        if depth > _MAX_DEPTH:
            raise MalformedError(f"values lie more than {_MAX_DEPTH} deep in each other")
        self.open.add(key)
        copy, nodes = self._copy_container(value, place, depth + 1)
        self.open.remove(key)
        if nodes > _MAX_NODES:
            raise MalformedError("it repeats its parts too often")
        self.done[key] = copy, nodes
        return copy, nodes

    def _copy_container(self, value: Any, place: str, depth: int) -> tuple[Any, int]:
        if isinstance(value, dict):
            places = [f"{place}[{_label(key)}]" for key in value]
            keys = [self._copy(key, at, depth) for key, at in zip(value, places, strict=True)]
            values = [
                self._copy(item, at, depth) for item, at in zip(value.values(), places, strict=True)
            ]
            copy = {k: v for (k, _), (v, _) in zip(keys, values, strict=True)}
            return copy, 1 + sum(n for _, n in keys) + sum(n for _, n in values)
        if isinstance(value, ArrayBox):
            return self._copy_array(value, place, depth)
        copies = [self._copy(v, f"{place}[{i}]", depth) for i, v in enumerate(value)]
        return type(value)(v for v, _ in copies), 1 + sum(n for _, n in copies)

    def _copy_array(self, box: ArrayBox, place: str, depth: int) -> tuple[Any, int]:
        array = box.array
        assert array is not None
        nodes = 1
        flat = array.reshape(-1).copy()
        for name in array.dtype.names or (None,):
            column = flat if name is None else flat[name]
            if column.dtype == object:
                inside = place if name is None else f"{place}[{name!r}]"
                for i in range(flat.size):
                    column[i], n = self._copy(column[i], f"{inside}[{i}]", depth)
                    nodes += n
        return (box.ordered(flat.reshape(array.shape)) if nodes > 1 else array), nodes


def _label(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= 60 else f"{text[:59]}…"
