"""Prints docs/reference.md: every command with its options, and every preset, from the code.

    python -m golf.programs.reference > docs/reference.md

It imports the module of every command, torch with them.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator

from golf.__main__ import COMMANDS, Command
from golf.command import RunCommand
from golf.config import RunConfig
from golf.presets import PRESETS
from golf.system.cli import run_program
from golf.system.fields import (
    DescribedField,
    DescribedGroup,
    describe_options,
    format_default,
    is_required,
    usage_of,
)
from golf.system.options import named_values

HEAD = """\
# Reference: commands, options, presets

`python -m golf.programs.reference > docs/reference.md` writes this page from the docstrings of the code; a
test compares them. `golf COMMAND --help` prints one screen, `golf COMMAND --help-all` every option. An option
is typed `--name VALUE` or `--name=VALUE`; hyphens and underscores are the same. A switch that is on is turned
off with `--no-name`. Unknown options are errors. "default" is that of the option's class; a preset changes
some of them ([presets](#presets)), and a blank means off or decided by the program, as the text says.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the answer is no: over the limit, not verified, an error found, a failed audit |
| 2 | unusable input, a full disk or too little memory, in one line on standard error |
| 130, 143, 138, 129 | stopped by Ctrl-C, SIGTERM, SIGUSR1, a closed terminal; training saves its state |
| 141 | what read the output has closed it |
"""
OTHER_FORMS = {
    "train": ("--score", "golf.command", "ScoreCommand"),
    "finetune": ("--stages", "golf.finetune.stages", "StagesCommand"),
}
"""Commands that have options of their own with a certain one: it, and the class of those options."""
GROUPS_OF_TRAIN = {
    each.name: each for each in describe_options(RunCommand) if isinstance(each, DescribedGroup)
}
"""Parts of the configuration of a run, which other commands take too."""


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|")


def code(text: str) -> str:
    """Text as code in a cell; empty for none."""
    return f"`{cell(text)}`" if text else ""


def prose(text: str) -> str:
    """A docstring as Markdown: what looks like markup to a reader of Markdown is none."""
    parts = re.split(r"(`[^`]*`)", cell(text))
    return "".join(
        each if each.startswith("`") else re.sub(r"([*\[])", r"\\\1", each).replace("<", "&lt;")
        for each in parts
    )


def default_cell(each: DescribedField) -> str:
    """A field's default as a reader wants it."""
    if is_required(each):
        return "required"
    if isinstance(each.default, bool):
        return "on" if each.default else "off"
    return code(format_default(each.default))


def table(fields: list[DescribedField]) -> Iterator[str]:
    """Lines of the table of options; none without a field."""
    if not fields:
        return
    yield from ("| option | value | default | meaning |", "|---|---|---|---|")
    for each in fields:
        row = (code(each.flag), code(each.kind), default_cell(each), prose(each.doc))
        yield f"| {' | '.join(row)} |"


def paragraphs(doc: str) -> Iterator[str]:
    """A module's docstring as Markdown: its commands as a block, the rest as text."""
    for block in re.split(r"\n\s*\n", inspect.cleandoc(doc)):
        lines = [line.strip() for line in block.splitlines()]
        if all(line.startswith(("golf ", "python ")) for line in lines):
            yield "\n".join(["```text", *lines, "```"])
        else:
            yield prose(" ".join(lines))


def describe_command(name: str, command: Command) -> Iterator[str]:
    """The section of one command, paragraph by paragraph."""
    module = importlib.import_module(command.module)
    yield f"### golf {name}"
    yield from paragraphs(module.__doc__ or "")
    yield from describe_class(name, f"golf {name}", vars(module)[command.options])
    if name in OTHER_FORMS:
        flag, where, options = OTHER_FORMS[name]
        kind = vars(importlib.import_module(where))[options]
        yield f"#### golf {name} {flag}"
        yield prose(inspect.cleandoc(kind.__doc__ or ""))
        yield from describe_class(name, f"golf {name} {flag}", kind)


def describe_class(name: str, title: str, kind: type) -> Iterator[str]:
    """Usage and options of a class, those of its groups below."""
    found = list(describe_options(kind))
    own = [each for each in found if isinstance(each, DescribedField)]
    needed = [usage_of(each) for each in own if each.positional]
    needed += [f"{each.flag} {each.kind}" for each in own if not each.positional and is_required(each)]
    yield f"Usage: `{' '.join(['golf', name, *needed, '[OPTIONS]'])}`"
    yield "\n".join(table(own))
    for group in found:
        if not isinstance(group, DescribedGroup):
            continue
        if name != "train" and group == GROUPS_OF_TRAIN.get(group.name):
            shown = f"`--{group.name.replace('_', '-')}.NAME`"
            yield f"{shown}: {prose(group.doc)} As in [golf train](#golf-train-{group.name})."
            continue
        yield f"#### {title}: {group.name}"
        yield prose(group.doc)
        yield "\n".join(table(list(group.fields)))


def describe_presets() -> Iterator[str]:
    """The presets, each by what it changes of the defaults or of the nearest preset before it."""
    yield "## Presets"
    yield (
        '`golf train --preset NAME`. "text" is what a run without `--data` trains on: the documentation of '
        "Python and its packages, or the challenge's FineWeb. Options come after the preset."
    )
    lines = ["| preset | text | purpose |", "|---|---|---|"]
    for name, preset in PRESETS.items():
        lines.append(f"| [`{name}`](#preset-{name}) | {preset.source} | {prose(preset.purpose)} |")
    yield "\n".join(lines)
    known = {"": dict(named_values(RunConfig()))}
    for name, preset in PRESETS.items():
        values = dict(named_values(preset.config))
        near, changed = min(
            ((other, different(given, values)) for other, given in known.items()),
            key=lambda pair: len(pair[1]),
        )
        known[name] = values
        yield f"### preset {name}"
        base = f"[`{near}`](#preset-{near})" if near else "The defaults"
        if not changed:
            yield f"{base} as they are."
            continue
        settings = [f"`{field} {format_value(value)}`" for field, value in changed.items()]
        yield f"{base} with {', '.join(settings)}."


def different(before: dict[str, object], now: dict[str, object]) -> dict[str, object]:
    """What `now` has other than `before`."""
    return {name: value for name, value in now.items() if before[name] != value}


def format_value(value: object) -> str:
    """A value as it is typed; `none` for None, an empty tuple and the empty text."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return format_default(value) or "none"


def reference() -> str:
    """The page."""
    blocks = [HEAD.rstrip()]
    for group, commands in COMMANDS.items():
        blocks.append(f"## {group[0].upper()}{group[1:]}")
        for name, command in commands.items():
            blocks += describe_command(name, command)
    blocks += describe_presets()
    return "\n\n".join(block for block in blocks if block) + "\n"


def main() -> int:
    """Exit code: 0 done."""
    return run_program("reference", lambda: print(reference(), end=""))


if __name__ == "__main__":
    sys.exit(main())
