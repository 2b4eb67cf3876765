"""Shows what this machine has, and what a run will use of it."""

from dataclasses import dataclass
from pathlib import Path

from golf.doctor import print_diagnosis
from golf.system.cli import run_program
from golf.system.log import RunLog
from golf.system.options import read_options


@dataclass(frozen=True)
class DoctorOptions:
    """Where the data will be."""

    data: Path = Path("data")
    """Folder of the datasets, whose disk is checked."""


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""
    return run_program(
        "golf doctor",
        lambda: print_diagnosis(
            RunLog(), read_options(DoctorOptions, arguments, "golf doctor", __doc__).data
        ),
    )
