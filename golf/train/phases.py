"""What changes in steps over a run: the context, the batch, and whether blocks loop.

Pure functions of progress, so that training, its warm-up and its forecast agree.
"""

from typing import NamedTuple

from golf.train.schedule import ScheduleConfig


class Phase(NamedTuple):
    """What every step of a part of the run has in common; each phase is a graph of its own to compile."""

    start: float
    """Progress at which it begins."""
    context: int
    """Tokens of a sequence."""
    batch_tokens: int
    """Tokens of an optimiser step."""
    looping: bool
    """Whether the blocks that loop do."""


def grown(full: int, points: tuple[float, ...], progress: float) -> int:
    """`full` in equal parts, one more from each of `points` on: all of it after the last."""
    return full * (1 + sum(point <= progress for point in points)) // (1 + len(points))


def plan_phases(context: int, batch_tokens: int, loops: bool, config: ScheduleConfig) -> tuple[Phase, ...]:
    """The phases of a run in order; `loops` says whether the model has blocks that loop."""
    points = {
        0.0,
        *config.context_growth,
        *config.batch_growth,
        *([config.recurrence_start] if loops else []),
    }
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


def phase_at(progress: float, phases: tuple[Phase, ...]) -> Phase:
    """The phase that `progress` lies in."""
    return [phase for phase in phases if phase.start <= progress][-1]


class Forecast(NamedTuple):
    """What a run will come to."""

    steps: int
    tokens: int
    seconds: float


def forecast_run(
    phases: tuple[Phase, ...],
    visits: tuple[int, int],
    measured: Phase,
    token_seconds: float,
    seconds: float | None,
    steps: int | None,
) -> Forecast:
    """Extrapolates the seconds per token of the phase `measured` to a budget of `seconds` or else of `steps`.

    A token's cost is taken to grow with the visits of a forward pass, `visits` without and with recurrence;
    that of attention with the context is left out.
    """
    total_steps = total_tokens = total_seconds = 0.0
    for phase, end in zip(phases, [*[later.start for later in phases[1:]], 1.0], strict=True):
        share = end - phase.start
        step_seconds = token_seconds * phase.batch_tokens * visits[phase.looping] / visits[measured.looping]
        phase_steps = share * (seconds / step_seconds if seconds is not None else steps or 0)
        total_steps += phase_steps
        total_tokens += phase_steps * phase.batch_tokens
        total_seconds += phase_steps * step_seconds
    return Forecast(round(total_steps), round(total_tokens), total_seconds)
