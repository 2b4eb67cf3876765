"""Test-time training: the model learns from what it has already been graded on.

Shapes: B sequences of a batch, T context, S sequences of the chunk.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from golf.model.gpt import GPT
from golf.model.loss import token_nats
from golf.model.state import ForwardState
from golf.score.ledger import ScoredChunk
from golf.score.scorer import CHUNK_TOKENS
from golf.ttt.deadline import Deadline
from golf.ttt.lora import LoraConfig
from golf.ttt.tilt import TiltConfig

MAX_TTT_EPOCHS = 100
"""Far beyond what helps; it bounds the work that an artifact can ask for."""
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
    order: Literal["length", "stream"] = "length"
    """With `lora`: the longest documents first, for whose lengths a decoder must be told, or as they stand
    in the text."""
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
        if self.order not in ("length", "stream"):
            raise ValueError(f"ttt.order is {self.order!r}; expected length or stream")
        if not self.epochs <= MAX_TTT_EPOCHS:
            raise ValueError(f"ttt.epochs is {self.epochs}; expected at most {MAX_TTT_EPOCHS}")
        least = {"chunk_tokens": 1, "epochs": 1, "batch_sequences": 1, "learning_rate": 0, "cap_rate": 0}
        least |= {"momentum": 0, "frozen_blocks": 0}
        for name, value in least.items():
            if not vars(self)[name] >= value:
                raise ValueError(f"ttt.{name} is {vars(self)[name]}; expected at least {value}")
        for name in ("max_seconds", "clip_norm"):
            if vars(self)[name] is not None and not vars(self)[name] > 0:
                raise ValueError(f"ttt.{name} is {vars(self)[name]}; expected more than 0")
        if list(self.phases) != sorted(set(self.phases)) or min(self.phases, default=1) < 1:
            raise ValueError(f"ttt.phases is {self.phases}; expected rising numbers of documents")


def adapted_parameters(model: GPT, frozen_blocks: int) -> list[nn.Parameter]:
    """The matrices of all blocks but the first `frozen_blocks`; ValueError if that leaves none."""
    named = [item for block in model.blocks[frozen_blocks:] for item in block.named_parameters()]
    chosen = [parameter for name, parameter in named if name.split(".")[-1] == "weight"]
    if not chosen:
        raise ValueError(f"ttt.frozen_blocks is {frozen_blocks}; that leaves nothing of the model to adapt")
    return chosen


def learned_caps(model: GPT) -> Tensor:
    """Logarithms of factors on the softcap, (2,), initially 0; ValueError for a network without a softcap."""
    if not model.config.logit_softcap:
        raise ValueError("ttt.cap_rate trains the softcap, and model.logit_softcap is 0: there is none")
    return torch.zeros(2, device=next(model.parameters()).device)


class ChunkAdapter:
    """Gradient descent on each chunk that was scored, its learning rate along a cosine over the chunks.

    Adapts `model` in place, until the deadline says that time is short. The chunk is cut into sequences of
    the trained context, taken in the same order in each epoch.
    """

    def __init__(self, model: GPT, config: TTTConfig, deadline: Deadline | None = None):
        self.model, self.config, self.deadline, self._num_graded = model, config, deadline, 0
        adapted = adapted_parameters(model, config.frozen_blocks)
        model.requires_grad_(False)
        for parameter in adapted:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.SGD(adapted, lr=config.learning_rate, momentum=config.momentum)

    def __call__(self, chunk: ScoredChunk, progress: float) -> None:
        self._num_graded += len(chunk.tokens_N1) - 1
        if self.deadline is not None and self.deadline.stops(self._num_graded):
            return
        self.optimizer.param_groups[0]["lr"] = self.config.learning_rate * _cosine(progress)
        for batch in cut_sequences([chunk], self.model.config.context, self.config):
            _descend(self.model, batch, self.optimizer, self.config.clip_norm)


class PhaseTrainer:
    """Trains the model in place after given numbers of graded documents (openai/parameter-golf #1610, #1626).

    Each phase takes all documents graded so far, joined as they are in training, with the settings of the
    method `sgd`, a fresh momentum, and rates along a cosine. With a `cap_rate` two softcaps, of logits above
    and below 0, learn along (#1945).
    """

    def __init__(self, model: GPT, config: TTTConfig):
        self.model, self.config, self.phases_done = model, config, 0
        self._adapted = adapted_parameters(model, config.frozen_blocks)
        self.caps = learned_caps(model) if config.cap_rate else None
        """`ForwardState.log_caps_2` of the model's forward passes; None if the softcap does not learn."""

    def restart(self) -> None:
        """Forgets all phases; whoever calls it puts the model's weights back."""
        self.phases_done = 0
        if self.caps is not None:
            self.caps.zero_()

    def due(self, num_documents: int) -> bool:
        """Whether so many graded documents call for a phase that was not done."""
        return sum(boundary <= num_documents for boundary in self.config.phases) > self.phases_done

    def learn(self, graded: list[ScoredChunk]) -> None:
        """One phase; the model is frozen again afterwards."""
        config = self.config
        groups: list[dict[str, Any]] = [{"params": self._adapted, "lr": config.learning_rate}]
        if self.caps is not None:
            groups.append({"params": [self.caps], "lr": config.cap_rate})
        learning = [parameter for group in groups for parameter in group["params"]]
        rates = [group["lr"] for group in groups]
        optimizer = torch.optim.SGD(groups, momentum=config.momentum)
        for parameter in learning:
            parameter.requires_grad_(True)
        # forward, not the compiled call: these steps are too few to pay for a graph.
        predict = partial(self.model.forward, state=ForwardState(log_caps_2=self.caps))
        batches = cut_sequences(graded, self.model.config.context, config)
        with torch.enable_grad():
            for step, batch in enumerate(batches):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * _cosine(step / len(batches))
                _descend(predict, batch, optimizer, config.clip_norm)
        for parameter in learning:
            parameter.requires_grad_(False)
        self.phases_done = sum(boundary <= len(graded) for boundary in config.phases)


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _descend(
    predict: Callable[[Tensor], Tensor],
    batch: tuple[Tensor, Tensor, Tensor],
    optimizer: torch.optim.Optimizer,
    clip_norm: float,
) -> None:
    """A step on one batch, in as many passes as ADAPTING_PASS_TOKENS takes."""
    learning = optimizer.param_groups[0]["params"]
    rows = max(1, ADAPTING_PASS_TOKENS // batch[0].size(1))
    for part in zip(*(tensor_BT.split(rows) for tensor_BT in batch), strict=True):
        inputs_BT, targets_BT, share_BT = (tensor_BT.to(learning[0].device) for tensor_BT in part)
        (token_nats(predict(inputs_BT), targets_BT) * share_BT).sum().backward()
    nn.utils.clip_grad_norm_(learning, clip_norm)
    optimizer.step()
    optimizer.zero_grad()


def cut_sequences(
    chunks: list[ScoredChunk], context: int, config: TTTConfig
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Inputs, targets and each target's share in the loss, as batches of one shape (B, T), epoch by epoch.

    In each epoch every target is in one batch, and all have the same share; filling has share 0. The shares
    of a batch without filling add up to 1.
    """
    inputs_N = np.concatenate([chunk.tokens_N1[:-1] for chunk in chunks])
    targets_N = np.concatenate([chunk.tokens_N1[1:] for chunk in chunks])
    num_targets = len(targets_N)
    batch_size = min(config.batch_sequences, -(-num_targets // context))
    filling = -num_targets % (context * batch_size)
    share = np.float32(1.0 / min(num_targets, batch_size * context))
    parts = (inputs_N, targets_N, np.full(num_targets, share))
    shape = (-1, batch_size, context)
    inputs_SBT, targets_SBT, shares_SBT = (
        torch.from_numpy(np.pad(part, (0, filling))).view(shape) for part in parts
    )
    return list(zip(inputs_SBT, targets_SBT, shares_SBT, strict=True)) * config.epochs
