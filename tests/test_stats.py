"""Intervals, paired differences and tests: against SciPy, closed forms, hand-worked values and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from golf.stats import (
    Sample,
    differences_to_base,
    holm,
    mean_interval,
    paired_bootstrap,
    proportion_interval,
    ratio_interval,
    sample_of,
    seeds_to_settle,
    welch,
)

USUAL_STD = 0.00067
SCORES_AS = np.array([[1.40, 1.41, 1.39], [1.30, 1.34, 1.29], [1.41, 1.44, 1.36], [1.10, 1.20, 1.18]])
SCORES = st.lists(st.floats(0.9, 1.3), min_size=2, max_size=6).filter(lambda x: np.std(x) > 1e-6)


def welch_of(a: np.ndarray, b: np.ndarray, threshold: float = 0.0) -> float | None:
    return welch(sample_of(a), sample_of(b), threshold)


@settings(max_examples=60, deadline=None)
@given(SCORES, SCORES, st.floats(-0.01, 0.01))
def test_welch_is_scipys_on_the_shifted_scores(a: list[float], b: list[float], threshold: float) -> None:
    expected = stats.ttest_ind(np.array(b) - threshold, a, equal_var=False, alternative="greater").pvalue
    assert welch_of(np.array(a), np.array(b), threshold) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_welch_by_hand() -> None:
    # Means 2 and 5, variances 1 and 1 over 3 runs each: t = 3 / sqrt(2/3), 4 degrees of freedom.
    p = welch_of(np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0]))
    assert p == pytest.approx(stats.t.sf(3 / math.sqrt(2 / 3), 4))
    assert p == pytest.approx(0.0106, abs=1e-4)


def test_a_single_run_is_taken_as_exact() -> None:
    scores = np.array([1.061, 1.060, 1.062])
    expected = stats.ttest_1samp(scores, 1.0655, alternative="less").pvalue
    assert welch_of(scores, np.array([1.0655])) == pytest.approx(expected)
    assert welch_of(np.array([1.0655]), scores) == pytest.approx(1 - expected)


def test_two_single_runs_show_nothing() -> None:
    assert welch_of(np.array([1.0]), np.array([1.1])) is None


def test_runs_without_spread_are_decided_by_their_means() -> None:
    assert welch_of(np.array([1.0, 1.0]), np.array([1.1, 1.1]), 0.05) == 0.0
    assert welch_of(np.array([1.0, 1.0]), np.array([1.1, 1.1]), 0.2) == 1.0


def test_under_no_difference_small_p_are_as_rare_as_they_say() -> None:
    rng = np.random.default_rng(1)
    runs = 1.06 + 0.0007 * rng.standard_normal((3000, 2, 3))
    p = np.array([welch_of(a, b) for a, b in runs])
    for level in (0.25, 0.05, 0.01):
        # With three runs a side Welch's test errs on the cautious side, at 0.01 by half.
        assert 0.4 * level < (p < level).mean() < 1.15 * level + 0.005


def test_the_threshold_moves_the_null() -> None:
    rng = np.random.default_rng(2)
    runs = 0.0007 * rng.standard_normal((1500, 2, 3)) + np.array([0.0, 0.002])[:, None]
    p = np.array([welch_of(a, b, threshold=0.002) for a, b in runs])
    assert 0.2 < (p < 0.25).mean() < 0.3


@pytest.mark.parametrize("scores", [[], [1.0, math.nan], [math.inf]])
def test_scores_that_are_none_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        sample_of(np.array(scores))


def documents(gain: float, num: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    counted = rng.integers(200, 4000, num)
    bits_a = counted * 1.0 + rng.normal(0, 29, num)
    bits_b = bits_a + counted * gain + rng.normal(0, 11.5, num)
    return bits_a, bits_b, counted


def test_the_bootstrap_agrees_with_the_normal_approximation() -> None:
    bits_a, bits_b, counted = documents(0.001)
    result = paired_bootstrap(bits_a, bits_b, counted)
    saved = bits_b - bits_a
    gain = saved.sum() / counted.sum()
    residual = saved - gain * counted
    error = residual.std(ddof=1) * math.sqrt(len(saved)) / counted.sum()
    assert result.gain == pytest.approx(gain)
    assert result.low == pytest.approx(gain - 1.96 * error, abs=0.15 * error)
    assert result.high == pytest.approx(gain + 1.96 * error, abs=0.15 * error)
    assert result.p_improvement == pytest.approx(stats.norm.sf(gain / error), abs=0.02)


def test_the_bootstrap_of_a_model_with_itself_shows_no_gain() -> None:
    bits, _, counted = documents(0.0)
    result = paired_bootstrap(bits, bits, counted)
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
    n = seeds_to_settle(a, b, 0.0, p, USUAL_STD)
    assert n is not None
    rng = np.random.default_rng(3)
    runs = 0.0007 * rng.standard_normal((800, 2, n)) + np.array([0.0, effect])[:, None]
    passed = np.mean([welch_of(one, two) < p for one, two in runs])
    assert 0.76 < passed
    if n > 2:
        fewer = 0.0007 * rng.standard_normal((800, 2, n - 1)) + np.array([0.0, effect])[:, None]
        assert np.mean([welch_of(one, two) < p for one, two in fewer]) < 0.84


def test_no_number_of_seeds_settles_a_gain_that_is_not_there() -> None:
    a = Sample(1.0, 0.0007, 3)
    assert seeds_to_settle(a, Sample(1.001, 0.0007, 3), 0.002, 0.01, USUAL_STD) is None
    assert seeds_to_settle(a, Sample(1.0, 0.0007, 3), 0.0, 0.25, USUAL_STD) is None


def test_unknown_spreads_are_taken_from_the_other_side_or_as_usual() -> None:
    alone, known = Sample(1.0, None, 1), Sample(1.001, 0.0003, 3)
    both = Sample(1.0, 0.0003, 3)
    assert seeds_to_settle(alone, known, 0.0, 0.01, USUAL_STD) == seeds_to_settle(
        both, known, 0.0, 0.01, USUAL_STD
    )
    assert seeds_to_settle(alone, Sample(1.001, None, 1), 0.0, 0.01, USUAL_STD) is not None


@pytest.mark.parametrize(("successes", "num_items"), [(0, 10), (3, 10), (10, 10), (250, 1000)])
def test_the_interval_of_a_proportion_is_wilsons(successes: int, num_items: int) -> None:
    share, z2 = successes / num_items, stats.norm.isf(0.025) ** 2 / num_items
    center = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * share * (1 - share) + z2**2 / 4) / (1 + z2)
    wanted = max(0.0, center - half), min(1.0, center + half)
    assert proportion_interval(successes, num_items) == pytest.approx(wanted, abs=1e-12)


def test_a_proportion_of_no_items_has_no_interval() -> None:
    with pytest.raises(ValueError):
        proportion_interval(0, 0)


def test_the_interval_of_a_mean_is_students() -> None:
    values = np.array([0.2, 0.5, 0.9])
    wanted = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((wanted.low, wanted.high))
    low, high = mean_interval(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), rel=1e-6)
    assert mean_interval(np.full(3, 0.475)) == pytest.approx((0.475, 0.475))


def test_the_interval_of_a_ratio_is_about_four_errors_wide() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    low, high = ratio_interval(values, np.ones(400))
    error = values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.03)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.03)


def test_a_constant_ratio_and_a_single_item_have_an_interval_of_no_width() -> None:
    assert ratio_interval(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0])) == (2.0, 2.0)
    assert ratio_interval(np.array([3.0]), np.array([2.0])) == (1.5, 1.5)


def test_two_arms_are_the_paired_t_test() -> None:
    base, other = SCORES_AS[:2]
    none, found = differences_to_base(SCORES_AS[:2])
    test = stats.ttest_rel(other, base)
    assert none is None
    assert (found.mean, found.p) == pytest.approx(((other - base).mean(), test.pvalue))
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_the_error_is_that_of_a_two_way_table() -> None:
    found = differences_to_base(SCORES_AS)
    arms, seeds = SCORES_AS.mean(axis=1, keepdims=True), SCORES_AS.mean(axis=0, keepdims=True)
    residuals_AS = SCORES_AS - arms - seeds + SCORES_AS.mean()
    freedom = (len(SCORES_AS) - 1) * (SCORES_AS.shape[1] - 1)
    error = math.sqrt(2 * (residuals_AS**2).sum() / freedom / SCORES_AS.shape[1])
    for row, one in zip(SCORES_AS[1:], found[1:], strict=True):
        assert one.mean == pytest.approx(row.mean() - SCORES_AS[0].mean())
        assert one.high - one.mean == pytest.approx(stats.t.isf(0.025, freedom) * error)
        assert one.p == pytest.approx(2 * stats.t.sf(abs(one.mean) / error, freedom))
    assert [one.p_holm for one in found[1:]] == pytest.approx(holm([one.p for one in found[1:]]))


def test_what_all_runs_of_a_seed_share_is_no_error() -> None:
    shifted = differences_to_base(SCORES_AS + np.array([0.0, 5.0, -2.0]))
    for one, other in zip(differences_to_base(SCORES_AS)[1:], shifted[1:], strict=True):
        assert vars(one) == pytest.approx(vars(other))


def test_runs_that_are_missing_count_for_nothing() -> None:
    gone_AS = np.full((len(SCORES_AS), 1), math.nan)
    with_gone = differences_to_base(np.concatenate((SCORES_AS, gone_AS), axis=1))
    assert [vars(one) for one in with_gone[1:]] == [
        pytest.approx(vars(one)) for one in differences_to_base(SCORES_AS)[1:]
    ]
    holed_AS = SCORES_AS.copy()
    holed_AS[1, 1:] = math.nan
    holed_AS[2, 2] = math.nan
    none, single, pair, whole = differences_to_base(holed_AS)
    assert none is None and single is None
    assert whole.high - whole.low < pair.high - pair.low


def test_one_seed_compares_with_nothing_and_no_spread_is_certain() -> None:
    assert differences_to_base(SCORES_AS[:, :1]) == [None] * 4
    same, apart = differences_to_base(np.array([[1.0, 1.1], [1.0, 1.1], [1.3, 1.4]]))[1:]
    assert (same.mean, same.p) == pytest.approx((0.0, 1.0))
    assert (apart.mean, apart.p) == pytest.approx((0.3, 0.0))


def test_arms_that_differ_by_chance_alone_are_found_as_often_as_stated() -> None:
    generator = np.random.default_rng(0)
    p = [
        one.p
        for _ in range(400)
        for one in differences_to_base(generator.normal(size=(5, 3)) + generator.normal(size=3))[1:]
    ]
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.07


def test_holm_corrects_as_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
