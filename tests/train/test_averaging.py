"""EMA and SWA against their definitions, computed afterwards from the weights of every step."""

import math

import pytest
import torch

from golf.train.averaging import AVERAGES, AveragingConfig, WeightAverage


def run_averages(config: AveragingConfig, num_steps: int = 50) -> tuple[WeightAverage, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2, bias=False)
    average, seen = WeightAverage(model, config), [model.weight.detach().clone()]
    for step in range(1, num_steps + 1):
        with torch.no_grad():
            model.weight += torch.randn_like(model.weight)
        average.update(step / num_steps)
        seen.append(model.weight.detach().clone())
    return average, seen


def reference_ema(seen: list[torch.Tensor], decay: float) -> list[torch.Tensor]:
    average, history = seen[0].double(), []
    for weight in seen[1:]:
        average = decay * average + (1 - decay) * weight.double()
        history.append(average)
    return history


def test_all_outputs_follow_their_definitions():
    average, seen = run_averages(AveragingConfig(ema_window=0.1, swa_start=0.595, swa_every=0.0999))
    ema = reference_ema(seen, math.exp(-0.02 / 0.1))
    sampled = [30, 35, 40, 45, 50]
    expected = {
        "last": seen[-1].double(),
        "ema": ema[-1],
        "swa": torch.stack([seen[step] for step in sampled]).double().mean(0),
        "ema+swa": torch.stack([ema[step - 1] for step in sampled]).mean(0),
    }
    outputs = average.outputs()
    assert set(outputs) == set(AVERAGES)
    for name, weight in expected.items():
        torch.testing.assert_close(outputs[name]["weight"].double(), weight, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("output", ["ema", "swa", "ema+swa"])
def test_a_single_output_equals_the_one_among_all(output):
    windows = {"ema_window": 0.05, "swa_start": 0.5, "swa_every": 0.1}
    every, _ = run_averages(AveragingConfig(**windows))
    single, _ = run_averages(AveragingConfig(output=output, **windows))
    assert set(single.outputs()) == {"last", output}
    assert torch.equal(single.outputs()[output]["weight"], every.outputs()[output]["weight"])


def test_a_run_that_ends_before_the_samples_has_no_mean():
    model = torch.nn.Linear(2, 2)
    average = WeightAverage(model, AveragingConfig())
    average.update(0.3)
    assert set(average.outputs()) == {"last", "ema"}


@pytest.mark.parametrize("output", ["swa", "ema+swa"])
def test_a_mean_that_is_the_output_and_has_no_sample_is_of_the_weights_at_the_end(output):
    model = torch.nn.Linear(2, 2)
    average = WeightAverage(model, AveragingConfig(output=output))
    with torch.no_grad():
        model.weight += 1
    average.update(0.3)
    found = average.outputs()
    assert set(found) == {"last", output}
    assert torch.allclose(found[output]["weight"], model.weight, atol=1e-6)


def test_the_state_restores_the_averages_exactly():
    config = AveragingConfig(ema_window=0.1, swa_start=0.2)
    average, _ = run_averages(config)
    restored = WeightAverage(torch.nn.Linear(3, 2, bias=False), config)
    restored.load_state_dict(average.state_dict())
    for name in ("ema", "swa", "ema+swa"):
        assert torch.equal(restored.outputs()[name]["weight"], average.outputs()[name]["weight"])


def test_impossible_windows_are_refused():
    with pytest.raises(ValueError, match="ema_window"):
        AveragingConfig(ema_window=0.0)
