"""The study of stages from one command, on a tiny model; a second time it only reads."""

import json

import numpy as np
import pytest
from tiny_samples import WORDS, write_tiny_dataset

from golf.finetune.__main__ import main
from golf.finetune.examples import template_of
from golf.finetune.stage import FinetuneError
from golf.finetune.stages import read_seeds, stages_table, summarize
from golf.stats import mean_interval
from golf.tasks.results import Metric


@pytest.fixture
def command(tokenizer_path, conversations_file, preferences_file, tmp_path, monkeypatch) -> list[str]:
    """The arguments of a study of seconds."""
    write_tiny_dataset(tmp_path / "data", tokenizer_path.read_bytes(), num_documents=60)
    (tmp_path / "evals" / "sst2").mkdir(parents=True)
    for name, count in (("train", 20), ("dev", 4)):
        lines = [f"{WORDS[n % 20]} as {WORDS[n % 7]}\t{n % 2}" for n in range(count)]
        (tmp_path / "evals" / "sst2" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("golf.tasks.suite.SST2_SHOTS", (0,))
    monkeypatch.setattr("golf.tasks.suite.NUM_CHOOSING", 8)
    from golf.presets import PRESETS

    preset = PRESETS["cpu"]
    shape = {"num_layers": 2, "width": 16, "num_heads": 2, "num_kv_heads": 1, "mlp_hidden": 32}
    model = {"bigram_buckets": 32, "bigram_width": 4, "rotary_dims": 4, "context": 64, **shape}
    train = {"batch_tokens": 256, "micro_batch_tokens": 256, "held_out_tokens": 64, "num_evals": 1}
    tiny = preset.config.__class__(
        minutes=0.02,
        model=preset.config.model.__class__(vocab_size=512, **model),
        train=preset.config.train.__class__(**train),
        pack=preset.config.pack.__class__(calibration_tokens=256),
    )
    monkeypatch.setitem(PRESETS, "cpu", preset.__class__(tiny, "docs", "a test"))
    options = {
        "stages": tmp_path / "study",
        "data": tmp_path / "data",
        "sft": conversations_file,
        "preferences": preferences_file,
        "evals": tmp_path / "evals",
        "tasks": "sst2",
        "seeds": "1,2",
        **{
            f"{stage}-tuning.{name}": value
            for stage in ("sft", "dpo")
            for name, value in (("steps", 3), ("rows", 4), ("micro-batch-rows", 4))
        },
        "dpo-tuning.chosen-weight": 0.2,
    }
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def test_the_table_has_every_score_after_every_stage(command, tmp_path, vocabulary):
    assert main(command) == 0
    facts = json.loads((tmp_path / "study" / "stages.json").read_text())
    scores = {"sst2 accuracy", "response_loss", "preference_accuracy", "preference_accuracy_by_token"}
    for stage in ("pretrain", "sft", "dpo"):
        rows = {row["score"]: row for row in facts["rows"] if row["stage"] == stage}
        assert scores <= set(rows) and ("reward_accuracy" in rows) == (stage == "dpo")
        assert all(
            len(row["by_seed"]) == 2 and row["low"] <= row["mean"] <= row["high"] for row in rows.values()
        )
    table = (tmp_path / "study" / "stages.md").read_text()
    assert table.count("\n") == 2 + len(facts["rows"]) and "| 0.5000 |" in table
    header = json.loads((tmp_path / "study" / "seed1" / "dpo" / "config.json").read_text())["header"]
    assert header["stages"] == ["sft", "dpo"]
    weights = {
        stage: json.loads((tmp_path / "study" / "seed1" / stage / "finetune.json").read_text())["config"]
        for stage in ("sft", "dpo")
    }
    assert [weights[stage]["chosen_weight"] for stage in ("sft", "dpo")] == [0.0, 0.2]
    assert header["chat"] == vars(template_of(vocabulary, "tiny"))
    before = (tmp_path / "study" / "seed2" / "dpo" / "weights.safetensors").stat().st_mtime_ns
    assert main(command) == 0
    assert (tmp_path / "study" / "seed2" / "dpo" / "weights.safetensors").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "study" / "stages.json").read_text()) == facts


def test_missing_files_and_other_settings_are_said(command, tmp_path, capsys):
    assert main([*command, "--preset", "none"]) == 2
    assert "preset is 'none'" in capsys.readouterr().err
    assert main([*command, "--evals", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_seeds_are_numbers_and_different():
    assert read_seeds("1, 2") == [1, 2]
    for text in ("1,x", "1,1"):
        with pytest.raises(FinetuneError, match="seeds are"):
            read_seeds(text)


def test_differences_are_to_pretraining_and_to_the_stage_before_seed_by_seed():
    def metrics(*values):
        return [[Metric("loss", value, value, value, 5.0, 4, "nats; by hand")] for value in values]

    measured = {"pretrain": metrics(4.0, 4.2), "sft": metrics(3.5, 3.6), "dpo": metrics(3.7, 3.7)}
    first, sft, dpo = summarize(measured)
    assert first["difference"] is first["difference_to_stage_before"] is None
    assert sft["difference"] == sft["difference_to_stage_before"] == pytest.approx(-0.55)
    assert dpo["difference"] == pytest.approx(-0.4)
    assert dpo["difference_to_stage_before"] == pytest.approx(0.15)
    assert dpo["difference_to_stage_before_interval"] == pytest.approx(mean_interval(np.array([0.2, 0.1])))
    table = stages_table([first, sft, dpo]).splitlines()
    assert table[-1].endswith("| +0.1500 (-0.4853 to +0.7853) |") and table[2].endswith("|  |  |")
