"""Sizes at equal divergence, and the encoders that artifacts are compared with."""

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.packing_lines import Made, draw_line, with_knob
from benchmarks.packing_peers import nncodec_encoder, stack_encoder
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.pack.calibrate import calibrate
from golf.pack.layout import implied_layout

NUM_WEIGHTS = 80_000


def made(bits: float) -> Made:
    return Made(round(bits * NUM_WEIGHTS / 8), {"bits": torch.tensor(bits)}, 0.0, 0.0)


def law(loss_at_zero: float):
    """Divergence that falls to a quarter with each bit, in two documents."""
    return lambda weights: loss_at_zero * 4.0 ** -float(weights["bits"]) * np.array([0.25, 0.75])


def test_a_line_gives_the_size_at_a_divergence_and_the_divergence_at_a_size() -> None:
    line = draw_line(made, law(1.0), 3.0)
    assert line.coarse.size == 30_000 and line.divergences_D.tolist() == [0.25 / 64, 0.75 / 64]
    for bits in (2.5, 3.0, 3.3, 4.0):
        assert line.bytes_at(4.0**-bits) == pytest.approx(bits * NUM_WEIGHTS / 8, rel=1e-6)
        assert line.divergence_at(bits * NUM_WEIGHTS / 8) == pytest.approx(4.0**-bits, rel=1e-4)
    worse = draw_line(made, law(4.0), 3.0)
    assert worse.bytes_at(line.totals[0]) == pytest.approx(4.0 * NUM_WEIGHTS / 8, rel=1e-6)


def test_the_knob_is_turned_until_the_size_is_near() -> None:
    tried = []

    def encode(log2_step: float) -> Made:
        tried.append(log2_step)
        return made(2.2 - 0.93 * log2_step)

    make = with_knob(encode, NUM_WEIGHTS, 0.0)
    for bits in (3.4, 3.7):
        assert 8 * make(bits).size / NUM_WEIGHTS == pytest.approx(bits, abs=0.1)
    assert len(tried) == 3


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=128,
        num_layers=2,
        width=64,
        num_heads=4,
        mlp_hidden=128,
        context=32,
        rotary_dims=8,
        bigram_buckets=0,
    )
    model = GPT(config)
    model.initialize()
    tokens = torch.randint(0, 128, (4, 4, 33))
    calibration = calibrate(model, [(batch[:, :-1], batch[:, 1:]) for batch in tokens])
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    return weights, implied_layout(dataclasses.asdict(config)), calibration


def test_the_stack_has_the_error_of_its_step(tiny) -> None:
    weights, layout, calibration = tiny
    encode = stack_encoder("brotli", weights, layout, calibration)
    fine, coarse = encode(math.log2(0.1)), encode(math.log2(0.4))
    assert 1.5 < 8 * (fine.size - coarse.size) / sum(weight.numel() for weight in weights.values()) < 2.5
    errors = [
        float((each.weights["embedding.weight"] - weights["embedding.weight"]).square().mean().sqrt())
        for each in (fine, coarse)
    ]
    # Uniform in a step of 0.1 x 0.536 deviations, and what feedback adds to other columns.
    deviation = float(weights["embedding.weight"].std())
    assert 1.0 < errors[0] / (0.0536 * deviation / math.sqrt(12)) < 1.5
    assert errors[1] / errors[0] == pytest.approx(4.0, rel=0.15)


def test_an_interpreter_without_nncodec_is_named(tiny) -> None:
    encode = nncodec_encoder(Path(sys.executable), tiny[0], None)
    with pytest.raises(ValueError, match=r"NNCodec under .*: ModuleNotFoundError"):
        encode(-3.0)
