"""Additions to the token embedding: hashed bigrams, and smears of the previous token.

Neither reads across a document's start: at a BOS token, and at the first position of a window, there is no
previous token. Shapes: B batch, T time, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.config import ModelConfig
from golf.model.layers import GATE_INPUTS, Linear
from golf.model.roles import PROJECTION, SCALAR, TABLE, parameter


def has_previous(inputs_BT: Tensor, bos_id: int) -> Tensor:
    """True where the position before belongs to the same document; boolean, shape (B, T)."""
    return F.pad(inputs_BT[:, 1:] != bos_id, (1, 0), value=False)


def bigram_buckets(inputs_BT: Tensor, num_buckets: int, bos_id: int) -> Tensor:
    """Hash of (token, previous token) to [0, num_buckets); bucket 0 where there is no previous token.

    Source: the bigram hash of openai/parameter-golf #162, with the constants of #334.
    """
    previous_BT = F.pad(inputs_BT[:, :-1], (1, 0))
    hashed_BT = (36313 * inputs_BT + 27191 * previous_BT) % num_buckets
    return torch.where(has_previous(inputs_BT, bos_id), hashed_BT, 0)


class BigramHash(nn.Module):
    """A small embedding of the hashed token pair, projected to the width (openai/parameter-golf #162)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.bos_id = config.bos_id
        self.table = parameter(torch.zeros(config.bigram_buckets, config.bigram_width), TABLE)
        self.projection = Linear(config.bigram_width, config.width, role=PROJECTION)
        self.scale = parameter(torch.tensor(0.05), SCALAR)

    def forward(self, inputs_BT: Tensor) -> Tensor:
        """Shape (B, T, D)."""
        buckets_BT = bigram_buckets(inputs_BT, self.table.size(0), self.bos_id)
        return self.projection(F.embedding(buckets_BT, self.table)) * self.scale


class SmearGate(nn.Module):
    """Blends each position with the one before: (1 - g) x_t + g x_{t-1}, g = sigmoid(gate) per channel.

    Source: openai/parameter-golf #65; masked at BOS as #1851 showed to be needed.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.bos_id = config.bos_id
        self.gate = parameter(torch.zeros(config.width), SCALAR)

    def forward(self, x_BTD: Tensor, inputs_BT: Tensor) -> Tensor:
        """Shape (B, T, D); unchanged where there is no previous token."""
        previous_BTD = F.pad(x_BTD[:, :-1], (0, 0, 1, 0))
        share_BTD = torch.sigmoid(self.gate) * has_previous(inputs_BT, self.bos_id)[..., None]
        return x_BTD + share_BTD.to(x_BTD.dtype) * (previous_BTD - x_BTD)


class SmearAdd(nn.Module):
    """Adds the position before: x_t + strength * sigmoid(w . x_t) x_{t-1}.

    w reads the first GATE_INPUTS channels; it and `strength` start at zero. Source: the second SmearGate,
    openai/parameter-golf #1667, masked at BOS.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.bos_id = config.bos_id
        self.gate = parameter(torch.zeros(GATE_INPUTS), SCALAR)
        self.strength = parameter(torch.zeros(()), SCALAR)

    def forward(self, x_BTD: Tensor, inputs_BT: Tensor) -> Tensor:
        """Shape (B, T, D); unchanged where there is no previous token."""
        dtype = x_BTD.dtype
        previous_BTD = F.pad(x_BTD[:, :-1], (0, 0, 1, 0))
        open_BT = torch.sigmoid(x_BTD[..., :GATE_INPUTS] @ self.gate.to(dtype))
        share_BT = self.strength.to(dtype) * open_BT * has_previous(inputs_BT, self.bos_id)
        return torch.addcmul(x_BTD, share_BT[..., None], previous_BTD)
