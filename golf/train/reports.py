"""What a run says of its steps; each is read when the next one has been launched, so that none waits."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from golf.system.clock import StageClock
from golf.system.log import ProgressBar, RunLog
from golf.train.budget import Budget, TrainConfig
from golf.train.phases import Phase, forecast_run, phase_at

START_OF_RUN = 0.05
"""Share of the run in which the loss may rise above where it began."""
FIRST_STEPS = 30
"""Steps in which it may, too."""
FORECAST_STEP = 6
"""The step after which the run says what it will come to, from the time of the steps since the first."""


class DivergenceError(ValueError):
    """The loss is not a number any more, or far above where it started."""


class LaunchedFigures:
    """Scalars on their way from the device: reading them waits for the step they belong to, for no later one.

    A plain `.item()` is queued behind everything that was launched since; the copy to pinned memory is not.
    """

    def __init__(self, *scalars: Tensor):
        values = torch.stack([scalar.detach().float() for scalar in scalars])
        self._copied: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values = host.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
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
    """Reads each step's loss one step late: checks it, reports it now and then, and makes the forecast.

    `visits` are those of a forward pass without and with recurrence.
    """

    def __init__(
        self,
        budget: Budget,
        config: TrainConfig,
        phases: tuple[Phase, ...],
        visits: tuple[int, int],
        clock: StageClock,
        log: RunLog,
    ):
        self.budget, self.config, self.clock, self.log = budget, config, clock, log
        self.phases, self.visits = phases, visits
        self.first_loss = math.nan
        """The loss of the run's first step."""
        self._pending: LaunchedStep | None = None
        self._num_due = -1
        self._num_read = 0
        self._start_tokens, self._start_seconds = 0, 0.0

    def launched(self, step: LaunchedStep, bar: ProgressBar) -> None:
        """Takes a step in, and reads the one before; DivergenceError if that one's loss says so."""
        before, self._pending = self._pending, step
        if before is not None:
            self._read(before, bar)

    def catch_up(self, bar: ProgressBar) -> None:
        """Waits for the last step and reads it; DivergenceError if its loss says so."""
        before, self._pending = self._pending, None
        if before is not None:
            self._read(before, bar)

    def _read(self, step: LaunchedStep, bar: ProgressBar) -> None:
        loss, gradient_norm = step.figures.read()
        seconds = self.clock.elapsed("train")
        self._check(loss, step)
        self._num_read += 1
        if self._num_read == 1:
            self._start_tokens, self._start_seconds = step.tokens, seconds
        num_due = math.floor(step.progress * self.config.reports + 1e-9)
        if num_due > self._num_due:
            self._num_due = num_due
            self._report(step, loss, gradient_norm, seconds, bar)
        if self._num_read == FORECAST_STEP:
            self._forecast(step, seconds)

    def _check(self, loss: float, step: LaunchedStep) -> None:
        if math.isnan(self.first_loss):
            self.first_loss = loss
        early = step.progress <= START_OF_RUN or step.number <= FIRST_STEPS
        limit = math.inf if early else self.config.divergence_nats
        if not loss < self.first_loss + limit:
            raise DivergenceError(
                f"the run has diverged: the loss is {loss:.4g} nats at step {step.number}, from "
                f"{self.first_loss:.4g} at the start; the last good checkpoint is kept"
            )

    def _report(
        self, step: LaunchedStep, loss: float, gradient_norm: float, seconds: float, bar: ProgressBar
    ) -> None:
        total = self.budget.steps or max(step.number, round(step.number / max(step.progress, 1e-9)))
        speed = step.tokens / seconds
        self.log.event(
            "step",
            step=f"{step.number}/{total}",
            train_loss=round(loss, 5),
            grad_norm=round(gradient_norm, 4),
            lr_scale=round(step.lr_scale, 4),
            tokens=step.tokens,
            tokens_per_second=round(speed),
            train_seconds=round(seconds, 2),
        )
        bar.move_to(step.progress, f"loss {loss:.3f}  {speed:,.0f} tokens/s")

    def _forecast(self, step: LaunchedStep, seconds: float) -> None:
        token_seconds = (seconds - self._start_seconds) / (step.tokens - self._start_tokens)
        phase = phase_at(step.progress, self.phases)
        run = forecast_run(
            self.phases, self.visits, phase, token_seconds, self.budget.seconds, self.budget.steps
        )
        self.log.event(
            "forecast",
            steps=run.steps,
            tokens=run.tokens,
            epochs=round(run.tokens * step.epoch / step.tokens, 3),
            train_seconds=round(run.seconds),
        )
