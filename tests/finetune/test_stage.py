"""Both stages on a tiny model: they learn, resume, pack, and score like any other."""

import json
import shutil

import pytest
import torch
from tiny_samples import tiny_tokenizer, write_tiny_dataset

from golf.evaluate import EvaluateConfig, evaluate
from golf.finetune.__main__ import main
from golf.finetune.examples import TemplateError
from golf.finetune.stage import (
    FinetuneConfig,
    FinetuneError,
    cached_reference,
    finetune,
    read_examples,
    split_held_out,
)
from golf.system.cli import Stopped
from golf.system.log import RunLog
from golf.tasks.models import open_model
from golf.train.checkpoint import load_weights
from golf.train.loop import Trainer

QUIET = RunLog(quiet=True)
SMALL = FinetuneConfig(steps=12, rows=4, micro_batch_rows=2, rate=0.3, held_out=0.25)


@pytest.fixture(scope="module")
def tuned(model_folder, conversations_file, tmp_path_factory):
    """A folder of supervised fine-tuning, and its figures."""
    folder = tmp_path_factory.mktemp("sft_run")
    return folder, finetune("sft", model_folder, [conversations_file], folder, SMALL, QUIET)


def test_sft_lowers_the_loss_of_held_out_answers(tuned):
    _, figures = tuned
    (before,), (after,) = figures["before"], figures["after"]
    assert before["name"] == after["name"] == "response_loss"
    assert after["high"] < before["low"]


def test_a_tuned_model_packs_reloads_and_scores_like_any_other(tuned, tmp_path):
    folder, figures = tuned
    write_tiny_dataset(tmp_path / "data", tiny_tokenizer())
    scores = evaluate(folder / "artifact.bin", tmp_path / "data", EvaluateConfig(), QUIET)
    assert scores.artifact_bytes == figures["artifact_bytes"]
    opened = open_model(folder)
    assert opened.kind == "artifact" and opened.header["stages"] == ["sft"]
    weights = load_weights(folder / "weights.safetensors")
    assert set(weights) == set(opened.model.state_dict())


def test_dpo_raises_the_accuracy_on_held_out_pairs(tuned, preferences_file, tmp_path):
    folder, _ = tuned
    config = FinetuneConfig(steps=20, rows=8, micro_batch_rows=8, rate=0.1, held_out=0.25)
    source = folder / "weights.safetensors"
    figures = finetune("dpo", source, [preferences_file], tmp_path, config, QUIET)
    before, after = ({m["name"]: m["value"] for m in figures[when]} for when in ("before", "after"))
    assert "reward_accuracy" not in before
    assert after["reward_accuracy"] == 1.0
    assert after["preference_accuracy"] >= before["preference_accuracy"]
    assert open_model(tmp_path).header["stages"] == ["sft", "dpo"]


def test_a_stopped_stage_goes_on_to_the_same_weights(
    tuned, model_folder, conversations_file, tmp_path, monkeypatch
):
    folder, figures = tuned
    whole_step = Trainer.step

    def step_that_is_stopped(trainer: Trainer):
        if trainer.steps == 5:
            trainer._request_stop(2, None)
        return whole_step(trainer)

    monkeypatch.setattr(Trainer, "step", step_that_is_stopped)
    with pytest.raises(Stopped):
        finetune("sft", model_folder, [conversations_file], tmp_path, SMALL, QUIET)
    assert not (tmp_path / "finetune.json").exists()
    monkeypatch.setattr(Trainer, "step", whole_step)
    again = finetune("sft", model_folder, [conversations_file], tmp_path, SMALL, QUIET)
    assert again["after"] == figures["after"]
    assert (tmp_path / "artifact.bin").read_bytes() == (folder / "artifact.bin").read_bytes()


def test_a_folder_that_is_done_is_read_and_another_run_is_refused(tuned, model_folder, conversations_file):
    folder, figures = tuned
    assert finetune("sft", model_folder, [conversations_file], folder, SMALL, QUIET) == json.loads(
        json.dumps(figures)
    )
    other = FinetuneConfig(steps=3)
    with pytest.raises(FinetuneError, match="holds another run"):
        finetune("sft", model_folder, [conversations_file], folder, other, QUIET)


