"""How programs end."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from golf.system.cli import Stopped, run_program


class TooLarge(ValueError):
    pass


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "code", "line"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (raising(ValueError("width is 3")), 2, "p: width is 3\n"),
        (raising(FileNotFoundError("no such file")), 2, "p: no such file\n"),
        (raising(TooLarge("too large")), 1, "p: too large\n"),
        (raising(FileNotFoundError(2, "No such file", "a/b")), 2, "p: a/b: No such file\n"),
        (raising(ValueError("name is \x1b[2Ja\u202eb")), 2, "p: name is \\x1b[2Ja\\u202eb\n"),
        (raising(MemoryError()), 2, "p: out of memory (no more than that is known)\n"),
        (raising(KeyboardInterrupt()), 130, "p: goes on\n"),
        (raising(Stopped("at step 3", signal.SIGTERM)), 143, "p: at step 3\n"),
        (raising(BrokenPipeError()), 141, ""),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), 143, "p: goes on\n"),
        (lambda: os.kill(os.getpid(), signal.SIGHUP), 129, "p: goes on\n"),
        (lambda: os.kill(os.getpid(), signal.SIGUSR1), 128 + signal.SIGUSR1, "p: goes on\n"),
    ],
)
def test_a_program_ends_with_its_code_and_one_line(work, code, line, capsys):
    assert run_program("p", work, {TooLarge: 1}, "goes on") == code
    assert capsys.readouterr() == ("", line)


def test_a_fault_of_the_program_comes_through():
    with pytest.raises(ZeroDivisionError):
        run_program("p", raising(ZeroDivisionError()))


def test_a_program_may_run_in_a_thread():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(run_program("p", lambda: None)))
    thread.start()
    thread.join()
    assert codes == [0]


def test_signals_that_are_ignored_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_program("p", lambda: os.kill(os.getpid(), signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


PRINTING = """
import sys
from golf.system.cli import run_program
from golf.system.log import RunLog

def work():
    log = RunLog()
    for number in range(20000):
        {line}
    print("ended", file=sys.stderr)

sys.exit(run_program("p", work))
"""


@pytest.mark.parametrize(
    ("line", "code", "error"),
    [("print(number)", 141, ""), ('log.info(f"line {number}")', 0, "ended\n")],
    ids=["print", "log"],
)
def test_a_reader_that_leaves_ends_a_listing_quietly_and_a_run_not_at_all(line, code, error):
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTING.format(line=line)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline()
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (code, error)


def test_a_console_of_a_small_alphabet_shows_escapes():
    code = 'import sys; from golf.system.cli import run_program; run_program("p", lambda: print("\\u0394 x"))'
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert done.stdout == b"\\u0394 x\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_program_runs_with_a_standard_stream_closed(closed: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    code = (
        "import os, sys; from golf.system.cli import run_program\n"
        "def work():\n"
        "    print('to nobody', flush=True)\n"
        f"    with open({str(made)!r}, 'w') as file:\n"
        "        print(file.fileno(), file=file)\n"
        "sys.exit(run_program('p', work))"
    )
    ended = subprocess.run(["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, code], timeout=60)
    assert ended.returncode == 0
    assert int(made.read_text()) > 2, "a file of the program is no standard stream"
