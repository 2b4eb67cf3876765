"""Reads a script as data: unpacks a self-extracting one, parses it, lists its imports. Never runs it."""

import ast
import base64
import bz2
import importlib.util
import lzma
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from golf.check.syntax import SyntaxVerdict, parse_for_versions

MAX_SOURCE_BYTES = 2**20
"""Unpacking stops here: a few kilobytes can otherwise become gigabytes."""
MIN_PAYLOAD_CHARACTERS = 400
"""Shorter string constants are not taken for packed source."""
MAX_LAYERS = 4

_RUNS_SOURCE = re.compile(rb"\bexec\b|\beval\s*\(\s*compile\b")
_IMPORTABLE_CODE = re.compile(rb"^\s*(import|from)\s+\w|\bdef \w+\(", re.M)


@dataclass(frozen=True)
class Import:
    """An import of a top-level module."""

    module: str
    line: int
    guarded: bool
    """Inside a try that catches its failure, a function or a branch: loading the file does not need it."""


@dataclass(frozen=True)
class Script:
    """A Python file of the folder and what unpacking it shows."""

    file: str
    num_bytes: int
    """As shipped."""
    source: str
    """Unpacked, if it was packed."""
    codecs: tuple[str, ...]
    """How it was packed, outermost first, such as ("base85", "lzma"); empty if it was not."""
    unpacked_bytes: int
    undecoded: str
    """Why a payload that was found stayed packed."""
    verdict: SyntaxVerdict
    """Of the unpacked source."""
    shipped_verdict: SyntaxVerdict
    """Of the file as shipped; the same where nothing was packed."""
    imports: tuple[Import, ...]


def read_script(file: str, data: bytes) -> Script:
    """Reads a Python file's bytes."""
    shipped = verdict = parse_for_versions(data)
    source = data
    codecs: tuple[str, ...] = ()
    undecoded = ""
    for _ in range(MAX_LAYERS):
        inner = unpack(source, verdict.tree)
        if inner is None:
            break
        if isinstance(inner, str):
            undecoded = inner
            break
        codecs += inner[0]
        source = inner[1]
        verdict = parse_for_versions(source)
    return Script(
        file=file,
        num_bytes=len(data),
        source=source.decode("utf-8", errors="replace"),
        codecs=codecs,
        unpacked_bytes=len(source),
        undecoded=undecoded,
        verdict=replace(verdict, tree=None),
        shipped_verdict=replace(shipped, tree=None),
        imports=tuple(list_imports(verdict.tree)) if verdict.tree else (),
    )


def unpack(data: bytes, tree: ast.Module | None) -> tuple[tuple[str, ...], bytes] | str | None:
    """What a self-extracting script holds: (codecs, Python source), or why it stayed packed, or None.

    `tree` is `data` parsed. Only string constants are looked at: each is decoded as base85, base64, Ascii85
    or taken as bytes, and decompressed. Nothing of the script is evaluated.
    """
    if tree is None or not _RUNS_SOURCE.search(data):
        return None
    names_brotli = b"brotli" in data
    with_brotli = names_brotli and importlib.util.find_spec("brotli") is not None
    for constant in _large_constants(tree):
        for encoding, decoded in _decodings(constant):
            for codec, inner in _decompressions(decoded, with_brotli):
                if inner and _IMPORTABLE_CODE.search(inner[:20_000]):
                    return ((encoding, codec) if encoding else (codec,)), inner
    if names_brotli and not with_brotli and any(True for _ in _large_constants(tree)):
        return "it may be packed with brotli, which is not installed here"
    return None


def _large_constants(tree: ast.AST) -> Iterator[bytes]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str | bytes):
            continue
        if len(node.value) < MIN_PAYLOAD_CHARACTERS:
            continue
        value = node.value
        if isinstance(value, bytes):
            yield value
        elif all(ord(character) < 256 for character in value[:MIN_PAYLOAD_CHARACTERS]):
            yield value.encode("latin-1", errors="ignore")


def _decodings(constant: bytes) -> Iterator[tuple[str, bytes]]:
    yield "", constant
    text = b"".join(constant.split())
    for name, decoder in (
        ("base85", base64.b85decode),
        ("base64", _strict_base64),
        ("ascii85", base64.a85decode),
    ):
        try:
            yield name, decoder(text)
        except (ValueError, OverflowError):
            continue


def _strict_base64(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)


def _decompressions(data: bytes, with_brotli: bool) -> Iterator[tuple[str, bytes]]:
    if data[:6] == b"\xfd7zXZ\x00" or data[:2] == b"\x5d\x00":
        yield "lzma", _bounded(lzma.LZMADecompressor(memlimit=2**28), data)
    elif data[:2] == b"\x1f\x8b":
        yield "gzip", _bounded(zlib.decompressobj(zlib.MAX_WBITS | 16), data)
    elif data[:3] == b"BZh":
        yield "bz2", _bounded(bz2.BZ2Decompressor(), data)
    elif data[:1] in b"\x78\x58\x68" and data:
        yield "zlib", _bounded(zlib.decompressobj(), data)
    yield "zlib", _bounded(zlib.decompressobj(-zlib.MAX_WBITS), data)
    for raw_filter in (lzma.FILTER_LZMA2, lzma.FILTER_LZMA1):
        raw = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": raw_filter}])
        yield "lzma", _bounded(raw, data)
    if with_brotli:
        yield "brotli", _bounded_brotli(data)


class _Decompressor(Protocol):
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _bounded(decompressor: _Decompressor, data: bytes) -> bytes:
    try:
        return decompressor.decompress(data, MAX_SOURCE_BYTES)
    except (lzma.LZMAError, zlib.error, OSError, EOFError, ValueError):
        return b""


def _bounded_brotli(data: bytes) -> bytes:
    import brotli

    decompressor = brotli.Decompressor()
    parts: list[bytes] = []
    num_bytes = 0
    try:
        for start in range(0, len(data), 16):
            parts.append(decompressor.process(data[start : start + 16]))
            num_bytes += len(parts[-1])
            if num_bytes > MAX_SOURCE_BYTES:
                break
    except brotli.error:
        return b""
    return b"".join(parts)


def list_imports(tree: ast.Module) -> Iterator[Import]:
    """Every import of the tree, with whether loading the file depends on it."""

    def visit(nodes: list[ast.stmt], guarded: bool) -> Iterator[Import]:
        for node in nodes:
            if isinstance(node, ast.Import):
                for name in node.names:
                    yield Import(name.name.partition(".")[0], node.lineno, guarded)
            elif isinstance(node, ast.ImportFrom):
                if node.level == 0 and node.module:
                    yield Import(node.module.partition(".")[0], node.lineno, guarded)
            elif isinstance(node, ast.Try):
                yield from visit(node.body, True)
                for handler in node.handlers:
                    yield from visit(handler.body, True)
                yield from visit(node.orelse + node.finalbody, guarded)
            else:
                for field_name in ("body", "orelse"):
                    inner = node.__dict__.get(field_name)
                    if isinstance(inner, list):
                        later = guarded or not isinstance(node, ast.With | ast.ClassDef)
                        yield from visit(inner, later)

    yield from visit(tree.body, False)
