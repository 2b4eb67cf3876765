"""The quantizer that takes the better of two."""

import dataclasses

import pytest
import torch

from golf.model.config import ModelConfig
from golf.pack import choose
from golf.pack.artifact import PackConfig, decode_artifact, open_artifact, pack
from golf.pack.container import ArtifactError
from golf.pack.fit import BudgetError
from golf.pack.layout import Weights, implied_layout
from golf.pack.quantize import flat_calibration, loss_rise, sensitivities


def model_of(width: int) -> dict[str, object]:
    config = ModelConfig(
        vocab_size=300,
        num_layers=2,
        width=width,
        mlp_hidden=2 * width,
        num_heads=4,
        rotary_dims=8,
        bigram_buckets=64,
    )
    return dataclasses.asdict(config)


TINY, WIDE = model_of(32), model_of(192)


def gaussian_weights(model: dict[str, object], seed: int) -> Weights:
    generator, layout = torch.Generator().manual_seed(seed), implied_layout(model)
    return {name: torch.randn(part.shape, generator=generator) for name, part in layout.items()}


def forecast_rise(weights: Weights, artifact: bytes) -> float:
    _, _, _, layout = open_artifact(artifact)
    found, decoded = sensitivities(weights, flat_calibration(weights, layout)), decode_artifact(artifact)[1]
    large = [name for name, part in layout.items() if part.kind != "small"]
    return sum(loss_rise(weights[name] - decoded[name], found[name]) for name in large)


@pytest.mark.parametrize(("model", "better"), [(TINY, "entropy"), (WIDE, "trellis")], ids=["tiny", "wide"])
def test_the_choice_is_the_one_of_less_forecast_loss(model: dict[str, object], better: str) -> None:
    """Of few weights the trellis's tables cost more than its codes save."""
    weights = gaussian_weights(model, 0)
    limit = 3 * sum(weight.numel() for weight in weights.values()) // 8
    rises = {
        scheme: forecast_rise(weights, pack(weights, {"model": model}, PackConfig(scheme), limit).artifact)
        for scheme in ("entropy", "trellis")
    }
    assert rises[better] < 0.95 * max(rises.values())
    packed = pack(weights, {"model": model}, PackConfig("auto"), limit)
    assert packed.fitted["chosen"] == better
    for scheme, tried in packed.fitted["tried"].items():
        assert tried["forecast_loss_rise_nats"] == pytest.approx(rises[scheme], rel=0.1)
        assert tried["bytes"] <= limit
    own = packed.fitted["tried"][better]
    assert len(packed.artifact) == own["bytes"]
    assert forecast_rise(weights, packed.artifact) == pytest.approx(own["forecast_loss_rise_nats"], rel=1e-9)


def test_bytes_decide_where_every_artifact_is_the_finest() -> None:
    weights = gaussian_weights(TINY, 1)
    packed = pack(weights, {"model": TINY}, PackConfig("auto"), 10**6)
    tried = packed.fitted["tried"]
    assert packed.fitted["fit"] == "finest"
    price = 8 * packed.fitted["lambda_nats_per_bit"]
    costs = {name: each["forecast_loss_rise_nats"] + price * each["bytes"] for name, each in tried.items()}
    assert packed.fitted["chosen"] == min(costs, key=costs.__getitem__)


def test_a_choice_that_does_not_fit_leaves_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object) -> None:
        raise BudgetError("too large")

    (name, _, decode), other = choose.CHOICES[1], choose.CHOICES[0]
    monkeypatch.setattr(choose, "CHOICES", (other, (name, too_large, decode)))
    packed = pack(gaussian_weights(TINY, 2), {"model": TINY}, PackConfig("auto"), 60_000)
    assert packed.fitted["chosen"] == "entropy"
    monkeypatch.setattr(choose, "CHOICES", ((name, too_large, decode),))
    with pytest.raises(BudgetError, match="too large"):
        pack(gaussian_weights(TINY, 2), {"model": TINY}, PackConfig("auto"), 60_000)


def test_an_unknown_choice_is_refused() -> None:
    packed = pack(gaussian_weights(TINY, 3), {"model": TINY}, PackConfig("auto"), 60_000)
    _, quantizer, payload, layout = open_artifact(packed.artifact)
    with pytest.raises(ArtifactError, match="quantizer is number 2"):
        quantizer.decode(memoryview(b"\2" + payload[1:]), layout)
    with pytest.raises(ArtifactError):
        quantizer.decode(memoryview(b""), layout)
