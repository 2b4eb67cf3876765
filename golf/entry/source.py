"""The text of one module as the bundler reads, edits and cuts it: always the author's text, comments kept.

Nothing is written by `ast.unparse`: an `Edit` replaces a range of the text, and the result is parsed again.
"""

import ast
import symtable
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate, pairwise
from pathlib import Path

PACKAGE = "golf"
"""The package whose modules are flattened; every other import stays an import."""

_UNSUITABLE = frozenset({"__file__", "__name__", "__package__", "__path__", "__spec__", "__loader__"})
_SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)


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
class Edit:
    """Bytes `start` to `stop` of a text are replaced by `text`."""

    start: int
    stop: int
    text: str = ""


@dataclass(frozen=True)
class Unit:
    """A statement with the string after it if that documents it: what is kept or dropped as a whole."""

    node: ast.stmt
    last: ast.stmt
    names: frozenset[str]
    """What it binds at its level."""


class SourceModule:
    """A module's text and its parsed tree; `edited` gives a new one, so that both always agree."""

    def __init__(self, label: str, name: str, text: str):
        self.label, self.name, self.text = label, name, text
        if text.startswith("\ufeff"):
            raise BundleError(f"{label}:1: starts with a byte order mark")
        try:
            self.tree = ast.parse(text)
        except SyntaxError as error:
            raise BundleError(f"{label}:{error.lineno}: does not parse: {error.msg}") from error
        self._lines = text.encode().split(b"\n")
        self._starts = [0, *accumulate(len(line) + 1 for line in self._lines)]
        self._reads: dict[ast.AST, frozenset[str]] = {}
        self._shells: dict[ast.ClassDef, ast.ClassDef] = {}
        reader = _ImportReader(self)
        reader.read(self.tree.body)
        self.project_imports = tuple(reader.project)
        self.outside_imports = tuple(reader.outside)
        self.nested_imports = tuple(reader.nested)
        """Those under a module-level `if` or `try`, which are part of that statement."""

    def error(self, where: int | ast.AST, what: str) -> BundleError:
        """A BundleError that points at a line, or at the line of a node."""
        line = where if isinstance(where, int) else vars(where).get("lineno", 1)
        return BundleError(f"{self.label}:{line}: {what}")

    @cached_property
    def docstring(self) -> str | None:
        """The module's docstring, without its indentation."""
        return ast.get_docstring(self.tree)

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The module's statements but its docstring and imports, in order."""
        has_docstring = ast.get_docstring(self.tree, clean=False) is not None
        body = [node for node in self.tree.body[int(has_docstring) :] if not isinstance(node, IMPORTS)]
        return tuple(units_of(body))

    @cached_property
    def names(self) -> dict[str, int]:
        """Each name that the module defines, imports aside, with the line where it first does."""
        lines: dict[str, int] = {}
        for unit in self.units:
            for name, line in bound_names([unit.node]):
                lines.setdefault(name, line)
        return lines

    @cached_property
    def definitions(self) -> dict[str, Unit]:
        """The first statement that binds each of `names`."""
        found: dict[str, Unit] = {}
        for unit in self.units:
            for name in unit.names:
                found.setdefault(name, unit)
        return found

    def first_line(self, node: ast.stmt) -> int:
        """The line where a statement begins: that of the comments directly above, or of its decorators."""
        decorators = node.decorator_list if isinstance(node, DEFINITIONS) else ()
        line = min([node.lineno, *(item.lineno for item in decorators)])
        while line > 1 and self._lines[line - 2].lstrip().startswith(b"#") and self._is_own_comment(line - 1):
            line -= 1
        return line

    def _is_own_comment(self, line: int) -> bool:
        return line > 1 or not self._lines[0].startswith(b"#!")

    def lines(self, first: int, last: int) -> str:
        """The text of lines `first` to `last`, both counted from 1 and included."""
        return b"\n".join(self._lines[first - 1 : last]).decode()

    def statement(self, unit: Unit) -> str:
        """The text of a statement with its comments, decorators and docstring."""
        return self.lines(self.first_line(unit.node), unit.last.end_lineno or unit.last.lineno)

    def segment(self, node: ast.expr | ast.stmt) -> str:
        """The text of a node alone."""
        start, stop = self.span(node)
        return self.text.encode()[start:stop].decode()

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Where a node's text lies, in bytes."""
        assert node.end_lineno is not None and node.end_col_offset is not None
        start = self._starts[node.lineno - 1] + node.col_offset
        return start, self._starts[node.end_lineno - 1] + node.end_col_offset

    def start_of_line(self, line: int) -> int:
        """Where a line begins, in bytes; the first line is 1."""
        return self._starts[line - 1]

    def drop(self, first: ast.stmt, last: ast.stmt) -> Edit:
        """Deletes the lines of these statements, with the comments and the blank lines directly above."""
        line = self.first_line(first)
        while line > 1 and not self._lines[line - 2].strip():
            line -= 1
        return Edit(self._starts[line - 1], self.start_of_line(1 + (last.end_lineno or last.lineno)))

    @cached_property
    def without_imports(self) -> str:
        """The text less its docstring, its imports and a `#!` line; what is left is joined by blank lines."""
        has_docstring = ast.get_docstring(self.tree, clean=False) is not None
        removed = [*self.tree.body[: int(has_docstring)]]
        removed += [node for node in self.tree.body if isinstance(node, IMPORTS)]
        pieces, start = [], 1 + self.text.startswith("#!")
        for node in removed:
            pieces.append(self.lines(start, node.lineno - 1))
            start = (node.end_lineno or node.lineno) + 1
        pieces.append(self.lines(start, len(self._lines)))
        return "\n\n".join(piece.strip("\n") for piece in pieces if piece.strip())

    def reads(self, node: ast.AST) -> frozenset[str]:
        """`global_names` of a node of this module, found once."""
        if node not in self._reads:
            self._reads[node] = global_names(node)
        return self._reads[node]

    def shell(self, node: ast.ClassDef) -> ast.ClassDef:
        """A class without its methods."""
        if node not in self._shells:
            rest = [child for child in node.body if not isinstance(child, FUNCTIONS)] or [ast.Pass()]
            self._shells[node] = copy(node)
            self._shells[node].body = rest
        return self._shells[node]

    def edited(self, edits: Iterable[Edit]) -> "SourceModule":
        """The module with these edits; of two that overlap the outer one is made, the inner one left."""
        edits = set(edits)
        if not edits:
            return self
        data, pieces, position = self.text.encode(), [], 0
        for edit in sorted(edits, key=lambda edit: (edit.start, -edit.stop)):
            if edit.start >= position:
                pieces += [data[position : edit.start], edit.text.encode()]
                position = edit.stop
        return SourceModule(self.label, self.name, b"".join([*pieces, data[position:]]).decode())


