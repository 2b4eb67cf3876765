"""Removes from a program what its constant configuration decides.

A test that reads fields of the configuration, such as `if config.xsa`, has one value in an entry. The branch
that is never taken is deleted as lines of text, so that comments stay; nothing else is rewritten.
`golf.entry.shake` then drops what only such branches read.

A field is known by its name: `config.xsa` is the field `xsa` if one part of the configuration alone has it
and nothing changes it. Names that could mean something else decide nothing.
"""

import ast
import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any

from golf.entry.shake import drop_statements, shake
from golf.entry.source import FUNCTIONS, BundleError, Edit, SourceModule, is_string_statement

CONSTANT = "CONFIG"
"""The script's name for its configuration."""
PLUG_POINTS = {
    "ATTENTIONS": ("attention",),
    "FEEDFORWARDS": ("feedforward",),
    "NORMS": ("norm",),
    "OPTIMIZERS": ("matrix", "embedding", "scalar"),
    "QUANTIZERS": ("scheme",),
    "SMEARS": ("smear",),
}
"""Tables by name, with the fields of the configuration whose values select their entries.

The other entries are dropped: an artifact that names one of them is refused as unknown."""
OWNERS = frozenset({"config", CONSTANT})
"""Names of what a field of the configuration is read from, beside those of the configuration's own parts."""
NUM_ROUNDS = 3
"""Branches that are dropped decide others."""
UNKNOWN = object()
"""What is not the same in every run of the entry."""
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, group: item in group,
    ast.NotIn: lambda item, group: item not in group,
}
_LAST = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_INDENT = 4


def specialize(modules: Sequence[SourceModule], root: str, config: Any) -> list[SourceModule]:
    """The modules with `config` in the script `root`, reduced to what the program does with it."""
    modules = [_with_constant(module, config) if module.name == root else module for module in modules]
    modules = shake(modules, root)
    fields: dict[str, Any] = {}
    settled: set[SourceModule] = set()
    for _ in range(NUM_ROUNDS):
        before, fields = fields, constant_fields(modules, config)
        settled = settled if fields == before else set()
        folded = [
            module if module in settled else module.edited(_Folder(config, fields, module).edits())
            for module in modules
        ]
        settled |= {module for module in folded if module in modules}
        if folded == modules:
            break
        modules = shake(folded, root)
    return modules


def config_parts(config: Any) -> list[Any]:
    """A config and all configs in it."""
    parts = [config]
    for part in parts:
        parts += [value for value in vars(part).values() if dataclasses.is_dataclass(value)]
    return parts


def constant_fields(modules: Sequence[SourceModule], config: Any) -> dict[str, Any]:
    """The fields that the program never changes and that one part of the configuration alone has."""
    parts = config_parts(config)
    kinds = {type(part).__name__ for part in parts}
    fields: dict[str, Any] = {}
    others: set[str] = set()
    for part in parts:
        others |= fields.keys() & vars(part).keys()
        fields |= vars(part)
    for module in modules:
        constant = module.definitions.get(CONSTANT)
        for unit in module.units:
            if unit is constant:
                continue
            for node in ast.walk(unit.node):
                if not isinstance(node, ast.Call):
                    continue
                called = ast.unparse(node.func).split(".")[-1]
                if called in ("replace", *kinds):
                    if any(item.arg is None for item in node.keywords):
                        raise module.error(node, f"{called} of computed fields may change any; name them")
                    # A field that is set to the value that it has stays constant.
                    others |= {
                        item.arg
                        for item in node.keywords
                        if item.arg
                        and not (
                            isinstance(item.value, ast.Constant) and item.value.value == fields.get(item.arg)
                        )
                    }
                elif called in ("setattr", "__setattr__"):
                    others |= {str(item.value) for item in node.args if isinstance(item, ast.Constant)}
    return {name: value for name, value in fields.items() if name not in others}


