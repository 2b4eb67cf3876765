import ast
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from golf.check.scripts import parse_for_versions
from golf.entry.bundle import bundle
from golf.entry.selfextract import _minify, pack_script, requirements_for, unpack_script
from golf.entry.source import BundleError

ROOT = Path(__file__).parents[2]

SCRIPT = '''"""Prints what its options make of a list."""

import argparse
import json

from golf.alpha.shapes import Box, BoxConfig
from golf.beta import double  # the other half

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--side-meters", type=float, default=2.0, help="Length of each side, meters.")


def main(side_meters: float, seed: int = 7) -> None:
    """Runs it."""
    # Only where the toolkit is beside this file.
    if seed < 0:
        from golf.toolkit import report

        report(seed)
    print(json.dumps([double(Box(BoxConfig(side_meters)).volume()), seed]))


if __name__ == "__main__":
    main(parser.parse_args().side_meters)
'''

MODULES = {
    "golf/__init__.py": "",
    "golf/alpha/__init__.py": '"""Shapes."""\n',
    "golf/alpha/units.py": '''"""The scale of things.

More about it.
"""

import math
from collections.abc import Sequence

HALF = 0.5
"""Half of one."""


def product(values: Sequence[float]) -> float:
    """The product of the values."""
    # math.prod keeps integers exact.
    return math.prod(values)
''',
    "golf/alpha/shapes.py": '''"""Boxes."""

from dataclasses import dataclass

from golf.alpha.units import HALF, product

# A box has three sides.
SIDES = 3


@dataclass(frozen=True)
class BoxConfig:
    """The sizes of a box."""

    side_meters: float = 2.0
    """Length of each side, meters."""
    text: str = """several
lines"""
    """Text of several lines."""


class Box:
    """A cube."""

    def __init__(self, config: BoxConfig):
        self.config = config

    def volume(self) -> float:
        """Its volume, halved."""
        return HALF * product([self.config.side_meters] * SIDES)
''',
    "golf/beta.py": '''"""Doubling."""

import math

from golf.alpha.units import product


def double(value: float) -> float:
    """Twice the value."""
    return math.floor(product([value, 2.0]))
''',
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in {**MODULES, "train_gpt.py": SCRIPT}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def run_alone(text: str | bytes, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    path = folder / "train_gpt.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    command = [sys.executable, "-I", "train_gpt.py", *options]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "300"}
    )


def test_a_bundle_runs_alone_in_an_empty_folder(project, tmp_path):
    done = run_alone(bundle(project / "train_gpt.py", project), tmp_path / "alone", "--side-meters", "4")
    assert (done.stderr, done.stdout) == ("", "[64, 7]\n")


def test_a_bundle_is_the_same_each_time_and_parses_on_every_supported_python(project):
    text = bundle(project / "train_gpt.py", project)
    assert text == bundle(project / "train_gpt.py", project)
    assert parse_for_versions(text.encode()).rejected_by == ()


def test_modules_come_once_each_after_those_they_import(project):
    text = bundle(project / "train_gpt.py", project)
    titles = [line for line in text.splitlines() if line.startswith("# golf/") or line == "# train_gpt.py"]
    assert titles == [
        "# golf/alpha/units.py: The scale of things.",
        "# golf/alpha/shapes.py: Boxes.",
        "# golf/beta.py: Doubling.",
        "# train_gpt.py",
    ]


def test_imports_stand_once_on_top_and_comments_stay(project):
    text = bundle(project / "train_gpt.py", project)
    assert text.startswith(
        '"""Prints what its options make of a list."""\n# train_gpt.py and the definitions of golf'
    )
    head = text[text.index("\n\n") : text.index("# golf/alpha/units.py")]
    assert head.strip() == (
        "import argparse\nimport json\nimport math\nfrom collections.abc import Sequence\n"
        "from dataclasses import dataclass"
    )
    assert "# math.prod keeps integers exact." in text and "# A box has three sides." in text
    assert "More about it." not in text and "from golf.alpha" not in text
    assert "        from golf.toolkit import report\n" in text
    assert text.endswith('if __name__ == "__main__":\n    main(parser.parse_args().side_meters)\n')


def test_a_bundle_bundles_to_itself(project, tmp_path):
    text = bundle(project / "train_gpt.py", project)
    again = tmp_path / "again.py"
    again.write_text(text)
    assert bundle(again, project) == text


def test_a_hash_bang_line_stays_first(project):
    script = project / "train_gpt.py"
    script.write_text("#!/usr/bin/env python\n" + SCRIPT)
    text = bundle(script, project)
    assert text.startswith("#!/usr/bin/env python\n") and text.count("#!") == 1


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("golf/beta.py", "import product\n", "import product as p\n", "golf/beta.py:5: .*alias, p"),
        (
            "golf/beta.py",
            "import math\n",
            "import golf.alpha.units\n",
            "golf/beta.py:3: import golf.alpha.units",
        ),
        ("golf/beta.py", "golf.alpha.units", ".alpha.units", "golf/beta.py:5: relative import"),
        ("golf/beta.py", "import product", "import *", "golf/beta.py:5: star import"),
        ("golf/beta.py", "import math", "from math import *", "golf/beta.py:3: star import from math"),
        (
            "golf/beta.py",
            "import math",
            "from __future__ import annotations",
            "golf/beta.py:3: from __future__",
        ),
        ("golf/beta.py", "    return", "    print(__file__)\n    return", "golf/beta.py:10: __file__"),
        ("golf/beta.py", "def double", "def product(): ...\n\n\ndef double", "golf/beta.py:8: product is "),
        (
            "golf/beta.py",
            "import math",
            "import cmath as math",
            "golf/beta.py:3: math is cmath here and math",
        ),
        (
            "golf/beta.py",
            "def double",
            "def Box(): ...\n\n\ndef double",
            "golf/beta.py:8: Box is golf.beta.Box",
        ),
        ("golf/beta.py", "import math", "from os import open", "golf/beta.py:3: open would hide the builtin"),
        (
            "golf/beta.py",
            "import math",
            "import math; X = 1",
            "golf/beta.py:3: an import or docstring shares",
        ),
        ("golf/beta.py", "import product", "import products", "golf/beta.py:5: .* does not define products"),
        (
            "golf/beta.py",
            "    return",
            "    from golf.alpha.units import HALF\n    return",
            "golf/beta.py:10: .*below",
        ),
        (
            "golf/beta.py",
            "import math",
            "if True:\n    import golf.alpha",
            "golf/beta.py:4: import golf.alpha",
        ),
        ("golf/beta.py", "units", "nothing", "golf/beta.py:5: there is no module golf.alpha.nothing"),
        ("golf/beta.py", "def", "def def", "golf/beta.py:8: does not parse"),
        ("golf/beta.py", '"""Doubling', '\ufeff"""Doubling', "golf/beta.py:1: starts with a byte order mark"),
        (
            "golf/alpha/units.py",
            "HALF =",
            "from golf.beta import double\nHALF =",
            "circle: golf.alpha.units -> g",
        ),
        ("golf/alpha/__init__.py", '"""Shapes."""', "X = 1", "golf/alpha/__init__.py holds code"),
        ("train_gpt.py", "def main", "def Box(): ...\n\n\ndef main", "train_gpt.py:13: Box is train_gpt.Box"),
    ],
)
def test_what_the_bundle_rule_forbids_is_refused_with_file_and_line(project, file, old, new, complaint):
    text = (project / file).read_text()
    assert old in text
    (project / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BundleError, match=complaint):
        bundle(project / "train_gpt.py", project)


