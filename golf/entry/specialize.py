"""Partial evaluation of a program whose configuration is constant.

The configuration is a constant of the script; `golf.entry.scopes` finds the values that follow from it. A
branch that is never taken is deleted as lines of text, so that comments stay; nothing else is rewritten.
`golf.entry.shake` then drops what only such branches read.
"""

import ast
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from golf.entry.scopes import UNKNOWN, Program, config_parts, is_pure
from golf.entry.shake import drop_statements, shake
from golf.entry.source import FUNCTIONS, BundleError, Edit, SourceModule, is_string_statement

CONSTANT = "CONFIG"
"""The script's name for its configuration."""
SUBSTITUTES = {"config_from_dict": "own_config", "read_settings": "own_settings"}
"""Functions of the project by name, and those of the script that it calls in their place.

The first is replaced where it makes a part of the configuration, the part that the script has as a constant.
"""
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
NUM_ROUNDS = 2
"""Branches that are dropped decide others. Further rounds drop 20 of 8,514 lines of preset h100-10min."""
_LAST = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_INDENT = 4


def specialize(modules: Sequence[SourceModule], root: str, config: Any) -> list[SourceModule]:
    """The modules with `config` in the script `root`, reduced to what the program does with it."""
    modules = [_with_constant(module, config) if module.name == root else module for module in modules]
    defined = {name for module in modules for name in module.names}
    substitutes = {old: new for old, new in SUBSTITUTES.items() if new in defined}
    parts = {type(part).__name__ for part in config_parts(config)}
    modules = [module.edited(_renames(module, substitutes, parts)) for module in modules]
    modules = shake(modules, root)
    for _ in range(NUM_ROUNDS):
        program = Program(modules, config, frozenset(list(substitutes.values())[:1]))
        modules = [module.edited(_Folder(program, module).edits()) for module in modules]
        modules = shake(modules, root)
    return modules


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


def _renames(module: SourceModule, substitutes: dict[str, str], parts: set[str]) -> Iterator[Edit]:
    """The edits that call a substitute in place of the original."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in substitutes:
            first = node.args[0] if node.args else None
            if node.func.id != "config_from_dict" or (isinstance(first, ast.Name) and first.id in parts):
                yield Edit(*module.span(node.func), substitutes[node.func.id])


class _Folder:
    """Finds the edits that one module's decided branches and unread names call for."""

    def __init__(self, program: Program, module: SourceModule):
        self.program, self.module = program, module
        self._found: list[Edit] = []

    def edits(self) -> list[Edit]:
        """Edits of all kinds; those inside a deleted part are overlapped by its own and not made."""
        for unit in self.module.units:
            self._visit(unit.node)
            if isinstance(unit.node, (ast.Assign, ast.AnnAssign)):
                self._cut_table(unit.node)
        return self._found

    def _visit(self, node: ast.AST) -> None:
        for field in ("body", "orelse", "finalbody"):
            suite = vars(node).get(field)
            if isinstance(suite, list):
                self._visit_suite(node, suite)
        if isinstance(node, ast.ClassDef) and node.name in self.program.parts:
            gone = [child for child in node.body if self._is_check(child, node)]
            self._found += drop_statements(self.module, node.body, gone)
        if isinstance(node, FUNCTIONS):
            self._drop_unread(node)
        if isinstance(node, ast.IfExp):
            value = self._value(node.test)
            if value is not UNKNOWN:
                self._replace(node, node.body if value else node.orelse)
        if isinstance(node, (ast.Assign, ast.Return)) and isinstance(node.value, ast.Call):
            value = self.program.constant_call(node.value, self.program.scopes[node.value])
            given = [*node.value.args, *(item.value for item in node.value.keywords)]
            if value is not UNKNOWN and all(is_pure(part) for part in given):
                self._found.append(Edit(*self.module.span(node.value), repr(value)))
        if isinstance(node, (ast.If, ast.While, ast.IfExp, ast.Assert)):
            self._shorten(node.test)
        for child in ast.iter_child_nodes(node):
            self._visit(child)

    def _value(self, node: ast.expr) -> Any:
        return self.program.value_of(node, self.program.scopes[node])

    # Statements

    def _visit_suite(self, owner: ast.AST, suite: list[ast.stmt]) -> None:
        gone: list[ast.stmt] = []
        for place, node in enumerate(suite):
            if isinstance(node, _LAST) and place + 1 < len(suite):
                gone = suite[place + 1 :]
                break
        gone += [node for node in suite if node not in gone and self._does_nothing(node)]
        for node in suite:
            if isinstance(node, ast.If) and node not in gone:
                value = self._value(node.test)
                if value is not UNKNOWN and self._fold_if(node, bool(value)):
                    gone.append(node)
        self._found += drop_statements(self.module, suite, gone)

    def _does_nothing(self, node: ast.stmt) -> bool:
        """Whether a statement calls a function that does nothing, with arguments that do nothing either."""
        call = node.value if isinstance(node, ast.Expr) else None
        if not isinstance(call, ast.Call):
            return False
        parts = [*call.args, *(item.value for item in call.keywords)]
        if isinstance(call.func, ast.Attribute):
            parts.append(call.func.value)
        scope = self.program.scopes[call]
        return all(is_pure(part) for part in parts) and self.program.constant_call(call, scope) is not UNKNOWN

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
        if not isinstance(node, ast.Assign) or not is_pure(node.value):
            return False
        return all(isinstance(target, ast.Name) and target.id not in read for target in node.targets)

    def _cut_table(self, node: ast.Assign | ast.AnnAssign) -> None:
        """Deletes the entries of a table of plug points that no configuration of this value can select."""
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        table = node.value
        if not isinstance(table, ast.Dict) or not isinstance(target, ast.Name):
            return
        keys = [key.value if isinstance(key, ast.Constant) else UNKNOWN for key in table.keys]
        if target.id in PLUG_POINTS:
            fields = PLUG_POINTS[target.id]
            parts = self.program.parts.values()
            used = {vars(part)[name] for part in parts for name in fields if name in vars(part)}
        else:
            used = self._selected(target.id)
        if UNKNOWN in keys or used is None or used >= set(keys):
            return
        start, stop = self.module.span(table)
        items = [
            f"{self.module.segment(key)}: {self.module.segment(value)}"
            for key, value in zip(table.keys, table.values, strict=True)
            if isinstance(key, ast.Constant) and key.value in used
        ]
        self._found.append(Edit(start, stop, "{" + ", ".join(items) + "}"))

    def _selected(self, table: str) -> set[Any] | None:
        """The keys by which the program reads a table; None if one is not known."""
        reads: set[ast.AST] = set()
        used = set()
        for node, scope in self.program.scopes.items():
            if (
                isinstance(node, ast.Subscript)
                and isinstance(node.value, ast.Name)
                and node.value.id == table
            ):
                value = self.program.value_of(node.slice, scope)
                if value is UNKNOWN or not isinstance(node.ctx, ast.Load):
                    return None
                used.add(value)
                reads.add(node.value)
        for node, scope in self.program.scopes.items():
            if isinstance(node, ast.Name) and node.id == table and isinstance(node.ctx, ast.Load):
                if node not in reads and scope.find(table) is None:
                    return None
        return used


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
