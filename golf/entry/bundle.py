"""The one file that an entry ships: the project's definitions that its own script reaches, in one text.

`bundle` reads the script and every module it imports, takes the short form of a definition where the script
brings one (`golf/entry_short.py`), specializes all to the entry's configuration if one is given
(`golf.entry.specialize`), drops what the script cannot reach (`golf.entry.shake`), and writes the rest in
dependency order, imports on top. The text is the authors' own: comments stay, and of each docstring the first
paragraph.
"""

import ast
import builtins
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from golf.entry.release import ROOT
from golf.entry.shake import shake
from golf.entry.source import (
    DEFINITIONS,
    IMPORTS,
    PACKAGE,
    Edit,
    OutsideImport,
    ProjectImport,
    SourceModule,
    is_project,
    is_string_statement,
    read_source,
)
from golf.entry.specialize import specialize

LINE_LENGTH = 110
"""Longest line of the import block."""


def entry_script(config: Any) -> str:
    """The script of an entry with this configuration: `golf/entry_main.py` and what it reaches."""
    return bundle(ROOT / "golf" / "entry_main.py", ROOT, config, ROOT / "golf" / "entry_short.py")


def bundle(script: Path, project_root: Path, config: Any = None, short_forms: Path | None = None) -> str:
    """One file's text: `script` with the definitions it reaches by its top-level `from golf.x import Name`.

    Modules come in dependency order with comments kept, other imports once on top, the script last. With a
    `config`, a frozen dataclass, the script's constant CONFIG has its value, branches that this value decides
    are decided, and of each docstring the first paragraph is kept. The definitions of the module
    `short_forms` take the place of those of the same names. Imports of the project inside a script's
    functions stay: they are for those who have the toolkit beside it. Raises BundleError for relative,
    aliased, star and `import golf` forms, for circles, for a module-level name with two meanings, for modules
    that look at their own `__file__` or `__name__`, and for definitions that are reached by computed names. A
    script that imports nothing of the project, such as a bundle, is returned as it is.
    """
    program = read_source(script, script.stem, project_root)
    if not program.project_imports:
        return program.text
    modules = _in_dependency_order(program, project_root)
    if short_forms is not None:
        modules = _with_short_forms(modules, read_source(short_forms, "golf.entry_short", project_root))
    _refuse_clashes(modules)
    if config is not None:
        modules = specialize(modules, program.name, config)
    modules = shake(modules, program.name)
    if config is not None:
        modules = [module.edited(_shorten_docstrings(module)) for module in modules]
    body = "\n\n".join(_section(module) for module in modules)
    imports = render_imports(i for module in modules for i in _used_imports(module))
    text = "\n\n".join(part for part in (_head(modules), imports, body) if part) + "\n"
    compile(text, script.name, "exec")
    return text


def _with_short_forms(modules: list[SourceModule], short: SourceModule) -> list[SourceModule]:
    """The modules with the definitions of `short` in place of their own of the same names."""
    imports, missing, changed = render_imports(short.outside_imports), set(short.definitions), []
    for module in modules:
        edits = []
        for name in missing & module.definitions.keys():
            long, own = module.definitions[name], short.definitions[name]
            start, stop = module.drop(long.node, long.last).start, module.drop(long.node, long.last).stop
            edits.append(Edit(start, stop, f"\n\n{short.statement(own)}\n"))
            missing = missing - {name}
        if edits:
            first = next(node for node in module.tree.body if isinstance(node, IMPORTS))
            place = module.start_of_line(first.lineno)
            edits.append(Edit(place, place, f"{imports}\n"))
        changed.append(module.edited(edits))
    if missing:
        raise short.error(1, f"no module defines {', '.join(sorted(missing))}")
    return changed


def _shorten_docstrings(module: SourceModule) -> Iterator[Edit]:
    """The edits that leave the first paragraph of each docstring of a function or class."""
    for node in ast.walk(module.tree):
        if isinstance(node, DEFINITIONS) and is_string_statement(node.body[0]):
            start, stop = module.span(node.body[0])
            first, rest, _ = module.segment(node.body[0]).partition("\n\n")
            if rest:
                yield Edit(start, stop, f'{first}"""')


def _in_dependency_order(program: SourceModule, root: Path) -> list[SourceModule]:
    """Every module reached from the program, each after those that it imports; the program last."""
    done: dict[str, SourceModule] = {}
    trail: list[str] = []

    def visit(module: SourceModule) -> None:
        trail.append(module.name)
        for wanted in module.project_imports:
            if wanted.module in trail:
                circle = " -> ".join([*trail[trail.index(wanted.module) :], wanted.module])
                raise module.error(wanted.line, f"imports go in a circle: {circle}")
            if wanted.module not in done:
                visit(read_source(_module_path(module, wanted, root), wanted.module, root))
            if wanted.name not in done[wanted.module].names:
                raise module.error(wanted.line, f"{wanted.module} does not define {wanted.name}")
        trail.pop()
        done[module.name] = module

    visit(program)
    return list(done.values())


