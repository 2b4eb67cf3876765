"""Writes the page of records, once or whenever a file that it shows has changed."""

import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from golf.entry.progress import read_live_runs
from golf.site.load import load_entries
from golf.site.render import render_page
from golf.system.files import atomic_write
from golf.system.log import RunLog

PAGE_NAME = "index.html"
REFRESH_SECONDS = 10
"""After which a browser reloads a watched page."""


def write_report(records_root: Path, runs_root: Path, out: Path, refresh: int | None = None) -> int:
    """Writes the page of everything under both folders, which need not exist; returns its size in bytes."""
    page = render_page(load_entries(records_root), read_live_runs(runs_root), datetime.now(), refresh)
    out.parent.mkdir(parents=True, exist_ok=True)
    data = page.encode("utf-8", errors="replace")
    with atomic_write(out) as partial:
        partial.write_bytes(data)
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
    for pattern in ("*/run.jsonl", "*/results.json", "*/seed*/run.jsonl", "*/seed*/results.json"):
        files += runs_root.glob(pattern)
    found = []
    for path in files:
        with suppress(OSError):  # A run may be moved away meanwhile.
            status = path.stat()
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))
