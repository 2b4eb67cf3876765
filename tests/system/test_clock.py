"""Phases exclude each other and add up."""

import pytest

from golf.system.clock import PhaseError, StageClock


def test_seconds_are_charged_to_the_phase_that_ran():
    clock = StageClock({"train": 5.0})
    with clock.stage("pack"):
        assert clock.current == "pack"
    assert list(clock.seconds) == ["train", "pack"]
    assert clock.elapsed("train") == 5.0 and clock.elapsed("pack") > 0.0


def test_a_pause_does_not_count():
    clock = StageClock()
    with clock.stage("train"):
        before = clock.elapsed("train")
        with clock.paused():
            clock._started -= 100.0
        assert clock.elapsed("train") < before + 50.0


def test_time_stands_still_while_a_phase_is_paused():
    clock = StageClock()
    with clock.stage("train"):
        with clock.paused():
            stopped = clock.elapsed("train")
            clock._started -= 100.0
            assert clock.elapsed("train") == clock.seconds["train"] == stopped
        assert stopped <= clock.elapsed("train") < stopped + 50.0


def test_a_phase_inside_another_is_refused():
    clock = StageClock()
    with clock.stage("train"), pytest.raises(PhaseError, match="cannot start inside phase 'train'"):
        with clock.stage("score"):
            pass


def test_unknown_phases_are_refused():
    with pytest.raises(PhaseError, match="no phase is called 'training'"):
        with StageClock().stage("training"):
            pass


def test_require_names_what_is_allowed():
    clock = StageClock()
    clock.require("score")
    with clock.stage("train"):
        with pytest.raises(PhaseError, match="not allowed in phase 'train'; only in prepare, score"):
            clock.require("prepare", "score")


def test_a_phase_that_failed_is_over():
    clock = StageClock()
    with pytest.raises(RuntimeError):
        with clock.stage("train"):
            raise RuntimeError
    assert clock.current is None and clock.elapsed("train") > 0.0


def test_restored_seconds_go_on():
    clock = StageClock()
    clock.restore({"train": 2.0})
    with clock.stage("train"):
        pass
    assert clock.elapsed("train") > 2.0


def test_seconds_are_those_of_the_timer():
    seconds = iter((10.0, 12.0, 20.0, 23.0))
    clock = StageClock(timer=lambda: next(seconds))
    with clock.stage("train"), clock.paused():
        pass
    assert clock.elapsed("train") == 2.0 + 3.0
