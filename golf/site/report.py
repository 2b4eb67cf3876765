"""Writes the page of records, once or whenever a file that it shows has changed."""

import time
from datetime import datetime
from pathlib import Path

from golf.entry.progress import read_live_runs
from golf.site.load import load_entries
from golf.site.page import render_page
from golf.system.files import atomic_write
from golf.system.log import RunLog

PAGE_NAME = "index.html"
REFRESH_SECONDS = 10
"""After which a browser reads a watched page again."""


def write_report(records_root: Path, runs_root: Path, out: Path, refresh: int | None = None) -> int:
    """Writes the page of everything under both folders, which need not exist; its size in bytes."""
    page = render_page(load_entries(records_root), read_live_runs(runs_root), datetime.now(), refresh)
    out.parent.mkdir(parents=True, exist_ok=True)
    data = page.encode("utf-8", errors="replace")
    with atomic_write(out) as partial:
        partial.write_bytes(data)
    return len(data)


def watch(records_root: Path, runs_root: Path, out: Path, every_seconds: float, log: RunLog) -> None:
    """Writes the page anew whenever something grew or came, until Ctrl-C."""
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
        log.info("stopped; the page no longer reads itself again")


def signature(records_root: Path, runs_root: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of every file whose change would change the page."""
    patterns = ((records_root, "*/*/*.json"), (runs_root, "*/run.jsonl"), (runs_root, "*/seed*/run.jsonl"))
    patterns += ((runs_root, "*/results.json"), (runs_root, "*/seed*/results.json"))
    found = []
    for root, pattern in patterns:
        for path in root.glob(pattern):
            try:
                status = path.stat()
            except OSError:
                # A run that was moved away between the two looks.
                continue
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))
