"""Low-rank adapters of its own for each document, all documents of a batch learning at once.

Shapes: B documents, T time, I inputs and O outputs of a matrix, K rank, P numbers of one document's adapters,
S places in a batch, L targets of a chunk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import adamw

from golf.model.gpt import GPT
from golf.model.layers import Linear
from golf.model.state import Adapter, ForwardState, Past
from golf.score.ledger import ScoredDocuments

HEAD = "head"
"""Name of the tied output matrix among the adapter targets; it has one adapter."""
TARGETS = ("query", "key", "value", "output", "up", "down", HEAD)
"""Adapter targets (`Linear.adapter`) of a block, and the head."""
_ADAPTER_SEED = 6
_ADAPTER_EPS = 1e-10

MAX_LORA_RANK, MAX_LORA_DOCUMENTS = 1024, 1024
"""Far beyond what helps; they bound the memory that an artifact can ask for."""


@dataclass(frozen=True)
class LoraConfig:
    """Adapters per document (openai/parameter-golf #1530; kept inputs #1767, chunks by length #2014).

    The defaults are the best of a small grid on held-out training text, for networks of width 128 and 256
    after two and ten minutes of training on a CPU. The records, on far better networks, have rank 80,
    alpha 144 and a rate of 8e-5 (#2135).
    """

    rank: int = 64
    """Rank of each adapter."""
    alpha: float = 64.0
    """What an adapter adds is scaled by alpha / rank."""
    rate: float = 0.002
    """Learning rate of AdamW."""
    decay: float = 0.5
    """Decoupled weight decay; a step shrinks the adapters by rate x decay."""
    beta_first: float = 0.0
    """Memory of AdamW's mean of gradients, reset per document."""
    beta_second: float = 0.99
    """Memory of AdamW's mean of squared gradients, reset per document."""
    projections: tuple[str, ...] = ("query", "value", "output", "up", "down", "head")
    """Matrices with adapters: query, key, value, output, up, down, of every block and visit, and head."""
    chunk_tokens: tuple[int, ...] = (8, 24, 48)
    """Tokens graded before the adapters learn from them, for short to long documents."""
    chunk_lengths: tuple[int, ...] = (256, 2000)
    """Longest documents, in tokens, that count as short and as middling; one less than `chunk_tokens`."""
    batch_documents: int = 16
    """Documents that learn side by side."""

    def __post_init__(self) -> None:
        least = {"rank": 1, "batch_documents": 1, "rate": 0, "decay": 0, "beta_first": 0, "beta_second": 0}
        for name, value in least.items():
            if not vars(self)[name] >= value:
                raise ValueError(f"ttt.lora.{name} is {vars(self)[name]}; expected at least {value}")
        for name, most in {"rank": MAX_LORA_RANK, "batch_documents": MAX_LORA_DOCUMENTS}.items():
            if vars(self)[name] > most:
                raise ValueError(f"ttt.lora.{name} is {vars(self)[name]}; expected at most {most}")
        if max(self.beta_first, self.beta_second) >= 1:
            raise ValueError(f"ttt.lora's betas are {self.beta_first}, {self.beta_second}; expected below 1")
        if not self.projections or not set(self.projections) <= set(TARGETS):
            raise ValueError(
                f"ttt.lora.projections is {self.projections}; expected some of {', '.join(TARGETS)}"
            )
        ordered = list(self.chunk_lengths) == sorted(self.chunk_lengths)
        if not ordered or len(self.chunk_tokens) != len(self.chunk_lengths) + 1 or min(self.chunk_tokens) < 1:
            raise ValueError(
                f"ttt.lora.chunk_tokens is {self.chunk_tokens} and chunk_lengths {self.chunk_lengths}; "
                "expected rising lengths and one chunk more, all at least 1"
            )


class AdaptedMatrix(NamedTuple):
    """A matrix at one of its visits in a forward pass, where it has an adapter of its own."""

    name: str
    """Adapter target."""
    weight: Tensor
    """Of shape (outputs, inputs)."""
    visit: int | None
    """Number of the visit in the forward pass; of the head none."""


class AdapterWeights(NamedTuple):
    """The adapters of one matrix at one visit, and where their gradients go: views of buffers."""

    a_BKI: Tensor
    b_BOK: Tensor
    a_gradient_BKI: Tensor
    b_gradient_BOK: Tensor


def find_matrices(model: GPT, targets: tuple[str, ...]) -> list[AdaptedMatrix]:
    """The matrices of the blocks with these adapter targets, block by block, then the head.

    ValueError if the network has none of them.
    """
    found = []
    for layer, block in enumerate(model.blocks):
        visits = [index for index, visit in enumerate(model.plan) if visit.layer == layer]
        parts = [block.get_submodule(part) for part in ("attention", "feedforward")]
        children = [child for part in parts for child in part.children() if isinstance(child, Linear)]
        matrices = {child.adapter: child for child in children}
        for name in TARGETS:
            if name in targets and name in matrices:
                found += [AdaptedMatrix(name, matrices[name].weight, visit) for visit in visits]
    if HEAD in targets:
        found.append(AdaptedMatrix(HEAD, model.embedding.weight, None))
    if not found:
        raise ValueError(f"ttt.lora.projections is {targets}; this network has no such matrix")
    return found


class LoraLearner:
    """Adapters B A x for each document, learning on their own; the model itself is frozen and shared.

    A new document starts with B zero, so as the model is, and with the A that the document before it in the
    same place of its batch has left. Up to `at_once` documents learn side by side, by default all
    of a batch; fewer move a score in its last digits only.

    A learner for `recorded` steps, by default on a GPU, keeps all that changes from step to step in tensors
    of fixed addresses: which documents learn (`learns_B`), the number of steps, and a copy of the adapters in
    the network's dtype.
    """

    def __init__(
        self, model: GPT, config: LoraConfig, at_once: int | None = None, recorded: bool | None = None
    ):
        model.requires_grad_(False)
        self.config, self.matrices = config, find_matrices(model, config.projections)
        self.fallbacks = 0
        """Documents whose adaptation failed and was given up."""
        self._num_visits = len(model.plan)
        inputs = [(config.rank, matrix.weight.size(1)) for matrix in self.matrices]
        outputs = [(matrix.weight.size(0), config.rank) for matrix in self.matrices]
        self._shapes, self._sizes = inputs + outputs, [rows * columns for rows, columns in inputs + outputs]
        self._num_kept = sum(self._sizes[: len(inputs)])
        device = next(model.parameters()).device
        draw = torch.Generator().manual_seed(_ADAPTER_SEED)
        fresh = [torch.randn(rows * columns, generator=draw) * columns**-0.5 for rows, columns in inputs]
        self._fresh_P = torch.cat([*fresh, torch.zeros(sum(self._sizes) - self._num_kept)]).to(device)
        # Taken once: fresh pages for hundreds of megabytes a step cost more than the arithmetic on them.
        at_once = min(at_once or config.batch_documents, config.batch_documents)
        self.recorded = device.type == "cuda" if recorded is None else recorded
        # Recorded steps have all rows in each group of documents.
        spare = -config.batch_documents % at_once if self.recorded else 0
        self._store_SP = self._fresh_P.repeat(config.batch_documents + spare, 1)
        self.second_BP = torch.zeros(at_once, len(self._fresh_P), device=device)
        self.first_BP = torch.zeros_like(self.second_BP) if config.beta_first else None
        # Recorded steps have gradients in the dtype that the backward pass has them in, half the bytes.
        dtype = model.compute_dtype if self.recorded else torch.float32
        self.gradient_BP = torch.zeros_like(self.second_BP, dtype=dtype)
        self._copy_BP = torch.zeros_like(self.gradient_BP) if dtype != torch.float32 else None
        self.learns_B = torch.zeros(at_once, device=device)
        """Not 0 for the documents that learn in recorded steps."""
        self.steps_1 = torch.zeros(1, device=device)
        self._anchor = torch.zeros((), device=device)
        self._moved: tuple[Tensor, np.ndarray] | None = None
        """Adapters that are not in the order of their places, and their places."""
        self.recorded_steps: dict[Any, Any] = {}
        """DocumentSteps that were made for it, by their options."""

    def restart(self) -> None:
        """Forgets everything learned; recorded steps stay, since all tensors stay where they are."""
        self._store_SP.copy_(self._fresh_P)
        self._moved = None
        self.fallbacks = 0

    def start(self, slot: int, num_documents: int, places: np.ndarray | None = None) -> None:
        """Makes the adapters in places `slot` on ready for new documents: B and all moments zero, A kept.

        Row b is that of the document in place slot + b, or slot + places[b].
        """
        if self._moved is not None:
            rows_BP, moved = self._moved
            rows_BP[moved] = rows_BP.clone()
            self._moved = None
        self.adapters_BP = self._store_SP[slot : slot + num_documents]
        if places is not None:
            rows_BP = self.adapters_BP[: len(places)]
            rows_BP.copy_(rows_BP[places])
            self._moved = rows_BP, places
        self.adapters_BP[:, self._num_kept :] = 0
        self.second_BP[:num_documents] = 0
        if self.first_BP is not None:
            self.first_BP[:num_documents] = 0
        self.steps_1.zero_()
        self.learns_B.fill_(1)
        if self._copy_BP is not None:
            self._copy_BP[:num_documents] = self.adapters_BP
        views, half = [], len(self.matrices)
        for buffer_BP in (self.adapters_BP if self._copy_BP is None else self._copy_BP, self.gradient_BP):
            parts = buffer_BP[:num_documents].split(self._sizes, dim=1)
            parts = [part.unflatten(1, shape) for part, shape in zip(parts, self._shapes, strict=True)]
            views += [parts[:half], parts[half:]]
        self._weights = [AdapterWeights(*tensors) for tensors in zip(*views, strict=True)]

    def state(
        self, num_documents: int, past: Past | None = None, log_caps_2: Tensor | None = None
    ) -> ForwardState:
        """State with which row b of the model's input is predicted as adapted to document b."""
        # Autograd needs an input with a gradient to call the backward of _AdapterProduct.
        self._anchor = self._anchor.detach().requires_grad_(torch.is_grad_enabled())
        scale = self.config.alpha / self.config.rank
        by_visit: list[dict[str, Adapter]] = [{} for _ in range(self._num_visits)]
        head_adapter = None
        for (name, _, visit), weights in zip(self.matrices, self._weights, strict=True):
            own = AdapterWeights(*(tensor[:num_documents] for tensor in weights))
            adapter = partial(_AdapterProduct.apply, self._anchor, own, scale)
            if visit is None:
                head_adapter = adapter
            else:
                by_visit[visit][name] = adapter
        return ForwardState(past, by_visit, head_adapter, log_caps_2)

    def reset_adapter(self, rows: np.ndarray) -> None:
        """Puts back the untrained adapters of documents that broke, once their group has been graded."""
        self.fallbacks += len(rows)
        self.adapters_BP[rows] = self._fresh_P

    def learn(self, scored: ScoredDocuments, rows: Sequence[int] | None = None) -> None:
        """Trains each document's adapters on the chunk it was just graded: a sum over documents of mean nats.

        One AdamW step. The only function that trains adapters; no document's step depends on another
        document. Graded are the first rows, or `rows`; of recorded steps the documents learn that `learns_B`
        marks.
        """
        config, count = self.config, len(scored.nats_BL)
        learning = range(count) if rows is None else rows
        self.backward(scored.nats_BL.mean(1).sum())
        if self.recorded:
            self._update_recorded(count)
            return
        # Without a first moment the mean is the gradient itself.
        means_BP = self.gradient_BP if self.first_BP is None else self.first_BP
        buffers = (self.adapters_BP, self.gradient_BP, means_BP, self.second_BP)
        # By document, so that none is rounded otherwise beside others. And in one pass: every further one
        # over these buffers costs as much as the network.
        weights, gradients, means, seconds = ([buffer_BP[row] for row in learning] for buffer_BP in buffers)
        adamw(
            weights,
            gradients,
            means,
            seconds,
            [],
            list(self.steps_1.repeat(count).unbind()),
            fused=True,
            amsgrad=False,
            beta1=config.beta_first,
            beta2=config.beta_second,
            lr=config.rate,
            weight_decay=config.decay,
            eps=_ADAPTER_EPS,
            maximize=False,
        )
        self.steps_1 += 1

    def backward(self, loss: Tensor) -> None:
        """Writes the gradient of `loss` with respect to the attached adapters into `gradient_BP`."""
        torch.autograd.grad(loss, self._anchor, allow_unused=True)

    def _update_recorded(self, count: int) -> None:
        """The same step of AdamW as one operation over tensors of fixed addresses, of a GPU as one kernel."""
        self.steps_1 += 1
        kept = (self.adapters_BP, self.second_BP, self.gradient_BP, self._copy_BP, self.first_BP)
        buffers = [None if buffer is None else buffer[:count] for buffer in (*kept, self.learns_B[:, None])]
        update: Callable[..., None] = step_adamw
        if self.steps_1.device.type == "cuda":
            update = _compiled_step()
            for buffer in buffers:
                if buffer is not None:
                    # One kernel for any number of documents.
                    torch._dynamo.maybe_mark_dynamic(buffer, 0)
        update(*buffers, self.steps_1, self.config)


class _AdapterProduct(torch.autograd.Function):
    """output + scale x B A x, its adapters' gradients written where the step wants them.

    Autograd's own would gather them from a piece for each matrix: two more passes over all adapters.
    """

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, weights: AdapterWeights, scale: float, x_BTI: Tensor, output_BTO: Tensor
    ) -> Tensor:
        low_BTK = torch.bmm(x_BTI, weights.a_BKI.to(x_BTI.dtype).mT)
        ctx.save_for_backward(x_BTI, low_BTK)
        ctx.weights, ctx.scale = weights, scale
        return torch.baddbmm(output_BTO, low_BTK, weights.b_BOK.to(x_BTI.dtype).mT, alpha=scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_BTO,) = grad_outputs
        x_BTI, low_BTK = ctx.saved_tensors
        weights, dtype = ctx.weights, x_BTI.dtype
        low_gradient_BTK = torch.bmm(gradient_BTO, weights.b_BOK.to(dtype))
        _scaled_product(gradient_BTO.mT, low_BTK, ctx.scale, weights.b_gradient_BOK)
        _scaled_product(low_gradient_BTK.mT, x_BTI, ctx.scale, weights.a_gradient_BKI)
        x_gradient_BTI = None
        if ctx.needs_input_grad[3]:
            x_gradient_BTI = _scaled_product(low_gradient_BTK, weights.a_BKI.to(dtype), ctx.scale)
        return None, None, None, x_gradient_BTI, gradient_BTO


def _scaled_product(left: Tensor, right: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """scale x left x right, written to `out` if there is one."""
    if out is not None and out.dtype != left.dtype:
        return out.copy_(_scaled_product(left, right, scale))
    # In one call; with beta 0 what is added is not read, and `out` may be it.
    added = left.new_empty(1, 1, 1) if out is None else out
    return torch.baddbmm(added, left, right, beta=0, alpha=scale, out=out)


@cache
def _compiled_step() -> Callable[..., None]:
    return torch.compile(step_adamw, fullgraph=True)


def step_adamw(
    weights_BP: Tensor,
    seconds_BP: Tensor,
    gradients_BP: Tensor,
    copies_BP: Tensor | None,
    firsts_BP: Tensor | None,
    learns_B1: Tensor,
    steps_1: Tensor,
    config: LoraConfig,
) -> None:
    """A step of AdamW in place, where `learns_B1` is not 0; `copies_BP` are the weights in another dtype.

    Reads and writes each number once: 20 bytes with gradients and copies in bf16, and no first moment.
    """
    gradients = gradients_BP.float()
    seconds = config.beta_second * seconds_BP + (1 - config.beta_second) * gradients.square()
    means = gradients
    if firsts_BP is not None:
        means = config.beta_first * firsts_BP + (1 - config.beta_first) * gradients
        firsts_BP.copy_(means)
    rate = config.rate / (1 - config.beta_first**steps_1)
    # Bias corrections depend on the number of steps alone, (1,).
    deviations = seconds.sqrt() / (1 - config.beta_second**steps_1).sqrt() + _ADAPTER_EPS
    moved = weights_BP * (1 - config.rate * config.decay) - rate * means / deviations
    moved = torch.where(learns_B1 > 0, moved, weights_BP)
    seconds_BP.copy_(seconds)
    weights_BP.copy_(moved)
    if copies_BP is not None:
        copies_BP.copy_(moved)
