"""A process that parses mutated bytes and may do nothing else, for test_fuzz.py.

``python -m tests.whole.fuzz TARGET SEED CASES SECONDS AT``: a target's seeds, then mutations of
them, each made from its number alone. While a parser is at work, whatever Python tells its audit
hooks (an import, code, a file, a process, a socket) fails the case, and so does memory that is
asked for on the bytes' word. The number of the case at work is in the file AT, for whoever sees
this process die.
"""

from __future__ import annotations

import codecs
import faulthandler
import importlib
import json
import logging
import os
import pickletools
import pkgutil
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import anndata as ad
import polars as pl
import scipy.sparse as sp
import tzdata

import dao_polars as dao
from dao_polars._core import ColumnMeta, TableMeta
from dao_polars.convert.to_pandas import to_pandas
from dao_polars.legacy.unpickle import load
from dao_polars.scan.constants import constants
from dao_polars.sources.source import open_source
from dao_polars.store import uns as uns_json
from tests.conftest import ROOT, SFAIRA, study
from tests.memory import memory

CORPUS = ROOT / "fuzz" / "corpus"
SLOWEST = 20
"""The seconds after which a case is a failure."""
SPACE = 1 << 30
"""The bytes of address space beside what the process has when all seeds are read."""
RESIDENT = 64 << 20
"""The most bytes that reading some kilobytes may take."""


@dataclass(frozen=True)
class Target:
    """What is fuzzed: inputs to begin with, how they change, and what must hold for any.

    ``different``: so many of the seeds say different things as they are; None: all. ``lazy``: the
    seeds make modules be imported; where nothing is, no seed is read before it is watched.
    ``resident``: the most bytes by which a case may raise the memory that the process takes.
    """

    seeds: Callable[[], list[bytes]]
    mutate: Callable[[list[bytes], Random], bytes]
    check: Callable[[bytes], object]
    different: int | None = None
    lazy: bool = True
    resident: int = RESIDENT


def corpus(folder: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / folder).iterdir())]


# --- mutations

EDGES = [0, 1, 127, 128, 255, 256, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1]


def mutate_bytes(seeds: list[bytes], random: Random) -> bytes:
    """One of the seeds after one to eight changes that know nothing of what bytes mean."""
    data = bytearray(random.choice(seeds))
    for _ in range(random.randint(1, 8)):
        at, span = random.randrange(len(data) + 1), random.randint(1, 8)
        part = data[at : at + span]
        kind = random.randrange(6)
        if kind == 0 and part:
            data[at] ^= 1 << random.randrange(8)
        elif kind == 1 and part:
            data[at] = random.randrange(256)
        elif kind == 2:
            del data[at : at + span]
        elif kind == 3:
            data[at:at] = random.randbytes(span)
        elif kind == 4:
            data[at : at + span] = random.choice(EDGES).to_bytes(8, "little")[: len(part)]
        else:
            other = random.choice(seeds)
            start = random.randrange(len(other) + 1)
            data[at : at + span] = other[start : start + random.randrange(64)]
    return bytes(data)


class Op(NamedTuple):
    """An opcode with its argument, and what it does to the stack."""

    data: bytes
    effect: tuple[str, str]


@cache
def opcodes(data: bytes) -> list[Op]:
    """A pickle's opcodes, without frames, whose lengths would change."""
    found = [(op, at) for op, _, at in pickletools.genops(data)]
    ends = [at for _, at in found[1:]] + [found[-1][1] + 1]
    return [
        Op(data[at:end], (str(op.stack_before), str(op.stack_after)))
        for (op, at), end in zip(found, ends, strict=True)
        if op.name != "FRAME"
    ]


@cache
def by_effect(pickles: tuple[bytes, ...]) -> dict[tuple[str, str], list[bytes]]:
    """The opcodes of some pickles by how many values they take from the stack and leave there."""
    found: dict[Any, list[bytes]] = {}
    for data in pickles:
        for op in opcodes(data):
            found.setdefault(op.effect, []).append(op.data)
    return found


