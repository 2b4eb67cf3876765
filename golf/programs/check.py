"""Checks any record folders from their files alone, against what they claim; runs nothing that they hold.

    golf check FOLDER...

Exit code 0 without an error, 1 with one, 2 where a folder could not be read.
"""

from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Annotated

import tyro

from golf.check.check import check_folders, exit_code, render, to_json
from golf.system.cli import run_program
from golf.system.options import read_options

MAX_WORKERS = 1024


@dataclass(frozen=True)
class CheckOptions:
    """Which folders, and how to show what was found."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Record folders, any number."""
    json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object per folder, each on its own line."""
    workers: int | None = None
    """Number of processes; by default one per core."""
    all: bool = False
    """Show the infos too, not only their count."""
    explain: bool = False
    """Show how each figure was read: its value, file and line, and the rule."""


def check(options: CheckOptions) -> int:
    """Prints the findings of each folder; the exit code."""
    if not options.folders:
        raise ValueError("no folder was given; expected one or more")
    if options.workers is not None and not 1 <= options.workers <= MAX_WORKERS:
        raise ValueError(f"--workers is {options.workers}; expected 1 to {MAX_WORKERS}")
    reports = check_folders(options.folders, options.workers, options.explain)
    for report in reports:
        print(dumps(to_json(report)) if options.json else render(report, options.all) + "\n")
    return exit_code(reports)


def main(arguments: list[str]) -> int:
    """Exit code: 0 no error found, 1 errors, 2 bad input, 130 stopped."""
    return run_program(
        "golf check", lambda: check(read_options(CheckOptions, arguments, "golf check", __doc__))
    )
