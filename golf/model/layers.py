"""The pieces that every part of the network uses: a bias-free matrix, an embedding, the head, the RMS norm.

Shapes: B batch, T time, L last positions, D width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GATE_INPUTS = 12
"""Channels of the stream that a learned gate reads."""


class Linear(nn.Module):
    """Bias-free linear map whose fp32 master weight is cast to its input's dtype at each use.

    `weight` has shape (out_features, in_features), so a row produces one output.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in_features) to (..., out_features)."""
        return F.linear(x, self.weight.to(x.dtype))


class Embedding(nn.Module):
    """A row of `weight`, shape (num_rows, width), for each token id.

    Not torch's own, whose initialisation on the meta device costs an artifact's reader seconds of imports.
    """

    def __init__(self, num_rows: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_rows, width))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Maps (B, T) to (B, T, width)."""
        return F.embedding(tokens_BT, self.weight)


class TiedHead(nn.Module):
    """Scores of all tokens by the rows of the embedding; a module, so that adapters have a place."""

    def forward(self, x_BLD: Tensor, weight_VD: Tensor) -> Tensor:
        """Maps (B, L, D) to (B, L, V), in the dtype of x."""
        return F.linear(x_BLD, weight_VD.to(x_BLD.dtype))


class Softcap(nn.Module):
    """cap * tanh(x / cap): keeps logits within the cap on either side; a cap of 0 leaves them as they are."""

    def __init__(self, cap: float):
        super().__init__()
        self.cap = cap

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return self.cap * torch.tanh(x / self.cap) if self.cap else x


def rms_norm(x: Tensor) -> Tensor:
    """Divides by the root mean square over the last dimension (arXiv:1910.07467), without a learned gain."""
    return F.rms_norm(x, (x.size(-1),))
