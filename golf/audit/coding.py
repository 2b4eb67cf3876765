"""The order in which a text can be written and restored under a model's own predictions.

`StreamCoder` and `DocumentCoder` make the predictions of the scorer (sliding windows, or documents with
test-time training) token by token, as somebody must who does not know the next token. The same code runs with
the text, to write it, and without, to restore it: it codes each target with an encoder or a decoder and puts
the coder's answer in its place. What is learned on the way is learned from targets that were coded.

Shapes: B documents side by side, T tokens of a window, V vocabulary, N targets.
"""

from collections.abc import Callable

import numpy as np
import torch

from golf.audit.range_coder import RangeDecoder, RangeEncoder, cumulative_counts
from golf.model.decoder import Decoder, KeyValueCache
from golf.model.gpt import GPT
from golf.score.ledger import Ledger
from golf.score.scorer import Adapt, token_tensor
from golf.score.windows import ResolvedWindows, group_chunks, plan_windows
from golf.ttt.document_scorer import DocumentChunk
from golf.ttt.document_step import PastInputs, grade_logits
from golf.ttt.documents import DocumentBatch, DocumentSpan, deal_batch
from golf.ttt.lora import LoraLearner
from golf.ttt.sgd import PhaseTrainer
from golf.ttt.tilt import NgramTilt

Coder = RangeEncoder | RangeDecoder
Told = Callable[[int], None]
"""Takes the number of targets coded so far."""


class StreamCoder:
    """Codes the targets of a stream in the order of the scorer's sliding windows.

    `tokens` (N + 1) begin with the stream's first token; those after it are read by an encoder, and written.
    With `adapt` the model learns from each chunk after it was coded, as `golf.score.scorer.score` does.
    """

    def __init__(self, model: GPT, windows: ResolvedWindows, chunk_tokens: int, adapt: Adapt | None = None):
        self.model, self.windows, self.chunk_tokens, self.adapt = model, windows, chunk_tokens, adapt

    def code(self, coder: Coder, tokens: np.ndarray, told: Told) -> None:
        """Codes all targets; ValueError for fewer than one window of them."""
        num_targets, windows = len(tokens) - 1, self.windows
        ledger = Ledger(num_targets)
        chunks = group_chunks(plan_windows(num_targets, windows.context, windows.stride), self.chunk_tokens)
        for index, chunk in enumerate(chunks):
            first, end = chunk[0].end - chunk[0].num_graded, chunk[-1].end
            for window in chunk:
                self._code_window(coder, tokens, window.start, window.end - window.num_graded, window.end)
                told(window.end)
            ledger.grade(first, end, f"chunk {index}")
            if self.adapt is not None and index + 1 < len(chunks):
                scored = ledger.release_chunk(tokens, (first, end), f"adapting to chunk {index}")
                self.adapt(scored, index / max(1, len(chunks) - 1))
        ledger.close(num_targets)

    def _code_window(self, coder: Coder, tokens: np.ndarray, start: int, first: int, end: int) -> None:
        """Codes targets `first` to `end`, token i + 1 being target i, from tokens `start` on."""
        reader, device = Decoder(self.model, end - start), self.model.embedding.weight.device
        read = start
        for target in range(first, end):
            logits_BLV = reader.read(token_tensor(tokens[None, read : target + 1], device))
            read = target + 1
            counts_BV1 = cumulative_counts(logits_BLV[:, -1].cpu().numpy())
            tokens[read] = coder.code(counts_BV1[0], tokens[read])


class ChunkCache(KeyValueCache):
    """Keys and values of the positions of a chunk, behind those that `PastInputs` makes of its kept inputs.

    The adapters, which keys and values depend on, stay as they are for a chunk.
    """

    def __init__(self, model: GPT, capacity: int, past: PastInputs, num_past: int):
        super().__init__(model, capacity)
        self._past, self._num_past, self._begun = past, num_past, set[int]()

    def inputs(self, visit: int, x_BLD: torch.Tensor) -> torch.Tensor:
        """The new inputs; at the chunk's first step behind the kept ones."""
        if not self._num_past or visit in self._begun:
            return x_BLD
        self._begun.add(visit)
        kept_BTD = self._past.kept[visit][: len(x_BLD)]
        return torch.cat((kept_BTD[:, kept_BTD.size(1) - self._num_past :], x_BLD), 1)


