"""Softcap of the logits, and the project's only cross-entropy.

Shapes: B batch, T time, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def softcap(logits: Tensor, cap: float, log_caps_2: Tensor | None = None) -> Tensor:
    """cap * tanh(logits / cap), of any shape; a cap of 0 leaves logits as they are.

    With `log_caps_2` the cap is cap * exp(log_caps_2[0]) for positive and cap * exp(log_caps_2[1]) for other
    logits (openai/parameter-golf #1945).
    """
    if log_caps_2 is not None:
        caps_2 = cap * log_caps_2.exp()
        caps = torch.where(logits > 0, caps_2[0], caps_2[1])
        return caps * torch.tanh(logits / caps)
    return cap * torch.tanh(logits / cap) if cap else logits


def token_nats(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Negative log probability of each target in nats, fp32, shape (B, T)."""
    logits_NV = logits_BTV.flatten(0, 1).float()
    return F.cross_entropy(logits_NV, targets_BT.flatten(), reduction="none").view_as(targets_BT)
