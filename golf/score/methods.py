"""Scoring with test-time training, by the method that the settings name."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np

from golf.data.vocabulary import Vocabulary
from golf.log import RunLog
from golf.model.gpt import GPT
from golf.score.adapt import ChunkAdapter, TestTimeConfig
from golf.score.deadline import Deadline, measure_plain
from golf.score.document_plan import DocumentBatch, plan_documents, split_documents
from golf.score.document_scorer import score_documents
from golf.score.lora import LoraConfig, LoraLearner
from golf.score.memory import free_bytes, plan_documents_at_once
from golf.score.phases import PhaseTrainer
from golf.score.scorer import Observer, ScoredChunk, ScoreResult, score
from golf.score.tilt import NgramTilt
from golf.score.windows import WindowConfig


def score_adapting(
    model: GPT,
    tokens: np.ndarray,
    vocabulary: Vocabulary,
    windows: WindowConfig,
    ttt: TestTimeConfig,
    log: RunLog | None = None,
    max_tokens: int | None = None,
    observe: Observer | None = None,
    max_seconds: float | None = None,
) -> ScoreResult:
    """Grades every target once, learning only from what was graded; `sgd` and phases leave the model changed.

    With `lora`, `max_tokens` cuts the stream, and the document that it falls in. With `max_seconds`
    adaptation stops in time for the rest to be scored without. ValueError as from `score` and
    `score_documents`, for a limit shorter than plain scoring, and for adapters that memory cannot hold.
    """
    device = next(model.parameters()).device
    windows = windows.resolve(model.config.context, device.type)
    deadline = None
    if max_seconds is not None:
        num_targets = len(tokens) - 1 if max_tokens is None else min(max_tokens, len(tokens) - 1)
        deadline = Deadline(max_seconds, num_targets, measure_plain(model, windows))
    if ttt.method == "sgd":
        adapter = StoppedAdapter(ChunkAdapter(model, ttt), deadline)
        result = score(
            model, tokens, vocabulary, windows, log, ttt.chunk_tokens, max_tokens, adapter, observe
        )
        return result if deadline is None else replace(result, notes=result.notes | deadline.notes())
    batches = plan_lora(tokens, vocabulary.bos_id, ttt.lora, max_tokens)
    at_once = plan_documents_at_once(model, windows, ttt.lora, batches, free_bytes(device))
    wanted = min(windows.batch_tokens // windows.context, ttt.lora.batch_documents)
    windows = replace(windows, batch_tokens=min(windows.batch_tokens, at_once * windows.context))
    if log is not None and at_once < min(wanted, max(len(batch.documents) for batch in batches)):
        log.say(f"{at_once} documents at once instead of {wanted}: more do not fit into memory")
    learner = LoraLearner(model, ttt.lora, at_once)
    tilt = NgramTilt(ttt.tilt, tokens) if ttt.tilt.boost else None
    phases = PhaseTrainer(model, ttt) if ttt.phases else None
    with nullcontext() if phases is None else phases.attached():
        result = score_documents(
            model, tokens, vocabulary, windows, batches, log, learner, observe, tilt, phases, deadline
        )
    return result if phases is None else replace(result, notes=result.notes | {"phases": phases.phases_done})


class StoppedAdapter:
    """Hands graded chunks on to be learned from until the deadline says that time is short."""

    def __init__(self, adapter: ChunkAdapter, deadline: Deadline | None):
        self._adapter, self._deadline, self._num_graded = adapter, deadline, 0

    def __call__(self, chunk: ScoredChunk) -> None:
        self._num_graded += len(chunk.nats_N)
        if self._deadline is None or not self._deadline.stops(self._num_graded):
            self._adapter(chunk)


def plan_lora(
    tokens: np.ndarray, bos_id: int, config: LoraConfig, max_tokens: int | None = None
) -> list[DocumentBatch]:
    """The batches of the first `max_tokens` targets; ValueError if there is none."""
    num_targets = len(tokens) - 1 if max_tokens is None else min(max_tokens, len(tokens) - 1)
    if num_targets < 1:
        raise ValueError(f"{len(tokens)} tokens, max_tokens {max_tokens}: no target to score")
    documents = split_documents(tokens, num_targets, bos_id)
    return plan_documents(documents, config.chunk_tokens, config.chunk_lengths, config.batch_documents)
