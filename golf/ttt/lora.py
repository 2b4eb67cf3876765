"""Low-rank adapters of its own for each document, all documents of a batch learning at once.

Shapes: B documents, T time, I inputs and O outputs of a matrix, K rank, P numbers of one document's adapters,
S places in a batch, L targets of a chunk.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from golf.model.gpt import GPT
from golf.model.layers import Linear
from golf.model.state import Adapter, ForwardState, Past
from golf.score.windows import ResolvedWindows
from golf.ttt.document_scorer import ScoredDocuments
from golf.ttt.documents import DocumentBatch

HEAD = "head"
"""Name of the tied output matrix among the adapter targets; it has one adapter."""
TARGETS = ("query", "key", "value", "output", "up", "down", HEAD)
"""Adapter targets (`Linear.adapter`) of a block, and the head."""
_ADAPTER_SEED = 6
_ADAPTER_EPS = 1e-10
_USABLE_SHARE = 0.8
_ACTIVATIONS_PER_CHANNEL = 24
"""Numbers that a block keeps for its backward pass, for each position of a chunk and channel of the width."""
_KEYS_KEPT = 3
"""Tensors as large as a window's keys that attention keeps for it; two more have a head for each query."""


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
        for name in ("rank", "batch_documents"):
            if vars(self)[name] < 1:
                raise ValueError(f"ttt.lora.{name} is {vars(self)[name]}; expected at least 1")
        for name in ("rate", "decay", "beta_first", "beta_second"):
            if not vars(self)[name] >= 0:
                raise ValueError(f"ttt.lora.{name} is {vars(self)[name]}; expected at least 0")
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
    """A matrix that has an adapter for each of its visits in a forward pass."""

    name: str
    """Adapter target."""
    weight: Tensor
    """Of shape (outputs, inputs)."""
    visits: tuple[int, ...]
    """Numbers of the visits in the forward pass; of the head none."""

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.weight.size(0), self.weight.size(1)

    @property
    def num_adapters(self) -> int:
        """One for each visit."""
        return max(1, len(self.visits))


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
        visits = tuple(index for index, visit in enumerate(model.plan) if visit.layer == layer)
        children = [
            child for part in ("attention", "feedforward") for child in block.get_submodule(part).children()
        ]
        matrices = {child.adapter: child for child in children if isinstance(child, Linear)}
        for name in TARGETS:
            if name in targets and name in matrices:
                found.append(AdaptedMatrix(name, matrices[name].weight, visits))
    if HEAD in targets:
        found.append(AdaptedMatrix(HEAD, model.embedding.weight, ()))
    if not found:
        raise ValueError(f"ttt.lora.projections is {targets}; this network has no such matrix")
    return found


