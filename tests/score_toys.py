"""A toy model, a toy vocabulary and toy documents: the scorer must work on anything that predicts."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCAB_SIZE = 23
BOS_ID = 1


class ToyBlock(nn.Module):
    """Adds a nonlinear map of the running mean of the stream so far: causal, and aware of its whole past."""

    def __init__(self, width: int):
        super().__init__()
        self.up = nn.Linear(width, width, bias=False)
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x_BTD: Tensor) -> Tensor:
        counts_T1 = torch.arange(1, x_BTD.size(1) + 1, dtype=x_BTD.dtype)[:, None]
        return x_BTD + self.gain * torch.tanh(self.up(x_BTD.cumsum(1) / counts_T1 + 0.5 * x_BTD))


@dataclass(frozen=True)
class ToyConfig:
    context: int = 16
    vocab_size: int = VOCAB_SIZE


class ToyModel(nn.Module):
    """Signature and weight names of the real network, a hundredth of its work."""

    def __init__(self, num_blocks: int = 3, width: int = 8, vocab_size: int = VOCAB_SIZE):
        super().__init__()
        self.config = ToyConfig(vocab_size=vocab_size)
        self.embedding = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(ToyBlock(width) for _ in range(num_blocks))

    def forward(self, inputs_BT: Tensor, num_last: int | None = None) -> Tensor:
        x_BTD = self.embedding(inputs_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        x_BLD = x_BTD if num_last is None else x_BTD[:, -num_last:]
        return F.linear(x_BLD, self.embedding.weight)


class ToyVocabulary:
    """Token i stands for i % 4 bytes, BOS for none; one more behind another token of 10 or above."""

    size = VOCAB_SIZE
    bos_id = BOS_ID
    sha256 = "0" * 64

    def count_bytes(self, previous: np.ndarray, targets: np.ndarray) -> np.ndarray:
        counts = targets.astype(np.int64) % 4 + (previous >= 10)
        return np.where(targets == BOS_ID, 0, counts)


def toy_model(seed: int = 0) -> ToyModel:
    """The same weights for the same seed."""
    torch.manual_seed(seed)
    return ToyModel()


def toy_documents(lengths: list[int], seed: int = 0) -> np.ndarray:
    """A stream of documents, each BOS and then random tokens, `lengths` counted with the BOS."""
    draw = np.random.default_rng(seed)
    parts = [np.concatenate(([BOS_ID], draw.integers(2, VOCAB_SIZE, length - 1))) for length in lengths]
    return np.concatenate(parts).astype(np.uint16)
