"""Readers of conversations and preferences in the usual published forms.

A row is read where its meaning is plain; other rows are left out and counted by the reason.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from golf.prepare.rows import read_rows
from golf.system.log import RunLog
from golf.tasks.files import TaskDataError

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "chatbot", "model", "ai"), "assistant"),
}
"""Role names in files, in small letters, and the names used here."""
LIST_KEYS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns")
PROMPT_KEYS = ("instruction", "prompt", "question", "query", "input")
CONTEXT_KEYS = ("input", "context")
"""What an instruction is about, on a line of its own after it."""
ANSWER_KEYS = ("output", "response", "completion", "answer")
SYSTEM_KEYS = ("system", "system_prompt")
KNOWN_FORMS = (
    "messages (role, content), conversations (from, value), or a prompt (instruction, prompt, question, "
    "query) and an answer (output, response, completion, answer)"
)

_MARKED_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


class DialogueError(TaskDataError):
    """A row is not a conversation, or not a preference, that can be read or encoded."""


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


@dataclass
class LeftOut:
    """Rows that were left out, by reason, and the place of the first of each; and rows that were cut."""

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, str] = field(default_factory=dict)
    num_cut: int = 0
    """Rows that lost their end, which the model's context does not hold."""

    def add(self, place: str, reason: str) -> None:
        """Counts a row; what stands in brackets is a detail of the first row with this reason."""
        kind = reason.split(" (")[0]
        self.counts[kind] += 1
        self.places.setdefault(kind, f"{place}: {reason}")

    def report(self, log: RunLog) -> None:
        """Logs a line for each reason, and one for rows that were cut."""
        if self.num_cut:
            log.info(f"cut {self.num_cut:,} rows to the model's context; --long skip leaves them out")
        for kind, count in self.counts.most_common():
            log.info(f"left out {count:,} rows, the first: {self.places[kind]}")


Item = TypeVar("Item")


def read_conversations(path: Path, left_out: LeftOut | None = None) -> list[Conversation]:
    """Every conversation of a file of rows; DialogueError, with the reason of the first row, for none."""
    return read_dialogues(path, lambda fields, place: Conversation(place, _read_turns(fields)), left_out)


def read_preferences(path: Path, left_out: LeftOut | None = None) -> list[Preference]:
    """Every pair of two different answers of a file of rows; DialogueError if there is none."""
    return read_dialogues(path, lambda fields, place: Preference(place, *_read_pair(fields)), left_out)


def read_dialogues(
    path: Path, parse: Callable[[dict[str, Any], str], Item], left_out: LeftOut | None
) -> list[Item]:
    """What `parse` makes of the fields and the place of each row; DialogueError if it refuses all."""
    found, bad = [], left_out if left_out is not None else LeftOut()
    first = ""
    for row in read_rows(path):
        try:
            if row.reason:
                raise DialogueError(row.reason)
            if not isinstance(row.value, dict):
                raise DialogueError(f"is a {type(row.value).__name__}; expected an object")
            fields = {str(key).lower(): value for key, value in row.value.items() if value is not None}
            found.append(parse(fields, row.place))
        except DialogueError as error:
            first = first or f"{row.place}: {error}"
            bad.add(row.place, str(error))
    if not found:
        raise DialogueError(f"no row of {path.name} can be used. {first}")
    return found


def _read_turns(fields: dict[str, Any]) -> tuple[Turn, ...]:
    """The conversation of a row, up to its last answer."""
    turns = list(_read_prompt(fields))
    if not _first_key(fields, LIST_KEYS):
        key = _first_key(fields, ANSWER_KEYS)
        if key is None:
            raise DialogueError(f"has no answer; expected {KNOWN_FORMS} (found {_names(fields)})")
        turns += _read_side(fields[key], key)
    while turns and turns[-1].role != "assistant":
        turns.pop()
    if not turns:
        raise DialogueError("has no turn of the assistant")
    return tuple(turns)


def _read_prompt(fields: dict[str, Any]) -> tuple[Turn, ...]:
    """All turns of a list, or the system text, the turns before and the prompt."""
    system = _first_key(fields, SYSTEM_KEYS)
    opening = [Turn("system", _text(fields[system], system))] if system and _is_filled(fields[system]) else []
    if key := _first_key(fields, LIST_KEYS):
        turns = _read_list(fields[key], key)
        return (*([] if turns[0].role == "system" else opening), *turns)
    key = _first_key(fields, PROMPT_KEYS)
    if key is None:
        raise DialogueError(f"is in no known form; expected {KNOWN_FORMS} (found {_names(fields)})")
    if isinstance(fields[key], list):
        return (*opening, *_read_list(fields[key], key))
    text = _text(fields[key], key)
    for context in CONTEXT_KEYS:
        if context != key and _is_filled(fields.get(context)):
            text = f"{text}\n{_text(fields[context], context)}"
    for pair in fields.get("history") or ():
        if not isinstance(pair, list) or len(pair) != 2:
            raise DialogueError("'history' is no list of pairs")
        opening += [
            Turn(role, _text(part, "history")) for role, part in zip(("user", "assistant"), pair, strict=True)
        ]
    return (*opening, Turn("user", text))


