"""Runs that are killed at any moment lose nothing: `python -m pytest -m slow tests/test_kills.py`."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.test_end_to_end import TINY, data, start, whole

__all__ = ["data", "whole"]

NUM_KILLS = 100
LONGEST_SECONDS = 20.0
"""A start that is not killed until then comes to its end."""


def processes_of(folder: Path) -> list[str]:
    """Command lines of the living processes that name a folder or work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            place = os.readlink(process / "cwd")
        except OSError:
            continue
        if (
            command
            and process.name != str(os.getpid())
            and (str(folder) in command or place.startswith(str(folder)))
        ):
            found.append(command)
    return found


def leftovers(folder: Path) -> list[str]:
    """What only a running program may have there."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name != ".gitignore")


def wait_until_alone(folder: Path) -> list[str]:
    """The processes that still live five seconds later."""
    deadline = time.monotonic() + 5
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


@pytest.mark.slow
def test_of_a_hundred_kills_none_loses_anything(whole, data, tmp_path):
    draw, kills, rounds = random.Random(7), 0, 0
    expected = (whole / "run" / "artifact.bin").read_bytes()
    while kills < NUM_KILLS:
        rounds += 1
        folder = tmp_path / f"round{rounds}"
        folder.mkdir()
        begin = [*TINY, "--data", data, "--steps", 12, "--out", "run", "--train.checkpoint-seconds", "0"]
        while True:
            resuming = (folder / "run" / "config.json").exists()
            arguments = ["--resume", "run"] if resuming else begin
            process = start(folder, *arguments)
            try:
                out, err = process.communicate(timeout=draw.uniform(0.5, LONGEST_SECONDS))
                assert process.returncode == 0, out + err
                break
            except subprocess.TimeoutExpired:
                kills += 1
                process.send_signal(draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
                out, err = process.communicate()
                assert process.returncode in (-signal.SIGKILL, -signal.SIGTERM, 143, 0), out + err
                assert "Traceback" not in err
                assert wait_until_alone(folder) == [], "orphans"
        assert (folder / "run" / "artifact.bin").read_bytes() == expected
        assert len(list((folder / "records" / "local").iterdir())) == 1
        assert leftovers(folder) == []
    print(f"{kills} kills in {rounds} runs: none lost, no orphans, no leftovers")
