import struct

import numpy as np
import pytest
from entry_toys import events, make_run

from golf.entry.build import build
from golf.entry.plots import plot_training
from golf.entry.progress import curve_of


def size_of_png(data: bytes) -> tuple[int, int]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_a_curve_takes_steps_and_looks_from_the_events():
    curve = curve_of(events(0))
    assert len(curve.tokens) == 30 and curve.tokens[-1] == 30 * 4096
    assert curve.train_loss[0] == 8.0 and curve.seconds[4] == 10.0
    assert curve.held_out_bpb.tolist() == pytest.approx([3 - 1 / 3, 3 - 2 / 3, 2.0])
    assert curve.held_out_seconds.tolist() == [20.0, 40.0, 60.0]


def test_what_a_resumed_run_did_twice_counts_once():
    first, second = events(0), events(5)
    resumed = [event for event in second if event.get("tokens", 0) > 15 * 4096]
    curve = curve_of(first[:26] + resumed)
    assert np.all(np.diff(curve.tokens) > 0) and len(curve.tokens) == 30
    assert np.all(np.diff(curve.held_out_tokens) > 0) and len(curve.held_out_tokens) == 3
    assert curve.train_loss[15] == pytest.approx(6.0 / 16 + 2.05)
    assert curve.train_loss[14] == pytest.approx(6.0 / 15 + 2.0)


@pytest.mark.parametrize("seeds", [[7], list(range(9))])
def test_a_picture_is_drawn_for_any_number_of_seeds(tmp_path, seeds):
    path = tmp_path / "training.png"
    plot_training({seed: curve_of(events(seed)) for seed in seeds}, "a run", path)
    assert size_of_png(path.read_bytes()) == (1320, 672)
    assert [file.name for file in tmp_path.iterdir()] == ["training.png"]


def test_an_entry_has_its_picture(tmp_path):
    entry = build([make_run(tmp_path / "run")], tmp_path / "records", "local")
    assert size_of_png((entry / "training.png").read_bytes()) == (1320, 672)


def test_a_run_that_said_nothing_has_a_picture_too(tmp_path):
    path = tmp_path / "training.png"
    plot_training({7: curve_of([])}, "nothing", path)
    assert size_of_png(path.read_bytes()) == (1320, 672)


def test_the_same_run_draws_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        plot_training({7: curve_of(events(7))}, "a run", tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_look_that_is_logged_before_its_own_step_is_in_the_curve():
    step = {"event": "step", "train_seconds": 1.0, "train_loss": 3.0, "lr_scale": 1.0}
    events = [
        {**step, "step": 2, "tokens": 10},
        {"event": "held_out", "step": 4, "tokens": 20, "bpb": 2.0},
        {**step, "step": 4, "tokens": 20, "train_seconds": 2.0},
        {"event": "held_out", "step": 6, "tokens": 30, "bpb": 1.5},
        # The run was killed, and goes on from 20.
        {**step, "step": 5, "tokens": 25, "train_seconds": 2.5},
    ]
    curve = curve_of(events)
    assert curve.held_out_tokens.tolist() == [20.0] and curve.held_out_bpb.tolist() == [2.0]
    assert curve.held_out_seconds.tolist() == [2.0]
    assert curve.tokens.tolist() == [10.0, 20.0, 25.0]
