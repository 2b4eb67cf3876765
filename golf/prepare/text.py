"""The source `text`: documents of files or of a named dataset, streamed."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from golf.data.shards import DataError
from golf.prepare.rows import first_line, kind_of, read_pieces, read_rows, require_file, require_package

FINEWEB = ("HuggingFaceFW/fineweb", "sample-10BT")
"""Name and configuration of the challenge's text on the hub; its licence is ODC-By 1.0."""
END_OF_TEXT = "<|endoftext|>"
"""Separates the documents of a .txt file that contains it."""
TEXT_CHUNK_CHARACTERS = 100_000
"""A .txt file without END_OF_TEXT is cut at the first empty line after this number of characters, or at the
first end of a line after twice as many; a small file after one of SMALL_FILE_CHUNKS parts of its text."""
SMALL_FILE_CHUNKS = 200
MIN_CHUNK_CHARACTERS = 200
MAX_DOCUMENT_CHARACTERS = 4_000_000
"""Longer texts become several documents: a tokenizer takes 40 bytes of memory for each character."""


class BadRows:
    """What becomes of rows without text: the first one is an error, or all are left out and counted."""

    def __init__(self, skip: bool = False):
        self.skip, self.count, self.first = skip, 0, ""

    def add(self, place: str, reason: str) -> None:
        """Counts a bad row; DataError unless they are skipped."""
        if not self.skip:
            raise DataError(f"{place}: {reason}. --skip-bad-rows leaves such rows out and counts them")
        self.count += 1
        self.first = self.first or f"{place}: {reason}"


class TextStream:
    """An iterator of documents that knows its position in the source, of `total` in `unit`."""

    def __init__(
        self, texts: Iterator[tuple[str, float]], total: float, unit: str, bad_rows: BadRows | None = None
    ):
        """Each of `texts` comes with the position after it; longer ones than a document may be are cut."""
        self._texts, self._bad_rows = texts, bad_rows or BadRows()
        self.total = total
        self.unit = unit
        self.position = 0.0
        self._num_cut = 0

    def __iter__(self) -> Iterator[str]:
        for text, position in self._texts:
            self.position = position
            self._num_cut += len(text) > MAX_DOCUMENT_CHARACTERS
            yield from cut_text(text, MAX_DOCUMENT_CHARACTERS)

    def notes(self) -> tuple[str, ...]:
        """A line on rows left out so far, and one on texts that became several documents."""
        bad, found = self._bad_rows, []
        if bad.count:
            found.append(f"{bad.count} bad rows were left out, the first: {bad.first}")
        if self._num_cut:
            found.append(
                f"{self._num_cut} texts of more than {MAX_DOCUMENT_CHARACTERS} characters were cut into parts"
            )
        return tuple(found)


def cut_text(text: str, size: int) -> Iterator[str]:
    """Parts of at most `size` characters, cut after a space where there is one."""
    start = 0
    while len(text) - start > size:
        end = text.rfind(" ", start, start + size) + 1 or start + size
        yield text[start:end]
        start = end
    yield text[start:]


def stream_files(
    files: Sequence[Path], field: str, max_documents: int | None = None, bad_rows: BadRows | None = None
) -> TextStream:
    """The documents of files, one file after the other; `golf.prepare.rows` names the kinds of files.

    `field` is the field of JSON values and parquet rows. Raises DataError at once for a missing or empty file
    and a file of another kind; for broken content, with file and line, when the iteration reaches it.
    """
    readers = [_read_txt if kind_of(file) == ".txt" else _read_field for file in files]
    for file in files:
        require_file(file)
    sizes = [file.stat().st_size for file in files]
    bad = bad_rows or BadRows()

    def texts() -> Iterator[tuple[str, float]]:
        for index, (file, reader) in enumerate(zip(files, readers, strict=True)):
            is_empty = True
            for text, position in reader(file, field, bad):
                is_empty = is_empty and not text.strip()
                yield text, (sum(sizes[:index]) + position) / 1e6
            if is_empty:
                raise DataError(f"{file}: has no text{f' (first bad row: {bad.first})' if bad.first else ''}")

    return TextStream(islice(texts(), max_documents), sum(sizes) / 1e6, "MB read", bad)


