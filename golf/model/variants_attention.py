"""Attention with what studies put into it: distance biases, sink logits, a dense gate, modulation.

Shapes: B batch, T time (keys), L last positions (queries), H query heads, K key/value heads, E head width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def alibi_slopes(num_heads: int) -> list[float]:
    """Slope of each head, a geometric series from 2^(-8 / H) down (arXiv:2108.12409).

    A number of heads that is no power of two gets the series of the next lower power, then every second slope
    of the next higher one, as the paper's authors do.
    """
    power = 1 << (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (head + 1) / power) for head in range(power)]
    return slopes + [2.0 ** (-4.0 * (2 * head + 1) / power) for head in range(num_heads - power)]


class BiasedAttention(nn.Module):
    """Causal attention with a bias on its logits: ALiBi's -slope x distance, a learned sink logit, or both.

    A sink is a key that every query sees, with a logit of its own per head and a value of zero: a head can
    attend to nothing (arXiv:2309.17453; learned as logits in gpt-oss, arXiv:2508.10925). It starts at 0.
    """

    def __init__(self, num_heads: int, alibi: bool, sinks: bool):
        super().__init__()
        self.slopes = alibi_slopes(num_heads) if alibi else [0.0] * num_heads
        self.sinks = nn.Parameter(torch.zeros(num_heads)) if sinks else None

    def forward(self, q_BHLE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor) -> Tensor:
        """Outputs of the last L of T positions, (B, H, L, E)."""
        num_heads, group = q_BHLE.size(1), q_BHLE.size(1) // k_BKTE.size(1)
        bias_HLT = self._bias(num_heads, q_BHLE.size(2), k_BKTE.size(2), q_BHLE)
        # Repeated here, since no fused kernel takes both a bias and shared keys.
        k_BHTE, v_BHTE = (x_BKTE.repeat_interleave(group, dim=1) for x_BKTE in (k_BKTE, v_BKTE))
        if self.sinks is not None:
            k_BHTE, v_BHTE = (F.pad(x_BHTE, (0, 0, 1, 0)) for x_BHTE in (k_BHTE, v_BHTE))
            sinks_HL1 = self.sinks.to(bias_HLT.dtype)[:, None, None].expand(-1, q_BHLE.size(2), 1)
            bias_HLT = torch.cat((sinks_HL1, bias_HLT), dim=-1)
        return F.scaled_dot_product_attention(q_BHLE, k_BHTE, v_BHTE, attn_mask=bias_HLT[None])

    def _bias(self, num_heads: int, num_queries: int, num_keys: int, like: Tensor) -> Tensor:
        keys_T = torch.arange(num_keys, device=like.device)
        distance_LT = keys_T[num_keys - num_queries :, None] - keys_T[None, :]
        slopes_H = torch.tensor(self.slopes, device=like.device)
        bias_HLT = -slopes_H[:, None, None] * distance_LT
        return bias_HLT.masked_fill(distance_LT < 0, -math.inf).to(like.dtype)


def modulate(receptive: Tensor, context: Tensor) -> Tensor:
    """ReLU6(R^2 + 2R + 2C (1 + |R|)): what a unit makes of its input R in a context C (arXiv:2505.06257)."""
    return F.relu6(receptive.square() + 2 * receptive + 2 * context * (1 + receptive.abs()))


def modulate_triad(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of the same positions, each modulated by the sum of the other two.

    In the manner of Co4 (arXiv:2505.06257, arXiv:2510.08404), with a query per token in place of its few
    latent ones, which have no causal order. All three have one shape.
    """
    return modulate(q, k + v), modulate(k, q + v), modulate(v, q + k)
