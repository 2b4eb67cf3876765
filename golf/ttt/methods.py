"""Scoring with test-time training, by the method that the settings name."""

from dataclasses import replace
from typing import Any

import numpy as np

from golf.model.gpt import GPT
from golf.score.scorer import ScoredChunk, ScoreResult, Scoring, score
from golf.score.windows import ResolvedWindows
from golf.system.distributed import World
from golf.system.log import RunLog
from golf.ttt.deadline import Deadline, measure_plain
from golf.ttt.document_scorer import score_documents
from golf.ttt.documents import DocumentBatch, count_shares, even_groups, plan_documents, split_documents
from golf.ttt.lora import LoraConfig, LoraLearner, free_bytes, plan_documents_at_once
from golf.ttt.sgd import ChunkAdapter, PhaseTrainer, TTTConfig
from golf.ttt.tilt import NgramTilt


def score_adapting(
    scoring: Scoring,
    ttt: TTTConfig,
    max_seconds: float | None = None,
    learners: dict[Any, tuple[LoraLearner, PhaseTrainer | None]] | None = None,
) -> ScoreResult:
    """Grades every target once, learning only from what was graded; `sgd` and phases leave the model changed.

    With `lora`, `max_tokens` cuts the stream, and the document that it falls in. With `max_seconds`
    adaptation stops in time for the rest to be scored without. The processes of a `world` share the documents
    of `lora`, all within the same time, and have the whole result: on a CPU that of one process to the last
    bit if as many documents are graded at once. ValueError as from `score` (`sgd` has one process) and
    `score_documents`, for a limit shorter than plain scoring, and for adapters that memory cannot hold.
    `learners` keeps what `lora` made, with its recorded steps, for further calls with the same model.
    """
    model, tokens, vocabulary, world = scoring.model, scoring.tokens, scoring.vocabulary, scoring.world
    log, observe, max_tokens = scoring.log, scoring.observe, scoring.max_tokens
    windows = scoring.windows.resolve(model.config.context, next(model.parameters()).device.type)
    target_seconds = (
        0.0 if max_seconds is None else world.all_reduce_any(measure_plain(model, windows), False)[0]
    )
    if ttt.method == "sgd":
        num_targets = len(tokens) - 1 if max_tokens is None else min(max_tokens, len(tokens) - 1)
        deadline = None if max_seconds is None else Deadline(max_seconds, num_targets, target_seconds)
        adapter = StoppedAdapter(ChunkAdapter(model, ttt), deadline)
        result = score(replace(scoring, windows=windows), ttt.chunk_tokens, adapter)
        return result if deadline is None else replace(result, notes=result.notes | deadline.notes())
    batches = plan_lora(tokens, vocabulary.bos_id, ttt.lora, max_tokens)
    at_once, places = plan_groups(model, windows, ttt.lora, batches, log, world)
    windows = replace(windows, batch_tokens=at_once * windows.context)
    # The largest for every process, so that all are refused or none.
    share = max(count_shares(batches, at_once, world.size))
    deadline = None if max_seconds is None else Deadline(max_seconds, share, target_seconds)
    key = ttt, at_once, places
    if learners is not None and key in learners:
        learner, phases = learners[key]
        learner.restart()
        if phases is not None:
            phases.restart()
    else:
        learner = LoraLearner(model, replace(ttt.lora, batch_documents=places), at_once)
        phases = PhaseTrainer(model, ttt) if ttt.phases else None
        if learners is not None:
            learners[key] = learner, phases
    tilt = NgramTilt(ttt.tilt, tokens) if ttt.tilt.boost else None
    result = score_documents(
        model, tokens, vocabulary, windows, batches, log, learner, observe, tilt, phases, deadline, world
    )
    return result if phases is None else replace(result, notes=result.notes | {"phases": phases.phases_done})


def plan_groups(
    model: GPT,
    windows: ResolvedWindows,
    config: LoraConfig,
    batches: list[DocumentBatch],
    log: RunLog | None,
    world: World,
) -> tuple[int, int]:
    """How many documents are graded at once, and how many places of a batch a process has.

    What memory, or the number of processes, makes of it is said. LoraMemoryError as `plan_documents_at_once`.
    """
    device = next(model.parameters()).device
    widest = max(len(batch.documents) for batch in batches)
    share = -(-widest // world.size)
    if device.type == "cuda":
        # Memory alone bounds them there: a pass computes a chunk, not a window.
        windows = replace(windows, batch_tokens=share * windows.context)
    wanted = min(windows.batch_tokens // windows.context, share)
    memory = free_bytes(device, world.local_size)
    most = plan_documents_at_once(model, windows, replace(config, batch_documents=share), batches, memory)
    most = world.all_reduce_min(min(most, wanted))
    at_once = even_groups(share, most)
    num_groups = -(-widest // at_once)
    if log is not None and most < wanted:
        log.info(f"{at_once} documents at once, since {wanted} do not fit into memory")
    if log is not None and world.size > 1:
        sharing = min(num_groups, world.size)
        log.info(f"{sharing} of {world.size} processes learn from documents, {at_once} at once in each")
    return at_once, -(-num_groups // world.size) * at_once


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
