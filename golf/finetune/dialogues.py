"""Readers of conversations and preferences in the usual published forms; an error names the line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from golf.tasks.files import TaskDataError, numbered_lines, parse_json, read_text

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""Role names in files, and the names used here."""
KNOWN_FORMS = (
    "messages (role, content), conversations (from, value), instruction and output, or prompt and response"
)


class DialogueError(TaskDataError):
    """A line of a file is not a conversation, or not a preference."""


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    """system, user or assistant."""
    text: str


class Conversation(NamedTuple):
    """Turns; the last one is the assistant's."""

    place: str
    """File and line, for error messages."""
    turns: tuple[Turn, ...]


class Preference(NamedTuple):
    """Two answers to a prompt: the chosen and the rejected one."""

    place: str
    prompt: tuple[Turn, ...]
    chosen: str
    rejected: str


def read_conversations(path: Path) -> list[Conversation]:
    """Every conversation of a .jsonl file or a .json list; DialogueError names a bad line."""
    return [Conversation(place, _read_turns(fields, place)) for place, fields in read_records(path)]


def read_preferences(path: Path) -> list[Preference]:
    """Every pair of a file; DialogueError names a line without a pair, or with two equal answers."""
    pairs = []
    for place, fields in read_records(path):
        for key in ("chosen", "rejected"):
            if key not in fields:
                raise DialogueError(f"{place}: has no key {key!r}; found {', '.join(fields) or 'none'}")
        prompt = _read_prompt(fields, place)
        chosen, rejected = (_read_answer(fields[key], key, place) for key in ("chosen", "rejected"))
        if chosen.split() == rejected.split():
            raise DialogueError(f"{place}: chosen and rejected are the same text: {chosen!r:.60}")
        pairs.append(Preference(place, prompt, chosen, rejected))
    return pairs


def read_records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Place and fields of each object of a .jsonl file or of a .json list."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        found = list(_list_records(text, path))
    else:
        found = [(place, parse_json(line, place)) for place, _, line in numbered_lines(text, path)]
    if not found:
        raise DialogueError(f"{path}: holds no items")
    for place, fields in found:
        if not isinstance(fields, dict):
            raise DialogueError(f"{place}: a {type(fields).__name__}; expected an object")
    return found


def _list_records(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Items of a JSON list, each with the line where it starts."""
    decoder, position, line = json.JSONDecoder(), text.index("[") + 1, 1
    counted = 0
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        line, counted = line + text.count("\n", counted, position), position
        place = f"{path}, line {line}"
        if text[position : position + 1] == "]":
            return
        try:
            value, position = decoder.raw_decode(text, position)
        except ValueError as error:
            raise DialogueError(f"{place}: not JSON ({error})") from error
        yield place, value


def _read_turns(fields: dict[str, Any], place: str) -> tuple[Turn, ...]:
    if "messages" in fields or "conversations" in fields:
        turns = _read_list(fields, place)
    elif "instruction" in fields:
        turns = (*_read_prompt(fields, place), _answer_turn(fields, "output", place))
    elif "prompt" in fields:
        turns = (*_read_prompt(fields, place), _answer_turn(fields, "response", place))
    else:
        raise DialogueError(f"{place}: found the keys {', '.join(fields) or 'none'}; expected {KNOWN_FORMS}")
    if turns[-1].role != "assistant":
        raise DialogueError(f"{place}: the last turn is the {turns[-1].role}'s; expected the assistant's")
    return turns


def _read_prompt(fields: dict[str, Any], place: str) -> tuple[Turn, ...]:
    if "messages" in fields or "conversations" in fields:
        return _read_list(fields, place)
    for key in ("instruction", "prompt"):
        if key in fields:
            text = _text(fields[key], key, place)
            if key == "instruction" and fields.get("input"):
                text = f"{text}\n{_text(fields['input'], 'input', place)}"
            system = fields.get("system")
            opening = (Turn("system", _text(system, "system", place)),) if system else ()
            return (*opening, Turn("user", text))
    raise DialogueError(f"{place}: found the keys {', '.join(fields) or 'none'}; expected {KNOWN_FORMS}")


def _read_list(fields: dict[str, Any], place: str) -> tuple[Turn, ...]:
    key, role_key, text_key = (
        ("messages", "role", "content") if "messages" in fields else ("conversations", "from", "value")
    )
    if not isinstance(fields[key], list) or not fields[key]:
        raise DialogueError(f"{place}: {key!r} is {fields[key]!r:.60}; expected a list of turns")
    turns = []
    for number, item in enumerate(fields[key], start=1):
        if not isinstance(item, dict) or role_key not in item or text_key not in item:
            raise DialogueError(f"{place}: turn {number} is {item!r:.60}; expected {role_key} and {text_key}")
        if item[role_key] not in ROLES:
            raise DialogueError(
                f"{place}: turn {number} is of {item[role_key]!r}; expected one of {', '.join(ROLES)}"
            )
        turns.append(Turn(ROLES[item[role_key]], _text(item[text_key], f"turn {number}", place)))
    return tuple(turns)


def _answer_turn(fields: dict[str, Any], key: str, place: str) -> Turn:
    if key not in fields:
        raise DialogueError(f"{place}: has no key {key!r}; found {', '.join(fields)}")
    return Turn("assistant", _text(fields[key], key, place))


def _read_answer(value: Any, key: str, place: str) -> str:
    """An answer given as text, as a turn, or as a list of turns that ends with it."""
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, dict):
        value = value.get("value", value.get("content"))
    return _text(value, key, place)


def _text(value: Any, name: str, place: str) -> str:
    if not isinstance(value, str):
        raise DialogueError(f"{place}: {name!r} is {value!r:.60}; expected a text")
    if not value.strip():
        raise DialogueError(f"{place}: {name!r} is empty")
    return value
