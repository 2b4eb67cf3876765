"""Results of a task: scores with intervals, and a record of every item."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from golf.stats import proportion_interval, ratio_interval
from golf.system.files import atomic_write
from golf.system.log import RunLog

CHANGED = ("cut", "left_out")
"""Notes that count items longer than the context."""


@dataclass(frozen=True)
class Metric:
    """One score with its 95% interval over items, and the score of chance."""

    name: str
    value: float
    low: float
    high: float
    chance: float
    """Score of guessing with knowledge of the task but not of the items."""
    num_items: int
    convention: str
    """How the score is counted, and how chance is."""


@dataclass(frozen=True)
class TaskResult:
    """The scores of a task, and its items."""

    task: str
    metrics: tuple[Metric, ...]
    items: list[dict[str, Any]]
    """One JSON-serializable record for each item."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What was chosen, cut or skipped."""

    def metric(self, name: str) -> Metric:
        """The metric of that name; KeyError if there is none."""
        return {metric.name: metric for metric in self.metrics}[name]


def share_metric(name: str, correct: Sequence[bool], chance: float, convention: str) -> Metric:
    """The share of correct items, with its Wilson interval."""
    low, high = proportion_interval(sum(correct), len(correct))
    return Metric(name, sum(correct) / len(correct), low, high, chance, len(correct), convention)


def mean_metric(name: str, values: Sequence[float], chance: float, convention: str) -> Metric:
    """The mean over items, with its bootstrap interval."""
    low, high = ratio_interval(np.asarray(values, np.float64), np.ones(len(values)))
    return Metric(name, float(np.mean(values)), low, high, chance, len(values), convention)


def print_results(results: Sequence[TaskResult], log: RunLog) -> None:
    """Logs a table of all scores, and for each score a line on how it is counted."""
    rows = [
        (
            result.task,
            metric.name,
            f"{metric.value:.4f}",
            f"{metric.low:.4f} to {metric.high:.4f}",
            f"{metric.chance:.4f}",
            metric.num_items,
        )
        for result in results
        for metric in result.metrics
    ]
    log.table("tasks", ("task", "score", "value", "95% interval", "chance", "items"), rows)
    for result in results:
        for metric in result.metrics:
            log.info(f"{result.task} {metric.name}: {metric.convention}")
        if changed := [
            f"{result.notes[key]} {key.replace('_', ' ')}" for key in CHANGED if result.notes.get(key)
        ]:
            log.info(f"{result.task}: of items longer than the context, {', '.join(changed)}")
        if result.notes:
            log.record("task_notes", task=result.task, **result.notes)


def write_results(results: Sequence[TaskResult], folder: Path, facts: dict[str, Any]) -> None:
    """Writes tasks.json (`facts` and the scores) and one <task>.jsonl with every item."""
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        with atomic_write(folder / f"{result.task}.jsonl") as partial:
            lines = (json.dumps(item, ensure_ascii=False) for item in result.items)
            partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    tasks = {
        result.task: {"metrics": [asdict(metric) for metric in result.metrics], "notes": result.notes}
        for result in results
    }
    with atomic_write(folder / "tasks.json") as partial:
        text = json.dumps({**facts, "tasks": tasks}, indent=2, ensure_ascii=False)
        partial.write_text(text + "\n", encoding="utf-8")
