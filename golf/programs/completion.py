"""Prints a shell's completion script for all commands and options.

    golf completion bash > ~/.local/share/bash-completion/completions/golf
    golf completion zsh > ~/.zfunc/_golf

Exit code 2 on bad input.
"""

import importlib
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from golf.__main__ import all_commands
from golf.system.cli import run_program
from golf.system.options import NUMBERS, read_options


@dataclass(frozen=True)
class CompletionOptions:
    """Which shell."""

    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]
    """bash, zsh or fish."""


def print_completion(shell: str) -> None:
    """Prints tyro's script for one program whose subcommands are the commands."""
    kinds = {
        name: vars(importlib.import_module(command.module))[command.options]
        for name, command in all_commands().items()
    }
    try:
        tyro.extras.subcommand_cli_from_dict(
            kinds, prog="golf", args=["--tyro-print-completion", shell], registry=NUMBERS
        )
    except SystemExit as end:
        if end.code:
            raise


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input."""
    return run_program(
        "golf completion",
        lambda: print_completion(
            read_options(CompletionOptions, arguments, "golf completion", __doc__).shell
        ),
    )
