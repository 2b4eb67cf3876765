"""What a run asks of its device beside training: passes that fit, and memory for the process that scores."""

import errno
import gc
import weakref
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_samples import tiny_tokenizer, write_tiny_dataset

from golf import run as running
from golf.checks import check_data
from golf.config import RunConfig
from golf.data.manifest import Dataset, open_dataset
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.pack.artifact import PackConfig
from golf.pack.calibrate import Calibration
from golf.results import Averaging, Scores, Stage, Training
from golf.run import (
    LiveTrainer,
    RunContext,
    average_stage,
    build_trainer,
    calibrate_stage,
    pack_stage,
    read_stage,
    score_stage,
    train_stage,
)
from golf.run_folder import RunFolder
from golf.score.scorer import Scoring
from golf.score.tally import Tally
from golf.system.device import Runtime
from golf.system.files import DiskFullError, write_json
from golf.system.log import RunLog
from golf.train.config import TrainConfig

MODEL = ModelConfig(320, 2, 16, 2, 1, 24, 16, rotary_dims=4, bigram_buckets=16, bigram_width=4)
CONFIG = RunConfig(
    steps=2,
    model=MODEL,
    train=TrainConfig(batch_tokens=64, micro_batch_tokens=64, warmup_steps=0, held_out_tokens=64, reports=1),
    pack=PackConfig(calibration_tokens=128),
)
RUNTIME = Runtime(torch.device("cpu"), torch.float32, compiled=False)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    write_tiny_dataset(tmp_path / "data", tiny_tokenizer(), num_documents=30)
    return open_dataset(tmp_path / "data")


def make_run(folder: Path, dataset: Dataset, config: RunConfig = CONFIG) -> tuple[RunFolder, RunContext]:
    folder.mkdir(exist_ok=True)
    return RunFolder(folder), RunContext(config, dataset, RUNTIME, RunLog(quiet=True))


def train(folder: RunFolder, run: RunContext, live: LiveTrainer) -> None:
    train_stage(folder, run, live)
    average_stage(folder, run, live)


def test_the_process_that_scores_finds_what_training_held_given_back(tmp_path, dataset, monkeypatch):
    (folder, run), live = make_run(tmp_path / "run", dataset), LiveTrainer()
    train(folder, run, live)
    held, done = [weakref.ref(live.trainer), weakref.ref(live.trainer.model)], []

    def released(device: torch.device) -> None:
        gc.collect()
        done.append((device, [one() for one in held]))

    def fresh_process(*command: object) -> None:
        done.append("scored")
        raise InterruptedError

    calibrate_stage(folder, run)
    pack_stage(folder, run, lambda: b"")
    monkeypatch.setattr(running, "release_memory", released)
    monkeypatch.setattr(running, "run_child", fresh_process)
    with pytest.raises(InterruptedError):
        score_stage(folder, run, live)
    assert done == [(torch.device("cpu"), [None, None]), "scored"]


