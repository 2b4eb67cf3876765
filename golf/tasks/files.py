"""Evaluation files, read with every line checked: an error names the file and the line."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

LongTexts = Literal["error", "truncate", "skip"]
"""What becomes of a text longer than the context: an error; its beginning is dropped; it is left out."""


class TaskDataError(ValueError):
    """An evaluation file is missing, or a line of it is not what the task needs."""


class Line(NamedTuple):
    """One item of a file."""

    place: str
    """File and line, for error messages."""
    number: int
    """From 1."""
    fields: dict[str, Any]


def find_file(folder: Path, pattern: str) -> Path:
    """The one file of that name pattern; TaskDataError for none or several."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        there = "none" if not found else ", ".join(path.name for path in found)
        raise TaskDataError(f"{folder}: expected one file {pattern}; found {there}")
    return found[0]


def read_text(path: Path) -> str:
    """A UTF-8 file; TaskDataError if it is missing, empty or not UTF-8."""
    if not path.is_file():
        raise TaskDataError(f"{path}: no such file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TaskDataError(f"{path}: not UTF-8 at byte {error.start}") from error
    if not text.strip():
        raise TaskDataError(f"{path}: is empty")
    return text


def read_json_lines(path: Path, keys: dict[str, type | tuple[type, ...]]) -> list[Line]:
    """One object a line, blank lines aside, each with `keys` of these types; TaskDataError names the line."""
    lines = []
    for number, text in enumerate(read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        place = f"{path}, line {number}"
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise TaskDataError(f"{place}: not JSON ({error})") from error
        check_fields(fields, keys, place)
        lines.append(Line(place, number, fields))
    return lines


def check_fields(fields: Any, keys: dict[str, type | tuple[type, ...]], place: str) -> None:
    """TaskDataError unless `fields` is an object with `keys` of these types."""
    if not isinstance(fields, dict):
        raise TaskDataError(f"{place}: a {type(fields).__name__}; expected an object")
    for key, kind in keys.items():
        if key not in fields:
            raise TaskDataError(f"{place}: has no key {key!r}; found {', '.join(fields) or 'none'}")
        if not isinstance(fields[key], kind):
            raise TaskDataError(f"{place}: {key!r} is {fields[key]!r:.80}; expected {_type_names(kind)}")


def read_labelled_lines(path: Path, labels: tuple[str, ...]) -> list[Line]:
    """`text TAB label` lines as the fields text and label; TaskDataError names a line that is none."""
    lines = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        text, tab, label = line.rpartition("\t")
        if not tab or not text.strip():
            raise TaskDataError(f"{place}: {line!r:.80}; expected a text, a tab and a label")
        if label.strip() not in labels:
            raise TaskDataError(f"{place}: the label is {label!r}; expected {' or '.join(labels)}")
        lines.append(Line(place, number, {"text": text.strip(), "label": label.strip()}))
    return lines


def _type_names(kind: type | tuple[type, ...]) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(item.__name__ for item in kinds)
