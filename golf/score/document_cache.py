"""What attention reads of a document's past, kept from chunk to chunk instead of computed anew.

Shapes: B documents, T tokens of a window, L targets of a chunk, D width.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from golf.model.gpt import GPT


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

        def cut(module: nn.Module, inputs: tuple[Tensor, ...], output_BTD: Tensor) -> Tensor:
            return output_BTD[..., -num_new:, :]

        def read_past(module: nn.Module, inputs: tuple) -> tuple:
            x_BLD, rotary, num_last = inputs
            visit = next(visits)
            if num_past:
                kept_BTD = self._windows[visit][:num_documents]
                x_BLD = torch.cat((kept_BTD[:, kept_BTD.size(1) - num_past :], x_BLD), 1)
            self._next.append(x_BLD.detach())
            return x_BLD, rotary, min(num_last, num_new)

        handles = [module.register_forward_hook(cut) for module in self._embeddings()]
        handles += [block.attention.register_forward_pre_hook(read_past) for block in self.model.blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def keep(self) -> None:
        """Makes the last window's inputs the past of the next; what was not kept never was."""
        self._windows = self._next

    def put_back(self, rows: list[int], other: "PastInputs") -> None:
        """Takes the past of documents `rows` from `other`, which has no others."""
        for mine_BTD, others_BTD in zip(self._windows, other._windows, strict=True):
            mine_BTD[rows] = others_BTD[:, -mine_BTD.size(1) :]

    def _embeddings(self) -> list[nn.Module]:
        """The modules whose outputs enter the stream at every position of the window."""
        if self.model.smear is not None:
            return [self.model.smear]
        parts = (self.model.embedding, self.model.bigram, self.model.positions)
        return [module for module in parts if module is not None]
