"""Losses are read one step late, each once, and the forecast follows the first steps."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from golf.system.clock import StageClock
from golf.system.log import ProgressBar, RunLog
from golf.train.config import Recipe, TrainConfig
from golf.train.loop import FORECAST_STEP, DivergenceError, LaunchedFigures, LaunchedStep, StepReports
from golf.train.schedule import Budget, ScheduleConfig, plan_phases

NUM_STEPS = 10


class SilentBar(ProgressBar):
    """Shows nothing."""

    def __init__(self):
        pass

    def move_to(self, completed: float, note: str = "") -> None:
        """Does nothing."""


class WatchedFigures(LaunchedFigures):
    """A step's figures that note when they are read."""

    def __init__(self, number: int, reads: list[int]):
        super().__init__(torch.tensor(1.0), torch.tensor(0.5))
        self.number, self.reads = number, reads

    def read(self) -> list[float]:
        self.reads.append(self.number)
        return super().read()


def make_reports(log: RunLog) -> StepReports:
    phases = plan_phases(16, 64, False, ScheduleConfig())
    config = TrainConfig(batch_tokens=64, micro_batch_tokens=64, reports=5)
    recipe = Recipe(Budget(steps=NUM_STEPS), config)
    return StepReports(recipe, phases, SimpleNamespace(num_visits=(2, 2)), StageClock({"train": 1.0}), log)


def make_step(number: int, figures: LaunchedFigures | float) -> LaunchedStep:
    if isinstance(figures, float):
        figures = LaunchedFigures(torch.tensor(figures), torch.tensor(0.5))
    return LaunchedStep(number, 64 * number, 0.1 * number, number / NUM_STEPS, 1.0, figures)


def test_each_loss_is_read_once_when_the_next_step_is_launched():
    reports, reads = make_reports(RunLog(quiet=True)), []
    for number in range(1, NUM_STEPS + 1):
        reports.launched(make_step(number, WatchedFigures(number, reads)), SilentBar())
        assert reads == list(range(1, number))
    reports.launched(None, SilentBar())
    reports.launched(None, SilentBar())
    assert reads == list(range(1, NUM_STEPS + 1))


def test_reports_carry_their_own_steps_loss_and_come_as_often_as_asked(tmp_path: Path):
    log = RunLog(tmp_path / "run", quiet=True)
    reports = make_reports(log)
    for number in range(1, NUM_STEPS + 1):
        reports.launched(make_step(number, number / 10), SilentBar())
    reports.launched(None, SilentBar())
    events = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    assert [event["step"] for event in steps] == ["1/10", "2/10", "4/10", "6/10", "8/10", "10/10"]
    assert [event["train_loss"] for event in steps] == pytest.approx([0.1, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert [event["tokens"] for event in steps] == [64, 128, 256, 384, 512, 640]
    (forecast,) = [event for event in events if event["event"] == "forecast"]
    assert (forecast["steps"], forecast["tokens"]) == (NUM_STEPS, 64 * NUM_STEPS)
    assert forecast["epochs"] == pytest.approx(0.1 * NUM_STEPS)
    assert events.index(forecast) > events.index(steps[FORECAST_STEP // 2])


def test_the_last_step_is_logged_whether_it_is_due_or_not(tmp_path: Path):
    reports = make_reports(RunLog(tmp_path / "run", quiet=True))
    for number in (1, 2, 3):
        reports.launched(make_step(number, 1.0), SilentBar())
    reports.launched(None, SilentBar())
    events = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events] == ["1/10", "2/10", "3/10"]


def read_loss(loss: float, progress: float, number: int) -> None:
    reports = make_reports(RunLog(quiet=True))
    reports.launched(make_step(1, 1.0), SilentBar())
    reports.launched(make_step(number, loss)._replace(progress=progress), SilentBar())
    reports.launched(None, SilentBar())


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 3.5])
def test_a_loss_out_of_bounds_is_divergence_at_its_own_step(loss):
    with pytest.raises(DivergenceError, match="at step 31"):
        read_loss(loss, progress=0.2, number=31)


def test_the_first_steps_may_overshoot_but_must_be_numbers():
    read_loss(3.5, progress=0.02, number=200)
    read_loss(3.5, progress=0.2, number=30)
    for loss in (float("nan"), float("inf")):
        with pytest.raises(DivergenceError):
            read_loss(loss, progress=0.02, number=2)
