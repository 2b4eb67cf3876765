"""Files that appear whole or not at all, and JSON files."""

import errno
import hashlib
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from golf.system.stored import parse_json, read_bounded

STANDARD_OUTPUT = Path("-")
"""Means standard output where an option takes a file to write."""
MAX_SEALED_BYTES = 1 << 24
CHECKSUM = "checksum"
"""Field of a sealed JSON file: the sha256 of the other fields."""


class DiskFullError(OSError):
    """There is no space left on the disk; nothing that was there before is lost."""

    def __init__(self, text: str):
        super().__init__(text)
        self.errno = errno.ENOSPC


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a new file beside `path`; at the end of the block renames it, on an error deletes it.

    Its name is hidden, ends with `.part` and cannot be guessed; no link is followed. The bytes are on the
    disk before the rename. DiskFullError, naming `path`, where they do not fit.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    with naming_full_disk(path):
        try:
            os.close(
                os.open(partial, os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | os.O_WRONLY, 0o666)
            )
            yield partial
            with open(partial, "rb+") as written:
                os.fsync(written.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turns an error of a full disk in the block into DiskFullError, which names `path` and the room left."""
    try:
        yield
    except Exception as error:
        if not is_disk_full(error) or isinstance(error, DiskFullError):
            raise
        left = shutil.disk_usage(path.parent).free
        raise DiskFullError(
            f"{path}: no space left on the disk, {left:,} bytes are free; make room and repeat the command, "
            "or go on with a run by --resume"
        ) from error


class DamagedFileError(ValueError):
    """A file is not what was written."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it followed from, says that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # Libraries in other languages say it in words alone.
        if os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def remove_partial(folder: Path) -> None:
    """Removes the files and folders of killed writers; only a folder's one owner may call this."""
    for left in folder.glob(".*.part"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


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


def sha256_of_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sealed_json(path: Path, fields: dict[str, Any]) -> None:
    """Writes JSON with a checksum of its fields; `read_sealed_json` compares it."""
    write_json(path, {**fields, CHECKSUM: _fields_sha256(fields)})


def read_sealed_json(path: Path) -> dict[str, Any]:
    """The fields of a JSON file without their checksum; DamagedFileError, naming the file, if it is damaged.

    Files of earlier versions have no checksum.
    """
    try:
        return without_seal(parse_json(read_bounded(path, MAX_SEALED_BYTES)))
    except ValueError as error:
        raise DamagedFileError(f"{path} is damaged ({error})") from error


def without_seal(fields: Any) -> dict[str, Any]:
    """The fields without their checksum; ValueError for another one than theirs, and for no JSON object."""
    if not isinstance(fields, dict):
        raise ValueError("is no JSON object")
    stated = fields.pop(CHECKSUM, None)
    if stated is not None and stated != _fields_sha256(fields):
        raise ValueError(f"or was edited: its {CHECKSUM} is another; without one it is read as it is")
    return fields


def _fields_sha256(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, allow_nan=False).encode()).hexdigest()


def name_standard_output(arguments: list[str]) -> list[str]:
    """The command line with "-" after each `--json` that has no value."""
    named = []
    for argument, following in pairwise([*arguments, "--"]):
        named.append(argument)
        if argument == "--json" and following.startswith("--"):
            named.append(str(STANDARD_OUTPUT))
    return named
