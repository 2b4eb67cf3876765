"""Wrong command lines, made from each program's own --help-all: one plain message and exit code 2, never a
traceback, and nothing begins to run. Programs that read text are in test_wrong_options.py."""

import importlib
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from command_lines import (
    OUTPUTS,
    PROGRAMS,
    Began,
    Program,
    stop_at,
    time_limit,
    write_stopped_run,
    write_study,
)
from tiny_samples import tiny_text, tiny_tokenizer, write_tiny_artifact, write_tiny_dataset

from golf.data.vocabulary import Vocabulary

OPTION = re.compile(
    r"^ {2}(--[a-z][\w.-]*)(?:, --?[\w.-]+(?: [A-Z]+)?)*(?: +(\{[^}]*\}\S*|\[?[A-Z]+(?![a-z])))?", re.M
)
RAW = re.compile(
    r"Traceback|invalid literal|could not convert|\w+\(\w+=|\[Errno \d+\](?!.*/)|Error\(|<class|object at 0x|"
    r"^[\w. -]+: '?[\w.]+'?$|NoneType|unexpected keyword|expected np|must be (str|int|real)|argument of type"
)
"""What a message of Python's own, or a value of the program's inside, looks like."""
MAX_LINES = 25
"""Of a message; tyro's box of the options that resemble a wrong one is the longest."""
BEGAN = "it began to run"
NUM_LINES = 205
SECONDS = 10


class Line(NamedTuple):
    """A wrong command line, and what a message may name."""

    program: Program
    arguments: tuple[str, ...]
    named: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.program.module} {' '.join(map(repr, self.arguments))}"


FREE = (
    "--prompt --origin --licence --name --text-field --blurb --dataset --configuration --repository "
    "--revision --author --github-id --endpoint --job --hardware --origin"
).split()
"""Options that take any text."""
WRONG = {
    "INT": ("many", "1.5", "-3", "nan", "", "9" * 40, "1e3"),
    "FLOAT": ("many", "-1", "nan", "inf", "", "-inf"),
    "STR": ("no-such-thing", "", "\x1b[31m"),
    "input": ("MISSING", "EMPTY", "GARBAGE", "LONG", "EMPTY/below", "EMPTYFOLDER"),
    "output": ("EMPTY/below", "LONG", "EMPTY/below/deeper"),
}


