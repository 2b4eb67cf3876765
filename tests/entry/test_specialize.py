import ast
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from golf.entry.bundle import bundle
from golf.entry.source import BundleError
from golf.entry.specialize import PLUG_POINTS, render

CONFIGS = '''"""Configurations."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class PartConfig:
    """A part."""

    kind: str = "plain"
    """Kind."""
    depth: int = 2
    """Depth."""

    def __post_init__(self) -> None:
        for name in ("depth",):
            if vars(self)[name] < 0:
                raise ValueError(name)
        self.check_kind()

    def check_kind(self) -> None:
        """Refuses unknown kinds."""
        if not self.kind:
            raise ValueError("kind")


@dataclass(frozen=True)
class WholeConfig:
    """The whole."""

    part: PartConfig = field(default_factory=PartConfig)
    """The part."""
    name: str | None = None
    """Name."""
'''
SCRIPT = '''"""A script."""

from golf.configs import WholeConfig
from golf.parts import run

CONFIG = WholeConfig()

if __name__ == "__main__":
    print(run(CONFIG))
'''


@dataclass(frozen=True)
class PartConfig:
    kind: str = "plain"
    depth: int = 2


@dataclass(frozen=True)
class WholeConfig:
    part: PartConfig = field(default_factory=PartConfig)
    name: str | None = None


PartConfig.__module__ = WholeConfig.__module__ = "golf.configs"


def specialized(tmp_path: Path, code: str, config: Any = None, head: str = "") -> str:
    """The text of golf/parts.py, which holds `code`, in a bundle with this configuration."""
    (tmp_path / "golf").mkdir(exist_ok=True)
    (tmp_path / "golf/configs.py").write_text(CONFIGS)
    imports = "from golf.configs import PartConfig, WholeConfig\n"
    body = textwrap.dedent(code)
    (tmp_path / "golf/parts.py").write_text(f'"""Parts."""\n\n{head}{imports}\n\n{body}')
    (tmp_path / "train_gpt.py").write_text(SCRIPT)
    text = bundle(tmp_path / "train_gpt.py", tmp_path, config or WholeConfig(PartConfig("gated", 3)))
    ast.parse(text)
    return text[text.index("# golf/parts.py") :].split("\n", 1)[1].split("# train_gpt.py\n")[0].strip()


CHAIN = """\
def run(config: WholeConfig) -> str:
    part = config.part
    # Before.
    if part.kind == {first}:
        # First.
        text = '''
        as it is'''
        return text
    elif part.kind == {second}:
        # Second.
        return "second"
    else:
        # Third.
        return "third"
"""


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        (
            '"gated"',
            '"b"',
            "    # Before.\n    # First.\n    text = '''\n        as it is'''\n    return text",
        ),
        ('"a"', '"gated"', '    # Before.\n    # Second.\n    return "second"'),
        ('"a"', '"b"', '    # Before.\n    # Third.\n    return "third"'),
        ('"a"', "config.name + input()", "    if part.kind == config.name + input():\n        # Second."),
    ],
)
def test_a_decided_branch_takes_the_place_of_its_statement_with_its_comments(tmp_path, first, second, left):
    text = specialized(tmp_path, CHAIN.format(first=first, second=second))
    assert left in text and text.count("return") == (2 if "input" in second else 1)


def test_an_undecided_branch_before_a_decided_one_stays(tmp_path):
    text = specialized(tmp_path, CHAIN.format(first="input()", second='"gated"'))
    assert '    else:\n        # Second.\n        return "second"' in text and "third" not in text
    text = specialized(tmp_path, CHAIN.format(first="input()", second='"b"'))
    assert '    else:\n        # Third.\n        return "third"' in text and "second" not in text


def test_fields_decide_tests_conditions_and_operands(tmp_path):
    code = """\
    def run(config: WholeConfig) -> float:
        value = 1.0 if config.part.kind == "gated" else float(input())
        if config.part.depth > 2 and value > input():
            value += 1
        if config.name is None or config.name.startswith("x"):
            value += 2
        return value
    """
    text = specialized(tmp_path, code)
    assert (
        "value = 1.0\n" in text and "if value > input():" in text and "name" not in text.split("def run")[1]
    )