def is_project(module: str) -> bool:
    """Whether a dotted module name lies in the project's package."""
    return module.split(".")[0] == PACKAGE


def read_source(path: Path, name: str, root: Path) -> SourceModule:
    """Reads the file of module `name`, or of the script when `name` is not in the package.

    Raises BundleError for what cannot be flattened: see `bundle`.
    """
    label = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    return SourceModule(label, name, path.read_text(encoding="utf-8"))


def units_of(body: list[ast.stmt]) -> Iterator[Unit]:
    """Statements, each constant with the string below that documents it."""
    position = 0
    while position < len(body):
        node = last = body[position]
        following = body[position + 1] if position + 1 < len(body) else None
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and following and is_string_statement(following):
            last = following
        yield Unit(node, last, frozenset(name for name, _ in bound_names([node])))
        position += 1 if last is node else 2


def is_string_statement(node: ast.stmt) -> bool:
    """Whether a statement is a string alone, such as a docstring."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


class _ImportReader:
    """Collects a file's imports and refuses, with their line, the forms that flattening would break."""

    def __init__(self, module: SourceModule):
        self.module = module
        self.in_package = is_project(module.name)
        self.project: list[ProjectImport] = []
        self.outside: list[OutsideImport] = []
        self.nested: list[OutsideImport] = []

    def read(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            if isinstance(statement, IMPORTS):
                self._take_import(statement)
            else:
                self._look_inside(statement, in_function=False)
        for first, second in pairwise(statements):
            shared = second.lineno == (first.end_lineno or first.lineno)
            if shared and any(
                isinstance(node, IMPORTS) or is_string_statement(node) for node in (first, second)
            ):
                what = "an import or docstring shares its line with another statement"
                raise self.module.error(second, what)

    def _take_import(self, node: ast.Import | ast.ImportFrom) -> None:
        module = self._checked_module(node)
        if module is None:
            self.outside += _as_outside(node)
            return
        for alias in node.names:
            if alias.asname:
                what = f"{module}.{alias.name} is imported under an alias, {alias.asname}"
                raise self.module.error(node, what)
            self.project.append(ProjectImport(module, alias.name, node.lineno))

    def _look_inside(self, parent: ast.AST, in_function: bool) -> None:
        """Refuses project imports below the top level, and names that a flattened module loses."""
        in_function = in_function or isinstance(parent, FUNCTIONS)
        for node in ast.iter_child_nodes(parent):
            is_import = isinstance(node, IMPORTS)
            if is_import and (self.in_package or not in_function):
                if self._checked_module(node) is not None:
                    raise self.module.error(node, "a module of the project is imported below the top level")
                self.nested += [] if in_function else _as_outside(node)
            if self.in_package and isinstance(node, ast.Name) and node.id in _UNSUITABLE:
                raise self.module.error(node, f"{node.id} means something else in a flattened file")
            self._look_inside(node, in_function)

    def _checked_module(self, node: ast.Import | ast.ImportFrom) -> str | None:
        """The project module that is imported from, None for one outside the project."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                if is_project(alias.name):
                    what = f"import {alias.name}; expected from {alias.name} import Name"
                    raise self.module.error(node, what)
            return None
        if node.level or node.module is None:
            raise self.module.error(node, "relative import")
        if node.module == "__future__":
            what = "from __future__ would change the meaning of every other module"
            raise self.module.error(node, what)
        if node.names[0].name == "*":
            raise self.module.error(node, f"star import from {node.module}")
        return node.module if is_project(node.module) else None


def _as_outside(node: ast.Import | ast.ImportFrom) -> list[OutsideImport]:
    if isinstance(node, ast.Import):
        return [OutsideImport(alias.name, None, alias.asname, node.lineno) for alias in node.names]
    return [OutsideImport(node.module or "", alias.name, alias.asname, node.lineno) for alias in node.names]


def bound_names(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, int]]:
    """The names, imports aside, that running these statements binds in their own scope, with their lines."""
    pending: list[ast.AST] = list(nodes)
    while pending:
        node = pending.pop(0)
        if isinstance(node, DEFINITIONS):
            yield node.name, node.lineno
            continue
        if isinstance(node, _SCOPES):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name, node.lineno
        pending = [*ast.iter_child_nodes(node), *pending]


def global_names(node: ast.AST) -> frozenset[str]:
    """Names of the module or of builtins that a definition or statement reads, in its annotations too."""
    return _global_names(ast.unparse(node)) | _names_in_string_annotations(node)


@cache
def _global_names(source: str) -> frozenset[str]:
    found: set[str] = set()
    pending = [symtable.symtable(source, "definition", "exec")]
    while pending:
        table = pending.pop()
        pending += table.get_children()
        at_top = table.get_type() == "module"
        found |= {
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (at_top or symbol.is_global())
        }
    return frozenset(found)


def _names_in_string_annotations(node: ast.AST) -> frozenset[str]:
    found: set[str] = set()
    for part in ast.walk(node):
        for annotation in (vars(part).get("annotation"), vars(part).get("returns")):
            for leaf in ast.walk(annotation) if isinstance(annotation, ast.AST) else ():
                if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str):
                    try:
                        written = ast.parse(leaf.value, mode="eval")
                    except SyntaxError:
                        continue
                    found |= {name.id for name in ast.walk(written) if isinstance(name, ast.Name)}
    return frozenset(found)