def _module_path(importer: SourceModule, wanted: ProjectImport, root: Path) -> Path:
    """The file of the wanted module; the packages above it may hold nothing, for it would be lost."""
    parts = wanted.module.split(".")
    for count in range(1, len(parts)):
        package = root.joinpath(*parts[:count], "__init__.py")
        if package.is_file() and _has_code(read_source(package, PACKAGE, root)):
            what = f"{package.relative_to(root)} holds code, which flattening would lose"
            raise importer.error(wanted.line, what)
    path = root.joinpath(*parts).with_suffix(".py")
    if not path.is_file():
        raise importer.error(wanted.line, f"there is no module {wanted.module} at {path.relative_to(root)}")
    return path


def _has_code(package: SourceModule) -> bool:
    return bool(package.units or package.project_imports or package.outside_imports)


def _refuse_clashes(modules: Sequence[SourceModule]) -> None:
    """One name, one meaning, across all modules and their outside imports."""
    meanings: dict[str, tuple[str, str]] = {}

    def claim(module: SourceModule, line: int, name: str, meaning: str) -> None:
        if hasattr(builtins, name):
            raise module.error(line, f"{name} would hide the builtin from every other module")
        held, where = meanings.setdefault(name, (meaning, f"{module.label}:{line}"))
        if held != meaning:
            raise module.error(line, f"{name} is {meaning} here and {held} at {where}")

    for module in modules:
        for outside in (*module.outside_imports, *module.nested_imports):
            claim(module, outside.line, outside.bound, outside.origin)
        for name, line in module.names.items():
            claim(module, line, name, f"{module.name}.{name}")


def _used_imports(module: SourceModule) -> list[OutsideImport]:
    """The imports of a module that what is left of it reads."""
    read = {name for unit in module.units for name in module.reads(unit.node)}
    return [outside for outside in module.outside_imports if outside.bound in read]


def _head(modules: Sequence[SourceModule]) -> str:
    """The script's `#!` line and docstring, where the rest comes from, and how long each room's part is."""
    program = modules[-1]
    shebang = program.text.split("\n", 1)[0] if program.text.startswith("#!") else ""
    docstring = program.segment(program.tree.body[0]) if program.docstring else ""
    lengths: dict[str, int] = {}
    for module in modules:
        lengths[_room(module)] = lengths.get(_room(module), 0) + _section(module).count("\n") + 1
    table = [f"#   {room:<12}{length:>6,}" for room, length in lengths.items()]
    note = f"# {program.label} and the definitions of {PACKAGE} that it reaches, in one file. Lines by room:"
    return "\n".join(line for line in (shebang, docstring, note, *table) if line)


def _room(module: SourceModule) -> str:
    parts = module.name.split(".")
    return parts[1] if is_project(module.name) and len(parts) > 1 else module.name


def _section(module: SourceModule) -> str:
    """A module's part of the file: a title, and its statements without imports and docstring."""
    summary = (module.docstring or "").split("\n")[0].strip() if is_project(module.name) else ""
    title = f"# {module.label}{': ' if summary else ''}{summary}"
    # One blank line between definitions, not two; none of the project's strings has two.
    return f"{title}\n" + re.sub(r"\n{3,}", "\n\n", module.without_imports)


def render_imports(imports: Iterable[OutsideImport]) -> str:
    """The imports without repetition, standard library first, in alphabetical order."""
    groups: dict[bool, list[OutsideImport]] = {True: [], False: []}
    for outside in imports:
        groups[outside.module.split(".")[0] in sys.stdlib_module_names].append(outside)
    return "\n\n".join(_render_group(groups[stdlib]) for stdlib in (True, False) if groups[stdlib])


def _render_group(imports: list[OutsideImport]) -> str:
    plain: set[str] = set()
    by_module: dict[str, set[str]] = {}
    for i in imports:
        suffix = f" as {i.asname}" if i.asname else ""
        if i.name is None:
            plain.add(i.module + suffix)
        else:
            by_module.setdefault(i.module, set()).add(i.name + suffix)
    lines = [f"import {module}" for module in sorted(plain)]
    for module in sorted(by_module):
        names = sorted(by_module[module])
        line = f"from {module} import {', '.join(names)}"
        if len(line) > LINE_LENGTH:
            line = "\n".join([f"from {module} import (", *(f"    {name}," for name in names), ")"])
        lines.append(line)
    return "\n".join(lines)
