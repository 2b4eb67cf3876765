import fcntl
import json
import os
from pathlib import Path

import numpy as np
import pytest

from golf.entry.progress import curve_of, read_live_runs, read_log_curve


def step(number: int, loss: object = 3.0, **more: object) -> dict:
    return {"event": "step", "step": f"{number}/9", "train_loss": loss, "tokens": 10 * number, **more}


def test_what_a_resumed_run_did_twice_counts_as_it_went_the_second_time() -> None:
    events = [step(n, 5.0 - n) for n in (1, 2, 3, 4)] + [{"event": "held_out", "step": 4, "bpb": 9.0}]
    events += [step(3, 7.0), step(5, 6.0), {"event": "held_out", "step": 5, "bpb": 2.0}]
    found = curve_of(events)
    assert found.steps.tolist() == [1, 2, 3, 5] and found.train_loss.tolist() == [4.0, 3.0, 7.0, 6.0]
    assert found.held_out_steps.tolist() == [5] and found.held_out_bpb.tolist() == [2.0]
    assert found.tokens.tolist() == [10, 20, 30, 50]


def test_numbers_that_are_none_are_left_out() -> None:
    found = curve_of([step(1, "nan"), step(2, "inf"), step(3, None), {"event": "step"}, step(4, "2.5")])
    assert (found.steps.tolist(), found.train_loss.tolist()) == ([4], [2.5])


def test_a_text_log_gives_the_same_curve_as_its_events(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_bytes(
        b"run x, seed 4\n\xff\xfe\nstep:1/9 train_loss:5.5 lr_scale:1 tokens:10\n"
        b"held_out step:2 tokens:20 bpb:3\n"
        b"step:2/9 train_loss:4.5 lr_scale:1 tokens:20\nstep:x/y train_loss:1\n"
    )
    found = read_log_curve(log)
    assert (found.steps.tolist(), found.tokens.tolist()) == ([1, 2], [10, 20])
    assert found.train_loss.tolist() == [5.5, 4.5] and np.isnan(found.seconds).all()
    assert (found.held_out_steps.tolist(), found.held_out_bpb.tolist()) == ([2], [3.0])


def make_run(folder: Path, lines: list[dict], config: object = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"event": "st')
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "share"),
    [
        ({"config": {"minutes": 2.0, "steps": None}}, 0.25),
        ({"config": {"minutes": None, "steps": 9}}, 3 / 9),
        ({"config": []}, 3 / 9),
        ({}, None),
        (None, None),
    ],
)
def test_a_runs_share_is_of_its_budget(tmp_path: Path, config: object, share: float | None) -> None:
    make_run(tmp_path / "a", [step(3, train_seconds=30.0)], config)
    (found,) = read_live_runs(tmp_path)
    assert found.share == (None if share is None else pytest.approx(share))
    assert (found.name, found.phase) == ("a", "training")


def test_runs_of_several_seeds_are_found_and_finished_ones_left_out(tmp_path: Path) -> None:
    make_run(tmp_path / "sweep" / "seed1", [])
    (make_run(tmp_path / "sweep" / "seed2", []) / "results.json").write_text("{}")
    make_run(tmp_path / "one", [{"event": "size"}])
    found = {run.name: run.phase for run in read_live_runs(tmp_path)}
    assert found == {"sweep/seed1": "starting", "one": "scoring"}


def test_a_killed_run_is_stopped_and_one_that_is_owned_or_writes_is_not(tmp_path: Path) -> None:
    for name in ("fresh", "old", "owned", "killed"):
        make_run(tmp_path / name, [step(3)])
    for name in ("old", "owned", "killed"):
        os.utime(tmp_path / name / "run.jsonl", (0, 0))
    (tmp_path / "killed" / ".lock").write_text("1\n")
    with open(tmp_path / "owned" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = {run.name: run.state for run in read_live_runs(tmp_path)}
    stopped = "stopped while training"
    assert found == {"fresh": "training", "old": stopped, "owned": "training", "killed": stopped}


def test_the_held_out_curve_ends_with_the_weights_that_training_ended_with(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text(
        "held_out step:2 tokens:20 bpb:3\nstep:4/4 train_loss:2 tokens:40 train_seconds:8\n"
        "average output:ema held_out_bpb_last:2.5 held_out_bpb_ema:2.4\n"
    )
    curve = read_log_curve(log)
    assert curve.held_out_tokens.tolist() == [20, 40] and curve.held_out_bpb.tolist() == [3, 2.5]
    assert curve.held_out_seconds[-1] == 8