class LoraLearner:
    """Adapters B A x for each document, learning on their own; the model itself is frozen and shared.

    A new document starts with B zero, so as the model is, and with the A that the document before it in the
    same place of its batch has left. Up to `documents_at_once` documents learn side by side, by default all
    of a batch; fewer move a score in its last digits only.

    A learner for `recorded` steps, by default on a GPU, keeps all that changes from step to step in tensors
    of fixed addresses: which documents learn (`learns_B`), the number of steps, and a copy of the adapters in
    the network's dtype.
    """

    def __init__(
        self,
        model: GPT,
        config: LoraConfig,
        documents_at_once: int | None = None,
        recorded: bool | None = None,
    ):
        model.requires_grad_(False)
        self.config, self.fallbacks = config, 0
        self.matrices = find_matrices(model, config.projections)
        shapes = [matrix.shape for matrix in self.matrices for _ in range(matrix.num_adapters)]
        self._num_visits = len(model.plan)
        self._inputs = [(config.rank, num_inputs) for _, num_inputs in shapes]
        self._outputs = [(num_outputs, config.rank) for num_outputs, _ in shapes]
        self._num_kept = sum(rows * columns for rows, columns in self._inputs)
        device = next(model.parameters()).device
        draw = torch.Generator().manual_seed(_ADAPTER_SEED)
        self._fresh_P = torch.cat(
            [torch.randn(rows * columns, generator=draw) * columns**-0.5 for rows, columns in self._inputs]
            + [torch.zeros(rows * columns) for rows, columns in self._outputs]
        ).to(device)
        # Taken once: fresh pages for hundreds of megabytes a step cost more than the arithmetic on them.
        at_once = min(documents_at_once or config.batch_documents, config.batch_documents)
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
        self.steps_1 = torch.zeros(1, device=device)
        self._anchor = torch.zeros((), device=device)
        self._sites: dict[int, list[AdapterWeights]] = {}
        self.recorded_steps: dict[Any, Any] = {}

    def restart(self) -> None:
        """Forgets everything learned; recorded steps stay, since all tensors stay where they are."""
        self._store_SP.copy_(self._fresh_P)
        self.fallbacks = 0

    def start(self, slot: int, num_documents: int) -> None:
        """Makes the adapters in places `slot` on ready for new documents: B and all moments zero, A kept."""
        self.adapters_BP = self._store_SP[slot : slot + num_documents]
        self.adapters_BP[:, self._num_kept :] = 0
        self.second_BP[:num_documents] = 0
        if self.first_BP is not None:
            self.first_BP[:num_documents] = 0
        self.retired_B = torch.zeros(num_documents, dtype=torch.bool, device=self.adapters_BP.device)
        self.steps, self._any_retired = 0, False
        self.steps_1.zero_()
        self.learns_B.fill_(1)
        if self._copy_BP is not None:
            self._copy_BP[:num_documents] = self.adapters_BP
        self._sites.clear()

    def state(
        self, num_documents: int, past: Past | None = None, log_caps_2: Tensor | None = None
    ) -> ForwardState:
        """State with which row b of the model's input is predicted as adapted to document b."""
        if num_documents not in self._sites:
            self._sites[num_documents] = self._find_sites(num_documents)
        # Autograd needs an input with a gradient to call the backward of _AdapterProduct.
        self._anchor = self._anchor.detach().requires_grad_(torch.is_grad_enabled())
        scale = self.config.alpha / self.config.rank
        by_visit: list[dict[str, Adapter]] = [{} for _ in range(self._num_visits)]
        head_adapter = None
        adapters = iter(LowRankAdapter(site, scale, self._anchor) for site in self._sites[num_documents])
        for name, _, visits in self.matrices:
            if name == HEAD:
                head_adapter = next(adapters)
            for visit in visits:
                by_visit[visit][name] = next(adapters)
        return ForwardState(past, by_visit, head_adapter, log_caps_2)

    def _find_sites(self, num_documents: int) -> list[AdapterWeights]:
        shapes, half = self._inputs + self._outputs, len(self._inputs)
        views = []
        weights_BP = self.adapters_BP if self._copy_BP is None else self._copy_BP
        for buffer_BP in (weights_BP, self.gradient_BP):
            parts = buffer_BP[:num_documents].split([rows * columns for rows, columns in shapes], dim=1)
            views.append([part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)])
        adapters, gradients = views
        return [
            AdapterWeights(adapters[n], adapters[half + n], gradients[n], gradients[half + n])
            for n in range(half)
        ]

    def reset_adapter(self, broken_B: Tensor) -> None:
        """Puts back the untrained adapters of the marked documents, whose B stays zero from now on."""
        rows = broken_B.nonzero().flatten()
        self.fallbacks += int((~self.retired_B[rows]).sum())
        self.retired_B[rows] = self._any_retired = True
        self.learns_B[rows] = 0
        self.second_BP[rows] = 0
        if self.first_BP is not None:
            self.first_BP[rows] = 0
        self.adapters_BP[rows] = self._fresh_P

    def learn(self, scored: ScoredDocuments) -> None:
        """One AdamW step on what was just graded."""
        adapt_documents(self, scored)

    def backward(self, loss: Tensor) -> None:
        """Writes the gradient of `loss` with respect to the attached adapters into `gradient_BP`."""
        torch.autograd.grad(loss, self._anchor, allow_unused=True)


