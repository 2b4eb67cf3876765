"""How far a run has come, from its log: the curve of a finished one, the state of one under way."""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.entry.results import EntryError, read_json
from golf.entry.runs import parse_events
from golf.run_folder import RunFolder

MAX_LOG_BYTES = 4 << 20
"""Of a larger log the first part is read for a curve, the last part for the state of a run."""
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
"""What a run is at, once its log holds such an event."""

_PAIR = re.compile(r"(\w+):(\S+)")
_STEP = re.compile(r"^step:(\d+)/(\d+) (.*)$")


@dataclass(frozen=True)
class Progress:
    """What a log says of training; `tokens` is empty where it counts steps alone."""

    steps: tuple[int, ...]
    tokens: tuple[int, ...]
    loss: tuple[float, ...]
    """Nats per token of the training steps named."""
    look_steps: tuple[int, ...]
    bpb: tuple[float, ...]
    """Bits per byte on the way, at `look_steps`."""


@dataclass(frozen=True)
class LiveRun:
    """A run folder without results: under way, or stopped."""

    name: str
    phase: str
    share: float | None
    """Of the training budget, 0 to 1."""
    progress: Progress
    train_seconds: float | None
    tokens_per_second: float | None
    quiet_seconds: float
    """Since its log was written to."""


def read_log_progress(path: Path) -> Progress:
    """The curve in a text log, this project's or one of the baseline's dialect; empty where there is none."""
    with open(path, "rb") as file:
        text = file.read(MAX_LOG_BYTES).decode("utf-8", errors="replace")
    events = []
    for line in text.splitlines():
        if match := _STEP.match(line):
            step, total, rest = match.groups()
            events.append({"event": "step", "step": f"{step}/{total}", **dict(_PAIR.findall(rest))})
        elif line.startswith("held_out "):
            events.append({"event": "held_out", **dict(_PAIR.findall(line))})
    return progress_of(events)


def progress_of(events: list[dict[str, Any]]) -> Progress:
    """The curve in events; what a resumed run did twice counts as it went the second time."""
    losses: dict[int, tuple[float, int | None]] = {}
    looks: dict[int, float] = {}
    newest = 0.0
    for event in events:
        step = _number(str(event.get("step", "")).split("/")[0])
        if step is None:
            continue
        if step < newest:
            # A resumed run goes on from an earlier step: what it had said of later ones is void.
            losses = {earlier: loss for earlier, loss in losses.items() if earlier < step}
            looks = {earlier: bpb for earlier, bpb in looks.items() if earlier < step}
        newest = step
        loss, bpb = _number(event.get("train_loss")), _number(event.get("bpb", event.get("val_bpb")))
        tokens = _number(event.get("tokens"))
        if loss is not None:
            losses[int(step)] = (loss, None if tokens is None else int(tokens))
        if bpb is not None:
            looks[int(step)] = bpb
    counted = [tokens for _, tokens in losses.values() if tokens is not None]
    return Progress(
        tuple(losses),
        tuple(counted) if len(counted) == len(losses) else (),
        tuple(loss for loss, _ in losses.values()),
        tuple(looks),
        tuple(looks.values()),
    )


def read_live_runs(runs_root: Path) -> list[LiveRun]:
    """Runs without results, also those of several seeds in one folder, the last written first."""
    logs = [*runs_root.glob("*/run.jsonl"), *runs_root.glob("*/seed*/run.jsonl")]
    live = [read_live_run(log.parent, runs_root) for log in logs if not _is_finished(log.parent)]
    return sorted(live, key=lambda run: run.quiet_seconds)


def read_live_run(folder: Path, runs_root: Path) -> LiveRun:
    """The state of one run from the end of its log."""
    log = RunFolder(folder).events
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - MAX_LOG_BYTES))
        events = parse_events(file.read().decode("utf-8", errors="replace"))
    steps = [event for event in events if event.get("event") == "step"]
    last = steps[-1] if steps else {}
    phases = [PHASES[event["event"]] for event in events if event.get("event") in PHASES]
    return LiveRun(
        name=folder.relative_to(runs_root).as_posix(),
        phase=phases[-1] if phases else "starting",
        share=_share(folder, last),
        progress=progress_of(events),
        train_seconds=_number(last.get("train_seconds")),
        tokens_per_second=_number(last.get("tokens_per_second")),
        quiet_seconds=max(0.0, time.time() - log.stat().st_mtime),
    )


def _is_finished(folder: Path) -> bool:
    return RunFolder(folder).results.is_file()


def _share(folder: Path, last: dict[str, Any]) -> float | None:
    """By the budget in config.json: of its seconds, else of its steps."""
    try:
        config = read_json(RunFolder(folder).config)["config"]
    except (EntryError, OSError, KeyError):
        return None
    minutes = config.get("minutes") if isinstance(config, dict) else None
    done, _, total = str(last.get("step", "")).partition("/")
    seconds = _number(last.get("train_seconds"))
    if isinstance(minutes, (int, float)) and minutes > 0:
        return None if seconds is None else min(1.0, seconds / (60 * minutes))
    return min(1.0, int(done) / int(total)) if done.isdigit() and total.isdigit() and int(total) else None


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None
