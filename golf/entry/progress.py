"""Training curves from logs, and the state of runs that have no results yet."""

import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golf.entry.results import EntryError, read_json
from golf.entry.runs import parse_events
from golf.run_folder import RunFolder
from golf.system.lock import lock_owner

MAX_LOG_BYTES = 4 << 20
"""Of a larger log the first part is read for a curve, the last part for the state of a run."""
STOPPED_SECONDS = 120.0
"""Of a log that nobody owns; one with an owner may be silent for longer, as while it scores."""
PHASES = {
    "model_params": "warming up",
    "forecast": "training",
    "step": "training",
    "held_out": "training",
    "average": "packing",
    "train_seconds": "packing",
    "size": "scoring",
    "stage": "scoring",
    "compressors": "auditing",
}
"""The phase of a run whose log holds such an event."""

_PAIR = re.compile(r"(\w+):(\S+)")


@dataclass(frozen=True)
class Curve:
    """What a log says of training: arrays of one length over its steps, and over its held-out evaluations.

    NaN where a log does not give a figure: logs of the challenge's baseline count steps alone.
    """

    steps: np.ndarray
    tokens: np.ndarray
    """Trained on so far."""
    seconds: np.ndarray
    """Of training so far."""
    train_loss: np.ndarray
    """Nats per token of the step; always given."""
    lr_scale: np.ndarray
    held_out_steps: np.ndarray
    held_out_tokens: np.ndarray
    held_out_bpb: np.ndarray
    """Bits per byte of held-out training text; always given."""

    @property
    def held_out_seconds(self) -> np.ndarray:
        """Training seconds at each held-out evaluation."""
        if not len(self.tokens):
            return np.zeros_like(self.held_out_tokens)
        return np.interp(self.held_out_tokens, self.tokens, self.seconds)


@dataclass(frozen=True)
class LiveRun:
    """A run folder without results: under way, or stopped."""

    name: str
    phase: str
    """Its last one, if it is stopped."""
    stopped: bool
    """See `is_stopped`."""
    share: float | None
    """Of the training budget, 0 to 1."""
    curve: Curve
    tokens_per_second: float
    """NaN before the first step that was logged."""
    quiet_seconds: float
    """Since its log was written to."""

    @property
    def state(self) -> str:
        """The phase, and whether the run has stopped in it."""
        return f"stopped while {self.phase}" if self.stopped else self.phase


def read_log_curve(path: Path, max_bytes: int = MAX_LOG_BYTES) -> Curve:
    """The curve in a text log of this project or of the challenge's baseline; empty where there is none."""
    with open(path, "rb") as file:
        text = file.read(max_bytes).decode("utf-8", errors="replace")
    events: list[dict[str, Any]] = []
    for line in text.splitlines():
        if line.startswith(("step:", "held_out ", "average ")):
            events.append(dict(_PAIR.findall(line)))
    return curve_of(events)


def curve_of(events: Iterable[Mapping[str, Any]]) -> Curve:
    """The curve in events; of a step that a resumed run did twice the second one counts."""
    steps: dict[float, list[float]] = {}
    held_out: dict[float, list[float]] = {}
    newest = 0.0
    for event in events:
        last = _number(event.get("held_out_bpb_last"))
        if not math.isnan(last) and newest in steps:
            # The last weights, compared with their averages when training has ended.
            held_out[newest] = [newest, steps[newest][1], last]
        step = _number(str(event.get("step")).split("/")[0])
        if math.isnan(step):
            continue
        if step < newest:
            # A resumed run goes on from an earlier step: later ones are void. A step is logged one step late,
            # so after the evaluation at the same step, which stays.
            steps = {earlier: row for earlier, row in steps.items() if earlier <= step}
            held_out = {earlier: row for earlier, row in held_out.items() if earlier <= step}
        newest = step
        names = ("tokens", "train_seconds", "train_loss", "lr_scale")
        row = [step, *(_number(event.get(name)) for name in names)]
        bpb = _number(event.get("bpb", event.get("val_bpb")))
        if not math.isnan(row[3]):
            steps[step] = row
        if not math.isnan(bpb):
            held_out[step] = [step, row[1], bpb]
    return Curve(
        *np.array(list(steps.values())).reshape(-1, 5).T, *np.array(list(held_out.values())).reshape(-1, 3).T
    )


def run_folders(runs_root: Path) -> list[RunFolder]:
    """Every run, also those of several seeds in one folder."""
    folders = [RunFolder(path) for pattern in ("*", "*/seed*") for path in runs_root.glob(pattern)]
    return [folder for folder in folders if folder.events.is_file()]


def read_live_runs(runs_root: Path) -> list[LiveRun]:
    """Runs without results, the last written first."""
    folders = [folder for folder in run_folders(runs_root) if not folder.results.is_file()]
    return sorted((read_live_run(folder, runs_root) for folder in folders), key=lambda run: run.quiet_seconds)


def is_stopped(folder: RunFolder) -> bool:
    """Whether a run's log is old and no process of this machine works in its folder.

    The kernel frees the lock of a process that ends. A copy of another machine's run has no owner here, but a
    log that goes on.
    """
    is_old = time.time() - folder.events.stat().st_mtime > STOPPED_SECONDS
    return is_old and lock_owner(folder.path) is None


def read_live_run(folder: RunFolder, runs_root: Path) -> LiveRun:
    """The state of one run from the end of its log."""
    status = folder.events.stat()
    with open(folder.events, "rb") as file:
        file.seek(max(0, status.st_size - MAX_LOG_BYTES))
        events = parse_events(file.read().decode("utf-8", errors="replace"))
    last = next((event for event in reversed(events) if event.get("event") == "step"), {})
    phases = [PHASES[event["event"]] for event in events if event.get("event") in PHASES]
    return LiveRun(
        name=folder.path.relative_to(runs_root).as_posix(),
        phase=phases[-1] if phases else "starting",
        share=_share(folder, last),
        curve=curve_of(events),
        tokens_per_second=_number(last.get("tokens_per_second")),
        quiet_seconds=max(0.0, time.time() - status.st_mtime),
        stopped=is_stopped(folder),
    )


def _share(folder: RunFolder, last: Mapping[str, Any]) -> float | None:
    """By the budget in config.json: of its seconds, else of its steps."""
    try:
        config = read_json(folder.config)["config"]
    except (EntryError, OSError, KeyError):
        return None
    minutes = config.get("minutes") if isinstance(config, dict) else None
    done, _, total = str(last.get("step")).partition("/")
    used, budget = _number(done), _number(total)
    if minutes:
        used, budget = _number(last.get("train_seconds")), 60 * _number(minutes)
    return min(1.0, used / budget) if used >= 0 and budget > 0 else None


def _number(value: object) -> float:
    """NaN for what is no finite number."""
    try:
        number = float(str(value))
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
