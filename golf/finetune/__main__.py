"""Fine-tunes a model on conversations (sft) or preferences (dpo), and packs it again.

    python -m golf.finetune --stage sft --model MODEL --data FILE --out runs/NAME
    python -m golf.finetune --stages FOLDER --data DATASET --sft FILE --preferences FILE --evals DIR

MODEL is whatever `python -m golf.tasks` takes. The same command goes on with a run that was stopped. The
second form pretrains, fine-tunes and measures after each stage, with several seeds, and writes a table. Exit
code 1 for an artifact that does not fit, 2 on bad input, 130 when stopped.
"""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from golf.finetune.settings import FinetuneConfig, FinetuneError, StageName
from golf.finetune.stage import finetune
from golf.finetune.stages import StagesCommand, run_stages
from golf.pack.fit import BudgetError
from golf.system.cli import STOPPED, run_program
from golf.system.log import RunLog
from golf.tasks.results import Metric, TaskResult, print_results
from golf.train.loop import Interrupted


@dataclass(frozen=True)
class FinetuneCommand:
    """What to fine-tune, on what."""

    stage: StageName
    """sft: conversations, whose answers are learned. dpo: pairs of answers, of which one is preferred."""
    model: Path
    """An artifact, weights.safetensors or checkpoint.pt of a run, or the folder of a run or an entry."""
    data: tuple[Path, ...]
    """Files of conversations or pairs: .jsonl, or .json with one list."""
    out: Path | None = None
    """Run folder to make or to go on with; by default runs/<time>_<stage>."""
    tokenizer: Path | None = None
    """The model's .model file, where it is not beside it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps (untested)."""
    config: Annotated[FinetuneConfig, tyro.conf.arg(name="")] = field(default_factory=FinetuneConfig)


def run_command(command: FinetuneCommand) -> None:
    """Runs the stage and prints the held-out scores before and after."""
    if not command.data:
        raise FinetuneError("--data needs at least one file")
    folder = command.out or Path("runs") / f"{time.strftime('%Y-%m-%d_%H%M%S')}_{command.stage}"
    folder.mkdir(parents=True, exist_ok=True)
    log = RunLog(folder / "run")
    figures = finetune(
        command.stage,
        command.model,
        command.data,
        folder,
        command.config,
        log,
        command.device,
        command.tokenizer,
    )
    results = [
        TaskResult(when, tuple(Metric(**metric) for metric in figures[when]), [])
        for when in ("before", "after")
    ]
    print_results(results, log)
    log.info(f"{folder}: artifact.bin of {figures['artifact_bytes']:,} bytes")
    log.close()


def main(arguments: list[str]) -> int:
    """Runs the command line; 0, 1 over the limit, 2 on bad input, 130 when stopped."""
    wants_stages = any(argument.split("=")[0] == "--stages" for argument in arguments)
    going_on = "the same command goes on with it"

    def work() -> None:
        try:
            if wants_stages:
                run_stages(tyro.cli(StagesCommand, args=arguments, description=__doc__), RunLog())
            else:
                run_command(tyro.cli(FinetuneCommand, args=arguments, description=__doc__))
        except Interrupted as stop:
            raise Interrupted(f"{stop}; {going_on}") from stop

    codes = {BudgetError: 1, Interrupted: STOPPED}
    return run_program("golf.finetune", work, codes, f"stopped; {going_on}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
