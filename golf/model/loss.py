"""The one cross-entropy of the project.

Shapes: B batch, T time, V vocabulary, N = B x T.
"""

from torch import Tensor

from golf.kernels.softcap_loss import capped_nats


def token_nats(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Negative log probability of each target in nats, fp32, shape (B, T)."""
    return capped_nats(logits_BTV.flatten(0, 1), targets_BT.flatten(), cap=0.0).view_as(targets_BT)
