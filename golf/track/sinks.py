"""The trackers: each sends figures to a package of its own, which it imports when it is made."""

import importlib
import os
import shlex
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from golf.system.stored import flat_fields
from golf.track.figures import FINAL, Figures

PROJECT = "parameter-golf"
"""Project of the dashboards, unless the tracker's own settings name another."""
ONLINE_SECONDS = 20.0
"""How long a service on the network may take to begin a run."""


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker is made for it."""

    name: str
    """Of one run and no other, and the same when that is resumed."""
    id: str
    """Eight hexadecimal digits, as lasting as the name."""
    folder: Path
    """Where trackers may keep files, each in a folder of its name."""
    config: dict[str, Any]
    """Configuration, nested, with the environment in it."""
    pid: int
    """The process that trains."""
    say: Callable[[str], None]
    """Says one line on the run's console and in its log."""


class Sink(Protocol):
    """A tracker of one session of a run; an error that it raises ends the tracking, never the run."""

    rest: str
    """How to get at what was not sent when the tracker is given up; empty where there is no more to say."""

    def __init__(self, run: TrackedRun):
        """Begins the run, or goes on with it, and says where it can be looked at."""

    def send(self, figures: Figures, step: int) -> None:
        """Takes the figures of one event; `step` is the last optimizer step so far, and never falls."""

    def close(self, done: bool) -> None:
        """Sends what is not yet sent; `done` says that the run came to its end."""


class TensorBoard:
    """Curves and the summary's numbers as scalars, its texts as texts, the configuration as hparams."""

    rest = ""

    def __init__(self, run: TrackedRun):
        # pyright knows nothing of modules that protobuf makes.
        event_pb2: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")
        summary_pb2: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        hparams: Any = importlib.import_module("tensorboard.plugins.hparams.summary_v2")
        text: Any = importlib.import_module("tensorboard.plugins.text.summary_v2")
        files: Any = importlib.import_module("tensorboard.summary.writer.event_file_writer")
        self._event, self._summary, self._text = event_pb2.Event, summary_pb2.Summary, text.text_pb
        folder = str(run.folder / "tensorboard")
        self._writer = files.EventFileWriter(folder)
        # Hyperparameters are texts, numbers and truth values: lists and None are shown as texts.
        values = {
            name: value if isinstance(value, (bool, int, float)) else str(value)
            for name, value in flat_fields(run.config).items()
        }
        metrics = [hparams.Metric(name) for name in FINAL]
        self._add(hparams.hparams_config_pb([hparams.HParam(name) for name in values], metrics), 0)
        self._add(hparams.hparams_pb(values, trial_id=run.id), 0)
        run.say(f"look at it with: {shlex.join(['tensorboard', '--logdir', folder])}")

    def send(self, figures: Figures, step: int) -> None:
        """Adds scalars and texts at the step."""
        for name, value in (figures.curves | figures.system | figures.summary).items():
            if isinstance(value, str):
                self._add(self._text(name, value), step)
            else:
                scalar = self._summary.Value(tag=name, simple_value=float(value))
                self._add(self._summary(value=[scalar]), step)
        self._writer.flush()

    def close(self, done: bool) -> None:
        """Closes the event file."""
        self._writer.close()

    def _add(self, summary: Any, step: int) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))


class Trackio:
    """Curves and summary as metrics, system figures as trackio's; its own of the GPU where it finds one."""

    rest = ""

    def __init__(self, run: TrackedRun):
        trackio: Any = importlib.import_module("trackio")
        say_first_warning("trackio", run.say)
        config = flat_fields(run.config)
        self._run = trackio.init(PROJECT, run.name, config=config, resume="allow", embed=False)
        place = (
            f"is at {self._run.url}"
            if self._run.url
            else f"look at it with: trackio show --project {PROJECT}"
        )
        run.say(f"{run.name}; {place}")

    def send(self, figures: Figures, step: int) -> None:
        """Logs metrics at the step, and system figures at the time."""
        if metrics := figures.curves | figures.summary:
            self._run.log(metrics, step=step)
        if figures.system:
            self._run.log_system(figures.system)

    def close(self, done: bool) -> None:
        """Writes what is queued."""
        self._run.finish()


class WandB:
    """Curves as history, the summary as the run's summary; wandb measures the training process itself."""

    def __init__(self, run: TrackedRun):
        wandb: Any = importlib.import_module("wandb")
        self.rest = ""
        project = wandb.setup().settings.project or PROJECT
        settings = wandb.Settings(
            silent=True, console="off", x_stats_pid=run.pid, disable_code=True, init_timeout=ONLINE_SECONDS
        )
        how = {"project": project, "name": run.name, "id": run.id, "resume": "allow", "config": run.config}
        reason = ""
        try:
            self._run = wandb.init(**how, dir=str(run.folder), settings=settings)
        except wandb.errors.Error as error:
            reason = f" ({' '.join(str(error).split())})"
            # Its service still waits for the answer, and lends no run's id twice.
            wandb.teardown()
            self._run = wandb.init(**how, dir=str(run.folder), settings=settings, mode="offline")
        if self._run.disabled:
            run.say("disabled by its own settings")
            return
        place = os.path.relpath(Path(self._run.dir).parent)
        upload = shlex.join(["wandb", "sync", place])
        if self._run.offline:
            run.say(f"offline{reason}, in {place}; upload it with: {upload}")
        else:
            self.rest = f"upload the rest with: {upload}"
            run.say(f"look at it at {self._run.url}")

    def send(self, figures: Figures, step: int) -> None:
        """Logs a row of history at the step, and updates the summary."""
        if figures.curves:
            self._run.log(figures.curves, step=step)
        if figures.summary:
            self._run.summary.update(figures.summary)

    def close(self, done: bool) -> None:
        """Waits for what is not yet uploaded; a run that did not come to its end is marked as failed."""
        self._run.finish(exit_code=0 if done else 1)


def say_first_warning(package: str, say: Callable[[str], None]) -> None:
    """Says the first warning that a package gives, as packages do that go on without what has failed.

    All are shown as they would be, too.
    """
    show, said = warnings.showwarning, []

    def say_once(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
        show(message, category, filename, *rest)
        if Path(filename).parent.name == package and not said:
            said.append(message)
            say(f"warns: {message}")

    warnings.showwarning = say_once


TRACKERS: dict[str, type[Sink]] = {"trackio": Trackio, "wandb": WandB, "tensorboard": TensorBoard}
"""Trackers by the names that `--track` takes, which are also those of their packages and extras."""
