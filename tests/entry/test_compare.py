"""Comparison of two entries: read from logs, from JSON alone, from this project's own files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from entry_toys import make_documents, make_results
from record_toys import BYTES, SEEDS, log_text, make_record, rewrite_logs, write_json

from golf.__main__ import main
from golf.entry.compare import CompareError, EntryScores, compare, read_scores, render_comparison
from golf.stats import Sample
from golf.system.foreign import ForeignError

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT.parent / "shared" / "samples" / "records" / "track_10min_16mb"


def make_entry(parent: Path, name: str, seeds: tuple[int, ...], nats_off: float = 0.0) -> Path:
    """An entry of this project: results.json and per_document.npz alone."""
    folder = parent / name
    folder.mkdir(parents=True)
    results = {str(seed): make_results(seed, b"artifact") for seed in seeds}
    (folder / "results.json").write_text(
        json.dumps({"format": "golf-entry-1", "seeds": results, "left_out": []})
    )
    documents = make_documents(seeds[0])
    documents["ttt_nats"] = documents["ttt_nats"] + nats_off
    np.savez_compressed(folder / "per_document.npz", **documents)
    return folder


def test_logs_come_before_what_the_json_says(tmp_path: Path) -> None:
    scores = read_scores(make_record(tmp_path, val_bpb=0.9))
    assert scores.sample.mean == pytest.approx(np.mean(list(SEEDS.values())), abs=1e-8)
    assert scores.sample.num_runs == 3
    assert scores.validation_bytes == pytest.approx(BYTES, rel=1e-6)
    assert scores.bytes_per_token == pytest.approx(3.7266, abs=1e-3)


def test_without_logs_the_json_is_read_by_seed_else_by_its_deviation(tmp_path: Path) -> None:
    folder = make_record(tmp_path)
    for log in folder.glob("*.log"):
        log.unlink()
    scores = read_scores(folder)
    assert (scores.sample.num_runs, scores.source) == (3, "submission.json alone")
    write_json(folder, seed_results=...)
    assert read_scores(folder).sample.std == pytest.approx(0.0001968)
    write_json(folder, seed_results=..., val_bpb_std=...)
    assert read_scores(folder).sample == type(scores.sample)(pytest.approx(1.08100288), None, 1)


def test_a_folder_without_a_score_is_named(tmp_path: Path) -> None:
    with pytest.raises(CompareError, match=r"neither a log nor submission\.json"):
        read_scores(tmp_path)
    with pytest.raises(CompareError, match="is not a folder"):
        read_scores(tmp_path / "missing")


def test_different_validation_texts_are_not_compared(tmp_path: Path) -> None:
    a, b = make_record(tmp_path / "a"), make_record(tmp_path / "b")
    rewrite_logs(b, num_bytes=int(BYTES * 1.002))
    with pytest.raises(CompareError, match=r"-0\.20% apart"):
        compare(read_scores(a), read_scores(b))
    rewrite_logs(b, num_bytes=int(BYTES * 1.0004))
    assert compare(read_scores(a), read_scores(b)).caution == ""


def test_own_entries_are_compared_by_the_hash_of_their_validation_tokens(tmp_path: Path) -> None:
    a, b = make_entry(tmp_path, "a", (1, 2, 3)), make_entry(tmp_path, "b", (4, 5, 6), nats_off=3.0)
    result = compare(read_scores(a), read_scores(b))
    assert result.a.sample.num_runs == 3
    assert result.bootstrap is not None
    documents = make_documents(1)
    gain = (make_documents(4)["ttt_nats"] + 3.0 - documents["ttt_nats"]).sum() / documents["bytes"].sum()
    assert result.bootstrap.gain == pytest.approx(gain / math.log(2))
    results = json.loads((b / "results.json").read_text())
    for seed in results["seeds"].values():
        seed["data"]["validation_sha256"] = "f" * 64
        for stage in seed["scores"]["stages"]:
            stage["tally"]["num_bytes"] += 7
    (b / "results.json").write_text(json.dumps(results))
    with pytest.raises(CompareError, match="different validation texts"):
        compare(read_scores(a), read_scores(b))


def test_a_broken_file_of_documents_is_an_error_of_one_line(tmp_path: Path) -> None:
    entry = make_entry(tmp_path, "a", (1,))
    (entry / "per_document.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ForeignError, match=r"per_document\.npz: holds no arrays that can be read"):
        read_scores(entry)


def test_the_verdicts_are_words(tmp_path: Path) -> None:
    a, b = make_record(tmp_path / "a"), make_record(tmp_path / "b")
    for seed, bpb in SEEDS.items():
        (a / f"train_seed{seed}.log").write_text(log_text(seed, bpb - 0.0030, 15_900_000))
    text = render_comparison(compare(read_scores(a), read_scores(b)))
    assert "A is 0.003000 bits per byte better than B." in text
    assert "0.005 nats per token = 0.00194 bpb at p < 0.01: the gain is 1.55 times that" in text
    assert "0.005 nats per byte = 0.00721 bpb at p < 0.01: the gain is 0.42 times that" in text
    assert "per byte" in text and "no number of seeds would settle it" in text
    assert "The leaderboard's practice (p < 0.25 for any improvement): passes." in text


@pytest.mark.parametrize(
    ("bytes_per_token", "bpb"), [(2.436, 0.00296), (3.727, 0.00194), (3.157, 0.00228), (None, 0.00721)]
)
def test_five_thousandths_of_a_nat_in_bits_per_byte(bytes_per_token: float | None, bpb: float) -> None:
    entry = EntryScores("a", Sample(1.0, None, 1), "", bytes_per_token, None, None, None)
    assert compare(entry, entry).thresholds[0].bpb == pytest.approx(bpb, abs=6e-6)


def test_a_single_run_is_said_to_have_no_spread(tmp_path: Path) -> None:
    a, b = make_record(tmp_path / "a"), make_record(tmp_path / "b")
    for folder in (a, b):
        for seed in (314, 999):
            (folder / f"train_seed{seed}.log").unlink()
    text = render_comparison(compare(read_scores(a), read_scores(b)))
    assert "no p (one run on each side has no deviation)" in text
    assert "A side with a single run is taken as exact" in text


def test_the_command_compares_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make_record(tmp_path / "a"), make_record(tmp_path / "b")
    assert main(["compare", str(a), str(b)]) == 0
    rewrite_logs(b, num_bytes=2 * BYTES)
    assert main(["compare", str(a), str(b)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("golf compare: ") and error.count("\n") == 1


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the public samples are not beside the project")
def test_the_launch_day_baseline_is_not_compared_with_later_records() -> None:
    (baseline,), (later,) = SAMPLES.glob("*NaiveBaseline"), SAMPLES.glob("2026-04-27*")
    with pytest.raises(CompareError, match=r"151\.07 and 155\.77 million"):
        compare(read_scores(later), read_scores(baseline))


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the public samples are not beside the project")
def test_a_public_step_passes_the_chain_and_not_the_written_rule() -> None:
    (before,), (after,) = SAMPLES.glob("2026-04-19*"), SAMPLES.glob("2026-04-27*")
    result = compare(read_scores(after), read_scores(before))
    assert result.gain == pytest.approx(0.00441, abs=1e-5)
    assert result.improvement.p == pytest.approx(0.0036, abs=1e-4)
    per_token = result.thresholds[0]
    assert (round(per_token.bpb, 5), round(per_token.p or 0, 4), per_token.seeds) == (0.00228, 0.0292, 6)
