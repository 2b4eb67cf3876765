"""Dense connections against the paper's formula, written as a plain loop over blocks."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from model_switches import TINY

from golf.model.gpt import GPT
from golf.model.positions import rotary_tables
from golf.model.state import Positions, VisitState

DENSE = replace(TINY, num_layers=4, dense_connections=True)
LOOPED = replace(DENSE, recurrence_first=1, recurrence_last=2, recurrence=3)
TOKENS_BT = torch.randint(2, 64, (2, 24), generator=torch.Generator().manual_seed(1))


def make_model(config, spread: float = 0.3) -> GPT:
    torch.manual_seed(0)
    model = GPT(config)
    model.initialize()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += spread * torch.randn_like(parameter)
    return model


def run_blocks(model: GPT, order, mix) -> torch.Tensor:
    """The logits, with the blocks run in `order` and mix(layer, output) as what the next one reads."""
    config = model.config
    x = embedding = model.embed(TOKENS_BT)
    positions = Positions(*rotary_tables(24, config.rotary_dims, config.rotary_base, x.device))
    for visit, layer in enumerate(order):
        if layer == config.num_layers - config.parallel_residual_blocks:
            x = (x, x)
        x = model.blocks[layer](x, embedding, VisitState(visit, 24, positions))
        x = (mix(layer, x[0]), x[1]) if isinstance(x, tuple) else mix(layer, x)
    return model.read_out(model.norm(x))


@pytest.mark.parametrize(
    ("config", "order"),
    [(DENSE, (0, 1, 2, 3)), (LOOPED, (0, 1, 2, 1, 2, 1, 2, 3))],
    ids=["once", "looped"],
)
@pytest.mark.parametrize("lanes", [0, 1])
def test_the_stream_is_the_weighted_sum_of_all_earlier_outputs(config, order, lanes):
    model = make_model(replace(config, parallel_residual_blocks=lanes))
    latest = {-1: model.embed(TOKENS_BT)}

    def mix(layer: int, output: torch.Tensor) -> torch.Tensor:
        latest[layer] = output
        dense = model.dense[layer]
        normed = output / output.square().mean(-1, keepdim=True).add(torch.finfo(output.dtype).eps).sqrt()
        mixed = torch.zeros_like(output)
        for source, each in latest.items():
            read = F.gelu(normed @ dense.hidden.weight.T)
            dynamic = 0.02 * (read @ dense.dynamic[source + 1])
            mixed += (dense.static[source + 1] + dynamic[..., None] + (source == layer)) * each
        return mixed

    torch.testing.assert_close(model(TOKENS_BT), run_blocks(model, order, mix), atol=1e-5, rtol=0)


def test_the_network_starts_as_one_without_skips_and_embedding_mix():
    model = make_model(LOOPED, spread=0.0)
    plain = run_blocks(model, (0, 1, 2, 1, 2, 1, 2, 3), lambda layer, output: output)
    assert torch.equal(model(TOKENS_BT), plain)
    assert not {"skip_weights", "blocks.0.mix"} & set(model.state_dict())


def test_a_source_is_weighed_at_each_position_for_itself():
    model, x_BTD = make_model(DENSE), torch.randn(1, 6, 32)
    changed_BTD = x_BTD.clone()
    changed_BTD[:, 3] += 1.0
    embedding_BTD = torch.randn(1, 6, 32)
    found, moved = (model.dense[0](stream, [embedding_BTD]) for stream in (x_BTD, changed_BTD))
    assert (found != moved).any(-1)[0].tolist() == [False] * 3 + [True] + [False] * 2
