"""What enters the network besides the token's embedding: the hashed bigram, the smeared previous token.

Neither sees across a document's start: at a BOS token, and at the first position of a window, there is no
previous token. Shapes: B batch, T time, D width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.layers import GATE_INPUTS, Linear

SmearKind = Literal["blend", "add", "off"]


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

    def __init__(self, num_buckets: int, bigram_width: int, width: int, bos_id: int):
        super().__init__()
        self.bos_id = bos_id
        self.table = nn.Parameter(torch.zeros(num_buckets, bigram_width))
        self.projection = Linear(bigram_width, width)
        self.scale = nn.Parameter(torch.tensor(0.05))

    def forward(self, inputs_BT: Tensor) -> Tensor:
        """Shape (B, T, D)."""
        buckets_BT = bigram_buckets(inputs_BT, self.table.size(0), self.bos_id)
        return self.projection(F.embedding(buckets_BT, self.table)) * self.scale


class SmearGate(nn.Module):
    """Blends each position with the one before: (1 - g) x_t + g x_{t-1}, g = sigmoid(gate) per channel.

    Source: openai/parameter-golf #65; masked at BOS as #1851 showed to be needed.
    """

    def __init__(self, width: int, bos_id: int):
        super().__init__()
        self.bos_id = bos_id
        self.gate = nn.Parameter(torch.zeros(width))

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

    def __init__(self, bos_id: int):
        super().__init__()
        self.bos_id = bos_id
        self.gate = nn.Parameter(torch.zeros(GATE_INPUTS))
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x_BTD: Tensor, inputs_BT: Tensor) -> Tensor:
        """Shape (B, T, D); unchanged where there is no previous token."""
        dtype = x_BTD.dtype
        previous_BTD = F.pad(x_BTD[:, :-1], (0, 0, 1, 0))
        open_BT = torch.sigmoid(x_BTD[..., :GATE_INPUTS] @ self.gate.to(dtype))
        share_BT = self.strength.to(dtype) * open_BT * has_previous(inputs_BT, self.bos_id)
        return torch.addcmul(x_BTD, share_BT[..., None], previous_BTD)


def build_bigram(num_buckets: int, bigram_width: int, width: int, bos_id: int) -> BigramHash | None:
    """The hashed bigram; None without buckets."""
    return BigramHash(num_buckets, bigram_width, width, bos_id) if num_buckets else None


def build_smear(kind: SmearKind, width: int, bos_id: int) -> SmearGate | SmearAdd | None:
    """The embedding's view of the previous position."""
    if kind == "off":
        return None
    return SmearGate(width, bos_id) if kind == "blend" else SmearAdd(bos_id)
