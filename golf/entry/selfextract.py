"""A script minified and compressed into one that unpacks and runs itself, and back."""

import ast
import base64
import bz2
import io
import lzma
import zlib
from collections.abc import Callable

from golf.entry.source import BundleError, is_string_statement

_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "lzma": lzma.decompress,
    "zlib": zlib.decompress,
    "bz2": bz2.decompress,
}


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
            kept = [child for child in node.body[spared:] if not is_string_statement(child)]
            node.body = node.body[:spared] + (kept or [ast.Pass()])


def is_string_statement(node: ast.stmt) -> bool:
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
