import pytest

from golf.ttt.deadline import Deadline, DeadlineError


def ticking(*times: float):
    remaining = iter(times)
    return lambda: next(remaining)


def test_a_limit_below_plain_scoring_is_refused_with_the_forecast() -> None:
    with pytest.raises(DeadlineError, match=r"max_seconds is 10; .* 1,000 tokens alone .* 22 seconds"):
        Deadline(10.0, 1_000, 0.02)


def test_waiting_for_other_processes_is_no_step() -> None:
    deadline = Deadline(18.0, 100, 0.1, ticking(0.0, 1.0, 7.0, 7.5))
    assert not deadline.stops(90)
    deadline.leave_out()
    assert not deadline.stops(90), "two more steps of 6 s would not leave time for the rest"


def test_adapting_stops_when_two_more_of_the_longest_steps_would_not_leave_time_for_the_rest() -> None:
    """Plain scoring takes 1.1 s per 10 tokens; a step takes 2 s."""
    deadline = Deadline(18.0, 100, 0.1, ticking(0.0, 2.0, 4.0, 6.0))
    assert [deadline.stops(graded) for graded in (10, 20)] == [False, False]
    assert deadline.stops(20)
    assert deadline.stops(90), "once stopped it asks no clock"
    assert deadline.notes() == {
        "max_seconds": 18.0,
        "plain_forecast_seconds": pytest.approx(11.0),
        "adaptation_stopped_after_tokens": 20,
    }
