"""Chunks of documents: what is kept of their past, and steps of few fixed shapes, which a GPU records once.

A step launches thousands of kernels; replayed as a CUDA graph it costs the processor one launch forward and
one backward. So nothing in it may wait for the GPU, and all that it reads stands at fixed addresses.
Shapes: B documents, T tokens of a window, L targets of a chunk, P places of the past, K positions of a chunk
that are kept, D width, V vocabulary.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from golf.model.gpt import GPT
from golf.model.loss import token_nats
from golf.model.positions import rotary_tables
from golf.model.state import Past, Positions
from golf.score.ledger import Ledger, ScoredDocuments
from golf.ttt.documents import DocumentBatch
from golf.ttt.lora import LoraLearner

_STEPS_AHEAD = 8
"""Steps that may wait for the GPU; a deadline is asked so much ahead of what is done."""


class PastInputs(Past):
    """The inputs of every visit's attention at the positions before a chunk.

    As the past of a forward pass over a window, it computes the window's last chunk alone: keys and values of
    the positions before come from the kept inputs, through the matrices as they are now. Inputs are kept as
    the model, adapted as it was then, computed them, without gradient; beyond the first window they depend on
    tokens before the window (as in arXiv:1901.02860).
    """

    def __init__(self, kept: dict[int, Tensor] | None = None) -> None:
        self.kept = kept or {}
        """By visit, (B, T, D)."""

    def window(self, num_documents: int, num_past: int, num_new: int) -> "PastInputs":
        """This past, for the first `num_documents` documents: `num_past` kept and `num_new` new positions."""
        self._num_documents, self._num_past, self.num_new = num_documents, num_past, num_new
        return self

    def inputs(self, visit: int, x_BLD: Tensor) -> Tensor:
        """The new inputs behind the kept ones; both are kept for the next window."""
        if self._num_past:
            kept_BTD = self.kept[visit][: self._num_documents]
            x_BLD = torch.cat((kept_BTD[:, kept_BTD.size(1) - self._num_past :], x_BLD), 1)
        self.kept[visit] = x_BLD.detach()
        return x_BLD

    def put_back(self, rows: np.ndarray, other: "PastInputs") -> None:
        """Takes the past of documents `rows` from `other`, which holds those documents only.

        Documents that have ended have no past here.
        """
        for visit, mine_BTD in self.kept.items():
            goes_on = np.flatnonzero(rows < len(mine_BTD))
            mine_BTD[rows[goes_on]] = other.kept[visit][goes_on][:, -mine_BTD.size(1) :]


class FixedPast(Past):
    """The same inputs in tensors of fixed addresses, in windows of few lengths, padded with empty places.

    Position t is in place t mod P, P the places in use, so that a chunk overwrites the oldest ones and
    nothing moves. While the past has fewer than P positions the places after them are empty, and masked.
    Attention gets every place's position in its window and does not depend on their order. A window holds one
    document, so the document mask changes nothing.
    """

    def __init__(self, model: GPT, num_documents: int, max_past: int):
        config, weight = model.config, model.embedding.weight
        shape, dtype = (num_documents, max_past, config.width), model.compute_dtype
        # Zeros: masked values must be finite.
        self.rings = [torch.zeros(shape, dtype=dtype, device=weight.device) for _ in model.plan]
        rotary_dims = config.rotary_dims if config.positions.startswith("rotary") else 0
        length = config.context + max_past
        self._tables = rotary_tables(length, rotary_dims, config.rotary_base, weight.device)

    def window(self, num_documents: int, num_new: int, positions_T: Tensor, places_K: Tensor) -> "FixedPast":
        """This past, for the first documents: the first places and `num_new` new positions.

        `positions_T` are the places' positions in the window, -1 if empty, then the new ones; `places_K` are
        those that the chunk's last K positions take once they were read.
        """
        self._num_documents, self._num_past, self.num_new = num_documents, len(positions_T) - num_new, num_new
        self._places_K = places_K
        cos_TR, sin_TR = (table[positions_T.clamp(min=0)] for table in self._tables)
        mask_LT = None
        if self._num_past:
            visible_LT = (positions_T >= 0) & (positions_T <= positions_T[self._num_past :, None])
            mask_LT = torch.zeros(visible_LT.shape, dtype=self.rings[0].dtype, device=visible_LT.device)
            mask_LT = mask_LT.masked_fill(~visible_LT, -math.inf)
        self._positions = Positions(cos_TR, sin_TR, None if mask_LT is None else mask_LT[None, None])
        return self

    def positions(self) -> Positions:
        """Those that `window` was given."""
        return self._positions

    def inputs(self, visit: int, x_BLD: Tensor) -> Tensor:
        """The new inputs behind the kept ones; the last of the new ones are written into their places."""
        ring_BPD = self.rings[visit][: self._num_documents]
        x_BTD = torch.cat((ring_BPD[:, : self._num_past], x_BLD), 1) if self._num_past else x_BLD
        num_kept = len(self._places_K)
        if num_kept:
            ring_BPD.index_copy_(1, self._places_K, x_BLD.detach()[:, -num_kept:])
        return x_BTD

    def unroll(self, end: int, num_past: int, num_places: int, rows: int) -> PastInputs:
        """The past of the first `rows` documents in the order of time: `num_past` positions up to `end`."""
        order = np.arange(max(0, end - num_past), end) % max(1, num_places)
        return PastInputs({visit: ring_BPD[:rows, order] for visit, ring_BPD in enumerate(self.rings)})


def can_be_fixed(model: GPT) -> bool:
    """Whether FixedPast works for the network: nothing may depend on the place that a position has."""
    config = model.config
    return config.positions in ("rotary", "none") and config.num_experts == 1 and not config.attention_sinks


def window_lengths(context: int) -> tuple[int, ...]:
    """The lengths that windows of FixedPast have, by eighths of the context, in eights of tokens."""
    step = 8 * -(-context // 64)
    return (*range(step, context, step), context)


class ChunkGrades(NamedTuple):
    """What a forward pass over a chunk gives."""

    nats_BL: Tensor
    """With the graph that leads back to what gave them."""
    marked_BL: Tensor
    """The same nats, NaN for documents whose logits were not all finite."""
    logits_BLV: Tensor | None
    """For who wants to see them."""


def grade_logits(logits_BLV: Tensor, targets_BL: Tensor, expected_BL: Tensor, boost: float) -> ChunkGrades:
    """Grades targets (B, L) by logits, which the tilt raises by `boost` at the expected tokens, -1 for none.

    Which documents broke is decided before the targets are looked at, so that nothing is chosen by its grade.
    """
    is_broken_B = ~logits_BLV.detach().sum((1, 2)).isfinite()
    if boost:
        boosts_BL1 = (boost * (expected_BL >= 0))[..., None]
        logits_BLV = logits_BLV.scatter_add(2, expected_BL.clamp(min=0)[..., None], boosts_BL1)
    nats_BL = token_nats(logits_BLV, targets_BL)
    marked_BL = nats_BL.detach().masked_fill(is_broken_B[:, None], torch.nan)
    return ChunkGrades(nats_BL, marked_BL, logits_BLV.detach())


class StepInputs(NamedTuple):
    """What a step is told, as integers; their shapes decide which recording it replays."""

    tokens: np.ndarray
    """(B, L) of the chunk's inputs, with the token before them where there is a past (B, L + 1)."""
    targets: np.ndarray
    """(B, L) tokens to predict."""
    expected: np.ndarray
    """(B, L) tokens that the tilt raises, -1 for none."""
    positions: np.ndarray
    """(T,) of each place in the window, -1 for empty ones."""
    places: np.ndarray
    """(K,) that the chunk's last positions take."""


