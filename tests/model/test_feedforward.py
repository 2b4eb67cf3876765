"""The feed-forward's activation and its derivative against their formulas."""

from dataclasses import replace

import pytest
import torch

from golf.model.config import ModelConfig
from golf.model.feedforward import FeedForward


@pytest.mark.parametrize("slope", [0.0, 0.3, 0.5])
def test_the_activation_is_the_square_of_a_leaky_relu(slope):
    torch.manual_seed(0)
    layer = FeedForward(
        replace(ModelConfig(), width=8, num_heads=1, num_kv_heads=1, rotary_dims=2, activation_slope=slope),
        16,
    ).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    u = x @ layer.up.weight.T
    active = torch.maximum(u, slope * u)
    output = layer(x)
    torch.testing.assert_close(output, active.square() @ layer.down.weight.T)
    (gradient,) = torch.autograd.grad(output.sum(), x)
    by_hidden = layer.down.weight.sum(0) * 2 * active * (slope + (1 - slope) * (u > 0).double())
    torch.testing.assert_close(gradient, by_hidden @ layer.up.weight)
