"""What the learning rate and the momentum are at each point of the run: pure functions of progress.

Progress is the share of the run's budget that is used, 0 to 1, be the budget seconds or steps: the same
schedule serves a run of three minutes and one of three hours.
"""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ScheduleConfig:
    """Windows as fractions of the run."""

    warmdown: float = 0.89
    """Share of the run, at its end, over which the learning rate falls."""
    warmdown_shape: Literal["cosine", "linear"] = "cosine"
    """How it falls."""
    floor: float = 0.0
    """What is left of the learning rate at the end, as a share of the full one."""
    momentum_warmup: float = 0.15
    """Share of the run, at its start, over which Muon's momentum grows to its full value."""
    momentum_start: float = 0.85
    """Muon's momentum at the start."""
    recurrence_start: float = 0.35
    """Point of the run from which on the blocks that loop do so (openai/parameter-golf #1204)."""
    context_growth: tuple[float, ...] = ()
    """Points of the run at which the context grows to model.context by equal parts, one more part than points
    (openai/parameter-golf #2014)."""
    lr_rewarmup: float = 0.0
    """Share of the run over which the learning rate climbs from 0 again where the context has grown."""
    batch_growth: tuple[float, ...] = ()
    """Points of the run at which the batch grows to train.batch_tokens, likewise by equal parts."""

    def __post_init__(self) -> None:
        for name in ("warmdown", "floor", "momentum_warmup", "recurrence_start", "lr_rewarmup"):
            if not 0.0 <= vars(self)[name] <= 1.0:
                raise ValueError(f"schedule.{name} is {vars(self)[name]}; expected 0 to 1")
        for name in ("context_growth", "batch_growth"):
            points = vars(self)[name]
            if sorted({0.0, *points, 1.0}) != [0.0, *points, 1.0]:
                raise ValueError(f"schedule.{name} is {points}; expected rising points between 0 and 1")


def learning_rate_scale(progress: float, config: ScheduleConfig) -> float:
    """Factor on every learning rate: 1 until the warmdown begins, then down to `floor` at progress 1.

    After each growth of the context it climbs from 0 to that value over the share `lr_rewarmup` of the run.
    """
    start = 1.0 - config.warmdown
    done = min(1.0, (progress - start) / config.warmdown) if progress > start else 0.0
    shape = 0.5 * (1.0 + math.cos(math.pi * done)) if config.warmdown_shape == "cosine" else 1.0 - done
    climb = 1.0
    for point in config.context_growth:
        if point <= progress < point + config.lr_rewarmup:
            climb = min(climb, (progress - point) / config.lr_rewarmup)
    return climb * (config.floor + (1.0 - config.floor) * shape)


def muon_momentum(progress: float, full_momentum: float, config: ScheduleConfig) -> float:
    """Muon's momentum: linear from `momentum_start` to `full_momentum`, then constant."""
    if progress >= config.momentum_warmup:
        return full_momentum
    share = progress / config.momentum_warmup
    return config.momentum_start + (full_momentum - config.momentum_start) * share
