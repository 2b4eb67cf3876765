"""Makes one entry of finished runs that differ in their seed alone.

    golf build runs/A runs/B runs/C --record-track track_non_record_16mb

Exit code 2 where the runs do not belong together.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from golf.entry.build import build
from golf.entry.runs import Track
from golf.system.cli import run_program
from golf.system.options import read_options


@dataclass(frozen=True)
class BuildOptions:
    """The runs, and what their entry says of itself."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, one a seed."""
    record_track: Track = "local"
    """Folder under records/: local, track_non_record_16mb or track_10min_16mb."""
    blurb: str | None = None
    """One sentence on what the entry is."""
    author: str = ""
    """Who submits the entry; by default as submission.json says, else git's user.name."""
    github_id: str = ""
    """The author's name on GitHub; by default as submission.json says, else git's github.user."""


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""

    def work() -> None:
        options = read_options(BuildOptions, arguments, "golf build", __doc__)
        author, github_id = options.author, options.github_id
        where = Path("records"), options.record_track
        print(build(options.runs, *where, options.blurb, author=author, github_id=github_id))

    return run_program("golf build", work)
