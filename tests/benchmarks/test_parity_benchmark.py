"""The protocol of parity: its arms, its batches on disk, its rows and its table."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_samples import tiny_tokenizer, write_tiny_dataset

from benchmarks import parity
from benchmarks.parity import ARMS, PUBLISHED, ParityBenchmark, compare, plan_runs, run_command
from benchmarks.recipe_arms import Scale
from golf.data.batches import TrainBatches
from golf.data.manifest import open_dataset
from golf.data.shards import read_shard
from golf.model.gpt import GPT

SCALE = Scale(context=256, batch_tokens=2048)


@pytest.fixture
def options(tmp_path: Path) -> ParityBenchmark:
    """A protocol of two steps on a tiny text."""
    write_tiny_dataset(tmp_path / "data", tiny_tokenizer(), 60)
    return ParityBenchmark(
        tmp_path / "data",
        rows=tmp_path / "rows.jsonl",
        arms=("seed", "pr1855"),
        steps=2,
        batch_tokens=64,
        width=64,
        layers=2,
        context=16,
        max_tokens=100,
        device="cpu",
        compute_dtype="float32",
    )


def test_the_arms_are_the_protocols_networks_and_settings() -> None:
    theirs = ARMS["pr1855"](SCALE)
    with torch.device("meta"):
        model = GPT(theirs.model)
    assert [visit.layer for visit in model.plan] == [0, 1, 1, 1, 2, 3]
    assert theirs.schedule.momentum_warmup == pytest.approx(0.304, abs=5e-4)
    assert theirs.averaging.ema_window == pytest.approx(0.058, abs=5e-4)
    assert theirs.schedule.context_growth == () and theirs.model.mlp_hidden == 1024
    for name in ARMS:
        config = ARMS[name](SCALE)
        sizes = (config.model.num_heads, config.model.num_kv_heads, config.model.context)
        assert sizes == (4, 2, 256) and config.train.batch_tokens == 2048
        assert config.train.held_out_tokens == theirs.train.held_out_tokens


def test_runs_are_made_once_and_their_batches_are_those_that_are_written(
    options: ParityBenchmark,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read, next_batch = [], TrainBatches.next

    def recorded(self: TrainBatches, num_sequences: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
        batch = next_batch(self, num_sequences, context)
        read.append(torch.stack(batch))
        return batch

    monkeypatch.setattr(TrainBatches, "next", recorded)
    run_command(options)
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    assert [row["arm"] for row in rows] == ["seed", "pr1855"]
    assert [row["average"] for row in rows] == ["ema+swa", "ema"]
    assert rows[1]["last_bpb"] != rows[1]["average_bpb"] and rows[1]["tokens_scored"] == 96
    # Two arms of two steps read the same.
    assert torch.equal(torch.stack(read[:2]), torch.stack(read[2:])) and len(read) == 4

    run_command(replace(options, write=tmp_path / "protocol"))
    parts = [read_shard(tmp_path / "protocol" / f"{part}_1.bin") for part in ("inputs", "targets")]
    for place, tokens_N in enumerate(parts):
        assert tokens_N.tolist() == torch.stack([batch[place] for batch in read[:2]]).flatten().tolist()

    def never(*_: object) -> None:
        raise AssertionError("a run that has its row was made again")

    monkeypatch.setattr(parity, "run_arm", never)
    capsys.readouterr()
    run_command(options)
    shown = capsys.readouterr().out
    assert f"{rows[1]['last_bpb']:.4f}" in shown and "#1855's script (first build)" in shown


def test_a_script_is_shown_by_its_nats_of_the_written_targets(
    options: ParityBenchmark, tmp_path: Path
) -> None:
    folder = tmp_path / "protocol"
    run_command(replace(options, write=folder))
    settings = json.loads((folder / "protocol.json").read_text())
    assert settings["arms"]["pr1855"]["model"]["recurrence"] == 3 and settings["context"] == 16
    assert len(read_shard(folder / "validation.bin")) == settings["scored_targets"] + 1 == 97
    scripts = tmp_path / "nats"
    scripts.mkdir()
    np.save(scripts / "uniform_7.npy", np.full(96, math.log(320), dtype=np.float32))
    shown = replace(options, scripts=scripts)
    (row,) = parity.script_rows(shown, open_dataset(options.data))
    assert row["arm"] == "uniform, here" and row["seed"] == 7
    assert row["last_bpb"] == pytest.approx(math.log2(320) * 96 / settings["scored_bytes"], rel=1e-6)

    np.save(scripts / "short_1.npy", np.zeros(95, dtype=np.float32))
    with pytest.raises(ValueError, match=r"short_1.npy: float32 of shape \(95,\); expected"):
        parity.script_rows(shown, open_dataset(options.data))


def test_the_table_has_each_arm_less_its_script_and_the_published_figures() -> None:
    rows = [
        {"arm": "pr1855", "seed": seed, "last_bpb": 2.48 + 0.01 * seed, "average_bpb": 2.4} for seed in (2, 1)
    ]
    line, *published = compare(rows)
    assert line["last_bpb"] == pytest.approx(2.495)
    assert line["last_bpb_by_seed"] == pytest.approx([2.49, 2.50])
    assert line["less_script_bpb"] == pytest.approx(2.495 - (2.4789 + 2.4688 + 2.4713) / 3)
    assert [each["arm"] for each in published] == [f"{name} (first build)" for name in PUBLISHED]


def test_an_arm_that_is_none_is_named(options: ParityBenchmark) -> None:
    with pytest.raises(ValueError, match="no arm 'pr1856'; there are seed, pr334, pr1855, frontier"):
        list(plan_runs(replace(options, arms=("pr1856",)), open_dataset(options.data)))
