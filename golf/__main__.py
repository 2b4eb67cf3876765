"""`golf COMMAND`: one command for every program of the toolkit; `python -m golf COMMAND` is the same.

A command's module is imported when it is called: help needs none of them.
"""

import difflib
import importlib
import sys
from typing import NamedTuple

from golf.entry.release import installed_release
from golf.system.cli import BAD_INPUT, STOPPED, run_program


class Command(NamedTuple):
    """Where a command is, and what it does."""

    module: str
    """Has `main(arguments)`."""
    options: str
    """The class of its options in that module."""
    summary: str


COMMANDS: dict[str, dict[str, Command]] = {
    "from text to an entry": {
        "train": Command("golf.programs.train", "RunCommand", "a whole run, from training to an entry"),
        "prepare": Command("golf.prepare.__main__", "PrepareOptions", "text to shards with a manifest"),
        "quantize": Command("golf.programs.quantize", "QuantizeConfig", "weights to bytes, or a forecast"),
        "score": Command("golf.programs.score", "ScoreCommand", "bits per byte of an artifact or an entry"),
        "ttt": Command("golf.programs.ttt", "TestTimeCommand", "the same with test-time training"),
        "build": Command("golf.programs.build", "BuildOptions", "one entry of several seeds' runs"),
    },
    "whether a number is true": {
        "check": Command("golf.programs.check", "CheckOptions", "any record folder against what it claims"),
        "verify": Command("golf.programs.verify", "VerifyOptions", "an entry's figures, computed again"),
        "prove": Command("golf.programs.prove", "ProveOptions", "the text restored from as many bits"),
        "compare": Command("golf.programs.compare", "CompareOptions", "is one entry better than another"),
    },
    "ideas and models": {
        "lab": Command("golf.lab.__main__", "LabOptions", "compare techniques over seeds, or search"),
        "bench": Command("golf.programs.bench", "BenchOptions", "measure speed, size and cost (in a clone)"),
        "report": Command("golf.programs.report", "ReportOptions", "one page of entries and running runs"),
        "tasks": Command("golf.tasks.__main__", "TasksCommand", "HellaSwag, WikiText-2, SST-2, GSM8K"),
        "finetune": Command("golf.finetune.__main__", "FinetuneCommand", "conversations or preferences"),
        "chat": Command("golf.chat", "ChatCommand", "talk with a model in the terminal"),
    },
    "to others": {
        "submit": Command(
            "golf.programs.submit", "SubmitOptions", "an entry as a pull request to the challenge"
        ),
        "export": Command("golf.export.__main__", "ExportCommand", "weights for safetensors or transformers"),
        "push": Command("golf.hub.push", "PushCommand", "an entry or a dataset to the Hugging Face hub"),
    },
    "this machine": {
        "doctor": Command("golf.programs.doctor", "DoctorOptions", "what it has, and what a run will use"),
        "completion": Command("golf.programs.completion", "CompletionOptions", "for bash, zsh or fish"),
    },
}
"""By group, in the order of the help."""


WINDOWS_HINT = "on Windows it runs in WSL2 (wsl --install), and check, compare and report run as they are"
PORTABLE = ("check", "compare", "report", "completion")
"""Commands that need no file locks, signals or child processes of Linux and macOS."""


def all_commands() -> dict[str, Command]:
    """Every command by its name."""
    return {name: command for group in COMMANDS.values() for name, command in group.items()}


def overview() -> str:
    """The help of `golf`: one screen."""
    lines = [
        "usage: golf COMMAND [OPTIONS]",
        "",
        "Language models whose code and weights fit in 16,000,000 bytes.",
    ]
    for group, commands in COMMANDS.items():
        lines += ["", group, *(f"  {name:<12}{command.summary}" for name, command in commands.items())]
    return "\n".join([*lines, "", "golf COMMAND --help explains a command. Try first: golf train"])


def main(arguments: list[str] | None = None) -> int:
    """The command's exit code; 0 for help, 2 for a command that does not exist, 130 stopped."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    commands = all_commands()
    if name in ("-h", "--help"):
        return run_program("golf", lambda: print(overview()))
    if name == "--version":
        return run_program("golf", lambda: print(installed_release() or "a clone"))
    if name not in commands:
        close = difflib.get_close_matches(name, commands, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        print(
            f"golf: no command {name!r}; {hint}golf --help lists them" if name else overview(),
            file=sys.stderr,
        )
        return BAD_INPUT
    if sys.platform == "win32" and name not in PORTABLE:
        print(f"golf {name} needs Linux or macOS; {WINDOWS_HINT}", file=sys.stderr)
        return BAD_INPUT
    try:
        module = importlib.import_module(commands[name].module)
    except KeyboardInterrupt:
        print(f"golf {name}: stopped", file=sys.stderr)
        return STOPPED
    return module.main(rest)


if __name__ == "__main__":
    sys.exit(main())
