"""What a bound on the whole run leaves to its stages."""

import pytest

from golf.command import parse_run
from golf.system.log import RunLog
from golf.system.stored import ConfigError
from golf.time_plan import AUDIT_SHARE, MIN_TTT_OVER_PLAIN, TRAIN_SHARE, TimePlan, planned_train_minutes


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_without_a_total_nothing_is_bounded():
    plan = TimePlan(None)
    assert plan.left_seconds is None
    assert plan.ttt_seconds(10.0, None) is None
    assert plan.ttt_seconds(10.0, 55.0) == 55.0


def test_test_time_training_gets_what_is_left_but_for_the_audit():
    clock = Clock()
    plan = TimePlan(600.0, clock=clock)
    clock.seconds = 400.0
    assert plan.left_seconds == 200.0
    assert plan.ttt_seconds(20.0, None) == pytest.approx(200.0 - AUDIT_SHARE * 600.0)
    assert plan.ttt_seconds(20.0, 70.0) == 70.0


def test_test_time_training_is_left_out_where_it_could_not_do_more_than_score():
    clock = Clock()
    plan = TimePlan(600.0, clock=clock)
    clock.seconds = 600.0 - AUDIT_SHARE * 600.0 - 20.0
    assert plan.ttt_seconds(19.0 / MIN_TTT_OVER_PLAIN, None) == pytest.approx(20.0)
    assert plan.ttt_seconds(21.0 / MIN_TTT_OVER_PLAIN, None) == 0.0
    clock.seconds = 700.0
    assert plan.left_seconds == -100.0 and plan.ttt_seconds(0.001, None) == 0.0


def test_what_an_earlier_process_spent_counts(tmp_path):
    clock, spent = Clock(), tmp_path / "spent_seconds.txt"
    first = TimePlan(600.0, spent, clock)
    clock.seconds = 150.0
    first.say_left("training", RunLog(quiet=True))
    clock.seconds = 5000.0
    later = TimePlan(600.0, spent, clock)
    assert later.left_seconds == 450.0
    later.count_spent(100.0)
    assert later.left_seconds == 450.0, "less than what is known already changes nothing"
    later.count_spent(200.0)
    assert later.left_seconds == 400.0


def test_a_limit_of_its_own_that_plain_scoring_would_fill_leaves_test_time_training_out():
    assert TimePlan(None).ttt_seconds(10.0, 5.0) == 0.0
    assert TimePlan(None).ttt_seconds(10.0, 50.0) == 50.0


def test_the_plan_is_said_at_the_start_and_after_stages(tmp_path):
    log, clock = RunLog(tmp_path / "run", quiet=True), Clock()
    plan = TimePlan(600.0, clock=clock)
    plan.say_start(6.0, log)
    clock.seconds = 200.0
    plan.say_left("training", log)
    text = (tmp_path / "run.log").read_text()
    assert "plan: 10 minutes in all; training takes 6 of them" in text
    assert "time_plan after:training left_seconds:400" in text


@pytest.mark.parametrize(
    ("arguments", "minutes"),
    [
        (["--preset", "seed", "--total-minutes", "10"], 10 * TRAIN_SHARE),
        (["--preset", "seed", "--total-minutes", "60"], 10.0),
        (["--preset", "seed", "--total-minutes", "60", "--minutes", "40"], 40.0),
        (["--preset", "seed"], 10.0),
        (["--preset", "seed", "--total-minutes", "5", "--steps", "7"], None),
    ],
)
def test_a_total_bounds_the_minutes_of_training_that_are_not_given(arguments, minutes):
    assert parse_run(arguments).config.minutes == minutes
    assert planned_train_minutes(10.0, 3.0) == 3.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--total-minutes", "10", "--minutes", "10"], "leaves nothing of --total-minutes"),
        (["--total-minutes", "0"], "--total-minutes is 0"),
        (["--total-minutes", "-3"], "--total-minutes is -3"),
        (["--total-minutes", "inf"], "--total-minutes is inf"),
        (["--total-minutes", "nan"], "--total-minutes is nan"),
    ],
)
def test_totals_that_cannot_be_kept_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse_run(["--preset", "cpu", *arguments])
