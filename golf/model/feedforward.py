"""Feed-forward sublayers.

Shapes: B batch, T time, D width, F hidden, X experts.
"""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.config import ModelConfig
from golf.model.layers import Linear
from golf.model.roles import SCALAR, parameter
from golf.model.state import NO_ADAPTERS, Adapter


class FeedForward(nn.Module):
    """width -> hidden -> width with the activation max(u, s u)^2 between, s = `activation_slope`.

    Source: relu(u)^2, s = 0, arXiv:2109.08668; with a slope openai/parameter-golf #549, swept in #1948.
    """

    def __init__(self, config: ModelConfig, hidden: int):
        super().__init__()
        self.slope = config.activation_slope
        self.up = Linear(config.width, hidden, adapter="up")
        self.down = Linear(hidden, config.width, init="output", adapter="down")

    def activation(self, u_BTF: Tensor) -> Tensor:
        """Elementwise; subclasses override it."""
        return F.leaky_relu(u_BTF, self.slope).square()

    def forward(self, x_BTD: Tensor, adapters: Mapping[str, Adapter] = NO_ADAPTERS) -> Tensor:
        """Maps (B, T, width) to (B, T, width)."""
        u_BTF = self.up(x_BTD, adapters.get("up"))
        return self.down(self.activation(u_BTF), adapters.get("down"))


class GELUFeedForward(FeedForward):
    """GELU in its tanh form, as in GPT-2 (arXiv:1606.08415)."""

    def activation(self, u_BTF: Tensor) -> Tensor:
        """Elementwise."""
        return F.gelu(u_BTF, approximate="tanh")


class SwiGLUFeedForward(FeedForward):
    """silu(G x) * (U x): three matrices, so 2/3 of the units at equal parameters (arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig, hidden: int):
        super().__init__(config, hidden)
        self.gate = Linear(config.width, hidden)

    def forward(self, x_BTD: Tensor, adapters: Mapping[str, Adapter] = NO_ADAPTERS) -> Tensor:
        """Maps (B, T, width) to (B, T, width)."""
        u_BTF = F.silu(self.gate(x_BTD)) * self.up(x_BTD, adapters.get("up"))
        return self.down(u_BTF, adapters.get("down"))


XIELU_SLOPE = 0.5
XIELU_START = 0.8


class XIELUFeedForward(FeedForward):
    """xIELU (arXiv:2411.13010): a u^2 + u/2 above 0, b (e^u - 1 - u) + u/2 below, a and b learned.

    a = softplus(positive) and b = 1/2 + softplus(negative); both start at 0.8.
    """

    def __init__(self, config: ModelConfig, hidden: int):
        super().__init__(config, hidden)
        # The inverse of softplus, log(e^x - 1).
        self.positive = parameter(torch.tensor(math.log(math.expm1(XIELU_START))), SCALAR)
        self.negative = parameter(torch.tensor(math.log(math.expm1(XIELU_START - XIELU_SLOPE))), SCALAR)

    def activation(self, u_BTF: Tensor) -> Tensor:
        """Elementwise."""
        above = F.softplus(self.positive).to(u_BTF.dtype)
        below = (XIELU_SLOPE + F.softplus(self.negative)).to(u_BTF.dtype)
        # expm1 of a large u is infinite, and its gradient NaN, although the other branch is taken.
        low_BTF = u_BTF.clamp_max(0.0)
        curved_BTF = torch.where(u_BTF > 0, above * u_BTF.square(), below * (torch.expm1(low_BTF) - low_BTF))
        return curved_BTF + XIELU_SLOPE * u_BTF


ACTIVE_EXPERTS = 2
"""Experts that each token is given."""


class Experts(nn.Module):
    """Mixture of experts: each token's ACTIVE_EXPERTS best experts, weighted by a softmax over their scores.

    All experts run on all tokens and the others' outputs are multiplied by 0: right for a study of what a
    mixture learns, no saving of time. There is no load-balancing loss. `kind` constructs an expert of
    (config, hidden units). Source: arXiv:1701.06538.
    """

    def __init__(self, config: ModelConfig, kind: Callable[[ModelConfig, int], nn.Module]):
        super().__init__()
        self.router = Linear(config.width, config.num_experts)
        sizes = expert_sizes(config.mlp_hidden, config.num_experts, config.heterogeneous_experts)
        self.experts = nn.ModuleList(kind(config, size) for size in sizes)

    def weights(self, x_BTD: Tensor) -> Tensor:
        """Weight of each expert, (B, T, X): ACTIVE_EXPERTS of them above 0, adding up to 1."""
        scores_BTX = self.router(x_BTD)
        least_BT1 = scores_BTX.topk(ACTIVE_EXPERTS, dim=-1).values[..., -1:]
        return scores_BTX.masked_fill(scores_BTX < least_BT1, -math.inf).softmax(-1)

    def forward(self, x_BTD: Tensor, adapters: Mapping[str, Adapter] = NO_ADAPTERS) -> Tensor:
        """Maps (B, T, width) to (B, T, width); experts have no adapters."""
        weights_BTX = self.weights(x_BTD)
        outputs = [expert(x_BTD) * weights_BTX[..., i, None] for i, expert in enumerate(self.experts)]
        return torch.stack(outputs).sum(0)


def expert_sizes(hidden: int, num_experts: int, heterogeneous: bool) -> list[int]:
    """Hidden units of each expert, adding up to `hidden`: equal, or as 1 : 2 : 3 ... (arXiv:2408.10681)."""
    weights = range(1, num_experts + 1) if heterogeneous else [1] * num_experts
    ends = [hidden * sum(weights[: i + 1]) // sum(weights) for i in range(num_experts)]
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
