import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from entry_toys import change, draw_nothing, edit, make_run
from tiny_samples import tiny_tokenizer, write_tiny_artifact, write_tiny_dataset

import eval_bpb
from golf.audit import isolate
from golf.audit.isolate import Outcome, run_isolated
from golf.data.manifest import sha256_of_file
from golf.data.vocabulary import Vocabulary
from golf.entry import verify
from golf.entry.build import build
from golf.entry.results import EntryError, read_entry_results
from golf.entry.verify import (
    FLOAT32_BPB,
    OTHER_DTYPE_BPB,
    Asked,
    Comparison,
    Rescoring,
    verify_entry,
)
from golf.evaluate import EvaluateConfig, evaluate
from golf.system.log import RunLog

ROOT = Path(__file__).parents[2]
QUIET = RunLog(quiet=True)
SCRIPT = f'''"""Stands in for the flattened script: the same program, from the checkout."""
import runpy
import sys

sys.path.insert(0, {str(ROOT)!r})
runpy.run_path({str(ROOT / "train_gpt.py")!r}, run_name="__main__")
'''.encode()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write_tiny_dataset(folder, tiny_tokenizer())
    return folder


@pytest.fixture(scope="module")
def true_entry(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An entry whose figures are those of its artifact."""
    place = tmp_path_factory.mktemp("verified")
    vocabulary = Vocabulary.load(data / "tiny.model")
    write_tiny_artifact(place / "artifact.bin", vocabulary)
    run = make_run(place / "run", 7, (place / "artifact.bin").read_bytes(), SCRIPT)
    how = EvaluateConfig(per_document=run / "per_document.npz")
    scores = evaluate(run / "artifact.bin", data, how, QUIET, ttt=True)
    tally = scores.stages[0].tally
    edit(
        run,
        scores=asdict(scores),
        environment=scores.environment,
        data__tokenizer_sha256=vocabulary.sha256,
        data__validation_sha256=scores.validation_sha256,
        data__validation_tokens=tally.num_tokens + 1,
        data__validation_bytes=tally.num_bytes,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("golf.entry.plots.plot_training", draw_nothing)
        return build([run], place / "records", "local")


@pytest.fixture
def entry(true_entry: Path, tmp_path: Path) -> Path:
    return shutil.copytree(true_entry, tmp_path / "entry")


@pytest.fixture
def no_script(true_entry: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores in this process instead of through the entry's script, which takes seconds to start."""

    def by_project(artifact: Path, asked: Asked) -> Rescoring:
        how = EvaluateConfig(max_tokens=asked.max_tokens, per_document=artifact.parent / "again.npz")
        scores = evaluate(artifact, asked.data_folder, how, QUIET, ttt=asked.ttt)
        with np.load(artifact.parent / "again.npz") as arrays:
            return Rescoring(scores, dict(arrays), "none")

    def by_script(entry: Path, seed: int, asked: Asked, own_seconds: float) -> Rescoring:
        return by_project(entry / f"artifact_seed{seed}.bin", asked)

    monkeypatch.setattr(verify, "score_by_project", by_project)
    monkeypatch.setattr(verify, "score_by_script", by_script)


def differing(entry: Path, data: Path, sample: int | None = None) -> list[str]:
    return [c.what for c in verify_entry(entry, data, sample, "cpu", QUIET).comparisons if not c.agrees]


def restate(entry: Path, name: str, changes: dict) -> None:
    path = entry / name
    value = json.loads(path.read_text())
    change(value["seeds"]["7"] if name == "results.json" else value, changes)
    path.write_text(json.dumps(value))


def restate_bpb(entry: Path, off: float) -> None:
    """Lets the entry state a score without test-time training that is lower by this many bits per byte."""
    tally = read_entry_results(entry / "results.json")[7].quantized.tally
    nats = tally.nats * (1 - off / tally.bits_per_byte)
    restate(entry, "results.json", {"scores__stages__quantized__tally__nats": nats})


def test_the_entrys_own_script_alone_confirms_its_figures(
    entry: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def shows_the_checkout(command: list[str], **how: Any) -> Outcome:
        how["visible"] = [*how["visible"], ROOT / "golf", ROOT / "train_gpt.py"]
        return run_isolated(command, **how)

    monkeypatch.setattr(verify, "run_isolated", shows_the_checkout)
    out = tmp_path / "verified.json"
    arguments = [
        "--verify",
        str(entry),
        "--data",
        str(data),
        "--device",
        "cpu",
        "--json",
        str(out),
        "--trust",
    ]
    assert eval_bpb.main(arguments) == 0
    report = json.loads(out.read_text())
    assert report["agrees"] is report["verified"] is True and len(report["comparisons"]) > 40
    said = capsys.readouterr().out
    assert f"{len(report['comparisons'])} of {len(report['comparisons'])} stated figures agree" in said
    assert "not verified: training and scoring seconds" in said


def test_a_sample_compares_the_documents_it_covers(entry: Path, data: Path, no_script: None) -> None:
    found = verify_entry(entry, data, 30, "cpu", QUIET).comparisons
    assert all(comparison.agrees for comparison in found)
    assert [c.what for c in found if c.what.endswith("documents: bpb")]


def test_a_sample_leaves_out_what_takes_all_documents(entry: Path, data: Path, no_script: None) -> None:
    restate(entry, "results.json", {"scores__stages__test_time_trained__windows": "by document"})
    found = verify_entry(entry, data, 30, "cpu", QUIET).comparisons
    assert [c.what for c in found if c.what.endswith("documents: bpb")]
    assert not [c.what for c in found if c.what.endswith("documents: ttt_bpb")]


@pytest.mark.parametrize(("share", "is_possible"), [(0.0, True), (0.5, True), (1.2, True), (2.0, False)])
def test_a_score_whose_adaptation_a_time_limit_ended_gains_no_more_than_all_of_it(
    entry: Path,
    data: Path,
    no_script: None,
    capsys: pytest.CaptureFixture,
    share: float,
    is_possible: bool,
) -> None:
    # A figure that no other machine could reproduce: were it compared, it would differ.
    run = read_entry_results(entry / "results.json")[7]
    plain, adapted = run.quantized.tally.nats, run.final.tally.nats
    changes = {
        "notes": {"adaptation_stopped_after_tokens": 99},
        "tally__nats": plain + share * (adapted - plain),
    }
    stage = "scores__stages__test_time_trained"
    restate(entry, "results.json", {f"{stage}__{name}": value for name, value in changes.items()})
    found = verify_entry(entry, data, None, "cpu", RunLog()).comparisons
    assert "a time limit ended adapting after 99 tokens" in capsys.readouterr().out
    name = "seed 7 test-time-trained val_bpb is one of less adapting"
    assert next(c.agrees for c in found if c.what == name) is is_possible
    assert not [c.what for c in found if "ttt_bpb" in c.what]


@pytest.mark.parametrize(("limit", "expected"), [(None, []), (30.0, ["--max-seconds", "1e9"])])
def test_a_limit_that_a_run_kept_to_is_none_of_a_slower_machines(
    entry: Path, data: Path, monkeypatch: pytest.MonkeyPatch, limit: float | None, expected: list[str]
) -> None:
    seen = []

    def score(artifact: Path, asked: Asked) -> None:
        seen.append([option for option in asked.options if option in ("--ttt", "--max-seconds", "1e9")])
        raise EntryError("enough")

    monkeypatch.setattr(verify, "score_by_project", score)
    restate(entry, "results.json", {"config": {"ttt": {"max_seconds": limit}}})
    with pytest.raises(EntryError, match="enough"):
        verify_entry(entry, data, None, "cpu", QUIET)
    assert seen == [["--ttt", *expected]]


def test_too_small_a_sample_is_refused(entry: Path, data: Path, no_script: None) -> None:
    with pytest.raises(EntryError, match="covers no whole document; take more windows"):
        verify_entry(entry, data, 1, "cpu", QUIET)
    with pytest.raises(EntryError, match="cannot sample 0 windows"):
        verify_entry(entry, data, 0, "cpu", QUIET)


def test_a_better_score_than_the_artifacts_is_found(entry: Path, data: Path, no_script: None) -> None:
    restate_bpb(entry, 2e-6)
    assert differing(entry, data) == ["seed 7 quantised val_bpb", "seed 7 quantised val_loss"]


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"environment__processor": "another"}, FLOAT32_BPB),
        ({"environment__device": "cuda"}, OTHER_DTYPE_BPB),
        ({"scores__compute_dtype": "bfloat16"}, OTHER_DTYPE_BPB),
        # Entries of before do not say in what they were scored.
        ({"scores__compute_dtype": None}, OTHER_DTYPE_BPB),
    ],
)
def test_how_far_a_score_may_lie_follows_from_what_both_were_computed_in(
    entry: Path, data: Path, no_script: None, changes: dict, tolerance: float
) -> None:
    restate(entry, "results.json", changes)
    restate_bpb(entry, 0.5 * tolerance)
    assert differing(entry, data) == []
    restate_bpb(entry, 2 * tolerance)
    assert differing(entry, data) == ["seed 7 quantised val_bpb", "seed 7 quantised val_loss"]


