"""Grades documents side by side, chunk by chunk; what a chunk was graded may be learned from at once.

Shapes: B documents graded together, T tokens of a window, L targets of a chunk, N targets, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from golf.model.state import ForwardState
from golf.score.ledger import Ledger
from golf.score.scorer import ScoreResult, Scoring, check_tokens, tally_targets, token_tensor
from golf.score.tally import Tally
from golf.ttt.deadline import Deadline
from golf.ttt.document_step import (
    ChunkGrades,
    DocumentSteps,
    PastInputs,
    StepInputs,
    can_be_fixed,
    grade_logits,
)
from golf.ttt.documents import DocumentBatch, DocumentGroup, DocumentSpan, deal_batch
from golf.ttt.lora import LoraLearner
from golf.ttt.sgd import PhaseTrainer
from golf.ttt.tilt import NgramTilt


def score_documents(
    scoring: Scoring,
    batches: list[DocumentBatch],
    learner: LoraLearner | None = None,
    tilt: NgramTilt | None = None,
    phases: PhaseTrainer | None = None,
    deadline: Deadline | None = None,
) -> ScoreResult:
    """Grades every target of the planned documents once, from its own document alone.

    A chunk is predicted from up to `windows.context` tokens that end with it, of which PastInputs keeps what
    lies behind the chunk. With a `learner` each document is adapted to after each of its chunks; without, the
    same passes are made. `tilt` and `phases` follow the same order. Once `deadline` stops, nothing adapts any
    more and the rest is graded in the windows' strides. Raises ValueError for a token outside the vocabulary
    and a loss that is not finite.

    The processes of a world share the groups of documents (`deal_batch`), and all have the whole result.
    Each counts for the tilt, in the one order, what the others grade, and makes every phase itself. Each asks
    a deadline of its own; after one has stopped there is no phase.
    """
    tokens, world = scoring.tokens, scoring.world
    windows = scoring.resolved_windows()
    rows = windows.batch_tokens // windows.context
    grader = _DocumentGrader(scoring, batches, learner, tilt, phases, deadline)
    ledger, nats_N, num_targets = grader.ledger, grader.nats_N, len(grader.nats_N)
    check_tokens(tokens[: num_targets + 1], scoring.vocabulary.size)
    total = Tally(0.0, 0, 0)
    graded: list[DocumentSpan] = []
    with scoring.log.progress("score", num_targets, "tokens") as bar:
        for index, batch in enumerate(batches):
            own: list[DocumentSpan] = []
            for group in deal_batch(batch, rows, world.size):
                if group.process == world.rank:
                    grader.grade(group, batch, f"batch {index}")
                    own += group.documents
                else:
                    grader.pass_over(group.documents, batch, f"batch {index}, elsewhere")
            if tilt is not None and index + 1 < len(batches):
                # While a GPU is still at the last steps.
                tilt.finish_batch()
            grader.collect()
            total = grader.tally(own, total)
            note = f"{total.bits_per_byte:.4f} bpb" if total.num_bytes else None
            bar.advance(sum(document.num_targets for document in batch.documents), note)
            graded += batch.documents
            if (tilt is None and phases is None) or index + 1 == len(batches):
                continue
            # Until all have graded what each will learn from.
            _, is_late = world.all_reduce_any(0.0, grader.stops())
            if deadline is not None:
                deadline.leave_out()
            if phases is not None and not is_late and phases.due(len(graded)):
                event = f"phase after {index}"
                phases.learn([ledger.release_chunk(tokens, span, event) for span in graded])
    ledger.close(num_targets)
    if world.size > 1:
        # Each has the others' as 0.
        world.sum(torch.from_numpy(nats_N))()
        # In the order of one process, so that the sum is its sum to the last bit.
        total = grader.tally(graded, Tally(0.0, 0, 0))
    notes = {
        "documents": len(graded),
        "batches": len(batches),
        "documents_at_once": min(rows, max(len(batch.documents) for batch in batches)),
        **grader.sum_events(tilt),
    }
    if phases is not None:
        notes["phases"] = phases.phases_done
    return ScoreResult(total, nats_N, num_targets < len(tokens) - 1, windows, ledger, notes)


class DocumentChunk:
    """Targets `first` to `end` of some documents, side by side: arrays (B, 1) and (B, L)."""

    def __init__(self, tokens: np.ndarray, documents: Sequence[DocumentSpan], first: int, end: int):
        self.first, self.end, self._tokens = first, end, tokens
        spans_B2 = np.array(documents)
        self.starts_B1, self._ends_B1 = spans_B2[:, :1], spans_B2[:, 1:]
        self.targets_BL = self.starts_B1 + np.arange(first, end)
        self.graded_BL = self.targets_BL < self._ends_B1
        """Which are the document's own, and not behind its end."""
        self.expected_BL = np.full_like(self.targets_BL, -1)
        """Tokens that the tilt raises, -1 for none."""

    def read(self, first: int, shift: int = 0) -> np.ndarray:
        """The documents' inputs (`shift` 0) or targets (1) from `first` on, int64, 0 behind their ends."""
        places = self.starts_B1 + np.arange(first, self.end)
        inside = np.minimum(places, self._ends_B1 - 1)
        return np.where(places < self._ends_B1, self._tokens[inside + shift], 0).astype(np.int64)


