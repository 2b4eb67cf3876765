"""Feed-forward variants against their formulas in float64, and what experts see."""

import math

import pytest
import torch

from golf.model.config import ModelConfig
from golf.model.feedforward import ACTIVE_EXPERTS, Experts, expert_sizes
from golf.model.kinds import build_feedforward


def random_sublayer(kind="relu2", num_experts=1, unlike=False, slope=0.0):
    torch.manual_seed(0)
    config = ModelConfig(
        width=8, num_heads=1, num_kv_heads=1, rotary_dims=2, mlp_hidden=24, feedforward=kind,
        activation_slope=slope, num_experts=num_experts, heterogeneous_experts=unlike,
    )  # fmt: skip
    sublayer = build_feedforward(config).double()
    for name, parameter in sublayer.named_parameters():
        if name.endswith("weight"):
            torch.nn.init.normal_(parameter)
    return sublayer


def xielu(u: torch.Tensor, a: float, b: float) -> torch.Tensor:
    return torch.where(u > 0, a * u**2 + u / 2, b * (torch.exp(u) - 1) - b * u + u / 2)


FORMULAS = {
    "relu2": lambda f, x: (x @ f.up.weight.T).relu() ** 2,
    "gelu": lambda f, x: torch.nn.functional.gelu(x @ f.up.weight.T, approximate="tanh"),
    "swiglu": lambda f, x: (g := x @ f.gate.weight.T) / (1 + torch.exp(-g)) * (x @ f.up.weight.T),
    "xielu": lambda f, x: xielu(x @ f.up.weight.T, 0.8, 0.8),
}


@pytest.mark.parametrize("kind", FORMULAS)
def test_each_activation_is_its_formula(kind):
    sublayer, x = random_sublayer(kind), torch.randn(2, 3, 8, dtype=torch.float64)
    expected = FORMULAS[kind](sublayer, x) @ sublayer.down.weight.T
    torch.testing.assert_close(sublayer(x), expected, atol=1e-6, rtol=1e-6)


def test_xielu_stays_finite_and_learns_both_of_its_numbers():
    sublayer = random_sublayer("xielu").float()
    x = torch.tensor([[[1e4] * 8, [-1e4] * 8, [0.0] * 8]])
    sublayer(x).sum().backward()
    for parameter in sublayer.parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any()
    with torch.no_grad():
        sublayer.positive.fill_(math.log(math.expm1(2.0)))
    x = torch.ones(1, 1, 8)
    u = x @ sublayer.up.weight.T
    torch.testing.assert_close(sublayer(x), xielu(u, 2.0, 0.8) @ sublayer.down.weight.T, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("unlike", [False, True])
def test_each_token_gets_its_two_likeliest_experts_alone(unlike):
    mixture, x = random_sublayer("gelu", 4, unlike), torch.randn(2, 5, 8, dtype=torch.float64)
    scores = x @ mixture.router.weight.T
    for b in range(2):
        for t in range(5):
            best = scores[b, t].argsort(descending=True)[:ACTIVE_EXPERTS]
            shares = scores[b, t, best].softmax(0)
            expected = sum(s * mixture.experts[e](x[b, t]) for s, e in zip(shares, best, strict=True))
            torch.testing.assert_close(mixture(x)[b, t], expected)


def test_experts_share_the_hidden_units_alike_or_in_rising_sizes():
    assert expert_sizes(24, 4, heterogeneous=False) == [6, 6, 6, 6]
    assert expert_sizes(30, 4, heterogeneous=True) == [3, 6, 9, 12]
    assert sum(expert_sizes(385, 7, heterogeneous=True)) == 385
    sizes = [expert.up.weight.size(0) for expert in random_sublayer("relu2", 3, True).experts]
    assert sizes == [4, 8, 12]
    assert isinstance(random_sublayer(num_experts=2), Experts)
