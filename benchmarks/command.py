"""The command line of a benchmark."""

from collections.abc import Callable
from typing import TypeVar

from golf.config import RunConfig
from golf.presets import PRESETS
from golf.system.cli import run_program
from golf.system.options import read_options

Options = TypeVar("Options")


def find_preset(name: str) -> RunConfig:
    """A preset's configuration; ValueError for a name that is none."""
    if name not in PRESETS:
        raise ValueError(f"preset is {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name].config


def run_benchmark(
    name: str,
    kind: type[Options],
    work: Callable[[Options], int | None],
    doc: str | None,
    arguments: list[str],
) -> int:
    """Reads the options of `python -m benchmarks.<name>` and returns the exit code of `work`, 0 for None."""

    def read_and_work() -> int | None:
        options = read_options(kind, arguments, f"python -m benchmarks.{name}", doc)
        if vars(options).get("threads", 1) < 1:
            raise ValueError(f"--threads is {vars(options)['threads']}; expected at least 1")
        return work(options)

    return run_program(f"benchmarks.{name}", read_and_work)