class _AdapterProduct(torch.autograd.Function):
    """output + scale x B A x, its adapters' gradients written where the step wants them.

    Autograd's own would gather them from a piece for each matrix: two more passes over all adapters.
    """

    @staticmethod
    def forward(
        ctx: Any, output_BTO: Tensor, x_BTI: Tensor, anchor: Tensor, site: AdapterWeights, scale: float
    ) -> Tensor:
        low_BTK = torch.bmm(x_BTI, site.a_BKI.to(x_BTI.dtype).mT)
        ctx.save_for_backward(x_BTI, low_BTK)
        ctx.site, ctx.scale = site, scale
        return torch.baddbmm(output_BTO, low_BTK, site.b_BOK.to(x_BTI.dtype).mT, alpha=scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_BTO,) = grad_outputs
        x_BTI, low_BTK = ctx.saved_tensors
        site, dtype = ctx.site, x_BTI.dtype
        low_gradient_BTK = torch.bmm(gradient_BTO, site.b_BOK.to(dtype))
        _multiply_into(site.b_gradient_BOK, gradient_BTO.mT, low_BTK, ctx.scale)
        _multiply_into(site.a_gradient_BKI, low_gradient_BTK.mT, x_BTI, ctx.scale)
        x_gradient_BTI = None
        if ctx.needs_input_grad[1]:
            x_gradient_BTI = _scaled_product(low_gradient_BTK, site.a_BKI.to(dtype), ctx.scale)
        return gradient_BTO, x_gradient_BTI, None, None, None