def test_names_bound_inside_functions_and_comprehensions_do_not_clash(project):
    beta = project / "golf/beta.py"
    beta.write_text(
        beta.read_text() + "\n\nTABLE = [Box for Box in range(3)]\n\n\ndef f(HALF):\n    SIDES = HALF\n"
    )
    bundle(project / "train_gpt.py", project)


def test_a_packed_script_does_and_says_the_same(project, tmp_path):
    text = bundle(project / "train_gpt.py", project)
    packed = pack_script(text)
    assert packed.isascii() and len(packed.splitlines()) == 3 and packed == pack_script(text)
    assert run_alone(packed, tmp_path / "packed").stdout == run_alone(text, tmp_path / "readable").stdout
    help_text = run_alone(packed, tmp_path / "packed", "--help").stdout
    assert help_text == run_alone(text, tmp_path / "readable", "--help").stdout
    for words in ("Prints what its options make", "--side-meters", "Length of each side, meters."):
        assert words in help_text


def test_a_packed_script_shows_its_source_to_inspect_and_in_tracebacks(tmp_path):
    source = (
        "import inspect,traceback\nclass Seen:\n    size = 3\ndef seen(a):\n    return a + 1\n"
        "print(inspect.getsource(seen), inspect.getsource(Seen))\n"
        "try:\n    seen('x')\nexcept TypeError:\n    traceback.print_exc()\nseen('y')\n"
    )
    done = run_alone(pack_script(source), tmp_path / "packed")
    assert done.stdout == "def A(a):return a+1\n class D:size=3\n\n"
    assert "('x')" in done.stderr and "unpacked" in done.stderr and "b85decode" not in done.stderr


