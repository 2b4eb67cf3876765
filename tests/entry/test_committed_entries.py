"""The entries that are committed under records/, whichever they are: held to what they state."""

import json
from pathlib import Path

import numpy as np
import pytest

import eval_bpb
from golf.check.check import check_folders, exit_code, render
from golf.entry.results import read_entry_results
from golf.entry.runs import RECORD_TRACKS, check_documents
from golf.entry.submission import entry_figures
from golf.results import Results

ROOT = Path(__file__).parents[2]
ENTRIES = sorted(path.parent for track in RECORD_TRACKS for path in ROOT.glob(f"records/{track}/*/README.md"))
SAMPLE_TOKENS = 400
"""A whole verification takes as long as scoring the entry does."""


def windows_of_first_documents(entry: Path, stated: Results) -> int:
    """The fewest sliding windows that grade the first documents of together SAMPLE_TOKENS whole."""
    with np.load(entry / "per_document.npz") as arrays:
        ends = np.cumsum(arrays["tokens"])
    needed = int(ends[np.searchsorted(ends, SAMPLE_TOKENS)]) + 1
    stage = stated.quantized
    return 1 + max(0, -(-(needed - stage.context) // stage.stride))


@pytest.fixture(params=ENTRIES, ids=lambda entry: entry.name)
def entry(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_a_committed_entry_is_verified_by_its_own_script_in_an_empty_place(entry: Path) -> None:
    results = read_entry_results(entry / "results.json")
    if not (entry / "data").is_dir():
        pytest.skip(f"{entry.name} brings no text along")
    if not all((entry / f"artifact_seed{seed}.bin").is_file() for seed in results):
        pytest.skip(f"{entry.name}: an artifact is too large to be committed")
    sample = max(windows_of_first_documents(entry, stated) for stated in results.values())
    assert eval_bpb.main(["--verify", str(entry), "--sample", str(sample), "--device", "cpu"]) == 0


def test_a_committed_entry_has_no_error(entry: Path) -> None:
    reports = check_folders([entry], workers=1)
    assert exit_code(reports) == 0, render(reports[0])


def test_a_committed_entry_was_audited(entry: Path) -> None:
    assert "Audited: the legality probes passed" in (entry / "README.md").read_text()


def test_a_committed_entry_of_any_version_has_the_figures_of_its_submission(entry: Path) -> None:
    results = read_entry_results(entry / "results.json")
    stated = json.loads((entry / "submission.json").read_text())
    made = entry_figures(list(results.values()))
    for name in ("val_bpb", "val_loss", "pre_quant_val_bpb"):
        assert made[name] == pytest.approx(stated[name], rel=1e-14)
    said = ("author", "github_id", "name", "blurb", "date", "track", "seed_results")
    for name in set(stated) - {"val_bpb", "val_loss", "pre_quant_val_bpb", *said}:
        assert made[name] == stated[name], name
    with np.load(entry / "per_document.npz") as arrays:
        for stated_run in results.values():
            check_documents(entry / "per_document.npz", dict(arrays), stated_run)


def test_results_of_the_first_version_are_read_with_the_figures_that_were_stated():
    results = read_entry_results(Path(__file__).parents[1] / "fixtures" / "results_version_1.json")[42]
    assert [stage.name for stage in results.stages] == ["last", "averaged", "quantized", "test_time_trained"]
    assert results.final.tally.bits_per_byte == pytest.approx(1.77653753, abs=1e-8)
    assert (results.final.tally.num_tokens, results.final.tally.num_bytes) == (66_209, 112_523)
    assert (results.packing.total_bytes, results.training.steps) == (768_108, 893)
