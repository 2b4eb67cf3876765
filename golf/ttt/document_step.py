"""Chunks of documents as steps of few fixed shapes, which a GPU records once and then replays.

A step launches thousands of kernels; replayed as a CUDA graph it costs the processor one launch forward and
one backward. So nothing in it may wait for the GPU, and all that it reads stands at fixed addresses.
Shapes: B documents, T tokens of a window, L targets of a chunk, K of a chunk that are kept, V vocabulary.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from golf.model.gpt import GPT
from golf.model.loss import token_nats
from golf.model.state import ForwardState, Past
from golf.ttt.document_cache import FixedPast, window_lengths

_STEPS_AHEAD = 8
"""Steps that may wait for the GPU; a deadline is asked so much ahead of what is done."""


class RecordedLearner(Protocol):
    """What learns at fixed addresses, so that its steps can be recorded."""

    learns_B: Tensor
    """Not 0 for the documents that learn; as long as most documents at once."""
    recorded_steps: "dict[Any, DocumentSteps]"
    """Steps that were made for it, by their options."""

    def start(self, slot: int, num_documents: int) -> None:
        """Makes ready for new documents, the first of which has place `slot` in its batch."""

    def state(
        self, num_documents: int, past: Past | None = None, log_caps_2: Tensor | None = None
    ) -> ForwardState:
        """State with which the model predicts as adapted to the first of these documents."""
        ...

    def reset_adapter(self, broken_B: Tensor) -> None:
        """Gives up adapting to the documents marked in `broken_B` (bool)."""

    def learn(self, scored: Any) -> None:
        """Learns from a ScoredDocuments."""


class StepShape(NamedTuple):
    """What decides which recording a step replays."""

    slot: int
    """The first document's place in its batch."""
    rows: int
    """Documents, filled up with some that do not count."""
    num_past: int
    """Places of the past."""
    num_new: int
    """Targets of the chunk."""


class StepInputs(NamedTuple):
    """What a step is told, of the shapes of its StepShape, as integers."""

    tokens: np.ndarray
    """(B, L) of the chunk's inputs, with the token before them where there is a past (B, L + 1)."""
    targets: np.ndarray
    """(B, L) tokens to predict."""
    expected: np.ndarray
    """(B, L) tokens that the tilt raises."""
    tilts: np.ndarray
    """(B, L), 1 where it does."""
    positions: np.ndarray
    """(T,) of each place in the window, -1 for empty ones."""
    places: np.ndarray
    """(K,) that the chunk's last positions take."""


class StepOutputs(NamedTuple):
    """What a step gives."""

    nats_BL: Tensor
    """With the graph that leads back to what gave them."""
    marked_BL: Tensor
    """The same nats, NaN for documents whose logits were not all finite."""
    logits_BLV: Tensor | None
    """For who wants to see them."""


class Recording:
    """A function on tensors of fixed addresses: called, or recorded as a CUDA graph and replayed."""

    def __init__(self, function: Callable[[], Any], pool: Any):
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._result = function()

    def replay(self) -> Any:
        """Runs it once more; its result lies where it lay."""
        self._graph.replay()
        return self._result


