"""Which definitions of a program, and which methods of its classes, what it runs can reach by name.

Reachability is by name, never by value: a definition is kept when a kept one reads its name, a method when
kept code mentions its name as an attribute of anything. What a name written as data could reach (a `getattr`
with a computed name on an object of the project, `globals`, `eval`) is refused, with file and line.
"""

import ast
import builtins
import importlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from golf.entry.source import (
    DEFINITIONS,
    FUNCTIONS,
    BundleError,
    Edit,
    SourceModule,
    Unit,
    is_project,
    units_of,
)

_READERS_BY_NAME = frozenset({"getattr", "setattr", "hasattr", "delattr", "attrgetter", "methodcaller"})
_READERS_OF_ALL = frozenset({"globals", "locals", "eval", "exec", "__import__"})
_PURE_DECORATORS = frozenset(
    {
        *("property", "staticmethod", "classmethod", "cached_property", "contextmanager", "cache"),
        *("lru_cache", "setter", "override", "abstractmethod", "no_grad", "inference_mode", "overload"),
    }
)
"""Decorators that keep no reference to what they decorate: a method under another one always stays."""
PUBLIC = "__all__"
"""The script's list of names that others import from it, which are reached as if it read them."""


def shake(modules: Sequence[SourceModule], root: str) -> list[SourceModule]:
    """The modules less everything that the module `root` and what it runs cannot reach; none is empty.

    All names must be unique across the modules. Raises BundleError for a kept definition that reads others by
    computed names.
    """
    keeper = _Keeper(modules)
    for module in modules:
        for unit in module.units:
            is_kept = module.name == root and (not _only_defines(unit.node) or PUBLIC in unit.names)
            if not unit.names or is_kept:
                keeper.keep(module, unit)
    keeper.finish()
    shaken = [module.edited(keeper.drops(module)) for module in modules]
    return [module for module in shaken if module.units]


def _public_names(node: ast.AST) -> frozenset[str]:
    """The names in an assignment to PUBLIC; none for another node."""
    if not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) != PUBLIC:
        return frozenset()
    return frozenset(ast.literal_eval(node.value))


def _only_defines(node: ast.stmt) -> bool:
    return isinstance(node, (*DEFINITIONS, ast.Assign, ast.AnnAssign))


class _Keeper:
    """What is kept so far, and what is still to be looked through."""

    def __init__(self, modules: Sequence[SourceModule]):
        self.modules = modules
        self.owners = {
            name: (module, unit) for module in modules for name, unit in module.definitions.items()
        }
        self.units: set[ast.stmt] = set()
        self.members: set[ast.stmt] = set()
        self.mentioned: set[str] = set()
        self._classes: list[tuple[SourceModule, ast.ClassDef]] = []
        self._waiting: dict[str, list[tuple[SourceModule, ast.stmt]]] = defaultdict(list)
        """Methods of kept classes by name, until that is mentioned."""
        self._pending: list[tuple[SourceModule, ast.AST]] = []

    def keep(self, module: SourceModule, unit: Unit) -> None:
        """Keeps a statement, and later what it reaches."""
        if unit.node in self.units:
            return
        self.units.add(unit.node)
        for name in unit.names:
            # Further statements that bind the same name, such as the other branch's.
            for other in module.units:
                if name in other.names:
                    self.keep(module, other)
        if isinstance(unit.node, ast.ClassDef):
            self._keep_class(module, unit.node)
        else:
            self._pending.append((module, unit.node))

    def _keep_class(self, module: SourceModule, node: ast.ClassDef) -> None:
        self._pending.append((module, module.shell(node)))
        outside = list(outside_bases(module, node, self.owners))
        for method in node.body:
            if not isinstance(method, FUNCTIONS):
                continue
            overrides = any(base is None or hasattr(base, method.name) for base in outside)
            if _is_dunder(method.name) or overrides or not _is_plain(method) or method.name in self.mentioned:
                self._keep_member(module, method)
            else:
                self._waiting[method.name].append((module, method))

    def _keep_member(self, module: SourceModule, method: ast.stmt) -> None:
        self.members.add(method)
        self._pending.append((module, method))

    def finish(self) -> None:
        """Follows names and attributes until nothing new is reached."""
        while self._pending:
            module, node = self._pending.pop()
            for name in sorted(module.reads(node) | _public_names(node)):
                if name in _READERS_OF_ALL or (name == "vars" and _has_bare_call(node, "vars")):
                    raise module.error(node, f"{name} may read any definition; name what is meant")
                if name in self.owners:
                    self.keep(*self.owners[name])
            for name in self._attributes(module, node):
                if name not in self.mentioned:
                    self.mentioned.add(name)
                    for owner, method in self._waiting.pop(name, ()):
                        self._keep_member(owner, method)

    def _attributes(self, module: SourceModule, node: ast.AST) -> Iterator[str]:
        """Names that the node mentions as attributes, written out or as a constant for `getattr`."""
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute):
                if not self._is_outside(module, part.value):
                    yield part.attr
            elif isinstance(part, ast.MatchClass):
                yield from part.kwd_attrs
            elif isinstance(part, ast.Call) and not isinstance(part.func, ast.Call):
                reader = _name_of(part.func)
                if reader not in _READERS_BY_NAME:
                    continue
                on_object = reader not in ("attrgetter", "methodcaller")
                name = part.args[1] if on_object and len(part.args) > 1 else part.args[0]
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield from name.value.split(".")
                elif not (on_object and self._is_outside(module, part.args[0])):
                    what = f"{reader} of a computed name may reach any method; write it out"
                    raise module.error(part, what)

    def _is_outside(self, module: SourceModule, node: ast.expr) -> bool:
        """Whether an expression is something of a module outside the project, such as torch.cpu."""
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id in {i.bound for i in module.outside_imports}

    def drops(self, module: SourceModule) -> Iterator[Edit]:
        """The edits that delete what is not kept of a module."""
        for unit in module.units:
            if unit.node not in self.units:
                yield module.drop(unit.node, unit.last)
            elif isinstance(unit.node, ast.ClassDef):
                gone = [
                    node
                    for node in unit.node.body
                    if isinstance(node, FUNCTIONS) and node not in self.members
                ]
                yield from drop_statements(module, unit.node.body, gone)


