"""A plan for a whole run's time: how long to train, and when test-time training must stop."""

import time
from collections.abc import Callable
from pathlib import Path

from golf.system.files import atomic_write
from golf.system.log import RunLog

TRAIN_SHARE = 0.6
"""Most of the total that training gets where its minutes are not given."""
AUDIT_SHARE = 0.15
"""Part of the total that is kept for the audit and the entry."""
MIN_TTT_OVER_PLAIN = 1.2
"""Test-time training is left out where it would have less than this multiple of plain scoring's time."""


class TimePlan:
    """What is left of a run's total, counted from when this is made; without a total nothing is bounded.

    `spent` is a file that keeps the seconds used, so that a later process of the same run goes on counting.
    """

    def __init__(
        self,
        total_seconds: float | None,
        spent: Path | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.total_seconds, self._clock, self._spent = total_seconds, clock, spent
        self._started = clock()
        if spent is not None and spent.is_file():
            self.count_spent(float(spent.read_text(encoding="utf-8")))

    @property
    def used_seconds(self) -> float:
        """Seconds of this process, and of those before it."""
        return self._clock() - self._started

    def count_spent(self, seconds: float) -> None:
        """Takes note that earlier processes took at least so many seconds."""
        self._started = min(self._started, self._clock() - seconds)

    @property
    def left_seconds(self) -> float | None:
        """Seconds until the total is used up, negative after that; None without a total."""
        if self.total_seconds is None:
            return None
        return self.total_seconds - self.used_seconds

    def ttt_seconds(self, plain_seconds: float, limit_seconds: float | None) -> float | None:
        """Limit on test-time training, the smaller of the plan's and `limit_seconds`; None for no limit.

        0.0 where too little is left: `plain_seconds` is what scoring without it took.
        """
        left = self.left_seconds
        limits = [] if limit_seconds is None else [limit_seconds]
        if left is not None and self.total_seconds is not None:
            limits.append(left - AUDIT_SHARE * self.total_seconds)
        if not limits:
            return None
        found = min(limits)
        return found if found > MIN_TTT_OVER_PLAIN * plain_seconds else 0.0

    def say_start(self, train_minutes: float | None, log: RunLog) -> None:
        """One line of what the total is divided into."""
        if self.total_seconds is None:
            return
        minutes = self.total_seconds / 60
        training = "as many steps as asked for" if train_minutes is None else f"{train_minutes:.3g} of them"
        log.info(
            f"plan: {minutes:.3g} minutes in all; training takes {training}; compiling before it, packing "
            f"and scoring after it; test-time training ends {AUDIT_SHARE * minutes:.2g} minutes before the "
            "end, which the audit gets"
        )

    def say_left(self, stage: str, log: RunLog) -> None:
        """After a stage: what is left of the total; keeps what is used."""
        left = self.left_seconds
        if left is not None:
            if self._spent is not None:
                with atomic_write(self._spent) as partial:
                    partial.write_text(f"{self.used_seconds:.1f}\n", encoding="utf-8")
            log.event("time_plan", after=stage, left_seconds=round(left, 1))


def planned_train_minutes(total_minutes: float, preset_minutes: float) -> float:
    """Minutes of training where only the total was given: the preset's, at most TRAIN_SHARE of the total."""
    return min(preset_minutes, TRAIN_SHARE * total_minutes)
