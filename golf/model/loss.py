"""The one cross-entropy of the project.

Shapes: B batch, T time, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor


def token_nats(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Negative log probability of each target in nats, fp32, shape (B, T)."""
    logits_NV = logits_BTV.flatten(0, 1).float()
    return F.cross_entropy(logits_NV, targets_BT.flatten(), reduction="none").view_as(targets_BT)