def test_the_reference_is_kept_for_the_same_model_and_pairs(opened, template, preferences_file, tmp_path):
    pairs, _ = read_examples("dpo", [preferences_file], opened, template, "error")
    path = tmp_path / "reference.safetensors"
    first = cached_reference(opened, pairs[:8], path, QUIET)
    with torch.no_grad():
        opened.model.embedding.weight += 1.0
    assert (cached_reference(opened, pairs[:8], path, QUIET) == first).all()
    assert cached_reference(opened, pairs[:7], path, QUIET).shape == (7, 2)


def test_a_split_has_no_overlap_and_follows_the_seed():
    training, held_out = split_held_out(20, 0.2, 1)
    assert sorted(training + held_out) == list(range(20)) and len(held_out) == 4
    assert split_held_out(20, 0.2, 2)[1] != held_out
    with pytest.raises(FinetuneError, match="1 conversations are too few"):
        split_held_out(1, 0.5, 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 1.0, "steps": 1}, "two budgets"),
        (
            {"rows": 6, "micro_batch_rows": 4},
            "rows is 6 and micro_batch_rows 4; expected rows to be a multiple",
        ),
        ({"rows": 3, "micro_batch_rows": 3}, "and that of 2"),
        ({"label_smoothing": 0.5}, "label_smoothing from 0 to below 0.5"),
        ({"beta": 0.0}, "beta above 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, message):
    with pytest.raises(FinetuneError, match=message):
        FinetuneConfig(**wrong)


def test_long_and_useless_rows_are_cut_or_left_out_and_counted(model_folder, tmp_path, capsys):
    rows = [{"prompt": f"the {word}", "response": "of"} for word in ("a", "the", "in", "is")]
    rows += [
        {"prompt": "a", "response": "the " * 60},
        {"prompt": "the " * 60, "response": "of"},
        {"prompt": "a"},
    ]
    data = tmp_path / "long.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    arguments = [
        "--stage",
        "sft",
        "--model",
        str(model_folder),
        "--data",
        str(data),
        "--steps",
        "1",
        "--rows",
        "2",
    ]
    arguments += ["--micro-batch-rows", "2", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "cut 1 rows to the model's context" in said
    assert f"left out 1 rows, the first: {data}, line 6: too long for the context" in said
    assert f"left out 1 rows, the first: {data}, line 7: has no answer" in said
    figures = json.loads((tmp_path / "run" / "finetune.json").read_text())
    assert (figures["cut"], sum(figures["left_out"].values())) == (1, 2)


def test_an_error_in_the_data_is_one_line_and_leaves_no_folder(model_folder, tmp_path, capsys):
    data = tmp_path / "long.jsonl"
    data.write_text(json.dumps({"prompt": "a", "response": "the " * 60}))
    arguments = ["--stage", "sft", "--model", str(model_folder), "--data", str(data)]
    assert main([*arguments, "--out", str(tmp_path / "runs" / "a"), "--long", "error"]) == 2
    assert "long.jsonl, line 1: the conversation is" in capsys.readouterr().err
    data.write_text('{"prompt": "the"}')
    assert main([*arguments, "--out", str(tmp_path / "runs" / "a")]) == 2
    error = capsys.readouterr().err
    assert "no row of long.jsonl can be used." in error and "line 1: has no answer" in error
    assert [path.name for path in tmp_path.iterdir()] == ["long.jsonl"]


def test_shards_with_marks_of_their_own_clash_with_the_template(
    model_folder, template, conversations_file, tmp_path
):
    import numpy as np

    from golf.data.shards import write_shard

    for name in ("artifact.bin", "tiny.model"):
        shutil.copy(model_folder / name, tmp_path)
    write_shard(tmp_path / "fineweb_train_000000.bin", np.array([1, template.end], dtype=np.uint16))
    with pytest.raises(TemplateError, match="the two clash"):
        finetune("sft", tmp_path, [conversations_file], tmp_path / "run", SMALL, QUIET)
