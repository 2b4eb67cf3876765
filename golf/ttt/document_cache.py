"""Past positions of documents for the forward pass, kept from chunk to chunk instead of recomputed.

Shapes: B documents, T tokens of a window, L targets of a chunk, P places of the past, K positions
of a chunk that are kept, D width.
"""

import math

import numpy as np
import torch
from torch import Tensor

from golf.model.gpt import GPT
from golf.model.positions import rotary_tables
from golf.model.state import Past, Positions


class PastInputs(Past):
    """The inputs of every visit's attention at the positions before a chunk.

    As the past of a forward pass over a window, it computes the window's last chunk alone: keys and values of
    the positions before come from the kept inputs, through the matrices as they are now. Inputs are kept as
    the model, adapted as it was then, computed them, without gradient; beyond the first window they depend on
    tokens before the window (as in arXiv:1901.02860).
    """

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._next: list[Tensor] = []

    def window(self, num_documents: int, num_past: int, num_new: int) -> "PastInputs":
        """This past, for the first `num_documents` documents: `num_past` kept and `num_new` new positions."""
        self._num_documents, self._num_past, self.num_new = num_documents, num_past, num_new
        self._next = []
        return self

    def inputs(self, visit: int, x_BLD: Tensor) -> Tensor:
        """The new inputs behind the kept ones; both are kept for the next window."""
        if self._num_past:
            kept_BTD = self._kept[visit][: self._num_documents]
            x_BLD = torch.cat((kept_BTD[:, kept_BTD.size(1) - self._num_past :], x_BLD), 1)
        self._next.append(x_BLD.detach())
        return x_BLD

    def keep(self) -> None:
        """Makes the last window's inputs the past of the next; without a call they are dropped."""
        self._kept = self._next

    def put_back(self, rows: list[int], other: "PastInputs") -> None:
        """Takes the past of documents `rows` from `other`, which holds those documents only."""
        for mine_BTD, others_BTD in zip(self._kept, other._kept, strict=True):
            mine_BTD[rows] = others_BTD[:, -mine_BTD.size(1) :]


class FixedPast(Past):
    """The same inputs in tensors of fixed addresses, in windows of few lengths, padded with empty places.

    Position t is in place t mod P, so that a chunk overwrites the oldest ones and nothing moves. While the
    past has fewer than P positions the places after them are empty, and masked. Attention gets every place's
    position in its window and does not depend on their order. A window holds one document, so the document
    mask changes nothing.
    """

    def __init__(self, model: GPT, num_documents: int, max_past: int):
        config, weight = model.config, model.embedding.weight
        self.dtype = model.compute_dtype
        self._rings = [
            torch.zeros(num_documents, max_past, config.width, dtype=self.dtype, device=weight.device)
            for _ in model.plan
        ]
        rotary_dims = config.rotary_dims if config.positions.startswith("rotary") else 0
        length = config.context + max_past
        self._tables = rotary_tables(length, rotary_dims, config.rotary_base, weight.device)

    def clear(self) -> None:
        """Forgets the documents. Zeros: masked values must be finite."""
        for ring_BPD in self._rings:
            ring_BPD.zero_()

    def window(
        self, num_documents: int, num_past: int, num_new: int, positions_T: Tensor, places_K: Tensor
    ) -> "FixedPast":
        """This past, for the first documents: the first `num_past` places and `num_new` new positions.

        `positions_T` (num_past + num_new) are the places' positions in the window, -1 if empty; `places_K`
        are those that the chunk's last K positions take once they were read.
        """
        self._num_documents, self._num_past, self.num_new = num_documents, num_past, num_new
        self._places_K = places_K
        cos_TR, sin_TR = (table[positions_T.clamp(min=0)] for table in self._tables)
        mask_LT = None
        if num_past:
            visible_LT = (positions_T >= 0) & (positions_T <= positions_T[num_past:, None])
            mask_LT = torch.zeros(visible_LT.shape, dtype=self.dtype, device=visible_LT.device)
            mask_LT = mask_LT.masked_fill(~visible_LT, -math.inf)
        self._positions = Positions(cos_TR, sin_TR, None if mask_LT is None else mask_LT[None, None])
        return self

    def positions(self) -> Positions:
        """Those that `window` was given."""
        return self._positions

    def inputs(self, visit: int, x_BLD: Tensor) -> Tensor:
        """The new inputs behind the kept ones; the last of the new ones are written into their places."""
        ring_BPD = self._rings[visit][: self._num_documents]
        x_BTD = torch.cat((ring_BPD[:, : self._num_past], x_BLD), 1) if self._num_past else x_BLD
        num_kept = len(self._places_K)
        if num_kept:
            ring_BPD.index_copy_(1, self._places_K, x_BLD.detach()[:, -num_kept:])
        return x_BTD

    def unroll(self, end: int, num_past: int, rows: int) -> PastInputs:
        """The past of the first `rows` documents in the order of time: `num_past` positions up to `end`."""
        past = PastInputs()
        order = np.arange(max(0, end - num_past), end) % max(1, num_past)
        past._kept = [ring_BPD[:rows, order] for ring_BPD in self._rings]
        return past


def can_be_fixed(model: GPT) -> bool:
    """Whether FixedPast works for the network: nothing may depend on the place that a position has."""
    config = model.config
    return config.positions in ("rotary", "none") and config.num_experts == 1 and not config.attention_sinks


def window_lengths(context: int) -> tuple[int, ...]:
    """The lengths that windows of FixedPast have, by eighths of the context, in eights of tokens."""
    step = 8 * -(-context // 64)
    return (*range(step, context, step), context)
