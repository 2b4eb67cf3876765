"""The source `text`: documents of files or of a named dataset, streamed."""

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from golf.data.shards import DataError

FINEWEB = ("HuggingFaceFW/fineweb", "sample-10BT")
"""Name and configuration of the challenge's text on the hub; its licence is ODC-By 1.0."""
END_OF_TEXT = "<|endoftext|>"
"""Separates the documents of a .txt file that contains it."""
TEXT_CHUNK_CHARACTERS = 100_000
"""A .txt file without END_OF_TEXT is cut at the first empty line after this number of characters."""

_BLOCK_BYTES = 1 << 20
_LARGEST_WINDOW_BYTES = 2**31


class TextStream:
    """An iterator of documents that knows its position in the source, of `total` in `unit`."""

    def __init__(self, texts: Iterator[tuple[str, float]], total: float, unit: str):
        """Each of `texts` comes with the position after it."""
        self._texts = texts
        self.total = total
        self.unit = unit
        self.position = 0.0

    def __iter__(self) -> Iterator[str]:
        for text, position in self._texts:
            self.position = position
            yield text


def stream_files(files: Sequence[Path], field: str, max_documents: int | None = None) -> TextStream:
    """The documents of .txt, .jsonl, .jsonl.zst and .parquet files, one file after the other.

    `field` is the field of JSON lines and parquet rows. Raises DataError at once for a missing file or a file
    of another kind; for broken content, with file and line, when the iteration reaches it.
    """
    readers = [_reader_of(file) for file in files]
    sizes = [file.stat().st_size for file in files]

    def texts() -> Iterator[tuple[str, float]]:
        for index, (file, reader) in enumerate(zip(files, readers, strict=True)):
            for text, position in reader(file, field):
                yield text, (sum(sizes[:index]) + position) / 1e6

    return TextStream(islice(texts(), max_documents), sum(sizes) / 1e6, "MB read")


def stream_dataset(
    name: str, configuration: str | None, field: str, max_documents: int | None = None
) -> TextStream:
    """The documents of a dataset's training split, streamed by the `datasets` library.

    `name` is a dataset on the hub or a local folder. Raises DataError if the library is missing, the dataset
    cannot be reached, or it has no column `field`.
    """
    _require("datasets", "a dataset by name")
    from datasets import load_dataset

    try:
        rows = load_dataset(name, configuration, split="train", streaming=True)
        columns = rows.column_names
        info = rows.info.splits
    except (OSError, ValueError) as error:
        raise DataError(f"dataset {name}: cannot be streamed ({_first_line(error)})") from error
    if columns is not None and field not in columns:
        raise DataError(f"dataset {name}: has no column {field!r}; it has {', '.join(columns)}")
    known = info["train"].num_examples if info and "train" in info else 0
    total = min(max_documents or known, known or max_documents or 0)

    def texts() -> Iterator[tuple[str, float]]:
        for number, row in enumerate(islice(rows, max_documents), 1):
            yield _text_of(row, field, f"dataset {name}, row {number}"), number

    return TextStream(texts(), total, "documents")


def _reader_of(file: Path) -> Callable[[Path, str], Iterator[tuple[str, int]]]:
    reader = next((reader for suffix, reader in _READERS.items() if file.name.endswith(suffix)), None)
    if reader is None:
        raise DataError(f"{file}: is none of {', '.join(_READERS)}")
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    return reader


def _read_txt(file: Path, field: str) -> Iterator[tuple[str, int]]:
    with open(file, "rb") as raw:
        gathered: list[str] = []
        has_marks = False
        for line in _lines(file, raw):
            *ended, line = line.split(END_OF_TEXT)
            for part in ended:
                yield "".join([*gathered, part]), raw.tell()
                gathered, has_marks = [], True
            gathered.append(line)
            if not has_marks and not line.strip() and sum(map(len, gathered)) >= TEXT_CHUNK_CHARACTERS:
                yield "".join(gathered), raw.tell()
                gathered = []
        yield "".join(gathered), raw.tell()


def _read_jsonl(file: Path, field: str) -> Iterator[tuple[str, int]]:
    with open(file, "rb") as raw:
        for number, line in enumerate(_lines(file, raw), 1):
            if line.strip():
                place = f"{file}, line {number}"
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{place}: not JSON ({error})") from error
                yield _text_of(row, field, place), raw.tell()


def _read_parquet(file: Path, field: str) -> Iterator[tuple[str, int]]:
    _require("pyarrow", "a .parquet file")
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    size = file.stat().st_size
    try:
        table = ParquetFile(file)
        if field not in table.schema_arrow.names:
            raise DataError(f"{file}: has no column {field!r}; it has {', '.join(table.schema_arrow.names)}")
        number = 0
        for batch in table.iter_batches(batch_size=1000, columns=[field]):
            for row in batch.to_pylist():
                number += 1
                yield _text_of(row, field, f"{file}, row {number}"), size * number // table.metadata.num_rows
    except ArrowException as error:
        raise DataError(f"{file}: not a readable parquet file ({_first_line(error)})") from error


_READERS = {".txt": _read_txt, ".jsonl": _read_jsonl, ".jsonl.zst": _read_jsonl, ".parquet": _read_parquet}


def _lines(file: Path, raw: BinaryIO) -> Iterator[str]:
    """Lines, with line ends, of a file of UTF-8, zipped or not; DataError at a line that is not UTF-8."""
    for number, line in enumerate(_unzipped_lines(file, raw) if file.suffix == ".zst" else raw, 1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            found = f"not UTF-8 ({error.reason} at byte {error.start})"
            raise DataError(f"{file}, line {number}: {found}") from error


def _unzipped_lines(file: Path, raw: BinaryIO) -> Iterator[bytes]:
    rest = b""
    for block in _unzipped(file, raw):
        *lines, rest = (rest + block).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def _unzipped(file: Path, raw: BinaryIO) -> Iterator[bytes]:
    """Blocks of a .zst file of any number of frames; DataError if it is damaged or truncated."""
    unzip = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW_BYTES)
    frame = unzip.decompressobj()
    complete = True
    try:
        while block := raw.read(_BLOCK_BYTES):
            while block:
                yield frame.decompress(block)
                block, complete = frame.unused_data, frame.eof
                if complete:
                    frame = unzip.decompressobj()
    except zstandard.ZstdError as error:
        raise DataError(f"{file}: damaged zstd data ({error})") from error
    if not complete:
        raise DataError(f"{file}: ends in the middle of its zstd data")


def _text_of(row: Any, field: str, place: str) -> str:
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        found = f"has {', '.join(map(str, row))}" if isinstance(row, dict) else f"is a {type(row).__name__}"
        raise DataError(f"{place}: {found}; expected text in {field!r}")
    return row[field]


def _require(package: str, purpose: str) -> None:
    if importlib.util.find_spec(package) is None:
        command = "pip install datasets"
        raise DataError(f"{purpose} needs the package {package!r}, which is not installed: `{command}`")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
