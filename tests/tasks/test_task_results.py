"""Intervals against known values and their own coverage."""

import numpy as np
import pytest
from scipy.stats import binomtest

from golf.tasks.results import mean_metric, ratio_interval, share_metric, wilson_interval


@pytest.mark.parametrize(("successes", "num_items"), [(0, 10), (3, 10), (10, 10), (250, 1000)])
def test_the_interval_of_a_share_is_scipys(successes, num_items):
    wanted = binomtest(successes, num_items).proportion_ci(method="wilson")
    assert wilson_interval(successes, num_items) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_the_interval_of_a_mean_is_about_two_errors_wide():
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    metric = mean_metric("mean", values.tolist(), 0.0, "")
    error = values.std(ddof=1) / 20
    assert metric.low == pytest.approx(metric.value - 1.96 * error, abs=0.03)
    assert metric.high == pytest.approx(metric.value + 1.96 * error, abs=0.03)


def test_a_constant_ratio_has_an_interval_of_no_width():
    assert ratio_interval(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0])) == (2.0, 2.0)


def test_a_share_counts_what_is_right():
    metric = share_metric("accuracy", [True, False, True, True], 0.25, "of four")
    assert (metric.value, metric.num_items, metric.chance) == (0.75, 4, 0.25)
