"""What a study found: per arm the mean, the deviation, and the difference to the base with its error."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from golf.lab.study import Arm, Study
from golf.lab.trials import Trial

CONFIDENCE = 0.95
Verdict = Literal["agrees", "contradicts", "not settled", ""]


@dataclass(frozen=True)
class Difference:
    """An arm's mean less the base's, by Welch's t-test over seeds (two-sided)."""

    mean: float
    low: float
    high: float
    """Ends of the 95% interval."""
    p: float
    p_holm: float
    """p, corrected for the number of arms that are compared with the base (Holm 1979)."""


@dataclass(frozen=True)
class ArmOutcome:
    """What an arm measured over its seeds; lists have one value a seed that ended well."""

    arm: Arm
    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    """Bits per byte on the validation text."""
    measured: tuple[dict[str, Any], ...]
    failures: tuple[str, ...]
    """Why runs failed, one reason a run."""
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
        """Mean of a measured number; NaN without one."""
        return float(np.mean([row[key] for row in self.measured])) if self.measured else math.nan

    @property
    def tokens_per_second(self) -> float:
        """Of the fastest seed, since whatever else a machine does only slows a run; NaN without one."""
        return max((row["tokens_per_second"] for row in self.measured), default=math.nan)

    @property
    def verdict(self) -> Verdict:
        """Whether the outcome bears the source's claim out: by the 95% interval of the difference."""
        if not self.arm.expects or self.difference is None:
            return ""
        if self.difference.low <= 0.0 <= self.difference.high:
            return "not settled"
        return "agrees" if (self.difference.mean < 0) == (self.arm.expects == "lower") else "contradicts"


def compare(scores: tuple[float, ...], base: tuple[float, ...]) -> Difference | None:
    """The difference of two arms, uncorrected (`p_holm` is p); None unless each has two scores.

    Arms without any spread, as of equal networks, differ with certainty or not at all.
    """
    if min(len(scores), len(base)) < 2:
        return None
    mean = float(np.mean(scores) - np.mean(base))
    if np.ptp(scores) == 0.0 and np.ptp(base) == 0.0:
        p = 1.0 if mean == 0.0 else 0.0
        return Difference(mean, mean, mean, p, p)
    test = stats.ttest_ind(scores, base, equal_var=False)
    interval = test.confidence_interval(CONFIDENCE)
    return Difference(mean, float(interval.low), float(interval.high), float(test.pvalue), float(test.pvalue))


def holm(values: list[float]) -> list[float]:
    """p-values corrected by Holm's step-down method, in the order they came in."""
    order = np.argsort(values)
    corrected, worst = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = worst
    return corrected


def collect(study: Study, trials: list[Trial]) -> list[ArmOutcome]:
    """The outcome of every arm, in the study's order; runs that are not done count for nothing."""
    found = []
    for arm in study.arms:
        outcomes = [(t.seed, t.outcome()) for t in trials if t.arm == arm.name]
        done = [(seed, o) for seed, o in outcomes if o is not None and "reason" not in o]
        failures = tuple(o["reason"] for _, o in outcomes if o is not None and "reason" in o)
        scores = tuple(o["validation_bpb"] for _, o in done)
        measured = tuple(o for _, o in done)
        found.append(ArmOutcome(arm, tuple(s for s, _ in done), scores, measured, failures, None))
    compared = [compare(outcome.scores, found[0].scores) for outcome in found[1:]]
    corrected = iter(holm([difference.p for difference in compared if difference is not None]))
    return [
        found[0],
        *(
            _with_difference(outcome, difference, next(corrected) if difference is not None else 1.0)
            for outcome, difference in zip(found[1:], compared, strict=True)
        ),
    ]


def _with_difference(outcome: ArmOutcome, difference: Difference | None, p_holm: float) -> ArmOutcome:
    if difference is None:
        return outcome
    full = Difference(difference.mean, difference.low, difference.high, difference.p, p_holm)
    return ArmOutcome(**{**vars(outcome), "difference": full})
