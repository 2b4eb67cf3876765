"""Checks, compares, builds and shows record folders.

    python -m golf check FOLDER...         what each claims against what its files say
    python -m golf compare ENTRY ENTRY     is the first better than the second
    python -m golf build RUN RUN RUN       one entry from several seeds' runs
    python -m golf report [--watch]        records/index.html: every entry, and the runs under way

check exits with 0 without an error, 1 with one, 2 where a folder could not be read; compare with 2 where two
entries cannot be compared, build with 2 where runs do not belong together.
"""

import sys
from functools import partial
from json import dumps
from math import inf
from pathlib import Path
from typing import Annotated

import tyro

from golf.check.check import check_folders, exit_code, render, to_json
from golf.entry.build import build
from golf.entry.compare import compare, read_scores, render_comparison
from golf.entry.runs import Track
from golf.site.render import PAGE_NAME, watch, write_report
from golf.system.cli import run_program
from golf.system.files import require_output
from golf.system.log import RunLog
from golf.system.options import NUMBERS

MAX_WORKERS = 1024


def run_check(
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional],
    json: bool = False,
    workers: int | None = None,
    all: bool = False,
    explain: bool = False,
) -> int:
    """Checks any record folders from their files alone; runs nothing that they hold.

    Args:
        folders: Record folders, any number.
        json: Print one JSON object per folder, each on its own line.
        workers: Number of processes; by default one per core.
        all: Show the infos too, not only their count.
        explain: Show how each figure was read: its value, file and line, and the rule.
    """
    if not folders:
        raise ValueError("no folder was given; expected one or more")
    if workers is not None and not 1 <= workers <= MAX_WORKERS:
        raise ValueError(f"--workers is {workers}; expected 1 to {MAX_WORKERS}")
    reports = check_folders(folders, workers, explain)
    for report in reports:
        print(dumps(to_json(report)) if json else render(report, all) + "\n")
    return exit_code(reports)


def run_compare(a: Annotated[Path, tyro.conf.Positional], b: Annotated[Path, tyro.conf.Positional]) -> int:
    """Tests whether entry A is better than entry B, and how many more seeds would settle it.

    Args:
        a: The entry that should be better.
        b: The entry to beat.
    """
    print(render_comparison(compare(read_scores(a), read_scores(b))))
    return 0


def run_build(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    track: Track = "local",
    blurb: str | None = None,
    author: str = "",
    github_id: str = "",
) -> int:
    """Makes one entry of finished runs that differ in their seed alone.

    Args:
        runs: Run folders, one a seed.
        track: Folder under records/: local, track_non_record_16mb or track_10min_16mb.
        blurb: One sentence on what the entry is.
        author: Who submits the entry; by default as submission.json says, else git's user.name.
        github_id: The author's name on GitHub; by default as submission.json says, else git's github.user.
    """
    print(build(runs, Path("records"), track, blurb, author=author, github_id=github_id))
    return 0


def run_report(
    records: Path = Path("records"),
    runs: Path = Path("runs"),
    out: Path | None = None,
    watch_runs: Annotated[bool, tyro.conf.arg(name="watch")] = False,
    every_seconds: float = 5.0,
) -> int:
    """Writes one page of all entries and of the runs under way; it needs no network.

    Args:
        records: Folder of the tracks.
        runs: Folder of the runs; those without results are shown as under way.
        out: The page to write; by default index.html in `records`.
        watch_runs: Go on and write it anew as logs grow, until Ctrl-C; the page then reads itself again.
        every_seconds: How often to look for changes.
    """
    if not 0 < every_seconds < inf:
        raise ValueError(f"--every-seconds is {every_seconds}; expected more than 0")
    for option, folder in (("records", records), ("runs", runs)):
        if not folder.is_dir() and folder != Path(option):
            raise ValueError(f"--{option} {folder} is no folder")
    page, log = out or records / PAGE_NAME, RunLog()
    require_output(page, "--out")
    if watch_runs:
        watch(records, runs, page, every_seconds, log)
    else:
        log.event("page", path=str(page), bytes=write_report(records, runs, page))
    return 0


COMMANDS = {"check": run_check, "compare": run_compare, "build": run_build, "report": run_report}


def main(arguments: list[str]) -> int:
    """The subcommand's exit code, 2 on bad input, 130 stopped."""
    command = partial(
        tyro.extras.subcommand_cli_from_dict,
        COMMANDS,
        prog="python -m golf",
        description=__doc__,
        args=arguments,
        registry=NUMBERS,
    )
    return run_program("golf", command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
