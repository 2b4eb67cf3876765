"""The fields of option classes in words: flag, type, default, docstring; for short help and the reference."""

import ast
import dataclasses
import inspect
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

FLAG_COLUMNS = 30
"""Width in characters of the flags in short help; a longer one has a line of its own."""
MAX_COLUMNS = 110


@dataclass(frozen=True)
class DescribedField:
    """A field as it is typed on a command line and as it is documented."""

    name: str
    """Dotted, as on the command line but with underscores."""
    kind: str
    """Its type: INT, FLOAT, STR, PATH, {a,b}; empty for a switch."""
    default: Any
    """dataclasses.MISSING for a field that must be given."""
    doc: str
    """Its docstring on one line."""
    positional: bool = False

    @property
    def flag(self) -> str:
        """How it is typed: --name, --no-name for a switch that is on, NAME for a positional one."""
        if self.positional:
            return self.name.replace("_", "-").upper()
        part, dot, last = self.name.replace("_", "-").rpartition(".")
        return f"--{part}{dot}{'no-' if self.default is True else ''}{last}"


@dataclass(frozen=True)
class DescribedGroup:
    """A nested option class: its fields are typed with its name and a dot before theirs."""

    name: str
    doc: str
    fields: tuple[DescribedField, ...]
    """Those of groups within it, too."""


@cache
def field_docs(kind: type) -> dict[str, str]:
    """Docstrings of a dataclass's own fields by name, each on one line, read from its source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    body = tree.body[0]
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for node, after in zip(body.body, [*body.body[1:], None], strict=True):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        is_doc = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        docs[node.target.id] = " ".join(str(after.value.value).split()) if is_doc else ""  # type: ignore[union-attr]
    return docs


def kind_of(annotation: Any) -> str:
    """The text of a type on a command line; None beside another type is left out."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(arguments[0])
    if origin in (Union, UnionType):
        return "|".join(kind_of(each) for each in arguments if each is not NoneType)
    if origin is Literal:
        return "{" + ",".join(map(str, arguments)) + "}"
    if origin is tuple:
        one = kind_of(arguments[0])
        return f"{one}..." if arguments[1:] == (...,) else " ".join(map(kind_of, arguments))
    if annotation is bool:
        return ""
    return "PATH" if annotation is Path else annotation.__name__.upper()


def describe_options(
    kind: type, default: Any = None, prefix: str = ""
) -> Iterator[DescribedField | DescribedGroup]:
    """The fields of a dataclass in order; a nested one is a group, and one marked `name=""` stands open.

    Defaults are those of `default`, an instance, where one is given.
    """
    hints, docs = get_type_hints(kind, include_extras=True), field_docs(kind)
    for field in dataclasses.fields(kind):
        hint, marks = hints[field.name], ()
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
        given = default_of(field) if default is None else vars(default)[field.name]
        label = next((vars(mark)["name"] for mark in marks if dataclasses.is_dataclass(mark)), None)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            inner = prefix if label == "" else f"{prefix}{field.name}."
            nested = describe_options(hint, None if given is dataclasses.MISSING else given, inner)
            if label == "":
                yield from nested
            else:
                yield DescribedGroup(inner[:-1], docs[field.name], tuple(flatten(nested)))
            continue
        yield DescribedField(
            prefix + (label or field.name), kind_of(hint), given, docs[field.name],
            any(mark is tyro.conf.Positional for mark in marks),
        )  # fmt: skip


def flatten(found: Iterator[DescribedField | DescribedGroup]) -> Iterator[DescribedField]:
    """All fields, those of groups in their place."""
    for each in found:
        if isinstance(each, DescribedGroup):
            yield from each.fields
        else:
            yield each


def default_of(field: dataclasses.Field[Any]) -> Any:
    """A field's default value; MISSING without one."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def format_default(value: Any) -> str:
    """A default as it is typed; empty where the option is off or decided later."""
    if value is dataclasses.MISSING or value is None or isinstance(value, bool) or value in ("", ()):
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def short_help(kind: type, program: str, doc: str | None, default: Any = None) -> str:
    """One screen: the first sentence of each option, and one line for each group of options."""
    columns = min(MAX_COLUMNS, shutil.get_terminal_size((100, 24)).columns)
    found = list(describe_options(kind, default))
    own = [each for each in found if isinstance(each, DescribedField)]
    groups = [each for each in found if isinstance(each, DescribedGroup)]
    places = " ".join(usage_of(each) for each in own if each.positional)
    needed = " ".join(f"{each.flag} {each.kind}" for each in own if not each.positional and is_required(each))
    lines = [" ".join(filter(None, (f"usage: {program}", places, needed, "[OPTIONS]"))), ""]
    if doc:
        lines += fill_doc(doc, columns)
    for each in own:
        stated = format_default(each.default)
        text = first_sentence(each.doc) + (f" [{stated}]" if stated else "")
        lines += row_of(" ".join(filter(None, (each.flag, each.kind))), text, columns)
    if groups:
        lines.append("")
        for group in groups:
            flag = f"--{group.name.replace('_', '-')}.NAME"
            lines += row_of(flag, f"{group.doc} {len(group.fields)} options", columns)
    end = "--help-all describes every option in full"
    lines += ["", f"{end}, those of groups included." if groups else f"{end}."]
    return "\n".join(lines)


def fill_doc(doc: str, columns: int) -> Iterator[str]:
    """The lines of a docstring, its paragraphs filled to `columns`; its indented examples stay lines."""
    for paragraph in inspect.cleandoc(doc).split("\n\n"):
        for line in paragraph.splitlines() if paragraph.startswith(" ") else [paragraph]:
            yield from textwrap.wrap(line, columns)
        yield ""


def is_required(each: DescribedField) -> bool:
    """Whether an option has no default."""
    return each.default is dataclasses.MISSING


def usage_of(each: DescribedField) -> str:
    """A positional argument in the usage line."""
    name = f"{each.flag}..." if each.kind.endswith("...") else each.flag
    return name if is_required(each) else f"[{name}]"


def first_sentence(text: str) -> str:
    """Up to the first full stop before a space; a text of several sentences keeps its stop off, too."""
    return text.partition(". ")[0].rstrip(".")


def row_of(left: str, right: str, columns: int) -> list[str]:
    """Lines of a two-column list."""
    texts = textwrap.wrap(right, max(20, columns - FLAG_COLUMNS - 2)) or [""]
    indent = " " * (FLAG_COLUMNS + 2)
    if len(left) > FLAG_COLUMNS - 1:
        return [f"  {left}", *(indent + text for text in texts)]
    return [f"  {left:<{FLAG_COLUMNS}}{texts[0]}", *(indent + text for text in texts[1:])]
