"""The norms that a network can be built with.

Shapes: D width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.layers import rms_norm

NormKind = Literal["rms", "rms-gain", "layer"]
"""RMS norm without and with a learned gain (arXiv:1910.07467), and LayerNorm (arXiv:1607.06450)."""


class PlainNorm(nn.Module):
    """The RMS norm without weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Over the last dimension."""
        return rms_norm(x)


class GainNorm(nn.Module):
    """The RMS norm times a learned gain per channel, which starts at 1."""

    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Over the last dimension."""
        return rms_norm(x) * self.gain.to(x.dtype)


class CentredNorm(nn.Module):
    """LayerNorm: less the mean, divided by the deviation, with a learned gain and offset per channel."""

    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.offset = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Over the last dimension."""
        return F.layer_norm(x, (x.size(-1),), self.gain.to(x.dtype), self.offset.to(x.dtype))


def build_norm(kind: NormKind, width: int) -> nn.Module:
    """A norm of that kind for `width` channels."""
    if kind == "rms":
        return PlainNorm()
    return GainNorm(width) if kind == "rms-gain" else CentredNorm(width)
