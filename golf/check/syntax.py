"""Which of Python 3.10 to 3.13 can parse a source, told by the running interpreter's own parser.

What that parser cannot tell is added by hand: nodes that older versions lack, and f-strings of PEP 701.
"""

import ast
import re
import sys
import warnings
from dataclasses import dataclass

from golf.check.fstrings import lower_fstrings

VERSIONS = ((3, 10), (3, 11), (3, 12), (3, 13))

_NEWER_THAN_RUNNING = re.compile(r"^\s*(?:type\s+\w+\s*[=\[]|(?:async\s+)?def\s+\w+\[|class\s+\w+\[)")
_MAYBE_NEW = re.compile(
    rb"except\s{0,9}\*|\w\[\s{0,9}\*|\w\[[^\]\n]{0,200},\s{0,9}\*|^[ \t]{0,99}type[ \t]+\w{1,99}[ \t]*[=\[]"
    rb"|(?:def|class)[ \t]+\w{1,99}[ \t]*\[",
    re.M,
)
_SINCE = {
    "TryStar": (3, 11),
    "TypeAlias": (3, 12),
    "TypeVar": (3, 12),
    "ParamSpec": (3, 12),
    "TypeVarTuple": (3, 12),
}


@dataclass(frozen=True)
class SyntaxVerdict:
    """What parsing a source showed."""

    rejected_by: tuple[str, ...] = ()
    """Versions that cannot parse it, such as ("3.10", "3.11")."""
    message: str = ""
    line: int = 0
    unsure: bool = False
    """The running Python cannot judge: the syntax may belong to a later one."""
    tree: ast.Module | None = None


def parse_for_versions(data: bytes) -> SyntaxVerdict:
    """Parses a file's bytes, declared encoding and all."""
    tree, message, line = _parse(data)
    if tree is not None:
        since, line, message = _newest_feature(tree, data)
        return SyntaxVerdict(_before(since), message, line, tree=tree)
    if sys.version_info < (3, 12):
        text = data.decode("utf-8", errors="replace")
        lowered = lower_fstrings(text)
        if lowered is not None and lowered.new_line:
            tree, other_message, other_line = _parse(lowered.source.encode())
            wrong = next((at for at, text in lowered.expressions if not _is_expression(text)), 0)
            if tree is not None and not wrong:
                return SyntaxVerdict(_before((3, 12)), _PEP_701, lowered.new_line, tree=tree)
            message, line = (other_message, other_line) if tree is None else ("invalid f-string", wrong)
        given_up = lowered is None and "f-string" in message
        at_line = text.split("\n")[line - 1 : line]
        if given_up or (at_line and _NEWER_THAN_RUNNING.match(at_line[0])):
            return SyntaxVerdict(_before((3, 12)), _LATER, line, unsure=True)
    return SyntaxVerdict(_before((99, 0)), message, line)


_LATER = "syntax that a later Python than the running one may accept"
_PEP_701 = "an f-string in the form of Python 3.12 (PEP 701)"


def _before(since: tuple[int, int]) -> tuple[str, ...]:
    return tuple(f"{major}.{minor}" for major, minor in VERSIONS if (major, minor) < since)


def _parse(data: bytes) -> tuple[ast.Module | None, str, int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(data), "", 0
    except SyntaxError as error:
        return None, str(error.msg), error.lineno or 0
    except (ValueError, RecursionError, MemoryError, LookupError) as error:
        return None, f"{type(error).__name__}: {error}"[:120], 0


def _is_expression(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(f"({text}\n)", mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _newest_feature(tree: ast.Module, data: bytes) -> tuple[tuple[int, int], int, str]:
    newest, line, message = (3, 0), 0, ""
    for node in ast.walk(tree) if _MAYBE_NEW.search(data) else ():
        since = _SINCE.get(type(node).__name__, (3, 0))
        if isinstance(node, ast.Subscript) and _is_bare_starred(node.slice):
            since = (3, 11)
        if since > newest:
            newest, line = since, node.__dict__.get("lineno", 0)
            message = f"syntax of Python {since[0]}.{since[1]}"
    if newest < (3, 12) and sys.version_info >= (3, 12):
        lowered = lower_fstrings(data.decode("utf-8", errors="replace"))
        if lowered is not None and lowered.new_line:
            return (3, 12), lowered.new_line, _PEP_701
    return newest, line, message


def _is_bare_starred(node: ast.expr) -> bool:
    if not isinstance(node, ast.Tuple) or not node.elts:
        return False
    first = node.elts[0]
    starred = any(isinstance(item, ast.Starred) for item in node.elts)
    return starred and (first.lineno, first.col_offset) == (node.lineno, node.col_offset)