def _read_pair(fields: dict[str, Any]) -> tuple[tuple[Turn, ...], str, str]:
    """Prompt, chosen and rejected answer of a row."""
    for key in ("chosen", "rejected"):
        if key not in fields:
            raise DialogueError(f"has no {key!r} (found {_names(fields)})")
    has_prompt = _first_key(fields, (*LIST_KEYS, *PROMPT_KEYS)) is not None
    given = _read_prompt(fields) if has_prompt else ()
    (before, chosen), (before_rejected, rejected) = (
        _split_answer(_read_side(fields[key], key), key) for key in ("chosen", "rejected")
    )
    if before != before_rejected:
        raise DialogueError("chosen and rejected answer different prompts")
    prompt = max(given, before, key=len)
    if not prompt:
        raise DialogueError(f"has no prompt (found {_names(fields)})")
    if chosen.split() == rejected.split():
        raise DialogueError(f"chosen and rejected are the same text ({chosen!r:.60})")
    return prompt, chosen, rejected


def _split_answer(turns: Sequence[Turn], key: str) -> tuple[tuple[Turn, ...], str]:
    """The turns before the last one, and its text."""
    if turns[-1].role != "assistant":
        raise DialogueError(f"{key!r} ends with a turn of the {turns[-1].role}")
    return tuple(turns[:-1]), turns[-1].text


def _read_side(value: Any, key: str) -> tuple[Turn, ...]:
    """The turns of an answer: a text, also with marks "Human:" and "Assistant:", one turn, or a list."""
    if (
        isinstance(value, list)
        and value
        and all(isinstance(item, dict) and "type" not in item for item in value)
    ):
        return _read_list(value, key)
    if isinstance(value, dict):
        text_key = _first_key(value, ("value", "content"))
        return (Turn("assistant", _text(value.get(text_key) if text_key else None, key)),)
    text = _text(value, key)
    if text.lstrip().startswith("Human:"):
        _, *parts = _MARKED_TURN.split(text.strip())
        marks, texts = parts[::2], parts[1::2]
        return tuple(
            Turn(ROLES[mark.lower()], _text(part.strip(), key))
            for mark, part in zip(marks, texts, strict=True)
        )
    return (Turn("assistant", text),)


def _read_list(value: Any, key: str) -> tuple[Turn, ...]:
    if not isinstance(value, list) or not value:
        raise DialogueError(f"{key!r} is no list of turns ({value!r:.60})")
    turns = []
    for number, item in enumerate(value, start=1):
        if isinstance(item, str):
            item = {"role": ("user", "assistant")[(number - 1) % 2], "content": item}
        if not isinstance(item, dict):
            raise DialogueError(f"{key!r} has a turn that is a {type(item).__name__}")
        role_key, text_key = (
            _first_key(item, ("role", "from")),
            _first_key(item, ("content", "value", "text")),
        )
        role = str(item[role_key]) if role_key else ""
        if role.lower() not in ROLES:
            raise DialogueError(f"has a turn of {role!r}; expected one of {', '.join(ROLES)}")
        if item.get("tool_calls") or item.get("function_call"):
            raise DialogueError("has a turn that calls a tool")
        text = item[text_key] if text_key else None
        if ROLES[role.lower()] != "system" or _is_filled(text):
            turns.append(Turn(ROLES[role.lower()], _text(text, f"a turn of the {ROLES[role.lower()]}")))
    if not turns:
        raise DialogueError(f"{key!r} has only empty turns")
    return tuple(turns)


def _text(value: Any, name: str) -> str:
    """The text of a value: itself, its parts of type text, or a number as written."""
    if isinstance(value, list) and value:
        value = "\n".join(_part_text(part, name) for part in value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise DialogueError(f"{name!r} is not text ({'null' if value is None else repr(value)[:60]})")
    if not value.strip():
        raise DialogueError(f"{name!r} is empty")
    return value


def _part_text(part: Any, name: str) -> str:
    if isinstance(part, dict):
        kind = part.get("type", "text")
        if kind != "text":
            raise DialogueError(f"{name!r} has a part of type {kind!r}, which is not text")
        part = part.get("text")
    if not isinstance(part, str):
        raise DialogueError(f"{name!r} has a part that is not text")
    return part


def _first_key(fields: dict[str, Any], keys: Sequence[str]) -> str | None:
    """The first of `keys` that is there with a value."""
    return next((key for key in keys if fields.get(key) is not None), None)


def _is_filled(value: Any) -> bool:
    return (
        value is not None
        and value != ""
        and value != []
        and not (isinstance(value, str) and not value.strip())
    )


def _names(fields: dict[str, Any]) -> str:
    return f"{', '.join(fields) or 'nothing':.200}"
