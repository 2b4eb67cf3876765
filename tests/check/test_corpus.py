"""Recall, false accusations and precision of `check` over record folders of known truth."""

import statistics
from collections import Counter
from pathlib import Path

import corpus
import pytest

from golf.check.check import Report, check_folder, render

MIN_RECALL = 0.97
MAX_ACCUSED = 0.03
MIN_PRECISION = 0.9
"""Of a finding's errors and warnings; what is below is an info."""


def check_sound(parent: Path, count: int) -> list[Report]:
    reports = []
    for number in range(count):
        reports.append(check_folder(corpus.sound(number).write(parent / f"s{number}")))
        assert not reports[-1].error
    return reports


def check_defective(parent: Path, count: int) -> list[tuple[corpus.Folder, set[str]]]:
    found = []
    for number in range(count):
        folder = corpus.defective(number)
        report = check_folder(folder.write(parent / f"d{number}"))
        assert not report.error
        found.append((folder, {finding.code for finding in report.findings if finding.level != "info"}))
    return found


def doubted(report: Report) -> list[str]:
    return [f"{finding.level} {finding.code}" for finding in report.findings if finding.level != "info"]


def test_sound_folders_of_every_dialect_are_neither_accused_nor_doubted(tmp_path: Path) -> None:
    reports = check_sound(tmp_path, 60)
    assert [line for report in reports for line in doubted(report)] == []


def test_one_planted_defect_of_each_kind_is_found(tmp_path: Path) -> None:
    found = check_defective(tmp_path, len(corpus.DEFECTS))
    assert {folder.defect for folder, _ in found} == corpus.DEFECTS.keys()
    assert [folder.defect for folder, codes in found if not codes & folder.codes] == []


@pytest.mark.slow
def test_recall_accusations_and_precision_over_the_whole_corpus(tmp_path: Path) -> None:
    reports = check_sound(tmp_path, 1000)
    accused = [report for report in reports if report.exit_code]
    assert len(accused) <= MAX_ACCUSED * len(reports)
    assert statistics.median(len(doubted(report)) for report in reports) == 0
    defective = check_defective(tmp_path, 30 * len(corpus.DEFECTS))
    missed = Counter(folder.defect for folder, codes in defective if not codes & folder.codes)
    assert missed.total() <= (1 - MIN_RECALL) * len(defective), missed
    true = Counter(code for folder, codes in defective for code in codes & folder.codes)
    false = Counter(line.split()[1] for report in reports for line in doubted(report))
    imprecise = {code: (true[code], false[code]) for code in false}
    imprecise = {code: hits for code, hits in imprecise.items() if hits[0] < MIN_PRECISION * sum(hits)}
    assert not imprecise


def test_the_summary_has_five_lines_at_most_and_infos_are_counted(tmp_path: Path) -> None:
    folder = corpus.defective(0)
    folder.raw |= {"val_bpb": None, "bytes_total": 17_000_000, "github_id": ""}
    folder.files |= {"README.md": corpus.GONE}
    corpus.each(folder, train_ms=700_000, world_size=2)
    report = check_folder(folder.write(tmp_path))
    text = render(report)
    first, second = text.index("a reviewer must look at:"), text.index("\n  error ")
    assert text[first:second].count("\n") <= 5
    assert "more: " in text[first:second]
    assert "info json-who" not in text and "json-who" in text and "(--all shows them)" in text
    assert "info    json-who" in render(report, show_all=True)


def test_explain_names_line_and_rule_of_each_figure(tmp_path: Path) -> None:
    folder = corpus.sound(3)
    path = folder.write(tmp_path)
    run = folder.runs[0]
    report = check_folder(path, explain=True)
    read = {(reading.file, reading.figure): reading for reading in report.readings}
    score = read[folder.log_file(run), "val_bpb, final"]
    assert float(score.value.split()[0]) == pytest.approx(run.bpb, abs=1e-4)
    lines = corpus.DIALECTS[folder.dialect](run).split("\n")
    assert score.value.split()[0][:5] in lines[score.line - 1]
    assert "the one that counts" in score.rule
    assert str(score) in render(report)
    assert not check_folder(path).readings


def test_a_dialect_that_is_not_understood_is_said_to_be_so(tmp_path: Path) -> None:
    folder = corpus.sound(3)
    for run in folder.runs:
        lines = [f"epoch {n}: validation loss was {3 - n / 10} nats" for n in range(4)]
        folder.add(folder.log_file(run), "\n".join(lines))
    report = check_folder(folder.write(tmp_path))
    (line,) = (text for text in report.not_seen if "not understood" in text)
    assert line.startswith("12 lines with numbers were not understood; the first: ")
    assert ":1: epoch 0: validation loss was 3.0 nats" in line