def mutate_pickle(seeds: list[bytes], random: Random) -> bytes:
    """Opcodes swapped for others, taken out, doubled; or bytes that are changed.

    Most are swapped for those that take and leave as much, so that what follows is still read.
    """
    if random.random() < 0.3:
        return mutate_bytes(seeds, random)
    ops = list(opcodes(random.choice(seeds)))
    alike = by_effect(tuple(seeds))
    for _ in range(random.randint(1, 4)):
        at, span, kind = random.randrange(len(ops)), random.randint(1, 4), random.random()
        if kind < 0.7:
            ops[at] = ops[at]._replace(data=random.choice(alike[ops[at].effect]))
        elif kind < 0.8 and len(ops) > span:
            del ops[at : at + span]
        elif kind < 0.9:
            ops[at:at] = ops[at : at + span] * random.choice([1, 2, 50])
        else:
            other = opcodes(random.choice(seeds))
            start = random.randrange(len(other))
            ops[at : at + span] = other[start : start + random.randint(1, 12)] or ops[:1]
    data = b"".join(op.data for op in ops)
    return data if random.random() < 0.8 else mutate_bytes([data], random)


def deep(levels: int) -> Any:
    value: Any = 1
    for i in range(levels):
        value = [value] if i % 2 else {"a": value}
    return value


ODD = [None, True, False, *EDGES, -1, -(1 << 63), 1 << 63, 10**30, 0.5, -1e308, float("inf")]
ODD += ["", "x", "\0", "\ud800", "é" * 300, "0", "-1", [], {}, [[]], [{}], {"": None}, deep(40)]
ODD += [deep(320), deep(400), [0] * 300, float("nan")]


@cache
def nodes(texts: tuple[bytes, ...]) -> list[Any]:
    """All values in some JSON texts."""
    found: list[Any] = []

    def walk(value: Any) -> None:
        found.append(value)
        for part in value.values() if isinstance(value, dict) else value if is_list(value) else ():
            walk(part)

    for text in texts:
        walk(json.loads(text))
    return found


