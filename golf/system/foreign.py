"""Reads files that somebody else wrote: bounded in bytes, time and memory, whatever they are and hold.

Records folders, artifacts' companions and logs of strangers are read by these functions alone:

    read_part(path, start, length)      bytes of a file
    read_bytes(path, max_bytes)         a whole file
    read_text(path, max_bytes)          text of any encoding; what is no text is replaced
    read_object(path)                   a JSON object, whose types msgspec or config_from_dict check then
    read_arrays(path)                   the arrays of an .npz file: one-dimensional, of numbers

What they return goes to a terminal, a log or a page through golf.system.cli.escape_text.
Every failure is a ForeignError of one line that starts with the path. Links, pipes, devices and folders are
not files here, so that nothing outside a folder is read and no read waits or goes on without end.
"""

import codecs
import io
import os
import stat
import zipfile
import zlib
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from golf.system.stored import ConfigError, parse_json

MAX_JSON_BYTES, MAX_JSON_DEPTH = 1 << 22, 32
MAX_ARRAYS_BYTES = 1 << 26
"""Of an .npz file, and of what its arrays claim to hold."""
MAX_ARRAYS = 256

UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ZIP_END, _ZIP64_LOCATOR = b"PK\x05\x06", b"PK\x06\x07"
_ZIP_END_BYTES, _ZIP64_LOCATOR_BYTES = 22, 20
_ZIP_ENTRY_BYTES = 512
"""Most bytes of an array's entry in the directory at the end of an .npz file."""


class ForeignError(ValueError):
    """A file that is missing, is no regular file, is too large, or does not hold what it should."""


def open_file(path: Path) -> BinaryIO:
    """A regular file, open to read; ForeignError for links, pipes, devices, folders and what is not there."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        # Before opening, which a device may take for an order.
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode):
            return open(os.open(path, flags), "rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ForeignError(f"{path}: cannot be read ({reason})") from error
    raise ForeignError(f"{path}: is {'a link' if stat.S_ISLNK(mode) else 'no regular file'}; not opened")


def read_part(path: Path, start: int, length: int) -> bytes:
    """At most `length` bytes from byte `start` on."""
    with open_file(path) as file:
        try:
            file.seek(start)
            return file.read(length)
        except OSError as error:
            raise ForeignError(f"{path}: cannot be read ({error.strerror})") from error


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """A whole file; ForeignError for one of more than `max_bytes`."""
    with open_file(path) as file:
        num_bytes = os.fstat(file.fileno()).st_size
    if num_bytes > max_bytes:
        raise ForeignError(f"{path}: has {num_bytes:,} bytes; at most {max_bytes:,} are read")
    return read_part(path, 0, max_bytes)


def decode_text(data: bytes) -> str:
    """Text of any bytes: UTF-16 by its mark (what PowerShell's redirection writes), else UTF-8."""
    return data.decode("utf-16" if data.startswith(UTF16_MARKS) else "utf-8", errors="replace")


def read_text(path: Path, max_bytes: int) -> str:
    """A whole file as `decode_text` reads it."""
    return decode_text(read_bytes(path, max_bytes))


def read_object(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object of finite numbers, without a key given twice, at most MAX_JSON_DEPTH levels deep."""
    try:
        value = parse_json(read_bytes(path, max_bytes))
    except ConfigError as error:
        raise ForeignError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise ForeignError(f"{path}: is a JSON {type(value).__name__}; expected an object")
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        holders = [each for each in level if isinstance(each, dict | list)]
        level = [inner for each in holders for inner in (each.values() if isinstance(each, dict) else each)]
    if level:
        raise ForeignError(f"{path}: is more than {MAX_JSON_DEPTH} levels deep")
    return value


def read_arrays(path: Path, max_bytes: int = MAX_ARRAYS_BYTES) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; all are one-dimensional, of bools, integers or floats."""
    data = read_bytes(path, max_bytes)
    try:
        return _unzip_arrays(data, max_bytes)
    except (
        *(ValueError, LookupError, OSError, EOFError, RuntimeError, ArithmeticError, SyntaxError),
        *(MemoryError, zipfile.BadZipFile, zlib.error),
    ) as error:
        raise ForeignError(f"{path}: holds no arrays that can be read ({error!s:.200})") from error


def _unzip_arrays(data: bytes, max_bytes: int) -> dict[str, np.ndarray]:
    # numpy writes no comment and no zip64 directory; either could hide a directory of millions of entries.
    end = data[-_ZIP_END_BYTES:]
    before = data[-_ZIP_END_BYTES - _ZIP64_LOCATOR_BYTES : -_ZIP_END_BYTES]
    if not end.startswith(_ZIP_END) or before.startswith(_ZIP64_LOCATOR):
        raise ValueError("is no .npz file")
    if int.from_bytes(end[12:16], "little") > MAX_ARRAYS * _ZIP_ENTRY_BYTES:
        raise ValueError(f"claims more than {MAX_ARRAYS} arrays")
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > max_bytes:
            raise ValueError(f"claims more than {max_bytes:,} bytes")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in arrays or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name!r:.60} is there twice, or compressed in another way than numpy's")
            arrays[name] = _read_array(name, archive.read(member))
    return arrays


def _read_array(name: str, data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"{name!r:.60} is of version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    rest = len(data) - file.tell()
    if len(shape) != 1 or dtype.kind not in "buif" or prod(shape) * dtype.itemsize != rest:
        raise ValueError(f"{name!r:.60} is {dtype} of shape {shape} in {rest:,} bytes")
    return np.frombuffer(data, dtype, offset=file.tell())
