"""Causal attention with fewer key/value heads than query heads.

Shapes: B batch, T time, L last (graded) positions, D width, H query heads, K key/value heads, E head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.kernels import causal_attention
from golf.model.layers import GATE_INPUTS, Linear, rms_norm
from golf.model.positions import rotate
from golf.model.variants_attention import BiasedAttention, modulate_triad
from golf.model.varlen import DocumentAttention, Documents

Places = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Documents]
"""Rotary cosines and sines, and the documents of the batch where attention keeps them apart."""


def exclusive_self_attention(y_BLHE: Tensor, v_BLKE: Tensor) -> Tensor:
    """Each head's output less its part along the position's own value: y - (y . u) u, u = v / |v|.

    Source: exclusive self-attention, openai/parameter-golf #287.
    """
    y_BLKGE = y_BLHE.unflatten(2, (v_BLKE.size(2), -1))
    u_BLK1E = F.normalize(v_BLKE, dim=-1)[..., None, :]
    along_BLKG1 = (y_BLKGE * u_BLK1E).sum(-1, keepdim=True)
    return torch.addcmul(y_BLKGE, along_BLKG1, u_BLK1E, value=-1).flatten(2, 3)


class HeadGates(nn.Module):
    """A factor per head and position, sigmoid(scale * W x), read from the first GATE_INPUTS channels.

    W starts at zero, every factor at 1/2. Source: openai/parameter-golf #1787, its scale #1855.
    """

    def __init__(self, num_heads: int, scale: float):
        super().__init__()
        self.scale = scale
        self.gate = nn.Parameter(torch.zeros(num_heads, GATE_INPUTS))

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Shape (B, L, H)."""
        return torch.sigmoid(self.scale * F.linear(x_BLD[..., :GATE_INPUTS], self.gate.to(x_BLD.dtype)))


class Attention(nn.Module):
    """Grouped-query attention: normed queries and keys, partial rotary angles, a gain per query head.

    `exclusive` takes each position's own value out of its outputs; `gate_scale` other than 0 adds HeadGates,
    `dense_gate` a factor per output channel, sigmoid(W x) with W zero at the start (arXiv:2505.06708).
    Without `normed`, queries and keys have neither norm nor gain; `alibi` and `sinks` as BiasedAttention has
    them; `modulated` lets queries, keys and values modulate each other; `document_mask` keeps attention
    inside documents.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        num_kv_heads: int,
        qk_gain: float,
        exclusive: bool = False,
        gate_scale: float = 0.0,
        dense_gate: bool = False,
        normed: bool = True,
        alibi: bool = False,
        sinks: bool = False,
        modulated: bool = False,
        document_mask: bool = False,
    ):
        super().__init__()
        self.exclusive, self.modulated = exclusive, modulated
        self.head_width = width // num_heads
        self.query = Linear(width, width)
        self.key = Linear(width, num_kv_heads * self.head_width)
        self.value = Linear(width, num_kv_heads * self.head_width)
        self.output = Linear(width, width)
        self.qk_gain = nn.Parameter(torch.full((num_heads,), qk_gain)) if normed else None
        self.gates = HeadGates(num_heads, gate_scale) if gate_scale else None
        self.dense_gate = Linear(width, width) if dense_gate else None
        self.biased = BiasedAttention(num_heads, alibi, sinks) if alibi or sinks else None
        self.apart = DocumentAttention() if document_mask else None

    def forward(self, x_BTD: Tensor, rotary: Places, num_last: int) -> Tensor:
        """Output of the last `num_last` positions, shape (B, num_last, D)."""
        cos_TR, sin_TR, *documents = rotary
        x_BLD = x_BTD[:, -num_last:]
        q_BLHE = self._heads(self.query, x_BTD if self.modulated else x_BLD)
        k_BTKE = self._heads(self.key, x_BTD)
        v_BTKE = self._heads(self.value, x_BTD)
        if self.modulated:
            q_BLHE, k_BTKE, v_BTKE = modulate_triad(q_BLHE, k_BTKE, v_BTKE)
            q_BLHE = q_BLHE[:, -num_last:]
        if self.qk_gain is not None:
            # Expanded before it meets E, so that the gain's gradient is a sum over E, which the kernel of the
            # norm's gradient has at hand, and then one over the small (B, L, H).
            gain_BLH1 = self.qk_gain.to(q_BLHE.dtype).expand(q_BLHE.shape[:-1])[..., None]
            q_BLHE, k_BTKE = rms_norm(q_BLHE) * gain_BLH1, rms_norm(k_BTKE)
        q_BLHE = rotate(q_BLHE, cos_TR[-num_last:], sin_TR[-num_last:])
        k_BTKE = rotate(k_BTKE, cos_TR, sin_TR)
        heads = q_BLHE.transpose(1, 2), k_BTKE.transpose(1, 2), v_BTKE.transpose(1, 2)
        if self.apart is not None and documents:
            y_BHLE = self.apart(*heads, documents[0])
        else:
            y_BHLE = (causal_attention if self.biased is None else self.biased)(*heads)
        y_BLHE = y_BHLE.transpose(1, 2)
        if self.exclusive:
            y_BLHE = exclusive_self_attention(y_BLHE, v_BTKE[:, -num_last:])
        if self.gates is not None:
            y_BLHE = y_BLHE * self.gates(x_BLD)[..., None]
        y_BLD = y_BLHE.flatten(2)
        if self.dense_gate is not None:
            y_BLD = y_BLD * torch.sigmoid(self.dense_gate(x_BLD))
        return self.output(y_BLD)

    def _heads(self, projection: Linear, x_BTD: Tensor) -> Tensor:
        return projection(x_BTD).unflatten(-1, (-1, self.head_width))
