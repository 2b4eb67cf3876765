"""Feed-forward sublayers that studies compare: GELU, SwiGLU, xIELU, and mixtures of experts.

Shapes: B batch, T time, D width, F hidden, X experts.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.feedforward import FeedForward
from golf.model.layers import Linear

FeedForwardKind = Literal["relu2", "gelu", "swiglu", "xielu"]
"""Activations; `relu2` is max(u, slope u)^2."""
ACTIVE_EXPERTS = 2
"""Experts that each token is given."""
MAX_EXPERTS = 64
"""It bounds the work that an artifact can ask for."""
XIELU_SLOPE = 0.5
XIELU_START = 0.8


class GeluFeedForward(FeedForward):
    """GELU in its tanh form, as GPT-2 has it (arXiv:1606.08415)."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Maps (B, T, width) to (B, T, width)."""
        return self.down(F.gelu(self.up(x_BTD), approximate="tanh"))


class SwigluFeedForward(FeedForward):
    """silu(G x) * (U x): three matrices, so 2/3 of the units at equal parameters (arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int):
        super().__init__(width, hidden)
        self.gate = Linear(width, hidden)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Maps (B, T, width) to (B, T, width)."""
        return self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))


def softplus_inverse(value: float) -> float:
    """The x with log(1 + e^x) = value."""
    return math.log(math.expm1(value))


class XieluFeedForward(FeedForward):
    """xIELU (arXiv:2411.13010): a u^2 + u/2 above 0, b (e^u - 1 - u) + u/2 below, a and b learned.

    a = softplus(positive) and b = 1/2 + softplus(negative); both start at 0.8.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__(width, hidden)
        self.positive = nn.Parameter(torch.tensor(softplus_inverse(XIELU_START)))
        self.negative = nn.Parameter(torch.tensor(softplus_inverse(XIELU_START - XIELU_SLOPE)))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Maps (B, T, width) to (B, T, width)."""
        u_BTF = self.up(x_BTD)
        above = F.softplus(self.positive).to(u_BTF.dtype)
        below = (XIELU_SLOPE + F.softplus(self.negative)).to(u_BTF.dtype)
        # expm1 of a large u is infinite, and its gradient not a number, though the other branch is taken.
        low_BTF = u_BTF.clamp_max(0.0)
        curved_BTF = torch.where(u_BTF > 0, above * u_BTF.square(), below * (torch.expm1(low_BTF) - low_BTF))
        return self.down(curved_BTF + XIELU_SLOPE * u_BTF)


class Experts(nn.Module):
    """A mixture: each token's ACTIVE_EXPERTS likeliest experts, weighted by a softmax over their scores.

    All experts run on all tokens and the others' outputs count for nothing: right for a study of what a
    mixture learns, no saving of time. There is no loss that balances the load. Source: arXiv:1701.06538.
    """

    def __init__(self, width: int, experts: list[nn.Module]):
        super().__init__()
        self.router = Linear(width, len(experts))
        self.experts = nn.ModuleList(experts)

    def shares(self, x_BTD: Tensor) -> Tensor:
        """Weight of each expert, (B, T, X): ACTIVE_EXPERTS of them above 0, adding up to 1."""
        scores_BTX = self.router(x_BTD)
        least_BT1 = scores_BTX.topk(ACTIVE_EXPERTS, dim=-1).values[..., -1:]
        return scores_BTX.masked_fill(scores_BTX < least_BT1, -math.inf).softmax(-1)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Maps (B, T, width) to (B, T, width)."""
        shares_BTX = self.shares(x_BTD)
        outputs = [expert(x_BTD) * shares_BTX[..., i, None] for i, expert in enumerate(self.experts)]
        return torch.stack(outputs).sum(0)


def expert_sizes(hidden: int, num_experts: int, unlike: bool) -> list[int]:
    """Hidden units of each expert, adding up to `hidden`: alike, or as 1 : 2 : 3 ... (arXiv:2408.10681)."""
    weights = range(1, num_experts + 1) if unlike else [1] * num_experts
    ends = [hidden * sum(weights[: i + 1]) // sum(weights) for i in range(num_experts)]
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def build_feedforward(
    width: int, hidden: int, kind: FeedForwardKind, slope: float, num_experts: int, unlike: bool
) -> nn.Module:
    """A sublayer of `hidden` units in all; several experts share them."""
    if num_experts > 1:
        sizes = expert_sizes(hidden, num_experts, unlike)
        return Experts(width, [build_feedforward(width, size, kind, slope, 1, False) for size in sizes])
    if kind == "relu2":
        return FeedForward(width, hidden, slope)
    kinds = {"gelu": GeluFeedForward, "swiglu": SwigluFeedForward, "xielu": XieluFeedForward}
    return kinds[kind](width, hidden)