class DocumentSteps:
    """Grades and trains documents of a group, step by step, without waiting for what comes out.

    The first step of a shape that learns is made by calls, and the next one recorded, both halves of it.
    Recordings share their memory, as none is replayed between another's two halves; the largest come first,
    so that the others fit into what it took.
    """

    def __init__(
        self,
        model: GPT,
        learner: RecordedLearner,
        context: int,
        least_chunk: int,
        boost: float = 0.0,
        keeps_logits: bool = False,
        log_caps_2: Tensor | None = None,
    ):
        self.model, self.learner, self.context, self.boost = model, learner, context, boost
        self.keeps_logits, self.log_caps_2 = keeps_logits, log_caps_2
        self.device = next(model.parameters()).device
        self.most_rows = len(learner.learns_B)
        self.past = FixedPast(model, self.most_rows, context - least_chunk)
        self.shapes: dict[StepShape, _Shape] = {}
        self._pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None
        self._done: deque[torch.cuda.Event] = deque()

    def lacks(self, slot: int, num_new: int, longest: int) -> list[tuple[int, StepInputs]]:
        """Steps on nothing, to be made twice before documents of up to `longest` targets, in this order.

        They have the shapes of all rows that are yet to be recorded.
        """
        # Beyond the context all windows are alike.
        firsts = range(0, min(longest - num_new, self.context + num_new), num_new)
        windows = {self.window(first, num_new)[0]: first for first in firsts}
        steps = []
        for num_past, first in sorted(windows.items(), reverse=True):
            if StepShape(slot, self.most_rows, num_past, num_new) not in self.shapes:
                nothing_BL = np.zeros((self.most_rows, num_new), dtype=np.int64)
                tokens_BT = np.zeros((self.most_rows, num_new + bool(num_past)), dtype=np.int64)
                _, *window = self.window(first, num_new)
                steps.append((num_past, StepInputs(tokens_BT, nothing_BL, nothing_BL, nothing_BL, *window)))
        return steps

    def start(self, slot: int) -> None:
        """Makes ready for new documents."""
        self.slot = slot
        self.learner.start(slot, self.most_rows)
        self.past.clear()

    def rows_for(self, num_documents: int) -> int:
        """The rows of a step for so many: all, or a half, a quarter and so on of them."""
        rows = self.most_rows
        while rows > 1 and -(-rows // 2) >= num_documents:
            rows = -(-rows // 2)
        return rows

    def window(self, first: int, num_new: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Places of the past before a chunk that begins at `first`, and StepInputs' `positions`, `places`."""
        most = self.context - num_new
        num_kept = min(first, most)
        num_past = next(length for length in window_lengths(self.context) if length >= num_kept + num_new)
        num_past = num_past - num_new if num_kept else 0
        places = np.arange(num_past)
        past = np.where(places < num_kept, (places - max(0, first - most)) % max(1, most), -1)
        new = np.arange(num_kept, num_kept + num_new)
        kept = np.arange(first + max(0, num_new - most), first + num_new) % max(1, most)
        return num_past, np.concatenate((past, new)), kept if most else kept[:0]

    def predict(self, num_past: int, inputs: StepInputs, num_learning: int, learns: bool) -> StepOutputs:
        """Grades a chunk; what it gives lies where the next step's will.

        The first `num_learning` documents are to learn, if `learn` is called, which `learns` says.
        """
        shape = StepShape(self.slot, len(inputs.targets), num_past, inputs.targets.shape[1])
        if shape not in self.shapes:
            self.shapes[shape] = _Shape(inputs, self.device)
        self._now = now = self.shapes[shape]
        now.write(inputs, self.learner.learns_B, num_learning)
        if now.forward is None and now.learned and learns and self._pool is not None:
            now.forward = Recording(lambda: self._forward(shape, now), self._pool)
        if now.forward is None:
            return self._forward(shape, now)
        outputs = now.forward.replay()
        self._wait()
        return outputs

    def learn(self, scored: Any) -> None:
        """The step of AdamW on what was just graded."""
        now = self._now
        if now.forward is None:
            self.learner.learn(scored)
            now.learned = True
            return
        if now.backward is None:
            now.backward = Recording(lambda: self.learner.learn(scored), self._pool)
        now.backward.replay()

    def _forward(self, shape: StepShape, now: "_Shape") -> StepOutputs:
        tokens_BT, targets_BL, expected_BL, tilts_BL, positions_T, places_K = now.tensors
        with torch.enable_grad():
            past = self.past.window(shape.rows, shape.num_past, shape.num_new, positions_T, places_K)
            state = self.learner.state(shape.rows, past, self.log_caps_2)
            logits_BLV = self.model.forward(tokens_BT, shape.num_new, state)
            is_broken_B = ~logits_BLV.detach().sum((1, 2)).isfinite()
            if self.boost:
                boosts_BL1 = (self.boost * tilts_BL)[..., None]
                logits_BLV = logits_BLV.scatter_add(2, expected_BL[..., None], boosts_BL1)
            nats_BL = token_nats(logits_BLV, targets_BL)
        marked_BL = nats_BL.detach().masked_fill(is_broken_B[:, None], torch.nan)
        return StepOutputs(nats_BL, marked_BL, logits_BLV.detach() if self.keeps_logits else None)

    def _wait(self) -> None:
        """Until the GPU is no more than some steps behind."""
        event = torch.cuda.Event()
        event.record()
        self._done.append(event)
        if len(self._done) > _STEPS_AHEAD:
            self._done.popleft().synchronize()


class _Shape:
    """The inputs of steps of one shape, side by side in one tensor, and what was recorded."""

    def __init__(self, inputs: StepInputs, device: torch.device):
        self.learned = False
        self.forward: Recording | None = None
        self.backward: Recording | None = None
        self._packed = torch.zeros(sum(part.size for part in inputs), dtype=torch.int64, device=device)
        parts = self._packed.split([part.size for part in inputs])
        self.tensors = tuple(part.view(like.shape) for part, like in zip(parts, inputs, strict=True))

    def write(self, inputs: StepInputs, learns_B: Tensor, num_learning: int) -> None:
        """Puts the inputs in their place, in one copy that nothing waits for."""
        packed = torch.from_numpy(np.concatenate([part.ravel() for part in inputs]))
        if self._packed.device.type == "cuda":
            packed = packed.pin_memory()
        self._packed.copy_(packed, non_blocking=True)
        learns_B.zero_()
        learns_B[:num_learning] = 1
