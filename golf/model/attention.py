"""Causal attention with fewer key/value heads than query heads.

Shapes: B batch, T keys, L last positions (queries), D width, H query heads, K key/value heads, G query heads
of a key/value head, E head width.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.config import ModelConfig
from golf.model.document_mask import VarlenKernel
from golf.model.kernels import causal_attention, masked_attention, repeat_heads
from golf.model.layers import GATE_INPUTS, Linear, rms_norm
from golf.model.positions import rotate
from golf.model.roles import SCALAR, parameter
from golf.model.state import Adapter, VisitState


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
        has_alibi = config.positions in ("alibi", "rotary+alibi")
        self.slopes = alibi_slopes(config.num_heads) if has_alibi else [0.0] * config.num_heads
        self.sinks = parameter(torch.zeros(config.num_heads), SCALAR) if config.attention_sinks else None

    def forward(self, q_BHLE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor) -> Tensor:
        """Outputs of the last L of T positions, (B, H, L, E)."""
        num_queries, num_keys = q_BHLE.size(2), k_BKTE.size(2)
        keys_T = torch.arange(num_keys, device=q_BHLE.device)
        distance_LT = keys_T[num_keys - num_queries :, None] - keys_T[None, :]
        bias_HLT = -torch.tensor(self.slopes, device=q_BHLE.device)[:, None, None] * distance_LT
        bias_HLT = bias_HLT.masked_fill(distance_LT < 0, -math.inf).to(q_BHLE.dtype)
        # Heads are repeated, since no fused kernel takes both a bias and shared keys.
        k_BHTE, v_BHTE = repeat_heads(q_BHLE, k_BKTE, v_BKTE)
        if self.sinks is not None:
            k_BHTE, v_BHTE = (F.pad(x_BHTE, (0, 0, 1, 0)) for x_BHTE in (k_BHTE, v_BHTE))
            sinks_HL1 = self.sinks.to(bias_HLT.dtype)[:, None, None].expand(-1, num_queries, 1)
            bias_HLT = torch.cat((sinks_HL1, bias_HLT), dim=-1)
        return F.scaled_dot_product_attention(q_BHLE, k_BHTE, v_BHTE, attn_mask=bias_HLT[None])


def exclusive_self_attention(y_BLHE: Tensor, v_BLKE: Tensor) -> Tensor:
    """Removes from each head's output its component along the position's own value (XSA).

    y - (y . u) u with u = v / |v|. Source: openai/parameter-golf #287.
    """
    y_BLKGE = y_BLHE.unflatten(2, (v_BLKE.size(2), -1))
    u_BLK1E = F.normalize(v_BLKE, dim=-1)[..., None, :]
    along_BLKG1 = (y_BLKGE * u_BLK1E).sum(-1, keepdim=True)
    return torch.addcmul(y_BLKGE, along_BLKG1, u_BLK1E, value=-1).flatten(2, 3)


class HeadGates(nn.Module):
    """A factor per head and position, sigmoid(scale * W x), W reading the first GATE_INPUTS channels.

    W starts at zero, every factor at 1/2. Source: openai/parameter-golf #1787, its scale #1855.
    """

    def __init__(self, num_heads: int, scale: float):
        super().__init__()
        self.scale = scale
        self.gate = parameter(torch.zeros(num_heads, GATE_INPUTS), SCALAR)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Shape (B, L, H)."""
        return torch.sigmoid(self.scale * F.linear(x_BLD[..., :GATE_INPUTS], self.gate.to(x_BLD.dtype)))


