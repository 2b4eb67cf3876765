"""The lab end to end: a tiny study, an arm that fails, a second call that has nothing to do."""

import json
from xml.etree import ElementTree

import pytest
from lab_toys import call, make_lab

from golf.lab.trial import run_trial


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return make_lab(tmp_path_factory.mktemp("lab"))


class InThisProcess:
    """Stands in for a process of its own, which costs seconds of imports."""

    def __init__(self, trial):
        self.returncode = run_trial(trial.folder)

    def poll(self):
        return self.returncode

    wait = poll


def test_a_study_trains_measures_and_reports_every_arm_and_resumes(lab, monkeypatch):
    monkeypatch.setattr("golf.lab.trial._start", InThisProcess)
    assert call(lab, "--jobs", "2") == 0
    results = {row["arm"]: row for row in json.loads((lab / "study" / "results.json").read_text())}
    assert [len(results[arm]["measured"]) for arm in ("base", "gelu", "failing")] == [2, 2, 0]
    assert results["gelu"]["difference"]["p"] <= 1 and results["base"]["difference"] is None
    scores = {arm: [row["validation_bpb"] for row in results[arm]["measured"]] for arm in results}
    assert all(scores[arm] != scores["base"] for arm in ("gelu", "ahead", "sigreg"))
    assert (
        results["ahead"]["measured"][0]["artifact_bytes"] == results["base"]["measured"][0]["artifact_bytes"]
    )
    assert "graded nan" in results["failing"]["failures"][0]
    measured = results["base"]["measured"][0]
    assert measured["train_tokens"] == 256 and len(measured["curve"]) == 2
    assert measured["parameters"] > 0 and measured["validation_tokens"] <= 64
    readme = (lab / "study" / "README.md").read_text()
    assert "| failing | failed: " in readme and "As expected." in readme
    assert "`model.feedforward gelu`" in readme and "lower, says the source" in readme
    page = (lab / "study" / "index.html").read_text()
    assert '<svg class="chart"' in page and "its &lt;arms&gt;" in page and "its <arms>" not in page
    assert "http" not in page.split("<body>")[0] and 'src="curves' not in page
    for arm in ("base", "gelu"):
        assert f'<td class="text">{arm}</td><td>{sum(scores[arm]) / 2:,.4f}</td>' in page
    shown = ["ahead", "gelu", "sigreg"]
    for name, arms in (("curves", [*shown, "base"]), ("differences", shown)):
        assert f"({name}.svg)" in readme
        picture = ElementTree.fromstring((lab / "study" / f"{name}.svg").read_text())
        texts = {"".join(element.itertext()) for element in picture.iter()}
        assert texts & {*shown, "base", "failing"} == {*arms}

    times = {path: path.stat().st_mtime_ns for path in lab.glob("runs/**/measured.json")}
    assert call(lab) == 0
    assert {path: path.stat().st_mtime_ns for path in lab.glob("runs/**/measured.json")} == times
    assert (lab / "study" / "README.md").read_text().split("\n\n")[3:] == readme.split("\n\n")[3:]


def test_a_run_is_a_process_of_its_own_and_one_that_is_killed_is_run_again(lab, monkeypatch):
    monkeypatch.setattr("golf.lab.trial.sys.executable", "false")
    assert call(lab, "--seeds", "1", "--tokens", "64") == 0
    assert "ended with code 1" in (lab / "study" / "README.md").read_text()
    monkeypatch.undo()
    (killed,) = lab.glob("runs/study/base_seed1_*/failed.json")
    others = [path for path in lab.glob("runs/study/*/failed.json") if path != killed]
    killed.write_text('{"reason": "killed", "again": true}')
    assert call(lab, "--seeds", "1", "--tokens", "64") == 0
    assert json.loads((killed.parent / "measured.json").read_text())["train_tokens"] == 64
    assert all(path.is_file() for path in others)
