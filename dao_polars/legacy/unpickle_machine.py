"""The machine that runs a pickle's opcodes, of all protocols, and calls nothing that they name.

Owns the stack, the memo and the table of the names that are built (by our own functions); any other
name becomes an inert [`Refused`][]. Every copy is paid for out of a budget that follows from the
pickle's size, so that a small file cannot fill the memory. What it gives may hold unfinished parts
and cycles: ``unpickle`` copies the result.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from .unpickle_numpy import (
    NUMPY_TYPES,
    MalformedError,
    PendingArray,
    PendingDtype,
    frombuffer,
    new_dtype,
    scalar,
)

__all__ = ["SCALARS", "AllowedName", "Machine", "Refused"]

#: Values without parts.
SCALARS = (type(None), bool, int, float, complex, str, bytes, np.generic)
_MAX_KEY = 256  # values in one dict key or set member


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


class AllowedName:
    """A name in the table of builders: a call of it becomes a call of ours."""

    __slots__ = ("build", "name")

    def __init__(self, name: str, build: Callable[..., Any]) -> None:
        self.name, self.build = name, build


class Machine:
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
        """An inert value for a name, which is remembered as refused."""
        value = Refused(name)
        self.refused.setdefault(value.name)
        return value

    def spend(self, n_bytes: int) -> None:
        """Accounts for a copy, so that a few bytes of pickle cannot fill the memory."""
        self.budget -= n_bytes
        if self.budget < 0:
            raise MalformedError("it builds far more than it holds")

    def resolve(self, module: str, name: str) -> AllowedName | Refused:
        """The value that a global name stands for; nothing is imported."""
        full = f"{_MODULES.get(module, module)}.{name}"
        build = _BUILDERS.get(full)
        return self.refuse(full) if build is None else AllowedName(full, build)

    def call(self, function: Any, args: Any) -> Any:
        """The result of a call: our own build for allowed names, an inert value for the rest."""
        if isinstance(function, Refused):
            return function
        if not isinstance(function, AllowedName) or not isinstance(args, tuple):
            raise MalformedError(f"calls a {type(function).__name__} with a {type(args).__name__}")
        value = function.build(self, *args)
        return self.refuse(function.name) if value is NotImplemented else value

    def pop_mark(self) -> list[Any]:
        """The values since the last mark, taken off the stack."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def push(self, value: Any) -> None:
        """Puts a value on the stack."""
        self.stack.append(value)


# --- what the allowed names build; a builder that returns NotImplemented refuses


def _collection(kind: type) -> Callable[..., Any]:
    def build(machine: Machine, items: Any = ()) -> Any:
        if not isinstance(items, list | tuple | set | frozenset):
            return NotImplemented
        machine.spend(64 * len(items))
        return kind(map(_key, items)) if kind in (set, frozenset) else kind(items)

    return build


def _mapping(machine: Machine, items: Any = ()) -> Any:
    if not isinstance(items, list | tuple | dict):
        return NotImplemented
    machine.spend(64 * len(items))
    pairs = items.items() if isinstance(items, dict) else items
    return {_key(key): value for key, value in pairs}


def _default_dict(machine: Machine, _factory: Any = None, items: Any = ()) -> Any:
    return _mapping(machine, items)


def _bytes(kind: type) -> Callable[..., Any]:
    def build(machine: Machine, text: Any = b"", encoding: Any = "latin1") -> Any:
        if isinstance(text, str) and encoding in ("latin1", "latin-1"):
            text = text.encode("latin1")
        if not isinstance(text, bytes | bytearray):
            return NotImplemented
        machine.spend(len(text))
        return kind(text)

    return build


def _complex(_machine: Machine, real: Any = 0.0, imag: Any = 0.0) -> Any:
    ok = all(isinstance(part, int | float) for part in (real, imag))
    return complex(real, imag) if ok else NotImplemented


def _reconstructor(machine: Machine, cls: Any, _base: Any, state: Any) -> Any:
    return machine.call(cls, () if state is None else (state,))


def _new_array(machine: Machine, cls: Any, _shape: Any = (), _code: Any = b"b") -> Any:
    if isinstance(cls, Refused):  # a subclass of ndarray
        return cls
    return (
        PendingArray(machine.spend, len(machine.data))
        if cls.name in NUMPY_TYPES
        else NotImplemented
    )


def _refuse_call(_machine: Machine, *_args: Any) -> Any:
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
    **{f"builtins.{name}": _refuse_call for name in ("bool", "float", "int", "object", "str")},
    **dict.fromkeys(NUMPY_TYPES, _refuse_call),
}


