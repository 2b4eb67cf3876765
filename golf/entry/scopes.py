"""Static analysis of a closed program: types of its objects, and values that its configuration fixes.

Nothing is guessed. The type of an expression is known by an annotation, a constructor or an attribute that
its class assigns. A value is known if it is a constant, a field of the configuration that the program changes
nowhere, or computed from these; a local name or an attribute has the value of its only assignment, a
parameter the one that all calls give it.
"""

import ast
import dataclasses
import operator
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from golf.entry.shake import find_outside, outside_bases
from golf.entry.source import FUNCTIONS, SourceModule, Unit, is_string_statement

UNKNOWN = object()
"""The value of an expression that the configuration does not decide."""
PLAIN = (int, float, str, bool, type(None), tuple)
_COMPARISONS: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
}
_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_DISPLAYS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.JoinedStr, ast.Lambda)
_METHODS = frozenset({"startswith", "endswith"})
_FUNCTIONS: dict[str, Callable[..., Any]] = {"len": len, "bool": bool, "max": max, "min": min, "int": int}
_TRANSPARENT = frozenset(
    {"cache", "contextmanager", "lru_cache", "staticmethod", "no_grad", "inference_mode"}
)
"""Decorators that hand a call's arguments on as they are."""


class Scope:
    """The names of one function, or of a module's top level (`function` None), and what they are bound to."""

    def __init__(
        self,
        module: SourceModule,
        function: ast.FunctionDef | None,
        parent: "Scope | None",
        owner: str | None,
    ):
        self.module, self.function, self.parent, self.owner = module, function, parent, owner
        self.bindings: dict[str, list[ast.expr | None]] = defaultdict(list)
        """Values assigned to each local name; None for one that an assignment does not show."""
        self.parameters: dict[str, ast.arg] = {}
        if function is None:
            return
        arguments = function.args
        for parameter in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            self.parameters[parameter.arg] = parameter
        for parameter in (arguments.vararg, arguments.kwarg):
            if parameter is not None:
                self.bindings[parameter.arg].append(None)
        for name, value in _bindings(function.body):
            self.bindings[name].append(value)

    @property
    def self_name(self) -> str | None:
        """The name of a method's first parameter."""
        if self.function is None or self.owner is None or not self.parameters:
            return None
        decorators = {ast.unparse(node) for node in self.function.decorator_list}
        return None if decorators & {"staticmethod", "classmethod"} else next(iter(self.parameters))

    def find(self, name: str) -> "Scope | None":
        """The function that binds a name as seen from here; None for names of the module and builtins."""
        scope: Scope | None = self
        while scope is not None and scope.parent is not None:
            if name in scope.parameters or name in scope.bindings:
                return scope
            scope = scope.parent
        return None


def _bindings(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.expr | None]]:
    """Names that a function's own statements bind, with the assigned value where it is a plain assignment."""
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Assign):
            for target in node.targets:
                yield from _pairs(target, node.value)
            pending.append(node.value)
            pending += [
                part
                for target in node.targets
                for part in ast.walk(target)
                if isinstance(part, ast.NamedExpr)
            ]
            continue
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value
            pending.append(node.value)
            continue
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            yield node.name, None
            # A nested function may rebind this one's names.
            for part in ast.walk(node):
                if isinstance(part, (ast.Nonlocal, ast.Global)):
                    yield from ((name, None) for name in part.names)
            continue
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id, None
        elif isinstance(node, ast.arg):
            # A lambda's parameter.
            yield node.arg, None
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            yield node.name, None
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest, None
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (((item.asname or item.name).split(".")[0], None) for item in node.names)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            yield from ((name, None) for name in node.names)
        pending += ast.iter_child_nodes(node)


def _pairs(target: ast.expr, value: ast.expr | None) -> Iterator[tuple[str, ast.expr | None]]:
    """The names of an assignment's target, each with its own part of the value where both are displays."""
    for part, own in paired(target, value):
        if isinstance(part, ast.Name):
            yield part.id, own


