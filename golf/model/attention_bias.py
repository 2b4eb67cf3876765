"""Biases on attention's logits: ALiBi and learned sinks.

Shapes: B batch, T time (keys), L last positions (queries), H query heads, K key/value heads, E head width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.config import ModelConfig
from golf.model.roles import SCALAR, parameter


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

    A sink is a key that every query sees, with a learned logit per head, initially 0, and a value of zero
    (arXiv:2309.17453; as logits in gpt-oss, arXiv:2508.10925).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        alibi = config.positions.endswith("alibi")
        self.slopes = alibi_slopes(config.num_heads) if alibi else [0.0] * config.num_heads
        self.sinks = parameter(torch.zeros(config.num_heads), SCALAR) if config.attention_sinks else None

    def forward(self, q_BHLE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor) -> Tensor:
        """Outputs of the last L of T positions, (B, H, L, E)."""
        num_heads, group = q_BHLE.size(1), q_BHLE.size(1) // k_BKTE.size(1)
        bias_HLT = self._bias(num_heads, q_BHLE.size(2), k_BKTE.size(2), q_BHLE)
        # Heads are repeated, since no fused kernel takes both a bias and shared keys.
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