def is_list(value: Any) -> bool:
    return isinstance(value, list)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Each container in a value with each of its keys or positions."""
    found: list[tuple[Any, Any]] = []
    open_ = [value]
    while open_:
        at = open_.pop()
        if isinstance(at, dict | list):
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            found += [(at, key) for key in keys]
            open_ += [at[key] for key in keys]
    return found


def mutate_json(seeds: list[bytes], random: Random) -> bytes:
    """Values replaced, taken out, renamed, doubled, wrapped; or bytes that are changed."""
    if random.random() < 0.2:
        return mutate_bytes(seeds, random)
    whole = [json.loads(random.choice(seeds))]
    for _ in range(random.randint(1, 4)):
        holder, key = random.choice(places(whole))
        pool = ODD if random.random() < 0.5 else nodes(tuple(seeds))
        other = json.loads(json.dumps(random.choice(pool)))  # nothing may come to lie in itself
        kind = random.randrange(6)
        if kind < 3:
            holder[key] = other
        elif kind == 3 and holder is not whole:
            del holder[key]
        elif kind == 4 and isinstance(holder, dict):
            names = [
                name for node in nodes(tuple(seeds)) if isinstance(node, dict) for name in node
            ]
            holder[random.choice([*names, "x", ""])] = holder.pop(key)
        elif kind == 4:
            holder.insert(key, other)
        else:
            holder[key] = random.choice([[holder[key]], {"a": holder[key]}, [holder[key]] * 3])
        if not whole:
            whole = [None]
    text = json.dumps(whole[0]).encode()
    n = 100_000 if random.random() < 0.05 else 0
    return b"[" * n + text + b"]" * n


# --- targets


def depth(value: Any) -> int:
    """How deep dicts, lists and tuples lie in each other."""
    parts = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, parts), default=0) if isinstance(value, dict | list | tuple) else 0


def copies() -> bytes:
    """A pickle of 80 MB in 50 kB: one text, copied 5,000 times."""
    raw = b"B" + (1 << 14).to_bytes(4, "little") + bytes(1 << 14) + b"q\x00"
    calls = b"h\x01h\x00\x85R" * 5000
    return b"\x80\x02}K\x00(cbuiltins\nbytearray\nq\x010" + raw + b"0" + calls + b"ts."


def check_pickle(data: bytes) -> None:
    """Plain data, all of it shown; and the columns that a scan makes of it."""
    value, refused = load(data, "uns.pickle")
    assert type(value) is dict
    assert all(isinstance(line, str) and line.isprintable() for line in refused)
    assert depth(value) <= 101
    repr(value)
    constants(value, ())


def check_uns(data: bytes) -> None:
    """A dict, all of it shown; what can be written of it is the same whenever it is read."""
    value = uns_json.decode(data)
    assert type(value) is dict
    assert depth(value) <= 3 * uns_json.MAX_DEPTH + 1
    repr(value)
    for matrix in filter(sp.issparse, value.values()):
        entries = matrix.tocoo()
        assert all(entries.row < matrix.shape[0])
        assert all(entries.col < matrix.shape[-1])
    constants(value, ())
    try:  # once before it is compared: scipy drops zeros that nobody writes
        value = uns_json.decode(uns_json.encode(value, "x"))
    except dao.DaoError:
        return
    assert repr(uns_json.decode(uns_json.encode(value, "x"))) == repr(value)


class Stores:
    """Folders that targets read, one file of which is changed in each case."""

    folder = Path(tempfile.gettempdir())

    @staticmethod
    @cache
    def sfaira() -> Path:
        """A store as sfaira wrote it, of four cells and four genes."""
        from tests.whole.test_bombs import V2, VALUES, write

        return write(Stores.folder / "sfaira", V2, VALUES.tobytes())

    @staticmethod
    @cache
    def sources() -> Path:
        """An AnnData of some cells as zarr, in both formats."""
        folder = Stores.folder / "sources"
        folder.mkdir()
        adata = study(0, 5, ["a", "b", "c"])
        adata.layers["twice"] = adata.X.toarray() * 2
        adata.obsm["X_pca"] = adata.X.toarray()[:, :2]
        adata.obs["flag"] = [True, False, True, False, True]
        adata.uns["organism"] = "human"
        adata.uns["nested"] = {"n": [1, 2]}
        for version in (2, 3):
            with ad.settings.override(zarr_write_format=version):
                adata.write_zarr(folder / f"{version}.zarr")
        # With a copy of all metadata in one file no other would be read.
        (folder / "2.zarr/.zmetadata").unlink()
        root = folder / "3.zarr/zarr.json"
        metadata = json.loads(root.read_text())
        metadata.pop("consolidated_metadata", None)
        root.write_text(json.dumps(metadata))
        return folder


TABLE = pl.DataFrame({"a": range(4), "index": list("wxyz"), "__index_level_0__": list("stuv")})


def check_pandas(data: bytes) -> None:
    """A store of sfaira's whose tables have such notes of pandas', read as any other."""
    text, root = data.decode(errors="replace"), Stores.sfaira()
    tables = root / "d" / "parquet"
    for name, frame in (("obs", TABLE), ("var", TABLE.drop("a", "index"))):
        with quiet():
            frame.write_parquet(tables / f"{name}.parquet", metadata={"pandas": text})
        store = dao.load_store(root)
        assert store.scan().collect().height == 4
        assert store.var("d").height == 4
        with quiet():
            TABLE.write_parquet(tables / f"{name}.parquet")
    with quiet():
        pl.DataFrame().write_parquet(tables / "obs.parquet", metadata={"pandas": text})
    try:
        assert dao.load_store(root).scan().collect().height == 4
    finally:
        with quiet():
            TABLE.write_parquet(tables / "obs.parquet")


def check_notes(data: bytes) -> None:
    """Notes that a store keeps for pandas, whatever they say: a frame with all rows and columns."""
    try:
        parsed = json.loads(data)
        found = parsed["columns"].items()
        columns = [ColumnMeta(name, name, dtype, note) for name, (dtype, note) in found]
        meta = TableMeta(None, parsed["index"], columns)
    except Exception:  # the core makes these of part.json, and is not what is fuzzed here
        return
    for frame, complete in ((NOTED, True), (NOTED[:2], False)):
        df = to_pandas(frame, [meta], complete=complete)
        assert df.shape == (frame.height, frame.width - 1)
        repr(df)


NOTED = pl.DataFrame(
    {
        "obs_name": ["a", "b", "c"],
        "whole": [1, None, 3],
        "real": [0.5, float("nan"), 2.0],
        "text": ["x", None, "y"],
        "flag": [True, False, None],
        "time": pl.Series([0, 1, None], dtype=pl.Datetime("us", "UTC")),
    }
)


def source_seeds() -> list[bytes]:
    """The path of a source's metadata file, a NUL, and what it says: of each such file."""
    root = Stores.sources()
    files = [path for path in root.rglob("*") if path.name in METADATA]
    files.sort(key=lambda path: (len(path.parts), path))
    return [f"{path.relative_to(root)}\0".encode() + path.read_bytes() for path in files]


