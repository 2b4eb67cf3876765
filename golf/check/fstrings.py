"""Finds the f-strings of a source that only Python 3.12 accepts (PEP 701), and writes them in an older form.

`ast.parse` of Python 3.11 rejects these, that of 3.12 and later accepts them whatever `feature_version` says,
and parso 0.8 rejects them for every version (`match` and `except*` too): neither tells the versions apart.
"""

import re
from dataclasses import dataclass, field

# A keyword before a quote is no prefix: minified sources have if'a'in names.
_STRING = r"(?P<prefix>(?<!\w)(?:[fFbB][rR]?|[rR][fFbB]?|[uU])|)(?P<quote>'''|\"\"\"|'|\")"
_OPENING = re.compile(rf"#[^\n]*|{_STRING}")
_IN_EXPRESSION = re.compile(rf"#|{_STRING}|[\[({{}})\]\\\n:!=]")


MAX_NESTING = 5
"""f-strings inside f-strings; deeper ones are given up, since each level is read twice."""


_AFTER_EQUALS = re.compile(r"\s{0,20}[!:}]")


@dataclass
class Lowered:
    """A source whose f-strings are replaced by plain strings of as many lines."""

    source: str
    expressions: list[tuple[int, str]] = field(default_factory=list)
    """What stood in their braces, with its line; nested f-strings lowered likewise."""
    new_line: int = 0
    """Line of the first f-string that needs Python 3.12; 0 if there is none."""


class _Unclosed(ValueError):
    """A string or a brace that never ends, or nesting beyond MAX_NESTING."""


def lower_fstrings(source: str) -> Lowered | None:
    """Lowers every f-string of `source`; None if a string or a brace in one never ends,
    or they are nested beyond MAX_NESTING.
    """
    lowered = Lowered("")
    try:
        lowered.source = _lower(source, 1, lowered, 0)
    except _Unclosed:
        return None
    return lowered


def _lower(source: str, first_line: int, into: Lowered, depth: int) -> str:
    parts: list[str] = []
    position, line = 0, first_line
    while match := _OPENING.search(source, position):
        parts.append(source[position : match.start()])
        line += parts[-1].count("\n")
        if match["quote"] is None:
            parts.append(match.group())
            position = match.end()
            continue
        end = _string_end(source, match, line, into, depth)
        literal = source[match.start() : end]
        is_format = "f" in match["prefix"].lower()
        parts.append('"""' + "\n" * literal.count("\n") + '"""' if is_format else literal)
        line += literal.count("\n")
        position = end
    return "".join(parts) + source[position:]


def _string_end(source: str, match: re.Match[str], line: int, into: Lowered, depth: int) -> int:
    if depth > MAX_NESTING:
        raise _Unclosed
    quote = match["quote"]
    is_format = "f" in match["prefix"].lower()
    position = match.end()
    while position < len(source):
        if source.startswith(quote, position):
            return position + len(quote)
        character = source[position]
        if character == "\\":
            position += 2
        elif character == "\n" and len(quote) == 1:
            raise _Unclosed
        elif is_format and character in "{}" and source[position : position + 2] in ("{{", "}}"):
            position += 2
        elif is_format and character == "{":
            position = _field_end(source, position + 1, quote, line, into, depth)
        else:
            position += 1
    raise _Unclosed


def _field_end(source: str, start: int, quote: str, line: int, into: Lowered, depth: int) -> int:
    """Position behind the `}` of a replacement field that begins at `start`."""
    brackets = 0
    position = start
    is_new = False
    end_of_expression = None
    while match := _IN_EXPRESSION.search(source, position):
        token = match.group()
        position = match.end()
        if match["quote"]:
            nested = match["quote"]
            is_new = is_new or nested == quote or (len(quote) == 1 and nested[0] == quote)
            position = _string_end(source, match, line, into, depth + 1)
            is_new = is_new or "\\" in source[match.start() : position]
        elif token == "#":
            is_new = True
            position = source.find("\n", position)
            if position < 0:
                raise _Unclosed
        elif token in "\\\n":
            is_new = is_new or token == "\\" or len(quote) == 1
        elif token in "[({":
            brackets += 1
        elif token in ")]" or (token == "}" and brackets):
            brackets -= 1
        elif token == "}":
            end_of_expression = match.start() if end_of_expression is None else end_of_expression
            _record(source[start:end_of_expression], line, is_new, into, depth)
            return position
        elif brackets == 0 and token in "!=" and source[position : position + 1] == "=":
            position += 1
        elif brackets == 0 and token == "=" and _AFTER_EQUALS.match(source, position):
            if source[match.start() - 1] not in "<>=!":
                end_of_expression = match.start()
        elif brackets == 0 and token == "!":
            end_of_expression = match.start() if end_of_expression is None else end_of_expression
        elif brackets == 0 and token == ":" and source[position : position + 1] != "=":
            end_of_expression = match.start() if end_of_expression is None else end_of_expression
            position = _spec_end(source, position, quote, line, into, depth)
    raise _Unclosed


def _spec_end(source: str, position: int, quote: str, line: int, into: Lowered, depth: int) -> int:
    """Position of the `}` that ends a format specification, whose own fields are lowered too."""
    while position < len(source):
        character = source[position]
        if character == "}":
            return position
        if source.startswith(quote, position):
            raise _Unclosed
        if character == "{":
            position = _field_end(source, position + 1, quote, line, into, depth + 1)
        else:
            position += 1
    raise _Unclosed


def _record(expression: str, line: int, is_new: bool, into: Lowered, depth: int) -> None:
    has_string = "'" in expression or '"' in expression
    into.expressions.append(
        (line, _lower(expression, line, Lowered(""), depth + 1) if has_string else expression)
    )
    if is_new and not into.new_line:
        into.new_line = line
