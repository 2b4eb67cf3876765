"""What a check reports: a level, a code, a sentence, and the lines that show it."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

Level = Literal["error", "warning", "info"]

LEVELS: tuple[Level, ...] = ("error", "warning", "info")
"""The most severe first. error: the files contradict the rules or each other. warning: a person has to
decide, and the message says what. info: worth knowing, no action needed."""
MAX_QUOTE_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class Quote:
    """A line of a file of the folder, counted from 1; line 0 is the file as a whole."""

    file: str
    line: int = 0
    text: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.text}" if self.text else place


@dataclass(frozen=True)
class Finding:
    """One statement about a folder; `code` is the stable name of its rule."""

    level: Level
    code: str
    message: str
    evidence: tuple[Quote, ...] = ()


def _finding(level: Level, code: str, message: str, *quotes: Quote) -> Finding:
    cut = (Quote(at.file, at.line, at.text.strip()[:MAX_QUOTE_CHARACTERS]) for at in quotes)
    return Finding(level, code, message, tuple(cut))


error = partial(_finding, "error")
warning = partial(_finding, "warning")
info = partial(_finding, "info")
