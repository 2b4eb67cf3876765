"""Differences over seeds against closed forms, scipy's paired test, and their own error rate."""

import math

import numpy as np
import pytest
from scipy import stats

from golf.lab.contrasts import differences_to_base, holm

SCORES_AS = np.array([[1.40, 1.41, 1.39], [1.30, 1.34, 1.29], [1.41, 1.44, 1.36], [1.10, 1.20, 1.18]])


def test_two_arms_are_the_paired_t_test():
    base, other = SCORES_AS[:2]
    none, found = differences_to_base(SCORES_AS[:2])
    test = stats.ttest_rel(other, base)
    assert none is None
    assert (found.mean, found.p) == pytest.approx(((other - base).mean(), test.pvalue))
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_the_error_is_that_of_a_two_way_table():
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


def test_what_all_runs_of_a_seed_share_is_no_error():
    shifted = differences_to_base(SCORES_AS + np.array([0.0, 5.0, -2.0]))
    for one, other in zip(differences_to_base(SCORES_AS)[1:], shifted[1:], strict=True):
        assert vars(one) == pytest.approx(vars(other))


def test_runs_that_are_missing_count_for_nothing():
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


def test_one_seed_compares_with_nothing_and_no_spread_is_certain():
    assert differences_to_base(SCORES_AS[:, :1]) == [None] * 4
    same, apart = differences_to_base(np.array([[1.0, 1.1], [1.0, 1.1], [1.3, 1.4]]))[1:]
    assert (same.mean, same.p) == pytest.approx((0.0, 1.0))
    assert (apart.mean, apart.p) == pytest.approx((0.3, 0.0))


def test_arms_that_differ_by_chance_alone_are_found_as_often_as_stated():
    generator = np.random.default_rng(0)
    p = [
        one.p
        for _ in range(400)
        for one in differences_to_base(generator.normal(size=(5, 3)) + generator.normal(size=3))[1:]
    ]
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.07


def test_holm_corrects_as_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
