"""The one file an entry ships: flattened from the project, packed if wished, and what it needs installed."""

import ast
import base64
import builtins
import bz2
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path

from golf.entry.source import (
    PACKAGE,
    BundleError,
    OutsideImport,
    ProjectImport,
    SourceModule,
    is_project,
    read_source,
)

LINE_LENGTH = 110
"""Longest line of the import block."""

_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "lzma": lzma.decompress,
    "zlib": zlib.decompress,
    "bz2": bz2.decompress,
}


def bundle(script: Path, project_root: Path) -> str:
    """Flattens the top-level `from golf.x import Name` of `script`, transitively, into one file's text.

    Modules come in dependency order with comments kept, other imports once on top, the script last.
    Imports of the project inside the script's functions stay: they are for those who have the toolkit
    beside it. Raises BundleError for relative, aliased, star and `import golf` forms, for circles, for a
    module-level name with two meanings, and for modules that look at their own `__file__` or `__name__`.
    A script that imports nothing of the project, such as a bundle, is returned as it is.
    """
    program = read_source(script, script.stem, project_root)
    if not program.project_imports:
        return script.read_text(encoding="utf-8")
    modules = _in_dependency_order(program, project_root)
    _refuse_clashes(modules)
    parts = [_head(program), render_imports(i for module in modules for i in module.outside_imports)]
    parts += [_section(module) for module in modules if module.body]
    text = "\n\n\n".join(part for part in parts if part) + "\n"
    compile(text, script.name, "exec")
    return text


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
        if package.is_file() and read_source(package, PACKAGE, root).body:
            what = f"{package.relative_to(root)} holds code, which flattening would lose"
            raise importer.error(wanted.line, what)
    path = root.joinpath(*parts).with_suffix(".py")
    if not path.is_file():
        raise importer.error(wanted.line, f"there is no module {wanted.module} at {path.relative_to(root)}")
    return path


def _refuse_clashes(modules: list[SourceModule]) -> None:
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


def _head(program: SourceModule) -> str:
    """The script's `#!` line, its docstring as it stands, and where the rest comes from."""
    note = f"# {program.label} and the {PACKAGE} modules it imports, in one file."
    return "\n".join(line for line in (program.shebang, program.docstring_source, note) if line)


def _section(module: SourceModule) -> str:
    summary = (module.docstring or "").split("\n")[0].strip() if is_project(module.name) else ""
    return f"# {module.label}{': ' if summary else ''}{summary}\n{module.body}"


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


def pack_script(source: str) -> bytes:
    """The script minified and compressed, as ASCII that unpacks and runs itself.

    Docstrings of dataclasses and of the module stay, and so do all annotations: tyro's --help is made of
    them. The unpacked text is registered in `linecache` under the name it is compiled with, where Triton
    and tracebacks look for it, and under the file's own, where `inspect` looks for classes. The same source
    and library versions give the same bytes.
    """
    text = _minify(source)
    if text.splitlines(True) != list(io.StringIO(text, newline="\n")):
        raise BundleError("the minified script holds a line separator other than a newline")
    return min((_self_extracting(*pair) for pair in _compressions(text.encode())), key=len).encode("ascii")


def unpack_script(packed: bytes) -> str:
    """The text inside a script that `pack_script` made, read as data and never run.

    Raises BundleError for any other file.
    """
    try:
        tree = ast.parse(packed.decode("ascii"))
        first = tree.body[0]
        codec = first.names[0].name if isinstance(first, ast.Import) else "none"
        constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        payload = max((value for value in constants if isinstance(value, str)), key=len)
        return _DECODERS[codec](base64.b85decode(payload)).decode()
    except (ValueError, SyntaxError, LookupError, OSError, zlib.error, lzma.LZMAError) as error:
        raise BundleError(f"not a script that pack_script made: {error}") from error


def readable_source(script: str) -> str:
    """The text that a script runs: itself, or what is in it if it is packed."""
    try:
        return unpack_script(script.encode())
    except BundleError:
        return script


def _minify(source: str) -> str:
    import python_minifier

    tree = ast.parse(source)
    if not any(isinstance(node, ast.Attribute) and node.attr == "__doc__" for node in ast.walk(tree)):
        _drop_docstrings(tree)
    tree = ast.fix_missing_locations(_FormatCalls().visit(tree))
    return python_minifier.minify(
        ast.unparse(tree),
        remove_annotations=False,
        hoist_literals=False,
        preserve_locals=sorted(_names_in_kernels(tree)),
    )