METADATA = {"zarr.json", ".zattrs", ".zgroup", ".zarray"}


def mutate_source(seeds: list[bytes], random: Random) -> bytes:
    name, _, text = random.choice(seeds).partition(b"\0")
    others = [seed.partition(b"\0")[2] for seed in seeds]
    changed = mutate_json([text] if random.random() < 0.9 else others, random)
    return name + b"\0" + changed


def check_source(data: bytes) -> None:
    """A source with such a metadata file: opened, and all of it read, or refused."""
    name, _, text = data.partition(b"\0")
    file = Stores.sources() / os.fsdecode(name)
    root = next(path for path in file.parents if path.suffix == ".zarr")
    with quiet():
        before = file.read_bytes()
        file.write_bytes(text)
    try:
        with open_source(root, layers=True) as source:
            uns_json.encode(source.uns, "x")
            for matrix in source.matrices.values():
                for _ in matrix.blocks():
                    pass
    except dao.DaoIOError as error:
        # zarr takes sizes at their word: sources come from people who are trusted.
        if not isinstance(error.__cause__, MemoryError):
            raise
    finally:
        with quiet():
            file.write_bytes(before)


def pickle_seeds() -> list[bytes]:
    found = [path.read_bytes() for path in sorted(SFAIRA.rglob("uns.pickle"))]
    return [*corpus("pickle"), *found, copies()]


TARGETS = {
    "pickle": Target(pickle_seeds, mutate_pickle, check_pickle, lazy=False),
    "uns": Target(lambda: corpus("uns"), mutate_json, check_uns),
    "pandas": Target(lambda: corpus("pandas"), mutate_json, check_pandas),
    "notes": Target(lambda: corpus("notes"), mutate_json, check_notes),
    # Each seed is one file of a source that is whole; the first are at the roots of both formats.
    "source": Target(source_seeds, mutate_source, check_source, different=3, resident=SPACE),
}


def made(target: str, seed: int, case: int) -> bytes:
    """The input of a case: the first are the seeds as they are."""
    seeds = all_seeds(target)
    if case < n_seeds(target):
        return seeds[case]
    return TARGETS[target].mutate(seeds, Random(f"{target} {seed} {case}"))


@cache
def all_seeds(target: str) -> list[bytes]:
    return TARGETS[target].seeds()


def n_seeds(target: str) -> int:
    """The number of seeds that are cases as they are."""
    n, different = len(all_seeds(target)), TARGETS[target].different
    return n if different is None else min(n, different)


# --- what a parser may do beside parsing


class Forbidden(BaseException):
    """Something that no parser does; not an Exception, which a parser would take for its own."""


class Guard:
    """Notes and forbids what Python tells audit hooks while a parser is at work."""

    def __init__(self) -> None:
        self.watching = False
        self.seen: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.watching and not may_be(event, args):
            self.watching = False  # or showing it would be the next
            self.seen.append(f"{event} {args!r:.200}")
            raise Forbidden(self.seen[-1])


GUARD = Guard()


class quiet:  # noqa: N801 - as a context manager is called
    """Within a case: what the case itself does, such as writing the file that is to be read."""

    def __enter__(self) -> None:
        self.before, GUARD.watching = GUARD.watching, False

    def __exit__(self, *_: object) -> None:
        GUARD.watching = self.before