@pytest.mark.parametrize(("fits", "bound", "rows"), [(64, 1000, 4), (32, 1000, 2), (64, 40, 2), (64, 8, 1)])
def test_calibration_takes_passes_that_fit_without_compilation(
    tmp_path, dataset, monkeypatch, fits, bound, rows
):
    (folder, run), shapes = make_run(tmp_path / "run", dataset), []

    def note(model: GPT, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Calibration:
        shapes.extend(tuple(inputs_BT.shape) for inputs_BT, _ in batches)
        return Calibration()

    train(folder, run, LiveTrainer())
    training = replace(read_stage(folder.training, Training), micro_batch_tokens=fits)
    write_json(folder.training, asdict(training))
    monkeypatch.setattr(running, "calibrate", note)
    monkeypatch.setattr(running, "CALIBRATION_PASS_TOKENS", bound)
    calibrate_stage(folder, run)
    assert shapes == [(rows, 16)] * (8 // rows)


def test_calibration_reads_the_batches_that_training_would_have_read_next(tmp_path, dataset, monkeypatch):
    (folder, run), live, read = make_run(tmp_path / "run", dataset), LiveTrainer(), []

    def note(model: GPT, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Calibration:
        read.extend(batches)
        return Calibration()

    train(folder, run, live)
    monkeypatch.setattr(running, "calibrate", note)
    calibrate_stage(folder, run)
    for batch in read:
        assert all(torch.equal(*pair) for pair in zip(batch, live.trainer.batches.next(4, 16), strict=True))


def test_a_quantizer_without_calibration_reads_no_training_text(tmp_path, dataset):
    config = replace(CONFIG, pack=PackConfig(scheme="int5"))
    folder, run = make_run(tmp_path / "run", dataset, config)
    train(folder, run, LiveTrainer())
    assert calibrate_stage(folder, run) is None
    assert not folder.calibration.exists() and not folder.calibrating.exists()


def test_held_out_text_is_scored_in_passes_that_fit_training(tmp_path, dataset, monkeypatch):
    (_, run), seen = make_run(tmp_path / "run", dataset), []

    def note(scoring: Scoring, *rest: object, **more: object) -> SimpleNamespace:
        seen.append((scoring.windows.stride, scoring.windows.batch_tokens))
        return SimpleNamespace(tally=Tally(1.0, 1, 1))

    monkeypatch.setattr(running, "score", note)
    trainer = build_trainer(run.config, run.dataset, run.runtime, run.clock, run.log)
    trainer.micro_batch_tokens = 32
    trainer.held_out_bpb()
    running.score_weights(run, LiveTrainer(), trainer.model.state_dict(), trainer.batches.held_out, None)
    assert seen == [(16, 32), (16, 64)]


def test_training_is_given_the_prefixes_of_its_vocabulary_which_must_have_some(tmp_path, dataset):
    config = replace(CONFIG, train=replace(CONFIG.train, prefix_weight=0.25))
    (_, run), prefixes = make_run(tmp_path / "run", dataset, config), dataset.vocabulary.prefix_tokens()
    trainer = build_trainer(run.config, run.dataset, run.runtime, run.clock, run.log)
    assert np.array_equal(trainer.objective.prefixes_V, prefixes)

    write_tiny_dataset(tmp_path / "letters", tiny_tokenizer(kind="char"), num_documents=30)
    letters = open_dataset(tmp_path / "letters")
    with pytest.raises(ValueError, match=r"no token begins with another: train\.prefix_weight"):
        check_data(config, letters)
    with pytest.raises(ValueError, match="has it byte fallback"):
        check_data(CONFIG, letters)


def test_a_process_that_cannot_score_ends_the_run_before_its_first_step(tmp_path, dataset):
    folder, run = make_run(tmp_path / "run", dataset)
    with pytest.raises(running.FreshProcessError, match="No module named 'not_installed_anywhere'"):
        train_stage(folder, run, LiveTrainer(), lambda: b"import not_installed_anywhere")
    assert not folder.training.exists()
    assert run.clock.elapsed("train") == 0.0


def test_a_stage_that_is_done_anew_makes_the_later_ones_be_done_anew(tmp_path):
    folder = RunFolder(tmp_path)
    scores = [folder.score(stage) for stage in ("quantized", "test_time_trained")]
    ends = [*scores, folder.results, folder.audit]
    marks = {
        "train": [folder.training],
        "average": [folder.averaging, folder.score_weights],
        "calibrate": [folder.calibrating],
        "pack": [folder.packing],
        "score": ends,
    }
    names = list(marks)
    for stage in names:
        for path in [path for paths in marks.values() for path in paths]:
            path.write_text("{}")
        folder.forget_from(stage)
        kept = {path for earlier in names[: names.index(stage)] for path in marks[earlier]}
        assert set(tmp_path.iterdir()) == kept


@pytest.mark.parametrize(
    ("text", "reason"),
    [('{"output": ', "Expecting value"), ("{}", "lacks its field 'output'"), ("[]", "is no JSON object")],
)
def test_a_damaged_result_of_a_stage_is_named(tmp_path, text, reason):
    path = RunFolder(tmp_path).averaging
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"averaging\.json is damaged \(.*{reason}.*; remove it"):
        read_stage(path, Averaging)


def test_results_of_a_stage_come_back_as_they_were(tmp_path):
    stage = Stage("quantized", Tally(1.5, 3, 7), "sliding", 16, 4, notes={"order": ["longest", "first"]})
    scores = Scores((stage, replace(stage, name="test_time_trained")), 1, "a", "b", "float32", {"cores": 2})
    write_json(tmp_path / "scores.json", asdict(scores))
    assert read_stage(tmp_path / "scores.json", Scores) == scores


def test_a_disk_too_full_for_the_scoring_script_is_named_with_its_room(tmp_path, monkeypatch):
    def fill(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(
        DiskFullError, match=r"train_gpt\.py: no space left on the disk, [\d,]+ bytes are free"
    ):
        with running.fresh_process_starting(RunFolder(tmp_path), b"print()"):
            pass
