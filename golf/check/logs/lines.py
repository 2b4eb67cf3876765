"""The lines of a log that are log lines: a script that printed itself into its log is stepped over."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

MAX_LINE_CHARACTERS = 2000
"""Longer lines are cut: no known log line needs more, and a pattern then has a bound."""

_OPENING = re.compile(
    r"(import \w|from [\w.]+ import |def \w+\(|class \w+[(:]|@\w+|#!/|if __name__\b|async def |\"\"\"|''')"
)
_FIRST = frozenset("ifdca@#\"'")
"""What such a line begins with; most log lines begin with something else."""
_RULE = re.compile(r"={40,}\s*$")
_RUNNING = re.compile(r"Running Python \d")
_PRINTED = re.compile(
    r"step:\d+/\d+ |\d+/\d+ (?:train|val)_loss: \d|Serialized model|Total submission size|Code size"
    r"|(?:final|legal|quantized|ttt|DIAGNOSTIC)\w*[ :].*val_loss[:=]\d"
    r"|stopping_early:|val_(?:loader|tokens):|train_(?:loader|shards):|model_params:\d"
    r"|world_size:\d|tie_embeddings:|train_batch_tokens:\d|peak memory"
)
_CODE = re.compile(r"\{[^{}]*\}|\blog0?\(|\bprint\(|\.format\(|^\s*(#(?!\s*\d)|return\b|assert\b|raise\b)")


class LogLine(NamedTuple):
    """A line of a log and its number from 1."""

    number: int
    text: str


@dataclass(frozen=True)
class LogLines:
    """The log lines of a file, empty ones aside, and how many lines of echoed source were stepped over."""

    lines: tuple[LogLine, ...]
    num_source_lines: int


def is_template(text: str) -> bool:
    """Whether a line is source text (an f-string, a comment, a call to print) and not something printed."""
    return bool(_CODE.search(text))


def log_lines(numbered: Iterable[tuple[int, str]]) -> LogLines:
    """Steps over echoed source: from a line that opens Python source up to a rule of `=` or `Running Python`.

    Lines of the common kinds are kept even there (two writers of one file can put the log amid the source),
    and where the source has no such end, all that do not look like source. Lines come in as (number, text)
    pairs, so that a file read in parts keeps its numbers.
    """
    kept: list[LogLine] = []
    pending: list[LogLine] = []
    num_source = 0
    in_source = False
    for number, text in numbered:
        if not text and not in_source:
            continue
        line = LogLine(number, text[:MAX_LINE_CHARACTERS].rstrip())
        if in_source and (_RULE.match(line.text) or _RUNNING.match(line.text)):
            printed = [line for line in pending if _PRINTED.match(line.text) and not is_template(line.text)]
            kept += printed
            num_source += len(pending) - len(printed)
            pending, in_source = [], False
        elif not in_source and line.text[:1] in _FIRST and _OPENING.match(line.text):
            in_source = True
        if in_source:
            pending.append(line)
        else:
            kept.append(line)
    unended = [line for line in pending if _looks_printed(line.text)]
    num_source += len(pending) - len(unended)
    return LogLines(tuple(kept + unended), num_source)


def _looks_printed(text: str) -> bool:
    return not _OPENING.match(text) and not is_template(text) and "=None" not in text


def numbered(text: str, first: int = 1) -> Iterator[tuple[int, str]]:
    """The lines of `text` with their numbers; only a newline ends a line, as editors and grep count them."""
    for offset, line in enumerate(text.split("\n")):
        yield first + offset, line.rstrip("\r")
