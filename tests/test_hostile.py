"""One stranger's folder must not break a program, whatever it holds, nor cost it much time or memory."""

from pathlib import Path

import pytest
from entry_toys import audit, draw_nothing, make_run
from hostile_folders import HOSTILE, make_hostile, measure
from record_toys import make_record

from golf.check.check import check_folders, render
from golf.entry.build import build
from golf.entry.compare import read_scores
from golf.entry.submission import best_entry
from golf.site.render import load_entry

MAX_SECONDS, MAX_MEGABYTES = 2.0, 500.0
QUICK = [name for number, name in enumerate(HOSTILE) if number % 5 == 0] + ["script: 1,000 elif", "odd names"]


def test_there_are_enough_folders() -> None:
    assert len(HOSTILE) >= 95


@pytest.mark.parametrize("name", QUICK)
def test_a_hostile_folder_is_one_report_one_card_and_one_error(name: str, tmp_path: Path) -> None:
    folder = make_hostile(name, tmp_path)
    sound = make_record(tmp_path / "sound")
    bad, good = check_folders([folder, sound], workers=1)
    assert "check failed" not in bad.error and good.error == ""
    assert all(line.isprintable() for line in render(bad).split("\n"))
    try:
        read_scores(folder)
    except ValueError as error:
        assert "\n" not in str(error)
    assert "cannot be shown" not in load_entry(folder).problem
    best_entry(folder.parents[1])


def test_an_entry_is_built_among_hostile_folders_and_beside_hostile_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("golf.entry.plots.plot_training", draw_nothing)
    records, runs = tmp_path / "records", tmp_path / "runs"
    run = make_run(runs / "own")
    audit(run)
    (tmp_path / "submission.json").write_text('{"author": "Ada", "github_id": "ada"}')
    for number, name in enumerate(QUICK[::2]):
        folder = make_hostile(name, tmp_path / "made")
        place = runs if number % 2 else records / folder.parent.name
        place.mkdir(parents=True, exist_ok=True)
        folder.rename(place / f"strange{number}")
    entry = build([run], records, "track_non_record_16mb")
    assert best_entry(records) == entry
    assert (tmp_path / "submission.json").read_bytes() == (entry / "submission.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "report", "compare"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_takes_two_seconds_and_500_megabytes_at_most(
    name: str, command: str, tmp_path: Path
) -> None:
    folder, sound = make_hostile(name, tmp_path), make_record(tmp_path / "sound")
    words = {
        "check": ["check", str(folder), str(sound)],
        "report": ["report", "--records", str(folder.parents[1]), "--runs", str(tmp_path / "none")],
        "compare": ["compare", str(folder), str(sound)],
    }[command]
    code, seconds, megabytes, said = measure(words)
    assert code in (0, 1, 2) and "\n" not in said, (code, said)
    assert seconds <= MAX_SECONDS and megabytes <= MAX_MEGABYTES, (seconds, megabytes)
