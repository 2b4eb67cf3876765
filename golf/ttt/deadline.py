"""A limit on the time of scoring: when to stop adapting, so that the rest is still scored in time."""

import time
from collections.abc import Callable

import torch

from golf.score.scorer import Scoring

_MARGIN = 1.1
"""Plain scoring is taken to be this much slower than it was measured."""


class DeadlineError(ValueError):
    """The time limit is shorter than plain scoring."""


class Deadline:
    """Says when the time that is left is what plain scoring of the rest takes.

    DeadlineError if plain scoring alone, at `target_seconds` a target, is forecast to take longer than
    `max_seconds`. Time counts from the moment this is made.
    """

    stopped_after: int | None = None
    """Targets graded when adapting stopped."""

    def __init__(
        self,
        max_seconds: float,
        num_targets: int,
        target_seconds: float,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.max_seconds, self._clock, self._started = max_seconds, clock, clock()
        self._target_seconds = _MARGIN * target_seconds
        self.plain_seconds = num_targets * self._target_seconds
        self._num_targets, self._last, self._longest = num_targets, self._started, 0.0
        if self.plain_seconds > max_seconds:
            raise DeadlineError(
                f"max_seconds is {max_seconds:g}; plain scoring of {num_targets:,} tokens alone is forecast "
                f"to take {self.plain_seconds:.0f} seconds"
            )

    def stops(self, num_graded: int) -> bool:
        """Asked before each adaptation: whether there is no time for it; once true it stays so."""
        if self.stopped_after is None:
            now = self._clock()
            self._longest, self._last = max(self._longest, now - self._last), now
            rest = (self._num_targets - num_graded) * self._target_seconds
            if now - self._started + 2 * self._longest + rest > self.max_seconds:
                self.stopped_after = num_graded
        return self.stopped_after is not None

    def leave_out(self) -> None:
        """Counts the time since `stops` was asked as no step: it went by waiting for other processes."""
        self._last = self._clock()

    def notes(self) -> dict[str, float | int | None]:
        """What the record says: the limit, the forecast, and after how many tokens adaptation stopped."""
        return {
            "max_seconds": self.max_seconds,
            "plain_forecast_seconds": self.plain_seconds,
            "adaptation_stopped_after_tokens": self.stopped_after,
        }


@torch.no_grad()
def measure_plain(scoring: Scoring) -> float:
    """Seconds that plain scoring takes for a token, from forward passes over made-up windows."""
    model, windows = scoring.model, scoring.resolved_windows()
    context, rows = windows.context, windows.batch_tokens // windows.context
    inputs_BT = torch.randint(2, model.config.vocab_size, (rows, context), device=scoring.device)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        float(model(inputs_BT, windows.stride).sum())
        seconds.append(time.perf_counter() - started)
    return min(seconds) / (rows * windows.stride)
