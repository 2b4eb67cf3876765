"""Checks and compares record folders.

    python -m golf check FOLDER...         what each claims against what its files say
    python -m golf compare ENTRY ENTRY     is the first better than the second
    python -m golf build RUN RUN RUN       one entry from several seeds' runs
    python -m golf report [--watch]        records/index.html: every entry, and the runs under way

check exits with 0 without an error, 1 with one, 2 where a folder could not be read; compare with 2 where two
entries cannot be compared, build with 2 where runs do not belong together.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from golf.check.check import check_folders, exit_code, render, to_json
from golf.entry.build import build
from golf.entry.compare import compare, read_scores, render_comparison
from golf.site.render import PAGE_NAME, watch, write_report
from golf.system.cli import run_program
from golf.system.log import RunLog


@dataclass(frozen=True)
class Check:
    """Checks any record folders from their files alone; runs nothing that they hold."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Record folders, any number."""
    json: bool = False
    """Print one JSON object per folder, each on its own line."""
    workers: int | None = None
    """Number of processes; by default one per core."""


@dataclass(frozen=True)
class Compare:
    """Tests whether entry A is better than entry B, and how many more seeds would settle it."""

    a: Annotated[Path, tyro.conf.Positional]
    """The entry that should be better."""
    b: Annotated[Path, tyro.conf.Positional]
    """The entry to beat."""


@dataclass(frozen=True)
class Build:
    """Makes one entry of finished runs that differ in their seed alone."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, one a seed."""
    track: str = "local"
    """Folder under records/: local, track_non_record_16mb or track_10min_16mb."""
    blurb: str | None = None
    """One sentence on what the entry is."""


@dataclass(frozen=True)
class Report:
    """Writes one page of all entries and of the runs under way; it needs no network."""

    records: Path = Path("records")
    """Folder of the tracks."""
    runs: Path = Path("runs")
    """Folder of the runs; those without results are shown as under way."""
    out: Path | None = None
    """The page to write; by default index.html in `records`."""
    watch: bool = False
    """Go on and write it anew as logs grow, until Ctrl-C; the page then reads itself again."""
    every_seconds: float = 5.0
    """How often to look for changes."""


def run_check(command: Check) -> int:
    """Prints one report per folder; returns the exit code. Raises ValueError if no folder is given."""
    if not command.folders:
        raise ValueError("no folder was given; expected one or more")
    reports = check_folders(command.folders, command.workers)
    for report in reports:
        print(json.dumps(to_json(report)) if command.json else render(report) + "\n")
    return exit_code(reports)


def run_compare(command: Compare) -> int:
    """Prints the comparison; the exit code."""
    print(render_comparison(compare(read_scores(command.a), read_scores(command.b))))
    return 0


def run_build(command: Build) -> int:
    """Prints the entry's folder; the exit code."""
    print(build(command.runs, Path("records"), command.track, command.blurb))
    return 0


def run_report(command: Report) -> int:
    """Writes the page, once or until Ctrl-C; the exit code. ValueError for no time between two looks."""
    if not command.every_seconds > 0:
        raise ValueError(f"--every-seconds is {command.every_seconds}; expected more than 0")
    out, log = command.out or command.records / PAGE_NAME, RunLog()
    if command.watch:
        watch(command.records, command.runs, out, command.every_seconds, log)
    else:
        log.event("page", path=str(out), bytes=write_report(command.records, command.runs, out))
    return 0


def run_command(command: Check | Compare | Build | Report) -> int:
    """Runs one subcommand; its exit code."""
    match command:
        case Check():
            return run_check(command)
        case Compare():
            return run_compare(command)
        case Build():
            return run_build(command)
        case Report():
            return run_report(command)


def main(arguments: list[str]) -> int:
    """The subcommand's exit code, 2 on bad input, 130 stopped."""
    command = tyro.cli(
        Annotated[Check, tyro.conf.subcommand("check")]
        | Annotated[Compare, tyro.conf.subcommand("compare")]
        | Annotated[Build, tyro.conf.subcommand("build")]
        | Annotated[Report, tyro.conf.subcommand("report")],
        args=arguments,
        prog="python -m golf",
        description=__doc__,
    )
    return run_program("golf", lambda: run_command(command))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
