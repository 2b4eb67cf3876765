"""Schedules and phases as functions of progress, and the forecast that is made from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.train.schedule import (
    Budget,
    Phase,
    ScheduleConfig,
    forecast_run,
    grown,
    learning_rate_scale,
    muon_momentum,
    phase_at,
    plan_phases,
)

SHARE = st.floats(0.0, 1.0)


@given(warmdown=SHARE, floor=SHARE, shape=st.sampled_from(["cosine", "linear"]), first=SHARE, second=SHARE)
def test_the_rate_never_rises_and_stays_between_floor_and_one(warmdown, floor, shape, first, second):
    config = ScheduleConfig(warmdown=warmdown, warmdown_shape=shape, floor=floor)
    early, late = (learning_rate_scale(progress, config) for progress in sorted((first, second)))
    assert 1.0 + 1e-12 >= early >= late - 1e-12 >= floor - 2e-12


def test_the_rate_is_full_before_the_warmdown_and_at_its_floor_at_the_end():
    config = ScheduleConfig(warmdown=0.5, floor=0.1)
    assert learning_rate_scale(0.0, config) == learning_rate_scale(0.5, config) == 1.0
    assert learning_rate_scale(0.75, config) == pytest.approx(0.5)
    assert learning_rate_scale(0.95, config) == pytest.approx(0.1)
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


GROWING = ScheduleConfig(context_growth=(0.1, 0.7), batch_growth=(0.5,), recurrence_start=0.35)
POINTS = st.lists(st.floats(0.01, 0.99), max_size=4, unique=True).map(lambda points: tuple(sorted(points)))


def test_each_change_begins_a_phase():
    assert plan_phases(3072, 200, True, GROWING) == (
        Phase(0.0, 1024, 100, False),
        Phase(0.1, 2048, 100, False),
        Phase(0.35, 2048, 100, True),
        Phase(0.5, 2048, 200, True),
        Phase(0.7, 3072, 200, True),
    )


def test_a_model_without_loops_never_loops_and_without_growth_has_one_phase():
    assert plan_phases(64, 128, False, ScheduleConfig()) == (Phase(0.0, 64, 128, False),)
    assert not any(phase.looping for phase in plan_phases(3072, 200, False, GROWING))


@pytest.mark.parametrize(("start", "looping"), [(0.0, [True]), (1.0, [False])])
def test_loops_may_be_on_from_the_start_or_wait_for_the_end(start, looping):
    phases = plan_phases(64, 128, True, ScheduleConfig(recurrence_start=start))
    assert [phase.looping for phase in phases] == looping


@given(context=POINTS, batch=POINTS, first=st.floats(0.0, 1.0), second=st.floats(0.0, 1.0))
def test_nothing_shrinks_as_the_run_goes_on(context, batch, first, second):
    config = ScheduleConfig(context_growth=context, batch_growth=batch)
    phases = plan_phases(60, 120, True, config)
    early, late = (phase_at(progress, phases) for progress in sorted((first, second)))
    assert early.context <= late.context and early.batch_tokens <= late.batch_tokens
    assert early.looping <= late.looping
    assert phases[-1].context == 60 and phases[-1].batch_tokens == 120
    assert late.context == grown(60, context, max(first, second))


def test_a_forecast_of_one_phase_is_the_rule_of_three():
    phases = plan_phases(64, 100, False, ScheduleConfig())
    assert forecast_run(phases, (11, 11), phases[0], 0.01, Budget(seconds=60.0)) == (60, 6000, 60.0)
    assert forecast_run(phases, (11, 11), phases[0], 0.01, Budget(steps=30)) == (30, 3000, 30.0)


@pytest.mark.parametrize("measured", [0, 1])
def test_a_forecast_knows_what_recurrence_and_the_batch_cost(measured):
    config = ScheduleConfig(recurrence_start=0.4, batch_growth=(0.4,))
    phases = plan_phases(64, 200, True, config)
    token_seconds = (0.01, 0.02)[measured]
    run = forecast_run(phases, (10, 20), phases[measured], token_seconds, Budget(seconds=100.0))
    assert run.steps == round(40 / (0.01 * 100) + 60 / (0.02 * 200))
    assert run.tokens == round(40 / 0.01 + 60 / 0.02)
    assert run.seconds == pytest.approx(100.0)


def test_a_forecast_of_steps_says_the_seconds():
    phases = plan_phases(64, 100, True, ScheduleConfig(recurrence_start=0.5))
    run = forecast_run(phases, (10, 20), phases[0], 0.01, Budget(steps=10))
    assert run == (10, 1000, pytest.approx(5 * 1.0 + 5 * 2.0))
