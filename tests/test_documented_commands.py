"""Every command of README.md, CONTRIBUTING.md, docs/ and launch/: ours are run up to where their work begins,
with tiny files in the places of the page's; the others are listed with the reason why not."""

import contextlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from command_lines import OUTPUTS, PROGRAMS, Began, stop_at, time_limit, write_stopped_run, write_study
from documented_commands import (
    SCRIPTS,
    Command,
    UnreadableLine,
    commands_in,
    launch_text,
    own_program,
    split_line,
)
from entry_toys import audit, draw_nothing, make_run
from tiny_samples import tiny_text, tiny_tokenizer, write_evals, write_tiny_artifact, write_tiny_dataset
from torch.distributed.run import get_args_parser

from golf.__main__ import all_commands
from golf.data.manifest import Manifest
from golf.data.vocabulary import Vocabulary
from golf.entry.runs import RECORD_TRACKS
from golf.hub.address import HubAddress
from golf.run_folder import EntryFolder
from golf.system import options as reading

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "docs/figures/*.md", "launch/*")
GENERATED = ("docs/reference.md",)
"""Pages that are written from the classes of the options."""
SECONDS = 60
"""That a command may take; it takes tenths of one."""

MARKED = {
    r"cd ": "a folder of the reader's",
    r"git clone|pip install": "network",
    r"hf (auth|download)": "network, and somebody's token",
    r"rsync|ssh|sleep": "another machine",
    r"docker|modal|sbatch|sky": "a container, a cloud or a cluster; tests of launch/ read its files",
    r"--executor submitit": "a cluster",
    r"golf\.prepare\.common_docs$": "minutes; writes into the package",
}  # fmt: skip
"""Commands that are not run, by the start of one of another program's or by any part of one of ours, and why
not. Ours are still read: options that do not exist, or wrong values, fail."""

NAMES = {
    "train_gpt.py": "train", "quantize.py": "quantize", "eval_bpb.py": "score", "ttt.py": "ttt",
}  # fmt: skip
"""Our programs by their commands; golf.X is X, benchmarks.X is bench X."""
BEGINS = {
    "train": ("golf.command:Trackers",),
    "score": (
        "golf.evaluate:score_once", "golf.audit.rescore:run_project", "golf.audit.proof:score_once",
        "golf.entry.verify:score_by_project",
    ),
    "prove": ("golf.audit.proof:score_once",),
    "verify": ("golf.entry.verify:score_by_project",),
    "prepare": (
        "golf.prepare.sources:prepare_docs", "golf.prepare.sources:fetch_challenge",
        "golf.prepare.sources:stream_dataset", "golf.prepare.sources:build_dataset",
        "golf.prepare.sources:adopt_shards",
    ),
    "report": ("golf.programs.report:watch",),
    "lab": ("golf.lab.__main__:search",),
    "tasks": ("golf.tasks.__main__:run_tasks",),
    "finetune": ("golf.finetune.__main__:finetune", "golf.finetune.stages:pretrain"),
    "chat": ("golf.chat:ChatSession",),
    "push": ("golf.hub.push:send",),
    "submit": ("golf.entry.pull_request:run_in_layout",),
    "export": ("golf.export.__main__:write_safetensors", "golf.export.__main__:write_transformers"),
    "bench gpu": ("benchmarks.gpu:find_machine",),
    "bench recipe": ("benchmarks.recipe:check_config",),
    "bench cpu_record": ("benchmarks.cpu_record:grow",),
    "entry": ("golf.entry_main:open_text",),
    "check": (), "compare": (), "build": (), "doctor": (), "completion": (), "bench": (), "": (),
}  # fmt: skip
"""What begins the work of a program, besides what PROGRAMS says; those that are fast run to their end. Of a
program that is not here, and has no line of PROGRAMS, the options are read."""

