"""Puts an entry into a clone of openai/parameter-golf, checks it there, and prints the pull request.

    golf submit records/track_non_record_16mb/2026-11-27_docs-one-minute --into ../parameter-golf

Copies README.md, submission.json, the logs, train_gpt.py and requirements.txt, and nothing else.
Runs the entry's own script for some seconds under torchrun, with your rights. Commits and pushes
nothing: it prints the commands. Exit code 1 where a check failed or was skipped; the copy is then
removed.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from golf.entry.pull_request import RECORD_TRACK, Asked, PullRequest, make_pull_request, track_of
from golf.system.cli import escape_text, run_program
from golf.system.files import require_output, write_bytes
from golf.system.options import read_options


@dataclass(frozen=True)
class SubmitOptions:
    """The entry, the clone, and what is checked with what."""

    entry: Annotated[Path, tyro.conf.Positional]
    """Entry folder, records/TRACK/DATE_NAME."""
    into: Path
    """Clone of openai/parameter-golf, or of your fork of it."""
    record_track: Literal["track_10min_16mb", "track_non_record_16mb"] | None = None
    """Track of the pull request; by default that of the entry's folder."""
    data: Path | None = None
    """Text to try the script on, of its vocabulary; by default the clone's data, else the entry's."""
    seconds: float = 5.0
    """Training of that trial, as MAX_WALLCLOCK_SECONDS; 0 skips it, which is exit code 1."""
    against: Path | None = None
    """Record folder to beat, of the ten-minute track; by default the best public score."""
    extra: Annotated[tuple[str, ...], tyro.conf.arg(name="with")] = ()
    """Further files of the entry to copy: results.json audit.json training.svg."""
    author: str = ""
    """Your name; by default the entry's, else git's user.name in the clone."""
    github_id: str = ""
    """Your name on GitHub; by default the entry's, else git's github.user in the clone."""
    pr_text: Path | None = None
    """Also write title and text of the pull request here."""
    keep: bool = False
    """Keep the copy although a check failed."""


def main(arguments: list[str]) -> int:
    """Exit code: 0 ready, 1 a check failed or was skipped, 2 bad input, 130 stopped."""

    def work() -> int:
        options = read_options(SubmitOptions, arguments, "golf submit", __doc__)
        if options.pr_text is not None:
            require_output(options.pr_text, "--pr-text")
        track = track_of(options.entry, options.record_track)
        if options.data is not None and not options.seconds:
            raise ValueError(
                f"--data {options.data} is for the trial of the script, which --seconds 0 leaves out"
            )
        if options.against is not None and track != RECORD_TRACK:
            raise ValueError(f"--against {options.against} is for {RECORD_TRACK}; the track is {track}")
        asked = Asked(
            track,
            options.data,
            options.seconds,
            options.against,
            options.extra,
            options.author,
            options.github_id,
        )
        made = make_pull_request(options.entry, options.into, asked)
        print(render(made))
        if made.ready:
            if options.pr_text is not None:
                write_bytes(options.pr_text, f"{made.title}\n\n{made.body}".encode())
            return 0
        if options.keep:
            print(f"kept as it is: {made.target}")
        else:
            shutil.rmtree(made.target)
            print("the copy was removed; --keep leaves it for a look")
        return 1

    return run_program("golf submit", work)


def render(made: PullRequest) -> str:
    """The checks; where they passed also the commands to type and the text of the pull request."""
    width = max(len(check.name) for check in made.checks)
    lines = [str(made.target)]
    lines += [f"  {check.name:{width}}  {check.result:7}  {check.detail}" for check in made.checks]
    if made.last_lines:
        lines += ["", "the script's last lines:", *(f"  {line}" for line in made.last_lines)]
    if not made.ready:
        bad = [check.name for check in made.checks if check.result in ("failed", "skipped")]
        return "\n".join(map(escape_text, [*lines, "", f"not ready: {', '.join(bad)}"]))
    lines += ["", "ready. Type, with your fork as origin:", "", *(f"  {line}" for line in made.commands)]
    lines += ["", "and open the pull request with this title and text:", "", made.title, ""]
    return "\n".join(map(escape_text, [*lines, *made.body.rstrip().split("\n")]))
