from pathlib import Path

import pytest

from golf.entry.bundle import bundle
from golf.entry.source import BundleError

SCRIPT = '''"""A script."""

import sys

from golf.parts import Part

LIMIT = 3


def main() -> None:
    """Runs it."""
    print(Part(LIMIT).used(), sys.argv)


if __name__ == "__main__":
    main()
'''
PARTS = '''"""Parts."""

import json
import math

from torch import nn

USED = 1
"""Read by a method."""
# Nobody needs this one.
UNUSED = 2


# Why this class.
class Part:
    """A part."""

    def __init__(self, size: "Size"):
        self.size = size

    def used(self) -> int:
        """Called."""
        return USED + getattr(self, "by_name")()

    # Why nobody calls it.
    def unused(self) -> int:
        """Not called, but by itself."""
        return self.unused() + math.pi

    @property
    def by_name(self) -> int:
        """Read by its name."""
        return 4

    def __len__(self) -> int:
        return 5


class Net(nn.Module):
    """Called by torch."""

    def forward(self) -> None:
        """Overrides torch's."""

    def extra(self) -> None:
        """Overrides nothing."""


Size = int


def unused() -> str:
    """Not called."""
    return json.dumps(UNUSED)
'''


def write(tmp_path: Path, parts: str = PARTS, script: str = SCRIPT) -> Path:
    (tmp_path / "golf").mkdir(parents=True)
    (tmp_path / "golf/parts.py").write_text(parts)
    (tmp_path / "train_gpt.py").write_text(script)
    return tmp_path / "train_gpt.py"


def test_definitions_methods_and_imports_that_nothing_reaches_are_dropped_with_their_comments(tmp_path):
    text = bundle(write(tmp_path), tmp_path)
    for word in ("UNUSED", "unused", "Nobody needs", "Why nobody", "json", "math", "Net", "torch"):
        assert word not in text
    for word in ("# Why this class.", "Read by a method.", "def by_name", "__len__", "Size = int"):
        assert word in text


def test_methods_that_override_those_of_an_outside_class_stay(tmp_path):
    text = bundle(write(tmp_path, script=SCRIPT.replace("Part", "Net").replace(".used()", "")), tmp_path)
    assert "def forward" in text and "def extra" not in text


def test_names_of_the_scripts_all_are_reached(tmp_path):
    script = SCRIPT.replace("LIMIT = 3", '__all__ = ["LIMIT", "Net"]\nLIMIT = 3').replace(
        "import Part", "import Net, Part"
    )
    script = script[: script.index("def main")]
    text = bundle(write(tmp_path, script=script), tmp_path)
    assert "LIMIT = 3" in text and "class Net" in text and "class Part" not in text
    assert "Net" not in bundle(write(tmp_path / "b", script=script.replace(', "Net"', "")), tmp_path / "b")


def test_a_class_that_loses_all_its_methods_still_is_one(tmp_path):
    parts = (
        '"""Parts."""\n\n\nclass Part:\n    def other(self) -> None: ...\n\n    def more(self) -> None: ...\n'
    )
    script = SCRIPT.replace("Part(LIMIT).used()", "Part()")
    assert "class Part:\n    pass\n" in bundle(write(tmp_path, parts, script), tmp_path)


def test_the_head_says_how_long_each_part_is(tmp_path):
    text = bundle(write(tmp_path), tmp_path)
    section = text[text.index("# golf/parts.py") : text.index("# train_gpt.py\n")]
    assert f"#   parts       {section.rstrip().count(chr(10)) + 1:>6}\n" in text
    assert "#   train_gpt        9\n" in text


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ('return getattr(self, "us" + "ed")', "golf/parts.py:23: getattr of a computed name"),
        ('return globals()["UNUSED"]', "golf/parts.py:21: globals may read any definition"),
        ('return eval("UNUSED")', "golf/parts.py:21: eval may read"),
        ("return vars()", "golf/parts.py:21: vars may read"),
    ],
)
def test_what_could_reach_a_definition_by_a_computed_name_is_refused_if_it_is_reached(
    tmp_path, code, complaint
):
    parts = PARTS.replace('return USED + getattr(self, "by_name")()', code)
    with pytest.raises(BundleError, match=complaint):
        bundle(write(tmp_path, parts), tmp_path)


def test_computed_names_of_outside_modules_and_in_dropped_code_are_no_matter(tmp_path):
    parts = PARTS.replace("return json.dumps(UNUSED)", "return globals()")
    parts = parts.replace('getattr(self, "by_name")()', "getattr(math, str(self.by_name))")
    assert "getattr(math, str(self.by_name))" in bundle(write(tmp_path, parts), tmp_path)