EXTENDED = {
    "golf.model.kinds:FEEDFORWARDS": ("gelu2", "gelu"),
    "golf.train.optim:OPTIMIZERS": ("lion", "adamw"),
    "golf.pack.artifact:QUANTIZERS": ("int8", "int5"),
}
"""What docs/extending.md adds to tables, and what stands for it; tests/test_extending.py runs it."""

ENTRY, RUN, DATA, NEW, NUMBER = "ENTRY", "RUN", "DATA", "NEW", "2"
ENTRIES = r"ENTRY|FOLDER|A|B|ARTIFACT_OR_ENTRY|MODEL|records/.*"
MODELS = rf"{ENTRIES}|runs/.*"
BY_OPTION = (
    (rf".* ({'|'.join(OUTPUTS)})", r".*", NEW),
    (r"prepare --(data|out)", r".*", NEW),
    (r"tasks --data|.* --evals", r".*", "EVALS"),
    (r"finetune --(data|sft)", r"(?!data/).*", "CONVERSATIONS"),
    (r"finetune --preferences", r".*", "PREFERENCES"),
    (r".* --(\w+-)?tokenizer", r".*", "TOKENIZER"),
    (r".* --val-shard", r".*", "SHARD"),
    (r"build", r".*", "FINISHED"),
    (r"(score|ttt|prove|chat|tasks|finetune|export|bench .*)( --(model|prove|ttt|audit))?", MODELS, "MODEL"),
    (r"lab", r"STUDY|ideas|.*\.toml", "STUDY"),
    (r"submit --into", r".*", "CLONE"),
    (r".* --repo", r"USER/NAME", None),
    (r".* --preset", r"P|NAME", "cpu"),
    (r".* --device", r"D|cuda(:\d)?", "cpu"),
)  # fmt: skip
"""Program and option (the program alone for a positional), and value: what stands for it, None for itself."""
BY_WORD = (
    (r"hf://.*", None),
    (ENTRIES, ENTRY),
    (r"ARTIFACT|(.*/)?artifact[\w<>]*\.bin", "ARTIFACT"),
    (r"RUN|runs/.*", RUN),
    (r"DIR|DATA|data/[\w.-]+", DATA),
    (r".*\.txt", "TEXT"),
    (r"DOCUMENTS|.*\.(jsonl|json)(\.zst|\.gz)?", "ROWS"),
    (r".*\.model", "TOKENIZER"),
    (r"N|M|S|J|K", NUMBER),
    (r"T", "local"),
    (r"SLUG", "a-name"),
)


