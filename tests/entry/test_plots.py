import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from entry_toys import events, make_run

from golf.entry.build import build
from golf.entry.plots import plot_training
from golf.entry.progress import curve_of


def texts_of(path: Path) -> list[str]:
    """What is written in a picture, which is well-formed, and has both its sets of colors in itself."""
    text = path.read_text()
    assert (
        not re.findall(r"#[0-9a-f]{6}", text.partition("</style>")[2]) and "prefers-color-scheme:dark" in text
    )
    assert {name for name in re.findall(r"var\((--\w+)\)", text)} <= set(re.findall(r"(--\w+):#", text))
    return ["".join(element.itertext()) for element in ElementTree.fromstring(text).iter() if element.text]


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
def test_each_curve_of_a_picture_is_named_at_its_end(tmp_path, seeds):
    path = tmp_path / "training.svg"
    plot_training({seed: curve_of(events(seed)) for seed in seeds}, "a run", path)
    texts = texts_of(path)
    assert "held-out training text, bits per byte" in texts
    for seed in seeds:
        loss = curve_of(events(seed)).train_loss[-1]
        assert (f"{loss:.3f}" if len(seeds) == 1 else f"seed {seed}: {loss:.3f}") in texts
    assert [file.name for file in tmp_path.iterdir()] == ["training.svg"]


def test_an_entry_has_its_picture(tmp_path):
    entry = build([make_run(tmp_path / "run")], tmp_path / "records", "local")
    assert "training loss, nats per token" in texts_of(entry / "training.svg")


def test_what_was_not_measured_has_no_axes(tmp_path):
    path = tmp_path / "training.svg"
    plot_training({7: curve_of([])}, "nothing", path)
    texts = texts_of(path)
    assert "training loss, nats per token" in texts and not any("held-out" in text for text in texts)


def test_the_same_run_draws_the_same_bytes(tmp_path):
    for name in ("a.svg", "b.svg"):
        plot_training({7: curve_of(events(7))}, "a run", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


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
