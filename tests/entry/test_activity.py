"""A technique counts as active when leaving it out changes something, and not because it was asked for."""

from dataclasses import replace

import msgspec
import pytest
import torch
from entry_toys import make_results

from golf.config import RunConfig
from golf.entry.finalize import (
    NEUTRAL_WEIGHTS,
    SWITCHED_OFF,
    clip_features,
    network_features,
    schedule_features,
    score_features,
    shape_features,
)
from golf.model.config import ModelConfig
from golf.model.gpt import GPT, distance_from_orthogonal
from golf.pack.artifact import PackConfig
from golf.presets import PRESETS
from golf.results import Results, Stage

EVERYTHING = ModelConfig(
    vocab_size=40,
    num_layers=4,
    width=32,
    num_heads=2,
    num_kv_heads=1,
    mlp_hidden=48,
    context=16,
    rotary_dims=4,
    xsa=True,
    attention_gate=0.5,
    activation_slope=0.3,
    skip_gates=True,
    parallel_residual_blocks=1,
    recurrence_first=1,
    recurrence_last=2,
    recurrence=2,
    bigram_buckets=16,
    bigram_width=4,
    ngram_buckets=(16,),
    document_mask=True,
)
STUDIED = replace(
    EVERYTHING,
    document_mask=False,
    attention_gate_dense=True,
    attention_sinks=True,
    attention="co4",
    num_kv_heads=EVERYTHING.num_heads,
    skip_gates=False,
    dense_connections=True,
)
RESULTS = msgspec.convert(make_results(7, b"artifact"), Results)
RESULTS = replace(
    RESULTS,
    training=replace(RESULTS.training, steps=50),
    packing=replace(RESULTS.packing, report={"scheme": "int5", "bits_per_weight": 4.2}),
)
PLAIN, ADAPTED = RESULTS.stages[2:]


def scored(*stages: Stage) -> Results:
    return replace(RESULTS, scores=replace(RESULTS.scores, stages=stages))


def random_weights(config: ModelConfig) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = GPT(config)
    model.initialize()
    return {name: weight + 0.1 * torch.randn_like(weight) for name, weight in model.state_dict().items()}


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return random_weights(EVERYTHING)


def tokens() -> torch.Tensor:
    return torch.randint(2, 40, (1, 16), generator=torch.Generator().manual_seed(1))


def active(features) -> dict[str, bool]:
    return {feature.name: feature.active for feature in features}


def states(features) -> dict[str, str]:
    return {feature.name: feature.state for feature in features}


def test_every_technique_of_a_random_network_is_active():
    found = {}
    for config in (EVERYTHING, STUDIED):
        techniques = active(network_features(config, random_weights(config), tokens()))
        assert all(techniques.values())
        found |= techniques
    assert set(found) == {f"model.{name}" for name in SWITCHED_OFF} | set(NEUTRAL_WEIGHTS)


@pytest.mark.parametrize(
    ("weight", "name"),
    [("bigram.scale", "model.bigram_buckets"), ("skip_weights", "skips"), ("smear.gate", "model.smear")],
)
def test_a_technique_whose_weights_do_nothing_is_without_effect(weights, weight, name):
    weights[weight] = (
        torch.full_like(weights[weight], -200.0) if weight == "smear.gate" else 0 * weights[weight]
    )
    found = states(network_features(EVERYTHING, weights, tokens()))
    assert {technique: state for technique, state in found.items() if state != "active"} == {
        name: "without effect"
    }


def test_without_its_recurrence_a_network_keeps_its_skips(weights):
    model = GPT(EVERYTHING)
    model.load_state_dict(weights)
    inputs_BT = tokens()
    inputs_BT[:, 8] = EVERYTHING.bos_id
    with torch.no_grad():
        looped = model(inputs_BT)
        model.looping = False
        moved = float((looped - model(inputs_BT)).abs().max())
    found = {feature.name: feature.evidence for feature in network_features(EVERYTHING, weights, tokens())}
    assert found["model.recurrence"] == f"moves a logit by up to {moved:.3g}"


