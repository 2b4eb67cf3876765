"""Files of text from elsewhere, plain or compressed, in bounded memory: lines, JSON values, parquet rows."""

import bz2
import codecs
import gzip
import importlib.util
import itertools
import json
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import zstandard

from golf.data.shards import DataError

MAX_ROW_BYTES = 32 << 20
"""A longer line or item of a list is a bad row: no document is as long."""
KINDS = (".txt", ".jsonl", ".ndjson", ".json", ".parquet")
COMPRESSIONS: dict[str, Callable[[BinaryIO], Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
"""Suffixes of compressed files, beside .zst, whose module has no reader that detects a truncated file."""

_BLOCK_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20
_ZSTD_INPUT_BYTES = 1 << 10
"""Compressed bytes at a time: 1 KiB of zstd holds up to 32 MiB."""
_LARGEST_WINDOW_BYTES = 2**31
_AFTER_ITEM = frozenset(" \t\r\n,]")
_FOREIGN_MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


class Row(NamedTuple):
    """One row of a file, or the reason why it cannot be read."""

    place: str
    """File and line or row, for error messages."""
    value: Any
    """The JSON value, or a dict of the columns."""
    position: int
    """Bytes of the file read so far."""
    reason: str = ""
    """What is wrong with the row, whose value is None."""


def kind_of(file: Path) -> str:
    """The suffix of the content, in small letters; DataError for a file of an unknown kind."""
    *_, before, last = "", "", *(suffix.lower() for suffix in file.suffixes)
    is_compressed = last in (*COMPRESSIONS, ".zst")
    kind = before if is_compressed else last
    if kind not in KINDS or (is_compressed and kind == ".parquet"):
        known = f"{', '.join(KINDS)}, all but the last also with .gz, .zst, .xz or .bz2"
        raise DataError(
            f"{file}: {kind or 'a file without a suffix'} is not readable here; it is none of {known}"
        )
    return kind


def require_file(file: Path) -> None:
    """DataError unless `file` is a regular file that is not empty."""
    try:
        status = os.stat(file)
    except (OSError, ValueError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise DataError(f"{file}: {found}") from error
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{file}: is a folder; expected a file")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{file}: is a pipe or a device; expected a file")
    if not status.st_size:
        raise DataError(f"{file}: is empty")


def read_rows(file: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a file of JSON lines, of a JSON list or of parquet, of which only `columns` are read.

    A bad row has a reason; DataError for a file that cannot be read on.
    """
    kind = kind_of(file)
    require_file(file)
    if kind == ".txt":
        raise DataError(f"{file}: is plain text; expected rows: {', '.join(KINDS[1:])}")
    if kind == ".parquet":
        yield from _parquet_rows(file, columns)
        return
    with open(file, "rb") as raw:
        blocks = read_blocks(file, raw)
        head = next(blocks, b"")
        while not head.strip() and (block := next(blocks, b"")):
            head += block
            if len(head) > MAX_ROW_BYTES:
                raise DataError(f"{file}: starts with {len(head) >> 20} MiB of white space")
        read = _json_items if kind == ".json" and not _is_line_of_json(head) else _json_lines
        is_empty = True
        for place, value, reason in read(file, itertools.chain([head], blocks)):
            is_empty = False
            yield Row(place, value, raw.tell(), reason)
        if is_empty:
            raise DataError(f"{file}: is empty")


def read_pieces(file: Path) -> Iterator[tuple[int, bytes, int]]:
    """Line number, line with its end, and position; a long line comes in pieces that end at a space."""
    require_file(file)
    with open(file, "rb") as raw:
        for number, piece in _pieces(read_blocks(file, raw)):
            yield number, piece, raw.tell()


def read_blocks(file: Path, raw: BinaryIO) -> Iterator[bytes]:
    """Decompressed blocks without a UTF-8 byte order mark; DataError for damaged and truncated data."""
    suffix = file.suffix.lower()
    try:
        if suffix == ".zst":
            blocks = _unzipped(raw)
        else:
            opened = COMPRESSIONS.get(suffix, lambda raw: raw)(raw)
            blocks = iter(lambda: opened.read(_BLOCK_BYTES), b"")
        head = next(blocks, b"")
        for mark, name in _FOREIGN_MARKS.items():
            if head.startswith(mark):
                raise DataError(f"{file}: is {name}; convert it: iconv -f {name} -t UTF-8")
        yield head.removeprefix(codecs.BOM_UTF8)
        yield from blocks
    except EOFError as error:
        raise DataError(f"{file}: ends in the middle of its {suffix} data") from error
    except (zstandard.ZstdError, zlib.error, lzma.LZMAError, OSError) as error:
        # Reading fails with a number, what the decompressor finds has none.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{file}: damaged {suffix} data ({error})") from error


def require_package(package: str, purpose: str) -> None:
    """DataError with the command that installs a package, if it is missing."""
    if importlib.util.find_spec(package) is None:
        command = "pip install datasets"
        raise DataError(f"{purpose} needs the package {package!r}, which is not installed: `{command}`")


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its name."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def _unzipped(raw: BinaryIO) -> Iterator[bytes]:
    """Blocks of zstd frames, of which there may be any number; EOFError if the last one is not complete."""
    unzip = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW_BYTES)
    frame, complete = unzip.decompressobj(), True
    while block := raw.read(_ZSTD_INPUT_BYTES):
        while block:
            yield frame.decompress(block)
            block, complete = frame.unused_data, frame.eof
            if complete:
                frame = unzip.decompressobj()
    if not complete:
        raise EOFError


def _pieces(blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    number, rest = 1, b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield number, line + b"\n"
            number += 1
        while len(rest) > _PIECE_BYTES:
            end = rest.rfind(b" ", 0, _PIECE_BYTES) + 1 or _character_end(rest, _PIECE_BYTES)
            yield number, rest[:end]
            rest = rest[end:]
    if rest:
        yield number, rest


def _character_end(data: bytes, end: int) -> int:
    """The last place up to `end`, by three bytes at most, where a UTF-8 character starts."""
    starts = (place for place in range(end, end - 4, -1) if data[place] & 0xC0 != 0x80)
    return next(starts, end)


def _json_lines(file: Path, blocks: Iterable[bytes]) -> Iterator[tuple[str, Any, str]]:
    for number, pieces in itertools.groupby(_pieces(blocks), key=itemgetter(0)):
        place, kept, size = f"{file}, line {number}", [], 0
        for _, piece in pieces:
            kept.append(piece)
            size += len(piece)
            if size > MAX_ROW_BYTES:
                yield place, None, f"is longer than {MAX_ROW_BYTES >> 20} MiB"
                break
        else:
            line = b"".join(kept)
            if line.strip():
                yield place, *_parse(line)


def _parse(line: bytes) -> tuple[Any, str]:
    """The JSON value of a line and "", or None and what is wrong."""
    try:
        return json.loads(line.decode("utf-8")), ""
    except UnicodeDecodeError as error:
        return None, f"not UTF-8 ({error.reason} at byte {error.start})"
    except RecursionError:
        return None, "not readable JSON (nested too deeply)"
    except ValueError as error:
        return None, f"not JSON ({error})"


def _is_line_of_json(head: bytes) -> bool:
    """Whether the first line that is not blank has an object, or is longer than the first block."""
    first = head.lstrip()
    line, end, _ = first.partition(b"\n")
    return not first.startswith(b"[") and (not end or not _parse(line)[1])


def _json_items(file: Path, blocks: Iterable[bytes]) -> Iterator[tuple[str, Any, str]]:
    """The items of a JSON list, or values of any number of lines one after the other.

    DataError for one that cannot be parsed: the next is not to be found.
    """
    texts, decoder = _decoded(file, blocks), json.JSONDecoder()
    buffer = next(texts)
    is_list = buffer.lstrip().startswith("[")
    position = buffer.index("[") + 1 if is_list else 0
    line = 1 + buffer.count("\n", 0, position)
    # A line end, so that the last value has an end, too.
    texts = texts if is_list else itertools.chain(texts, ["\n"])
    while True:
        while position < len(buffer) and buffer[position] in " \t\r\n,":
            line += buffer[position] == "\n"
            position += 1
        place, reason = f"{file}, line {line}", "the list has no end"
        if is_list and buffer[position : position + 1] == "]":
            return
        try:
            value, end = decoder.raw_decode(buffer, position)
            # The end of what is read so far may cut a number.
            if buffer[end : end + 1] in _AFTER_ITEM:
                yield place, value, ""
                line += buffer.count("\n", position, end)
                position = end
                continue
        except RecursionError as error:
            raise DataError(f"{place}: not readable JSON (nested too deeply)") from error
        except ValueError as error:
            reason = f"not JSON ({error})" if position < len(buffer) else reason
        if len(buffer) - position > MAX_ROW_BYTES:
            raise DataError(f"{place}: not JSON, or an item longer than {MAX_ROW_BYTES >> 20} MiB")
        # Doubled, so that the tries to parse a long item together cost no more than two of them.
        buffer = buffer[position:]
        wanted, position = 2 * len(buffer), 0
        is_more = False
        for text in texts:
            buffer, is_more = buffer + text, True
            if len(buffer) >= wanted:
                break
        if not is_more and not is_list and not buffer:
            return
        if not is_more:
            raise DataError(f"{place}: {reason}")


def _decoded(file: Path, blocks: Iterable[bytes]) -> Iterator[str]:
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    for block in itertools.chain(blocks, [b""]):
        try:
            yield decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line += block.count(b"\n", 0, error.start)
            raise DataError(f"{file}, line {line}: not UTF-8 ({error.reason})") from error
        line += block.count(b"\n")


def _parquet_rows(file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    require_package("pyarrow", "a .parquet file")
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    size, number = file.stat().st_size, 0
    try:
        table = ParquetFile(file)
        names = table.schema_arrow.names
        if missing := set(columns or ()) - set(names):
            raise DataError(f"{file}: has no column {min(missing)!r}; it has {', '.join(names)}")
        for batch in table.iter_batches(batch_size=100, columns=columns):
            for value in batch.to_pylist():
                number += 1
                yield Row(f"{file}, row {number}", value, size * number // table.metadata.num_rows)
    except (ArrowException, OSError) as error:
        raise DataError(f"{file}: not a readable parquet file ({first_line(error)})") from error
    if not number:
        raise DataError(f"{file}: is empty")
