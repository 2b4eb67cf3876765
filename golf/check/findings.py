"""What a check reports: a level, a code, a sentence, and the lines that show it."""

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

Level = Literal["error", "warning", "info"]

LEVELS: tuple[Level, ...] = ("error", "warning", "info")
"""The most severe first. error: the files contradict the rules or each other. warning: a person has to
decide, and the message says what. info: worth knowing, no action needed."""

MAX_EVIDENCE_CHARACTERS = 160


@dataclass(frozen=True)
class Evidence:
    """The place that shows a finding."""

    file: str
    """Path inside the folder."""
    line: int = 0
    """From 1; 0 for the file as a whole."""
    text: str = ""
    """The line itself, cut to MAX_EVIDENCE_CHARACTERS."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.text}" if self.text else place


class Line(NamedTuple):
    """A line of a text file of the folder."""

    file: str
    number: int
    """From 1."""
    text: str

    @property
    def evidence(self) -> Evidence:
        """The line as evidence of a finding."""
        return Evidence(self.file, self.number, self.text.strip()[:MAX_EVIDENCE_CHARACTERS])


@dataclass(frozen=True)
class Finding:
    """One statement about a folder."""

    level: Level
    code: str
    """Stable name of the rule, for tools and tests."""
    message: str
    evidence: tuple[Evidence, ...] = ()


def _finding(level: Level, code: str, message: str, *evidence: Evidence) -> Finding:
    return Finding(level, code, message, evidence)


error = partial(_finding, "error")
warning = partial(_finding, "warning")
info = partial(_finding, "info")
"""Findings of a level, called with code, message and evidence."""
