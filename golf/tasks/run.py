"""The tasks by name, and a model measured on some of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from golf.system.log import RunLog
from golf.tasks.files import LongTexts, TaskDataError
from golf.tasks.gsm8k import run_gsm8k
from golf.tasks.hellaswag import run_hellaswag
from golf.tasks.models import OpenedModel
from golf.tasks.results import TaskResult
from golf.tasks.sst2 import run_sst2
from golf.tasks.wikitext2 import run_wikitext2

RunTask = Callable[[OpenedModel, Path, int | None, LongTexts, RunLog], TaskResult]
"""Takes a model, the folder of evaluation files, at most how many items, and what to do with long ones."""

TASKS: dict[str, RunTask] = {
    "hellaswag": run_hellaswag,
    "wikitext2": run_wikitext2,
    "sst2": run_sst2,
    "gsm8k": run_gsm8k,
}


def parse_tasks(names: str) -> list[str]:
    """Comma-separated task names; TaskDataError for one that does not exist, or none."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in TASKS:
            raise TaskDataError(f"no task is called {name!r}; there are {', '.join(TASKS)}")
    if not wanted:
        raise TaskDataError(f"no task was named; there are {', '.join(TASKS)}")
    return wanted


def run_tasks(
    opened: OpenedModel, names: Sequence[str], data: Path, limit: int | None, long: LongTexts, log: RunLog
) -> list[TaskResult]:
    """Measures the model on each task in turn; TaskDataError for files that are not what they should be."""
    if not data.is_dir():
        raise TaskDataError(f"{data}: no such folder; expected one with {', '.join(TASKS)} in it")
    if limit is not None and limit < 1:
        raise TaskDataError(f"limit is {limit}; expected at least 1")
    return [TASKS[name](opened, data, limit, long, log) for name in names]