def stream_dataset(
    name: str,
    configuration: str | None,
    field: str,
    max_documents: int | None = None,
    bad_rows: BadRows | None = None,
) -> TextStream:
    """The documents of a dataset's training split, streamed by the `datasets` library.

    `name` is a dataset on the hub or a local folder. Raises DataError if the library is missing, the dataset
    cannot be reached, or it has no column `field`.
    """
    require_package("datasets", "a dataset by name")
    from datasets import load_dataset

    # The library's readers raise errors of their own packages, too.
    try:
        rows = load_dataset(name, configuration, split="train", streaming=True)
        columns = rows.column_names
        info = rows.info.splits
    except Exception as error:
        raise DataError(f"dataset {name}: cannot be streamed ({first_line(error)})") from error
    if columns is not None and field not in columns:
        raise DataError(f"dataset {name}: has no column {field!r}; it has {', '.join(columns)}")
    known = info["train"].num_examples if info and "train" in info else 0
    total = min(max_documents or known, known or max_documents or 0)
    bad = bad_rows or BadRows()

    def texts() -> Iterator[tuple[str, float]]:
        number, remaining = 0, iter(islice(rows, max_documents))
        while True:
            try:
                row = next(remaining)
            except StopIteration:
                return
            except Exception as error:
                raise DataError(f"dataset {name}, row {number + 1}: {first_line(error)}") from error
            number += 1
            reason = _missing_text(row, field)
            if reason:
                bad.add(f"dataset {name}, row {number}", reason)
            else:
                yield row[field], number

    return TextStream(texts(), total, "documents", bad)


def _read_txt(file: Path, field: str, bad: BadRows) -> Iterator[tuple[str, int]]:
    chunk = min(TEXT_CHUNK_CHARACTERS, max(MIN_CHUNK_CHARACTERS, _text_bytes(file) // SMALL_FILE_CHUNKS))
    pieces = read_pieces(file)
    head: list[tuple[int, bytes, int]] = []
    gathered: list[str] = []
    size, position, mark = 0, 0, END_OF_TEXT.encode()
    for found in pieces:
        head.append(found)
        size += len(found[1])
        if mark in found[1] or size > MAX_DOCUMENT_CHARACTERS:
            break
    has_marks, size = bool(head) and mark in head[-1][1], 0
    for number, piece, position in chain(head, pieces):
        try:
            *ended, line = piece.decode("utf-8").split(END_OF_TEXT)
        except UnicodeDecodeError as error:
            bad.add(f"{file}, line {number}", f"not UTF-8 ({error.reason} at byte {error.start})")
            continue
        for part in ended:
            yield "".join([*gathered, part]), position
            gathered, size = [], 0
        for part in cut_text(line, chunk):
            gathered.append(part)
            size += len(part)
            limit = MAX_DOCUMENT_CHARACTERS if has_marks else chunk if not part.strip() else 2 * chunk
            if size >= limit:
                yield "".join(gathered), position
                gathered, size = [], 0
    yield "".join(gathered), position


def _text_bytes(file: Path) -> int:
    """Bytes of a file's text, decompressed; of a compressed one at most those that the cut depends on."""
    if file.suffix.lower() == ".txt":
        return file.stat().st_size
    size = 0
    for _, piece, _ in read_pieces(file):
        size += len(piece)
        if size >= SMALL_FILE_CHUNKS * TEXT_CHUNK_CHARACTERS:
            break
    return size


def _read_field(file: Path, field: str, bad: BadRows) -> Iterator[tuple[str, int]]:
    for row in read_rows(file, [field]):
        reason = row.reason or _missing_text(row.value, field)
        if reason:
            bad.add(row.place, reason)
        else:
            yield row.value[field], row.position


def _missing_text(row: Any, field: str) -> str:
    """Why a row has no text in `field`; empty if it has."""
    if not isinstance(row, dict):
        return f"is a {type(row).__name__}; expected an object with text in {field!r}"
    if field not in row:
        names = ", ".join(map(str, row)) or "nothing"
        return f"has {names:.200}; expected text in {field!r} (--text-field names another field)"
    if not isinstance(row[field], str):
        value = row[field]
        found = "null" if value is None else f"{value!r:.40}"
        return f"{field!r} is {found}; expected text"
    return ""
