"""Test-time training: the model learns from what it has already been graded on.

Shapes: B sequences of a batch, T context, S sequences of the chunk.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from golf.model.gpt import GPT
from golf.model.loss import token_nats
from golf.model.state import ForwardState
from golf.score.scorer import CHUNK_TOKENS, ScoredChunk
from golf.ttt.lora import LoraConfig
from golf.ttt.tilt import TiltConfig

ADAPTING_PASS_TOKENS = 16_384
"""Most tokens of a forward and backward pass: the frontier's network keeps some 0.7 MB of each."""


@dataclass(frozen=True)
class TTTConfig:
    """Learning from what was graded (score first, as openai/parameter-golf #402 rules).

    Method `sgd` is gradient descent on graded chunks of the stream (#549), `lora` adapters per document, with
    `tilt` on top of them and `phases` of the same gradient descent between documents (#1610).
    """

    enabled: bool = True
    """Whether test-time training is done at all."""
    method: Literal["sgd", "lora"] = "sgd"
    """The whole model by chunks of the stream, or low-rank adapters by document."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """The adapters of the method `lora`."""
    tilt: TiltConfig = field(default_factory=TiltConfig)
    """With `lora`: tokens that followed the same long context before are raised."""
    phases: tuple[int, ...] = ()
    """With `lora`: after so many graded documents the blocks' matrices learn from them all; () for never."""
    cap_rate: float = 0.0
    """In those phases: learning rate of the logarithms of two softcaps, of logits above and below 0 (#1945);
    0 leaves the softcap as it is."""
    max_seconds: float | None = None
    """Seconds of scoring within which adapting stops in time for the rest to be scored without; None for no
    limit."""
    chunk_tokens: int = CHUNK_TOKENS
    """Tokens graded before the model learns from them."""
    learning_rate: float = 0.002
    """At the first chunk; it falls along a cosine to 0 at the last."""
    momentum: float = 0.9
    """Share of the last update that is kept; it lives on from chunk to chunk."""
    epochs: int = 3
    """Passes over each graded chunk."""
    frozen_blocks: int = 2
    """First blocks whose matrices do not learn; embeddings, gains and gates never do."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; a larger one is scaled down to it."""
    batch_sequences: int = 32
    """Sequences of the trained context that share an update."""

    def __post_init__(self) -> None:
        if self.method not in ("sgd", "lora"):
            raise ValueError(f"ttt.method is {self.method!r}; expected sgd or lora")
        for name in ("chunk_tokens", "epochs", "batch_sequences"):
            if vars(self)[name] < 1:
                raise ValueError(f"ttt.{name} is {vars(self)[name]}; expected at least 1")
        if list(self.phases) != sorted(set(self.phases)) or min(self.phases, default=1) < 1:
            raise ValueError(f"ttt.phases is {self.phases}; expected rising numbers of documents")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"ttt.max_seconds is {self.max_seconds}; expected more than 0")
        if not self.cap_rate >= 0:
            raise ValueError(f"ttt.cap_rate is {self.cap_rate}; expected at least 0")
        if self.learning_rate < 0 or self.clip_norm <= 0:
            raise ValueError(
                f"ttt.learning_rate is {self.learning_rate} and ttt.clip_norm {self.clip_norm}; "
                "expected a rate of at least 0 and a norm above 0"
            )


def adapted_parameters(model: GPT, frozen_blocks: int) -> list[nn.Parameter]:
    """The matrices of all blocks but the first `frozen_blocks`; ValueError if that leaves none."""
    named = [item for block in model.blocks[frozen_blocks:] for item in block.named_parameters()]
    chosen = [parameter for name, parameter in named if name.split(".")[-1] == "weight"]
    if not chosen:
        raise ValueError(f"ttt.frozen_blocks is {frozen_blocks}; that leaves nothing of the model to adapt")
    return chosen


class ChunkAdapter:
    """What the scorer calls after each chunk: adapts `model` in place, its learning rate along the cosine."""

    def __init__(self, model: GPT, config: TTTConfig):
        self.model, self.config = model, config
        adapted = adapted_parameters(model, config.frozen_blocks)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in adapted:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.SGD(adapted, lr=config.learning_rate, momentum=config.momentum)

    def __call__(self, chunk: ScoredChunk) -> None:
        progress = chunk.index / max(1, chunk.num_chunks - 1)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
        adapt(self.model, chunk, self.optimizer, self.config)


def adapt(model: GPT, chunk: ScoredChunk, optimizer: torch.optim.Optimizer, config: TTTConfig) -> None:
    """Trains the model on a graded chunk.

    The chunk is cut into sequences of the trained context, taken in the same order in each epoch; every batch
    has the same shape, filled up with positions that count for nothing.
    """
    tokens_N1 = chunk.tokens_N1
    batches = cut_sequences(tokens_N1[:-1], tokens_N1[1:], model.config.context, config.batch_sequences)
    device = next(model.parameters()).device
    for batch in batches * config.epochs:
        _descend(model, batch, optimizer, config.clip_norm, device)