def pages(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Name and text of every page."""
    for pattern in PAGES:
        for path in sorted(root.glob(pattern)):
            if path.is_file() and path.relative_to(root).as_posix() not in GENERATED:
                is_launch = path.parent.name == "launch"
                text = launch_text(path) if is_launch else path.read_text(encoding="utf-8")
                yield path.relative_to(root).as_posix(), text


@cache
def documented() -> tuple[Command, ...]:
    """Every command of every page."""
    return tuple(
        command for page, text in pages() for command in commands_in(page, text, page.startswith("launch/"))
    )


def marks_of(command: Command) -> list[str]:
    """The patterns of MARKED that a command matches."""
    find = re.search if own_program(command.words) else re.match
    return [pattern for pattern in MARKED if find(pattern, command.text)]


def name_of(program: str) -> str:
    """The command of a program."""
    kind, _, name = NAMES.get(program, program).partition(".")
    return {"golf": name, "benchmarks": f"bench {name}"}.get(kind, kind)


def beginnings() -> dict[str, set[str]]:
    """What begins the work of each program that is known, by its command."""
    found = {name: set(places) for name, places in BEGINS.items()}
    for each in PROGRAMS:
        module = each.module.removesuffix(".__main__")
        if module != "golf":
            name = name_of(f"{module}.py" if f"{module}.py" in SCRIPTS else module)
            found.setdefault(name, set()).update(filter(None, [each.begins]))
    return found


class Files:
    """Tiny files that stand for those of the pages."""

    def __init__(self, folder: Path):
        self.folder = folder
        source = next(
            path for path in sorted((ROOT / "records").glob("*/*")) if EntryFolder(path).artifact(42).exists()
        )
        entry, data, model = folder.joinpath(*source.parts[-3:]), folder / "dataset", folder / "model"
        shutil.copytree(source, entry)
        write_tiny_dataset(data, tiny_tokenizer(), 1500)
        model.mkdir()
        shutil.copytree(data, model / "data")
        tokenizer, artifact = data / "tiny.model", EntryFolder(model).artifact(1)
        settings = {"method": "lora", "chunk_tokens": 96}
        write_tiny_artifact(artifact, Vocabulary.load(tokenizer), ttt=settings)
        clone = folder / "clone"
        for track in RECORD_TRACKS:
            (clone / "records" / track).mkdir(parents=True)
        (clone / "README.md").touch()
        subprocess.run(["git", "init", "--quiet", clone], check=True)
        write_evals(folder / "evals")
        run = write_stopped_run(folder / "run", artifact, data)
        write_study(folder / "study.toml")
        (folder / "text.txt").write_text("\n\n".join(map(tiny_text, range(100))))
        write_lines(folder / "rows.jsonl", ({"text": tiny_text(seed)} for seed in range(100)))
        write_lines(
            folder / "conversations.jsonl",
            (
                {"instruction": tiny_text(seed), "input": "", "output": tiny_text(seed + 1)}
                for seed in range(40)
            ),
        )
        write_lines(
            folder / "preferences.jsonl",
            ({"prompt": tiny_text(seed), "chosen": tiny_text(seed + 1), "rejected": tiny_text(seed + 2)}
             for seed in range(40)),
        )  # fmt: skip
        self.finished = []
        for seed in (7, 8, 9):
            self.finished.append(make_run(folder / f"finished{seed}", seed))
            audit(self.finished[-1])
        self.places = {
            ENTRY: entry, "MODEL": model, "CLONE": clone, RUN: run.path, DATA: data,
            "ARTIFACT": artifact, "TOKENIZER": tokenizer,
            "STUDY": folder / "study.toml", "EVALS": folder / "evals", "TEXT": folder / "text.txt",
            "ROWS": folder / "rows.jsonl", "SHARD": data / "fineweb_val_000000.bin",
            "CONVERSATIONS": folder / "conversations.jsonl", "PREFERENCES": folder / "preferences.jsonl",
        }  # fmt: skip


class Workplace:
    """A place in which commands are run."""

    def __init__(self, files: Files, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]):
        self.folder, self.places, self.finished = files.folder, files.places, files.finished
        self.patch, self.capture, self.begins = patch, capture, beginnings()

    def fault_of(self, command: Command) -> str | None:
        """What is wrong with a command; None if nothing is."""
        marks = marks_of(command)
        own = own_program(command.words)
        if own is None:
            known = marks or not command.is_shell
            return (
                None if known else f"{command.words[0]} is no program of ours; MARKED says why it is not run"
            )
        program, arguments = own
        if program == "make":
            return self.fault_of_make(command, arguments)
        if program == "golf" and arguments[:1] in (["COMMAND"], ["X"]):
            arguments = ["train", *arguments[1:]]
        if program == "torchrun":
            try:
                asked = get_args_parser().parse_args(arguments)
            except SystemExit:
                return f"torchrun does not take this: {self.capture.readouterr().err}"
            started = ["-m", asked.training_script] if asked.module else [asked.training_script]
            rest = replace(command, words=("python", *started, *asked.training_script_args))
            return self.fault_of(rest) if own_program(rest.words) else f"{started} is no program of ours"
        if (
            program == "golf"
            and arguments
            and re.fullmatch("[a-z-]*[a-z]", arguments[0])
            and not arguments[0].startswith("-")
        ):
            if arguments[0] not in all_commands():
                return f"golf has no command {arguments[0]!r}; there are {', '.join(all_commands())}"
            program, arguments = f"golf.{arguments[0]}", arguments[1:]
        if program in ("golf.bench", "golf bench") and arguments:
            program, arguments = f"benchmarks.{arguments[0]}", arguments[1:]
        name = name_of(program)
        goes_into = ROOT / command.folder if (ROOT / command.folder / "results.json").is_file() else None
        if program == "train_gpt.py" and (command.sets or goes_into):
            name = "entry"
        try:
            module = module_of(name, program)
        except LookupError as error:
            return str(error)
        if not command.is_shell and all(word.startswith("-") for word in arguments):
            return self.fault_of_mention(module, arguments)
        if not hasattr(module, "main"):
            return None if marks and not arguments else f"{module.__name__} takes no arguments"
        try:
            words = arguments if name == "entry" else list(self.fill(name, arguments))
        except LookupError as error:
            return str(error)
        return self.run(name, module, words, not marks, command.sets, goes_into)

    def fill(self, name: str, words: list[str]) -> Iterator[str]:
        """The arguments with files in the places of placeholders; LookupError names one that is unknown."""
        option, finished = "", iter(self.finished)
        for word in words:
            flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
            if flag:
                option = flag
                if not equals:
                    yield word
                    continue
            # A variable of the shell, which a line above has set.
            value = re.sub(r"\$\{?([A-Z_]+)\}?", r"\1", value)
            asked = f"{name} {option}".strip()
            found = next(
                (
                    place
                    for kind, pattern, place in (*BY_OPTION, *((".*", *rule) for rule in BY_WORD))
                    if re.fullmatch(kind, asked) and re.fullmatch(pattern, value)
                ),
                ...,
            )
            if found is ... and is_placeholder(value):
                raise LookupError(
                    f"{value} is a placeholder for which nothing is known to stand (after {asked!r}): "
                    "add it to BY_WORD or BY_OPTION of this test"
                )
            if found == ENTRY and value.startswith("records/track_") and not is_placeholder(value):
                if not (ROOT / value).is_dir():
                    raise LookupError(f"there is no {value}")
            if found is ... or found is None:
                found = value
            elif found == NEW:
                found = value if value == "-" else str(self.folder / uuid4().hex)
            elif found == "FINISHED":
                found = str(next(finished, self.finished[0]))
            else:
                found = str(self.places.get(found, found))
            yield f"{flag}{equals}{found}"

    def run(
        self, name: str, module: Any, words: list[str], is_run: bool, sets: Iterable[str], folder: Path | None
    ) -> str | None:
        """What is wrong with how a program takes arguments, up to the beginning of its work."""
        here = self.folder / uuid4().hex
        (here / "records").mkdir(parents=True)
        with self.patch.context() as patch:
            patch.chdir(folder or here)
            patch.setattr(sys, "argv", [name, *words])
            for each in sets:
                patch.setenv(*each.split("=", 1))
            for place, function in (
                ("golf.prepare.sources.prepare_docs", self.prepare),
                ("golf.prepare.sources.fetch_challenge", self.prepare),
                ("golf.hub.fetch.fetch", self.fetch),
                ("golf.entry.plots.plot_training", draw_nothing),
            ):
                patch.setattr(place, function)
            for place, (new, known) in EXTENDED.items():
                where, table = place.split(":")
                kinds = vars(importlib.import_module(where))[table]
                patch.setitem(kinds, new, kinds[known])
            if is_run and name in self.begins:
                stop_at(patch, self.begins[name])
            else:
                patch.setattr(reading, "check_numbers", stop_after(reading.check_numbers))
            try:
                with time_limit(SECONDS):
                    code = module.main(words)
            except Began:
                code = 0
            except SystemExit as leaving:
                code = leaving.code
            except BaseException as error:
                return f"{type(error).__name__}: {error}"
            finally:
                said = self.capture.readouterr()
        return None if code in (0, None) else f"exit code {code}: {(said.err or said.out)[-600:].strip()}"

    def prepare(self, folder: Path, *others: Any) -> Manifest:
        """In place of a download, or of minutes."""
        shutil.copytree(self.places[DATA], folder, dirs_exist_ok=True)
        return Manifest.load(folder)

    def fetch(self, address: HubAddress) -> Path:
        """In place of a download."""
        if address.kind == "dataset":
            return self.places[DATA]
        return self.places["ARTIFACT" if address.file else "MODEL"]

    def fault_of_mention(self, module: Any, options: list[str]) -> str | None:
        """What is wrong with a program in prose that comes with nothing but names of options."""
        options = [option for option in options if option not in ("--help", "--help-all", "--version")]
        if not options:
            return None
        with contextlib.suppress(SystemExit):
            module.main(["--help-all"])
        text = self.capture.readouterr().out
        unknown = [option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", text)]
        return f"has no option {', '.join(unknown)}" if unknown else None

    def fault_of_make(self, command: Command, words: list[str]) -> str | None:
        """What is wrong with a call of make, or with the commands that it would give."""
        free = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(
            ["make", "-n", *words], cwd=ROOT, env=free, capture_output=True, text=True, check=False
        )
        if done.returncode:
            return f"make: {done.stderr.strip()}"
        for line in done.stdout.replace("\\\n", " ").splitlines():
            with contextlib.suppress(UnreadableLine):
                for given in split_line(command.page, command.line, line):
                    if own_program(given.words) and own_program(given.words)[0] != "make":
                        fault = self.fault_of(replace(given, sets=(), is_shell=True))
                        if fault:
                            return f"{given.text}: {fault}"
        return None


def is_placeholder(word: str) -> bool:
    """Whether a word, or a part of a path or an address, is all capitals."""
    return any(re.fullmatch("[A-Z][A-Z0-9_]*", part) for part in re.split(r"[/=,@:]", word))


def write_lines(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def stop_after(check: Any) -> Any:
    """Checks the options that were read, and begins nothing."""

    def checked(*arguments: Any, **named: Any) -> None:
        check(*arguments, **named)
        raise Began

    return checked


def module_of(name: str, program: str) -> Any:
    """The module whose `main` is called; LookupError where there is none."""
    commands = all_commands()
    if name == "entry":
        module = "golf.entry_main"
    elif name in commands:
        module = commands[name].module
    elif name.startswith("bench "):
        module = f"benchmarks.{name.removeprefix('bench ')}"
    else:
        module = "golf.__main__" if program == "golf" else program
    if importlib.util.find_spec(module) is None:
        raise LookupError(f"there is no {module}")
    return importlib.import_module(module)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def workplace(files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Workplace:
    monkeypatch.setenv("COLUMNS", "200")
    return Workplace(files, monkeypatch, capsys)


def faults_in(commands: Iterable[Command], workplace: Workplace) -> dict[str, str]:
    """What is wrong with commands, each in the words of a page and its line; those alike are run once."""
    faults, seen = {}, {}
    for command in commands:
        alike = (command.words, command.folder, command.sets, command.is_shell)
        if alike not in seen:
            seen[alike] = workplace.fault_of(command)
        if seen[alike] is not None:
            faults[str(command)] = seen[alike]
    return faults


def test_every_command_of_the_pages_is_taken_up_to_where_its_work_begins_or_is_marked(workplace):
    faults = faults_in(documented(), workplace)
    assert not faults, "\n\n".join(f"{command}\n    {fault}" for command, fault in faults.items())


def test_no_mark_is_left_without_a_command():
    used = {pattern for command in documented() for pattern in marks_of(command)}
    assert used == set(MARKED)


@pytest.mark.parametrize(
    "text",
    [
        "make train",
        "pip install -e .",
        "golf score hf://USER/NAME@REVISION --data hf://datasets/USER/NAME",
        "git clone THIS_REPOSITORY golf",
        "golf verify ENTRY --data DIR",
    ],
)
def test_a_command_of_each_kind_is_found_on_some_page(text):
    assert text in {command.text for command in documented()}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("golf train --no-such-option 1", "no-such-option"),
        ("golf train --steps many", "whole number"),
        ("golf train --preset no-such-preset", "--preset is 'no-such-preset'; there are "),
        ("python train_gpt.py --preset h100-10min --minutes 2 --steps 3", "two budgets"),
        ("golf score --data DIR", "An artifact, or a folder"),
        ("golf compare ENTRY", "Missing from golf compare"),
        ("golf trian", "golf has no command 'trian'"),
        ("golf bench gpuu --minutes 2", "no benchmarks.gpuu"),
        ("python -m golf.labb STUDY --data DIR", "no golf.labb"),
        ("golf check records/track_10min_16mb/none", "there is no records/track_10min_16mb/none"),
        ("golf score ENTRY --data WHERE", "WHERE is a placeholder"),
        ("golf prepare --source text --files FILE --vocab-size 300 --data DIR", "FILE is a placeholder"),
        ("torchrun --no-such-option train_gpt.py", "torchrun does not take this"),
        ("torchrun --nproc_per_node=8 train_gpt.py --preset no-such", "'no-such'; there are "),
        ("cd data && golf train --no-such-option", "no-such-option"),
        ("ssh other 'golf train --no-such-option'", "no-such-option"),
        ("SEED=many torchrun train_gpt.py", "argument --seed"),
        ("make no-such-target", "no-such-target"),
        ("make train NO_SUCH=1", "NO_SUCH"),
        ("make train ARGS=--no-such-option", "no-such-option"),
        ("frobnicate --all", "no program of ours"),
    ],
)
def test_a_wrong_command_of_a_page_is_shown_with_page_line_and_message(line, said, workplace):
    faults = faults_in(commands_in("page.md", f"# A page\n\n```sh\n{line}\n```\n"), workplace)
    (where,) = faults
    assert where.startswith("page.md:4: ") and said in faults[where]


@pytest.mark.parametrize(
    "wrong", ["golf train --no-such-option", "python -m golf.lab --no-such", "make no-such", "golf trian"]
)
def test_a_wrong_command_in_prose_is_shown(wrong, workplace):
    (where,) = faults_in(commands_in("page.md", f"One\n\n- two `{wrong}` three\n"), workplace)
    assert where == f"page.md:3: {wrong}"


def test_a_new_command_on_a_new_page_needs_no_line_here(workplace):
    page = """
Then `golf finetune` with `golf score --audit`:

    $ golf train --preset seed --data data/other --minutes 3 \\
        --out runs/other
    step 1 of 3
    $ golf quantize runs/other && golf chat runs/other

| `golf lab STUDY --data DIR [--minutes M \\| --tokens N]` | a study |
"""
    commands = list(commands_in("page.md", page))
    assert [(command.line, command.text) for command in commands] == [
        (4, "golf train --preset seed --data data/other --minutes 3 --out runs/other"),
        (7, "golf quantize runs/other"),
        (7, "golf chat runs/other"),
        (2, "golf finetune"),
        (2, "golf score --audit"),
        (9, "golf lab STUDY --data DIR"),
        (9, "golf lab STUDY --data DIR --minutes M"),
        (9, "golf lab STUDY --data DIR --tokens N"),
    ]
    assert not faults_in(commands, workplace)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "run.sbatch",
            "#!/bin/bash\n# Two nodes:\n#   sbatch launch/run.sbatch --preset cpu\n#SBATCH --nodes=2\n",
        ),
        ("app.py", '"""An app.\n\n    modal run app.py --x 1\n    golf train --preset cpu\n"""\ngolf = 1\n'),
        (
            "notes.ipynb",
            json.dumps({"cells": [{"cell_type": "code", "source": ["x = 1\n", "!golf train --preset cpu"]}]}),
        ),
    ],
)
def test_the_commands_of_a_file_to_launch_are_found(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    found = commands_in(name, launch_text(tmp_path / name), True)
    assert "golf train --preset cpu" in [command.text for command in found]
