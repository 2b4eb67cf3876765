"""The commit is the checkout's own."""

import subprocess

from golf.entry.finalize import toolkit_commit


def test_outside_git_the_commit_is_unknown(tmp_path):
    assert toolkit_commit(tmp_path) == "unknown"


def test_a_changed_file_makes_the_commit_dirty(tmp_path):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "first")
    head = git("rev-parse", "HEAD")
    assert toolkit_commit(tmp_path) == head
    (tmp_path / "untracked").write_text("1")
    assert toolkit_commit(tmp_path) == head
    (tmp_path / "a").write_text("2")
    assert toolkit_commit(tmp_path) == f"{head}-dirty"
