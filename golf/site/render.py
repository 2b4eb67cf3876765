"""HTML pages from templates, and records/index.html, written once or whenever a file it shows changes."""

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from golf.entry import plots
from golf.entry.progress import LiveRun, read_live_runs, run_folders
from golf.entry.readme import stage_rows
from golf.pack.fit import LIMIT_BYTES
from golf.plotting import css_border
from golf.site.load import EntryView, best_of, group_by_text, load_entries
from golf.system.files import write_bytes
from golf.system.log import RunLog

PAGE_NAME = "index.html"
REFRESH_SECONDS = 10
"""After which a browser reloads a watched page."""


@lru_cache
def html_environment(package: str = "golf.site") -> Environment:
    """Templates of `package` and, for those it extends and includes, of golf.site; every value is escaped."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("golf.site")]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "number": lambda value, spec=",.0f": "" if value is None else format(value, spec),
        "duration": duration,
        "hardware": plain_hardware,
        "border": css_border,
        "median": np.median,
    }
    return environment


def render_page(
    entries: Sequence[EntryView], live: Sequence[LiveRun], now: datetime, refresh: int | None
) -> str:
    """The whole page as HTML; with `refresh` a browser reads it again after so many seconds."""
    return (
        html_environment()
        .get_template("records.html.j2")
        .render(
            groups=group_by_text(entries),
            best=best_of(entries),
            live=live,
            now=now,
            refresh=refresh,
            limit=LIMIT_BYTES,
            plots=plots,
            stage_rows=stage_rows,
        )
    )


def duration(seconds: float | None) -> str:
    """A time in the unit that suits it."""
    if seconds is None:
        return "not stated"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def plain_hardware(name: str) -> str:
    """A processor's name without its maker's marks."""
    return " ".join(re.sub(r"\((R|TM)\)|Processor", "", name).split())


def write_report(records_root: Path, runs_root: Path, out: Path, refresh: int | None = None) -> int:
    """Writes the page of everything under both folders, which need not exist; returns its size in bytes."""
    page = render_page(load_entries(records_root), read_live_runs(runs_root), datetime.now(), refresh)
    data = page.encode("utf-8", errors="replace")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, data)
    return len(data)


def watch(records_root: Path, runs_root: Path, out: Path, every_seconds: float, log: RunLog) -> None:
    """Writes the page again whenever a file that it shows has changed, until Ctrl-C."""
    seen = None
    try:
        while True:
            found = signature(records_root, runs_root)
            if found != seen:
                size = write_report(records_root, runs_root, out, REFRESH_SECONDS)
                log.event("page", path=str(out), bytes=size)
                seen = found
            time.sleep(every_seconds)
    except KeyboardInterrupt:
        write_report(records_root, runs_root, out)
        log.info("stopped; the page no longer reloads itself")


def signature(records_root: Path, runs_root: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of every file whose change would change the page."""
    files = list(records_root.glob("*/*/*.json"))
    files += [path for folder in run_folders(runs_root) for path in (folder.events, folder.results)]
    found = []
    for path in files:
        with suppress(OSError):  # A run may be moved away meanwhile, or have no results yet.
            status = path.stat()
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))
