"""Commands of a documentation page: those of its code blocks, and those of ours in its prose.

A command is one simple command of a shell line. Of a synopsis (`[--minutes M | --tokens N]`, `sft|dpo`) there
is one command without the optional parts, and one for each of them.
"""

import ast
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from golf.__main__ import all_commands

SHELLS = ("sh", "bash", "shell", "console")
"""Languages of a block in which every line is a command; a block without one may show what was printed."""
SCRIPTS = ("train_gpt.py", "quantize.py", "eval_bpb.py", "ttt.py")
FENCE = re.compile(r"^\s*(```+|~~~+)\s*(\S*)")
SPAN = re.compile(r"(?<!`)`((?:[^`\n]|\n(?!\s*\n))+)`(?!`)")
OPTIONAL = re.compile(r"(?:^|(?<=\s))\[([^\[\]]*)\](?=\s|$)")
EITHER = re.compile(r"(?:(?<=\s)|(?<==))[\w.-]+(?:\|[\w.-]+)+(?=\s|$)")
ANGLES = re.compile(r"<([A-Za-z][\w -]*)>")
ELLIPSIS = re.compile(r"\s\.\.\.(?=\s|$)|(?<=\w)\.\.\.(?=\s|$)")
PROMPT = re.compile(r"^[$%!] ?(?=\S)")
SETS = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
KEYWORDS = ("do", "then", "else", "if", "while", "until", "!", "time", "nohup", "exec", "env", "sudo")
"""What may stand before a command."""
SKIPPED = ("done", "fi", "for", "in")


class UnreadableLine(ValueError):
    """A line that no shell reads."""


@dataclass(frozen=True)
class Command:
    """A simple command, and where a page has it."""

    page: str
    line: int
    words: tuple[str, ...]
    folder: str = ""
    """Where earlier commands of the block have gone by cd."""
    sets: tuple[str, ...] = ()
    """NAME=VALUE before it."""
    is_shell: bool = True
    """Not of a block that may show what was printed, nor of prose."""

    @property
    def text(self) -> str:
        """The words as a shell would read them."""
        return " ".join(
            [*self.sets, *(word if re.search(r"[*?]", word) else shlex.quote(word) for word in self.words)]
        )

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def commands_in(page: str, text: str, is_comment: bool = False) -> Iterator[Command]:
    """Every command of a page in Markdown, or in comments, whose blocks have no blank line above."""
    prose, blocks = divide(text, is_comment)
    for line, language, body in blocks:
        yield from block_commands(page, line, SHELLS[0] if is_comment else language, body)
    for span in SPAN.finditer(prose):
        found, line = " ".join(span[1].split()).replace("\\|", "|"), prose.count("\n", 0, span.start()) + 1
        words = found.split()
        if words[:1] and words[0] in SCRIPTS and words[1:]:
            found = f"python {found}"
        if own_program(found.split()):
            for variant in variants(found):
                for command in split_line(page, line, variant):
                    if own_program(command.words):
                        yield replace(command, is_shell=False)


def divide(text: str, is_comment: bool = False) -> tuple[str, list[tuple[int, str, list[str]]]]:
    """The page with blank lines in place of its blocks; and its blocks: first line, language, lines."""
    prose, blocks = [], []
    fence, before_is_blank = "", True
    for number, line in enumerate(text.splitlines(), 1):
        mark = FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not mark[2]:
                fence = ""
            else:
                blocks[-1][2].append(line)
        elif mark:
            fence = mark[1]
            blocks.append((number + 1, mark[2].strip("{}").lower(), []))
        elif re.match(r"^(?: {4}|\t)\s*\S", line) and (
            before_is_blank or is_comment or in_indented(blocks, number)
        ):
            if not in_indented(blocks, number):
                blocks.append((number, "indented", []))
            blocks[-1][2].append(line)
        else:
            prose.append(line)
            before_is_blank = not line.strip()
            continue
        prose.append("")
        before_is_blank = False
    return "\n".join(prose), blocks


def in_indented(blocks: list[tuple[int, str, list[str]]], number: int) -> bool:
    """Whether a line goes on with the indented block above it."""
    return bool(blocks) and blocks[-1][1] == "indented" and blocks[-1][0] + len(blocks[-1][2]) == number


def block_commands(page: str, first: int, language: str, lines: list[str]) -> Iterator[Command]:
    """The commands of a block."""
    if language not in (*SHELLS, "", "indented"):
        return
    has_prompts = any(line.strip().startswith("$ ") for line in lines)
    is_shell, folder = language in SHELLS or has_prompts, ""
    for number, line in joined(first, lines):
        if has_prompts and not line.startswith("$ "):
            continue
        try:
            for variant in variants(PROMPT.sub("", line)):
                went = ""
                for command in split_line(page, number, variant):
                    if command.words[0] == "cd" and len(command.words) == 2:
                        went = str(Path(folder, went, command.words[1]))
                    yield replace(command, folder=str(Path(folder, went)), is_shell=is_shell)
                folder = str(Path(folder, went))
        except UnreadableLine:
            if is_shell:
                raise


