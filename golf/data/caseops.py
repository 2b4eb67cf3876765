"""CaseOps: ASCII capitals as marks and small letters, so that a word has the same pieces in any case.

A mark says which letters after it are capitals: TITLE the first letter of a run, ALLCAPS a run of at least
two, CAPNEXT the next letter. A character that is itself a mark is written as ESC and a digit. Source:
openai/parameter-golf #1729; the digit is ours: it makes the bytes of a token a function of that token and the
one before it.
"""

import re
import unicodedata

TITLE_MARK, ALLCAPS_MARK, CAPNEXT_MARK, ESCAPE_MARK = "\ue001", "\ue002", "\ue003", "\ue004"
CASE_MARKS = (TITLE_MARK, ALLCAPS_MARK, CAPNEXT_MARK, ESCAPE_MARK)

_FIRST_COMBINING = "\u0300"
_RUN_WITH_CAPITALS = re.compile("(?<![A-Za-z])[a-z]*[A-Z][A-Za-z]*")
_CAPITAL = re.compile("[A-Z]")
_LITERAL_MARK = re.compile(f"[{''.join(CASE_MARKS)}]")
_MARKED = re.compile(
    f"{TITLE_MARK}([a-z])|{CAPNEXT_MARK}([a-z])|{ALLCAPS_MARK}([a-z][A-Za-z]*)"
    f"|{ESCAPE_MARK}([1-{len(CASE_MARKS)}])"
)


def mark_case(text: str) -> str:
    """The marked form of any string; `unmark_case` is its inverse.

    A run before a combining character keeps its capitals: NFKC may compose that character with a small letter
    but not with the capital, which would change the text.
    """
    return _RUN_WITH_CAPITALS.sub(_mark_run, escape_marks(text))


def escape_marks(text: str) -> str:
    """The string with its literal marks escaped and its capitals kept; `unmark_case` is its inverse."""
    return _LITERAL_MARK.sub(lambda found: f"{ESCAPE_MARK}{CASE_MARKS.index(found[0]) + 1}", text)


def unmark_case(text: str) -> str:
    """The string of a marked form; a mark without a letter or a digit after it is kept."""
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
