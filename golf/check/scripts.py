"""Reads a script as data: unpacks a self-extracting one, parses it, lists its imports. Never runs it."""

import ast
import base64
import bz2
import importlib
import importlib.util
import lzma
import re
import sys
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from golf.check.findings import Quote

MAX_SOURCE_BYTES = 2**20
"""Unpacking stops here: a few kilobytes can otherwise become gigabytes."""
MIN_PAYLOAD_CHARACTERS = 400
"""Shorter string constants are not taken for packed source."""
MIN_HIDDEN_LINE = 4000
"""A line of a script that runs source is a payload from here on, in whatever alphabet."""
MAX_LAYERS = 4
MAX_CONSTANTS = 3
"""The largest of these are tried."""

VERSIONS = ((3, 10), (3, 11), (3, 12), (3, 13))
"""Pythons on which a script may have to run."""
RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"
"""The Python whose parser tests scripts."""

_RUNS_SOURCE = re.compile(rb"\bexec\b|\beval\s*\(\s*compile\b")
_IMPORTABLE_CODE = re.compile(rb"^\s*(import|from)\s+\w|\bdef \w+\(", re.M)
_TRAINS = re.compile(
    r"\bbackward\s*\(|value_and_grad|\bmx\.grad|jax\.grad|\bautograd\b|\boptimi[sz]ers?\b|\boptim\b|\bMuon\b"
    r"|\btrain_loss\b"
    r"|\bdef train\w*\(|\btrain(?:_\w+)?\(|\bTrainer\b|\brunpy\b|golf\.run"
)
"""What a script that trains holds, whatever its library."""
_F_STRING = re.compile(r"(?i)\b(?:f|rf|fr)(?:\"|')")
_NEW_STATEMENT = re.compile(r"\s*(?:type\s+\w+\s*[=\[]|(?:async\s+)?def\s+\w+\[|class\s+\w+\[)")
_DECOMPRESSORS = (
    ("lzma", lambda: lzma.LZMADecompressor(memlimit=2**27)),
    ("gzip", lambda: zlib.decompressobj(zlib.MAX_WBITS | 16)),
    ("bz2", bz2.BZ2Decompressor),
    ("zlib", zlib.decompressobj),
    ("zlib", lambda: zlib.decompressobj(-zlib.MAX_WBITS)),
    ("lzma", lambda: lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}])),
    ("lzma", lambda: lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1}])),
)
"""Constructors of decompressors, those of formats with a header first."""


@dataclass(frozen=True)
class SyntaxVerdict:
    """What the parser of the running Python says of a source.

    It tests its own version, and older ones as far as `feature_version` of `ast.parse` does: `except*`,
    `type` and type parameters, but not f-strings of Python 3.12. Newer versions are not tested.
    """

    rejected_by: tuple[str, ...] = ()
    """Tested versions that cannot parse it, such as ("3.10", "3.11")."""
    message: str = ""
    line: int = 0
    parses: bool = True
    """The newest tested version accepts it."""
    maybe_newer: bool = False
    """It does not, at a place where a Python newer than the running one may."""
    tree: ast.Module | None = None


@dataclass(frozen=True)
class Script:
    """A Python file of the folder, as shipped (`num_bytes`) and unpacked (`source`)."""

    file: str
    num_bytes: int
    source: str
    codecs: tuple[str, ...]
    """How it was packed, outermost first, such as ("base85", "lzma"); empty if it was not."""
    unpacked_bytes: int
    undecoded: str
    """Why a payload that was found stayed packed."""
    verdict: SyntaxVerdict
    """Of `source`."""
    parsed_bytes: int
    """Of all layers of source; the most that the caller allowed, where it ended there."""
    trains: bool
    """It trains, or may: it is packed, or stayed packed."""
    imports: dict[str, int]
    """Top-level modules without which it cannot be loaded, with the line of the import."""

    def quote(self, position: int) -> Quote:
        """The line of `source` at a position."""
        number = self.source.count("\n", 0, position) + 1
        name = f"{self.file} (unpacked)" if self.codecs else self.file
        return Quote(name, number, self.source.split("\n")[number - 1])


def read_script(file: str, data: bytes, max_bytes: int = MAX_SOURCE_BYTES) -> Script:
    """Reads a Python file's bytes; of all its layers `max_bytes` are parsed."""
    source, verdict = data, parse_for_versions(data)
    is_blank = verdict.tree is not None and all(map(_does_nothing, verdict.tree.body))
    codecs: tuple[str, ...] = ()
    undecoded, parsed_bytes = "", len(data)
    for _ in range(MAX_LAYERS):
        inner = unpack(source, verdict.tree)
        if isinstance(inner, tuple) and parsed_bytes + len(inner[1]) > max_bytes:
            inner, parsed_bytes = f"there is more source than {max_bytes:,} bytes", max_bytes
        if inner is None or isinstance(inner, str):
            undecoded = inner or ""
            break
        codecs += inner[0]
        source = inner[1]
        parsed_bytes += len(source)
        verdict = parse_for_versions(source)
    text, imports = source.decode(errors="replace"), list_imports(verdict.tree.body if verdict.tree else [])
    verdict = replace(verdict, tree=None)
    is_named = PurePosixPath(file).name.startswith("train") and not is_blank
    trains = bool(is_named or codecs or undecoded or _TRAINS.search(text) or _large_payload(data))
    return Script(
        file=file,
        num_bytes=len(data),
        source=text,
        codecs=codecs,
        unpacked_bytes=len(source),
        undecoded=undecoded,
        verdict=verdict,
        parsed_bytes=parsed_bytes,
        trains=trains,
        imports=dict(imports),
    )


