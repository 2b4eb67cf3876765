"""A program that nothing isolates, and reports that a program has forged."""

import sys
from pathlib import Path
from typing import Any

import pytest

from golf.audit import isolate
from golf.audit.isolate import NONE, IsolationError, Limits, Outcome, run_isolated, unpack_report


def _run(source: str, into: Path, **more: Any) -> Outcome:
    limits = Limits(seconds=20, output_bytes=1 << 16)
    command = [sys.executable, "-I", "-c", source]
    return run_isolated(command, **{"inputs": {}, "outputs": {}, "into": into, "limits": limits, **more})


def test_without_isolation_a_program_runs_only_if_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolate, "find_mechanism", lambda: None)
    monkeypatch.setenv("GOLF_TOKEN", "a-secret")
    source = "import os; open('x', 'w').write(str('GOLF_TOKEN' in os.environ)); print(len(os.listdir('.')))"
    with pytest.raises(IsolationError, match=r"bubblewrap .*--trust"):
        _run(source, tmp_path, outputs={"x": 9})
    done = _run(source, tmp_path, outputs={"x": 9}, trust=True)
    assert (done.mechanism, done.returncode, done.stdout) == (NONE, 0, b"1\n")
    assert done.files["x"].read_text() == "False"
    left = _run("import os, time; os.fork() or time.sleep(600)", tmp_path, trust=True)
    assert (left.returncode, left.stopped_by) == (0, None)
    stopped = _run("while True: print('x' * 9999)", tmp_path, trust=True)
    assert stopped.stopped_by is not None and "printed" in stopped.stopped_by


REPORTS = {
    "no report": b"",
    "no JSON": b"ended\n",
    "no end of lists": b"[" * 99_999 + b"\n",
    "another shape": b'{"returncode": [0], "files": {}}\n',
    "another name": b'{"returncode": 0, "files": [["../escaped", 3]]}\nabc',
    "twice": b'{"returncode": 0, "files": [["asked", 1], ["asked", 1]]}\nab',
    "too long": b'{"returncode": 0, "files": [["asked", 4]]}\nabcd',
    "negative": b'{"returncode": 0, "files": [["asked", -1]]}\nabcd',
    "cut": b'{"returncode": 0, "files": [["asked", 3]]}\nab',
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_forged_report_is_no_report(name: str, tmp_path: Path) -> None:
    code, files = unpack_report(REPORTS[name], {"asked": 3}, tmp_path)
    assert code is None and set(files) <= {"asked"} and not (tmp_path.parent / "escaped").exists()
