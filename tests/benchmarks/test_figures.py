"""Figures of README.md and docs/: rendered from docs/figures, compared, and none typed by hand."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.figures import (
    BLOCK,
    FOLDER,
    PROJECT,
    figures_used,
    load_figures,
    main,
    pages,
    render_page,
    write_figures,
)
from benchmarks.preparing import PreparingConfig
from golf.score.tally import Tally

NOT_MEASURED = {
    ("docs/gpu.md", "driver, torch, `pip install torch==... --index-url`"): "versions of torch and CUDA",
    ("docs/reference.md", "option, value, default, meaning"): "figures of sources in docstrings",
    ("docs/reference.md", "preset, text, purpose"): "sizes of presets",
    ("docs/submitting.md", "check, holds if"): "limits of the challenge",
    ("docs/gpu.md", "stage, what it does, use of the card"): "limits of the command",
    ("docs/recipe.md", "preset, network, tokens per step, context, recurrence, purpose"): "sizes of presets",
    ("docs/recipe.md", "field, what it does, seed, frontier, source, published effect"): "published effects",
    ("docs/recipe.md", ", `seed`, `pr334`"): "settings of two presets",
    ("docs/rules.md", "rule, source, checked by"): "limits of the challenge, figures of its records",
    ("docs/rules.md", "rule, checked by"): "versions of Python",
    ("docs/rules.md", "million bytes, cause"): "bytes of public records",
}
"""Tables with decimal figures that no program here measured: page and headings, with the reason."""
SOURCE = {"command": "python x.py", "n": 2, "hardware": "one core", "date": "2026-11-27"}


def write_page(root: Path, text: str, **files: dict[str, Any]) -> Path:
    (root / FOLDER).mkdir(parents=True)
    for name, fields in files.items():
        (root / FOLDER / f"{name}.json").write_text(json.dumps(fields))
    (root / "README.md").write_text(text)
    return root / "README.md"


def tables_outside(text: str) -> list[str]:
    """Markdown tables outside markers and code."""
    text = re.sub(r"```.*?```", "", BLOCK.sub("", text), flags=re.DOTALL)
    return re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)


def has_decimals(table: str) -> bool:
    """Whether a cell has a decimal figure; code, addresses and arXiv numbers count for nothing."""
    return re.search(r"\d\.\d", re.sub(r"`[^`]*`|\]\([^)]*\)|\d{4}\.\d{4,5}", "", table)) is not None


def headings(table: str) -> str:
    return ", ".join(cell.strip() for cell in table.splitlines()[0].split("|")[1:-1])


def test_every_page_shows_the_figures_of_its_files() -> None:
    for page in pages(PROJECT):
        text = page.read_text(encoding="utf-8")
        assert render_page(text) == text, f"{page.name}: `make figures` renders it"


def test_every_file_of_figures_is_shown_or_read_by_one_that_is() -> None:
    files = {path.stem: path.read_text(encoding="utf-8") for path in (PROJECT / FOLDER).glob("*.json")}
    used = {name for page in pages(PROJECT) for name in figures_used(page.read_text(encoding="utf-8"))}
    used |= {
        name for other in files.values() for name in re.findall(rf'"file": "{FOLDER}/(\S+)\.json"', other)
    }
    assert used == files.keys()


def test_no_table_of_measured_figures_is_typed_by_hand() -> None:
    typed = {
        (str(page.relative_to(PROJECT)), headings(table))
        for page in pages(PROJECT)
        for table in tables_outside(page.read_text(encoding="utf-8"))
        if has_decimals(table)
    }
    assert typed == NOT_MEASURED.keys()


def test_a_typed_table_is_seen_and_versions_in_code_are_not() -> None:
    assert has_decimals(tables_outside("| arm | bpb |\n|---|---|\n| a | 1.80 |\n")[0])
    assert not has_decimals("| Muon, arXiv:2505.16932 | `--rate 0.1` | [page](v1.2.md) | 3 |")
    assert not tables_outside("<!-- figures: a -->\n| 1.80 |\n<!-- end figures -->\n```\n| 1.80 |\n```")


def test_rows_take_the_first_text_whose_fields_they_have(tmp_path: Path) -> None:
    difference = {"name": "difference", "text": ["{mean:+.2f} ({low:+.2f})", "{mean:+.2f}", "{words}"]}
    columns = [{"name": "arm", "labels": {"a": "first"}}, difference]
    rows = [
        {"arm": "a", "mean": 0.125, "low": -1.0},
        {"arm": "b", "mean": 2},
        {"arm": "c", "words": "x|y"},
        {"arm": "d"},
    ]
    page = write_page(
        tmp_path,
        "<!-- figures: f -->\n<!-- end figures -->\n",
        f={"columns": columns, "rows": rows, "provenance": {**SOURCE, "minutes": 1}},
    )
    assert main(["--root", str(tmp_path), "--check"]) == 1 and "first" not in page.read_text()
    assert main(["--root", str(tmp_path)]) == 0 and main(["--root", str(tmp_path), "--check"]) == 0
    assert page.read_text().splitlines()[2:] == [
        "| arm | difference |",
        "| --- | --- |",
        "| first | +0.12 (-1.00) |",
        "| b | +2.00 |",
        r"| c | x\|y |",
        "| d | |",
        "",
        "Measured by `python x.py`; n = 2; one core; 27 November 2026; "
        "regenerate in about 1 minute on two cores.",
        "",
        "<!-- end figures -->",
    ]


def test_values_are_read_from_other_files_and_tallies_become_bits_per_byte(tmp_path: Path) -> None:
    tally = Tally(3.0, 2, 4)
    (tmp_path / "results.json").write_text(
        json.dumps({"stages": [{"name": "last"}, {"name": "quantized", "tally": vars(tally)}]})
    )
    values = {"score": {"file": "results.json", "key": "stages/name=quantized/tally"}, "speed": 1_234_567}
    page = write_page(
        tmp_path,
        "<!-- fig: f.score.bits_per_byte:.4f -->?<!-- /fig --> at <!-- fig: f.speed:.2fM -->?<!-- /fig -->",
        f={"values": values, "provenance": SOURCE},
    )
    assert main(["--root", str(tmp_path)]) == 0
    shown = re.sub("<!--.*?-->", "", page.read_text())
    assert shown == f"{tally.bits_per_byte:.4f} at 1.23"


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        ("<!-- figures: g -->\n<!-- end figures -->", {}, "there is no docs/figures/g.json; there are f"),
        ("<!-- figures: f -->", {}, "<!-- figures: f --> has no other half"),
        ("<!-- /fig -->", {}, "<!-- /fig --> has no other half"),
        (
            "<!-- figures: f -->\n\nA text.\n\n<!-- figures: f -->\n<!-- end figures -->",
            {"columns": ["a"], "rows": [["1"]]},
            "<!-- figures: f --> has no other half",
        ),
        (
            "<!-- fig: f.n -->1 and a text, <!-- fig: f.n -->1<!-- /fig -->",
            {"n": 1},
            "<!-- fig: f.n --> has no other half",
        ),
        ("<!-- fig: f.speed --><!-- /fig -->", {}, "{speed} is missing or null"),
        ("<!-- fig: f.n:.2q --><!-- /fig -->", {"n": 1.0}, "format"),
        (
            "<!-- figures: f -->\n<!-- end figures -->",
            {"columns": ["a"], "rows": [[1, 2]]},
            "row 1 has 2 cells",
        ),
        (
            "<!-- figures: f -->\n<!-- end figures -->",
            {"columns": ["a"], "rows": [{"b": 1}]},
            "no row has 'a'",
        ),
        ("<!-- figures: f -->\n<!-- end figures -->", {"columns": ["a"]}, "needs columns and rows"),
        (
            "<!-- figures: f -->\n<!-- end figures -->",
            {"columns": ["a"], "rows": {"file": "README.md", "key": "x"}},
            "is not JSON",
        ),
        ("<!-- fig: f.n --><!-- /fig -->", {"provenance": {"command": "x"}}, "provenance lacks"),
    ],
)
def test_what_cannot_be_rendered_is_one_line_and_leaves_the_page(
    text: str, fields: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = write_page(tmp_path, text, f={"provenance": SOURCE, **fields})
    assert main(["--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "README.md" in error
    assert page.read_text() == text


def test_a_benchmark_renews_the_numbers_and_keeps_the_look_of_the_table(tmp_path: Path) -> None:
    columns = [{"name": "speed", "format": ".1f"}]
    page = write_page(
        tmp_path,
        "<!-- figures: f -->\n<!-- end figures -->\n",
        f={
            "columns": columns,
            "rows": [["{speed:.1f} MB/s"]],
            "speed": 1.0,
            "provenance": {**SOURCE, "note": "old"},
        },
    )
    path = tmp_path / FOLDER / "f.json"
    machine = {"hardware": "one GPU", "device": "cuda"}
    write_figures(path, {"speed": 2.04}, PreparingConfig(json=path), machine)
    assert main(["--root", str(tmp_path)]) == 0 and "| 2.0 MB/s |" in page.read_text()
    written = json.loads(path.read_text())
    assert written["settings"]["vocab_size"] == 512 and written["environment"] == machine
    assert written["provenance"].keys() == {"command", "n", "hardware", "date", "commit", "needs"}
    write_figures(path, {"rows": [[3.25]]}, PreparingConfig(), machine | {"device": "cpu"})
    figures = load_figures("f", tmp_path)
    assert figures.rows == [[3.25]] and figures.columns == columns and figures.provenance["minutes"] >= 1
