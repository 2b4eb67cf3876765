"""The log of a run: each event is one line on the console, in a text file and in a JSON lines file."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from golf.system.cli import escape_lines, escape_text, silence
from golf.system.files import naming_full_disk

FILE_COLUMNS = 110
"""Width in characters of tables printed to a file or a pipe; the default of rich is 80."""
SAY_SECONDS = 20.0
"""How often a piece of work says how far it is where there is no terminal to show a bar."""


def format_value(value: object) -> str:
    """The text of a value: floats with 8 digits, sequences joined by commas, dicts as JSON."""
    if isinstance(value, float):
        return f"{value:.8g}" if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, (list, tuple)):
        return ",".join(format_value(item) for item in value)
    return escape_text(str(value))


def format_event(kind: str, fields: dict[str, object]) -> str:
    """The text line of an event, `kind key:value key:value`, the format that public tools parse.

    If a field has the name `kind`, the line starts with that field: `step:10/200 train_loss:3.1`.
    """
    parts = [f"{key}:{format_value(value)}" for key, value in fields.items()]
    return " ".join(parts if kind in fields else [kind, *parts])


class ProgressBar:
    """A progress bar of a known total; without a terminal, a line every SAY_SECONDS by `say`."""

    def __init__(self, progress: Progress, task: TaskID, say: Callable[[str], None] | None):
        self._progress, self._task, self._say = progress, task, say
        self._last_said = time.monotonic()

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        """Adds `amount` in the unit of the bar; `note` replaces the text on its right."""
        notes: dict[str, Any] = {} if note is None else {"note": note}
        self._progress.update(self._task, advance=amount, **notes)
        self._say_sometimes()

    def move_to(self, completed: float, note: str = "") -> None:
        """Sets the bar to `completed` in its unit, and the text on its right."""
        self._progress.update(self._task, completed=completed, note=note)
        self._say_sometimes()

    def _say_sometimes(self) -> None:
        now, task = time.monotonic(), self._progress.tasks[0]
        if self._say is not None and now - self._last_said > SAY_SECONDS and not task.finished:
            self._last_said = now
            self._say(f"{task.description}: {task.percentage:.0f}% {task.fields['note']}".rstrip())


class QuietConsole(Console):
    """A console that shows nothing any more once its reader has gone (`| head`)."""

    def on_broken_pipe(self) -> None:
        """Sends what is still printed nowhere; rich would end the program."""
        self.quiet = True
        silence(sys.stdout)


class Following(Protocol):
    """What follows the JSON lines of a log; `golf.track.start.Trackers` in a run."""

    def news(self) -> list[str]:
        """What there is to say since the last call."""
        ...

    def system_figures(self) -> dict[str, float]:
        """Figures to log beside a step; empty if it is too early for others."""
        ...

    def close(self, done: bool) -> None:
        """Waits, not for long, until every line was taken; `done`: the run came to its end."""


class RunLog:
    """Writes each event to the console, to `<path>.log` as text and to `<path>.jsonl` as JSON.

    Without `path` it writes to the console only; `quiet` turns the console off. Every line is written at
    once, so that a killed run keeps its log, and `trackers` can follow it; what they say is logged, too. As
    a context it is closed at the end of the block.
    """

    def __init__(self, path: Path | None = None, quiet: bool = False, trackers: Following | None = None):
        self.console = QuietConsole(quiet=quiet, highlight=False, soft_wrap=True)
        if not self.console.is_terminal:
            self.console.width = FILE_COLUMNS
        self.path = path
        self._trackers = trackers
        self._start = time.monotonic()
        # Unbuffered: a line that the disk has no room for is not tried again when the file is closed.
        self._files = [open(path.with_suffix(kind), "ab", 0) for kind in (".log", ".jsonl")] if path else []

    def event(self, kind: str, **fields: object) -> None:
        """Logs an event; `fields` are JSON values whose names end with their unit."""
        self._write(format_event(kind, fields), {"event": kind, **fields})
        if kind == "step" and self._trackers is not None and (found := self._trackers.system_figures()):
            self.record("system", **found)

    def record(self, kind: str, **fields: object) -> None:
        """Logs an event to the files only."""
        self._write_files(format_event(kind, fields), {"event": kind, **fields})

    def info(self, text: str) -> None:
        """Logs one line of prose."""
        self._write(text, {"event": "say", "text": text})

    def pass_on(self, text: str) -> None:
        """Shows on the console, with control characters escaped, what another process printed."""
        self.console.print(escape_lines(text), markup=False, end="")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Logs a table of at least one row; in the text file, each row is a line of cells joined by bars."""
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
    def progress(
        self, description: str, total: float, unit: str, lines: bool = True
    ) -> Iterator[ProgressBar]:
        """Shows a progress bar of `total` in `unit` during the block, on a terminal or in a notebook.

        Elsewhere, and with `lines`, it prints lines.
        """
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}"),
        )
        show = (self.console.is_terminal or self._has_widgets()) and not self.console.quiet
        say = (lambda text: self.console.print(text, markup=False)) if lines and not show else None
        with Progress(*columns, console=self.console, transient=True, disable=not show) as progress:
            yield ProgressBar(progress, progress.add_task(description, total=total, note=""), say)

    def _has_widgets(self) -> bool:
        # rich draws a bar in a notebook's page by ipywidgets, and without them warns and draws none.
        return self.console.is_jupyter and find_spec("ipywidgets") is not None

    def close(self, done: bool = True) -> None:
        """Closes trackers, told whether the run is `done`, and files; later events go to the console only."""
        trackers, self._trackers = self._trackers, None
        if trackers is not None:
            trackers.close(done)
            self._say_news(trackers)
        for file in self._files:
            file.close()
        self._files = []

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(done=kind is None)

    def _write(self, text: str, record: dict[str, object]) -> None:
        text = escape_lines(text)
        self.console.print(text, markup=False)
        self._write_files(text, record)

    def _say_news(self, trackers: Following) -> None:
        for line in trackers.news():
            self.info(line)

    def _write_files(self, text: str, record: dict[str, object]) -> None:
        elapsed = round(time.monotonic() - self._start, 3)
        lines = (text, json.dumps({**record, "log_seconds": elapsed}))
        for file, line in zip(self._files, lines, strict=False):
            with naming_full_disk(Path(file.name)):
                file.write(line.encode(errors="replace") + b"\n")
        if self._trackers is not None:
            self._say_news(self._trackers)
