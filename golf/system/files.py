"""Files that appear whole or not at all, and JSON files."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

STANDARD_OUTPUT = Path("-")
"""Means standard output where an option takes a file to write."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields `<path>.part` to write to; at the end of the block renames it, on an error deletes it."""
    partial = path.with_name(path.name + ".part")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_bytes(data)


def require_writable(folder: Path, option: str) -> None:
    """Raises ValueError, naming the command-line `option`, unless `folder` can be created and written to."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{option} {folder} cannot be written to: {error.strerror or error}") from error
    finally:
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def require_output(path: Path, option: str) -> None:
    """Raises ValueError, naming the command-line `option`, unless a file can be written at `path`."""
    if path == STANDARD_OUTPUT:
        return
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder; expected a file to write")
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: {path.parent} is no folder")
    require_writable(path.parent, option)


def write_json(path: Path, value: object) -> None:
    """Writes indented UTF-8 JSON to `path` or STANDARD_OUTPUT; ValueError for NaN and infinity."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if path == STANDARD_OUTPUT:
        sys.stdout.write(text)
        return
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def name_standard_output(arguments: list[str]) -> list[str]:
    """The command line with "-" after each `--json` that has no value."""
    named = []
    for argument, following in pairwise([*arguments, "--"]):
        named.append(argument)
        if argument == "--json" and following.startswith("--"):
            named.append(str(STANDARD_OUTPUT))
    return named
