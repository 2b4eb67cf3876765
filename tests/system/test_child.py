"""Child processes that end with the process that started them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARENT = """
import sys
from golf.system.child import run_child
from golf.system.cli import run_program
child = "import time; print('up', flush=True); time.sleep(60)"
sys.exit(run_program("parent", lambda: run_child([sys.executable, "-c", child])))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="runs have children on Linux and macOS only")
def test_ctrl_c_at_a_terminal_ends_parent_and_child_without_a_traceback():
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    os.killpg(process.pid, signal.SIGINT)
    # Ends when the child has ended too: it holds the pipes.
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "parent: stopped\n")
