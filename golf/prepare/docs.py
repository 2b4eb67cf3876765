"""The `docs` text: documentation of the installed Python standard library and of the installed dependencies.

It is read from source files with `ast`; nothing is imported, nothing is fetched.
"""

import ast
import importlib.metadata
import importlib.util
import inspect
import json
import os
import platform
import re
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

DOCS_PACKAGES = (
    "torch numpy scipy matplotlib sympy networkx mpmath huggingface_hub fsspec rich pygments jinja2 filelock "
    "packaging tyro zstandard sentencepiece safetensors"
).split()
"""What the project needs and what that needs in turn, so that one requirements.txt means one text."""

SKIPPED_FOLDERS = {"__pycache__", "site-packages", "test", "tests", "testing", "idlelib", "lib2to3"}

MIN_DOCUMENT_CHARACTERS = 200
"""Shorter docstrings are seldom more than a signature in words."""

MIN_PROSE_SHARE = 0.75
"""Least share of letters and white space in a document: keeps tables, codes and listings out."""

MIN_STRING_SHARE = 0.3
"""Least share of a file that long strings take: half of all code (parsed at 5 MB/s) has 4 in 5 of them."""

_LONG_STRING = re.compile(
    rb'"""(?:[^"\\]|\\.|"(?!""))*"""|\'\'\'(?:[^\'\\]|\\.|\'(?!\'\'))*\'\'\'', re.DOTALL
)
_NOT_PROSE = re.compile(r"[^\s\w]+|[\d_]+")


@dataclass(frozen=True)
class DocsText:
    """The documents and where they are from."""

    documents: list[str]
    source: str
    licence: str
    revision: str
    """Packages with their versions."""
    num_files: int
    num_unreadable: int
    """Files that are no Python for this interpreter."""


def read_docs(num_processes: int = 2) -> DocsText:
    """Reads all documents, in the order of packages, files and lines; repeats are left in."""
    roots = {"python": Path(sysconfig.get_path("stdlib"))}
    for package in DOCS_PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            roots[package] = Path(next(iter(spec.submodule_search_locations)))
    files = [file for root in roots.values() for file in list_python_files(root)]
    by_file = _read_in_processes(files, num_processes)
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
    """The .py files below `root` in sorted order, tests left out."""
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
    """The licence of an installed package by its own metadata."""
    metadata = importlib.metadata.metadata(package)
    expression = metadata.get("License-Expression")
    classifiers = [
        line.split(" :: ")[-1] for line in metadata.get_all("Classifier", []) if line.startswith("License ::")
    ]
    return expression or ", ".join(classifiers) or (metadata.get("License") or "not stated").splitlines()[0]


def _long_strings(tree: ast.Module) -> Iterator[str]:
    """Docstrings depth first; the long strings of calls and dictionaries at module level."""
    pending: list[ast.stmt | ast.Module] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring
        nested = []
        for child in node.body:
            if isinstance(
                child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.If, ast.Try, ast.With)
            ):
                nested.append(child)
            elif isinstance(node, ast.Module) and _adds_documentation(child):
                for part in ast.walk(child):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield part.value
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


def _read_file(path: str) -> list[str] | None:
    code = Path(path).read_bytes()
    is_help_table = Path(path).parts[-2:] == ("pydoc_data", "topics.py")
    lengths = (len(found) for found in _LONG_STRING.findall(code))
    strings_bytes = sum(length for length in lengths if length >= MIN_DOCUMENT_CHARACTERS)
    if strings_bytes < MIN_STRING_SHARE * max(1, len(code)) and not is_help_table:
        return []
    try:
        return extract_documents(code)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _read_in_processes(files: list[Path], num_processes: int) -> list[list[str] | None]:
    """The documents of each file, None where it does not parse.

    The processes are fresh interpreters: a fork of one that has loaded torch may hang, a spawned one would
    load it again.
    """
    root = str(Path(__file__).parents[2])
    code = "import sys; sys.path[:0] = sys.argv[1:]; from golf.prepare.docs import serve_files; serve_files()"
    command = [sys.executable, "-I", "-S", "-W", "ignore", "-c", code, root]
    by_size = sorted(range(len(files)), key=lambda index: -files[index].stat().st_size)
    shares = [by_size[first::num_processes] for first in range(num_processes)]

    def read_share(share: list[int]) -> list[list[str] | None]:
        names = json.dumps([str(files[index]) for index in share])
        done = subprocess.run(command, input=names, stdout=subprocess.PIPE, check=False, encoding="utf-8")
        if done.returncode == -signal.SIGINT:
            raise KeyboardInterrupt
        done.check_returncode()
        return json.loads(done.stdout)

    found: list[list[str] | None] = [None] * len(files)
    with ThreadPoolExecutor(num_processes) as pool:
        for share, documents in zip(shares, pool.map(read_share, shares), strict=True):
            for index, document in zip(share, documents, strict=True):
                found[index] = document
    return found


def serve_files() -> None:
    """A reading process: a JSON list of files on stdin, the list of their documents on stdout.

    Ctrl-C, which reaches it too, ends it without a word.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    json.dump([_read_file(path) for path in json.load(sys.stdin)], sys.stdout)