def paired(target: ast.expr, value: ast.expr | None) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    """The single targets of an assignment with their parts of the value, None where that is unclear."""
    if isinstance(target, (ast.Tuple, ast.List)):
        parts: Sequence[ast.expr | None] = [None] * len(target.elts)
        if isinstance(value, ast.Call) and not any(isinstance(part, ast.Starred) for part in target.elts):
            parts = [
                ast.Subscript(value, ast.Constant(place), ast.Load()) for place in range(len(target.elts))
            ]
        if isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts):
            if not any(isinstance(part, ast.Starred) for part in (*value.elts, *target.elts)):
                parts = value.elts
        for part, own in zip(target.elts, parts, strict=True):
            yield from paired(part, own)
    elif isinstance(target, ast.Starred):
        yield from paired(target.value, None)
    else:
        yield target, value


class Program:
    """All modules of a closed program, read with the value of its configuration.

    `trusted` functions return, whatever they are given, parts of that configuration.
    """

    def __init__(self, modules: Sequence[SourceModule], config: Any, trusted: frozenset[str] = frozenset()):
        self.modules, self.trusted = modules, trusted
        parts = config_parts(config)
        self.parts = {type(part).__name__: part for part in parts}
        self.owners: dict[str, tuple[SourceModule, Unit]] = {
            name: (module, unit) for module in modules for name, unit in module.definitions.items()
        }
        self.classes = {
            name: unit.node
            for name, (_, unit) in self.owners.items()
            if isinstance(unit.node, ast.ClassDef) and not _is_protocol(unit.node)
        }
        """Classes by name, without protocols: an object annotated as one may be of any class."""
        self.scopes: dict[ast.AST, Scope] = {}
        self._stores: dict[str, list[tuple[ast.Attribute, ast.expr | None, Scope]]] = defaultdict(list)
        self._calls: dict[str, list[tuple[ast.Call, Scope]]] = defaultdict(list)
        self._escapes: dict[str, list[tuple[ast.Name, Scope]]] = defaultdict(list)
        """Where functions and classes are used otherwise than by calling them."""
        self._makes_unnamed = False
        """Whether anything is made by calling `type(...)`."""
        self._replacements: list[tuple[ast.Call, Scope]] = []
        self._attribute_calls: dict[str, list[tuple[ast.Call, Scope]]] = defaultdict(list)
        """Calls of a name as an attribute of anything."""
        self._attribute_reads: set[str] = set()
        """Names that are read as attributes of anything without being called."""
        self._base_calls: dict[str, list[tuple[ast.Call, Scope]]] = defaultdict(list)
        """Calls super().__init__(...), by the class whose __init__ they are of."""
        self._cache: dict[tuple[str, int], Any] = {}
        self._running: set[tuple[str, int]] = set()
        for module in modules:
            top = Scope(module, None, None, None)
            for unit in module.units:
                self._enter(unit.node, top, is_called=False)
        self._unfoldable: set[tuple[str, str]] = set()
        """Fields, by class, that the program or another part of the configuration gives other values."""
        for part in parts:
            if part != self.parts[type(part).__name__]:
                self._distrust(part)
        known = -1
        while known != len(self._unfoldable):
            known = len(self._unfoldable)
            self._find_changes()

    # Reading the program

    def _enter(self, node: ast.AST, scope: Scope, is_called: bool) -> None:
        self.scopes[node] = scope
        if isinstance(node, ast.AnnAssign):
            self._note_stores([node.target], node.value, scope)
            inner = [node.target, *([node.value] if node.value else [])]
        elif isinstance(node, FUNCTIONS):
            assert isinstance(node, ast.FunctionDef)
            arguments = node.args
            defaults = [item for item in (*arguments.defaults, *arguments.kw_defaults) if item is not None]
            for item in (*node.decorator_list, *defaults):
                self._enter(item, scope, is_called=False)
            own = Scope(scope.module, node, scope, scope.owner if self._is_in_class(node, scope) else None)
            for child in node.body:
                self._enter(child, own, is_called=False)
            return
        elif isinstance(node, ast.ClassDef):
            for item in (*node.bases, *node.decorator_list, *(item.value for item in node.keywords)):
                self._enter(item, scope, is_called=False)
            body = Scope(scope.module, None, scope, node.name)
            for child in node.body:
                self._enter(child, body, is_called=False)
            return
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if name in self.owners and scope.find(name) is None:
                self._calls[name].append((node, scope))
            if _last_name(node.func) == "replace" and node.keywords and node.args:
                self._replacements.append((node, scope))
            if isinstance(node.func, ast.Attribute):
                self._attribute_calls[node.func.attr].append((node, scope))
                if ast.unparse(node.func) == "super().__init__":
                    for base in self._lineage(scope.owner)[1:2]:
                        self._base_calls[self._maker(base)].append((node, scope))
            if (
                name in ("getattr", "hasattr")
                and len(node.args) > 1
                and isinstance(node.args[1], ast.Constant)
            ):
                self._attribute_reads.add(str(node.args[1].value))
            self._enter(node.func, scope, is_called=True)
            inner = [*node.args, *(item.value for item in node.keywords)]
            if name == "setattr" and len(node.args) == 3 and isinstance(node.args[1], ast.Constant):
                target = ast.Attribute(node.args[0], str(node.args[1].value), ast.Store())
                self._stores[target.attr].append((target, None, scope))
            if isinstance(node.func, ast.Call) and _last_name(node.func) == "type":
                self._makes_unnamed = True
            if name in ("isinstance", "issubclass") and len(node.args) == 2:
                inner = [node.args[0]]
        else:
            if isinstance(node, ast.Assign):
                self._note_stores(node.targets, node.value, scope)
            elif isinstance(node, (ast.AugAssign, ast.For, ast.comprehension)):
                self._note_stores([node.target], None, scope)
            elif isinstance(node, ast.withitem) and node.optional_vars is not None:
                self._note_stores([node.optional_vars], None, scope)
            elif isinstance(node, ast.Delete):
                self._note_stores(node.targets, None, scope)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and not is_called:
                self._attribute_reads.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and not is_called:
                if node.id in self.owners and scope.find(node.id) is None:
                    self._escapes[node.id].append((node, scope))
            inner = list(ast.iter_child_nodes(node))
        for child in inner:
            self._enter(child, scope, is_called=False)

    def _is_in_class(self, node: ast.FunctionDef, scope: Scope) -> bool:
        return scope.function is None and scope.owner is not None

    def _note_stores(self, targets: Sequence[ast.expr], value: ast.expr | None, scope: Scope) -> None:
        for target in targets:
            for part, own in paired(target, value):
                if isinstance(part, ast.Attribute):
                    self._stores[part.attr].append((part, own, scope))

    def _find_changes(self) -> None:
        """Notes the fields of the configuration that the program gives other values than the entry's."""
        for name, part in self.parts.items():
            if self._escapes_otherwise(name):
                self._distrust(part)
            if any(not self._is_the_constant(scope) for _, scope in self._calls[name]):
                self._distrust(part)
        if "__setattr__" in self._attribute_calls or "__setattr__" in self._attribute_reads:
            for part in self.parts.values():
                self._distrust(part)
        for node, scope in self._replacements:
            self._note_replace(node, scope)

    def _escapes_otherwise(self, name: str) -> bool:
        """Whether a config's class is a value elsewhere than in configs and calls of trusted functions."""
        calls = (call for function in self.trusted for call, _ in self._calls[function])
        excused = {argument for call in calls for argument in call.args}
        return any(
            node not in excused and scope.owner not in self.parts for node, scope in self._escapes[name]
        )

    def _is_the_constant(self, scope: Scope) -> bool:
        return scope.function is None and (scope.owner in self.parts or scope.module is self.modules[-1])

    def _distrust(self, part: Any) -> None:
        """Makes all fields of a config unknown, and those of the parts that it makes by default."""
        for own in config_parts(part):
            self._unfoldable |= {(type(own).__name__, name) for name in vars(own)}

    def _note_replace(self, node: ast.Call, scope: Scope) -> None:
        kind = self.type_of(node.args[0], scope)
        if kind is not None and kind not in self.parts:
            return
        changed = [self.parts[kind]] if kind is not None else list(self.parts.values())
        for part in changed:
            for keyword in node.keywords:
                names = list(vars(part)) if keyword.arg is None else [keyword.arg]
                for name in names:
                    if keyword.arg is None or self.value_of(keyword.value, scope) != vars(part).get(name):
                        self._unfoldable.add((type(part).__name__, name))
        self._cache.clear()

    # Types

    def type_of(self, node: ast.expr | None, scope: Scope) -> str | None:
        """The name of the project's class that an expression's value has; None if it is not known."""
        return None if node is None else self._memo("type", node, scope, self._type_of, None)

    def _type_of(self, node: ast.expr, scope: Scope) -> str | None:
        if isinstance(node, ast.Name):
            where = scope.find(node.id)
            if where is None:
                _, unit = self.owners.get(node.id, (None, None))
                if unit is not None and isinstance(unit.node, ast.Assign) and node.id == "CONFIG":
                    return self.type_of(unit.node.value, scope)
                return None
            values = where.bindings.get(node.id, [])
            if node.id in where.parameters:
                if values:
                    return None
                if node.id == where.self_name:
                    return where.owner
                return self._annotated(where.parameters[node.id].annotation)
            return self.type_of(values[0], where) if len(values) == 1 else None
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Call):
            return self._annotated(self._returned_part(node, scope))
        if isinstance(node, ast.Attribute):
            return self._type_of_attribute(self.type_of(node.value, scope), node.attr)
        if isinstance(node, ast.Call):
            name = _last_name(node.func)
            if name in self.trusted and node.args and isinstance(node.args[0], ast.Name):
                return node.args[0].id if node.args[0].id in self.classes else None
            if name == "replace" and node.args:
                return self.type_of(node.args[0], scope)
            if isinstance(node.func, ast.Name) and scope.find(name) is None and name in self.owners:
                made = self.owners[name][1].node
                return (
                    name
                    if name in self.classes
                    else self._annotated(made.returns)
                    if isinstance(made, FUNCTIONS)
                    else None
                )
        return None

    def _returned_part(self, node: ast.Subscript, scope: Scope) -> ast.expr | None:
        """The annotation of one part of the tuple that a function returns."""
        function = self._called(node.value, scope) if isinstance(node.value, ast.Call) else None
        returns = None if function is None else function.returns
        place = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if (
            isinstance(returns, ast.Subscript)
            and ast.unparse(returns.value) == "tuple"
            and isinstance(place, int)
        ):
            parts = returns.slice.elts if isinstance(returns.slice, ast.Tuple) else [returns.slice]
            return parts[place] if place < len(parts) else None
        return None

    def _annotated(self, annotation: ast.expr | None) -> str | None:
        if isinstance(annotation, ast.BinOp) and ast.unparse(annotation.right) == "None":
            # What is read of it is read of an object, or it is an error.
            annotation = annotation.left
        name = annotation.id if isinstance(annotation, ast.Name) else None
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            name = annotation.value
        return name if name in self.classes else None

    def _type_of_attribute(self, owner: str | None, attribute: str) -> str | None:
        if owner in self.parts:
            part = vars(self.parts[owner]).get(attribute)
            return type(part).__name__ if dataclasses.is_dataclass(part) else None
        for base in self._lineage(owner):
            for node in self.classes[base].body:
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    if node.target.id == attribute:
                        return self._annotated(node.annotation)
        stores = self._stores_of(owner, attribute)
        kinds = {self.type_of(value, scope) for _, value, scope in stores or ()}
        return kinds.pop() if len(kinds) == 1 else None

    def _lineage(self, owner: str | None) -> list[str]:
        """A class of the project with those it inherits from."""
        if owner not in self.classes:
            return []
        names = [base.id for base in self.classes[owner].bases if isinstance(base, ast.Name)]
        return [owner, *(found for name in names for found in self._lineage(name))]

    def _stores_of(
        self, owner: str | None, attribute: str
    ) -> list[tuple[ast.Attribute, ast.expr | None, Scope]] | None:
        """The assignments that can have set an attribute of such an object; None if that is unclear."""
        if owner is None:
            return None
        lineage, found = set(self._lineage(owner)), []
        for node, value, scope in self._stores[attribute]:
            kind = self.type_of(node.value, scope)
            if kind is None:
                return None
            if kind in lineage or owner in self._lineage(kind):
                found.append((node, value, scope))
        return found

    # Values

    def value_of(self, node: ast.expr | None, scope: Scope) -> Any:
        """What an expression's value always is, or UNKNOWN."""
        return UNKNOWN if node is None else self._memo("value", node, scope, self._value_of, UNKNOWN)

    def _memo(self, what: str, node: ast.expr, scope: Scope, find: Callable[..., Any], otherwise: Any) -> Any:
        key = (what, id(node))
        if key in self._running:
            return otherwise
        if key not in self._cache:
            self._running.add(key)
            try:
                self._cache[key] = find(node, scope)
            finally:
                self._running.discard(key)
        return self._cache[key]

    def _value_of(self, node: ast.expr, scope: Scope) -> Any:
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, PLAIN) else UNKNOWN
        if isinstance(node, ast.Name):
            return self._value_of_name(node.id, scope)
        if isinstance(node, ast.Attribute):
            return self._value_of_attribute(node, scope)
        if isinstance(node, ast.Tuple):
            values = [self.value_of(item, scope) for item in node.elts]
            return UNKNOWN if UNKNOWN in values else tuple(values)
        if isinstance(node, ast.BoolOp):
            return self._value_of_bool(node, scope)
        if isinstance(node, ast.IfExp):
            test = self.value_of(node.test, scope)
            return UNKNOWN if test is UNKNOWN else self.value_of(node.body if test else node.orelse, scope)
        if isinstance(node, ast.Compare):
            return self._value_of_compare(node, scope)
        if isinstance(node, ast.UnaryOp):
            value = self.value_of(node.operand, scope)
            if value is UNKNOWN or not isinstance(node.op, (ast.Not, ast.USub)):
                return UNKNOWN
            return (not value) if isinstance(node.op, ast.Not) else -value
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            left, right = self.value_of(node.left, scope), self.value_of(node.right, scope)
            return UNKNOWN if UNKNOWN in (left, right) else _try(_ARITHMETIC[type(node.op)], left, right)
        if isinstance(node, ast.Call):
            constant = self.constant_call(node, scope)
            return self._value_of_call(node, scope) if constant is UNKNOWN and not node.keywords else constant
        return UNKNOWN

    def _value_of_name(self, name: str, scope: Scope) -> Any:
        where = scope.find(name)
        if where is None:
            return self._value_of_module_constant(name)
        values = where.bindings.get(name, [])
        if name in where.parameters:
            return UNKNOWN if values else self._value_of_parameter(where, name)
        return self.value_of(values[0], where) if len(values) == 1 else UNKNOWN

    def _value_of_module_constant(self, name: str) -> Any:
        node = self.owners[name][1].node if name in self.owners and name.isupper() else None
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or not isinstance(node.value, ast.Constant):
            return UNKNOWN
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        is_single = len(targets) == 1 and isinstance(targets[0], ast.Name)
        return self.value_of(node.value, self.scopes[node]) if is_single else UNKNOWN

    def _value_of_attribute(self, node: ast.Attribute, scope: Scope) -> Any:
        owner = self.type_of(node.value, scope)
        if owner in self.parts:
            value = vars(self.parts[owner]).get(node.attr, UNKNOWN)
            known = (owner, node.attr) not in self._unfoldable and isinstance(value, PLAIN)
            return value if known else UNKNOWN
        stores = self._stores_of(owner, node.attr)
        method = self._method(owner, node.attr)
        if method is not None:
            is_property = [_last_name(item) for item in method.decorator_list] == ["property"]
            return self._only_value(method) if is_property else UNKNOWN
        if owner is not None and stores == []:
            given = self._field(owner, node.attr) or [(None, scope)]
            return self._common(given)
        if not stores or len(stores) != 1 or owner is None:
            return UNKNOWN
        _, value, where = stores[0]
        if (
            where.function is None
            or where.function.name != "__init__"
            or where.owner not in self._lineage(owner)
        ):
            return UNKNOWN
        return self.value_of(value, where)

    def _value_of_bool(self, node: ast.BoolOp, scope: Scope) -> Any:
        """Evaluates operands from the left until one decides; those before it must be known or pure."""
        decides = isinstance(node.op, ast.Or)
        value: Any = UNKNOWN
        seen_unknown = False
        for operand in node.values:
            value = self.value_of(operand, scope)
            if value is UNKNOWN:
                if not is_pure(operand):
                    return UNKNOWN
                seen_unknown = True
            elif bool(value) == decides:
                return bool(value) if seen_unknown else value
        return UNKNOWN if seen_unknown else value

    def _value_of_compare(self, node: ast.Compare, scope: Scope) -> Any:
        values = [self.value_of(item, scope) for item in (node.left, *node.comparators)]
        if isinstance(node.ops[0], (ast.Is, ast.IsNot)) and len(values) == 2 and values[1] is None:
            if values[0] is UNKNOWN and self.never_none(node.left, scope):
                return isinstance(node.ops[0], ast.IsNot)
        if UNKNOWN in values:
            return UNKNOWN
        found: Any = True
        for compare, left, right in zip(node.ops, values, values[1:], strict=False):
            found = found and _try(_COMPARISONS[type(compare)], left, right)
        return found

    def constant_call(self, node: ast.Call, scope: Scope) -> Any:
        """The result of calling a function or method that only returns a constant, or nothing."""
        function = self._called(node, scope)
        if function is None or any(_last_name(item) not in _TRANSPARENT for item in function.decorator_list):
            return UNKNOWN
        return self._only_value(function)

    def _called(self, node: ast.Call, scope: Scope) -> ast.FunctionDef | None:
        """The function or method that a call reaches, if there is one only."""
        if (
            isinstance(node.func, ast.Name)
            and scope.find(node.func.id) is None
            and node.func.id in self.owners
        ):
            found = self.owners[node.func.id][1].node
            return found if isinstance(found, ast.FunctionDef) else None
        if isinstance(node.func, ast.Attribute):
            return self._method(self.type_of(node.func.value, scope), node.func.attr)
        return None

    def _method(self, owner: str | None, name: str) -> ast.FunctionDef | None:
        """The method of this name that objects of a class have; None if a subclass may have another one."""
        found = [
            node
            for other in self.classes
            if owner in self._lineage(other) or other in self._lineage(owner)
            for node in self.classes[other].body
            if isinstance(node, ast.FunctionDef) and node.name == name
        ]
        return found[0] if len(found) == 1 else None

    def _only_value(self, function: ast.FunctionDef) -> Any:
        body = [item for item in function.body if not is_string_statement(item)]
        if not body or all(isinstance(item, ast.Pass) for item in body):
            return None
        if len(body) != 1 or not isinstance(body[0], ast.Return):
            return UNKNOWN
        value = body[0].value
        return None if value is None else self.value_of(value, self.scopes[value])

    def _value_of_call(self, node: ast.Call, scope: Scope) -> Any:
        arguments = [self.value_of(item, scope) for item in node.args]
        if UNKNOWN in arguments or any(isinstance(item, ast.Starred) for item in node.args):
            return UNKNOWN
        if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
            text = self.value_of(node.func.value, scope)
            return _try(getattr(text, node.func.attr), *arguments) if isinstance(text, str) else UNKNOWN
        if (
            isinstance(node.func, ast.Name)
            and node.func.id in _FUNCTIONS
            and scope.find(node.func.id) is None
        ):
            return _try(_FUNCTIONS[node.func.id], *arguments)
        return UNKNOWN

    def _value_of_parameter(self, scope: Scope, name: str) -> Any:
        """What all calls of a function, a method or a class's __init__ give a parameter."""
        return self._common(self._arguments(scope, name) or [(None, scope)])

    def _common(self, nodes: Sequence[tuple[ast.expr | None, Scope]]) -> Any:
        """The value that all of several expressions have."""
        values = {}
        for node, scope in nodes:
            value = self.value_of(node, scope)
            values[type(value), value] = value
        return values.popitem()[1] if len(values) == 1 else UNKNOWN

    def _arguments(self, scope: Scope, name: str) -> list[tuple[ast.expr, Scope]] | None:
        """The expressions that all calls of a function give a parameter; None unless all are known."""
        function = scope.function
        assert function is not None
        if any(_last_name(item) not in _TRANSPARENT for item in function.decorator_list):
            return None
        arguments = function.args
        positional = [item.arg for item in (*arguments.posonlyargs, *arguments.args)]
        defaults: dict[str, ast.expr] = dict(
            zip(reversed(positional), reversed(arguments.defaults), strict=False)
        )
        for item, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            if default is not None:
                defaults[item.arg] = default
        calls = self._calls_of(scope)
        is_static = any(_last_name(item) == "staticmethod" for item in function.decorator_list)
        if scope.owner is not None and not is_static:
            positional = positional[1:]
        return None if calls is None else self._given(calls, name, positional, defaults, scope)

    def _given(
        self,
        calls: list[tuple[ast.Call, Scope]],
        name: str,
        positional: list[str],
        defaults: dict[str, ast.expr],
        scope: Scope,
    ) -> list[tuple[ast.expr, Scope]] | None:
        found: list[tuple[ast.expr, Scope]] = []
        for call, where in calls:
            if any(isinstance(item, ast.Starred) for item in call.args) or any(
                k.arg is None for k in call.keywords
            ):
                return None
            named = {keyword.arg: keyword.value for keyword in call.keywords}
            given = dict(zip(positional, call.args, strict=False))
            if name in named or name in given:
                found.append((named[name] if name in named else given[name], where))
            elif isinstance(defaults.get(name), ast.Constant):
                found.append((defaults[name], scope))
            else:
                return None
        return found or None

    def _calls_of(self, scope: Scope) -> list[tuple[ast.Call, Scope]] | None:
        """All calls of the function of a scope; None if it may be called otherwise too."""
        function, owner = scope.function, scope.owner
        assert function is not None
        if owner is None:
            is_nested = scope.parent is not None and scope.parent.parent is not None
            if is_nested or self._escapes[function.name] or function.name in self.trusted:
                return None
            return self._calls[function.name]
        if function.name == "__init__":
            return self._constructions(owner)
        is_public = function.name in self._attribute_reads or function.name.startswith("__")
        module, unit = self.owners.get(owner, (scope.module, None))
        if is_public or unit is None or unit.node is not self.classes[owner]:
            return None
        homes = [
            name
            for name, node in self.classes.items()
            for child in node.body
            if isinstance(child, FUNCTIONS) and child.name == function.name
        ]
        outside = outside_bases(module, self.classes[owner], self.owners)
        if homes != [owner] or any(base is None or hasattr(base, function.name) for base in outside):
            return None
        return self._attribute_calls[function.name]

    def _constructions(self, owner: str) -> list[tuple[ast.Call, Scope]] | None:
        """All calls that make an object by the __init__ of a class: of it, and of those that inherit it."""
        found = list(self._base_calls[owner])
        for name in self.classes:
            if owner in self._lineage(name):
                if self._escapes_to_call(name) or self._makes_itself(name):
                    return None
                if self._maker(name) == owner:
                    found += self._calls[name]
        return found

    def _escapes_to_call(self, name: str) -> bool:
        """Whether a class is used as a value elsewhere than among the bases of another one."""
        bases = {base for node in self.classes.values() for base in node.bases}
        return any(node not in bases for node, _ in self._escapes[name])

    def _maker(self, name: str) -> str:
        """The class of a lineage that has the __init__, or the class itself."""
        for base in self._lineage(name):
            if any(
                isinstance(node, FUNCTIONS) and node.name == "__init__" for node in self.classes[base].body
            ):
                return base
        return name

    def _makes_itself(self, name: str) -> bool:
        """Whether objects of a class can be made otherwise than by calling its name."""
        methods = (node for node in self.classes[name].body if isinstance(node, FUNCTIONS))
        by_class = (_last_name(item) == "classmethod" for node in methods for item in node.decorator_list)
        return self._makes_unnamed or any(by_class)

    def _field(self, owner: str, attribute: str) -> list[tuple[ast.expr, Scope]] | None:
        """The expressions that the field of a dataclass or NamedTuple is given; None if not all are known."""
        node = self.classes[owner]
        is_dataclass = any(_last_name(item) == "dataclass" for item in node.decorator_list)
        is_tuple = [ast.unparse(base) for base in node.bases] == ["NamedTuple"]
        if not (is_tuple or (is_dataclass and not node.bases)) or self._maker(owner) != owner:
            return None
        if any(isinstance(item, FUNCTIONS) and item.name == "__init__" for item in node.body):
            return None
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
        names = [item.target.id for item in fields if isinstance(item.target, ast.Name)]
        calls = self._constructions(owner)
        if attribute not in names or not calls or attribute in self._replaced():
            return None
        defaults = {
            name: item.value for name, item in zip(names, fields, strict=True) if item.value is not None
        }
        return self._given(calls, attribute, names, defaults, self.scopes[node])

    def _replaced(self) -> set[str]:
        """Fields of any class that `replace` gives new values."""
        names = {keyword.arg for call, _ in self._replacements for keyword in call.keywords}
        return {name for name in names if name is not None}

    # What is never None

    def never_none(self, node: ast.expr | None, scope: Scope) -> bool:
        """Whether an expression's value is known not to be None, by how it is made or by an annotation."""
        return node is not None and self._memo("some", node, scope, self._never_none, False)

    def _never_none(self, node: ast.expr, scope: Scope) -> bool:
        value = self.value_of(node, scope)
        if value is not UNKNOWN:
            return value is not None
        if isinstance(node, (ast.Tuple, ast.List, ast.Dict, ast.Set, *_DISPLAYS)):
            return True
        if isinstance(node, ast.IfExp):
            return self._never_none_choice(node, scope)
        if isinstance(node, ast.Name):
            return self._name_never_none(node.id, scope)
        if isinstance(node, ast.Call):
            return self._call_never_none(node, scope)
        if isinstance(node, ast.Attribute):
            return self._attribute_never_none(node, scope)
        return False

    def _never_none_choice(self, node: ast.IfExp, scope: Scope) -> bool:
        branches = [node.body, node.orelse]
        if isinstance(node.test, ast.Compare) and ast.unparse(node.test.comparators[0]) == "None":
            tested = ast.unparse(node.test.left)
            is_none = isinstance(node.test.ops[0], ast.Is)
            safe = node.orelse if is_none else node.body
            branches = [branch for branch in branches if branch is not safe or ast.unparse(branch) != tested]
        return all(self.never_none(branch, scope) for branch in branches)

    def _name_never_none(self, name: str, scope: Scope) -> bool:
        where = scope.find(name)
        if where is None:
            return False
        if not all(self.never_none(value, where) for value in where.bindings.get(name, [])):
            return False
        if name not in where.parameters:
            return name in where.bindings
        if name == where.self_name or self._is_never_none(where.parameters[name].annotation):
            return True
        given = self._arguments(where, name)
        return given is not None and all(self.never_none(node, there) for node, there in given)

    def _call_never_none(self, node: ast.Call, scope: Scope) -> bool:
        function = node.func
        if isinstance(function, ast.Name) and scope.find(function.id) is None and function.id in self.owners:
            _, unit = self.owners[function.id]
            if isinstance(unit.node, FUNCTIONS):
                return self._is_never_none(unit.node.returns)
            return isinstance(unit.node, ast.ClassDef)
        if isinstance(function, ast.Attribute):
            for base in self._lineage(self.type_of(function.value, scope)):
                for item in self.classes[base].body:
                    if isinstance(item, FUNCTIONS) and item.name == function.attr:
                        return self._is_never_none(item.returns)
        root = function
        while isinstance(root, ast.Attribute):
            root = root.value
        is_local = not isinstance(root, ast.Name) or scope.find(root.id) is not None
        return not is_local and isinstance(find_outside(scope.module, function), type)

    def _attribute_never_none(self, node: ast.Attribute, scope: Scope) -> bool:
        owner = self.type_of(node.value, scope)
        for base in self._lineage(owner):
            for item in self.classes[base].body:
                if isinstance(item, ast.AnnAssign) and ast.unparse(item.target) == node.attr:
                    given = self._field(base, node.attr) if not self._stores[node.attr] else None
                    all_given = given is not None and all(self.never_none(*pair) for pair in given)
                    return all_given or self._is_never_none(item.annotation)
        stores = self._stores_of(owner, node.attr)
        return bool(stores) and all(self.never_none(value, where) for _, value, where in stores or ())

    def _is_never_none(self, annotation: ast.expr | None) -> bool:
        """Whether an annotation leaves None out."""
        if annotation is None:
            return False
        for part in ast.walk(annotation):
            if isinstance(part, ast.Constant) and (part.value is None or "None" in str(part.value)):
                return False
            if isinstance(part, ast.Name) and part.id in ("Any", "object", "Optional", "T"):
                return False
            if isinstance(part, ast.Name) and part.id in self.owners:
                alias = self.owners[part.id][1].node
                if isinstance(alias, (ast.Assign, ast.AnnAssign)) and not self._is_never_none(alias.value):
                    return False
        return True


def config_parts(config: Any) -> list[Any]:
    """A config with the configs that it is composed of."""
    inner = [value for value in vars(config).values() if dataclasses.is_dataclass(value)]
    return [config, *(part for value in inner for part in config_parts(value))]


def is_pure(node: ast.expr) -> bool:
    """Whether evaluating an expression does nothing but give a value."""
    impure = (ast.Call, ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr, ast.Subscript)
    return not any(isinstance(part, impure) for part in ast.walk(node))


def _is_protocol(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).split("[")[0] in ("Protocol", "typing.Protocol") for base in node.bases)


def _last_name(node: ast.expr) -> str:
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _try(function: Callable[..., Any], *values: Any) -> Any:
    try:
        return function(*values)
    except (TypeError, ValueError, ArithmeticError):
        return UNKNOWN
