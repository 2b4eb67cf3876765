"""Additions to the token embedding: hashed n-grams, and smears of the previous token.

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


HASH_FACTORS = (36313, 27191, 51647, 43787, 61843)
"""Of a token, the one before it, the one before that, and so on."""


def ngram_buckets(inputs_BT: Tensor, order: int, num_buckets: int, bos_id: int) -> Tensor:
    """Hash of a token and the order - 1 before it to [0, num_buckets); bucket 0 where the document has fewer.

    Source: the bigram hash of openai/parameter-golf #162, with the constants of #334 for two tokens.
    """
    hashed_BT = HASH_FACTORS[0] * inputs_BT
    has_previous_BT = is_whole_BT = has_previous(inputs_BT, bos_id)
    for distance in range(1, order):
        if distance > 1:
            # The n-gram lies in the document if the shorter one that ends a token earlier does.
            is_whole_BT = has_previous_BT & F.pad(is_whole_BT, (1, 0))[:, :-1]
        hashed_BT = hashed_BT + HASH_FACTORS[distance] * F.pad(inputs_BT, (distance, 0))[:, :-distance]
    return torch.where(is_whole_BT, hashed_BT % num_buckets, 0)


class NgramHash(nn.Module):
    """A small embedding of the hashed n-gram that ends here, projected to the width.

    `order` is its number of tokens, 2 to len(HASH_FACTORS). Source: openai/parameter-golf #162, for pairs.
    """

    def __init__(self, config: ModelConfig, order: int, num_buckets: int):
        super().__init__()
        self.order, self.bos_id = order, config.bos_id
        self.table = parameter(torch.zeros(num_buckets, config.bigram_width), TABLE)
        self.projection = Linear(config.bigram_width, config.width, role=PROJECTION)
        self.scale = parameter(torch.tensor(0.05), SCALAR)

    def forward(self, inputs_BT: Tensor) -> Tensor:
        """Shape (B, T, D)."""
        buckets_BT = ngram_buckets(inputs_BT, self.order, self.table.size(0), self.bos_id)
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