def test_a_technique_that_is_off_is_not_listed(weights):
    plain = replace(EVERYTHING, xsa=False, smear="off", bigram_buckets=0)
    names = active(network_features(plain, weights, tokens()))
    assert "model.xsa" not in names and "model.smear" not in names


def test_a_phase_beyond_the_end_of_the_run_never_came():
    config = PRESETS["cpu"].config
    late = replace(config, schedule=replace(config.schedule, warmdown=0.1))
    stopped = replace(RESULTS, training=replace(RESULTS.training, final_progress=0.8))
    assert states(schedule_features(late, stopped))["schedule.warmdown"] == "not active"
    assert active(schedule_features(late, RESULTS))["schedule.warmdown"] is True


def test_an_average_that_was_not_kept_was_not_used():
    last = replace(RESULTS, averaging=replace(RESULTS.averaging, output="last"))
    assert states(schedule_features(RunConfig(), last))["averaging"] == "not active"
    assert active(schedule_features(RunConfig(), RESULTS))["averaging"] is True


def test_test_time_training_that_moves_nothing_is_without_effect_and_none_is_no_fault():
    name = "ttt: sgd, 3 epochs, 2 frozen blocks"
    same = scored(PLAIN, replace(ADAPTED, tally=PLAIN.tally))
    assert states(score_features(RunConfig(), same))[name] == "without effect"
    assert states(score_features(RunConfig(), scored(PLAIN)))[name] == "not active"
    assert active(score_features(RunConfig(), RESULTS))[name] is True


def test_a_quantiser_that_was_not_asked_for_is_not_active():
    asked = RunConfig(pack=PackConfig(scheme="int5"))
    assert active(score_features(asked, RESULTS))["pack: int5, zstd-22"] is True
    assert states(score_features(RunConfig(), RESULTS))["pack: int5, zstd-22"] == "without effect"


def test_windows_that_do_not_slide_are_never_active():
    disjoint = scored(replace(PLAIN, stride=256), ADAPTED)
    assert active(score_features(RunConfig(), disjoint))["sliding windows"] is False
    assert active(score_features(RunConfig(), RESULTS))["sliding windows"] is True


def test_sizes_optimisers_and_initialisation_are_read_off_the_network(weights):
    model = GPT(EVERYTHING)
    model.initialize()
    events = [{"event": "initialization", "orthogonal_to": distance_from_orthogonal(model)}]
    found = {f.name: f for f in shape_features(RunConfig(model=EVERYTHING), weights, events)}
    assert all(feature.active for feature in found.values())
    asked = f"{EVERYTHING.num_layers} layers of width {EVERYTHING.width}"
    assert {asked, "optim: muon", "orthogonal initialisation"} == set(found)
    with torch.no_grad():
        model.blocks[0].attention.query.weight.normal_()
    other = [{"event": "initialization", "orthogonal_to": distance_from_orthogonal(model)}]
    named = active(shape_features(RunConfig(model=EVERYTHING), weights, other))
    assert named["orthogonal initialisation"] is False
    fewer = {name: weight for name, weight in weights.items() if not name.startswith("blocks.0.")}
    assert active(shape_features(RunConfig(model=EVERYTHING), fewer, events))[asked] is False


def test_clipping_counts_the_steps_whose_gradient_was_scaled_down() -> None:
    events = [{"event": "step", "grad_norm": norm} for norm in (0.5, 1.0, 3.0)] + [{"event": "held_out"}]
    (found,) = clip_features(1.0, events)
    assert found.active and found.evidence.startswith("1 of 3 logged steps clipped to 1;")
    (never,) = clip_features(5.0, events)
    assert never.state == "not active"
    assert not list(clip_features(1.0, [{"event": "step"}]))