class Attention(nn.Module):
    """Grouped-query attention with RMS-normed queries and keys, partial RoPE, and a gain per query head.

    The switches of `ModelConfig` add exclusive self-attention, gates, sinks, ALiBi and a document mask.
    `kernel` computes attention where L = T; `golf.model.kernels.attention_kernels` exchanges it.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.kernel = causal_attention
        width, self.head_width = config.width, config.width // config.num_heads
        self.query = Linear(width, width, adapter="query")
        self.key = Linear(width, config.num_kv_heads * self.head_width, adapter="key")
        self.value = Linear(width, config.num_kv_heads * self.head_width, adapter="value")
        self.output = Linear(width, width, init="output", adapter="output")
        if config.qk_norm:
            self.qk_gain = parameter(torch.full((config.num_heads,), config.qk_gain), SCALAR)
        if config.attention_gate:
            self.gates = HeadGates(config.num_heads, config.attention_gate)
        if config.attention_gate_dense:
            self.dense_gate = Linear(width, width, init="zero")
        if config.attention_sinks or config.positions in ("alibi", "rotary+alibi"):
            self.biased = BiasedAttention(config)
        if config.document_mask:
            self.varlen = VarlenKernel()

    def forward(self, x_BLD: Tensor, state: VisitState) -> Tensor:
        """Output of the last `state.num_last` positions, shape (B, num_last, D)."""
        config, num_last, adapters = self.config, state.num_last, state.adapters
        x_BTD = x_BLD if state.past is None else state.past.inputs(state.visit, x_BLD)
        x_BLD = x_BTD[:, -num_last:]
        q_BLHE, k_BTKE, v_BTKE = self.project(x_BTD, x_BLD, adapters)
        if config.qk_norm:
            # Expanded before it meets E: the gain's gradient is then a sum over E inside the kernel of the
            # norm's gradient, and a sum over the small (B, L, H) behind it.
            gain_BLH1 = self.qk_gain.to(q_BLHE.dtype).expand(q_BLHE.shape[:-1])[..., None]
            q_BLHE, k_BTKE = rms_norm(q_BLHE) * gain_BLH1, rms_norm(k_BTKE)
        if state.past is not None:
            k_BTKE, v_BTKE = state.past.keys_values(state.visit, k_BTKE, v_BTKE)
        cos_TR, sin_TR, visible, bounds_S = state.positions
        q_BLHE = rotate(q_BLHE, cos_TR[-num_last:], sin_TR[-num_last:])
        k_BTKE = rotate(k_BTKE, cos_TR, sin_TR)
        heads = q_BLHE.transpose(1, 2), k_BTKE.transpose(1, 2), v_BTKE.transpose(1, 2)
        if config.document_mask and bounds_S is not None and num_last == k_BTKE.size(1):
            y_BHLE = self.varlen(*heads, bounds_S)
        elif visible is not None:
            y_BHLE = masked_attention(*heads, visible[:, :, -num_last:])
        elif config.attention_sinks or config.positions in ("alibi", "rotary+alibi"):
            y_BHLE = self.biased(*heads)
        else:
            y_BHLE = self.kernel(*heads)
        y_BLHE = y_BHLE.transpose(1, 2)
        if config.xsa:
            y_BLHE = exclusive_self_attention(y_BLHE, v_BTKE[:, -num_last:])
        if config.attention_gate:
            y_BLHE = y_BLHE * self.gates(x_BLD)[..., None]
        y_BLD = y_BLHE.flatten(2)
        if config.attention_gate_dense:
            y_BLD = y_BLD * torch.sigmoid(self.dense_gate(x_BLD))
        return self.output(y_BLD, adapters.get("output"))

    def project(
        self, x_BTD: Tensor, x_BLD: Tensor, adapters: Mapping[str, Adapter]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, L, H, E) of the last positions `x_BLD`, keys and values (B, T, K, E) of all."""
        shape = (-1, self.head_width)
        return (
            self.query(x_BLD, adapters.get("query")).unflatten(-1, shape),
            self.key(x_BTD, adapters.get("key")).unflatten(-1, shape),
            self.value(x_BTD, adapters.get("value")).unflatten(-1, shape),
        )


class ModulatedAttention(Attention):
    """Attention whose queries, keys and values are each modulated by the sum of the other two.

    In the manner of Co4 (arXiv:2505.06257, arXiv:2510.08404), with a query per token in place of its few
    latent ones, which have no causal order. All three have one shape: ValueError unless K = H.
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        if config.num_kv_heads != config.num_heads:
            raise ValueError(f"num_kv_heads is {config.num_kv_heads}; attention co4 takes num_heads")

    def project(
        self, x_BTD: Tensor, x_BLD: Tensor, adapters: Mapping[str, Adapter]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As in Attention, with the queries of all positions, since keys and values depend on them."""
        q_BTHE, k_BTHE, v_BTHE = super().project(x_BTD, x_BTD, adapters)
        q_BLHE = modulate(q_BTHE, k_BTHE + v_BTHE)[:, -x_BLD.size(1) :]
        return q_BLHE, modulate(k_BTHE, q_BTHE + v_BTHE), modulate(v_BTHE, q_BTHE + k_BTHE)


def modulate(receptive: Tensor, context: Tensor) -> Tensor:
    """ReLU6(R^2 + 2R + 2C (1 + |R|)) of an input R and a context C (arXiv:2505.06257)."""
    return F.relu6(receptive.square() + 2 * receptive + 2 * context * (1 + receptive.abs()))
