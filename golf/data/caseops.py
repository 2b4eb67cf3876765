"""CaseOps: text with its ASCII capitals written as marks, so that a word has the same pieces in any case.

A run of ASCII letters is lower-cased, and a mark before it says how it was written: TITLE the first letter a
capital, ALLCAPS all of them, two at least, CAPNEXT the next letter. A character that is itself a mark is
written as ESC and a digit. Source: openai/parameter-golf #1729; the digit is ours: with it the bytes of a
token follow from the token and the one before it.
"""

import re
import unicodedata

TITLE_MARK, ALLCAPS_MARK, CAPNEXT_MARK, ESCAPE_MARK = "\ue001", "\ue002", "\ue003", "\ue004"
CASE_MARKS = (TITLE_MARK, ALLCAPS_MARK, CAPNEXT_MARK, ESCAPE_MARK)
CASE_MARK_BYTES = 3
"""UTF-8 bytes of each of them."""

_FIRST_COMBINING = "\u0300"
_RUN_WITH_CAPITALS = re.compile("(?<![A-Za-z])[a-z]*[A-Z][A-Za-z]*")
_CAPITAL = re.compile("[A-Z]")
_LITERAL_MARK = re.compile(f"[{''.join(CASE_MARKS)}]")
_MARKED = re.compile(
    f"{TITLE_MARK}([a-z])|{CAPNEXT_MARK}([a-z])|{ALLCAPS_MARK}([a-z][A-Za-z]*)"
    f"|{ESCAPE_MARK}([1-{len(CASE_MARKS)}])"
)


def mark_case(text: str) -> str:
    """The marked form of any string; `unmark_case` gives the string back.

    A run followed by a combining character keeps its capitals: NFKC may join a small letter with it where it
    leaves the capital alone, and the text would come back changed.
    """
    return _RUN_WITH_CAPITALS.sub(_mark_run, escape_marks(text))


def escape_marks(text: str) -> str:
    """The string with only its literal marks escaped, capitals as they are; `unmark_case` undoes it too."""
    return _LITERAL_MARK.sub(lambda found: f"{ESCAPE_MARK}{CASE_MARKS.index(found[0]) + 1}", text)


def unmark_case(text: str) -> str:
    """The string whose marked form this is; marks that stand for nothing stay, so it never fails."""
    return _MARKED.sub(_unmark, text)


def _mark_run(found: re.Match[str]) -> str:
    run = found[0]
    after = found.string[found.end() : found.end() + 1]
    if after >= _FIRST_COMBINING and unicodedata.combining(after):
        return run
    if len(run) > 1 and run.isupper():
        return ALLCAPS_MARK + run.lower()
    first = TITLE_MARK + run[0].lower() if run[0].isupper() else run[0]
    return first + _CAPITAL.sub(lambda letter: CAPNEXT_MARK + letter[0].lower(), run[1:])


def _unmark(found: re.Match[str]) -> str:
    title, next_letter, run, literal = found.groups()
    if literal:
        return CASE_MARKS[int(literal) - 1]
    return (title or next_letter or run).upper()