def help_of(program: Program, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        importlib.import_module(program.module).main(program.help.split())
    return capsys.readouterr().out


def options_of(text: str) -> Iterator[tuple[str, str]]:
    """The options of a --help-all with the kind of their value, "" for flags."""
    for option, kind in OPTION.findall(text):
        if option not in ("--help-all", "--version"):
            yield option, kind


def wrong_values(option: str, kind: str) -> tuple[str, ...]:
    if not kind or option in FREE:
        return ()
    for name in ("INT", "FLOAT"):
        if name in kind:
            return WRONG[name]
    if "PATH" in kind:
        return WRONG["output" if option in OUTPUTS else "input"]
    return WRONG["STR"]


def wrong_lines(program: Program, text: str) -> Iterator[Line]:
    """Each option without a value, with each wrong value; each place of the line wrong or left out."""
    for line in any_lines(program, text):
        if not set(line.named) & set(program.fine):
            yield line


def any_lines(program: Program, text: str) -> Iterator[Line]:
    words = program.line.split()
    yield Line(program, (*words, "--no-such-option"), ("no-such-option",))
    for option, kind in options_of(text):
        if kind and not kind.startswith("["):
            yield Line(program, (*words, option), (option,))
        for value in wrong_values(option, kind):
            rest = words
            if option in words:
                place = words.index(option)
                rest = [*words[:place], *words[place + 2 :]]
            yield Line(program, (*rest, option, value), (option, value))
    for place, word in enumerate(words):
        if word.isupper() and word != "NEW":
            before = words[place - 1] if place and words[place - 1].startswith("-") else word
            for value in WRONG["input"]:
                yield Line(program, (*words[:place], value, *words[place + 1 :]), (value, before))
            yield Line(program, (*words[:place], *words[place + 1 :]), (before, "data", "missing", "no "))


def fault_of(line: Line, places: dict[str, str], capsys: Any, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """What is wrong with how a program answers a line; None if nothing is."""

    # A folder that an earlier line has made is not new.
    places = {**places, "NEW": f"{places['NEW']}{uuid4().hex}"}
    arguments = [
        places.get(word.split("/")[0], word.split("/")[0]) + word[len(word.split("/")[0]) :]
        for word in line.arguments
    ]
    with monkeypatch.context() as patch:
        # As `python X.py` or `python -m X` has it.
        patch.setattr(sys, "argv", [line.program.module, *arguments])
        stop_at(patch, filter(None, [line.program.begins]))
        try:
            with time_limit(SECONDS):
                code = importlib.import_module(line.program.module).main(arguments)
        except SystemExit as leaving:
            code = leaving.code
        except Began:
            return BEGAN
        # Whatever it is, a user saw a traceback.
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
    said_in = capsys.readouterr()
    # golf check reports a folder that it cannot read like any other.
    err = said_in.err or said_in.out
    if code != 2:
        return f"exit code {code}; {err[-300:]}"
    if raw := RAW.search(err):
        return f"{raw.group()!r} in {err}"
    if not 0 < len(err.splitlines()) <= MAX_LINES:
        return f"{len(err.splitlines())} lines: {err}"
    said = err.lower().replace("_", "-").replace("\n", " ")
    # `--speed.* goes without an artifact` names an option by its part.
    names = [name.split(".")[0].strip("-") + "." for name in line.named if "." in name.strip(".")]
    if any(name in said for name in names):
        return None
    if any(repr(name)[1:-1] in err for name in line.named if not name.isprintable()) or "''" in err:
        return None
    names = [name.lower().strip("-").replace("_", "-").split(".")[-1] for name in line.named]
    names += [
        places[name.split("/")[0]].lower().replace("_", "-")[-40:]
        for name in line.named
        if name.split("/")[0] in places
    ]
    if not any(name and name in said for name in names):
        return f"names none of {names}: {err}"
    return None


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """What the capitals of a line stand for."""
    data, artifact = tmp_path / "data", tmp_path / "artifact.bin"
    write_tiny_dataset(data, tiny_tokenizer(), 60)
    write_tiny_artifact(artifact, Vocabulary.load(data / "tiny.model"))
    empty, garbage, folder, text = (tmp_path / name for name in ("empty", "garbage", "folder", "text.jsonl"))
    empty.touch()
    garbage.write_bytes(random.Random(0).randbytes(3000))
    (tmp_path / "empty_folder").mkdir()
    (folder / "entry").mkdir(parents=True)
    text.write_text("".join(json.dumps({"text": tiny_text(seed)}) + "\n" for seed in range(40)))
    write_study(tmp_path / "study.toml")
    run = write_stopped_run(tmp_path / "run", artifact, data)
    return {
        "DATA": str(data), "ARTIFACT": str(artifact), "RUN": str(run), "NEW": str(tmp_path / "new"),
        "FOLDER": str(folder), "TEXT": str(text), "STUDY": str(tmp_path / "study.toml"),
        "MODEL": str(data / "tiny.model"), "MISSING": str(tmp_path / "missing"), "EMPTY": str(empty),
        "GARBAGE": str(garbage), "LONG": str(tmp_path / ("x" * 300)),
        "EMPTYFOLDER": str(tmp_path / "empty_folder"),
    }  # fmt: skip


@pytest.mark.slow
def test_wrong_command_lines_are_answered_in_a_few_plain_lines_and_nothing_runs(
    places: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    for program in PROGRAMS:
        line = Line(program, tuple(program.line.split()), ())
        found = fault_of(line, places, capsys, monkeypatch)
        assert not program.begins or found == BEGAN, f"{program}\n    {found}"
    lines = [line for program in PROGRAMS for line in wrong_lines(program, help_of(program, capsys))]
    monkeypatch.setenv("COLUMNS", "100")
    lines = random.Random(0).sample(lines, NUM_LINES)
    faults = {str(line): fault_of(line, places, capsys, monkeypatch) for line in lines}
    faults = {line: fault for line, fault in faults.items() if fault is not None}
    assert not faults, "\n\n".join(f"{line}\n    {fault}" for line, fault in faults.items())
