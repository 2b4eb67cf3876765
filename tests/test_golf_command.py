"""`golf`: its help and that of each command are one screen, and torch is imported only where it is needed."""

import dataclasses
import importlib
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from golf.__main__ import COMMANDS, WINDOWS_HINT, all_commands, main, overview
from golf.programs.completion import print_completion
from golf.run import how_to_resume
from golf.run_folder import RunFolder
from golf.system.cli import invocation
from golf.system.distributed import World
from golf.system.fields import (
    DescribedField,
    DescribedGroup,
    describe_options,
    fill_doc,
    first_sentence,
    flatten,
)

ROOT = Path(__file__).parents[1]
SCREEN = (100, 50)
"""Columns and lines."""
WITHOUT_TORCH = (["--help"], ["check", "--help"], ["report", "--help"], ["compare", "--help"], ["bench"])
SOME_OPTIONS = {
    "train": ("--preset", "--model.width", "--ttt.lora.rank", "--optim.matrix-lr", "--seed"),
    "score": ("--data", "--stride", "--audit"),
    "prove": ("--documents", "--all"),
}


def options_of(name: str) -> type:
    command = all_commands()[name]
    return vars(importlib.import_module(command.module))[command.options]


def help_of(name: str, capsys: pytest.CaptureFixture[str], option: str = "--help") -> str:
    with pytest.raises(SystemExit) as end:
        main([name, option])
    assert end.value.code == 0
    return capsys.readouterr().out