class DocumentCoder:
    """Codes documents side by side as `golf.ttt.document_scorer.score_documents` grades them.

    Each chunk is coded step by step under the adapters as they are, then read as a whole, which is what the
    adapters learn from. Adapters that break, with logits that are not finite, code with equal probabilities.
    """

    def __init__(
        self,
        model: GPT,
        context: int,
        at_once: int,
        learner: LoraLearner,
        tilt: NgramTilt | None,
        phases: PhaseTrainer | None,
        finds_ends: bool = False,
    ):
        self.finds_ends = finds_ends
        """Whether the documents end with their first BOS, and their spans are only as long as they may be."""
        self.model, self.context, self.at_once = model, context, at_once
        self.learner, self.tilt, self.phases = learner, tilt, phases
        self.device = model.embedding.weight.device
        self.caps = None if phases is None else phases.caps
        self.boost = 0.0 if tilt is None else tilt.config.boost

    def code(
        self, coder: Coder, tokens: np.ndarray, batches: list[DocumentBatch], told: Told
    ) -> list[DocumentSpan]:
        """Codes all targets of the batches' documents, whose first tokens are known; returns their spans."""
        self.coder, self.tokens, self.ledger = coder, tokens, Ledger(len(tokens) - 1)
        self.num_coded, done = 0, list[DocumentSpan]()
        for index, batch in enumerate(batches):
            for group in deal_batch(batch, self.at_once):
                done += self._code_group(group.place, list(group.documents), batch, f"batch {index}")
                told(self.num_coded)
            if index + 1 == len(batches):
                break
            if self.tilt is not None:
                self.tilt.finish_batch()
            if self.phases is not None and self.phases.due(len(done)):
                event = f"phase after {index}"
                self.phases.learn([self.ledger.release_chunk(tokens, span, event) for span in done])
        return done

    def _code_group(
        self, place: int, documents: list[DocumentSpan], batch: DocumentBatch, event: str
    ) -> list[DocumentSpan]:
        """Codes documents side by side; returns them as they turned out to end."""
        self.learner.start(place, len(documents))
        self.past, self._is_broken = PastInputs(), np.zeros(len(documents), dtype=bool)
        first = 0
        while any(left := [document.num_targets > first for document in documents]):
            end = first + min(batch.chunk_at(first), self.context)
            # Rows up to the last one that is left: the place of a document's adapters is its row.
            num_rows = len(left) - left[::-1].index(True)
            documents[:num_rows] = self._code_chunk(documents[:num_rows], first, end, event)
            first = end
        if self._is_broken.any():
            self.learner.reset_adapter(np.flatnonzero(self._is_broken))
        return documents

    def _code_chunk(
        self, documents: list[DocumentSpan], first: int, end: int, event: str
    ) -> list[DocumentSpan]:
        """Codes targets `first` to `end` of each document, and learns from them if the document goes on."""
        begin = max(0, end - self.context)
        cache = ChunkCache(self.model, end - begin, self.past, first - begin)
        for place in range(first, end):
            self._code_step(documents, begin, place, cache)
        chunk = DocumentChunk(self.tokens, documents, first, end)
        for document in documents:
            if document.num_targets > first:
                booked = document.start + first, min(document.start + end, document.end)
                self.ledger.grade(*booked, f"{event}, to token {end}")
        self.num_coded += int(chunk.graded_BL.sum())
        expected_BL = np.full_like(chunk.targets_BL, -1)
        if self.tilt is not None:
            expected_BL = self.tilt.expect(chunk.starts_B1, chunk.targets_BL).astype(np.int64)
            self.tilt.learn(chunk.starts_B1, chunk.targets_BL, chunk.graded_BL)
        going = [row for row, document in enumerate(documents) if document.num_targets > end]
        if not going:
            return documents
        inputs_BT = token_tensor(chunk.read(begin), self.device)
        targets_BL = token_tensor(chunk.read(first, 1), self.device)
        past = self.past.window(len(documents), first - begin, end - first)
        with torch.enable_grad():
            state = self.learner.state(len(documents), past, self.caps)
            logits_BLV = self.model.forward(inputs_BT, end - first, state)
            expected = token_tensor(expected_BL, self.device)
            nats_BL = grade_logits(logits_BLV, targets_BL, expected, self.boost).nats_BL
        trained = [(documents[row].start + first, documents[row].start + end) for row in going]
        scored = self.ledger.release_documents(nats_BL[going], trained, f"{event}, to token {end}")
        self.learner.learn(scored, going)
        return documents

    @torch.inference_mode()
    def _code_step(self, documents: list[DocumentSpan], begin: int, place: int, cache: ChunkCache) -> None:
        """Codes target `place` of each document that has one, from its tokens `begin` on."""
        step = DocumentChunk(self.tokens, documents, place, place + 1)
        if not step.graded_BL.any():
            return
        inputs_BN = cache.extend(token_tensor(step.read(begin), self.device), 1)
        state = self.learner.state(len(documents), cache, self.caps)
        logits_BV = self.model.forward(inputs_BN, 1, state)[:, 0].cpu().numpy()
        self._is_broken[: len(documents)] |= ~np.isfinite(logits_BV).all(1)
        if self.tilt is not None:
            expected_B = self.tilt.expect(step.starts_B1, step.targets_BL)[:, 0]
            rows = np.flatnonzero(expected_B >= 0)
            logits_BV[rows, expected_B[rows]] += np.float32(self.boost)
        counts_BV1 = cumulative_counts(logits_BV)
        for row in np.flatnonzero(step.graded_BL[:, 0]):
            start, target = documents[row].start, documents[row].start + place
            token = self.coder.code(counts_BV1[row], int(self.tokens[target + 1]))
            self.tokens[target + 1] = token
            if self.finds_ends and token == self.model.config.bos_id:
                documents[row] = DocumentSpan(start, target + 1)