class _DocumentGrader:
    """Grades documents that start together: the n-th chunk of each is one forward pass.

    Nothing waits for a GPU until `collect`. Only that shows which documents broke: these are predicted anew,
    unadapted from their first broken chunk on.
    """

    def __init__(
        self,
        scoring: Scoring,
        batches: list[DocumentBatch],
        learner: LoraLearner | None,
        tilt: NgramTilt | None,
        phases: PhaseTrainer | None,
        deadline: Deadline | None,
    ):
        windows, self.scoring, self.device = scoring.resolved_windows(), scoring, scoring.device
        self.tokens, self.context, self.stride = scoring.tokens, windows.context, windows.stride
        num_targets = max(document.end for batch in batches for document in batch.documents)
        self.ledger, self.num_graded = Ledger(len(self.tokens) - 1), 0
        self.nats_N = np.full(num_targets, np.nan, dtype=np.float32)
        self.learner = self._given_learner = learner
        self.tilt, self.deadline = tilt, deadline
        self.caps = None if phases is None else phases.caps
        self.steps: DocumentSteps | None = None
        """How chunks are graded while something learns; None to make each of its own length."""
        self._boost = 0.0 if tilt is None else tilt.config.boost
        self._chunks: list[DocumentChunk] = []
        if learner is not None and learner.recorded and can_be_fixed(scoring.model):
            least_chunk = min(self.context, *(min(batch.chunk_tokens) for batch in batches))
            one_chunk = all(len(batch.chunk_tokens) == 1 for batch in batches)
            options = self.context, least_chunk, one_chunk, self._boost, scoring.observe is not None
            key = *options, self.caps is not None
            if key not in learner.recorded_steps:
                learner.recorded_steps[key] = DocumentSteps(scoring.model, learner, *options, self.caps)
            self.steps = learner.recorded_steps[key]
        # So many documents as have recorded steps may not fit with whole windows.
        self._first_plain_chunk = self.context if self.steps is None else self.stride

    def stops(self) -> bool:
        """Whether there is no time left to adapt; from then on nothing does."""
        if self.deadline is not None and self.deadline.stops(self.num_graded):
            self.learner = self.tilt = self.steps = None
            return True
        return False

    def tally(self, documents: Sequence[DocumentSpan], total: Tally) -> Tally:
        """The total with graded documents added to it one after the other."""
        for start, end in documents:
            tokens_N1 = self.tokens[start : end + 1]
            total += tally_targets(self.nats_N[start:end], tokens_N1, self.scoring.vocabulary)
        return total

    def sum_events(self, tilt: NgramTilt | None) -> dict[str, Any]:
        """What a record says of all processes: documents given up, tokens tilted, when adapting stopped.

        Adaptation stopped after as many tokens as all processes together had graded when each of them
        stopped, or was done.
        """
        stopped_after = None if self.deadline is None else self.deadline.stopped_after
        num_adapting = self.num_graded if stopped_after is None else stopped_after
        fallbacks = self._given_learner.fallbacks if self._given_learner else 0
        own = fallbacks, tilt.num_tilted if tilt else 0, stopped_after is not None, num_adapting
        sums = torch.tensor(own, dtype=torch.float64)
        self.scoring.world.sum(sums)()
        fallbacks, num_tilted, num_stopped, num_adapting = map(int, sums.tolist())
        notes: dict[str, Any] = {"unadapted_documents": fallbacks}
        if tilt is not None:
            notes["tilted_tokens"] = num_tilted
        if self.deadline is not None:
            notes |= self.deadline.notes()
            notes["adaptation_stopped_after_tokens"] = num_adapting if num_stopped else None
        return notes

    def grade(self, group: DocumentGroup, batch: DocumentBatch, event: str) -> None:
        """Grades all chunks in turn; the longest documents come first, so that those left are the first."""
        rows = sorted(range(len(group.documents)), key=lambda row: -group.documents[row].num_targets)
        documents = tuple(group.documents[row] for row in rows)
        places = None if rows == sorted(rows) else np.array(rows)
        longest, steps, plain_chunk = documents[0].num_targets, self.steps, 0
        self.collect()
        if steps is not None:
            steps.start(group.place, batch, longest, self.ledger, places)
            if self.deadline is not None:
                self.deadline.leave_out()
        elif self.learner is not None:
            self.learner.start(group.place, len(documents), places)
        self._documents, self.past = documents, PastInputs()
        self._nats_BN = torch.zeros(len(documents), longest + self.context, device=self.device)
        first = least_stride = 0
        while first < longest:
            chunk_tokens = min(batch.chunk_at(first), self.context)
            if self.stops():
                if first and steps is not None:
                    # What was kept is a window less a chunk.
                    least_stride = chunk_tokens
                    self.past = steps.unroll(first, chunk_tokens, len(documents))
                steps = None
                self.collect()
                plain_chunk = max(self.stride, least_stride) if first else self._first_plain_chunk
            end = first + (plain_chunk or chunk_tokens)
            left = [document for document in documents if document.num_targets > first]
            self._grade_chunk(left, first, end, event)
            first = end

    def _grade_chunk(self, documents: Sequence[DocumentSpan], first: int, end: int, event: str) -> None:
        """Grades targets `first` to `end` of each document, and learns from them if the document goes on."""
        learner, steps = self.learner, self.steps
        num_left, going = len(documents), [document for document in documents if document.num_targets > end]
        filling = 0 if steps is None else steps.rows_for(num_left) - num_left
        chunk = DocumentChunk(self.tokens, [*documents, *[DocumentSpan(0, 0)] * filling], first, end)
        if self.tilt is not None:
            chunk.expected_BL = self.tilt.expect(chunk.starts_B1, chunk.targets_BL).astype(np.int64)
        if steps is None:
            with torch.set_grad_enabled(learner is not None and bool(going)):
                grades = self._predict(self.past, chunk, learner)
        else:
            window = steps.window(first, end - first)
            read_BT = chunk.read(first - (len(window[0]) > end - first))
            inputs = StepInputs(read_BT, chunk.read(first, 1), chunk.expected_BL, *window)
            grades = steps.predict(inputs, len(going), bool(going))
        self.scoring.show(grades.logits_BLV, chunk.targets_BL, chunk.graded_BL)
        self._nats_BN[:num_left, first:end] = grades.marked_BL[:num_left]
        self._chunks.append(chunk)
        for document in documents:
            booked = document.start + first, min(document.start + end, document.end)
            self.ledger.grade(*booked, f"{event}, to token {end}")
        self.num_graded += int(chunk.graded_BL.sum())
        if self.tilt is not None:
            self.tilt.learn(chunk.starts_B1, chunk.targets_BL, chunk.graded_BL)
        if learner is not None and going:
            # Recorded steps have all rows, of which some do not learn.
            nats_BL = grades.nats_BL[: len(going)] if steps is None else grades.nats_BL
            trained = [(document.start + first, document.start + end) for document in going]
            scored = self.ledger.release_documents(nats_BL, trained, f"{event}, adapting to token {end}")
            (steps or learner).learn(scored)

    def _predict(self, past: PastInputs, chunk: DocumentChunk, learner: LoraLearner | None) -> ChunkGrades:
        """Grades a chunk by a window of its own length; `past` is then that of the next chunk."""
        inputs_BT = token_tensor(chunk.read(max(0, chunk.end - self.context)), self.device)
        (rows, length), num_new = inputs_BT.shape, chunk.end - chunk.first
        past = past.window(rows, length - num_new, num_new)
        state = ForwardState(past, log_caps_2=self.caps)
        if learner is not None:
            state = learner.state(rows, past, self.caps)
        # Windows grow with the document: a compiled forward would be compiled anew for each length.
        logits_BLV = self.scoring.model.forward(inputs_BT, num_new, state)
        targets_BL = token_tensor(chunk.read(chunk.first, 1), self.device)
        return grade_logits(logits_BLV, targets_BL, token_tensor(chunk.expected_BL, self.device), self._boost)

    def collect(self) -> None:
        """Waits for the grades of all chunks since the last call, and puts them with the others."""
        if not self._chunks:
            return
        nats_BN = self._nats_BN.cpu().numpy()
        rows = np.flatnonzero(np.isnan(nats_BN).any(1))
        first, end = self._chunks[0].first, self._chunks[-1].end
        # A rest that was graded after the deadline is unadapted.
        if len(rows) and first == 0 and self._given_learner is not None:
            self._given_learner.reset_adapter(rows)
            self._mend(nats_BN, rows)
        for document, nats_N in zip(self._documents, nats_BN, strict=True):
            until = max(first, min(end, document.num_targets))
            self.nats_N[document.start + first : document.start + until] = nats_N[first:until]
        self._chunks.clear()

    @torch.no_grad()
    def _mend(self, nats_BN: np.ndarray, rows: np.ndarray) -> None:
        """Puts unadapted predictions in the place of broken ones, NaN, and of what follows them."""
        documents, past = [self._documents[row] for row in rows], PastInputs()
        firsts_B1 = np.isnan(nats_BN[rows]).argmax(1)[:, None]
        for chunk in self._chunks:
            mended = DocumentChunk(self.tokens, documents, chunk.first, chunk.end)
            # Of documents that have ended any row does.
            mended.expected_BL = chunk.expected_BL[rows % len(chunk.expected_BL)]
            grades, is_after_B1 = self._predict(past, mended, None), chunk.first >= firsts_B1
            self.scoring.show(grades.logits_BLV, mended.targets_BL, mended.graded_BL & is_after_B1)
            place = rows, slice(chunk.first, chunk.end)
            nats_BN[place] = np.where(is_after_B1, grades.nats_BL.cpu().numpy(), nats_BN[place])
        self.past.put_back(rows, past)

    def pass_over(self, documents: tuple[DocumentSpan, ...], batch: DocumentBatch, event: str) -> None:
        """Books documents that another process grades; the tilt learns from them in their turn."""
        for start, end in documents:
            self.ledger.grade(start, end, event)
            self.nats_N[start:end] = 0.0
        if self.tilt is None:
            return
        first, longest = 0, max(document.num_targets for document in documents)
        while first < longest:
            left = [document for document in documents if document.num_targets > first]
            end = first + min(batch.chunk_at(first), self.context)
            chunk = DocumentChunk(self.tokens, left, first, end)
            self.tilt.learn(chunk.starts_B1, chunk.targets_BL, chunk.graded_BL, elsewhere=True)
            first = end