def run_python(code: str, *arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_help_is_one_screen_and_names_every_command(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= SCREEN[1] and max(map(len, lines)) <= 80
    listed = re.findall(r"^  (\w+) +\S", overview(), re.MULTILINE)
    assert listed == list(all_commands()) and len(listed) == sum(map(len, COMMANDS.values()))


@pytest.mark.parametrize("name", all_commands())
def test_the_help_of_a_command_is_one_screen(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(SCREEN[0]))
    lines = help_of(name, capsys).splitlines()
    assert lines[0].startswith(f"usage: golf {name}") and len(lines) <= SCREEN[1]
    assert all(len(line) <= SCREEN[0] for line in lines if not line.startswith("  --"))


@pytest.mark.parametrize("name", all_commands())
def test_the_help_of_a_command_says_what_it_does_with_its_examples_indented(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(SCREEN[0]))
    about = help_of(name, capsys).split("\n\n")[1:]
    assert about[0][0].isupper() and about[0].endswith(".")
    assert not [line for each in about for line in each.splitlines() if line.startswith("golf ")]


def test_paragraphs_of_a_docstring_are_filled_and_examples_kept():
    doc = "Does.\n\n    golf a\n    golf b\n\nOne two three\nfour five.\n"
    assert list(fill_doc(doc, 18)) == [
        "Does.",
        "",
        "    golf a",
        "    golf b",
        "",
        "One two three four",
        "five.",
        "",
    ]


def test_ctrl_c_while_a_command_is_imported_is_one_line(capsys, monkeypatch):
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert main(["report"]) == 130
    assert capsys.readouterr().err == "golf report: stopped\n"


@pytest.mark.parametrize("name", [name for name in all_commands() if name != "bench"])
def test_the_fields_that_are_described_are_those_that_are_read(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    text = help_of(name, capsys, "--help-all")
    read = set(re.findall(r"--[a-z][\w.-]*", text))
    described = [each for each in flatten(describe_options(options_of(name))) if not each.positional]
    missing = [each.flag for each in described if not {each.flag, each.flag.replace("no-", "")} & read]
    assert not missing and set(SOME_OPTIONS.get(name, ())) <= {each.flag for each in described}
    assert all(each.doc for each in described), [each.name for each in described if not each.doc]


@pytest.mark.parametrize("arguments", WITHOUT_TORCH, ids=" ".join)
def test_torch_is_not_imported_for(arguments):
    code = (
        "import sys\nfrom golf.__main__ import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch'"
    )
    done = run_python(code, *arguments)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_check_and_report_and_compare_work_without_torch(tmp_path):
    entry = next((ROOT / "records" / "track_non_record_16mb").glob("*one-minute"))
    code = (
        "import sys\nfrom golf.__main__ import main\ncode = main(sys.argv[1:])\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else code)"
    )
    page = tmp_path / "page.html"
    for arguments in (
        ["check", str(entry)],
        ["report", "--records", str(ROOT / "records"), "--runs", str(tmp_path), "--out", str(page)],
        ["compare", str(entry), str(entry)],
    ):
        done = run_python(code, *arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    assert entry.name in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "golf: no command 'trian'; did you mean 'train'? golf --help lists them\n"),
        (["xyzzy", "--help"], "golf: no command 'xyzzy'; golf --help lists them\n"),
        (["bench", "gpuu"], "golf bench: no benchmark is called 'gpuu'; there are "),
        (["build"], "golf build: "),
        ([], "usage: golf COMMAND"),
    ],
)
def test_a_wrong_command_is_one_message(arguments, message, capsys):
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(message) and not shown.out


def test_bench_lists_every_program_of_benchmarks(capsys):
    assert main(["bench"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    programs = {
        path.stem for path in (ROOT / "benchmarks").glob("*.py")
        if f"python -m benchmarks.{path.stem}" in path.read_text() and "def main(" in path.read_text()
    }  # fmt: skip
    assert listed == programs and "gpu" in listed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_covers_every_command_and_option(shell, capsys):
    print_completion(shell)
    script = capsys.readouterr().out
    assert all(name in script for name in all_commands()) and "optim.matrix-lr" in script
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_the_completion_of_bash_completes(capsys, tmp_path):
    print_completion("bash")
    (tmp_path / "golf").write_text(capsys.readouterr().out)
    ask = (
        f"source {tmp_path}/golf; spec=$(complete -p golf); "
        "COMP_WORDS=(golf tr); COMP_CWORD=1; COMP_LINE='golf tr'; COMP_POINT=7; "
        'f=${spec##*-F }; ${f%% *}; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["train"], done.stderr


@pytest.mark.parametrize(
    ("started", "processes", "words"),
    [
        (["/usr/bin/golf", "train", "--steps", "5"], 1, "golf train"),
        (["C:\\golf.exe" if sys.platform == "win32" else "/x/golf.exe", "train"], 1, "golf train"),
        (["/x/golf/__main__.py", "train"], 1, "golf train"),
        (["/x/golf/__main__.py", "train"], 8, "torchrun --nproc_per_node=8 -m golf train"),
        (["/x/golf/lab/__main__.py", "study"], 1, "python -m golf.lab"),
        (["train_gpt.py", "--steps", "5"], 1, "python train_gpt.py"),
        (["/x/train_gpt.py"], 2, "torchrun --nproc_per_node=2 train_gpt.py"),
    ],
)
def test_the_command_that_goes_on_is_the_one_that_began(started, processes, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", started)
    assert " ".join(invocation(processes)) == words
    told = how_to_resume(RunFolder("runs/my run"), World(size=processes, local_size=processes))
    assert told == f"go on with: {words} --resume 'runs/my run'"


def test_every_script_is_its_command():
    for script, command in (
        ("train_gpt", "train"),
        ("quantize", "quantize"),
        ("eval_bpb", "score"),
        ("ttt", "ttt"),
    ):
        module = importlib.import_module(script)
        assert vars(module)[command] is importlib.import_module(all_commands()[command].module)


def test_groups_keep_their_fields_and_defaults():
    from golf.command import RunCommand, RunOptions
    from golf.presets import PRESETS

    config = PRESETS["h100-10min"].config
    found = list(describe_options(RunCommand, RunCommand(RunOptions(), config)))
    groups = {each.name: each for each in found if isinstance(each, DescribedGroup)}
    fields = {each.name: each for each in flatten(iter(found))}
    assert set(groups) == {
        f.name for f in dataclasses.fields(config) if dataclasses.is_dataclass(vars(config)[f.name])
    }
    assert fields["optim.matrix_lr"].default == 0.035 and fields["ttt.lora.rank"].default == 80
    assert fields["optim.row_normalize"].flag == "--optim.no-row-normalize"
    assert isinstance(fields["preset"], DescribedField) and fields["seeds"].kind == "STR"


def test_the_first_sentence_keeps_abbreviations_of_numbers():
    assert first_sentence("At most 0.5 of it. More.") == "At most 0.5 of it"
    assert first_sentence("One sentence.") == "One sentence"


def test_on_windows_a_command_works_or_says_where_it_does(capsys, monkeypatch):
    monkeypatch.setattr("golf.__main__.sys", types.SimpleNamespace(platform="win32", stderr=sys.stderr))
    assert main(["train", "--steps", "5"]) == 2
    assert capsys.readouterr().err == f"golf train needs Linux or macOS; {WINDOWS_HINT}\n"
    with pytest.raises(SystemExit) as end:
        main(["check", "--help"])
    assert end.value.code == 0


def test_check_and_report_and_compare_need_nothing_that_windows_lacks(tmp_path):
    entry = next((ROOT / "records" / "track_non_record_16mb").glob("*one-minute"))
    code = (
        "import os, signal, sys\n"
        "for name in ('fcntl', 'resource', 'pwd', 'termios'): sys.modules[name] = None\n"
        "for name in ('SIGHUP', 'SIGUSR1', 'SIGALRM', 'SIGKILL'): delattr(signal, name)\n"
        "for name in ('O_NOFOLLOW', 'O_NONBLOCK', 'O_DIRECTORY', 'fork', 'pread'): delattr(os, name)\n"
        "from golf.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    )
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "config.json").write_text("{}")
    where = ["--records", str(ROOT / "records"), "--runs", str(tmp_path / "runs")]
    for arguments in (
        ["check", "--workers", "1", str(entry)],
        ["report", *where, "--out", str(tmp_path / "page.html")],
        ["compare", str(entry), str(entry)],
        ["--help"],
    ):
        done = run_python(code, *arguments)
        assert done.returncode == 0, (arguments, done.stderr[-600:])
