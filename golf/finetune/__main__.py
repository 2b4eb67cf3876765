"""Fine-tunes a model on conversations (sft) or preferences (dpo), and packs it again.

    golf finetune --stage sft --model MODEL --data FILE --out runs/NAME
    golf finetune --stages FOLDER --data DATASET --sft FILE --preferences FILE --evals DIR

MODEL is an artifact, a run's weights or checkpoint, or the folder of a run or an entry. The second form
pretrains, fine-tunes and measures after each stage, with several seeds, and writes a table (its options:
`--stages . --help`). The same command resumes a stopped run. Exit code 1 for an artifact above the limit, 2
on bad input, 130 when stopped.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from golf.finetune.stage import FinetuneConfig, FinetuneError, StageName, finetune
from golf.finetune.stages import StagesCommand, run_stages
from golf.pack.fit import BudgetError
from golf.prepare.rows import require_file
from golf.run_folder import RunFolder, new_run_folder
from golf.system.cli import Stopped, run_program
from golf.system.files import require_writable
from golf.system.lock import owned_folder
from golf.system.log import RunLog
from golf.system.options import read_options
from golf.tasks.results import Metric, TaskResult, print_results


@dataclass(frozen=True)
class FinetuneCommand:
    """The model, the data and the settings."""

    stage: StageName
    """sft: learn the answers of conversations. dpo: learn which of two answers is preferred."""
    model: Path
    """An artifact, weights.safetensors or checkpoint.pt of a run, or the folder of a run or an entry; or
    hf://USER/NAME, an entry on the hub."""
    data: tuple[Path, ...]
    """Files of conversations (sft) or preference pairs (dpo): .jsonl, or .json with a list."""
    out: Path | None = None
    """Run folder to create or to resume; by default runs/<time>_<stage>."""
    tokenizer: Path | None = None
    """The model's .model file, if it is not next to the model."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps (untested)."""
    config: Annotated[FinetuneConfig, tyro.conf.arg(name="")] = field(default_factory=FinetuneConfig)


def run_command(command: FinetuneCommand) -> None:
    """Runs the stage and logs the held-out scores before and after."""
    if not command.data:
        raise FinetuneError("--data needs at least one file")
    for file in command.data:
        require_file(file)
    folder = command.out or new_run_folder(command.stage)
    require_writable(folder, "--out")
    with removed_if_unstarted(folder):
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


@contextmanager
def removed_if_unstarted(folder: Path) -> Iterator[None]:
    """Owns a run folder; removes a new one if the block ends with an error before the run has begun."""
    is_new = not RunFolder(folder).config.exists()
    with owned_folder(folder):
        try:
            yield
        except BaseException:
            if is_new and not RunFolder(folder).config.exists() and folder.exists():
                for path in folder.glob("run.*"):
                    path.unlink()
            raise


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 for an artifact above the limit, 2 on bad input, 130 when stopped."""
    wants_stages = any(argument.split("=")[0] == "--stages" for argument in arguments)
    how_to_resume = "the same command resumes it"

    def work() -> None:
        try:
            kind = StagesCommand if wants_stages else FinetuneCommand
            command = read_options(kind, arguments, "golf finetune", __doc__)
            if isinstance(command, StagesCommand):
                run_stages(command, RunLog())
            else:
                run_command(command)
        except Stopped as stop:
            raise Stopped(f"{stop}; {how_to_resume}".lstrip("; "), stop.signum) from stop

    return run_program("golf finetune", work, {BudgetError: 1})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
