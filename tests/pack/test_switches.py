"""Every switch of the network survives calibration, packing and the way back."""

from dataclasses import asdict, replace

import pytest
import torch
from model_switches import GPT2_LIKE, TINY, TOGETHER, VARIANTS

from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.pack.artifact import PackConfig, decode_artifact, pack
from golf.pack.calibrate import calibrate

GROUPS = (
    ("learned", "gain", "swiglu", "dense-gate", "no-softcap"),
    ("rotary+alibi", "sinks", "layer-norm", "xielu", "bare-queries"),
    ("modulated", "experts-unlike", "gelu", "plain", "no-positions"),
    ("alibi", "experts", "dense"),
)
"""Every variant is in one."""
CONFIGS = {
    "together": TOGETHER,
    "gpt2": GPT2_LIKE,
    **{
        " ".join(group): replace(TINY, **{k: v for name in group for k, v in VARIANTS[name].items()})
        for group in GROUPS
    },
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_network_with_any_switch_comes_back_from_its_artifact(config):
    torch.manual_seed(0)
    model = GPT(config)
    model.initialize()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    tokens = torch.randint(2, 64, (4, 25))
    calibration = calibrate(model, [(tokens[:, :-1], tokens[:, 1:])])
    header = {"model": asdict(config), "compute_dtype": "float32", "tokenizer_sha256": "0" * 64}
    artifact = pack(model.state_dict(), header, PackConfig("entropy"), 10**6, calibration).artifact
    stored, weights = decode_artifact(artifact)
    back = GPT(ModelConfig(**stored["model"]))
    back.load_state_dict(weights)
    with torch.no_grad():
        assert (back(tokens[:, :-1]) - model(tokens[:, :-1])).abs().max() < 0.5


def test_no_variant_is_left_out():
    assert {name for group in GROUPS for name in group} == set(VARIANTS)
