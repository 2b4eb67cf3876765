"""A script minified and compressed into one that unpacks and runs itself, and back."""

import ast
import base64
import bz2
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import packages_distributions, version

from golf.entry.source import PACKAGE, BundleError, is_string_statement
from golf.system.device import MIN_TORCH

_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "lzma": lzma.decompress,
    "zlib": zlib.decompress,
    "bz2": bz2.decompress,
}


def pack_script(source: str) -> bytes:
    """The script minified and compressed, as ASCII that unpacks and runs itself.

    Names are shortened, so nothing of the source may be found by its name at run time. The unpacked text is
    registered in `linecache` under the name it is compiled with, where tracebacks look for it, and under the
    file's own, where `inspect` looks for classes. The same source and library versions give the same bytes.
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
    """The source without docstrings and unread annotations, with short names.

    Names of attributes, fields and keyword parameters stay, and so does the module's docstring, which is the
    program's help.
    """
    import python_minifier

    tree = ast.parse(source)
    _drop_docstrings(tree)
    for transform in (_FormatCalls(), _PlainNames()):
        tree = transform.visit(tree)
    return python_minifier.minify(
        ast.unparse(ast.fix_missing_locations(tree)),
        remove_annotations=False,
        hoist_literals=False,
        rename_globals=True,
    )


class _PlainNames(ast.NodeTransformer):
    """Removes annotations that nothing reads, and the call `vars`, which keeps the minifier from renaming."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """A function without annotations, unless a decorator may read them."""
        self.generic_visit(node)
        if not any(isinstance(decorator, (ast.Call, ast.Attribute)) for decorator in node.decorator_list):
            node.returns = None
            for part in ast.walk(node.args):
                if isinstance(part, ast.arg):
                    part.annotation = None
        node.body = [self._plain(child) for child in node.body]
        return node

    def visit_Module(self, node: ast.Module) -> ast.AST:
        """The module with plain assignments at its top."""
        self.generic_visit(node)
        node.body = [self._plain(child) for child in node.body]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """`vars(x)` as `x.__dict__`."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "vars" and len(node.args) == 1:
            return ast.Attribute(node.args[0], "__dict__", ast.Load())
        return node

    def _plain(self, node: ast.stmt) -> ast.stmt:
        if isinstance(node, ast.AnnAssign):
            return ast.Assign([node.target], node.value) if node.value is not None else ast.Pass()
        return node


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
    """Removes string statements, except the module's first."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            spared = 1 if isinstance(node, ast.Module) else 0
            kept = [child for child in node.body[spared:] if not is_string_statement(child)]
            node.body = node.body[:spared] + (kept or [ast.Pass()])


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
    is installed here, without local tags such as +cpu. Of torch any version from MIN_TORCH on is accepted,
    for the machine's own is the one that fits its driver; the exact one is a comment. A package that neither
    knows is an error when imported at the top level, and a comment line when a function imports it on demand.
    """
    owners = _package_owners()
    tree = ast.parse(source)
    lines = set()
    for package in _imported_packages(ast.walk(tree)):
        names = [*owners.get(package, []), package]
        noted = [f"{name}=={recorded[name]}" for name in names if recorded and name in recorded]
        if noted or package in owners:
            exact = (noted or [f"{names[0]}=={version(names[0])}"])[0].split("+")[0]
            if package == "torch":
                oldest = ".".join(map(str, MIN_TORCH))
                exact = f"torch>={oldest}  # {exact.removeprefix('torch==')} made the figures"
            lines.add(exact)
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
