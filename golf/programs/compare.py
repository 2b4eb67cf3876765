"""Tests whether entry A is better than entry B, and how many more seeds would settle it.

    golf compare A B

Exit code 2 where the two cannot be compared.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from golf.entry.compare import compare, read_scores, render_comparison
from golf.system.cli import run_program
from golf.system.options import read_options


@dataclass(frozen=True)
class CompareOptions:
    """Two entries."""

    a: Annotated[Path, tyro.conf.Positional]
    """The entry that should be better."""
    b: Annotated[Path, tyro.conf.Positional]
    """The entry to beat."""


def main(arguments: list[str]) -> int:
    """Exit code: 0 compared, 2 bad input, 130 stopped."""

    def work() -> None:
        options = read_options(CompareOptions, arguments, "golf compare", __doc__)
        print(render_comparison(compare(read_scores(options.a), read_scores(options.b))))

    return run_program("golf compare", work)