def test_a_packed_script_has_short_names_and_keeps_those_that_are_found_by_name():
    source = (
        "from dataclasses import dataclass\nLARGE_CONSTANT = 3\n"
        "@dataclass\nclass Options:\n    number: int = 1\n"
        "def long_function_name(value: int) -> int:\n    return value + LARGE_CONSTANT\n"
        "found = long_function_name(value=vars(Options(number=4))['number'])\nprint(found + LARGE_CONSTANT)\n"
    )
    text = unpack_script(pack_script(source))
    assert "long_function_name" not in text and "LARGE_CONSTANT" not in text and "->" not in text
    assert "number" in text and "value=" in text


def test_unpacking_reads_as_data_and_returns_the_minified_text(project):
    text = unpack_script(pack_script(bundle(project / "train_gpt.py", project)))
    assert "Prints what its options make" in text and "The product of the values" not in text
    assert parse_for_versions(text.encode()).rejected_by == ()


@pytest.mark.parametrize(
    "data", [b"", b"print(1)\n", b"import lzma as Z\nT='abc'\n", b"\xff", b"import lzma\n"]
)
def test_unpacking_another_file_is_refused(data):
    with pytest.raises(BundleError, match="not a script that pack_script made"):
        unpack_script(data)


def test_requirements_are_exact_and_without_local_tags_and_leave_a_machine_its_torch():
    source = "import os\nimport torch\nfrom numpy import array\n\ndef f():\n    import no_such_package_here\n"
    lines = requirements_for(source, {"torch": "2.99.1+cpu"}).splitlines()
    assert lines[0] == "# no_such_package_here: imported on demand; not installed where this was made"
    assert lines[1].startswith("numpy==") and lines[2:] == ["torch>=2.8  # 2.99.1 made the figures"]


def test_a_missing_package_imported_at_the_top_is_an_error():
    with pytest.raises(BundleError, match="imports no_such_package_here"):
        requirements_for("import no_such_package_here\n")


def test_the_project_itself_bundles_packs_and_shows_its_options_alone(tmp_path):
    text = bundle(ROOT / "golf" / "entry_main.py", ROOT)
    assert parse_for_versions(text.encode()).rejected_by == ()
    shown = run_alone(pack_script(text), tmp_path / "packed", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    for words in ("Trains, packs and scores", "--score ARTIFACT", "limit on test-time training"):
        assert words in shown.stdout


FORMATS = [
    "f\"x {d['a']:{w}.2f} {{lit}} {', '.join(['p', 'q'])!r} {d['b']}\"",
    "f\"{'y' * (w > 3)}z{w:>{w}}\"",
    "f\"{d['a']=}\"",
    "f\"{'a' if w else f'{w}b'}{w:>{len('abc')}}\"",
    "f'plain {w} {w!r:>4}'",
]


@pytest.mark.parametrize("source", FORMATS)
def test_a_packed_script_has_no_string_inside_an_f_string_which_python_3_11_could_not_read(source: str):
    values = {"d": {"a": 3.14159, "b": 7}, "w": 9}
    text = _minify(f"out.value = {source}")
    out = SimpleNamespace()
    exec(text, {**values, "out": out})
    assert out.value == eval(source, dict(values))
    for node in ast.walk(ast.parse(text)):
        for field in [part for part in ast.walk(node) if isinstance(part, ast.FormattedValue)]:
            inner = [leaf for leaf in ast.walk(field.value) if isinstance(leaf, ast.Constant)]
            assert not any(isinstance(leaf.value, str) for leaf in inner), text
