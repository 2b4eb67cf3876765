"""Writes one page of all entries and of the runs under way; it needs no network.

    golf report            records/index.html
    golf report --watch    writes it anew as logs grow

Exit code 2 on bad input, 130 when stopped.
"""

from dataclasses import dataclass
from math import inf
from pathlib import Path

from golf.site.render import PAGE_NAME, watch, write_report
from golf.system.cli import run_program
from golf.system.files import require_output
from golf.system.log import RunLog
from golf.system.options import read_options


@dataclass(frozen=True)
class ReportOptions:
    """What to show, and where."""

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


def report(options: ReportOptions) -> None:
    """Writes the page, once or until Ctrl-C; ValueError for bad options."""
    if not 0 < options.every_seconds < inf:
        raise ValueError(f"--every-seconds is {options.every_seconds}; expected more than 0")
    for name in ("records", "runs"):
        folder = vars(options)[name]
        if not folder.is_dir() and folder != Path(name):
            raise ValueError(f"--{name} {folder} is no folder")
    if not options.records.exists() and options.runs.is_dir():
        # The first run of a folder is under way.
        options.records.mkdir()
    page, log = options.out or options.records / PAGE_NAME, RunLog()
    require_output(page, "--out")
    if options.watch:
        watch(options.records, options.runs, page, options.every_seconds, log)
    else:
        log.event("page", path=str(page), bytes=write_report(options.records, options.runs, page))


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""
    return run_program(
        "golf report", lambda: report(read_options(ReportOptions, arguments, "golf report", __doc__))
    )