@pytest.mark.parametrize(
    "change",
    [
        "config = replace(config, depth=input())",
        "config = PartConfig(depth=1)",
        "object.__setattr__(config, 'depth', 1)",
        "config = other = config",
    ],
)
def test_a_field_that_the_program_may_change_decides_nothing(tmp_path, change):
    code = f"""\
    def run(config: WholeConfig) -> int:
        return inner(config.part)


    def inner(config: PartConfig) -> int:
        {change}
        return depth_of(config)


    def depth_of(config: PartConfig) -> int:
        if config.depth > 2:
            return 1
        return 2
    """
    text = specialized(tmp_path, code, head="from dataclasses import replace\n")
    assert ("if config.depth > 2" in text) == ("other" not in change)


def test_a_change_of_fields_that_are_not_named_is_refused(tmp_path):
    code = "def run(config: WholeConfig):\n    return replace(config, **dict(depth=1))\n"
    with pytest.raises(BundleError, match="name them"):
        specialized(tmp_path, code, head="from dataclasses import replace\n")


@pytest.mark.parametrize(
    "code",
    [
        "def run(config: WholeConfig):\n    return 1 if config.length > 2 else 2\n",
        "def run(config: WholeConfig, options=None):\n    return 1 if options.depth > 2 else 2\n",
        "class Box:\n    depth = 3\n\n    def run(self):\n        return 1 if self.depth > 2 else 2\n\n\n"
        "def run(config: WholeConfig):\n    return Box().run()\n",
    ],
)
def test_what_is_no_field_of_a_config_decides_nothing(tmp_path, code):
    assert "if" in specialized(tmp_path, code)


def test_an_object_annotated_as_a_protocol_may_be_of_any_class(tmp_path):
    code = """\
    class Learner(Protocol):
        def learn(self) -> None:
            \"\"\"Nothing here.\"\"\"


    class Real:
        def learn(self) -> None:
            print("learned")


    def run(config: WholeConfig) -> None:
        drive(Real())


    def drive(learner: Learner) -> None:
        learner.learn()
    """
    text = specialized(tmp_path, code, head="from typing import Protocol\n")
    assert "learner.learn()" in text and 'print("learned")' in text


def test_a_table_of_plug_points_keeps_what_its_fields_select(tmp_path, monkeypatch):
    monkeypatch.setitem(PLUG_POINTS, "KINDS", ("kind",))
    code = """\
    def plain() -> str:
        return "plain"


    def gated() -> str:
        return "gated"


    KINDS = {"plain": plain, "gated": gated}
    OTHERS = {"plain": gated, "gated": gated}


    def run(config: WholeConfig) -> str:
        return KINDS[config.part.kind]() + OTHERS[input()]()
    """
    text = specialized(tmp_path, code)
    assert 'KINDS = {"gated": gated}' in text and "def plain" not in text and 'OTHERS = {"plain"' in text


def test_checks_of_configurations_are_dropped_and_what_is_left_of_defaults_is_written(tmp_path):
    specialized(tmp_path, "def run(config: WholeConfig) -> str:\n    return config.part.kind\n")
    text = bundle(tmp_path / "train_gpt.py", tmp_path, WholeConfig(PartConfig(depth=3)))
    assert "__post_init__" not in text and "check_kind" not in text
    assert "CONFIG = WholeConfig(\n    part=PartConfig(\n        depth=3,\n    ),\n)\n" in text
    assert render(WholeConfig()) == "WholeConfig()"


def test_names_that_are_read_no_more_and_code_that_is_never_reached_are_dropped(tmp_path):
    code = """\
    def run(config: WholeConfig) -> int:
        size = config.part.depth + 1
        if config.part.kind == "gated":
            return 1
        print(size)
        return 2
    """
    assert specialized(tmp_path, code) == "def run(config: WholeConfig) -> int:\n    return 1"