def record(function: Callable[[], Any], pool: Any) -> Callable[[], Any]:
    """A function on tensors of fixed addresses, recorded as a CUDA graph: a call replays it.

    Its result lies where it lay.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        result = function()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


class DocumentSteps:
    """Grades and trains documents of a group, step by step, without waiting for what comes out.

    The first step of a shape that learns is made by calls, and the next one recorded, both halves of it.
    Recordings share their memory, as none is replayed between another's two halves; the largest come first,
    so that the others fit into what it took.
    """

    def __init__(
        self,
        model: GPT,
        learner: LoraLearner,
        context: int,
        least_chunk: int,
        one_chunk: bool,
        boost: float,
        keeps_logits: bool,
        log_caps_2: Tensor | None,
    ):
        self.model, self.learner, self.context, self.boost = model, learner, context, boost
        self.keeps_logits, self.log_caps_2 = keeps_logits, log_caps_2
        self.device = next(model.parameters()).device
        self.most_rows = len(learner.learns_B)
        # With chunks of one size in each document, none of the window is masked.
        self._num_places = None if one_chunk else context - least_chunk
        self.past = FixedPast(model, self.most_rows, context - least_chunk)
        self.shapes: dict[tuple[int, ...], _Shape] = {}
        """By place of the first document, documents, targets of the chunk, tokens of the window."""
        self._pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None
        self._done: deque[torch.cuda.Event] = deque()

    def start(
        self,
        slot: int,
        batch: DocumentBatch,
        longest: int,
        ledger: Ledger,
        places: np.ndarray | None = None,
    ) -> None:
        """Makes ready for documents of up to `longest` targets, the first in place `slot` of its batch.

        `places` as in `LoraLearner.start`. Steps of all rows whose shapes are yet to be recorded are made
        twice, on nothing.
        """
        self.slot = slot
        self.learner.start(slot, self.most_rows)
        windows, first = dict[tuple[int, int], int](), 0
        # Beyond the context and the last change of chunks all windows are alike.
        most = self.context + max((0, *batch.chunk_ends))
        while True:
            num_new = min(batch.chunk_at(first), self.context)
            if first >= min(longest - num_new, most + num_new):
                break
            windows[len(self.window(first, num_new)[0]), num_new] = first
            first += num_new
        for (length, num_new), first in sorted(windows.items(), reverse=True):
            if (slot, self.most_rows, num_new, length) not in self.shapes:
                nothing_BL = np.zeros((self.most_rows, num_new), dtype=np.int64)
                tokens_BT = np.zeros((self.most_rows, num_new + (length > num_new)), dtype=np.int64)
                inputs = StepInputs(tokens_BT, nothing_BL, nothing_BL - 1, *self.window(first, num_new))
                for _ in range(2):
                    nats_BL = self.predict(inputs, 0, learns=True).nats_BL
                    self.learn(ledger.release_documents(nats_BL, (), "nothing"))
        self.learner.start(slot, self.most_rows, places)
        for ring_BPD in self.past.rings:
            ring_BPD.zero_()

    def rows_for(self, num_documents: int) -> int:
        """The rows of a step for so many: all, or a half, a quarter and so on of them."""
        rows = self.most_rows
        while rows > 1 and -(-rows // 2) >= num_documents:
            rows = -(-rows // 2)
        return rows

    def window(self, first: int, num_new: int) -> tuple[np.ndarray, np.ndarray]:
        """StepInputs' `positions` and `places` of a chunk that begins at `first`."""
        num_kept, most = min(first, self.context - num_new), self._places(num_new)
        lengths, num_used = (*window_lengths(self.context), most + num_new), min(first, most)
        num_past = next(length for length in lengths if length >= num_used + num_new)
        num_past = min(num_past - num_new, most) if num_kept else 0
        # The last position in each place, counted from the first one that is kept.
        past = num_kept - 1 - (first - 1 - np.arange(num_past)) % max(1, most)
        past = np.where(np.arange(num_past) < num_used, np.maximum(past, -1), -1)
        new = np.arange(num_kept, num_kept + num_new)
        kept = np.arange(first + max(0, num_new - most), first + num_new) % max(1, most)
        return np.concatenate((past, new)), kept if most else kept[:0]

    def _places(self, num_new: int) -> int:
        """Places of the past in use with chunks of `num_new` tokens."""
        return self.context - num_new if self._num_places is None else self._num_places

    def unroll(self, end: int, num_new: int, rows: int) -> PastInputs:
        """The past of the first documents in the order of time, for chunks of at least `num_new` tokens."""
        return self.past.unroll(end, self.context - num_new, self._places(num_new), rows)

    def predict(self, inputs: StepInputs, num_learning: int, learns: bool) -> ChunkGrades:
        """Grades a chunk; what it gives lies where the next step's will.

        The first `num_learning` documents are to learn, if `learn` is called, which `learns` says.
        """
        shape = self.slot, *inputs.targets.shape, len(inputs.positions)
        if shape not in self.shapes:
            self.shapes[shape] = _Shape(inputs, self.device)
        self._now = now = self.shapes[shape]
        now.write(inputs)
        self.learner.learns_B.zero_()
        self.learner.learns_B[:num_learning] = 1
        if now.forward is None and now.learned and learns and self._pool is not None:
            now.forward = record(lambda: self._forward(now), self._pool)
        if now.forward is None:
            return self._forward(now)
        grades = now.forward()
        # Waits until the GPU is no more than some steps behind.
        event = torch.cuda.Event()
        event.record()
        self._done.append(event)
        if len(self._done) > _STEPS_AHEAD:
            self._done.popleft().synchronize()
        return grades

    def learn(self, scored: ScoredDocuments) -> None:
        """The step of AdamW on what was just graded."""
        now = self._now
        if now.forward is None:
            self.learner.learn(scored)
            now.learned = True
            return
        if now.backward is None:
            now.backward = record(lambda: self.learner.learn(scored), self._pool)
        now.backward()

    def _forward(self, now: "_Shape") -> ChunkGrades:
        tokens_BT, targets_BL, expected_BL, positions_T, places_K = now.tensors
        rows, num_new = targets_BL.shape
        with torch.enable_grad():
            past = self.past.window(rows, num_new, positions_T, places_K)
            state = self.learner.state(rows, past, self.log_caps_2)
            logits_BLV = self.model.forward(tokens_BT, num_new, state)
            grades = grade_logits(logits_BLV, targets_BL, expected_BL, self.boost)
        return grades if self.keeps_logits else grades._replace(logits_BLV=None)


class _Shape:
    """The inputs of steps of one shape, side by side in one tensor, and what was recorded."""

    def __init__(self, inputs: StepInputs, device: torch.device):
        self.learned = False
        self.forward: Callable[[], ChunkGrades] | None = None
        self.backward: Callable[[], None] | None = None
        self._packed = torch.zeros(sum(part.size for part in inputs), dtype=torch.int64, device=device)
        parts = self._packed.split([part.size for part in inputs])
        self.tensors = tuple(part.view(like.shape) for part, like in zip(parts, inputs, strict=True))

    def write(self, inputs: StepInputs) -> None:
        """Puts the inputs in their place, in one copy that nothing waits for."""
        packed = torch.from_numpy(np.concatenate([part.ravel() for part in inputs]))
        if self._packed.device.type == "cuda":
            packed = packed.pin_memory()
        self._packed.copy_(packed, non_blocking=True)
