"""The lab end to end: a tiny study, an arm that fails, a second call that has nothing to do."""

import json
from xml.etree import ElementTree

import pytest
from tiny_samples import tiny_tokenizer, write_tiny_dataset

from golf.lab.__main__ import main
from golf.lab.trial import run_trial

STUDY = """
title = "A tiny study & its <arms>"
preset = "cpu"
intro = "Two arms."
reading = "As expected."
tokens = 256
seeds = 2
validation_tokens = 64
[set]
model = {num_layers = 1, width = 16, num_heads = 2, num_kv_heads = 1, mlp_hidden = 32, context = 32, \
rotary_dims = 4, bigram_buckets = 16, bigram_width = 4}
train = {batch_tokens = 64, micro_batch_tokens = 64, warmup_steps = 0, num_evals = 2, \
held_out_tokens = 64}
averaging.output = "last"
[[arms]]
name = "base"
[[arms]]
name = "gelu"
claim = "lower, says the source"
expects = "lower"
set.model.feedforward = "gelu"
[[arms]]
name = "ahead"
set.model.future_tokens = 1
[[arms]]
name = "sigreg"
set.train.sigreg_weight = 0.1
[[arms]]
name = "failing"
set.optim.matrix_lr = 1e30
[search]
model.qk_gain = {low = 0.5, high = 2.0}
model.norm = {choices = ["rms", "layer"]}
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    write_tiny_dataset(folder / "data", tiny_tokenizer(), num_documents=80)
    (folder / "study").mkdir()
    (folder / "study" / "study.toml").write_text(STUDY)
    return folder


class InThisProcess:
    """Stands in for a process of its own, which costs seconds of imports."""

    def __init__(self, trial):
        self.returncode = run_trial(trial.folder)

    def poll(self):
        return self.returncode

    wait = poll


def call(lab, *more):
    study = str(lab / "study" / "study.toml")
    return main([study, "--data", str(lab / "data"), "--out", str(lab / "runs"), "--device", "cpu", *more])


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


def test_searching_without_optuna_says_what_to_install(lab, monkeypatch, capsys):
    monkeypatch.setattr("golf.lab.search.find_spec", lambda name: None)
    assert call(lab, "--search") == 2
    assert 'pip install "optuna>=4"' in capsys.readouterr().err


def test_a_search_halves_on_held_out_text_and_never_opens_the_validation_text(lab, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.setattr(
        "golf.data.manifest.Dataset.validation_tokens", lambda *_: pytest.fail("validation text was opened")
    )
    for trials in ("2", "4"):
        assert call(lab, "--search", "--trials", trials) == 0
    found = json.loads((lab / "study" / "search.json").read_text())
    assert 1 <= len(found) <= 4
    assert set(found[0]["chosen"]) == {"model.qk_gain", "model.norm"}
    assert [row["held_out_bpb"] for row in found] == sorted(row["held_out_bpb"] for row in found)
    assert "the validation text was not opened" in (lab / "study" / "search.md").read_text()