def _scaled_product(left: Tensor, right: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """scale x left x right in one call; with beta 0 what is added is not read, and `out` may be it."""
    added = left.new_empty(1, 1, 1) if out is None else out
    return torch.baddbmm(added, left, right, beta=0, alpha=scale, out=out)


def _multiply_into(product: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    if product.dtype == left.dtype:
        _scaled_product(left, right, scale, product)
    else:
        product.copy_(_scaled_product(left, right, scale))


class LowRankAdapter(NamedTuple):
    """Adds scale x B A x to a matrix's output."""

    weights: AdapterWeights
    scale: float
    anchor: Tensor

    def __call__(self, x_BTI: Tensor, output_BTO: Tensor) -> Tensor:
        """The adapted output (B, T, O)."""
        return _AdapterProduct.apply(output_BTO, x_BTI, self.anchor, self.weights, self.scale)


def adapt_documents(learner: LoraLearner, scored: ScoredDocuments) -> None:
    """Trains each document's adapters on the chunk it was just graded: a sum over documents of mean nats.

    The only function that trains adapters; no document's step depends on another document. Of recorded steps
    the documents learn that `learns_B` marks.
    """
    config, count = learner.config, len(scored.nats_BL)
    learner.backward(scored.nats_BL.mean(1).sum())
    if learner.recorded:
        _update_recorded(learner, count)
        return
    if learner._any_retired:
        learner.gradient_BP[:count][learner.retired_B[:count]] = 0
    means_BP = learner.gradient_BP if learner.first_BP is None else learner.first_BP
    buffers = (learner.adapters_BP, learner.gradient_BP, means_BP, learner.second_BP)
    # By document, so that none is rounded otherwise beside others. And in one pass: every further one over
    # these buffers costs as much as the network. Without a first moment the mean is the gradient itself.
    weights, gradients, means, seconds = (list(buffer_BP[:count].unbind()) for buffer_BP in buffers)
    adamw(
        weights,
        gradients,
        means,
        seconds,
        [],
        list(torch.full((count,), float(learner.steps), device=learner.gradient_BP.device).unbind()),
        fused=True,
        amsgrad=False,
        beta1=config.beta_first,
        beta2=config.beta_second,
        lr=config.rate,
        weight_decay=config.decay,
        eps=_ADAPTER_EPS,
        maximize=False,
    )
    learner.steps += 1


def _update_recorded(learner: LoraLearner, count: int) -> None:
    """The same step of AdamW as one operation over tensors of fixed addresses, of a GPU as one kernel."""
    learner.steps_1 += 1
    weights_BP, seconds_BP = learner.adapters_BP[:count], learner.second_BP[:count]
    gradients_BP = learner.gradient_BP[:count]
    copies_BP = None if learner._copy_BP is None else learner._copy_BP[:count]
    firsts_BP = None if learner.first_BP is None else learner.first_BP[:count]
    learns_B1 = learner.learns_B[:count, None]
    update = step_adamw
    if weights_BP.device.type == "cuda":
        update = _compiled_step()
        for buffer_BP in (weights_BP, seconds_BP, gradients_BP, copies_BP, firsts_BP, learns_B1):
            if buffer_BP is not None:
                # One kernel for any number of documents.
                torch._dynamo.maybe_mark_dynamic(buffer_BP, 0)
    update(
        weights_BP,
        seconds_BP,
        gradients_BP,
        copies_BP,
        firsts_BP,
        learns_B1,
        learner.steps_1,
        learner.config,
    )


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


class LoraMemoryError(ValueError):
    """Adapters that do not fit into memory even for one document at a time."""


def free_bytes(device: torch.device, num_processes: int = 1) -> int | None:
    """Memory that a process can take on the device; None where the system does not say.

    Each of `num_processes` on this machine has a GPU of its own, or an equal part of the machine's memory.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // num_processes
    except (AttributeError, ValueError):
        return None


def lora_bytes(
    model: GPT, windows: ResolvedWindows, config: LoraConfig, chunk_tokens: int
) -> tuple[int, int]:
    """Bytes that adapters take whatever is done, and further bytes for each document that learns.

    Kept are the adapters of every place in a batch; a document adds moments and gradients, the inputs of
    every visit's attention over two windows, and what the backward pass of a chunk needs, estimated: the
    chunk's activations, and the keys and values of its window.
    """
    adapters = sum(
        matrix.num_adapters * config.rank * sum(matrix.shape)
        for matrix in find_matrices(model, config.projections)
    )
    number_bytes = model.compute_dtype.itemsize
    width, visits = model.config.width, len(model.plan)
    windows_bytes = 2 * visits * windows.context * width * number_bytes
    shared_width = width // model.config.num_heads * model.config.num_kv_heads
    keys_bytes = visits * windows.context * (_KEYS_KEPT * shared_width + 2 * width) * number_bytes
    chunk_bytes = visits * chunk_tokens * width * _ACTIVATIONS_PER_CHANNEL * number_bytes
    logits_bytes = 4 * 4 * chunk_tokens * model.config.vocab_size
    moments_bytes = 4 * adapters * (2 + bool(config.beta_first))
    each = moments_bytes + windows_bytes + keys_bytes + chunk_bytes + logits_bytes
    return 4 * adapters * config.batch_documents, each


def plan_documents_at_once(
    model: GPT, windows: ResolvedWindows, config: LoraConfig, batches: list[DocumentBatch], memory: int | None
) -> int:
    """Documents that learn side by side: what a batch and a forward pass have, or fewer if memory is short.

    LoraMemoryError if not even one fits into `memory` bytes.
    """
    wanted = min(windows.batch_tokens // windows.context, max(len(batch.documents) for batch in batches))
    if memory is None:
        return wanted
    chunk_tokens = min(windows.context, max(batch.chunk_tokens for batch in batches))
    kept, each = lora_bytes(model, windows, config, chunk_tokens)
    fitting = int(_USABLE_SHARE * memory - kept) // each
    if fitting < 1:
        raise LoraMemoryError(
            f"adapters of rank {config.rank} for {config.batch_documents} documents take {kept:,} bytes, and "
            f"{each:,} more for each that learns; {memory:,} are free"
        )
    return min(wanted, fitting)
