"""What a run asks of its device beside training: passes that fit, and memory for the process that scores."""

import gc
import weakref
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_samples import tiny_tokenizer, write_tiny_dataset

from golf import run as running
from golf.config import RunConfig
from golf.data.manifest import Dataset, open_dataset
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.pack.artifact import PackConfig
from golf.score.tally import Tally
from golf.score.windows import WindowConfig
from golf.system.device import Runtime
from golf.system.log import RunLog
from golf.train.budget import TrainConfig
from golf.train.loop import Trainer

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


def make_run(folder: Path, dataset: Dataset, config: RunConfig = CONFIG) -> running.Run:
    folder.mkdir(exist_ok=True)
    return running.Run(folder, config, dataset, RUNTIME, RunLog(quiet=True))


def test_the_process_that_scores_finds_what_training_held_given_back(tmp_path, dataset, monkeypatch):
    run, done, held = make_run(tmp_path / "run", dataset), [], []
    build = run._trainer

    def remembered() -> Trainer:
        trainer = build()
        held.extend((weakref.ref(trainer), weakref.ref(trainer.model)))
        return trainer

    def released(device: torch.device) -> None:
        gc.collect()
        done.append((device, [one() for one in held]))

    def fresh_process(name: str, how: running.ScoringOptions, max_seconds: float | None) -> None:
        done.append("scored")
        raise InterruptedError

    monkeypatch.setattr(run, "_trainer", remembered)
    run.train()
    monkeypatch.setattr(running, "release_memory", released)
    monkeypatch.setattr(run, "_score_artifact", fresh_process)
    with pytest.raises(InterruptedError):
        run.score("last", running.ScoringOptions("cpu"))
    assert done == [(torch.device("cpu"), [None, None]), "scored"]


@pytest.mark.parametrize(("fits", "bound", "rows"), [(64, 1000, 4), (32, 1000, 2), (64, 40, 2), (64, 8, 1)])
def test_calibration_takes_passes_that_fit_without_compilation(
    tmp_path, dataset, monkeypatch, fits, bound, rows
):
    run, shapes = make_run(tmp_path / "run", dataset), []

    def note(model: GPT, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        shapes.extend(tuple(inputs_BT.shape) for inputs_BT, _ in batches)

    monkeypatch.setattr(running, "calibrate", note)
    monkeypatch.setattr(running, "CALIBRATION_PASS_TOKENS", bound)
    trainer = run._trainer()
    trainer.micro_batch_tokens = fits
    run._calibrate(trainer, trainer.model.state_dict())
    assert shapes == [(rows, 16)] * (8 // rows)


def test_held_out_text_is_scored_in_passes_that_fit_training(tmp_path, dataset, monkeypatch):
    run, seen = make_run(tmp_path / "run", dataset), []

    def note(model, tokens, vocabulary, windows: WindowConfig, *rest, **more) -> SimpleNamespace:
        seen.append((windows.stride, windows.batch_tokens))
        return SimpleNamespace(tally=Tally(1.0, 1, 1))

    monkeypatch.setattr(running, "score", note)
    trainer = run._trainer()
    trainer.micro_batch_tokens = 32
    trainer.held_out_bpb()
    run.trainer = None
    run._score_weights(trainer.model.state_dict(), trainer.batches.held_out, None)
    assert seen == [(16, 32), (16, 64)]


def test_a_process_that_cannot_score_ends_the_run_before_its_first_step(tmp_path, dataset):
    run = make_run(tmp_path / "run", dataset)
    with pytest.raises(running.FreshProcessError, match="No module named 'not_installed_anywhere'"):
        run.train(b"import not_installed_anywhere")
    assert not (tmp_path / "run" / "training.json").exists()
    assert run.clock.elapsed("train") == 0.0


def test_a_damaged_result_of_a_stage_is_named(tmp_path):
    (tmp_path / "pack.json").write_text('{"bytes": ')
    with pytest.raises(ValueError, match=r"pack\.json is damaged"):
        running.read_stage(tmp_path / "pack.json")


def test_a_stage_that_is_done_anew_makes_the_later_ones_be_done_anew(tmp_path):
    later = ["pack.json", "score_weights.json", "score_quantized.json", "score_test_time_trained.json"]
    ends = ["results.json", "audit.json"]
    for stage, gone in (("pack", later[2:] + ends), ("training", later + ends)):
        for name in [*later, *ends, "training.json"]:
            (tmp_path / name).write_text("{}")
        running.forget_stages(tmp_path, stage)
        kept = {path.name for path in tmp_path.iterdir()}
        assert kept == {*later, *ends, "training.json"} - set(gone)


def test_a_stage_without_what_it_states_is_damaged(tmp_path):
    (tmp_path / "pack.json").write_text("{}")
    with pytest.raises(ValueError, match=r"pack\.json is damaged \(it has no seconds\)"):
        running.read_stage(tmp_path / "pack.json", ("seconds",))
    (tmp_path / "pack.json").write_text("[]")
    with pytest.raises(ValueError, match=r"pack\.json is damaged"):
        running.read_stage(tmp_path / "pack.json", ("seconds",))
