"""One event makes one console line and one JSON line; a bar shows progress in between."""

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

FILE_COLUMNS = 110
"""Width of tables in a file or a pipe, which have none of their own; rich would take 80."""


def format_value(value: object) -> str:
    """A field's value as the log prints it: floats to 8 digits, sequences comma-joined, dicts as JSON."""
    if isinstance(value, float):
        return f"{value:.8g}" if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, (list, tuple)):
        return ",".join(format_value(item) for item in value)
    return str(value)


def format_event(kind: str, fields: dict[str, object]) -> str:
    """The text form of an event, `kind key:value key:value`, as public tools read it.

    An event with a field of its own name starts with that field: `step:10/200 train_loss:3.1`.
    """
    parts = [f"{key}:{format_value(value)}" for key, value in fields.items()]
    return " ".join(parts if kind in fields else [kind, *parts])


class ProgressBar:
    """A bar of a known total; `advance` moves it and may show a few figures beside it."""

    def __init__(self, progress: Progress, task: TaskID):
        self._progress = progress
        self._task = task

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        """Moves the bar by `amount` of its unit; `note` replaces the text on its right."""
        if note is None:
            self._progress.update(self._task, advance=amount)
        else:
            self._progress.update(self._task, advance=amount, note=note)

    def move_to(self, completed: float, note: str = "") -> None:
        """Sets the bar to `completed` of its total."""
        self._progress.update(self._task, completed=completed, note=note)


class RunLog:
    """Writes each event to the console, to `<stem>.log` as plain text and to `<stem>.jsonl` as JSON.

    Without a path it writes to the console alone; `quiet` keeps the console still (files are written all
    the same). Every line is flushed as it is written, so a killed run keeps its log.
    """

    def __init__(self, path: Path | None = None, quiet: bool = False):
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        if not self.console.is_terminal:
            self.console.width = FILE_COLUMNS
        self.path = path
        self._start = time.monotonic()
        self._text = open(path.with_suffix(".log"), "a", encoding="utf-8") if path else None
        self._json = open(path.with_suffix(".jsonl"), "a", encoding="utf-8") if path else None

    def event(self, kind: str, **fields: object) -> None:
        """Records one event; `fields` are JSON values whose names carry their unit."""
        self._write(format_event(kind, fields), {"event": kind, **fields})

    def record(self, kind: str, **fields: object) -> None:
        """Records an event in the files alone: for what a reader of the console does not need."""
        self._write_files(format_event(kind, fields), {"event": kind, **fields})

    def info(self, text: str) -> None:
        """Records one line meant for the person who reads along."""
        self._write(text, {"event": "say", "text": text})

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Prints a table of at least one row on the console; the text log gets its cells, one row a line."""
        table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        for column, values in zip(columns, zip(*rows, strict=True), strict=True):
            numeric = any(isinstance(value, (int, float)) for value in values)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        cells = [[format_value(cell) for cell in row] for row in rows]
        for row in cells:
            table.add_row(*row)
        self.console.print(table)
        self._write_files(
            "\n".join([title, *(" | ".join(row) for row in [list(columns), *cells])]),
            {"event": "table", "title": title, "columns": list(columns), "rows": cells},
        )

    @contextmanager
    def progress(self, description: str, total: float, unit: str) -> Iterator[ProgressBar]:
        """Shows a bar of `total` `unit`s while the block runs (on a terminal only)."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}"),
        )
        show = self.console.is_terminal and not self.console.quiet
        with Progress(*columns, console=self.console, transient=True, disable=not show) as progress:
            yield ProgressBar(progress, progress.add_task(description, total=total, note=""))

    def close(self) -> None:
        """Closes the files; the log takes no event after it."""
        for file in (self._text, self._json):
            if file:
                file.close()
        self._text = self._json = None

    def _write(self, text: str, record: dict[str, object]) -> None:
        self.console.print(text, markup=False)
        self._write_files(text, record)

    def _write_files(self, text: str, record: dict[str, object]) -> None:
        if self._text and self._json:
            elapsed = round(time.monotonic() - self._start, 3)
            self._text.write(text + "\n")
            self._json.write(json.dumps({**record, "log_seconds": elapsed}) + "\n")
            self._text.flush()
            self._json.flush()
