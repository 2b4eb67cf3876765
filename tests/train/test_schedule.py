"""Schedules as functions of progress."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.train.schedule import ScheduleConfig, learning_rate_scale, muon_momentum

SHARE = st.floats(0.0, 1.0)


@given(warmdown=SHARE, floor=SHARE, shape=st.sampled_from(["cosine", "linear"]), first=SHARE, second=SHARE)
def test_the_rate_never_rises_and_stays_between_floor_and_one(warmdown, floor, shape, first, second):
    config = ScheduleConfig(warmdown=warmdown, warmdown_shape=shape, floor=floor)
    early, late = (learning_rate_scale(progress, config) for progress in sorted((first, second)))
    assert 1.0 + 1e-12 >= early >= late - 1e-12 >= floor - 2e-12


def test_the_rate_is_full_before_the_warmdown_and_at_its_floor_at_the_end():
    config = ScheduleConfig(warmdown=0.5, floor=0.1)
    assert learning_rate_scale(0.0, config) == learning_rate_scale(0.5, config) == 1.0
    assert learning_rate_scale(0.75, config) == pytest.approx(0.55)
    assert learning_rate_scale(1.0, config) == pytest.approx(0.1)


def test_cosine_and_linear_differ_between_their_ends():
    cosine, linear = (ScheduleConfig(warmdown=1.0, warmdown_shape=shape) for shape in ("cosine", "linear"))
    assert learning_rate_scale(0.25, cosine) == pytest.approx(0.8536, abs=1e-4)
    assert learning_rate_scale(0.25, linear) == pytest.approx(0.75)


def test_momentum_grows_linearly_to_its_full_value():
    config = ScheduleConfig(momentum_warmup=0.2, momentum_start=0.85)
    got = [muon_momentum(progress, 0.95, config) for progress in (0.0, 0.1, 0.2, 1.0)]
    assert got == pytest.approx([0.85, 0.9, 0.95, 0.95])


def test_a_window_outside_the_run_is_refused():
    with pytest.raises(ValueError, match=r"schedule.warmdown is 1.5; expected 0 to 1"):
        ScheduleConfig(warmdown=1.5)


def test_the_rate_climbs_again_after_each_growth_of_the_context():
    config = ScheduleConfig(warmdown=0.0, context_growth=(0.2, 0.6), lr_rewarmup=0.1)
    got = [learning_rate_scale(progress, config) for progress in (0.1, 0.2, 0.25, 0.3, 0.6, 0.65, 0.7)]
    assert got == pytest.approx([1.0, 0.0, 0.5, 1.0, 0.0, 0.5, 1.0])


def test_the_climb_ends_on_the_rate_that_the_warmdown_has_there():
    config = ScheduleConfig(warmdown=0.5, warmdown_shape="linear", context_growth=(0.7,), lr_rewarmup=0.1)
    plain = ScheduleConfig(warmdown=0.5, warmdown_shape="linear")
    assert learning_rate_scale(0.75, config) == pytest.approx(0.5 * learning_rate_scale(0.75, plain))
    assert learning_rate_scale(0.81, config) == learning_rate_scale(0.81, plain)


@pytest.mark.parametrize("points", [(0.0,), (1.0,), (0.5, 0.5), (0.6, 0.3)])
def test_points_of_growth_rise_inside_the_run(points):
    with pytest.raises(ValueError, match="context_growth"):
        ScheduleConfig(context_growth=points)
    with pytest.raises(ValueError, match="batch_growth"):
        ScheduleConfig(batch_growth=points)