def _with_constant(module: SourceModule, config: Any) -> SourceModule:
    """The script with its CONFIG set, and the classes imported that this takes."""
    unit = module.definitions.get(CONSTANT)
    if unit is None or not isinstance(unit.node, (ast.Assign, ast.AnnAssign)) or unit.node.value is None:
        raise BundleError(f"{module.label}: the script has no constant {CONSTANT}")
    known = {wanted.name for wanted in module.project_imports} | set(module.names)
    kinds = {type(part).__name__: type(part).__module__ for part in config_parts(config)}
    lines = [f"from {kinds[name]} import {name}\n" for name in sorted(kinds) if name not in known]
    last = max(node.end_lineno or 0 for node in module.tree.body if isinstance(node, ast.ImportFrom))
    place = module.start_of_line(last + 1)
    value = Edit(*module.span(unit.node.value), render(config))
    return module.edited([Edit(place, place, "".join(lines)), value])


def render(config: Any, indent: int = 0) -> str:
    """A config as the expression that makes it, fields that have their default left out."""
    usual, lines = _defaults(type(config)), []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.name not in usual or value != usual[item.name]:
            is_part = dataclasses.is_dataclass(value)
            text = render(value, indent + _INDENT) if is_part else repr(value).replace("'", '"')
            lines.append(f"{' ' * (indent + _INDENT)}{item.name}={text},\n")
    inside = f"\n{''.join(lines)}{' ' * indent}" if lines else ""
    return f"{type(config).__name__}({inside})"


def _defaults(kind: type) -> dict[str, Any]:
    found = {}
    for item in dataclasses.fields(kind):
        if item.default is not dataclasses.MISSING:
            found[item.name] = item.default
        elif item.default_factory is not dataclasses.MISSING:
            found[item.name] = item.default_factory()
    return found