def adapt_to_documents(
    model: GPT,
    graded: list[ScoredChunk],
    optimizer: torch.optim.Optimizer,
    config: TTTConfig,
    log_caps_2: Tensor | None = None,
) -> None:
    """Trains the model on graded documents, joined as they are in training; the rates fall along a cosine.

    `log_caps_2` as in ForwardState.
    """
    inputs_N = np.concatenate([chunk.tokens_N1[:-1] for chunk in graded])
    targets_N = np.concatenate([chunk.tokens_N1[1:] for chunk in graded])
    batches = cut_sequences(inputs_N, targets_N, model.config.context, config.batch_sequences)
    rates = [group["lr"] for group in optimizer.param_groups]
    steps, device = batches * config.epochs, next(model.parameters()).device
    predict = partial(model.forward, state=ForwardState(log_caps_2=log_caps_2))
    for step, batch in enumerate(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * 0.5 * (1.0 + math.cos(math.pi * step / len(steps)))
        # forward, not the compiled call: these steps are too few to pay for a graph.
        _descend(predict, batch, optimizer, config.clip_norm, device)


def _descend(
    predict: Callable[[Tensor], Tensor],
    batch: tuple[Tensor, Tensor, Tensor],
    optimizer: torch.optim.Optimizer,
    clip_norm: float,
    device: torch.device,
) -> None:
    rows = max(1, ADAPTING_PASS_TOKENS // batch[0].size(1))
    for part in zip(*(tensor_BT.split(rows) for tensor_BT in batch), strict=True):
        inputs_BT, targets_BT, share_BT = (tensor_BT.to(device) for tensor_BT in part)
        (token_nats(predict(inputs_BT), targets_BT) * share_BT).sum().backward()
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], clip_norm)
    optimizer.step()
    optimizer.zero_grad()


def cut_sequences(
    inputs_N: np.ndarray, targets_N: np.ndarray, context: int, batch_sequences: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Inputs, targets and each target's share in the loss, as batches of one shape (B, T).

    Each of the N targets is in one batch, and all have the same share; filling has share 0. The shares of a
    batch without filling add up to 1.
    """
    num_targets = len(targets_N)
    batch_size = min(batch_sequences, -(-num_targets // context))
    filling = -num_targets % (context * batch_size)
    share = np.float32(1.0 / min(num_targets, batch_size * context))
    parts = (inputs_N, targets_N, np.full(num_targets, share))
    shape = (-1, batch_size, context)
    inputs_SBT, targets_SBT, shares_SBT = (
        torch.from_numpy(np.pad(part, (0, filling))).view(shape) for part in parts
    )
    return list(zip(inputs_SBT, targets_SBT, shares_SBT, strict=True))


class PhaseTrainer:
    """Trains the model in place after given numbers of graded documents (openai/parameter-golf #1610, #1626).

    Each phase takes all documents graded so far, with the settings and a fresh momentum of the method `sgd`.
    With a `cap_rate` two softcaps, of logits above and below 0, learn along (#1945).
    """

    def __init__(self, model: GPT, config: TTTConfig):
        self.model, self.config, self.phases_done = model, config, 0
        self._adapted = adapted_parameters(model, config.frozen_blocks)
        self.log_caps_2 = torch.zeros(2, device=next(model.parameters()).device)

    def restart(self) -> None:
        """Forgets all phases; whoever calls it puts the model's weights back."""
        self.phases_done = 0
        self.log_caps_2.zero_()

    def due(self, num_documents: int) -> bool:
        """Whether so many graded documents call for a phase that was not done."""
        return sum(boundary <= num_documents for boundary in self.config.phases) > self.phases_done

    def learn(self, graded: list[ScoredChunk]) -> None:
        """One phase; the model is frozen again afterwards."""
        groups = [{"params": self._adapted, "lr": self.config.learning_rate}]
        if self.config.cap_rate:
            groups.append({"params": [self.log_caps_2], "lr": self.config.cap_rate})
        learning = [parameter for group in groups for parameter in group["params"]]
        optimizer = torch.optim.SGD(groups, momentum=self.config.momentum)
        for parameter in learning:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            adapt_to_documents(self.model, graded, optimizer, self.config, self.caps)
        for parameter in learning:
            parameter.requires_grad_(False)
        self.phases_done = sum(boundary <= len(graded) for boundary in self.config.phases)

    @property
    def caps(self) -> Tensor | None:
        """`ForwardState.log_caps_2` of the model's forward passes; None if the softcap does not learn."""
        return self.log_caps_2 if self.config.cap_rate else None
