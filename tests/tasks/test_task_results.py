"""Intervals against known values and their own coverage."""

import numpy as np
import pytest

from golf.tasks.results import mean_metric, share_metric


def test_the_interval_of_a_mean_is_about_two_errors_wide():
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    metric = mean_metric("mean", values.tolist(), 0.0, "")
    error = values.std(ddof=1) / 20
    assert metric.low == pytest.approx(metric.value - 1.96 * error, abs=0.03)
    assert metric.high == pytest.approx(metric.value + 1.96 * error, abs=0.03)


def test_a_share_counts_what_is_right():
    metric = share_metric("accuracy", [True, False, True, True], 0.25, "of four")
    assert (metric.value, metric.num_items, metric.chance) == (0.75, 4, 0.25)
