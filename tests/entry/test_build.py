import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from entry_toys import SCRIPT, audit, draw_nothing, edit, make_run

from golf.entry.build import build
from golf.entry.results import EntryError, read_entry_results, read_results

pytestmark = pytest.mark.usefixtures("no_drawing")


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("golf.entry.plots.plot_training", draw_nothing)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [make_run(tmp_path / "runs" / f"seed{seed}", seed=seed) for seed in (42, 7, 99)]


def test_one_entry_over_the_seeds_has_their_mean_and_deviation(runs, tmp_path):
    for run in runs:
        audit(run)
    entry = build(runs, tmp_path / "records", "track_non_record_16mb")
    stored = json.loads((entry / "submission.json").read_text())
    results = read_entry_results(entry / "results.json")
    scores = [result.final.tally.bits_per_byte for result in results.values()]
    assert stored["seeds"] == list(results) == [42, 7, 99]
    assert stored["val_bpb"] == statistics.fmean(scores)
    assert stored["val_bpb_std"] == statistics.stdev(scores)
    assert [stored["seed_results"][str(seed)]["val_bpb"] for seed in results] == scores
    for seed, run in zip((42, 7, 99), runs, strict=True):
        assert (entry / f"artifact_seed{seed}.bin").read_bytes() == (run / "artifact.bin").read_bytes()
        assert (entry / f"train_seed{seed}.log").is_file()


def test_the_largest_artifact_of_the_seeds_counts(runs, tmp_path):
    stored = json.loads((build(runs, tmp_path / "records", "local") / "submission.json").read_text())
    largest = runs[2] / "artifact.bin"
    assert stored["bytes_model"] == largest.stat().st_size == 20_000
    assert stored["bytes_total"] == 20_000 + len(SCRIPT)
    assert stored["artifact_sha256"] == stored["seed_results"]["99"]["artifact_sha256"]


def test_documents_hold_the_mean_and_each_seed(runs, tmp_path):
    entry = build(runs, tmp_path / "records", "local")
    with np.load(entry / "per_document.npz") as arrays:
        each = [arrays[f"ttt_nats_seed{seed}"] for seed in (42, 7, 99)]
        assert np.allclose(arrays["ttt_nats"], np.mean(each, axis=0))
        assert arrays["tokens"].tolist() == [40, 25, 35]


def test_the_readme_compares_the_seeds_and_names_runs_left_out(runs, tmp_path):
    make_run(tmp_path / "runs" / "a_bad_seed", seed=13)
    edit(make_run(tmp_path / "runs" / "another_width", seed=13), config__model__width=64)
    (tmp_path / "runs" / "unfinished").mkdir()
    (tmp_path / "runs" / "a_file").write_text("no folder")
    (tmp_path / "runs" / "foreign").mkdir()
    (tmp_path / "runs" / "foreign" / "results.json").write_text("[]")
    entry = build(runs, tmp_path / "records", "local")
    text = (entry / "README.md").read_text()
    assert "left out: `a_bad_seed`." in text and "another_width" not in text
    assert json.loads((entry / "results.json").read_text())["left_out"] == ["a_bad_seed"]
    assert "over 3 seeds" in text and "One seed" not in text and text.count("| 42 |") == 1


def test_runs_without_others_beside_them_say_so(runs, tmp_path):
    text = (build(runs, tmp_path / "records", "local") / "README.md").read_text()
    assert "There is no other finished run of this configuration." in text


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"config__model__width": 256}, "config.model.width: 256 and 128"),
        ({"config__steps": ...}, "config.steps: 'nothing' and 30"),
        ({"config__extra": 1}, "config.extra: 1 and 'nothing'"),
        ({"data__tokenizer_sha256": "d" * 64}, "data.tokenizer_sha256"),
        ({"data__validation_sha256": "d" * 64}, "data.validation_sha256"),
        ({"data__manifest_sha256": "d" * 64}, "data.manifest_sha256"),
        ({"seed": 42}, "are both of seed 42"),
    ],
)
def test_runs_that_are_not_the_same_but_for_their_seed_are_refused(runs, tmp_path, changes, field):
    edit(runs[1], **changes)
    with pytest.raises(EntryError, match=field):
        build(runs, tmp_path / "records", "local")
    assert not (tmp_path / "records").exists()


def test_runs_of_different_code_are_refused(runs, tmp_path):
    other = make_run(tmp_path / "runs" / "other", seed=3, script=SCRIPT + b"# changed\n")
    with pytest.raises(EntryError, match=r"other differs from .*seed42 in code_sha256"):
        build([*runs, other], tmp_path / "records", "local")


def test_no_run_makes_no_entry(tmp_path):
    with pytest.raises(EntryError, match="no run was given"):
        build([], tmp_path / "records", "local")


@pytest.mark.parametrize(("verdicts", "passed"), [((True, True, True), True), ((True, False, True), False)])
def test_audits_of_all_seeds_are_joined(runs, tmp_path, verdicts, passed):
    for run, verdict in zip(runs, verdicts, strict=True):
        audit(run, verdict)
    joined = json.loads((build(runs, tmp_path / "records", "local") / "audit.json").read_text())
    assert joined["passed"] is passed and list(joined["seeds"]) == ["42", "7", "99"]


def test_an_audit_of_some_seeds_is_none(runs, tmp_path):
    audit(runs[0])
    entry = build(runs, tmp_path / "records", "local")
    assert not (entry / "audit.json").exists() and "Not audited" in (entry / "README.md").read_text()


def test_the_submission_beside_the_records_follows_the_best_entry_of_a_track(runs, tmp_path):
    for run in runs:
        audit(run)
    submission = tmp_path / "submission.json"
    build(runs[:1], tmp_path / "records", "track_non_record_16mb")
    assert not submission.exists()
    mine = '{"author": "Ada", "github_id": "ada"}'
    submission.write_text(mine)
    build(runs[1:2], tmp_path / "records", "local")
    assert submission.read_text() == mine
    scores = {run: read_results(run / "results.json").final.tally.bits_per_byte for run in runs}
    for run in sorted(runs, key=scores.__getitem__, reverse=True):
        entry = build([run], tmp_path / "records", "track_non_record_16mb")
        is_best = scores[run] < scores[runs[0]]
        assert (submission.read_bytes() == (entry / "submission.json").read_bytes()) == is_best
    stored = json.loads(submission.read_text())
    assert (stored["author"], stored["val_bpb"]) == ("Ada", min(scores.values()))
