"""Is A better than B: the tests behind the rules' 0.005 nats and behind the leaderboard's practice.

Lower is better throughout; a gain is B's mean minus A's. Scores are bits per byte unless a name says nats.
D documents, R resamples.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from golf.score.tally import bits_per_byte

THRESHOLD_NATS = 0.005
"""What a record has to beat the last one by (README of openai/parameter-golf), which does not say of what:
most entries read it per token, some per byte (#1392, #1915, #2018, #2049)."""
WRITTEN_P = 0.01
PRACTISED_P = 0.25
"""What the last passes over the leaderboard asked of each step of the chain (#1899, #1900, #1902)."""
TYPICAL_STD_BPB = 0.00067
"""Median deviation of published three-seed scores (181 folders); taken where only one run is known."""
MAX_SEEDS = 1000


@dataclass(frozen=True)
class Sample:
    """The scores of one configuration, by seed."""

    mean: float
    std: float | None
    """With n - 1; None for a single run."""
    num_runs: int


def sample_of(scores: np.ndarray) -> Sample:
    """Mean, deviation and number of some scores; ValueError for none or for one that is not finite."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(f"scores are {scores.tolist()}; expected at least one, all finite")
    std = float(scores.std(ddof=1)) if scores.size > 1 else None
    return Sample(float(scores.mean()), std, int(scores.size))


def welch(a: np.ndarray, b: np.ndarray, threshold: float = 0.0) -> float | None:
    """One-sided p that A's mean is below B's by more than `threshold`: Welch's t-test, on runs by seed.

    With one run on a side, that run is taken as exact and the other side tested against it (a published
    score often stands alone); None with one run on both sides.
    """
    return welch_samples(sample_of(a), sample_of(b), threshold)


def welch_samples(a: Sample, b: Sample, threshold: float = 0.0) -> float | None:
    """`welch` from means, deviations and counts, for entries that state no more."""
    gain = b.mean - a.mean - threshold
    variances = [side.std**2 / side.num_runs for side in (a, b) if side.std is not None]
    if not variances:
        return None
    if sum(variances) == 0.0:
        return 0.0 if gain > 0 else 1.0
    if a.std is not None and b.std is not None:
        shifted = b.mean - threshold
        test = stats.ttest_ind_from_stats(
            shifted, b.std, b.num_runs, a.mean, a.std, a.num_runs, equal_var=False, alternative="greater"
        )
        return float(test.pvalue)
    known = a if a.std is not None else b
    return float(stats.t.sf(gain / math.sqrt(variances[0]), known.num_runs - 1))


@dataclass(frozen=True)
class Bootstrap:
    """What resampling documents says of two artifacts."""

    gain: float
    """Bits per byte, on the documents as they are."""
    low: float
    high: float
    """Ends of the 95% interval of the gain."""
    p_improvement: float
    p_threshold: float


def paired_bootstrap(
    nats_a_D: np.ndarray,
    nats_b_D: np.ndarray,
    bytes_D: np.ndarray,
    threshold: float = 0.0,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Bootstrap:
    """One-sided p over validation documents, resampled in pairs: would A win on other documents of this kind?

    It says nothing of other seeds: both artifacts are taken as they are. ValueError unless the three arrays
    are of one length and the bytes positive in sum.
    """
    saved_D = np.asarray(nats_b_D, np.float64) - np.asarray(nats_a_D, np.float64)
    bytes_D = np.asarray(bytes_D, np.float64)
    if saved_D.shape != bytes_D.shape or saved_D.ndim != 1 or bytes_D.sum() <= 0:
        raise ValueError(f"documents do not pair: {saved_D.shape} differences, {bytes_D.shape} byte counts")
    if not np.isfinite(saved_D).all():
        raise ValueError("a document's nats are not finite")

    def gain(saved: np.ndarray, counted: np.ndarray, axis: int = -1) -> np.ndarray:
        return bits_per_byte(saved.sum(axis=axis), counted.sum(axis=axis))

    here = float(gain(saved_D, bytes_D))
    if saved_D.size < 2:
        return Bootstrap(here, here, here, math.nan, math.nan)
    resampled = stats.bootstrap(
        (saved_D, bytes_D),
        gain,
        n_resamples=num_resamples,
        batch=max(1, 2_000_000 // saved_D.size),
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    gains_R = resampled.bootstrap_distribution
    return Bootstrap(
        gain=here,
        low=float(resampled.confidence_interval.low),
        high=float(resampled.confidence_interval.high),
        p_improvement=_share_at_most(gains_R, 0.0),
        p_threshold=_share_at_most(gains_R, threshold),
    )


def nats_to_bpb(nats: float, bytes_per_token: float | None) -> float:
    """A difference in nats as bits per byte: per token of so many bytes, or per byte with None."""
    return bits_per_byte(nats, bytes_per_token or 1.0)


def seeds_to_settle(a: Sample, b: Sample, threshold: float, p: float, power: float = 0.8) -> int | None:
    """Runs a side with which Welch's test would pass at `p` with a chance of `power`, if the gain and the
    spread are as seen; None if the gain is not above `threshold`, or MAX_SEEDS would not do.

    A side with one run is given the other's spread, or TYPICAL_STD_BPB.
    """
    effect = b.mean - a.mean - threshold
    known = [side.std for side in (a, b) if side.std]
    usual = known[0] if known else TYPICAL_STD_BPB
    variance = (a.std or usual) ** 2 + (b.std or usual) ** 2
    if effect <= 0:
        return None
    for n in range(2, MAX_SEEDS + 1):
        freedom = _freedom(a.std or usual, b.std or usual, n)
        critical = stats.t.isf(p, freedom)
        if stats.nct.sf(critical, freedom, effect / math.sqrt(variance / n)) >= power:
            return n
    return None


def _freedom(std_a: float, std_b: float, n: int) -> float:
    """Welch-Satterthwaite degrees of freedom for `n` runs a side."""
    va, vb = std_a**2 / n, std_b**2 / n
    return (va + vb) ** 2 / ((va**2 + vb**2) / (n - 1))


def _share_at_most(values_R: np.ndarray, bound: float) -> float:
    # One is added to both counts: a p of 0 is never shown by so many resamples.
    return float((1 + (values_R <= bound).sum()) / (1 + values_R.size))
