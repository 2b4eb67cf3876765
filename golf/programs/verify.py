"""Scores an entry's artifact, runs its script in isolation, and compares all that the artifact decides.

    golf verify ENTRY --data DIR

Exit code 1 where a stated figure is wrong.
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
class VerifyOptions:
    """The entry, the text, and how far to trust it."""

    entry: Annotated[Path, tyro.conf.Positional]
    """Entry folder."""
    data: Path | None = None
    """Dataset folder (validation text, its tokenizer, manifest.json); by default the entry's own, if any."""
    sample: int | None = None
    """Verify with this many windows only, on the documents they cover."""
    trust: bool = False
    """Where this system has no isolation, run the entry's script with your own rights."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: Path | None = None
    """Also write the comparison here; - prints it alone."""


def main(arguments: list[str]) -> int:
    """Exit code: 0 true, 1 a figure is wrong, 2 bad input, 130 stopped."""

    def work() -> int:
        options = read_options(VerifyOptions, name_standard_output(arguments), "golf verify", __doc__)
        config = EvaluateConfig(device=options.device, json=options.json)
        how = {"data": options.data, "sample": options.sample, "trust": options.trust}
        command = ScoreCommand(options.entry, verify=True, config=config, **how)
        return int(not run_command(command, RunLog(quiet=options.json == STANDARD_OUTPUT)))

    return run_program("golf verify", work)