#: What says nothing of the bytes: looks at objects and frames.
HARMLESS = {"builtins.id", "sys._getframe", "sys._getframemodulename", "object.__getattr__"}


def may_be(event: str, args: tuple[Any, ...]) -> bool:
    if event == "open":
        return may_be_read(*args[:2])
    if event == "import":  # where zoneinfo looks for a zone, having looked for a file
        return str(args[0]).startswith("tzdata.zoneinfo.")
    if event == "os.listdir":  # the second is what an import looks through
        return str(args[0]).startswith(str(Stores.folder)) or args[0] in sys.path
    if event == "compile":  # a name, as typing does in pandas' functions; to run it is "exec"
        return isinstance(args[0], bytes) and args[0].isalpha() and args[1] == "<string>"
    return event in HARMLESS


def may_be_read(path: Any, mode: Any) -> bool:
    """Whether a file may be opened: to be read, among the case's own or of the time zones."""
    text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
    own = text.startswith(str(Stores.folder)) or re.search(r"/(zoneinfo|pytz|tzdata)/", text)
    return bool(own) and ".." not in text and (mode is None or mode in ("r", "rb"))


def import_all() -> None:
    """What is imported when it is first of use: encodings, of JSON too, and time zones."""
    for name in (
        "utf_8_sig",
        "utf_16",
        "utf_16_le",
        "utf_16_be",
        "utf_32",
        "utf_32_le",
        "utf_32_be",
    ):
        codecs.lookup(name)
    for name in ("idna", "latin_1", "ascii", "unicode_escape", "raw_unicode_escape"):
        codecs.lookup(name)
    for module in pkgutil.walk_packages(tzdata.__path__, "tzdata."):
        importlib.import_module(module.name)


# --- cases


def failure(target: Target, data: bytes) -> str | None:
    """Why a case fails; None where it gives a value or a DaoError that is nobody's bug."""
    before = memory("VmHWM")
    faulthandler.dump_traceback_later(SLOWEST, exit=True)
    GUARD.seen.clear()
    GUARD.watching = True
    why = None
    try:
        target.check(data)
    except dao.DaoInternalError:
        GUARD.watching = False
        why = traceback.format_exc()
    except dao.DaoError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, MemoryError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            why = f"memory is asked for on its word: {cause!r}"
    except BaseException:
        GUARD.watching = False
        why = traceback.format_exc()
    GUARD.watching = False
    faulthandler.cancel_dump_traceback_later()
    taken = memory("VmHWM") - before
    if GUARD.seen:
        return f"it does more than parse: {GUARD.seen}"
    if taken > target.resident:
        return f"it takes {taken >> 20} MiB for {len(data)} bytes"
    return why


def limit_memory() -> None:
    """Bounds the address space to some more than what there is now."""
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + SPACE, resource.RLIM_INFINITY))


def main(target: str, seed: int, cases: int, seconds: float, at: str) -> str:
    """What there is to say of some cases, or of all that fit into some seconds."""
    # Both would read the files of code that they show; asyncio logs what zarr does not ask for.
    warnings.simplefilter("ignore")
    logging.disable()
    n = n_seeds(target)
    import_all()
    with open(at, "wb", buffering=0) as log:

        def begun(case: int) -> bytes:
            os.pwrite(log.fileno(), case.to_bytes(8, "little"), 0)
            return made(target, seed, case)

        for case in range(n) if TARGETS[target].lazy else ():
            faulthandler.dump_traceback_later(SLOWEST, exit=True)
            with suppress(Exception):  # modules are imported, and threads started
                TARGETS[target].check(begun(case))
        limit_memory()
        sys.addaudithook(GUARD)
        end, case = time.monotonic() + seconds, 0
        while case < n or (case < cases if cases else time.monotonic() < end):
            why = failure(TARGETS[target], begun(case))
            if why is not None:
                return f"case {case} fails: {why}"
            case += 1
    return f"{case} cases pass"


if __name__ == "__main__":
    name, seed, cases, seconds, at = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        Stores.folder = Path(folder)
        print(main(name, int(seed), int(cases), float(seconds), at))
