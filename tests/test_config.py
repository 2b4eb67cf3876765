"""Presets hold together at any budget, and a configuration survives its way through JSON."""

import json
from dataclasses import replace

import pytest
import torch

from golf.checks import check_config
from golf.config import RunConfig, fit_to_vocabulary
from golf.model.gpt import GPT
from golf.presets import PRESETS
from golf.system.stored import ConfigError, config_from_dict, config_to_dict, flat_fields
from golf.train.schedule import Budget, forecast_run, plan_phases

every_preset = pytest.mark.parametrize("name", PRESETS)


@every_preset
def test_a_preset_comes_back_from_json_as_it_was(name):
    config = PRESETS[name].config
    stored = json.loads(json.dumps(config_to_dict(config)))
    assert config_from_dict(RunConfig, stored) == config


@every_preset
def test_a_preset_is_a_network_and_its_steps_are_whole_on_every_device(name):
    preset = PRESETS[name]
    for device in ("cpu", "cuda"):
        check_config(preset.config, device)
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in GPT(preset.config.model).parameters()) > 100_000
    assert preset.purpose and preset.config.minutes


@every_preset
@pytest.mark.parametrize("minutes", [0.5, 3.0, 300.0])
def test_any_budget_gives_the_same_shape_of_run(name, minutes):
    config = PRESETS[name].config
    phases = plan_phases(
        config.model.context, config.train.batch_tokens, config.model.recurrence > 1, config.schedule
    )
    with torch.device("meta"):
        visits = GPT(config.model).num_visits
    run = forecast_run(phases, visits, phases[0], 1e-6, Budget(seconds=60 * minutes))
    assert run.seconds == pytest.approx(60 * minutes)
    assert run.steps / minutes == pytest.approx(
        forecast_run(phases, visits, phases[0], 1e-6, Budget(seconds=60.0)).steps, rel=0.1, abs=1
    )


@pytest.mark.parametrize(
    ("name", "millions"), [("gpt2-small", 124.3), ("modern-253m", 252.8), ("gpt2-mini", 10.9)]
)
def test_the_networks_of_the_studies_have_their_published_sizes(name, millions):
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in GPT(PRESETS[name].config.model).parameters())
    assert size / 1e6 == pytest.approx(millions, abs=0.1)


def test_the_seed_preset_is_every_default_but_for_what_its_card_adds():
    config, default = (flat_fields(config_to_dict(one)) for one in (PRESETS["seed"].config, RunConfig()))
    changed = {name: value for name, value in config.items() if value != default[name]}
    assert changed == {
        "minutes": 10.0,
        "train.reserve_seconds": 5.0,
        "averaging.output": "ema+swa",
        "pack.scheme": "int5",
    }
    model, ttt = PRESETS["seed"].config.model, PRESETS["seed"].config.ttt
    assert (model.num_layers, model.width, model.output_init) == (11, 512, "scaled")
    assert config["optim.matrix"] == "muon" and config["schedule.warmdown_shape"] == "cosine"
    assert (config["score.stride"], ttt.method, ttt.epochs, ttt.frozen_blocks) == (64, "sgd", 3, 2)


def test_unknown_fields_are_named_and_later_ones_have_their_default():
    stored = config_to_dict(RunConfig(steps=1))
    with pytest.raises(ConfigError, match="ModelConfig has no field 'depth'"):
        config_from_dict(RunConfig, stored | {"model": stored["model"] | {"depth": 3}})
    del stored["optim"]["momentum"]
    assert config_from_dict(RunConfig, stored) == RunConfig(steps=1)


def test_the_network_takes_the_datas_vocabulary_unless_another_was_asked_for():
    preset = PRESETS["h100-10min"].config
    fitted = fit_to_vocabulary(preset, preset, vocab_size=1024, bos_id=1)
    assert fitted.model.vocab_size == 1024
    asked = replace(preset, model=replace(preset.model, vocab_size=4096))
    with pytest.raises(ConfigError, match=r"model\.vocab_size is 4096"):
        fit_to_vocabulary(asked, preset, vocab_size=1024, bos_id=1)
