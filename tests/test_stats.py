"""The statistics behind a comparison: against SciPy, hand-worked values and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from golf.stats import (
    Sample,
    nats_to_bpb,
    paired_bootstrap,
    sample_of,
    seeds_to_settle,
    welch,
    welch_samples,
)

SCORES = st.lists(st.floats(0.9, 1.3), min_size=2, max_size=6).filter(lambda x: np.std(x) > 1e-6)


@settings(max_examples=60, deadline=None)
@given(SCORES, SCORES, st.floats(-0.01, 0.01))
def test_welch_is_scipys_on_the_shifted_scores(a: list[float], b: list[float], threshold: float) -> None:
    expected = stats.ttest_ind(np.array(b) - threshold, a, equal_var=False, alternative="greater").pvalue
    assert welch(np.array(a), np.array(b), threshold) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_welch_by_hand() -> None:
    # Means 2 and 5, variances 1 and 1 over 3 runs each: t = 3 / sqrt(2/3), 4 degrees of freedom.
    p = welch(np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0]))
    assert p == pytest.approx(stats.t.sf(3 / math.sqrt(2 / 3), 4))
    assert p == pytest.approx(0.0106, abs=1e-4)


def test_a_single_run_is_taken_as_exact() -> None:
    scores = np.array([1.061, 1.060, 1.062])
    expected = stats.ttest_1samp(scores, 1.0655, alternative="less").pvalue
    assert welch(scores, np.array([1.0655])) == pytest.approx(expected)
    assert welch(np.array([1.0655]), scores) == pytest.approx(1 - expected)


def test_two_single_runs_show_nothing() -> None:
    assert welch(np.array([1.0]), np.array([1.1])) is None


def test_runs_without_spread_are_decided_by_their_means() -> None:
    assert welch(np.array([1.0, 1.0]), np.array([1.1, 1.1]), 0.05) == 0.0
    assert welch(np.array([1.0, 1.0]), np.array([1.1, 1.1]), 0.2) == 1.0


def test_under_no_difference_small_p_are_as_rare_as_they_say() -> None:
    rng = np.random.default_rng(1)
    runs = 1.06 + 0.0007 * rng.standard_normal((3000, 2, 3))
    p = np.array([welch(a, b) for a, b in runs])
    for level in (0.25, 0.05, 0.01):
        # With three runs a side Welch's test errs on the cautious side, at 0.01 by half.
        assert 0.4 * level < (p < level).mean() < 1.15 * level + 0.005


def test_the_threshold_moves_the_null() -> None:
    rng = np.random.default_rng(2)
    runs = 0.0007 * rng.standard_normal((1500, 2, 3)) + np.array([0.0, 0.002])[:, None]
    p = np.array([welch(a, b, threshold=0.002) for a, b in runs])
    assert 0.2 < (p < 0.25).mean() < 0.3


@pytest.mark.parametrize("scores", [[], [1.0, math.nan], [math.inf]])
def test_scores_that_are_none_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        sample_of(np.array(scores))


@pytest.mark.parametrize(
    ("bytes_per_token", "bpb"), [(2.436, 0.00296), (3.727, 0.00194), (3.157, 0.00228), (None, 0.00721)]
)
def test_five_thousandths_of_a_nat_in_bits_per_byte(bytes_per_token: float | None, bpb: float) -> None:
    assert nats_to_bpb(0.005, bytes_per_token) == pytest.approx(bpb, abs=6e-6)


def documents(gain: float, num: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    counted = rng.integers(200, 4000, num)
    nats_a = counted * 0.7 + rng.normal(0, 20, num)
    nats_b = nats_a + counted * gain * math.log(2) + rng.normal(0, 8, num)
    return nats_a, nats_b, counted


def test_the_bootstrap_agrees_with_the_normal_approximation() -> None:
    nats_a, nats_b, counted = documents(0.001)
    result = paired_bootstrap(nats_a, nats_b, counted)
    saved = (nats_b - nats_a) / math.log(2)
    gain = saved.sum() / counted.sum()
    residual = saved - gain * counted
    error = residual.std(ddof=1) * math.sqrt(len(saved)) / counted.sum()
    assert result.gain == pytest.approx(gain)
    assert result.low == pytest.approx(gain - 1.96 * error, abs=0.15 * error)
    assert result.high == pytest.approx(gain + 1.96 * error, abs=0.15 * error)
    assert result.p_improvement == pytest.approx(stats.norm.sf(gain / error), abs=0.02)


def test_the_bootstrap_of_a_model_with_itself_shows_no_gain() -> None:
    nats, _, counted = documents(0.0)
    result = paired_bootstrap(nats, nats, counted)
    assert (result.gain, result.p_improvement) == (0.0, 1.0)


def test_the_bootstrap_p_is_as_rare_as_it_says() -> None:
    p = [paired_bootstrap(*documents(0.0, 60, seed), num_resamples=200).p_improvement for seed in range(150)]
    assert 0.15 < np.mean(np.array(p) < 0.25) < 0.36


def test_the_bootstrap_is_repeatable_and_never_certain() -> None:
    first, second = (paired_bootstrap(*documents(0.05), num_resamples=500) for _ in range(2))
    assert first == second
    assert first.p_improvement == pytest.approx(1 / 501)


def test_documents_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="do not pair"):
        paired_bootstrap(np.ones(3), np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="not finite"):
        paired_bootstrap(np.array([1.0, math.nan]), np.ones(2), np.ones(2))


def test_one_document_gives_no_interval() -> None:
    result = paired_bootstrap(np.array([10.0]), np.array([12.0]), np.array([20]))
    assert result.gain == result.low == result.high
    assert math.isnan(result.p_improvement)


@pytest.mark.parametrize(("effect", "p"), [(0.002, 0.01), (0.001, 0.01), (0.0006, 0.25)])
def test_so_many_seeds_do_settle_it_four_times_in_five(effect: float, p: float) -> None:
    a, b = Sample(1.0, 0.0007, 3), Sample(1.0 + effect, 0.0007, 3)
    n = seeds_to_settle(a, b, 0.0, p)
    assert n is not None
    rng = np.random.default_rng(3)
    runs = 0.0007 * rng.standard_normal((800, 2, n)) + np.array([0.0, effect])[:, None]
    passed = np.mean([welch(one, two) < p for one, two in runs])
    assert 0.76 < passed
    if n > 2:
        fewer = 0.0007 * rng.standard_normal((800, 2, n - 1)) + np.array([0.0, effect])[:, None]
        assert np.mean([welch(one, two) < p for one, two in fewer]) < 0.84


def test_no_number_of_seeds_settles_a_gain_that_is_not_there() -> None:
    a = Sample(1.0, 0.0007, 3)
    assert seeds_to_settle(a, Sample(1.001, 0.0007, 3), 0.002, 0.01) is None
    assert seeds_to_settle(a, Sample(1.0, 0.0007, 3), 0.0, 0.25) is None


def test_unknown_spreads_are_taken_from_the_other_side_or_as_usual() -> None:
    alone, known = Sample(1.0, None, 1), Sample(1.001, 0.0003, 3)
    both = Sample(1.0, 0.0003, 3)
    assert seeds_to_settle(alone, known, 0.0, 0.01) == seeds_to_settle(both, known, 0.0, 0.01)
    assert seeds_to_settle(alone, Sample(1.001, None, 1), 0.0, 0.01) is not None


def test_summaries_stand_for_scores() -> None:
    a, b = np.array([1.061, 1.060, 1.062]), np.array([1.065, 1.066])
    assert welch_samples(sample_of(a), sample_of(b), 0.001) == pytest.approx(welch(a, b, 0.001))
