"""Two processes give what one gives: losses, weights, score; and they stop, resume and refuse together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parallel_toys import STEPS, losses_of, score_toy, toy_trainer, work_together
from processes import run_together

from golf.system.distributed import World


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def two(folder) -> list[dict[str, Any]]:
    return run_together(work_together, 2, folder)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    trainer = toy_trainer(World())
    found = {"float32": losses_of(trainer, STEPS), "weights": trainer.average.outputs()["ema"]}
    return {**found, "bfloat16": losses_of(toy_trainer(World(), torch.bfloat16), 8)}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-3)])
def test_losses_of_two_processes_are_those_of_one_at_equal_batches(two, alone, dtype, tolerance):
    assert two[0][dtype] == two[1][dtype]
    np.testing.assert_allclose(two[0][dtype], alone[dtype], atol=tolerance, rtol=0)


def test_weights_are_the_same_in_every_process_and_those_of_one(two, alone):
    for name, weight in alone["weights"].items():
        assert np.array_equal(two[0]["weights"][name], two[1]["weights"][name])
        np.testing.assert_allclose(two[0]["weights"][name], weight, atol=1e-4, rtol=0)


def test_two_processes_make_the_score_of_one(two):
    tally, nats = score_toy(World())
    for found in two:
        assert np.array_equal(found["score"][1], nats)
        assert (found["score"][0].num_tokens, found["score"][0].num_bytes) == (1000, 1000)
        assert found["score"][0].nats == pytest.approx(tally.nats, rel=1e-12)


def test_a_stop_asked_of_one_process_stops_all_and_one_process_goes_on_from_there(two, folder, alone):
    assert [found["stopped"] for found in two] == ["stopped at step 3"] * 2
    assert not (folder / "stopped1.pt").exists(), "the first process alone saves"
    trainer = toy_trainer(World())
    trainer.resume(folder / "stopped0.pt")
    np.testing.assert_allclose(losses_of(trainer, 5), alone["float32"][3:8], atol=1e-5, rtol=0)


def test_processes_follow_the_first_ones_clock_and_values(two):
    assert [found["agreed"] for found in two] == [(5.0, True)] * 2
    assert [found["least"] for found in two] == [6] * 2
    assert [found["shared"] for found in two] == ["from 0"] * 2


def test_processes_that_disagree_are_refused_naming_the_field(two):
    assert [found["refused"] for found in two] == ["process 1 has model.width 17; process 0 has 16"] * 2


def test_a_process_that_dies_ends_the_others_with_a_message(two):
    assert two[0]["lost"].startswith("another process of this run is gone, so this one ends, too")
    assert two[0]["lost"].endswith("the run can be resumed")
