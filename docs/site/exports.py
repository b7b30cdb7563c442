"""A griffe extension: the public names of dao_polars as the package's own members.

Nothing is imported, so the pages are built without the Rust extension. Some modules have the name
of a function that the package exports (`scan`, `genes`, `frame`), and griffe, which knows one
object by a name, would lose them; some methods are functions of their room, made methods by
`namespace_method`; and `gene` is a method bound to an expression. All are found in their files.
"""

from __future__ import annotations

import ast
import copy
import re
from pathlib import Path
from typing import Any

import griffe

PACKAGE = "dao_polars"

SECTION = re.compile(r"^(Returns|Raises):\n((?: .*\n?|\n)+)", re.M)
ERRORS = re.compile(r"[\w.]+(, [\w.]+)*: ")


class Exports(griffe.Extension):
    """Puts what the package exports where it exports it."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """The package's exports, each as an object of its own."""
        if pkg.path != PACKAGE:
            return
        files = Files(Path(str(pkg.filepath)).parent, loader)
        for name in map(str, pkg.exports or []):
            pkg.set_member(name, files.object(pkg.imports[name]))


class Files:
    """Objects of the package, each looked up in its file."""

    def __init__(self, root: Path, loader: griffe.GriffeLoader) -> None:
        self._root = root
        self._parser = loader.docstring_parser
        self._options = loader.docstring_options
        self._modules: dict[str, griffe.Module] = {}

    def module(self, path: str) -> griffe.Module | None:
        """The module of this path; None where no file is one."""
        if path not in self._modules:
            place = self._root.joinpath(*path.split(".")[1:])
            file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
            if not file.exists():
                return None
            parent: griffe.Module | None = None
            above = self._root
            for name in path.split(".")[:-1]:  # which relative imports are resolved by
                above = self._root if parent is None else above / name
                parent = griffe.Module(name, filepath=above / "__init__.py", parent=parent)
            name, code = path.split(".")[-1], file.read_text(encoding="utf-8")
            self._modules[path] = griffe.visit(
                name,
                filepath=file,
                code=code,
                parent=parent,
                docstring_parser=self._parser,
                docstring_options=self._options,
            )
            spell_out(self._modules[path])
        return self._modules[path]

    def object(self, path: str) -> griffe.Object:
        """The object of this path, with all of its methods."""
        owner, _, name = path.rpartition(".")
        module = self.module(owner)
        if module is None or name not in module.members:
            found = self._bound(module, name) if module else None
            if found is None:
                raise LookupError(f"{path}: docs/site/exports.py cannot tell what this is")
            return found
        found = module.members[name]
        if isinstance(found, griffe.Alias):
            return self.object(found.target_path)
        if isinstance(found, griffe.Attribute) and (bound := self._bound(module, name)):
            return bound
        if isinstance(found, griffe.Class):
            self._complete(found, module)
        return found

    def _complete(self, found: griffe.Class, module: griffe.Module) -> None:
        """Adds the methods of bases in other files, and those that `namespace_method` makes."""
        for name, member in list(found.members.items()):
            value = getattr(member, "value", None)
            if value is not None and str(value).startswith("namespace_method("):
                target = str(value).removeprefix("namespace_method(").removesuffix(")")
                head, *rest = target.split(".")
                path = ".".join([module.imports.get(head, f"{module.path}.{head}"), *rest])
                method = copy.copy(self.object(path))
                self._without_subject(method)
                method.name, method.lineno = name, member.lineno  # where it is listed
                found.set_member(name, method)
        for base in found.bases:
            head = str(base)
            if head in module.imports and module.imports[head].startswith(PACKAGE):
                inherited = self.object(module.imports[head])
                for name, member in inherited.members.items():
                    if name not in found.members:
                        inherited_member = copy.copy(member)
                        inherited_member.lineno = 10_000 + (member.lineno or 0)  # after its own
                        found.set_member(name, inherited_member)

    def _without_subject(self, method: Any) -> None:
        """A method's parameters: without the frame that the namespace is of."""
        parameters = list(method.parameters)[1:]
        subject = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
        method.parameters = griffe.Parameters(subject, *parameters)

    def _bound(self, module: griffe.Module, name: str) -> griffe.Object | None:
        """The method that a name is bound to, as in ``gene, genes = _cells.gene, _cells.genes``."""
        values: dict[str, ast.expr] = {}
        for node in ast.parse(Path(str(module.filepath)).read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
                continue
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = zip(target.elts, node.value.elts, strict=True)
                else:
                    pairs = iter([(target, node.value)])
                values |= {to.id: value for to, value in pairs if isinstance(to, ast.Name)}
        method = values.get(name)
        if not isinstance(method, ast.Attribute) or not isinstance(method.value, ast.Name):
            return None
        made = values.get(method.value.id)
        if not isinstance(made, ast.Call) or not isinstance(made.func, ast.Name):
            return None
        bound = copy.copy(module[f"{made.func.id}.{method.attr}"])
        bound.name = name
        bound.parameters = griffe.Parameters(*list(bound.parameters)[1:])
        return bound


def spell_out(of: griffe.Object) -> None:
    """Puts into docstrings what griffe needs to tell types from prose.

    What is returned has its type in the signature, and errors may be "everything that … raises".
    Overloads are for type checkers: the signature that says all is the last one.
    """
    for member in of.members.values():
        if isinstance(member, griffe.Function):
            member.overloads = None
        if isinstance(member, griffe.Function | griffe.Class) and member.docstring:
            returns = getattr(member, "returns", None)
            member.docstring.value = SECTION.sub(
                lambda found, returns=returns: typed(found, returns), member.docstring.value
            )
        if isinstance(member, griffe.Class):
            spell_out(member)


def typed(section: re.Match[str], returns: Any) -> str:
    """A section whose items begin with types."""
    name, body = section[1], section[2]
    if name == "Returns":
        return f"{name}:\n    {returns or 'Any'}: {body.lstrip()}"
    items: list[str] = []
    for line in filter(None, (line[4:] for line in body.splitlines())):
        if ERRORS.match(line):
            items.append(line)
        elif line.startswith(" ") or (items and items[-1].startswith("DaoError: ")):
            items[-1] += f" {line.strip()}"
        else:
            items.append(f"DaoError: {line[0].lower()}{line[1:]}")
    return f"{name}:\n" + "".join(f"    {item}\n" for item in items)
