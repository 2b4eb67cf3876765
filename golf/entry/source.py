"""One source file as the bundler reads it: its imports, its module-level names, its text without either."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

PACKAGE = "golf"
"""The package whose modules are flattened; every other import stays an import."""

_UNSUITABLE = frozenset({"__file__", "__name__", "__package__", "__path__", "__spec__", "__loader__"})
_SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class BundleError(ValueError):
    """A source file cannot be flattened; the message names file and line."""


@dataclass(frozen=True)
class ProjectImport:
    """One name of a `from golf.x.y import Name`."""

    module: str
    name: str
    line: int


@dataclass(frozen=True)
class OutsideImport:
    """One name bound by importing something outside the project; `name` is None for `import module`."""

    module: str
    name: str | None
    asname: str | None
    line: int

    @property
    def bound(self) -> str:
        """The name it puts into the module."""
        return self.asname or self.name or self.module.split(".")[0]

    @property
    def origin(self) -> str:
        """What that name then means: `import a` and `import a.b` both bind a to the same thing."""
        if self.name is not None:
            return f"{self.module}.{self.name}"
        return self.module if self.asname else self.bound


@dataclass(frozen=True)
class SourceModule:
    """A parsed file; `names` maps each module-level definition to its line.

    `nested_imports` stand under a module-level `if` or `try` and remain in `body`; the others are taken out.
    """

    label: str
    name: str
    docstring: str | None
    docstring_source: str
    shebang: str
    project_imports: tuple[ProjectImport, ...]
    outside_imports: tuple[OutsideImport, ...]
    nested_imports: tuple[OutsideImport, ...]
    names: dict[str, int]
    body: str

    def error(self, line: int, what: str) -> BundleError:
        """A BundleError that points at `line` of this file."""
        return BundleError(f"{self.label}:{line}: {what}")


def is_project(module: str) -> bool:
    """Whether a dotted module name lies in the project's package."""
    return module.split(".")[0] == PACKAGE


def read_source(path: Path, name: str, root: Path) -> SourceModule:
    """Reads the file of module `name`, or of the script when `name` is not in the package.

    Raises BundleError for what cannot be flattened: see `bundle`.
    """
    label = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    text = path.read_text(encoding="utf-8")
    if text.startswith("\ufeff"):
        raise BundleError(f"{label}:1: starts with a byte order mark")
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise BundleError(f"{label}:{error.lineno}: does not parse: {error.msg}") from error
    reader = _Reader(label, in_package=is_project(name))
    reader.read(tree.body)
    has_docstring = ast.get_docstring(tree, clean=False) is not None
    removed = [*tree.body[: int(has_docstring)], *reader.taken]
    reader.refuse_shared_lines(tree.body, removed)
    return SourceModule(
        label=label,
        name=name,
        docstring=ast.get_docstring(tree),
        docstring_source="\n".join(text.split("\n")[_lines(tree.body[0])]) if has_docstring else "",
        shebang=text.split("\n", 1)[0] if text.startswith("#!") else "",
        project_imports=tuple(reader.project),
        outside_imports=tuple(reader.outside),
        nested_imports=tuple(reader.nested),
        names=_first_lines([node for node in tree.body if node not in removed]),
        body=_without(re.sub(r"\A#!.*", "", text), removed),
    )


class _Reader:
    """Collects a file's imports and refuses, with their line, the forms that flattening would break."""

    def __init__(self, label: str, in_package: bool):
        self.label = label
        self.in_package = in_package
        self.taken: list[ast.stmt] = []
        self.project: list[ProjectImport] = []
        self.outside: list[OutsideImport] = []
        self.nested: list[OutsideImport] = []

    def read(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                self.taken.append(statement)
                self._take_import(statement)
            else:
                self._look_inside(statement, in_function=False)

    def refuse_shared_lines(self, body: list[ast.stmt], removed: list[ast.stmt]) -> None:
        for first, second in pairwise(body):
            if second.lineno <= _lines(first).stop and (first in removed or second in removed):
                raise self._error(second, "an import or docstring shares its line with another statement")

    def _take_import(self, node: ast.Import | ast.ImportFrom) -> None:
        module = self._checked_module(node)
        if module is None:
            self.outside += _as_outside(node)
            return
        for alias in node.names:
            if alias.asname:
                raise self._error(node, f"{module}.{alias.name} is imported under an alias, {alias.asname}")
            self.project.append(ProjectImport(module, alias.name, node.lineno))

    def _look_inside(self, parent: ast.AST, in_function: bool) -> None:
        """Refuses project imports below the top level, and names that a flattened module loses."""
        in_function = in_function or isinstance(parent, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.iter_child_nodes(parent):
            is_import = isinstance(node, (ast.Import, ast.ImportFrom))
            if is_import and (self.in_package or not in_function):
                if self._checked_module(node) is not None:
                    raise self._error(node, "a module of the project is imported below the top level")
                self.nested += [] if in_function else _as_outside(node)
            if self.in_package and isinstance(node, ast.Name) and node.id in _UNSUITABLE:
                raise self._error(node, f"{node.id} means something else in a flattened file")
            self._look_inside(node, in_function)

    def _checked_module(self, node: ast.Import | ast.ImportFrom) -> str | None:
        """The project module that is imported from, None for one outside the project."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                if is_project(alias.name):
                    raise self._error(node, f"import {alias.name}; expected from {alias.name} import Name")
            return None
        if node.level or node.module is None:
            raise self._error(node, "relative import")
        if node.module == "__future__":
            raise self._error(node, "from __future__ would change the meaning of every other module")
        if node.names[0].name == "*":
            raise self._error(node, f"star import from {node.module}")
        return node.module if is_project(node.module) else None

    def _error(self, node: ast.stmt | ast.expr, what: str) -> BundleError:
        return BundleError(f"{self.label}:{node.lineno}: {what}")


def _as_outside(node: ast.Import | ast.ImportFrom) -> list[OutsideImport]:
    if isinstance(node, ast.Import):
        return [OutsideImport(alias.name, None, alias.asname, node.lineno) for alias in node.names]
    return [OutsideImport(node.module or "", alias.name, alias.asname, node.lineno) for alias in node.names]


def _first_lines(statements: list[ast.stmt]) -> dict[str, int]:
    lines: dict[str, int] = {}
    for name, line in _bound_names(statements):
        lines.setdefault(name, line)
    return lines


def _bound_names(nodes: list[ast.stmt]) -> Iterator[tuple[str, int]]:
    """The names, imports aside, that running these statements binds in their own scope, with their lines."""
    pending: list[ast.AST] = list(nodes)
    while pending:
        node = pending.pop(0)
        if isinstance(node, _DEFINITIONS):
            yield node.name, node.lineno
            continue
        if isinstance(node, _SCOPES):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name, node.lineno
        pending = [*ast.iter_child_nodes(node), *pending]


def _lines(node: ast.stmt) -> slice:
    """The statement's lines, as a slice of the file's."""
    return slice(node.lineno - 1, node.end_lineno)


def _without(text: str, removed: list[ast.stmt]) -> str:
    """The text less the lines of the removed statements; what remains is joined by blank lines."""
    lines = text.split("\n")
    pieces, start = [], 0
    for taken in sorted((_lines(node) for node in removed), key=lambda taken: taken.start):
        pieces.append("\n".join(lines[start : taken.start]))
        start = taken.stop
    pieces.append("\n".join(lines[start:]))
    return "\n\n".join(piece.strip("\n") for piece in pieces if piece.strip())
