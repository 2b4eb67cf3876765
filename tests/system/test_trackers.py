from pathlib import Path

import pytest

from golf.system.log import RunLog
from golf.system.trackers import TRACKERS, TrackerError, open_trackers, step_of


def test_tensorboard_gets_every_number_at_its_step_and_all_else_as_text(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = RunLog(tmp_path / "run", quiet=True, trackers=open_trackers(["tensorboard"], tmp_path))
    log.event("step", step="10/200", train_loss=3.25)
    log.event("step", step="20/200", train_loss=3.0)
    log.event("average", output="ema", held_out_bpb=1.5)
    log.close()
    read = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    losses = [(point.step, point.value) for point in read.Scalars("step/train_loss")]
    assert losses == [(10, 3.25), (20, 3.0)]
    assert [(point.step, point.value) for point in read.Scalars("average/held_out_bpb")] == [(20, 1.5)]
    assert "average/output/text_summary" in read.Tags()["tensors"]


class Broken:
    """Fails from its second event on."""

    def __init__(self, folder: Path):
        self.num_events = 0

    def event(self, kind: str, fields: object, step: int) -> None:
        self.num_events += 1
        if self.num_events > 1:
            raise ConnectionError("no route")

    def close(self) -> None:
        raise AssertionError("it was dropped")


def test_a_tracker_that_fails_is_dropped_once_and_the_log_goes_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(TRACKERS, "broken", Broken)
    log = RunLog(tmp_path / "run", quiet=True, trackers=open_trackers(["broken"], tmp_path))
    for step in range(4):
        log.event("step", step=step)
    log.close()
    lines = (tmp_path / "run.log").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("step:")] == [f"step:{step}" for step in range(4)]
    assert sum("broken failed" in line and "no route" in line for line in lines) == 1


def test_an_unknown_tracker_is_refused_by_name() -> None:
    with pytest.raises(TrackerError, match="'wandb'; there are tensorboard"):
        open_trackers(["wandb"], Path("run"))


def test_the_step_is_read_from_either_form() -> None:
    assert [step_of({"step": form}) for form in (7, "7/20", "none")] == [7, 7, None] and step_of({}) is None