def test_figures_of_submission_json_are_those_of_the_results(
    entry: Path, data: Path, no_script: None
) -> None:
    restate(entry, "submission.json", {"val_bpb": 1.0, "bytes_total": 5, "seed_results__7__steps": 31})
    assert differing(entry, data) == [
        "submission val_bpb",
        "submission seed_results.7.steps",
        "submission bytes_total",
    ]


def test_another_script_or_artifact_is_found(entry: Path, data: Path, no_script: None) -> None:
    with open(entry / "train_gpt.py", "ab") as file:
        file.write(b"#\n")
    assert differing(entry, data) == ["seed 7 bytes.code", "seed 7 bytes.total", "seed 7 code_sha256"]


def test_another_headline_of_the_readme_is_found(entry: Path, data: Path, no_script: None) -> None:
    text = (entry / "README.md").read_text()
    (headline,) = re.findall(r"\*\*([\d.]+) bits per byte\*\*", text)
    (entry / "README.md").write_text(text.replace(f"**{headline} bits", f"**0.{headline[2:]} bits"))
    assert differing(entry, data) == ["README.md headline, bits per byte"]


def test_documents_of_another_run_are_found(entry: Path, data: Path, no_script: None) -> None:
    with np.load(entry / "per_document.npz") as arrays:
        changed = {**arrays, "ttt_nats": arrays["ttt_nats"] * 0.999}
    np.savez(entry / "per_document.npz", **changed)
    (what,) = differing(entry, data)
    assert what.endswith("documents: ttt_bpb")