class _FormatCalls(ast.NodeTransformer):
    """Writes f-strings with strings inside their fields as calls of str.format.

    From Python 3.12 on the minifier gives both the same quotes, which earlier versions cannot read (PEP 701).
    """

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """The f-string, or the call that gives the same text."""
        self.generic_visit(node)
        fields = [part for part in ast.walk(node) if isinstance(part, ast.FormattedValue)]
        inner = (leaf for part in fields for leaf in ast.walk(part.value))
        if not any(isinstance(leaf, ast.Constant) and isinstance(leaf.value, (str, bytes)) for leaf in inner):
            return node
        arguments: list[ast.expr] = []
        template = ast.Constant(self._template(node, arguments))
        return ast.Call(ast.Attribute(template, "format", ast.Load()), arguments, [])

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        """The field with the f-strings inside it visited; its format stays one, whatever is in it."""
        node.value = self.visit(node.value)
        if isinstance(node.format_spec, ast.JoinedStr):
            node.format_spec.values = [self.visit(part) for part in node.format_spec.values]
        return node

    def _template(self, node: ast.JoinedStr, arguments: list[ast.expr]) -> str:
        """The text with a field for each argument, which are added in the order that str.format reads."""
        text = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                text += str(part.value).replace("{", "{{").replace("}", "}}")
            elif isinstance(part, ast.FormattedValue):
                arguments.append(part.value)
                conversion = f"!{chr(part.conversion)}" if part.conversion != -1 else ""
                spec = ""
                if isinstance(part.format_spec, ast.JoinedStr):
                    spec = ":" + self._template(part.format_spec, arguments)
                text += "{" + conversion + spec + "}"
        return text


def _drop_docstrings(tree: ast.Module) -> None:
    """Removes string statements, except the module's first and those of dataclasses."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if isinstance(node, ast.ClassDef) and _is_decorated(node, "dataclass"):
                continue
            spared = 1 if isinstance(node, ast.Module) else 0
            kept = [child for child in node.body[spared:] if not _is_string_statement(child)]
            node.body = node.body[:spared] + (kept or [ast.Pass()])


def _is_string_statement(node: ast.stmt) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _is_decorated(node: ast.ClassDef | ast.FunctionDef, word: str) -> bool:
    return any(word in ast.unparse(decorator) for decorator in node.decorator_list)


def _names_in_kernels(tree: ast.Module) -> set[str]:
    """Names inside functions under a `jit` decorator: Triton gives some of them a meaning, so they stay."""
    kernels = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and _is_decorated(n, "jit")]
    inside = [node for kernel in kernels for node in ast.walk(kernel)]
    arguments = {node.arg for node in inside if isinstance(node, ast.arg)}
    return arguments | {node.id for node in inside if isinstance(node, ast.Name)}


def _compressions(data: bytes) -> list[tuple[str, bytes]]:
    """The data under each codec of the standard library, with its module's name."""
    preset = 9 | lzma.PRESET_EXTREME
    filters = [{"id": lzma.FILTER_LZMA1, "preset": preset, "lc": lc, "pb": 0} for lc in range(5)]
    packed = [("lzma", lzma.compress(data, lzma.FORMAT_ALONE, filters=[choice])) for choice in filters]
    return [*packed, ("zlib", zlib.compress(data, 9)), ("bz2", bz2.compress(data, 9))]


def _self_extracting(codec: str, data: bytes) -> str:
    payload = base64.b85encode(data).decode("ascii")
    return (
        f'import {codec} as Z,base64,linecache;T=Z.decompress(base64.b85decode("{payload}")).decode()\n'
        'for N in __file__,__file__+" unpacked":linecache.cache[N]=len(T),None,T.splitlines(True),N\n'
        'exec(compile(T,N,"exec"))\n'
    )


def requirements_for(source: str, recorded: Mapping[str, str] | None = None) -> str:
    """The text of a requirements.txt: exact versions of the packages that `source` imports anywhere.

    Versions come from `recorded` (distribution to version, what a run wrote down) and otherwise from what
    is installed here, without local tags such as +cpu. A package that neither knows is an error when
    imported at the top level, and a comment line when a function imports it on demand.
    """
    owners = _package_owners()
    tree = ast.parse(source)
    lines = set()
    for package in _imported_packages(ast.walk(tree)):
        names = [*owners.get(package, []), package]
        noted = [f"{name}=={recorded[name]}" for name in names if recorded and name in recorded]
        if noted or package in owners:
            lines.add((noted or [f"{names[0]}=={version(names[0])}"])[0].split("+")[0])
        elif package in _imported_packages(tree.body):
            raise BundleError(f"the script imports {package}, which is not installed")
        else:
            lines.add(f"# {package}: imported on demand; not installed where this was made")
    return "\n".join(sorted(lines, key=str.lower)) + "\n"


@cache
def _package_owners() -> Mapping[str, list[str]]:
    return packages_distributions()


def _imported_packages(nodes: Iterable[ast.AST]) -> set[str]:
    """Top-level names of the packages imported by these nodes, less the standard library and the project."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {PACKAGE}