class _Folder:
    """Finds the edits that one module's decided branches and unread names call for."""

    def __init__(self, config: Any, fields: dict[str, Any], module: SourceModule):
        self.config, self.fields, self.module = config, fields, module
        self.kinds = {type(part).__name__ for part in config_parts(config)}
        self.owners = OWNERS | {
            name
            for part in config_parts(config)
            for name, value in vars(part).items()
            if dataclasses.is_dataclass(value)
        }
        self._found: list[Edit] = []

    def edits(self) -> list[Edit]:
        """Edits of all kinds; those inside a deleted part are overlapped by its own and not made."""
        for unit in self.module.units:
            self._in_config = isinstance(unit.node, ast.ClassDef) and unit.node.name in self.kinds
            self._visit(unit.node)
            if isinstance(unit.node, (ast.Assign, ast.AnnAssign)):
                self._cut_table(unit.node)
        return self._found

    def _visit(self, node: ast.AST) -> None:
        for field in ("body", "orelse", "finalbody"):
            suite = vars(node).get(field)
            if isinstance(suite, list):
                self._visit_suite(node, suite)
        if isinstance(node, ast.ClassDef) and node.name in self.kinds:
            gone = [child for child in node.body if self._is_check(child, node)]
            self._found += drop_statements(self.module, node.body, gone)
        if isinstance(node, FUNCTIONS):
            self._drop_unread(node)
        if isinstance(node, ast.IfExp):
            value = self._value(node.test)
            if value is not UNKNOWN:
                self._replace(node, node.body if value else node.orelse)
        if isinstance(node, (ast.If, ast.While, ast.IfExp, ast.Assert)):
            self._shorten(node.test)
        for child in ast.iter_child_nodes(node):
            self._visit(child)

    def _value(self, node: ast.expr) -> Any:
        """The value of an expression of constants and fields; UNKNOWN for any other."""
        match node:
            case ast.Constant():
                return node.value
            case ast.Tuple() | ast.List() | ast.Set():
                items = [self._value(item) for item in node.elts]
                return UNKNOWN if UNKNOWN in items else tuple(items)
            case ast.Attribute(value=ast.Name(id=owner) | ast.Attribute(attr=owner)):
                is_field = owner in self.owners or (owner == "self" and self._in_config)
                return self.fields.get(node.attr, UNKNOWN) if is_field else UNKNOWN
            case ast.UnaryOp(op=ast.Not()):
                value = self._value(node.operand)
                return value if value is UNKNOWN else not value
            case ast.BoolOp():
                values = []
                for item in node.values:
                    values.append(self._value(item))
                    if values[-1] is not UNKNOWN and bool(values[-1]) == isinstance(node.op, ast.Or):
                        return values[-1]
                return UNKNOWN if UNKNOWN in values else values[-1]
            case ast.Compare(ops=[compare], comparators=[right]):
                return self._applied(_COMPARE[type(compare)], node.left, right)
            case ast.Call(func=ast.Attribute(value=text, attr="startswith"), args=[start], keywords=[]):
                return self._applied(str.startswith, text, start)
        return UNKNOWN

    def _applied(self, function: Callable[[Any, Any], Any], *nodes: ast.expr) -> Any:
        values = [self._value(node) for node in nodes]
        try:
            return UNKNOWN if UNKNOWN in values else function(*values)
        except TypeError:
            # A field that may be None, behind a test that decides first.
            return UNKNOWN

    # Statements

    def _visit_suite(self, owner: ast.AST, suite: list[ast.stmt]) -> None:
        gone: list[ast.stmt] = []
        for place, node in enumerate(suite):
            if isinstance(node, _LAST) and place + 1 < len(suite):
                gone = suite[place + 1 :]
                break
        for node in suite:
            if isinstance(node, ast.If) and node not in gone:
                value = self._value(node.test)
                if value is not UNKNOWN and self._fold_if(node, bool(value)):
                    gone.append(node)
        self._found += drop_statements(self.module, suite, gone)

    def _fold_if(self, node: ast.If, value: bool) -> bool:
        """Makes the edits of a decided `if` or `elif`; True if the whole statement is to be dropped."""
        module, start = self.module, self.module.span(node)[0]
        is_elif = module.segment(node).startswith("elif")
        body_first = self._header_end(node) + 1
        chained = (
            len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If) and self._is_elif(node.orelse[0])
        )
        else_line = None if not node.orelse or chained else self._else_line(node)
        end = node.end_lineno or node.lineno
        if value:
            body_last = end
            if node.orelse:
                body_last = (node.orelse[0].lineno if chained else else_line or end) - 1
            if is_elif:
                stop = module.start_of_line(body_first)
                self._found.append(Edit(start, stop, "else:\n"))
                if node.orelse:
                    self._found.append(Edit(module.start_of_line(body_last + 1) - 1, module.span(node)[1]))
            else:
                self._unwrap(node, body_first, body_last)
        elif chained:
            following = module.span(node.orelse[0])[0]
            text = "elif" if is_elif else "if"
            self._found.append(Edit(start, following + len("elif"), text))
        elif else_line is not None:
            if is_elif:
                self._found.append(Edit(module.start_of_line(node.lineno), module.start_of_line(else_line)))
            else:
                self._unwrap(node, else_line + 1, end)
        elif is_elif:
            self._found.append(Edit(module.start_of_line(node.lineno) - 1, module.span(node)[1]))
        else:
            return True
        return False

    def _is_elif(self, node: ast.stmt) -> bool:
        return self.module.segment(node).startswith("elif")

    def _header_end(self, node: ast.If) -> int:
        """The line of the colon."""
        line = node.test.end_lineno or node.lineno
        while not self.module.lines(line, line).split("#")[0].rstrip().endswith(":"):
            line += 1
        return line

    def _else_line(self, node: ast.If) -> int:
        line = self.module.first_line(node.orelse[0])
        while not self.module.lines(line, line).lstrip().startswith("else:"):
            line -= 1
        return line

    def _unwrap(self, node: ast.If, first: int, last: int) -> None:
        """Puts lines of a branch in place of the whole statement, further to the left."""
        inner = {
            line
            for part in ast.walk(node)
            if isinstance(part, (ast.Constant, ast.JoinedStr)) and (part.end_lineno or 0) > part.lineno
            for line in range(part.lineno + 1, (part.end_lineno or 0) + 1)
        }
        lines = []
        for line in range(first, last + 1):
            text = self.module.lines(line, line)
            # Text of a string on several lines stays where it is.
            lines.append(text if line in inner else text[_INDENT:] if text.strip() else "")
        start = self.module.start_of_line(node.lineno)
        self._found.append(Edit(start, self.module.span(node)[1], "\n".join(lines).rstrip("\n")))

    def _is_check(self, node: ast.stmt, owner: ast.ClassDef) -> bool:
        """Whether a method of a config only raises errors, which a config that was made has not raised."""
        return (
            isinstance(node, ast.FunctionDef)
            and node.name == "__post_init__"
            and _only_raises(node.body, owner)
        )

    # Expressions

    def _replace(self, node: ast.expr, by: ast.expr) -> None:
        text = self.module.segment(by)
        self._found.append(Edit(*self.module.span(node), text))

    def _shorten(self, test: ast.expr) -> None:
        """Drops the operands of a test that do not change it."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            self._shorten(test.operand)
        if not isinstance(test, ast.BoolOp) or self._value(test) is not UNKNOWN:
            return
        neutral = isinstance(test.op, ast.And)
        values = [self._value(item) for item in test.values]
        left = [
            item
            for item, value in zip(test.values, values, strict=True)
            if value is UNKNOWN or bool(value) != neutral
        ]
        if len(left) < len(test.values) and left:
            word = " and " if neutral else " or "
            texts = [self._operand(item) if len(left) > 1 else self.module.segment(item) for item in left]
            self._found.append(Edit(*self.module.span(test), word.join(texts)))
        else:
            for item in test.values:
                self._shorten(item)

    def _operand(self, node: ast.expr) -> str:
        text = self.module.segment(node)
        return f"({text})" if isinstance(node, (ast.BoolOp, ast.IfExp, ast.Lambda, ast.NamedExpr)) else text

    # Names

    def _drop_unread(self, function: ast.AST) -> None:
        """Deletes assignments of pure values to names that the function never reads."""
        read = {
            part.id
            for part in ast.walk(function)
            if isinstance(part, ast.Name) and isinstance(part.ctx, (ast.Load, ast.Del))
        }
        read |= {
            name
            for part in ast.walk(function)
            if isinstance(part, (ast.Global, ast.Nonlocal))
            for name in part.names
        }
        for owner in ast.walk(function):
            for field in ("body", "orelse", "finalbody"):
                suite = vars(owner).get(field)
                if isinstance(suite, list):
                    gone = [node for node in suite if self._is_unread(node, read)]
                    self._found += drop_statements(self.module, suite, gone)

    def _is_unread(self, node: ast.stmt, read: set[str]) -> bool:
        if not isinstance(node, ast.Assign) or not _is_pure(node.value):
            return False
        return all(isinstance(target, ast.Name) and target.id not in read for target in node.targets)

    def _cut_table(self, node: ast.Assign | ast.AnnAssign) -> None:
        """Deletes the entries of a table of plug points that no configuration of this value can select."""
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        table = node.value
        if not isinstance(table, ast.Dict) or not isinstance(target, ast.Name):
            return
        keys = [key.value if isinstance(key, ast.Constant) else UNKNOWN for key in table.keys]
        parts = [vars(part) for part in config_parts(self.config)]
        fields = PLUG_POINTS.get(target.id, ())
        used = {part[name] for part in parts for name in fields if name in part}
        if not used or UNKNOWN in keys or used >= set(keys):
            return
        start, stop = self.module.span(table)
        items = [
            f"{self.module.segment(key)}: {self.module.segment(value)}"
            for key, value in zip(table.keys, table.values, strict=True)
            if isinstance(key, ast.Constant) and key.value in used
        ]
        self._found.append(Edit(start, stop, "{" + ", ".join(items) + "}"))


def _only_raises(body: list[ast.stmt], owner: ast.ClassDef) -> bool:
    """Whether statements do nothing but raise errors: loops, conditions, and methods of the same kind."""
    return all(_is_raising(node, owner) for node in body)


def _is_raising(node: ast.stmt, owner: ast.ClassDef) -> bool:
    if isinstance(node, (ast.Raise, ast.Pass)) or is_string_statement(node):
        return True
    if isinstance(node, (ast.If, ast.For)):
        return _only_raises([*node.body, *node.orelse], owner)
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Name) for target in node.targets)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        function = node.value.func
        if isinstance(function, ast.Attribute) and ast.unparse(function.value) == "self":
            methods = [
                item
                for item in owner.body
                if isinstance(item, ast.FunctionDef) and item.name == function.attr
            ]
            return len(methods) == 1 and _only_raises(methods[0].body, owner)
    return False


def _is_pure(node: ast.expr) -> bool:
    """Whether computing an expression has no effect: it calls nothing."""
    return not any(isinstance(part, (ast.Call, ast.Await, ast.Yield)) for part in ast.walk(node))
