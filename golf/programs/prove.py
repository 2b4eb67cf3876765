"""Compresses documents under a model's predictions and restores them, in a process that has no text.

    golf prove ARTIFACT_OR_ENTRY --data DIR [--ttt] [--all]

The length is compared with the score. Exit code 1 where it is another, or a document does not come back.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from golf.evaluate import EvaluateConfig
from golf.programs.score import ScoreCommand, run_command
from golf.system.cli import run_program
from golf.system.files import STANDARD_OUTPUT, name_standard_output
from golf.system.log import RunLog
from golf.system.options import read_options


@dataclass(frozen=True)
class ProveOptions:
    """The artifact, the text, and how much of it."""

    path: Annotated[Path, tyro.conf.Positional]
    """An artifact, or a folder with one: an entry or a run."""
    data: Path | None = None
    """Dataset folder (validation text, its tokenizer, manifest.json); by default the entry's own, if any."""
    ttt: bool = False
    """Prove the score with test-time training."""
    documents: int | None = None
    """So many documents, the first of the text; by default 32."""
    all: bool = False
    """All documents."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: Path | None = None
    """Also write the figures here; - prints them alone."""


def main(arguments: list[str]) -> int:
    """Exit code: 0 proved, 1 not, 2 bad input, 130 stopped."""

    def work() -> int:
        given = name_standard_output(arguments)
        options = read_options(ProveOptions, given, "golf prove", __doc__, least={"documents": 1})
        config = EvaluateConfig(device=options.device, json=options.json)
        how = {name: vars(options)[name] for name in ("data", "ttt", "documents", "all")}
        command = ScoreCommand(options.path, prove=True, config=config, **how)
        return int(not run_command(command, RunLog(quiet=options.json == STANDARD_OUTPUT)))

    return run_program("golf prove", work)
