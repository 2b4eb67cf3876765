"""Results of a study: mean, standard deviation and difference to the base of each arm."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from golf.lab.study import Arm, Study
from golf.lab.trial import Trial
from golf.stats import Difference, differences_to_base

Verdict = Literal["agrees", "contradicts", "not settled", ""]


@dataclass(frozen=True)
class ArmOutcome:
    """The measurements of an arm over its seeds; tuples have one value for each seed that finished."""

    arm: Arm
    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    """Bits per byte on the validation text."""
    measured: tuple[dict[str, Any], ...]
    failures: tuple[str, ...]
    """One reason for each run that failed."""
    difference: Difference | None
    """None for the base, and where either side has fewer than two scores."""

    @property
    def mean(self) -> float:
        """Mean bits per byte; NaN without a score."""
        return float(np.mean(self.scores)) if self.scores else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds (n - 1); NaN below two scores."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else math.nan

    def average(self, key: str) -> float:
        """Mean of a measured number over seeds; NaN without a score."""
        return float(np.mean([row[key] for row in self.measured])) if self.measured else math.nan

    @property
    def tokens_per_second(self) -> float:
        """That of the fastest seed, since other load on the machine only slows a run; NaN without a score."""
        return max((row["tokens_per_second"] for row in self.measured), default=math.nan)

    @property
    def verdict(self) -> Verdict:
        """Whether the 95% interval of the difference agrees with the direction that the source claims."""
        if not self.arm.expects or self.difference is None:
            return ""
        if self.difference.low <= 0.0 <= self.difference.high:
            return "not settled"
        return "agrees" if (self.difference.mean < 0) == (self.arm.expects == "lower") else "contradicts"


def collect(study: Study, trials: list[Trial]) -> list[ArmOutcome]:
    """The outcome of every arm, in the study's order; unfinished runs are ignored."""
    found = []
    for arm in study.arms:
        outcomes = [(t.seed, t.outcome()) for t in trials if t.arm == arm.name]
        done = [(seed, o) for seed, o in outcomes if o is not None and "reason" not in o]
        failures = tuple(o["reason"] for _, o in outcomes if o is not None and "reason" in o)
        scores = tuple(o["validation_bpb"] for _, o in done)
        measured = tuple(o for _, o in done)
        found.append(ArmOutcome(arm, tuple(s for s, _ in done), scores, measured, failures, None))
    seeds = sorted({trial.seed for trial in trials})
    scores_AS = np.full((len(found), len(seeds)), math.nan)
    for row, outcome in enumerate(found):
        scores_AS[row, [seeds.index(seed) for seed in outcome.seeds]] = outcome.scores
    differences = differences_to_base(scores_AS)
    return [replace(one, difference=d) for one, d in zip(found, differences, strict=True)]