def outside_bases(
    module: SourceModule, node: ast.ClassDef, owners: Mapping[str, tuple[SourceModule, Unit]]
) -> Iterator[type | None]:
    """The classes outside the project that a class inherits from; None for one that cannot be found."""
    for base in node.bases:
        base = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(base, ast.Name) and base.id in owners:
            owner, unit = owners[base.id]
            if isinstance(unit.node, ast.ClassDef):
                yield from outside_bases(owner, unit.node, owners)
                continue
        yield find_outside(module, base)


def drop_statements(module: SourceModule, body: list[ast.stmt], gone: Iterable[ast.stmt]) -> Iterator[Edit]:
    """The edits that delete statements of a suite, each with the string that documents it."""
    gone = set(gone)
    if not gone:
        return
    units = list(units_of(body))
    left = [unit for unit in units if unit.node not in gone]
    start = module.start_of_line(module.first_line(units[0].node))
    if not left:
        stop = module.drop(units[0].node, units[-1].last).stop
        yield Edit(start, stop, f"{' ' * units[0].node.col_offset}pass\n")
        return
    first = units.index(left[0])
    if first:
        # The blank lines between what is dropped and the first that is left go, those before both stay.
        yield Edit(start, module.start_of_line(module.first_line(left[0].node)))
    yield from (module.drop(unit.node, unit.last) for unit in units[first:] if unit.node in gone)


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _is_plain(method: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return all(_name_of(decorator) in _PURE_DECORATORS for decorator in method.decorator_list)


def _name_of(node: ast.expr) -> str:
    """The last part of a name or of what is called."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _has_bare_call(node: ast.AST, name: str) -> bool:
    calls = (part for part in ast.walk(node) if isinstance(part, ast.Call) and not part.args)
    return any(isinstance(call.func, ast.Name) and call.func.id == name for call in calls)


def find_outside(module: SourceModule, node: ast.expr) -> Any:
    """What a name of a module outside the project means, imported to look at it; None for another name."""
    trail: list[str] = []
    while isinstance(node, ast.Attribute):
        trail.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    if hasattr(builtins, node.id):
        return getattr(builtins, node.id)
    origin = next((i for i in module.outside_imports if i.bound == node.id), None)
    if origin is None or is_project(origin.module):
        return None
    try:
        found = importlib.import_module(origin.module if origin.name or origin.asname else origin.bound)
        for name in ([origin.name] if origin.name else []) + trail:
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise BundleError(f"{module.label}: {ast.unparse(node)} is not found: {error}") from error
    return found
