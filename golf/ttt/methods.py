"""Scoring with test-time training, by the method that the settings name."""

import os
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from golf.model.gpt import GPT
from golf.score.scorer import ScoreResult, Scoring, score
from golf.score.windows import ResolvedWindows
from golf.ttt.deadline import Deadline, measure_plain
from golf.ttt.document_scorer import score_documents
from golf.ttt.documents import (
    LENGTH_ORDER,
    STREAM_ORDER,
    DocumentBatch,
    count_shares,
    order_bytes,
    plan_documents,
    split_documents,
)
from golf.ttt.lora import LoraConfig, LoraLearner, find_matrices
from golf.ttt.sgd import ChunkAdapter, PhaseTrainer, TTTConfig
from golf.ttt.tilt import NgramTilt

_USABLE_SHARE = 0.8
"""Of the free memory."""


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
    model, tokens, world = scoring.model, scoring.tokens, scoring.world
    target_seconds = 0.0
    if max_seconds is not None:
        target_seconds, _ = world.all_reduce_any(measure_plain(scoring), False)
    if ttt.method == "sgd":
        num_targets = min(len(tokens) - 1, scoring.max_tokens or len(tokens))
        deadline = None if max_seconds is None else Deadline(max_seconds, num_targets, target_seconds)
        result = score(scoring, ttt.chunk_tokens, ChunkAdapter(model, ttt, deadline))
        return result if deadline is None else replace(result, notes=result.notes | deadline.notes())
    by_length = ttt.order == "length"
    batches = plan_lora(tokens, scoring.vocabulary.bos_id, ttt.lora, scoring.max_tokens, by_length)
    at_once, places = plan_groups(scoring, ttt.lora, batches)
    # The largest for every process, so that all are refused or none.
    share = max(count_shares(batches, at_once, world.size))
    deadline = None if max_seconds is None else Deadline(max_seconds, share, target_seconds)
    key = ttt, at_once, places
    learners = {} if learners is None else learners
    if key not in learners:
        phases = PhaseTrainer(model, ttt) if ttt.phases else None
        learners[key] = LoraLearner(model, replace(ttt.lora, batch_documents=places), at_once), phases
    learner, phases = learners[key]
    learner.restart()
    if phases is not None:
        phases.restart()
    tilt = NgramTilt(ttt.tilt, tokens) if ttt.tilt.boost else None
    windows = scoring.resolved_windows()
    windows = replace(windows, batch_tokens=at_once * windows.context)
    result = score_documents(replace(scoring, windows=windows), batches, learner, tilt, phases, deadline)
    told = order_bytes([span for batch in batches for span in batch.documents]) if by_length else 0
    order = {"order": LENGTH_ORDER if by_length else STREAM_ORDER, "order_bytes": told}
    return replace(result, notes={**order, **result.notes})


def plan_lora(
    tokens: np.ndarray,
    bos_id: int,
    config: LoraConfig,
    max_tokens: int | None = None,
    by_length: bool = True,
) -> list[DocumentBatch]:
    """The batches of the first `max_tokens` targets; ValueError if there is none."""
    num_targets = min(len(tokens) - 1, len(tokens) if max_tokens is None else max_tokens)
    if num_targets < 1:
        raise ValueError(f"{len(tokens)} tokens, max_tokens {max_tokens}: no target to score")
    documents = split_documents(tokens, num_targets, bos_id)
    plan = config.chunk_tokens, config.chunk_lengths, config.batch_documents
    return plan_documents(documents, *plan, by_length)


class LoraMemoryError(ValueError):
    """Adapters that do not fit into memory even for one document at a time."""


def plan_groups(scoring: Scoring, config: LoraConfig, batches: list[DocumentBatch]) -> tuple[int, int]:
    """How many documents are graded at once, and how many places of a batch a process has.

    What memory, or the number of processes, makes of it is said. LoraMemoryError if not even one fits.
    """
    windows, world, device = scoring.resolved_windows(), scoring.world, scoring.device
    widest = max(len(batch.documents) for batch in batches)
    share = -(-widest // world.size)
    # On a GPU memory alone bounds them: a pass computes a chunk, not a window.
    wanted = share if device.type == "cuda" else min(windows.batch_tokens // windows.context, share)
    fitting, memory = wanted, free_bytes(device, world.local_size)
    if memory is not None:
        chunk_tokens = min(windows.context, max(max(batch.chunk_tokens) for batch in batches))
        kept, each = lora_bytes(scoring.model, windows, replace(config, batch_documents=share), chunk_tokens)
        fitting = int(_USABLE_SHARE * memory - kept) // each
        if fitting < 1:
            raise LoraMemoryError(
                f"adapters of rank {config.rank} for {share} documents take {kept:,} bytes, and "
                f"{each:,} more for each that learns; {memory:,} are free"
            )
    most = world.all_reduce_min(min(wanted, fitting))
    at_once = even_groups(share, most)
    num_groups = -(-widest // at_once)
    if most < wanted:
        scoring.log.info(f"{at_once} documents at once, since {wanted} do not fit into memory")
    if world.size > 1:
        sharing = min(num_groups, world.size)
        scoring.log.info(
            f"{sharing} of {world.size} processes learn from documents, {at_once} at once in each"
        )
    return at_once, -(-num_groups // world.size) * at_once


def even_groups(num_places: int, most: int) -> int:
    """How many of `num_places` go together: as few groups as hold at most `most` each, and alike in size."""
    num_groups = -(-num_places // most)
    return -(-num_places // num_groups)


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
    matrices = find_matrices(model, config.projections)
    adapters_bytes = 4 * sum(config.rank * sum(matrix.weight.shape) for matrix in matrices)
    width = model.config.width
    shared_width = width // model.config.num_heads * model.config.num_kv_heads
    # Of a position of the window two inputs, three tensors as wide as its keys and two with a head for each
    # query; of a position of the chunk 24 numbers for each channel.
    numbers = windows.context * (4 * width + 3 * shared_width) + 24 * chunk_tokens * width
    passes_bytes = len(model.plan) * numbers * model.compute_dtype.itemsize
    logits_bytes = 4 * 4 * chunk_tokens * model.config.vocab_size
    moments_bytes = (2 + bool(config.beta_first)) * adapters_bytes
    return adapters_bytes * config.batch_documents, moments_bytes + passes_bytes + logits_bytes
