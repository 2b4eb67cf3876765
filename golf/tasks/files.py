"""Readers of evaluation files that check every line: an error names the file and the line."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from golf.data.shards import DataError
from golf.prepare.rows import require_file

MAX_FILE_BYTES = 1 << 30
LongTexts = Literal["error", "truncate", "skip"]
"""What to do with a text longer than the context: raise an error, drop a part of it, or skip it."""


class TaskDataError(ValueError):
    """An evaluation file is missing, or a line of it is invalid."""


class Line(NamedTuple):
    """One item of a file."""

    place: str
    """File and line, for error messages."""
    number: int
    """From 1."""
    fields: dict[str, Any]


def read_text(path: Path) -> str:
    """A UTF-8 file; TaskDataError if it is missing, no file, empty, too large or not UTF-8."""
    try:
        require_file(path)
    except DataError as error:
        raise TaskDataError(str(error)) from error
    if path.stat().st_size > MAX_FILE_BYTES:
        raise TaskDataError(f"{path}: {path.stat().st_size:,} bytes; expected at most {MAX_FILE_BYTES:,}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskDataError(f"{path}: not UTF-8 at byte {error.start}") from error
    if not text.strip():
        raise TaskDataError(f"{path}: is empty")
    return text


def numbered_lines(text: str, path: Path) -> Iterator[tuple[str, int, str]]:
    """Place, number and text of every line that is not blank."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", number, line


def parse_json(text: str, place: str) -> Any:
    """The value of a JSON text; TaskDataError names the place."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise TaskDataError(f"{place}: not readable JSON (nested too deeply)") from error
    except ValueError as error:
        raise TaskDataError(f"{place}: not JSON ({error})") from error


def read_json_lines(path: Path, keys: Mapping[str, type | tuple[type, ...]]) -> list[Line]:
    """One JSON object per line, each with `keys` of these types, blank lines skipped.

    TaskDataError names a bad line.
    """
    lines = []
    for place, number, text in numbered_lines(read_text(path), path):
        fields = parse_json(text, place)
        check_fields(fields, keys, place)
        lines.append(Line(place, number, fields))
    return lines


def check_fields(fields: Any, keys: Mapping[str, type | tuple[type, ...]], place: str) -> None:
    """TaskDataError unless `fields` is an object with `keys` of these types."""
    if not isinstance(fields, dict):
        raise TaskDataError(f"{place}: a {type(fields).__name__}; expected an object")
    for key, kind in keys.items():
        if key not in fields:
            raise TaskDataError(f"{place}: has no key {key!r}; found {', '.join(fields) or 'none'}")
        if not isinstance(fields[key], kind):
            raise TaskDataError(f"{place}: {key!r} is {fields[key]!r:.80}; expected {_type_names(kind)}")


def _type_names(kind: type | tuple[type, ...]) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(item.__name__ for item in kinds)
