"""Statistics: intervals, paired differences, Holm's correction, Welch's test and the paired bootstrap.

Every interval and every p of the project comes from here. Intervals have a coverage of 95%.
Shapes: A arms, S seeds, N items (documents, articles, questions), R resamples.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import nctdtr, ndtri, stdtr, stdtrit

TAIL = 0.025
"""Probability outside of an interval, on each side."""
NUM_RESAMPLES = 2000
MAX_SEEDS = 1000
_MAX_BATCH_ITEMS = 2_000_000
"""Resampled items that the bootstrap holds in memory at a time."""


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Student's interval of the mean of at least two values; of paired differences, the paired t interval."""
    values = np.asarray(values, dtype=np.float64)
    reach = stdtrit(values.size - 1, 1 - TAIL) * values.std(ddof=1) / math.sqrt(values.size)
    return float(values.mean() - reach), float(values.mean() + reach)


def proportion_interval(successes: int, num_items: int) -> tuple[float, float]:
    """Wilson's interval of a proportion, also valid if none or all succeed; ValueError without items."""
    if not 0 <= successes <= num_items or num_items == 0:
        raise ValueError(f"{successes} of {num_items} items is no proportion")
    share, spread = successes / num_items, float(ndtri(1 - TAIL)) ** 2 / num_items
    center = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4) / (1 + spread)
    return max(0.0, center - half), min(1.0, center + half)


def ratio_interval(sums_N: np.ndarray, counts_N: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Interval of sum(sums) / sum(counts) by resampling items (percentile bootstrap).

    With one item, both ends are the ratio itself.
    """
    return _percentile_interval(_resampled_ratios(sums_N, counts_N, NUM_RESAMPLES, seed))


@dataclass(frozen=True)
class Difference:
    """The mean of an arm minus that of the base."""

    mean: float
    low: float
    high: float
    """Ends of the interval."""
    p: float
    """Two-sided."""
    p_holm: float
    """p, corrected for the number of arms that are compared with the base (Holm 1979)."""


def differences_to_base(scores_AS: np.ndarray) -> list[Difference | None]:
    """The difference of every arm to arm 0 from scores (A, S), NaN where a run has none; None for arm 0.

    Least squares of score = arm + seed: runs with one seed share the order of their data, and in a benchmark
    the state of the machine. The error is pooled over all arms, which with three seeds says far more than
    each pair's own (a randomized block design; Montgomery, Design and Analysis of Experiments, 4). With two
    arms it is the paired t-test. None where an arm or the base has fewer than two scores, or where no seed
    connects the two.
    """
    num_arms, num_seeds = scores_AS.shape
    arm_N, seed_N = np.nonzero(~np.isnan(scores_AS))
    scores_N = scores_AS[arm_N, seed_N]
    # One indicator an arm, and one a seed but for the first: (N, A + S - 1).
    arms_NA = arm_N[:, None] == np.arange(num_arms)
    seeds_NS = seed_N[:, None] == np.arange(1, num_seeds)
    design = np.concatenate((arms_NA, seeds_NS), axis=1).astype(np.float64)
    gram = design.T @ design
    inverse = np.linalg.pinv(gram)
    effects = inverse @ design.T @ scores_N
    freedom = len(scores_N) - np.linalg.matrix_rank(design)
    if freedom < 1:
        return [None] * num_arms
    variance = float(((scores_N - design @ effects) ** 2).sum()) / freedom
    runs_A = arms_NA.sum(axis=0)
    found: list[Difference | None] = [None]
    for arm in range(1, num_arms):
        contrast = np.zeros(design.shape[1])
        contrast[arm], contrast[0] = 1.0, -1.0
        # A contrast can be estimated if it is a combination of the design's rows.
        is_estimable = np.allclose(contrast @ inverse @ gram, contrast)
        if min(runs_A[arm], runs_A[0]) < 2 or not is_estimable:
            found.append(None)
            continue
        mean, error = float(contrast @ effects), math.sqrt(variance * (contrast @ inverse @ contrast))
        if error <= 1e-12 * max(1.0, abs(mean)):
            # Runs without any spread differ with certainty or not at all.
            error, p = 0.0, float(abs(mean) <= 1e-12)
        else:
            p = float(2.0 * stdtr(freedom, -abs(mean) / error))
        reach = float(stdtrit(freedom, 1 - TAIL)) * error
        found.append(Difference(mean, mean - reach, mean + reach, p, p))
    corrected = iter(holm([one.p for one in found if one is not None]))
    return [None if one is None else replace(one, p_holm=next(corrected)) for one in found]


def holm(values: list[float]) -> list[float]:
    """p-values corrected by Holm's step-down method, in the order given."""
    order = np.argsort(values)
    factors = len(values) - np.arange(len(values))
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * np.asarray(values, float)[order]))
    return corrected.tolist()