def joined(first: int, lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Lines with those that go on after a backslash, each with the number of its first."""
    begun, text = first, ""
    for number, line in enumerate(lines, first):
        begun = begun if text else number
        text = f"{text} {line.strip()}".strip()
        if text.endswith("\\"):
            text = text[:-1].rstrip()
            continue
        if text:
            yield begun, text
        text = ""


def variants(text: str) -> Iterator[str]:
    """The lines that a synopsis stands for."""
    if options := list(OPTIONAL.finditer(text)):
        yield from variants(OPTIONAL.sub("", text))
        for option in options:
            before, after = OPTIONAL.sub("", text[: option.start()]), OPTIONAL.sub("", text[option.end() :])
            for each in re.split(r"\s\|\s", option[1]):
                yield from variants(f"{before}{each}{after}")
    elif either := EITHER.search(text):
        for each in either[0].split("|"):
            yield from variants(text[: either.start()] + each + text[either.end() :])
    else:
        yield text


def split_line(page: str, number: int, text: str) -> Iterator[Command]:
    """The simple commands of a line; UnreadableLine for one that no shell reads."""
    text = ELLIPSIS.sub("", ANGLES.sub(lambda found: found[1].upper().replace(" ", "_"), text))
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        tokens = list(lexer)
    except ValueError as error:
        raise UnreadableLine(f"{page}:{number}: {error}: {text}") from error
    simple: list[str] = []
    is_target = False
    for token in [*tokens, ";"]:
        if token.startswith("#"):
            token = ";"
            yield from simple_command(page, number, simple)
            return
        if is_target:
            is_target = False
        elif token and set(token) <= set("<>&") and set(token) & set("<>"):
            is_target = True
            if simple and simple[-1].isdigit():
                simple.pop()
        elif token and set(token) <= set(";|&()"):
            yield from simple_command(page, number, simple)
            simple = []
        else:
            simple.append(token)


def simple_command(page: str, number: int, words: list[str]) -> Iterator[Command]:
    """A command without what stands before it, and those of ours that it is to start."""
    sets = []
    while words and (words[0] in KEYWORDS or SETS.fullmatch(words[0])):
        if SETS.fullmatch(words[0]):
            sets.append(words[0])
        words = words[1:]
    if not words or words[0] in SKIPPED:
        return
    yield Command(page, number, tuple(words), sets=tuple(sets))
    if own_program(words):
        return
    for place in range(1, len(words)):
        if re.search(r"\s", words[place]):
            # As ssh has it: a line in a word.
            for inner in split_line(page, number, words[place]):
                if own_program(inner.words):
                    yield inner
        elif words[place] == "golf" and words[place + 1 :][:1] not in [[name] for name in all_commands()]:
            # A name that others gave something.
            continue
        elif own_program(words[place:]) and words[place] != "make":
            yield Command(page, number, tuple(words[place:]), sets=tuple(sets))
            return
        elif words[place].endswith(".sbatch"):
            # Its script hands the rest on to a run.
            yield Command(page, number, ("golf", "train", *words[place + 1 :]))
            return


def own_program(words: Iterable[str]) -> tuple[str, list[str]] | None:
    """Which program of ours a command starts, and with what arguments; None for other commands.

    Names are train_gpt.py, golf, golf.lab, benchmarks.gpu, torchrun and make.
    """
    name, *rest = [*words] or [""]
    name = re.sub(r"^(\.\./)*(\.?[\w./-]+/bin/|.*\$\(\w+\)/)", "", name)
    if name == "golf" and rest and re.fullmatch(r"[a-z-]+|[A-Z]+", rest[0]):
        return name, rest
    if name == "torchrun" and any(Path(word).name in SCRIPTS or word == "-m" for word in rest):
        return name, rest
    if name == "make" and rest:
        return name, rest
    if re.fullmatch(r"python[\d.]*", name):
        while rest and re.fullmatch("-[IuBE]", rest[0]):
            rest = rest[1:]
        if rest and Path(rest[0]).name in SCRIPTS:
            return Path(rest[0]).name, rest[1:]
        if rest[:1] == ["-m"] and re.match(r"(golf|benchmarks)(\.|$)", rest[1]):
            return rest[1], rest[2:]
    return None


def launch_text(path: Path) -> str:
    """What a file of launch/ says to its reader, as Markdown on the same lines: comments, or a docstring."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        sources = ["".join(cell["source"]) for cell in cells]
        shell = [re.sub(r"^(?!!).*$", "", source, flags=re.MULTILINE) for source in sources]
        return "\n\n".join(
            source if cell["cell_type"] == "markdown" else re.sub("^!", "    ", lines, flags=re.MULTILINE)
            for cell, source, lines in zip(cells, sources, shell, strict=True)
        )
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(text), clean=False) or ""
    lines = []
    for line in text.splitlines():
        comment = re.match(r"\s*# ?(?!!)(.*)", line)
        said = comment[1] if comment else ""
        lines.append(re.sub(r"^(\$ | {2,3}(?=\S))", "    ", said))
    return "\n".join(lines)
