"""A clone of openai/parameter-golf: whether it is one, and what git would do with a folder put into it."""

import os
import shlex
import subprocess
from pathlib import Path

from golf.entry.runs import RECORD_TRACKS
from golf.system.cli import escape_text

CHALLENGE = "https://github.com/openai/parameter-golf"


class CloneError(ValueError):
    """No clone of the challenge, or one into which a folder cannot be put as it is."""


def run_git(folder: Path, *words: str, fine: tuple[int, ...] = (0,)) -> str:
    """What a git command prints; CloneError for an exit code that is not `fine`, or without git."""
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise CloneError("git is not installed; a pull request is made with it") from error
    if done.returncode not in fine:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise CloneError(f"{folder}: git {words[0]}: {escape_text(said[0])}")
    return done.stdout


def require_clone(clone: Path) -> None:
    """CloneError unless `clone` is the top of a git work tree with the challenge's README and tracks."""
    how = f"expected a clone of the challenge; make one with `git clone {CHALLENGE}`"
    if not clone.is_dir():
        raise CloneError(f"{clone}: is no folder; {how}")
    try:
        top = Path(run_git(clone, "rev-parse", "--show-toplevel").strip())
    except CloneError as error:
        raise CloneError(f"{error}; {how}") from error
    if top.resolve() != clone.resolve():
        raise CloneError(f"{clone}: lies in the work tree {top}; {how}")
    needed = (clone / "README.md", *(clone / "records" / track for track in RECORD_TRACKS))
    for path in needed:
        if not path.exists():
            raise CloneError(f"{clone}: has no {path.relative_to(clone)}; {how}")


def require_free(clone: Path, target: Path) -> None:
    """CloneError where `target` is there, is known to git, or where anything else is staged for commit."""
    inside = target.relative_to(clone)
    if os.path.lexists(target):
        raise CloneError(f"{target}: is there already; move it away, or rename the entry's folder")
    if changed := run_git(clone, "status", "--porcelain", "--", str(inside)):
        raise CloneError(f"{clone}: the work tree is not clean in {inside}: {escape_text(changed.strip())}")
    if staged := run_git(clone, "diff", "--cached", "--name-only").splitlines():
        raise CloneError(
            f"{clone}: {escape_text(staged[0])} is staged and would become part of the pull request, which "
            "adds one folder alone; commit it elsewhere or unstage it with `git restore --staged .`"
        )


def ignored_files(clone: Path, files: list[Path]) -> list[str]:
    """Names of the files that `git add` would leave out, by the clone's or the user's own .gitignore."""
    words = [str(path.relative_to(clone)) for path in files]
    found = run_git(clone, "check-ignore", "--", *words, fine=(0, 1))
    return [Path(line).name for line in found.splitlines()]


def commands_to_type(clone: Path, target: Path, title: str) -> list[str]:
    """The shell commands that make a branch with one commit of `target` and push it to `origin`."""
    inside, branch = str(target.relative_to(clone)), target.name
    words = (
        ["cd", str(clone)],
        ["git", "switch", "-c", branch],
        ["git", "add", inside],
        ["git", "commit", "-m", title],
        ["git", "push", "-u", "origin", branch],
    )
    return [shlex.join(each) for each in words]
