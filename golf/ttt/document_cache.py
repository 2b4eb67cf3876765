"""What attention reads of a document's past, kept from chunk to chunk instead of computed anew.

Shapes: B documents, T tokens of a window, L targets of a chunk, P tokens kept behind a chunk, K of a chunk
that are kept, D width.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from golf.model.gpt import GPT
from golf.model.positions import rotary_tables
from golf.model.varlen import DocumentAttention, Documents


class PastInputs:
    """The inputs of every visit's attention at the positions behind a chunk.

    While attached, a forward pass over a window computes its last chunk alone: keys and values of what lies
    behind come from the inputs that were kept, through the matrices as they are now. What was kept is what
    the model gave then, adapted as it was then, and does not learn any more; beyond the first window it has
    seen tokens that the window has left behind (as in arXiv:1901.02860).
    """

    def __init__(self, model: GPT):
        self.model = model
        self._windows: list[Tensor] = []
        self._next: list[Tensor] = []

    @contextmanager
    def attached(self, num_documents: int, num_past: int, num_new: int) -> Iterator[None]:
        """For the first `num_documents` documents: windows of `num_past` kept and `num_new` new positions."""
        visits = iter(range(len(self.model.plan)))
        self._next = []

        def read_past(module: nn.Module, inputs: tuple) -> tuple:
            x_BLD, rotary, num_last = inputs
            visit = next(visits)
            if num_past:
                kept_BTD = self._windows[visit][:num_documents]
                x_BLD = torch.cat((kept_BTD[:, kept_BTD.size(1) - num_past :], x_BLD), 1)
            self._next.append(x_BLD.detach())
            return x_BLD, rotary, min(num_last, num_new)

        with _last_positions(self.model, num_new, read_past):
            yield

    def keep(self) -> None:
        """Makes the last window's inputs the past of the next; what was not kept never was."""
        self._windows = self._next

    def put_back(self, rows: list[int], other: "PastInputs") -> None:
        """Takes the past of documents `rows` from `other`, which has no others."""
        for mine_BTD, others_BTD in zip(self._windows, other._windows, strict=True):
            mine_BTD[rows] = others_BTD[:, -mine_BTD.size(1) :]


@contextmanager
def _last_positions(
    model: GPT, num_new: int, read_past: Callable[[nn.Module, tuple], tuple]
) -> Iterator[None]:
    """While it lasts, blocks see the last `num_new` positions, attention what `read_past` gives."""

    def cut(module: nn.Module, inputs: tuple[Tensor, ...], output_BTD: Tensor) -> Tensor:
        return output_BTD[..., -num_new:, :]

    handles = [module.register_forward_hook(cut) for module in _embeddings(model)]
    handles += [block.attention.register_forward_pre_hook(read_past) for block in model.blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _embeddings(model: GPT) -> list[nn.Module]:
    """The modules whose outputs enter the stream at every position of the window."""
    if model.smear is not None:
        return [model.smear]
    parts = (model.embedding, model.bigram, model.positions)
    return [module for module in parts if module is not None]


class FixedPast:
    """The same inputs in tensors of fixed addresses, and windows of few lengths, filled up with empty places.

    Position t stands in place t mod P, so that a chunk takes the places of the oldest ones and nothing moves.
    Where the past has fewer than P positions the places behind them are empty, and masked. Attention is told
    every place's position in its window; it does not depend on their order. A window holds one document
    alone, so that attention inside documents is attention in it.
    """

    def __init__(self, model: GPT, num_documents: int, most_past: int):
        self.model = model
        config, weight = model.config, model.embedding.weight
        self._rings = [
            torch.zeros(
                num_documents, most_past, config.width, dtype=model.compute_dtype, device=weight.device
            )
            for _ in model.plan
        ]
        rotary_dims = config.rotary_dims if config.positions.startswith("rotary") else 0
        self._tables = rotary_tables(
            config.context + most_past, rotary_dims, config.rotary_base, weight.device
        )
        self._masked = DocumentAttention()

    def clear(self) -> None:
        """Forgets the documents; what is masked must be finite."""
        for ring_BPD in self._rings:
            ring_BPD.zero_()

    @contextmanager
    def attached(
        self, num_documents: int, num_past: int, num_new: int, positions_T: Tensor, places_K: Tensor
    ) -> Iterator[None]:
        """For the first documents: windows of the first `num_past` places and `num_new` new positions.

        `positions_T` (num_past + num_new) are the places' positions in the window, -1 if empty; `places_K`
        are those that the chunk's last K positions take once they were read.
        """
        visits = iter(range(len(self.model.plan)))
        rotary = tuple(table[positions_T.clamp(min=0)] for table in self._tables)
        num_kept = len(places_K)
        documents = []
        if num_past:
            visible_LT = (positions_T >= 0) & (positions_T <= positions_T[num_past:, None])
            mask_LT = torch.zeros(visible_LT.shape, dtype=self.model.compute_dtype, device=visible_LT.device)
            mask_LT = mask_LT.masked_fill(~visible_LT, -math.inf)
            documents = [Documents(positions_T[None], mask_LT[None, None], None)]

        def read_past(module: nn.Module, inputs: tuple) -> tuple:
            x_BLD, _, num_last = inputs
            ring_BPD = self._rings[next(visits)][:num_documents]
            new_BLD = x_BLD
            if num_past:
                x_BLD = torch.cat((ring_BPD[:, :num_past], x_BLD), 1)
            if num_kept:
                ring_BPD.index_copy_(1, places_K, new_BLD.detach()[:, -num_kept:])
            return x_BLD, (*rotary, *documents), min(num_last, num_new)

        before = [block.attention.apart for block in self.model.blocks]
        for block in self.model.blocks:
            block.attention.apart = self._masked
        try:
            with _last_positions(self.model, num_new, read_past):
                yield
        finally:
            for block, apart in zip(self.model.blocks, before, strict=True):
                block.attention.apart = apart

    def unroll(self, end: int, num_past: int, rows: int) -> PastInputs:
        """The past of the first `rows` documents in the order of time: `num_past` positions up to `end`."""
        past = PastInputs(self.model)
        order = np.arange(max(0, end - num_past), end) % max(1, num_past)
        past._windows = [ring_BPD[:rows, order] for ring_BPD in self._rings]
        return past


def can_be_fixed(model: GPT) -> bool:
    """Whether FixedPast goes with the network: nothing may depend on which place a position has."""
    return (
        model.positions is None
        and model.config.num_experts == 1
        and all(block.attention.biased is None for block in model.blocks)
    )


def window_lengths(context: int) -> tuple[int, ...]:
    """The lengths that windows of FixedPast have, by eighths of the context, in eights of tokens."""
    step = 8 * -(-context // 64)
    return (*range(step, context, step), context)
