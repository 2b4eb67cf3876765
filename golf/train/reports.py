"""The log of a run's steps. Each is read once the next one is launched, so that the device never waits."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from golf.system.clock import StageClock
from golf.system.log import ProgressBar, RunLog
from golf.train.config import Recipe
from golf.train.schedule import Phase, forecast_run, phase_at

START_OF_RUN = 0.05
"""Share of the run in which the loss may rise above that of the first step."""
FIRST_STEPS = 30
"""Number of steps in which it may, too."""
FORECAST_STEP = 6
"""The step after which the size of the run is forecast, from the time of the steps since the first."""


class DivergenceError(ValueError):
    """The loss is not finite, or far above that of the first step."""


class LaunchedFigures:
    """Scalars on their way from the device: reading them waits for the step they belong to, and no later one.

    A plain `.item()` is queued behind everything launched since; a copy to pinned memory is not.
    """

    def __init__(self, *scalars: Tensor):
        values = torch.stack([scalar.detach().float() for scalar in scalars])
        self._copied: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            values = values.to("cpu", non_blocking=True)
            copied = self._copied = torch.cuda.Event()
            copied.record()
        self._values = values

    def read(self) -> list[float]:
        """The scalars in the order they were given."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.tolist()


class LaunchedStep(NamedTuple):
    """A step that the device may still be working on."""

    number: int
    tokens: int
    """Trained on so far."""
    epoch: float
    """How often the text has been read so far."""
    progress: float
    lr_scale: float
    figures: LaunchedFigures
    """Mean nats per token, and the gradient's norm before clipping."""


class StepReports:
    """Reads each step one step late: checks its loss, logs `train.reports` of them, makes the forecast.

    `visits` counts the blocks that a forward pass visits without and with recurrence.
    """

    def __init__(
        self,
        recipe: Recipe,
        phases: tuple[Phase, ...],
        visits: tuple[int, int],
        clock: StageClock,
        log: RunLog,
    ):
        self.budget, self.config, self.clock, self.log = recipe.budget, recipe.train, clock, log
        self.phases, self.visits = phases, visits
        self.first_loss = math.nan
        """The loss of the run's first step."""
        self._pending: LaunchedStep | None = None
        self._num_due = -1
        self._num_read = 0
        self._start_tokens, self._start_seconds = 0, 0.0

    def launched(self, step: LaunchedStep | None, bar: ProgressBar) -> None:
        """Reads the step before and keeps `step` for the next call; DivergenceError if the loss diverged."""
        before, self._pending = self._pending, step
        if before is None:
            return
        loss, gradient_norm = before.figures.read()
        seconds = self.clock.elapsed("train")
        self._check(loss, before)
        self._num_read += 1
        if self._num_read == 1:
            self._start_tokens, self._start_seconds = before.tokens, seconds
        num_due = math.floor(before.progress * self.config.reports + 1e-9)
        if num_due > self._num_due:
            self._num_due = num_due
            total = self.budget.steps or max(before.number, round(before.number / max(before.progress, 1e-9)))
            speed = before.tokens / seconds
            self.log.event(
                "step",
                step=f"{before.number}/{total}",
                train_loss=round(loss, 5),
                grad_norm=round(gradient_norm, 4),
                lr_scale=round(before.lr_scale, 4),
                tokens=before.tokens,
                tokens_per_second=round(speed),
                train_seconds=round(seconds, 2),
            )
            bar.move_to(before.progress, f"loss {loss:.3f}  {speed:,.0f} tokens/s")
        if self._num_read == FORECAST_STEP:
            self._forecast(before, seconds)

    def catch_up(self, bar: ProgressBar) -> None:
        """Waits for the last step and reads it; DivergenceError if its loss diverged."""
        self.launched(None, bar)

    def _check(self, loss: float, step: LaunchedStep) -> None:
        if math.isnan(self.first_loss):
            self.first_loss = loss
        early = step.progress <= START_OF_RUN or step.number <= FIRST_STEPS
        limit = math.inf if early else self.config.divergence_nats
        # Written so that NaN and infinity fail it, too.
        if not loss < self.first_loss + limit:
            raise DivergenceError(
                f"the run has diverged: the loss is {loss:.4g} nats at step {step.number}, from "
                f"{self.first_loss:.4g} at the start; the last good checkpoint is kept"
            )

    def _forecast(self, step: LaunchedStep, seconds: float) -> None:
        token_seconds = (seconds - self._start_seconds) / (step.tokens - self._start_tokens)
        phase = phase_at(step.progress, self.phases)
        run = forecast_run(self.phases, self.visits, phase, token_seconds, self.budget)
        self.log.event(
            "forecast",
            steps=run.steps,
            tokens=run.tokens,
            epochs=round(run.tokens * step.epoch / step.tokens, 3),
            train_seconds=round(run.seconds),
        )
