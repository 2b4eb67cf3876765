"""Layers that all parts of the network use: bias-free matrix, embedding, tied head, norms.

Shapes: B batch, T time, L last positions, D width, V vocabulary.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.roles import MATRIX, SCALAR, TABLE, Role, parameter
from golf.model.state import Adapter

GATE_INPUTS = 12
"""Channels of the stream that a learned gate reads."""


class Linear(nn.Module):
    """Bias-free linear map whose fp32 master weight is cast to its input's dtype at each use.

    `weight` has shape (out_features, in_features). `init` says how `GPT.initialize` draws it: orthogonal, as
    an output of a residual branch ("output"), or zero. `adapter` names it as a target of low-rank adapters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        init: Literal["orthogonal", "output", "zero"] = "orthogonal",
        adapter: str | None = None,
        role: Role = MATRIX,
    ):
        super().__init__()
        self.init, self.adapter = init, adapter
        self.weight = parameter(torch.empty(out_features, in_features), role)

    def forward(self, x: Tensor, adapter: Adapter | None = None) -> Tensor:
        """Maps (..., in_features) to (..., out_features)."""
        y = F.linear(x, self.weight.to(x.dtype))
        return y if adapter is None else adapter(x, y)


class Embedding(nn.Module):
    """A row of `weight`, shape (num_rows, width), for each token id.

    Not nn.Embedding, whose initialization on the meta device imports for seconds when an artifact is read.
    """

    def __init__(self, num_rows: int, width: int):
        super().__init__()
        self.weight = parameter(torch.empty(num_rows, width), TABLE)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Maps (B, T) to (B, T, width)."""
        return F.embedding(tokens_BT, self.weight)


class TiedHead(nn.Module):
    """Logits of all tokens by the rows of the embedding; a module, so that calibration can observe it."""

    def forward(self, x_BLD: Tensor, weight_VD: Tensor, adapter: Adapter | None = None) -> Tensor:
        """Maps (B, L, D) to (B, L, V), in the dtype of x."""
        logits_BLV = F.linear(x_BLD, weight_VD.to(x_BLD.dtype))
        return logits_BLV if adapter is None else adapter(x_BLD, logits_BLV)


def rms_norm(x: Tensor) -> Tensor:
    """Divides by the root mean square over the last dimension (arXiv:1910.07467), without a learned gain."""
    return F.rms_norm(x, (x.size(-1),))


class RMSNormGain(nn.Module):
    """RMS norm times a learned gain per channel, initially 1."""

    def __init__(self, width: int):
        super().__init__()
        self.gain = parameter(torch.ones(width), SCALAR)

    def forward(self, x: Tensor) -> Tensor:
        """Over the last dimension."""
        return rms_norm(x) * self.gain.to(x.dtype)


class LayerNorm(nn.Module):
    """LayerNorm (arXiv:1607.06450) with a learned gain and offset per channel."""

    def __init__(self, width: int):
        super().__init__()
        self.gain = parameter(torch.ones(width), SCALAR)
        self.offset = parameter(torch.zeros(width), SCALAR)

    def forward(self, x: Tensor) -> Tensor:
        """Over the last dimension."""
        return F.layer_norm(x, (x.size(-1),), self.gain.to(x.dtype), self.offset.to(x.dtype))
