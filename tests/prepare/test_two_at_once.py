"""Processes that prepare one folder at a time, or are killed while they do."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from data_samples import sample_text

from golf.data.manifest import open_dataset, sha256_of_file

ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Prepares `tmp_path`/data."""
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": sample_text(seed)}) + "\n" for seed in range(3000)))
    options = f"--source text --files {path} --vocab-size 400 --data {tmp_path / 'data'}"
    return [sys.executable, "-m", "golf.prepare", *options.split()]


def start(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def check_whole(folder: Path) -> None:
    """The folder holds a dataset whose shards are those of its manifest, and nothing else."""
    dataset = open_dataset(folder)
    for file in dataset.manifest.files:
        assert sha256_of_file(folder / file.name) == file.sha256
    names = {file.name for file in dataset.manifest.files} | {"manifest.json", dataset.manifest.tokenizer}
    assert {path.name for path in folder.iterdir()} == names


def test_of_processes_that_prepare_one_folder_one_does_and_the_others_say_why_not(
    tmp_path: Path, command: list[str]
):
    ends = [(child.communicate()[0], child.returncode) for child in [start(command) for _ in range(3)]]
    assert sorted(code for _, code in ends) == [0, 2, 2]
    for said, code in ends:
        refused = re.search("is preparing it|is in use by process|already holds a dataset", said)
        assert (code == 2) is bool(refused) and "Traceback" not in said
    check_whole(tmp_path / "data")


@pytest.mark.slow
def test_what_killed_processes_leave_is_no_dataset_and_hinders_nobody(tmp_path: Path, command: list[str]):
    began = time.monotonic()
    assert start(command).wait() == 0
    whole = time.monotonic() - began
    for path in (tmp_path / "data").iterdir():
        path.unlink()
    num_left = 0
    for part in range(20):
        child = start(command)
        time.sleep(whole * (0.3 + 0.7 * part / 20))
        child.kill()
        child.wait()
        folder = tmp_path / "data"
        num_left += any(folder.glob(".preparing-*"))
        if (folder / "manifest.json").exists():
            check_whole(folder)
            for path in folder.iterdir():
                path.unlink()
    assert num_left > 0
    child = start(command)
    said, _ = child.communicate()
    assert child.returncode == 0, said
    check_whole(tmp_path / "data")
