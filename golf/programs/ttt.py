"""Scores an artifact, or an entry that holds one, with test-time training: grade first, then learn from it.

    golf ttt ARTIFACT_OR_ENTRY --data DIR [--method sgd|lora] [--order length|stream]
    torchrun --standalone --nproc_per_node=8 ttt.py ...    lora shares the documents, sgd has one process

The settings of the training, its method included, are the artifact's own unless said otherwise.
Exit code 2 on bad input.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from golf.evaluate import SCORE_LEAST, EvaluateConfig, main_evaluate
from golf.hub.fetch import local_path
from golf.run_folder import find_artifact, find_data
from golf.system.cli import run_program
from golf.system.files import name_standard_output
from golf.system.options import read_options


@dataclass(frozen=True)
class TestTimeCommand:
    """What to score, on what text, and how."""

    path: Annotated[Path, tyro.conf.Positional]
    """An artifact, or a folder with one: an entry or a run; or hf://USER/NAME, an entry on the hub."""
    data: Path | None = None
    """Dataset folder (validation text, its tokenizer, manifest.json); by default the entry's own, if any."""
    config: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluateConfig)


def main(arguments: list[str], program: str = "golf ttt") -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""

    def work() -> None:
        given = name_standard_output(arguments)
        command = read_options(TestTimeCommand, given, program, __doc__, least=SCORE_LEAST)
        path = local_path(command.path)
        artifact, data = find_artifact(path), find_data(command.data and local_path(command.data), path)
        main_evaluate(artifact, data, command.config, plain=False, ttt=True)

    return run_program(program, work)
