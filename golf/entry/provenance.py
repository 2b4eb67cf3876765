"""Which state of the toolkit made a run."""

import subprocess
from pathlib import Path


def toolkit_commit(root: Path) -> str:
    """The commit of the checkout at `root`, `-dirty` behind it if files differ; `unknown` outside git."""
    described = _git(root, "rev-parse", "HEAD")
    if described is None:
        return "unknown"
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{described}-dirty" if changed else described


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
