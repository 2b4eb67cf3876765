"""Micro-batches are shared evenly, hold whole sequences, and shrink to what fits."""

import pytest

from golf.presets import PRESETS
from golf.train.config import TrainConfig, fit_micro_batches, halve_micro_batches, shards_to_read
from golf.train.schedule import Budget, Phase, plan_phases

OF_128 = TrainConfig(micro_batch_tokens=128)


@pytest.mark.parametrize("num_processes", [1, 2, 8])
@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.source == "challenge"])
def test_every_preset_of_the_challenge_is_shared_evenly_by_eight_processes(name, num_processes):
    config = PRESETS[name].config
    loops = config.model.recurrence > 1
    phases = plan_phases(config.model.context, config.train.batch_tokens, loops, config.schedule)
    tokens = fit_micro_batches(config.train, phases, num_processes)
    for phase in phases:
        assert phase.batch_tokens % (tokens * num_processes) == 0 and tokens % phase.context == 0


def test_micro_batches_halve_down_to_one_sequence_of_every_phase():
    phases = (Phase(0.0, 8, 384, False), Phase(0.5, 16, 384, False))
    assert [halve_micro_batches(tokens, phases) for tokens in (128, 64, 48, 32, 16)] == [64, 32, 0, 16, 0]
    assert fit_micro_batches(OF_128, phases, 3) == 128 and fit_micro_batches(OF_128, phases, 8) == 16


def test_what_cannot_be_shared_is_refused_with_the_sizes():
    with pytest.raises(ValueError, match=r"steps of 96 tokens cannot be shared by 5 processes .* is 32"):
        fit_micro_batches(TrainConfig(micro_batch_tokens=32), (Phase(0.0, 16, 96, False),), 5)


def test_shards_are_read_for_what_a_run_may_get_through():
    assert shards_to_read(Budget(seconds=600.0), 1) == 12
    assert shards_to_read(Budget(steps=10), 1000) == 8
