"""Grades documents side by side, chunk by chunk; what a chunk was graded may be learned from at once.

Shapes: B documents graded together, T tokens of a window, L targets of a chunk, N targets, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from golf.data.vocabulary import Vocabulary
from golf.model.gpt import GPT
from golf.model.loss import token_nats
from golf.model.state import ForwardState
from golf.score.ledger import Ledger, LegalityError
from golf.score.scorer import (
    Observer,
    ScoredChunk,
    ScoreResult,
    check_tokens,
    release_chunk,
    token_tensor,
)
from golf.score.tally import Tally
from golf.score.windows import ResolvedWindows, WindowConfig
from golf.system.distributed import World
from golf.system.log import RunLog
from golf.ttt.deadline import Deadline
from golf.ttt.document_cache import PastInputs, can_be_fixed
from golf.ttt.document_step import DocumentSteps, RecordedLearner, StepInputs
from golf.ttt.documents import (
    DOCUMENT_ORDER,
    DocumentBatch,
    DocumentGroup,
    DocumentSpan,
    add_documents,
    deal_batch,
    gather_nats,
    sum_events,
)
from golf.ttt.tilt import NgramTilt, raise_expected

_DOCUMENT_SEAL = object()


@dataclass(frozen=True)
class ScoredDocuments:
    """The chunk that some documents were just graded on. Only the scorer can make one: LegalityError."""

    seal: InitVar[object]
    nats_BL: Tensor
    """The very grades that count, with the graph that leads back to what gave them. In recorded steps some
    rows are documents that have ended, or none: they do not learn."""

    def __post_init__(self, seal: object) -> None:
        if seal is not _DOCUMENT_SEAL:
            raise LegalityError("only the scorer makes ScoredDocuments, of targets that it has graded")


class DocumentLearner(RecordedLearner, Protocol):
    """What learns from each document by itself."""

    fallbacks: int
    """Documents whose adaptation failed and was given up."""
    recorded: bool
    """Whether it is made for DocumentSteps: all that changes stands at fixed addresses."""

    def learn(self, scored: ScoredDocuments) -> None:
        """Learns from what was just graded; the documents that end with it are not in it."""


class PhaseLearner(Protocol):
    """What learns between batches from all documents graded so far."""

    @property
    def caps(self) -> Tensor | None:
        """`ForwardState.log_caps_2` of every forward pass."""
        ...

    def due(self, num_documents: int) -> bool:
        """Whether it wants to learn after so many graded documents."""
        ...

    def learn(self, graded: list[ScoredChunk]) -> None:
        """Learns from the documents, in the order of their grading."""


def score_documents(
    model: GPT,
    tokens: np.ndarray,
    vocabulary: Vocabulary,
    windows: WindowConfig,
    batches: list[DocumentBatch],
    log: RunLog | None = None,
    learner: DocumentLearner | None = None,
    observe: Observer | None = None,
    tilt: NgramTilt | None = None,
    phases: PhaseLearner | None = None,
    deadline: Deadline | None = None,
    world: World | None = None,
) -> ScoreResult:
    """Grades every target of the planned documents once, from its own document alone.

    A chunk is predicted from up to `windows.context` tokens that end with it, of which PastInputs keeps what
    lies behind the chunk. With a `learner` each document is adapted to after each of its chunks; without, the
    same passes are made. `tilt` and `phases` follow the same order. Once `deadline` stops, nothing adapts any
    more and the rest is graded in the windows' strides. Raises ValueError for a token outside the vocabulary
    and a loss that is not finite.

    The processes of a `world` share the groups of documents (`deal_batch`), and all have the whole result.
    Each counts for the tilt, in the one order, what the others grade, and makes every phase itself. Each asks
    a deadline of its own; after one has stopped there is no phase.
    """
    world = World() if world is None else world
    windows = windows.resolve(model.config.context, next(model.parameters()).device.type)
    rows = windows.batch_tokens // windows.context
    num_graded = max(document.end for batch in batches for document in batch.documents)
    check_tokens(tokens[: num_graded + 1], vocabulary.size)
    nats_N = np.full(num_graded, np.nan, dtype=np.float32)
    ledger = Ledger(len(tokens) - 1)
    total = Tally(0.0, 0, 0)
    grader = _DocumentGrader(model, tokens, windows, ledger, nats_N)
    grader.learner, grader.observe, grader.tilt, grader.deadline = learner, observe, tilt, deadline
    grader.caps = None if phases is None else phases.caps
    if learner is not None and learner.recorded and can_be_fixed(model):
        least_chunk = min(windows.context, *(batch.chunk_tokens for batch in batches))
        boost = 0.0 if tilt is None else tilt.config.boost
        seen = observe is not None
        options = windows.context, least_chunk, boost, seen, grader.caps is not None
        if options not in learner.recorded_steps:
            steps = DocumentSteps(model, learner, windows.context, least_chunk, boost, seen, grader.caps)
            learner.recorded_steps[options] = steps
        grader.steps = learner.recorded_steps[options]
    graded: list[DocumentSpan] = []
    with (log or RunLog(quiet=True)).progress("score", num_graded, "tokens") as bar:
        for index, batch in enumerate(batches):
            own: list[DocumentSpan] = []
            for group in deal_batch(batch, rows, world.size):
                if group.process == world.rank:
                    grader.grade(group, batch.chunk_tokens, f"batch {index}")
                    own += group.documents
                else:
                    grader.pass_over(group.documents, batch.chunk_tokens, f"batch {index}, elsewhere")
            if tilt is not None and index + 1 < len(batches):
                # While a GPU is still at the last steps.
                tilt.finish_batch()
            grader.collect()
            total = add_documents(total, own, nats_N, tokens, vocabulary)
            note = f"{total.bits_per_byte:.4f} bpb" if total.num_bytes else None
            bar.advance(sum(document.num_targets for document in batch.documents), note)
            graded += batch.documents
            if (tilt is None and phases is None) or index + 1 == len(batches):
                continue
            is_late = grader.wait_for_all(world)
            if phases is not None and not is_late and phases.due(len(graded)):
                known_N = gather_nats(nats_N, world)
                phases.learn(_hand_over_documents(ledger, tokens, known_N, graded, f"phase after {index}"))
    ledger.close(num_graded)
    if world.size > 1:
        nats_N = gather_nats(nats_N, world)
        # In the order of one process, so that the sum is its sum to the last bit.
        total = add_documents(Tally(0.0, 0, 0), graded, nats_N, tokens, vocabulary)
    fallbacks, num_tilted = learner.fallbacks if learner else 0, tilt.num_tilted if tilt else None
    notes = {
        "order": DOCUMENT_ORDER,
        "documents": len(graded),
        "batches": len(batches),
        "documents_at_once": min(rows, max(len(batch.documents) for batch in batches)),
        **sum_events(fallbacks, num_tilted, deadline, grader.num_graded, world),
    }
    return ScoreResult(total, nats_N, num_graded < len(tokens) - 1, windows, ledger, notes)


def _hand_over_documents(
    ledger: Ledger, tokens: np.ndarray, nats_N: np.ndarray, graded: list[DocumentSpan], event: str
) -> list[ScoredChunk]:
    return [
        release_chunk(ledger, tokens, nats_N, span, (place, len(graded)), event)
        for place, span in enumerate(graded)
    ]


class _Recorded(NamedTuple):
    """What recorded steps have graded, still on the device."""

    documents: tuple[DocumentSpan, ...]
    nats_BN: Tensor
    chunk_tokens: int
    tilted: list[np.ndarray]
    """What the tilt expected in each chunk."""


class _DocumentGrader:
    """Grades documents that start together: the n-th chunk of each is one forward pass."""

    steps: DocumentSteps | None = None
    """How chunks are graded while something learns; None to make each of its own length."""
    _pending: _Recorded | None = None
    learner: DocumentLearner | None
    observe: Observer | None
    tilt: NgramTilt | None
    deadline: Deadline | None
    caps: Tensor | None

    def __init__(
        self, model: GPT, tokens: np.ndarray, windows: ResolvedWindows, ledger: Ledger, nats_N: np.ndarray
    ):
        self.model, self.tokens, self.context, self.stride = model, tokens, windows.context, windows.stride
        self.ledger, self.nats_N, self.num_graded = ledger, nats_N, 0
        self.device = next(model.parameters()).device

    def stops(self) -> bool:
        """Whether there is no time left to adapt; from then on nothing does."""
        if self.deadline is not None and self.deadline.stops(self.num_graded):
            self.learner = self.tilt = None
            return True
        return False

    def wait_for_all(self, world: World) -> bool:
        """Until all have graded what each will learn from; whether one has no time left to adapt."""
        _, is_late = world.all_reduce_any(0.0, self.stops())
        if self.deadline is not None:
            self.deadline.leave_out()
        return is_late

    def grade(self, group: DocumentGroup, chunk_tokens: int, event: str) -> None:
        """Grades all chunks in turn; the documents that are left are always the first ones, being longest."""
        documents = group.documents
        chunk_tokens = min(chunk_tokens, self.context)
        self.past = PastInputs()
        first = least_stride = 0
        if self.learner is not None and self.steps is not None:
            first = self._grade_recorded(self.steps, group, chunk_tokens, event)
            # What was kept is a window less a chunk.
            least_stride = chunk_tokens
        elif self.learner is not None:
            self.learner.start(group.place, len(documents))
        while first < documents[0].num_targets:
            if self.stops():
                whole = self.context if self.steps is None else self.stride
                chunk_tokens = max(self.stride, least_stride) if first else whole
            end = first + chunk_tokens
            left = [document for document in documents if document.num_targets > first]
            going = [document for document in left if document.num_targets > end]
            learner = self.learner if going else None
            with torch.set_grad_enabled(learner is not None):
                nats_BL = self._grade_chunk(left, first, end, f"{event}, to token {end}")
            if learner is not None:
                for document in going:
                    trained = document.start + first, document.start + end
                    self.ledger.train(*trained, f"{event}, adapting to token {end}")
                learner.learn(ScoredDocuments(_DOCUMENT_SEAL, nats_BL[: len(going)]))
            first = end

    def _grade_recorded(
        self, steps: DocumentSteps, group: DocumentGroup, chunk_tokens: int, event: str
    ) -> int:
        """Grades the group by steps of fixed shapes, up to its end or the deadline; targets graded of each.

        Nothing waits for the GPU, so that grades come with `collect`, and with them which documents broke:
        these are then predicted anew, unadapted from their first broken chunk on. What decides it are the
        logits before the targets are looked at.
        """
        documents = group.documents
        self.collect()
        steps.start(group.place)
        for num_past, inputs in steps.lacks(group.place, chunk_tokens, documents[0].num_targets):
            for _ in range(2):
                # No document is in them, and none learns.
                outputs = steps.predict(num_past, inputs, 0, learns=True)
                steps.learn(ScoredDocuments(_DOCUMENT_SEAL, outputs.nats_BL))
        if self.deadline is not None:
            self.deadline.leave_out()
        steps.start(group.place)
        longest = -(-documents[0].num_targets // chunk_tokens) * chunk_tokens
        nats_BN = torch.zeros(len(documents), longest, device=self.device)
        filling = (DocumentSpan(0, 0),) * steps.most_rows
        tilted: list[np.ndarray] = []
        first = 0
        while first < documents[0].num_targets and not self.stops():
            end = first + chunk_tokens
            num_left = sum(document.num_targets > first for document in documents)
            num_going = sum(document.num_targets > end for document in documents)
            rows = (documents + filling)[: steps.rows_for(num_left)]
            starts_B1, ends_B1, targets_BL, graded_BL = _find_targets(rows, first, end)
            num_past, positions_T, places_K = steps.window(first, chunk_tokens)
            read_BT = starts_B1 + np.arange(first - bool(num_past), end)
            expected_BL = np.full_like(targets_BL, -1)
            if self.tilt is not None:
                expected_BL = self.tilt.expect(starts_B1, targets_BL)
                tilted.append(expected_BL)
            inputs = StepInputs(
                self._look_up(read_BT, ends_B1),
                self._look_up(targets_BL + 1, ends_B1 + 1),
                np.maximum(expected_BL, 0).astype(np.int64),
                (expected_BL >= 0).astype(np.int64),
                positions_T,
                places_K,
            )
            outputs = steps.predict(num_past, inputs, num_going, num_going > 0)
            self._show(outputs.logits_BLV, targets_BL, graded_BL)
            nats_BN[:num_left, first:end] = outputs.marked_BL[:num_left]
            for document in documents[:num_left]:
                booked = document.start + first, min(document.start + end, document.end)
                self.ledger.grade(*booked, f"{event}, to token {end}")
            self.num_graded += int(graded_BL.sum())
            if self.tilt is not None:
                self.tilt.learn(starts_B1, targets_BL, graded_BL)
            if num_going:
                for document in documents[:num_going]:
                    trained = document.start + first, document.start + end
                    self.ledger.train(*trained, f"{event}, adapting to token {end}")
                steps.learn(ScoredDocuments(_DOCUMENT_SEAL, outputs.nats_BL))
            first = end
        self._pending = _Recorded(documents, nats_BN[:, :first], chunk_tokens, tilted)
        if first < documents[0].num_targets:
            self.past = steps.past.unroll(first, self.context - chunk_tokens, len(documents))
            self.collect()
        return first

    def collect(self) -> None:
        """Waits for the grades of recorded steps, if there are any, and puts them with the others."""
        if self._pending is None:
            return
        documents, nats_BN, chunk_tokens, tilted = self._pending
        found_BN = nats_BN.cpu().numpy()
        self._mend(documents, found_BN, chunk_tokens, tilted)
        for document, nats in zip(documents, found_BN, strict=True):
            num_graded = min(document.num_targets, len(nats))
            self.nats_N[document.start : document.start + num_graded] = nats[:num_graded]
        self._pending = None

    @torch.no_grad()
    def _mend(
        self,
        documents: tuple[DocumentSpan, ...],
        nats_BN: np.ndarray,
        chunk_tokens: int,
        tilted: list[np.ndarray],
    ) -> None:
        """Puts unadapted predictions in the place of broken ones, NaN, and of what follows them."""
        is_own_BN = np.arange(nats_BN.shape[1]) < [[document.num_targets] for document in documents]
        broken_BN = np.isnan(nats_BN) & is_own_BN
        rows = np.flatnonzero(broken_BN.any(1))
        if not len(rows):
            return
        assert self.steps is not None, "only recorded steps leave grades to collect"
        firsts_B = broken_BN.argmax(1)
        broken_B = torch.zeros(self.steps.most_rows, dtype=torch.bool, device=self.device)
        broken_B[rows] = True
        self.steps.learner.reset_adapter(broken_B)
        past, forgotten = PastInputs(), [documents[row] for row in rows]
        for index, first in enumerate(range(0, nats_BN.shape[1], chunk_tokens)):
            end = first + chunk_tokens
            logits_BLV = self._forward(past, forgotten, end, chunk_tokens)
            past.keep()
            _, ends_B1, targets_BL, graded_BL = _find_targets(forgotten, first, end)
            if tilted:
                expected_BL = np.stack([tilted[index][row % len(tilted[index])] for row in rows])
                logits_BLV = raise_expected(logits_BLV, expected_BL, self.steps.boost)
            self._show(logits_BLV, targets_BL, graded_BL & (first >= firsts_B[rows, None]))
            nats_BL = token_nats(logits_BLV, self._read(targets_BL + 1, ends_B1 + 1)).cpu().numpy()
            for row, nats in zip(rows, nats_BL, strict=True):
                if first >= firsts_B[row]:
                    nats_BN[row, first:end] = nats
        if self.past._kept:
            self.past.put_back(rows.tolist(), past)

    def pass_over(self, documents: tuple[DocumentSpan, ...], chunk_tokens: int, event: str) -> None:
        """Books documents that another process grades; the tilt learns from them in their turn."""
        for start, end in documents:
            self.ledger.grade(start, end, event)
            self.nats_N[start:end] = 0.0
        if self.tilt is None:
            return
        chunk_tokens = min(chunk_tokens, self.context)
        for first in range(0, documents[0].num_targets, chunk_tokens):
            left = [document for document in documents if document.num_targets > first]
            starts_B1, _, targets_BL, graded_BL = _find_targets(left, first, first + chunk_tokens)
            self.tilt.learn_elsewhere(starts_B1, targets_BL, graded_BL)

    def _grade_chunk(self, documents: list[DocumentSpan], first: int, end: int, event: str) -> Tensor:
        """Nats (B, L) of each document's targets `first` to `end`; those behind its own end mean nothing."""
        starts_B1, ends_B1, targets_BL, graded_BL = _find_targets(documents, first, end)
        logits_BLV = self._predict(documents, end, end - first)
        if self.tilt is not None:
            logits_BLV = self.tilt.apply(logits_BLV, starts_B1, targets_BL)
        self._show(logits_BLV, targets_BL, graded_BL)
        nats_BL = token_nats(logits_BLV, self._read(targets_BL + 1, ends_B1 + 1))
        for document in documents:
            booked = document.start + first, min(document.start + end, document.end)
            self.ledger.grade(*booked, event)
        self.num_graded += int(graded_BL.sum())
        if self.tilt is not None:
            self.tilt.learn(starts_B1, targets_BL, graded_BL)
        self.nats_N[targets_BL[graded_BL]] = nats_BL.detach().cpu().numpy()[graded_BL]
        return nats_BL

    def _show(self, logits_BLV: Tensor | None, targets_BL: np.ndarray, graded_BL: np.ndarray) -> None:
        if self.observe is not None:
            assert logits_BLV is not None, "steps keep their logits for an observer"
            log_probs_NV = logits_BLV.detach()[torch.from_numpy(graded_BL).to(self.device)].log_softmax(-1)
            self.observe(targets_BL[graded_BL], log_probs_NV)

    def _read(self, places: np.ndarray, ends_B1: np.ndarray) -> Tensor:
        return token_tensor(self._look_up(places, ends_B1), self.device)

    def _look_up(self, places: np.ndarray, ends_B1: np.ndarray) -> np.ndarray:
        """Tokens of the stream, int64, 0 from a document's own end on."""
        inside = np.minimum(places, ends_B1 - 1)
        return np.where(places < ends_B1, self.tokens[inside], 0).astype(np.int64)

    def _predict(self, documents: list[DocumentSpan], end: int, num_last: int) -> Tensor:
        """Logits (B, L, V) of the chunk that ends at `end`."""
        logits_BLV = self._forward(self.past, documents, end, num_last, self.learner)
        if self.learner is not None:
            broken_B = ~logits_BLV.detach().sum((1, 2)).isfinite()
            if broken_B.any():
                # Decided before the targets are looked at, so that nothing is chosen by its grade.
                self.learner.reset_adapter(broken_B)
                self._forget(documents, broken_B.nonzero().flatten().tolist(), end - num_last, num_last)
                logits_BLV = self._forward(self.past, documents, end, num_last, self.learner)
        self.past.keep()
        return logits_BLV

    def _forward(
        self,
        past: PastInputs,
        documents: list[DocumentSpan],
        end: int,
        num_last: int,
        learner: DocumentLearner | None = None,
    ) -> Tensor:
        starts_B1 = np.array([[document.start] for document in documents])
        ends_B1 = np.array([[document.end] for document in documents])
        places_BT = starts_B1 + np.arange(max(0, end - self.context), end)
        inputs_BT = self._read(places_BT, ends_B1)
        # Windows grow with the document: a compiled forward would be compiled anew for each length.
        past = past.window(len(documents), inputs_BT.size(1) - num_last, num_last)
        if learner is None:
            return self.model.forward(inputs_BT, num_last, ForwardState(past, log_caps_2=self.caps))
        return self.model.forward(inputs_BT, num_last, learner.state(len(documents), past, self.caps))

    @torch.no_grad()
    def _forget(self, documents: list[DocumentSpan], rows: list[int], end: int, chunk_tokens: int) -> None:
        """Computes the past of some documents anew up to `end`, as the unadapted model sees it."""
        if end == 0:
            return
        past, forgotten = PastInputs(), [documents[row] for row in rows]
        for chunk_end in range(chunk_tokens, end + 1, chunk_tokens):
            self._forward(past, forgotten, chunk_end, chunk_tokens)
            past.keep()
        self.past.put_back(rows, past)


def _find_targets(
    documents: Sequence[DocumentSpan], first: int, end: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Starts and ends (B, 1), targets `first` to `end` of each document (B, L), and which are its own."""
    starts_B1 = np.array([[document.start] for document in documents])
    ends_B1 = np.array([[document.end] for document in documents])
    targets_BL = starts_B1 + np.arange(first, end)
    return starts_B1, ends_B1, targets_BL, targets_BL < ends_B1
