"""The phases of a run and the seconds each takes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PHASES = ("prepare", "warm-up", "train", "calibrate", "pack", "score")
"""In the order of a run. Training text is read up to `pack`; validation in `prepare` and `score`."""


class PhaseError(RuntimeError):
    """An operation that the running phase does not allow."""


class StageClock:
    """Measures seconds by phase. At most one phase runs at a time; a phase may be entered again.

    `timer` gives the seconds, by default those of the wall; a run's budget is in these seconds.
    """

    def __init__(
        self, seconds: dict[str, float] | None = None, timer: Callable[[], float] = time.perf_counter
    ):
        self._finished, self._timer = dict(seconds or {}), timer
        self._started = 0.0
        self._is_paused = False
        self.current: str | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the seconds of the block to phase `name`; PhaseError if unknown or inside another phase."""
        if name not in PHASES:
            raise PhaseError(f"no phase is called {name!r}; the phases are {', '.join(PHASES)}")
        if self.current is not None:
            raise PhaseError(f"phase {name!r} cannot start inside phase {self.current!r}")
        self.current, self._started = name, self._timer()
        try:
            yield
        finally:
            self._finished[name] = self.elapsed(name)
            self.current = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the seconds of the block from the running phase (evaluation during training)."""
        name = self.current
        if name is None:
            raise PhaseError("no phase is running that could be paused")
        self._finished[name] = self.elapsed(name)
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused, self._started = False, self._timer()

    def elapsed(self, name: str) -> float:
        """Seconds of phase `name` so far, including those of resumed processes."""
        is_running = self.current == name and not self._is_paused
        running = self._timer() - self._started if is_running else 0.0
        return self._finished.get(name, 0.0) + running

    def restore(self, seconds: dict[str, float]) -> None:
        """Sets the seconds by phase, as an earlier process saved them; PhaseError while a phase runs."""
        self.require()
        self._finished = dict(seconds)

    def require(self, *allowed: str) -> None:
        """Raises PhaseError if a phase runs that is not one of `allowed`."""
        if self.current is not None and self.current not in allowed:
            raise PhaseError(f"not allowed in phase {self.current!r}; only in {', '.join(allowed)}")

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each phase that was entered, in the order of PHASES."""
        return {name: self.elapsed(name) for name in PHASES if name in self._finished or name == self.current}
