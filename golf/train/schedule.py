"""The budget of a run and what changes over it: learning rate, momentum, context, batch, recurrence.

Everything is a pure function of progress, the share of the run's budget that is used (0 to 1), so that one
schedule serves budgets of seconds and of steps, and training, warm-up and forecast agree.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple


@dataclass(frozen=True)
class Budget:
    """How long to train: seconds of training time, or optimizer steps; exactly one is given."""

    seconds: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        amounts = [amount for amount in (self.seconds, self.steps) if amount is not None]
        if len(amounts) != 1:
            raise ValueError("training needs a budget: either minutes or steps, not both")
        if amounts[0] <= 0:
            raise ValueError(f"the training budget is {amounts[0]:g}; expected more than 0")

    def progress(self, steps: int, seconds: float) -> float:
        """Share of the budget that is used, 0 to 1."""
        if self.steps is not None:
            return min(1.0, steps / self.steps)
        assert self.seconds is not None
        return min(1.0, seconds / self.seconds)


@dataclass(frozen=True)
class ScheduleConfig:
    """Windows as fractions of the run."""

    warmdown: float = 0.89
    """Share of the run, at its end, over which the learning rate falls."""
    warmdown_shape: Literal["cosine", "linear"] = "cosine"
    """How it falls."""
    floor: float = 0.0
    """Least learning rate, as a share of the full one: reached before the end of the run, and held."""
    momentum_warmup: float = 0.15
    """Share of the run, at its start, over which Muon's momentum grows to its full value."""
    momentum_start: float = 0.85
    """Muon's momentum at the start."""
    recurrence_start: float = 0.35
    """Progress from which on the recurrent blocks are repeated (openai/parameter-golf #1204)."""
    context_growth: tuple[float, ...] = ()
    """Progress at which the context grows, to model.context by equal parts, one part more than points
    (openai/parameter-golf #2014)."""
    lr_rewarmup: float = 0.0
    """Share of the run over which the learning rate climbs from 0 again after the context has grown."""
    batch_growth: tuple[float, ...] = ()
    """Progress at which the batch grows, to train.batch_tokens, likewise by equal parts."""

    def __post_init__(self) -> None:
        for name in ("warmdown", "floor", "momentum_warmup", "recurrence_start", "lr_rewarmup"):
            if not 0.0 <= vars(self)[name] <= 1.0:
                raise ValueError(f"schedule.{name} is {vars(self)[name]}; expected 0 to 1")
        for name in ("context_growth", "batch_growth"):
            points = vars(self)[name]
            if sorted({0.0, *points, 1.0}) != [0.0, *points, 1.0]:
                raise ValueError(f"schedule.{name} is {points}; expected rising points between 0 and 1")


def learning_rate_scale(progress: float, config: ScheduleConfig) -> float:
    """Factor on every learning rate: 1 until the warmdown begins, then down towards 0, not below `floor`.

    After each growth of the context it climbs from 0 to that value over the share `lr_rewarmup` of the run.
    """
    start = 1.0 - config.warmdown
    done = min(1.0, (progress - start) / config.warmdown) if progress > start else 0.0
    # From 1 to 0 over the warmdown: half a cosine wave, flat at both ends, or a straight line.
    shape = 0.5 * (1.0 + math.cos(math.pi * done)) if config.warmdown_shape == "cosine" else 1.0 - done
    climb = 1.0
    for point in config.context_growth:
        if point <= progress < point + config.lr_rewarmup:
            climb = min(climb, (progress - point) / config.lr_rewarmup)
    return climb * max(shape, config.floor)


def muon_momentum(progress: float, full_momentum: float, config: ScheduleConfig) -> float:
    """Muon's momentum: linear from `momentum_start` to `full_momentum`, then constant."""
    if progress >= config.momentum_warmup:
        return full_momentum
    share = progress / config.momentum_warmup
    return config.momentum_start + (full_momentum - config.momentum_start) * share


class Phase(NamedTuple):
    """A part of the run whose steps are alike; each (context, looping) is a graph of its own to compile."""

    start: float
    """Progress at which it begins."""
    context: int
    """Tokens of a sequence."""
    batch_tokens: int
    """Tokens of an optimizer step."""
    looping: bool
    """Whether the recurrent blocks are repeated."""


Phases = tuple[Phase, ...]


def grown(full: int, points: tuple[float, ...], progress: float) -> int:
    """A size that grows by equal parts: one of 1 + len(points) parts of `full`, one more at each point."""
    return full * (1 + sum(point <= progress for point in points)) // (1 + len(points))


def plan_phases(context: int, batch_tokens: int, loops: bool, config: ScheduleConfig) -> Phases:
    """The phases of a run in order; `loops` says whether the model has recurrent blocks."""
    points = {0.0, *config.context_growth, *config.batch_growth}
    if loops:
        points.add(config.recurrence_start)
    return tuple(
        Phase(
            start,
            grown(context, config.context_growth, start),
            grown(batch_tokens, config.batch_growth, start),
            loops and start >= config.recurrence_start,
        )
        for start in sorted(points)
        if start < 1.0
    )


def phase_at(progress: float, phases: Phases) -> Phase:
    """The phase that `progress` lies in."""
    return [phase for phase in phases if phase.start <= progress][-1]


class Forecast(NamedTuple):
    """The size of a whole run."""

    steps: int
    tokens: int
    seconds: float


def forecast_run(
    phases: Phases, visits: tuple[int, int], measured: Phase, token_seconds: float, budget: Budget
) -> Forecast:
    """Extrapolates `token_seconds`, the seconds per token in the phase `measured`, to the whole budget.

    A token's cost is proportional to its visits of blocks, `visits` without and with recurrence; that of
    attention at longer contexts is left out.
    """
    steps = tokens = seconds = 0.0
    for phase, end in zip(phases, [*[later.start for later in phases[1:]], 1.0], strict=True):
        step_seconds = token_seconds * phase.batch_tokens * visits[phase.looping] / visits[measured.looping]
        own = (end - phase.start) * (budget.steps or (budget.seconds or 0.0) / step_seconds)
        steps += own
        tokens += own * phase.batch_tokens
        seconds += own * step_seconds
    return Forecast(round(steps), round(tokens), seconds)