def _does_nothing(node: ast.stmt) -> bool:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_text or isinstance(node, ast.Pass | ast.Import | ast.ImportFrom)


def _large_payload(data: bytes) -> bool:
    """Whether a script runs source that is not visible in it."""
    return bool(_RUNS_SOURCE.search(data)) and any(len(line) > MIN_HIDDEN_LINE for line in data.split(b"\n"))


def parse_for_versions(data: bytes) -> SyntaxVerdict:
    """Parses a file's bytes, in their declared encoding, with the running Python."""
    rejected: list[str] = []
    message, line = "", 0
    for version in VERSIONS:
        if version > sys.version_info[:2]:
            break
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(data, feature_version=version)
            return SyntaxVerdict(tuple(rejected), message, line, tree=tree)
        except SyntaxError as error:
            message, line = str(error.msg), error.lineno or 0
        except (RecursionError, MemoryError):
            # A parser's limit, not the language's: a thousand elif are deep for one and valid for another.
            text = "it is nested deeper than this parser goes"
            return SyntaxVerdict((), text, 0, parses=False, maybe_newer=True)
        except (ValueError, LookupError) as error:
            message, line = f"{type(error).__name__}: {error}"[:120], 0
        rejected.append(f"{version[0]}.{version[1]}")
    lines = data.decode("utf-8", errors="replace").split("\n")
    is_new = message.startswith("f-string") or any(
        _NEW_STATEMENT.match(text) for text in lines[line - 1 : line]
    )
    # Before 3.12 the quotes in an f-string end it, and the parser then stumbles over what follows.
    is_new = is_new or any(_F_STRING.search(text) for text in lines[max(0, line - 3) : line])
    return SyntaxVerdict(tuple(rejected), message, line, False, is_new and sys.version_info < (3, 12))


def unpack(data: bytes, tree: ast.Module | None) -> tuple[tuple[str, ...], bytes] | str | None:
    """What a self-extracting script holds: (codecs, Python source), or why it stayed packed, or None.

    `tree` is `data` parsed. Only string constants are looked at: each is decoded as base85, base64, Ascii85
    or taken as bytes, and decompressed. Nothing of the script is evaluated.
    """
    if tree is None or not _RUNS_SOURCE.search(data):
        return None
    constants = sorted(_large_constants(tree), key=len, reverse=True)[:MAX_CONSTANTS]
    names_brotli = b"brotli" in data
    with_brotli = names_brotli and importlib.util.find_spec("brotli") is not None
    for constant in constants:
        for encoding, decoded in _decodings(constant):
            for codec, inner in _decompressions(decoded, with_brotli):
                if inner and _IMPORTABLE_CODE.search(inner[:20_000]):
                    return ((encoding, codec) if encoding else (codec,)), inner
    if names_brotli and not with_brotli and constants:
        return "it may be packed with brotli, which is not installed here"
    return None


def _large_constants(tree: ast.AST) -> Iterator[bytes]:
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Constant) else None
        if not isinstance(value, str | bytes) or len(value) < MIN_PAYLOAD_CHARACTERS:
            continue
        if isinstance(value, bytes):
            yield value
        elif all(ord(character) < 256 for character in value[:MIN_PAYLOAD_CHARACTERS]):
            yield value.encode("latin-1", errors="ignore")


def _decodings(constant: bytes) -> Iterator[tuple[str, bytes]]:
    yield "", constant
    text = b"".join(constant.split())
    for name, decode in (
        ("base85", base64.b85decode),
        ("base64", lambda text: base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)),
        ("ascii85", base64.a85decode),
    ):
        try:
            yield name, decode(text)
        except (ValueError, OverflowError):
            continue


def _decompressions(data: bytes, with_brotli: bool) -> Iterator[tuple[str, bytes]]:
    for codec, decompressor in _DECOMPRESSORS:
        try:
            yield codec, decompressor().decompress(data, MAX_SOURCE_BYTES)
        except (lzma.LZMAError, zlib.error, OSError, EOFError, ValueError):
            continue
    if with_brotli:
        yield "brotli", _bounded_brotli(data)


def _bounded_brotli(data: bytes) -> bytes:
    brotli = importlib.import_module("brotli")
    decompressor, source = brotli.Decompressor(), bytearray()
    try:
        for start in range(0, len(data), 16):
            source += decompressor.process(data[start : start + 16])
            if len(source) > MAX_SOURCE_BYTES:
                break
    except brotli.error:
        return b""
    return bytes(source)


def list_imports(nodes: Sequence[ast.stmt]) -> Iterator[tuple[str, int]]:
    """The top-level modules whose import can make loading the file fail, with lines.

    An import in a `try` that catches its failure, in a function or in a branch is not among them.
    """
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0], node.lineno
        elif isinstance(node, ast.Try):
            yield from list_imports(node.orelse + node.finalbody)
        elif isinstance(node, ast.With | ast.ClassDef):
            yield from list_imports(node.body)
