"""The pages of docs/ that are written from the code, or quote it: the reference and the FAQ."""

import ast
import functools
import importlib.util
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

from golf.programs.reference import reference

ROOT = Path(__file__).parents[1]
QUOTED = re.compile(r"^> `` (.+) ``$", re.MULTILINE)
FEWEST_LETTERS = 12
"""Of a message's fixed text: a shorter one would fit to anything."""


def quoted_messages() -> list[str]:
    """What the FAQ quotes, program's name included."""
    lines = QUOTED.findall((ROOT / "docs" / "faq.md").read_text(encoding="utf-8"))
    assert all(re.match(r"golf(?: [a-z]+)?: ", line) for line in lines), "the program comes first"
    return lines


def is_in_the_code(message: str) -> bool:
    """Whether a text of the code is the message, or what is left without place and reason around it."""
    parts = message.split(": ")
    tails = [": ".join(parts[start:]) for start in range(len(parts))]
    tails += [tail.rpartition(" (")[0] for tail in tails if tail.endswith(")")]
    return any(pattern.fullmatch(tail) for pattern in message_patterns() for tail in tails)


@functools.cache
def message_patterns() -> tuple[re.Pattern[str], ...]:
    """A pattern for each text of the code, whose gaps fit to anything."""
    found = []
    for path in sorted((ROOT / "golf").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [
                part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else None
                for part in parts
            ]
            if sum(len(text or "") for text in texts) >= FEWEST_LETTERS:
                found.append(re.compile("".join(".*" if text is None else re.escape(text) for text in texts)))
    return tuple(found)


def test_the_reference_is_the_one_that_the_code_writes():
    stored = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert stored == reference(), "python -m golf.programs.reference > docs/reference.md"


def test_the_faq_quotes_messages_that_the_code_has():
    quoted = quoted_messages()
    assert len(quoted) >= 20
    assert not (gone := [each for each in quoted if not is_in_the_code(each)]), "\n".join(gone)


def test_a_message_that_the_code_has_not_is_seen():
    assert is_in_the_code("golf train: --minutes and --steps are two budgets; give one of them")
    assert not is_in_the_code("golf train: --minutes and --steps are one budget; give one of them")
    assert not is_in_the_code("golf score: a.bin: artifact is damaged: its checksum does not match its bytes")


def site_hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    return hooks


def test_the_marks_around_a_figure_are_not_in_the_site():
    page = SimpleNamespace(file=SimpleNamespace(abs_src_path=str(ROOT / "docs/gpu.md"), src_uri="gpu.md"))
    text = "after\n<!-- fig: a.b:.1f -->4.2<!-- /fig --> MB\n\n```\n<!-- fig: a.b -->1<!-- /fig -->\n```\n"
    made = site_hooks().on_page_markdown(text, page, {"docs_dir": str(ROOT / "docs"), "repo_url": None})
    assert made == "after\n4.2 MB\n\n```\n<!-- fig: a.b -->1<!-- /fig -->\n```\n"


def test_links_out_of_docs_lead_to_the_repository_or_become_text():
    hooks = site_hooks()
    page = SimpleNamespace(file=SimpleNamespace(abs_src_path=str(ROOT / "docs/gpu.md"), src_uri="gpu.md"))
    text = "[a](../README.md#x) `[b](../README.md)` [c](data.md)\n| `x\\|y` \\| z |"
    site = {"docs_dir": str(ROOT / "docs"), "repo_url": "https://host/o/r"}
    rest = " `[b](../README.md)` [c](data.md)\n| `x|y` \\| z |"
    linked = hooks.on_page_markdown(text, page, site)
    assert linked == "[a](https://host/o/r/blob/main/README.md#x)" + rest
    assert hooks.on_page_markdown(text, page, {**site, "repo_url": None}) == "a" + rest