def _key(key: Any) -> Any:
    """A dict key or set member that is safe to hash: small, flat enough, no container."""
    pending, seen = [key], 0
    while pending:
        part = pending.pop()
        seen += 1
        if isinstance(part, tuple | frozenset):
            pending.extend(part if len(part) <= _MAX_KEY else [[]])
        elif not isinstance(part, (*SCALARS, Refused, AllowedName, PendingDtype)):
            raise MalformedError(f"a key or set member is a {type(part).__name__}")
        if seen > _MAX_KEY:
            raise MalformedError("a key or set member is too large")
    return key


# --- the opcodes


def _memoize(m: Machine, index: int) -> None:
    m.memo[index] = m.stack[-1]


def _set_items(m: Machine, items: list[Any]) -> None:
    if len(items) % 2:
        raise MalformedError("a dict's key has no value")
    target = m.stack[-1]
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value
    elif not isinstance(target, Refused):
        raise MalformedError(f"sets items of a {type(target).__name__}")


def _append(m: Machine, items: list[Any]) -> None:
    target = m.stack[-1]
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Refused):
        raise MalformedError(f"appends to a {type(target).__name__}")


def _add_items(m: Machine, items: list[Any]) -> None:
    target = m.stack[-1]
    if isinstance(target, set):
        target.update(map(_key, items))
    elif not isinstance(target, Refused):
        raise MalformedError(f"adds to a {type(target).__name__}")


def _build(m: Machine, _: Any) -> None:
    state = m.stack.pop()
    if isinstance(m.stack[-1], PendingDtype | PendingArray):
        m.stack[-1].set_state(state)


def _reduce(m: Machine, _: Any) -> None:
    args = m.stack.pop()
    m.push(m.call(m.stack.pop(), args))


def _new_object_kw(m: Machine, _: Any) -> None:
    kwargs, args, cls = m.stack.pop(), m.stack.pop(), m.stack.pop()
    m.push(m.refuse(cls.name) if kwargs and isinstance(cls, AllowedName) else m.call(cls, args))


def _stack_global(m: Machine, _: Any) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if not (isinstance(name, str) and isinstance(module, str)):
        raise MalformedError("a name is not text")
    m.push(m.resolve(module, name))


def _global(m: Machine, arg: str) -> AllowedName | Refused:
    module, _, name = arg.partition(" ")
    return m.resolve(module, name)


def _inst(m: Machine, arg: str) -> None:
    args = tuple(m.pop_mark())
    m.push(m.call(_global(m, arg), args))


def _obj(m: Machine, _: Any) -> None:
    cls, *args = m.pop_mark()
    m.push(m.call(cls, tuple(args)))


def _pop(m: Machine, _: Any) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()


def _pop_mark(m: Machine, _: Any) -> None:
    m.pop_mark()


def _mark(m: Machine, _: Any) -> None:
    m.marks.append(m.stack)
    m.stack = []


def _pop_many(m: Machine, n: int) -> tuple[Any, ...]:
    if len(m.stack) < n:
        raise MalformedError("the stack is too short")
    items = tuple(m.stack[-n:])
    del m.stack[-n:]
    return items


def _dict(m: Machine, _: Any) -> None:
    items = m.pop_mark()
    m.push({})
    _set_items(m, items)


def _proto(_m: Machine, version: int) -> None:
    if version > 5:
        raise MalformedError(f"pickle protocol {version} is not known")


def _no_op(_m: Machine, _: Any) -> None:
    pass


def _next_buffer(_m: Machine, _: Any) -> None:
    raise MalformedError("it needs buffers that lie outside of it")


_Op = Callable[[Machine, Any], None]


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
        "TUPLE1": lambda m, _: m.push(_pop_many(m, 1)),
        "TUPLE2": lambda m, _: m.push(_pop_many(m, 2)),
        "TUPLE3": lambda m, _: m.push(_pop_many(m, 3)),
        "DICT": _dict,
        "FROZENSET": lambda m, _: m.push(frozenset(map(_key, m.pop_mark()))),
        "APPEND": lambda m, _: _append(m, [m.stack.pop()]),
        "APPENDS": lambda m, _: _append(m, m.pop_mark()),
        "SETITEM": lambda m, _: _set_items(m, list(_pop_many(m, 2))),
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
    ops |= dict.fromkeys(values.split(), Machine.push)
    ops |= dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT"], _memoize)
    ops |= dict.fromkeys(["GET", "BINGET", "LONG_BINGET"], lambda m, i: m.push(m.memo[i]))
    ops |= dict.fromkeys(
        ["EXT1", "EXT2", "EXT4"], lambda m, code: m.push(m.refuse(f"extension code {code}"))
    )
    return ops


_OPCODES = _table()