@dataclass(frozen=True)
class Sample:
    """Mean, standard deviation and number of the scores of one configuration, one score a seed."""

    mean: float
    std: float | None
    """With n - 1; None for a single run."""
    num_runs: int


def sample_of(scores: np.ndarray) -> Sample:
    """The Sample of some scores; ValueError for none or for one that is not finite."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(f"scores are {scores.tolist()}; expected at least one, all finite")
    std = float(scores.std(ddof=1)) if scores.size > 1 else None
    return Sample(float(scores.mean()), std, int(scores.size))


def welch(a: Sample, b: Sample, threshold: float = 0.0) -> float | None:
    """One-sided p that A's mean is below B's by more than `threshold`: Welch's t-test.

    A side with one run is taken as exact and the other side is tested against it (a published score often
    is the only one); None with one run on both sides.
    """
    gain = b.mean - a.mean - threshold
    known = [(side.std**2 / side.num_runs, side.num_runs - 1) for side in (a, b) if side.std is not None]
    if not known:
        return None
    variance = sum(part for part, _ in known)
    if variance == 0.0:
        return 0.0 if gain > 0 else 1.0
    # Welch-Satterthwaite degrees of freedom.
    freedom = variance**2 / sum(part**2 / own_freedom for part, own_freedom in known)
    return float(stdtr(freedom, -gain / math.sqrt(variance)))


def seeds_to_settle(
    a: Sample, b: Sample, threshold: float, p: float, usual_std: float, power: float = 0.8
) -> int | None:
    """Runs on each side with which `welch` falls below `p` with a probability of `power`.

    Gain and deviations are taken as measured; a side with one run has the other side's deviation, or
    `usual_std`. None if the gain is not above `threshold`, or if MAX_SEEDS do not suffice.
    """
    effect = b.mean - a.mean - threshold
    usual = a.std or b.std or usual_std
    variance_a, variance_b = (a.std or usual) ** 2, (b.std or usual) ** 2
    variance = variance_a + variance_b
    if effect <= 0:
        return None
    for n in range(2, MAX_SEEDS + 1):
        freedom = (n - 1) * variance**2 / (variance_a**2 + variance_b**2)
        # The noncentral t distribution, that of Welch's t under the effect.
        if 1 - nctdtr(freedom, effect / math.sqrt(variance / n), stdtrit(freedom, 1 - p)) >= power:
            return n
    return None


@dataclass(frozen=True)
class Bootstrap:
    """By how much A is below B, over resampled documents."""

    gain: float
    """On the documents as they are."""
    low: float
    high: float
    """Ends of the interval of the gain."""
    p_improvement: float
    """One-sided p that the gain is above 0."""
    p_threshold: float
    """One-sided p that the gain is above the threshold."""


def paired_bootstrap(
    sums_a_N: np.ndarray,
    sums_b_N: np.ndarray,
    counts_N: np.ndarray,
    threshold: float = 0.0,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Bootstrap:
    """Tests (sum(b) - sum(a)) / sum(counts) over documents resampled in pairs.

    It answers whether A would win on other documents of this kind, not with other seeds. ValueError unless
    the three arrays have one length and the counts a positive sum. With one document, both p are NaN.
    """
    saved_N = np.asarray(sums_b_N, np.float64) - np.asarray(sums_a_N, np.float64)
    counts_N = np.asarray(counts_N, np.float64)
    if saved_N.shape != counts_N.shape or saved_N.ndim != 1 or counts_N.sum() <= 0:
        raise ValueError(f"documents do not pair: {saved_N.shape} differences, {counts_N.shape} counts")
    if not np.isfinite(saved_N).all():
        raise ValueError("a document's sum is not finite")
    gain = float(saved_N.sum() / counts_N.sum())
    if saved_N.size < 2:
        return Bootstrap(gain, gain, gain, math.nan, math.nan)
    gains_R = _resampled_ratios(saved_N, counts_N, num_resamples, seed)
    # One is added to both counts: a finite number of resamples never shows a p of 0.
    p_improvement, p_threshold = (
        float((1 + (gains_R <= bound).sum()) / (1 + gains_R.size)) for bound in (0.0, threshold)
    )
    return Bootstrap(gain, *_percentile_interval(gains_R), p_improvement, p_threshold)


def _resampled_ratios(sums_N: np.ndarray, counts_N: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """sum(sums) / sum(counts) of items resampled in pairs, shape (R,)."""
    rng, num_items = np.random.default_rng(seed), len(sums_N)
    batch, ratios = max(1, _MAX_BATCH_ITEMS // num_items), []
    for start in range(0, num_resamples, batch):
        picked_RN = rng.integers(0, num_items, (min(batch, num_resamples - start), num_items))
        ratios.append(sums_N[picked_RN].sum(axis=-1) / counts_N[picked_RN].sum(axis=-1))
    return np.concatenate(ratios)


def _percentile_interval(values_R: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values_R, (TAIL, 1 - TAIL))
    return float(low), float(high)
