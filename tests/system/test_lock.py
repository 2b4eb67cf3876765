"""One owner per folder."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from golf.system.lock import FolderInUse, lock_owner, owned_folder

OWNER = """
import sys, time
from pathlib import Path
from golf.system.lock import owned_folder
with owned_folder(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def start_owner(folder, seconds):
    command = [sys.executable, "-c", OWNER, str(folder), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "mine\n"
    return process


def test_a_second_owner_is_refused_or_waits_and_a_killed_one_holds_nothing(tmp_path):
    folder = tmp_path / "runs" / "one"
    owner = start_owner(folder, 60)
    assert lock_owner(folder) == owner.pid
    with pytest.raises(FolderInUse, match=f"one is in use by process {owner.pid}"), owned_folder(folder):
        raise AssertionError
    (folder / ".result.json.abc.part").write_text("half")
    (folder / ".empty.part").mkdir()
    (folder / ".empty.part" / "file").write_text("")
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert lock_owner(folder) is None
    with owned_folder(folder):
        assert [path.name for path in folder.iterdir()] == [".lock"], "what the killed one left is gone"
        assert lock_owner(folder) == os.getpid()
        (folder / "kept").write_text("")
    assert [path.name for path in folder.iterdir()] == ["kept"]


def test_waiting_is_said_once_and_ends_with_the_owner(tmp_path):
    owner, said = start_owner(tmp_path / "a", 1.0), []
    with owned_folder(tmp_path / "a", said.append):
        assert owner.wait(10) == 0
    assert said == [f"{tmp_path / 'a'} is in use by process {owner.pid}; waiting for it"]
    assert list(tmp_path.iterdir()) == [], "a folder without a file does not stay"


def test_of_many_at_once_one_at_a_time_owns(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(5):
            with owned_folder(tmp_path / "a", lambda text: None):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "victim").write_text("kept")
    (tmp_path / "a" / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"), owned_folder(tmp_path / "a"):
        raise AssertionError
    assert (tmp_path / "victim").read_text() == "kept"
