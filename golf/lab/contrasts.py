"""Arms against a base over the same seeds: seeds are blocks, and the error is pooled over all arms.

Shapes: A arms, S seeds, N runs.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """An arm's mean less the base's, seed by seed."""

    mean: float
    low: float
    high: float
    """Ends of the 95% interval."""
    p: float
    """Two-sided."""
    p_holm: float
    """p, corrected for the number of arms that are compared with the base (Holm 1979)."""


def differences_to_base(scores_AS: np.ndarray) -> list[Difference | None]:
    """Every arm's difference to arm 0 from scores (A, S), NaN where a run has none; arm 0's own is None.

    Least squares of score = arm + seed: arms of one seed have their order of data, and in a benchmark the
    state of the machine, in common. The error is pooled over all arms, which with three seeds says far more
    than each pair's own (a randomised block design; Montgomery, Design and Analysis of Experiments, 4). Of
    two arms it is the paired t-test. None where an arm or the base has fewer than two scores, or where
    nothing ties the two together.
    """
    num_arms, num_seeds = scores_AS.shape
    arm_N, seed_N = np.nonzero(~np.isnan(scores_AS))
    scores_N = scores_AS[arm_N, seed_N]
    arms_NA = arm_N[:, None] == np.arange(num_arms)
    seeds_NS = seed_N[:, None] == np.arange(1, num_seeds)
    design = np.concatenate((arms_NA, seeds_NS), axis=1).astype(np.float64)
    inverse = np.linalg.pinv(design.T @ design)
    effects = inverse @ design.T @ scores_N
    freedom = len(scores_N) - np.linalg.matrix_rank(design)
    runs_A = arms_NA.sum(axis=0)
    if freedom < 1:
        return [None] * num_arms
    residuals_N = scores_N - design @ effects
    variance = float(residuals_N @ residuals_N) / freedom
    found: list[Difference | None] = [None]
    for arm in range(1, num_arms):
        contrast = np.zeros(design.shape[1])
        contrast[arm], contrast[0] = 1.0, -1.0
        is_estimable = np.allclose(contrast @ inverse @ (design.T @ design), contrast)
        if min(runs_A[arm], runs_A[0]) < 2 or not is_estimable:
            found.append(None)
            continue
        error = float(np.sqrt(variance * (contrast @ inverse @ contrast)))
        found.append(_difference(float(contrast @ effects), error, freedom))
    corrected = iter(holm([one.p for one in found if one is not None]))
    return [None if one is None else replace(one, p_holm=next(corrected)) for one in found]


def _difference(mean: float, error: float, freedom: int) -> Difference:
    """A difference with its Student interval; runs without any spread differ with certainty or not at all."""
    if error <= 1e-12 * max(1.0, abs(mean)):
        p = float(abs(mean) <= 1e-12)
        return Difference(mean, mean, mean, p, p)
    reach = float(stats.t.isf((1.0 - CONFIDENCE) / 2.0, freedom)) * error
    p = float(2.0 * stats.t.sf(abs(mean) / error, freedom))
    return Difference(mean, mean - reach, mean + reach, p, p)


def holm(values: list[float]) -> list[float]:
    """p-values corrected by Holm's step-down method, in the order they came in."""
    order = np.argsort(values)
    corrected, worst = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = worst
    return corrected
