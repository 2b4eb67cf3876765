"""Measures a model on HellaSwag, WikiText-2, SST-2 and GSM8K, each score next to that of chance.

    golf tasks MODEL --data DIR [--tasks hellaswag,wikitext2,sst2,gsm8k]

MODEL is an artifact, a run's weights or checkpoint, or the folder of a run or an entry. Exit code 2 on bad
input.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from golf.run_folder import new_run_folder
from golf.system.cli import run_program
from golf.system.device import environment
from golf.system.files import require_writable
from golf.system.log import RunLog
from golf.system.options import read_options
from golf.tasks.files import LongTexts
from golf.tasks.models import open_model
from golf.tasks.results import print_results, write_results
from golf.tasks.suite import parse_tasks, run_tasks


@dataclass(frozen=True)
class TasksCommand:
    """The model, the tasks and their data."""

    model: Annotated[Path, tyro.conf.Positional]
    """An artifact, weights.safetensors or checkpoint.pt of a run, or the folder of a run or an entry; or
    hf://USER/NAME, an entry on the hub."""
    data: Path
    """Folder with a subfolder for each task: hellaswag/hellaswag_val*.jsonl, wikitext2/wiki.test.tokens,
    sst2/{train,dev}.tsv, gsm8k/{train,test}.jsonl."""
    tasks: str = "hellaswag,wikitext2,sst2,gsm8k"
    """Tasks, comma-separated."""
    limit: int | None = None
    """Number of items of each task to measure (WikiText-2: articles); by default all."""
    long: LongTexts = "truncate"
    """Items longer than the context: truncate drops their beginning, as lm-eval does, skip drops the item,
    error names the line. The results have the counts."""
    context: int | None = None
    """Context in tokens; by default that of training."""
    tokenizer: Path | None = None
    """The model's .model file, if it is not next to the model."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps (untested)."""
    out: Path | None = None
    """Folder for tasks.json and a <task>.jsonl with every item of each task; by default runs/<time>_tasks."""


def run_command(command: TasksCommand, log: RunLog) -> None:
    """Measures the model, logs and writes the results; ValueError for bad input."""
    names = parse_tasks(command.tasks)
    require_writable(command.out or Path("runs"), "--out")
    opened = open_model(command.model, command.tokenizer, command.device, command.context)
    log.info(opened.describe())
    results = run_tasks(opened, names, command.data, command.limit, command.long, log)
    out = command.out or new_run_folder("tasks")
    print_results(results, log)
    facts = {
        "model": str(opened.path),
        "kind": opened.kind,
        "context": opened.context,
        "limit": command.limit,
        "long": command.long,
        "environment": environment(opened.device),
    }
    write_results(results, out, facts)
    log.info(f"results and every item: {out}")


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 on bad input, 130 when stopped."""

    def work() -> None:
        run_command(read_options(TasksCommand, arguments, "golf tasks", __doc__), RunLog())

    return run_program("golf tasks", work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
