"""Runs one of the programs in benchmarks/, which measure speed, size and cost.

    golf bench gpu --minutes 12 --out DIR
    golf bench              lists them

They lie in the repository beside golf/, with the tests that some of them run, and are not part of the
installed package: this command works in a clone.
"""

import ast
import importlib
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from golf.entry.release import ROOT
from golf.system.cli import run_program
from golf.system.options import read_options

FOLDER = ROOT / "benchmarks"


@dataclass(frozen=True)
class BenchOptions:
    """Which benchmark; its own options follow its name."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """One of benchmarks/; without it they are listed."""


def benchmarks() -> dict[str, str]:
    """First line of each benchmark's docstring by its name; ValueError outside a clone."""
    if not (FOLDER / "command.py").is_file():
        raise ValueError("golf bench works in a clone of the repository; the package has no benchmarks/")
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if f"python -m benchmarks.{path.stem}" in (doc := ast.get_docstring(tree) or ""):
            found[path.stem] = doc.splitlines()[0]
    return found


def main(arguments: list[str]) -> int:
    """The benchmark's exit code; 0 for the list, 2 on bad input."""
    wants_list = not arguments or arguments[0].startswith("-")

    def work() -> int:
        if wants_list:
            read_options(BenchOptions, arguments, "golf bench", __doc__)
        there_are = benchmarks()
        if wants_list:
            print("\n".join(f"{name:<14}{line}" for name, line in there_are.items()))
            return 0
        name, *rest = arguments
        if name not in there_are:
            raise ValueError(f"no benchmark is called {name!r}; there are {', '.join(there_are)}")
        sys.path.insert(0, str(FOLDER.parent))
        return importlib.import_module(f"benchmarks.{name}").main(rest)

    return run_program("golf bench", work)
