"""What a task measured: scores with their intervals, and every item.

Shapes: N items, R resamples.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from golf.system.files import atomic_write
from golf.system.log import RunLog

Z_95 = 1.959963984540054
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Metric:
    """One score with its 95% interval over items, beside what chance would score."""

    name: str
    value: float
    low: float
    high: float
    chance: float
    """Of a guesser that knows the task but not the items."""
    num_items: int
    convention: str
    """How it is counted, and what chance stands for."""


@dataclass(frozen=True)
class TaskResult:
    """The outcome of a task."""

    task: str
    metrics: tuple[Metric, ...]
    items: list[dict[str, Any]]
    """One JSON-able record an item."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What was chosen, cut or left out."""

    def metric(self, name: str) -> Metric:
        """The metric of that name; KeyError if there is none."""
        return {metric.name: metric for metric in self.metrics}[name]


def wilson_interval(successes: int, num_items: int) -> tuple[float, float]:
    """95% interval of a share (Wilson, 1927); holds where none or all succeed, too."""
    if num_items < 1:
        raise ValueError("a share of no items has no interval")
    share, z2 = successes / num_items, Z_95**2 / num_items
    centre = (share + z2 / 2) / (1 + z2)
    half = Z_95 / (1 + z2) * math.sqrt(share * (1 - share) / num_items + z2 / (4 * num_items))
    return max(0.0, centre - half), min(1.0, centre + half)


def share_metric(name: str, correct: Sequence[bool], chance: float, convention: str) -> Metric:
    """The share of items that are right."""
    low, high = wilson_interval(sum(correct), len(correct))
    return Metric(name, sum(correct) / len(correct), low, high, chance, len(correct), convention)


def mean_metric(name: str, values: Sequence[float], chance: float, convention: str) -> Metric:
    """The mean over items, its interval by resampling them."""
    low, high = ratio_interval(np.asarray(values, np.float64), np.ones(len(values)))
    return Metric(name, float(np.mean(values)), low, high, chance, len(values), convention)


def ratio_interval(sums_N: np.ndarray, counts_N: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95% interval of sum(sums) / sum(counts) over items resampled in pairs (percentile bootstrap)."""
    draw = np.random.default_rng(seed)
    num_items = len(sums_N)
    ratios = np.empty(NUM_RESAMPLES)
    for resample in range(NUM_RESAMPLES):
        chosen_N = draw.integers(0, num_items, num_items)
        ratios[resample] = sums_N[chosen_N].sum() / counts_N[chosen_N].sum()
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def print_results(results: Sequence[TaskResult], log: RunLog) -> None:
    """A table of every score, and a line each of how it is counted."""
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
        if result.notes:
            log.record("task_notes", task=result.task, **result.notes)


def write_results(results: Sequence[TaskResult], folder: Path, facts: dict[str, Any]) -> None:
    """Writes tasks.json, the scores beside `facts`, and <task>.jsonl, every item."""
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
