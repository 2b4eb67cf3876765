"""What a check says: a level, a code, a sentence, and the lines that show it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["defect", "doubt", "note"]

LEVELS: tuple[Level, ...] = ("defect", "doubt", "note")
"""From the gravest. A defect: the files contradict the rules or themselves. A doubt: a person has to look,
and the finding says at what. A note: worth knowing, nothing to answer."""


@dataclass(frozen=True)
class Evidence:
    """Where a finding can be seen."""

    file: str
    """Path inside the folder."""
    line: int = 0
    """From 1; 0 for the file as a whole."""
    text: str = ""
    """The line itself, cut to 160 characters."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.text}" if self.text else place


@dataclass(frozen=True)
class Finding:
    """One statement about a folder."""

    level: Level
    code: str
    """Stable name of the rule, for tools and tests."""
    message: str
    evidence: tuple[Evidence, ...] = ()


def defect(code: str, message: str, *evidence: Evidence) -> Finding:
    """The files contradict the rules or themselves."""
    return Finding("defect", code, message, evidence)


def doubt(code: str, message: str, *evidence: Evidence) -> Finding:
    """A person has to look; `message` says at what."""
    return Finding("doubt", code, message, evidence)


def note(code: str, message: str, *evidence: Evidence) -> Finding:
    """Worth knowing, nothing to answer."""
    return Finding("note", code, message, evidence)


def sort_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Gravest first, then by code; the order inside a code is kept."""
    return sorted(findings, key=lambda finding: (LEVELS.index(finding.level), finding.code))
