"""Stages of a run as functions of progress, and the forecast that is made from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.train.phases import Phase, forecast_run, grown, phase_at, plan_phases
from golf.train.schedule import ScheduleConfig

GROWING = ScheduleConfig(context_growth=(0.1, 0.7), batch_growth=(0.5,), recurrence_start=0.35)
POINTS = st.lists(st.floats(0.01, 0.99), max_size=4, unique=True).map(lambda points: tuple(sorted(points)))


def test_each_change_begins_a_stage():
    assert plan_phases(3072, 200, True, GROWING) == (
        Phase(0.0, 1024, 100, False),
        Phase(0.1, 2048, 100, False),
        Phase(0.35, 2048, 100, True),
        Phase(0.5, 2048, 200, True),
        Phase(0.7, 3072, 200, True),
    )


def test_a_model_without_loops_never_loops_and_without_growth_has_one_stage():
    assert plan_phases(64, 128, False, ScheduleConfig()) == (Phase(0.0, 64, 128, False),)
    assert not any(stage.looping for stage in plan_phases(3072, 200, False, GROWING))


@pytest.mark.parametrize(("start", "looping"), [(0.0, [True]), (1.0, [False])])
def test_loops_may_be_on_from_the_start_or_wait_for_the_end(start, looping):
    phases = plan_phases(64, 128, True, ScheduleConfig(recurrence_start=start))
    assert [stage.looping for stage in phases] == looping


@given(context=POINTS, batch=POINTS, first=st.floats(0.0, 1.0), second=st.floats(0.0, 1.0))
def test_nothing_shrinks_as_the_run_goes_on(context, batch, first, second):
    config = ScheduleConfig(context_growth=context, batch_growth=batch)
    phases = plan_phases(60, 120, True, config)
    early, late = (phase_at(progress, phases) for progress in sorted((first, second)))
    assert early.context <= late.context and early.batch_tokens <= late.batch_tokens
    assert early.looping <= late.looping
    assert phases[-1].context == 60 and phases[-1].batch_tokens == 120
    assert late.context == grown(60, context, max(first, second))


def test_a_forecast_of_one_stage_is_the_rule_of_three():
    phases = plan_phases(64, 100, False, ScheduleConfig())
    assert forecast_run(phases, (11, 11), phases[0], 0.01, seconds=60.0, steps=None) == (60, 6000, 60.0)
    assert forecast_run(phases, (11, 11), phases[0], 0.01, seconds=None, steps=30) == (30, 3000, 30.0)


@pytest.mark.parametrize("measured", [0, 1])
def test_a_forecast_knows_what_recurrence_and_the_batch_cost(measured):
    config = ScheduleConfig(recurrence_start=0.4, batch_growth=(0.4,))
    phases = plan_phases(64, 200, True, config)
    token_seconds = (0.01, 0.02)[measured]
    run = forecast_run(phases, (10, 20), phases[measured], token_seconds, seconds=100.0, steps=None)
    assert run.steps == round(40 / (0.01 * 100) + 60 / (0.02 * 200))
    assert run.tokens == round(40 / 0.01 + 60 / 0.02)
    assert run.seconds == pytest.approx(100.0)


def test_a_forecast_of_steps_says_the_seconds():
    phases = plan_phases(64, 100, True, ScheduleConfig(recurrence_start=0.5))
    run = forecast_run(phases, (10, 20), phases[0], 0.01, seconds=None, steps=10)
    assert run == (10, 1000, pytest.approx(5 * 1.0 + 5 * 2.0))
