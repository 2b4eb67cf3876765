"""The source `docs`: documentation of the installed Python standard library and of the dependencies.

It is read from source files with `ast`; nothing is imported or downloaded.
"""

import ast
import importlib.metadata
import importlib.util
import inspect
import multiprocessing
import os
import platform
import re
import signal
import sysconfig
import warnings
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCS_PACKAGES = (
    "torch numpy scipy matplotlib sympy networkx mpmath huggingface_hub fsspec rich pygments jinja2 filelock "
    "packaging tyro zstandard sentencepiece safetensors"
).split()
"""Dependencies, direct and indirect: the text is a function of requirements.txt."""
SKIPPED_FOLDERS = {"__pycache__", "site-packages", "test", "tests", "testing", "idlelib", "lib2to3"}
MIN_DOCUMENT_CHARACTERS = 200
"""Shorter docstrings mostly repeat the signature."""
MIN_PROSE_SHARE = 0.75
"""Minimum fraction of letters and white space in a document: excludes tables, codes and listings."""
MIN_STRING_SHARE = 0.3
"""Minimum fraction of long strings in a file that is parsed: half of all code has 4 in 5 of them."""

_LONG_STRING = re.compile(
    rb'"""(?:[^"\\]|\\.|"(?!""))*"""|\'\'\'(?:[^\'\\]|\\.|\'(?!\'\'))*\'\'\'', re.DOTALL
)
_NOT_PROSE = re.compile(r"[^\s\w]+|[\d_]+")


@dataclass(frozen=True)
class DocsText:
    """The documents, their origin with the versions of packages, and what this Python could not parse."""

    documents: list[str]
    source: str
    licence: str
    revision: str
    num_files: int
    num_unreadable: int


def read_docs(num_processes: int = 2) -> DocsText:
    """All documents, in the order of packages, files and lines, repeats included."""
    roots = {"python": Path(sysconfig.get_path("stdlib"))}
    for package in DOCS_PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            roots[package] = Path(next(iter(spec.submodule_search_locations)))
    files = [file for root in roots.values() for file in list_python_files(root)]
    # Spawned, not forked: a fork of a process that has loaded torch may hang.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, spawn, _prepare_worker) as pool:
        try:
            by_file = list(pool.map(_read_file, files, chunksize=16))
        except BrokenExecutor as error:
            raise OSError(f"a process that reads documentation was killed ({error})") from error
    packages = [package for package in roots if package != "python"]
    versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    licences = [f"{package}: {package_licence(package)}" for package in packages]
    return DocsText(
        documents=[document for documents in by_file for document in documents or []],
        source="docstrings and help topics of the installed Python standard library and Python packages",
        licence="; ".join(["python: PSF-2.0", *licences]),
        revision=", ".join([f"python {platform.python_version()}", *versions]),
        num_files=len(files),
        num_unreadable=sum(documents is None for documents in by_file),
    )


def list_python_files(root: Path) -> list[Path]:
    """The .py files below `root` in sorted order, without tests."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - SKIPPED_FOLDERS)
        found += [Path(folder, file) for file in sorted(files) if file.endswith(".py")]
    return found


def extract_documents(code: bytes) -> list[str]:
    """The documents of one file's source: docstrings, docstrings added by call, the table of help topics.

    Raises SyntaxError, ValueError or RecursionError if the source does not parse.
    """
    tidy = (_tidy(text) for text in _long_strings(ast.parse(code)))
    return [text for text in tidy if len(text) >= MIN_DOCUMENT_CHARACTERS and _is_prose(text)]


def package_licence(package: str) -> str:
    """The licence of an installed package, from its metadata."""
    metadata: Any = importlib.metadata.metadata(package)
    expression = metadata.get("License-Expression")
    classifiers = [
        line.split(" :: ")[-1] for line in metadata.get_all("Classifier", []) if line.startswith("License ::")
    ]
    return expression or ", ".join(classifiers) or (metadata.get("License") or "not stated").splitlines()[0]


def _long_strings(tree: ast.Module) -> Iterator[str]:
    """Docstrings depth first; the long strings of calls and dictionaries at module level."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    pending: list[Any] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, *functions)) and (text := ast.get_docstring(node)):
            yield text
        nested = []
        for child in node.body:
            if isinstance(child, (ast.ClassDef, *functions, ast.If, ast.Try, ast.With)):
                nested.append(child)
            elif isinstance(node, ast.Module) and _adds_documentation(child):
                parts = (part.value for part in ast.walk(child) if isinstance(part, ast.Constant))
                yield from (part for part in parts if isinstance(part, str))
        pending += reversed(nested)


def _adds_documentation(statement: ast.stmt) -> bool:
    """`add_docstr(f, text)` of torch, `add_newdoc(...)` of numpy, and the dictionary of pydoc's topics."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        function = statement.value.func
        return isinstance(function, ast.Name) and function.id.startswith(("add_docstr", "add_newdoc"))
    if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
        return isinstance(statement.targets[0], ast.Name) and statement.targets[0].id == "topics"
    return False


def _tidy(text: str) -> str:
    """Indentation common to all lines, white space at their ends and runs of blank lines removed."""
    lines = [line.rstrip() for line in inspect.cleandoc(text).split("\n")]
    kept = [line for line, before in zip(lines, ["", *lines], strict=False) if line or before]
    return "\n".join(kept).strip()


def _is_prose(text: str) -> bool:
    others = sum(len(run) for run in _NOT_PROSE.findall(text))
    return others <= (1 - MIN_PROSE_SHARE) * len(text)


def _read_file(path: Path) -> list[str] | None:
    """The documents of a file, None if it does not parse."""
    code = path.read_bytes()
    is_help_table = path.parts[-2:] == ("pydoc_data", "topics.py")
    lengths = (len(found) for found in _LONG_STRING.findall(code))
    strings_bytes = sum(length for length in lengths if length >= MIN_DOCUMENT_CHARACTERS)
    if strings_bytes < MIN_STRING_SHARE * max(1, len(code)) and not is_help_table:
        return []
    try:
        return extract_documents(code)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _prepare_worker() -> None:
    """Ctrl-C ends the worker without a traceback; warnings about the files' code are not shown."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    warnings.simplefilter("ignore")