def test_an_audit_of_another_artifact_is_found(entry: Path, data: Path, no_script: None) -> None:
    sha256 = sha256_of_file(entry / "artifact_seed7.bin")
    (entry / "audit.json").write_text(json.dumps({"passed": True, "artifact_sha256": sha256}))
    assert differing(entry, data) == []
    (entry / "audit.json").write_text(json.dumps({"passed": True, "artifact_sha256": "0"}))
    assert differing(entry, data) == ["seed 7 audit of"]


def test_other_text_is_found(entry: Path, data: Path, tmp_path: Path, no_script: None) -> None:
    write_tiny_dataset(tmp_path / "other", (data / "tiny.model").read_bytes(), num_documents=13)
    found = differing(entry, tmp_path / "other")
    assert {"seed 7 validation_sha256", "seed 7 all tokens scored", "seed 7 quantised val_bpb"} <= set(found)


def test_an_entry_without_its_artifact_cannot_be_verified(
    entry: Path, data: Path, capsys: pytest.CaptureFixture
) -> None:
    (entry / "artifact_seed7.bin").unlink()
    assert eval_bpb.main(["--verify", str(entry), "--data", str(data)]) == 2
    assert "has no artifact_seed7.bin" in capsys.readouterr().err


def test_a_script_that_fails_is_named_with_its_last_word(entry: Path, data: Path) -> None:
    (entry / "train_gpt.py").write_text("raise SystemExit('no such codec')\n")
    with pytest.raises(EntryError, match="--score ended with 1: no such codec"):
        verify_entry(entry, data, None, "cpu", QUIET)


def test_where_nothing_isolates_a_script_nothing_is_scored_before_that_is_said(
    entry: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(isolate, "find_mechanism", lambda: None)
    assert eval_bpb.main(["--verify", str(entry), "--data", str(data), "--device", "cpu"]) == 2
    done = capsys.readouterr()
    assert "scoring" not in done.out and "install bubblewrap" in done.err and "--trust" in done.err


def test_commands_that_exclude_each_other_are_refused(
    entry: Path, data: Path, capsys: pytest.CaptureFixture
) -> None:
    for flags in (["--audit", "--verify"], ["--sample", "3"]):
        assert eval_bpb.main([str(entry), "--data", str(data), *flags]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_text_that_comes_with_the_entry_needs_no_option(entry: Path, data: Path) -> None:
    shutil.copytree(data, entry / "data")
    assert eval_bpb.main([str(entry), "--max-tokens", "200"]) == 0


@pytest.mark.parametrize(
    ("stated", "found", "agrees"),
    [
        (1.0, 1.0 + 5e-7, True),
        (1.0, 1.0 + 2e-6, False),
        (None, None, True),
        (None, 1.0, False),
        ("a", "b", False),
    ],
)
def test_numbers_agree_within_the_tolerance_and_all_else_exactly(stated, found, agrees) -> None:
    assert Comparison("figure", stated, found, 1e-6).agrees is agrees
