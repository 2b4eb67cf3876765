"""The phases of a run and how long each took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = ("prepare", "warm-up", "train", "calibrate", "pack", "score")
"""In the order a run takes them. Training text is read up to `pack`; validation tokens in `score` alone."""


class PhaseError(RuntimeError):
    """Something was done in a phase that does not allow it."""


class StageClock:
    """Seconds by phase; at most one phase runs at a time, and a phase may be entered again."""

    def __init__(self, seconds: dict[str, float] | None = None):
        self._finished = dict(seconds or {})
        self._started = 0.0
        self._is_paused = False
        self.current: str | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Charges the block's seconds to phase `name`; PhaseError if unknown or inside another phase."""
        if name not in PHASES:
            raise PhaseError(f"no phase is called {name!r}; the phases are {', '.join(PHASES)}")
        if self.current is not None:
            raise PhaseError(f"phase {name!r} cannot start inside phase {self.current!r}")
        self.current, self._started = name, time.perf_counter()
        try:
            yield
        finally:
            self._finished[name] = self.elapsed(name)
            self.current = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the block's seconds out of the running phase (a look at held-out text is not training)."""
        name = self.current
        if name is None:
            raise PhaseError("no phase is running that could be paused")
        self._finished[name] = self.elapsed(name)
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused, self._started = False, time.perf_counter()

    def elapsed(self, name: str) -> float:
        """Seconds spent in phase `name` so far, in this run and in those it resumed."""
        is_running = self.current == name and not self._is_paused
        running = time.perf_counter() - self._started if is_running else 0.0
        return self._finished.get(name, 0.0) + running

    def restore(self, seconds: dict[str, float]) -> None:
        """Goes on from the seconds by phase of an earlier process; call it outside every phase."""
        self.require()
        self._finished = dict(seconds)

    def require(self, *allowed: str) -> None:
        """Raises PhaseError unless the running phase is one of `allowed`, or none runs."""
        if self.current is not None and self.current not in allowed:
            raise PhaseError(f"not allowed in phase {self.current!r}; only in {', '.join(allowed)}")

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase, in the order of PHASES, for the phases that were entered."""
        return {name: self.elapsed(name) for name in PHASES if name in self._finished or name == self.current}
