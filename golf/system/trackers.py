"""Trackers: where a run's events go besides its own log files.

Each is a package of its own, imported when it is asked for.
"""

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class TrackerError(ValueError):
    """A tracker was asked for that is unknown or whose package is not installed."""


class Tracker(Protocol):
    """What a run's log calls for each event; an error that it raises ends the tracking, never the run."""

    def event(self, kind: str, fields: Mapping[str, object], step: int) -> None:
        """Takes one event; `fields` are JSON values, `step` is the last optimizer step that was logged."""

    def close(self) -> None:
        """Writes what is not yet written."""


class TensorBoard:
    """Writes numbers as scalars, `step/train_loss`, and all other fields as text."""

    def __init__(self, folder: Path):
        self._writer = _import("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder))

    def event(self, kind: str, fields: Mapping[str, object], step: int) -> None:
        """Adds each field under the event's name."""
        for name, value in fields.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(f"{kind}/{name}", value, step)
            else:
                self._writer.add_text(f"{kind}/{name}", str(value), step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


TRACKERS: dict[str, Callable[[Path], Tracker]] = {"tensorboard": TensorBoard}
"""Makers by the names that `--trackers` takes; each gets a folder in the run's folder."""


def open_trackers(names: Sequence[str], folder: Path) -> dict[str, Tracker]:
    """The trackers of these names; TrackerError for one that is unknown or not installed."""
    for name in names:
        if name not in TRACKERS:
            raise TrackerError(f"--trackers: no tracker is called {name!r}; there are {', '.join(TRACKERS)}")
    return {name: TRACKERS[name](folder / name) for name in names}


def step_of(fields: Mapping[str, object]) -> int | None:
    """The optimizer step in an event's `step`, 10 or "10/200"; None without one."""
    found = re.match(r"\d+", str(fields.get("step", "")))
    return int(found[0]) if found else None


def _import(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TrackerError(f"{package} is not installed: pip install {package}") from error
