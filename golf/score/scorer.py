"""Grades a stream of tokens, chunk by chunk; what is graded may be handed on to be learned from.

Shapes: B windows of a batch, T context, L positions computed, N targets graded, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golf.data.vocabulary import Vocabulary
from golf.model.gpt import GPT
from golf.model.loss import token_nats
from golf.score.ledger import Ledger, LegalityError
from golf.score.tally import Tally
from golf.score.windows import ResolvedWindows, Window, WindowConfig, group_chunks, plan_windows
from golf.system.distributed import World
from golf.system.log import RunLog

CHUNK_TOKENS = 32_768
_SCORER_SEAL = object()

Observer = Callable[[np.ndarray, Tensor], None]
"""Takes the numbers of some targets (N,) and their log probabilities (N, V), before the targets are read."""
Grade = Callable[[Tensor, Tensor], Tensor]
"""Nats (B, T) of targets (B, T) by inputs (B, T), for batches of one shape."""


@dataclass(frozen=True)
class ScoredChunk:
    """Consecutive targets that have been graded. Only the scorer can make one: LegalityError otherwise."""

    seal: InitVar[object]
    index: int
    """Its place among the chunks of the stream, from 0."""
    num_chunks: int
    """Chunks of the whole stream."""
    first_target: int
    """The first graded target; target i is token i + 1 of the stream."""
    tokens_N1: np.ndarray
    """int64: the token before the first target, then the targets."""
    nats_N: np.ndarray
    """float32: what each target was graded."""

    def __post_init__(self, seal: object) -> None:
        if seal is not _SCORER_SEAL:
            raise LegalityError("only the scorer makes a ScoredChunk, of targets that it has graded")


@dataclass(frozen=True)
class ScoreResult:
    """The score of a stream, or of its first tokens."""

    tally: Tally
    nats_N: np.ndarray
    """float32: each graded target's, in the order of the stream."""
    partial: bool
    """Whether targets of the stream were left out."""
    windows: ResolvedWindows
    """The windows that were used."""
    ledger: Ledger
    notes: dict[str, Any] = field(default_factory=dict)
    """What else the record says of it, as plain JSON values."""


@dataclass(frozen=True)
class Scoring:
    """A stream of tokens, the model that grades it, and under which windows."""

    model: GPT
    tokens: np.ndarray
    vocabulary: Vocabulary
    windows: WindowConfig
    max_tokens: int | None = None
    """Limit on the targets to grade, from the start of the stream."""
    observe: Observer | None = None
    log: RunLog | None = None
    world: World = field(default_factory=World)
    """The processes that share the work."""


def score(
    scoring: Scoring,
    chunk_tokens: int = CHUNK_TOKENS,
    adapt: Callable[[ScoredChunk], None] | None = None,
    grade: Grade | None = None,
) -> ScoreResult:
    """Grades every target of a stream once, under sliding windows, in chunks of about `chunk_tokens`.

    With `adapt`, each chunk is handed to it after it was graded; what it changes in the model counts from
    the next chunk on. Without it the same forward passes are made, so that an adapter that changes nothing
    changes no digit. `max_tokens` grades the windows that end within so many targets, with the nats they
    have in the whole stream. In a `world` of several each process grades its share of the chunks and all have
    the whole result; with `adapt` every chunk waits for the one before, so there is no share to take.
    `grade` stands for the model's own forward pass where windows are disjoint and nothing observes.
    ValueError for that, for a stream or `max_tokens` shorter than one window, a token outside the vocabulary,
    and a loss that is not finite.
    """
    model, tokens, vocabulary, world = scoring.model, scoring.tokens, scoring.vocabulary, scoring.world
    windows, observe = scoring.windows, scoring.observe
    if grade is not None and (adapt is not None or observe is not None):
        raise ValueError("grade gives nats alone: nothing can observe or adapt beside it")
    if adapt is not None and world.size > 1:
        raise ValueError(f"what is learned chunk by chunk is scored in one process; these are {world.size}")
    num_targets = len(tokens) - 1
    windows = windows.resolve(model.config.context, next(model.parameters()).device.type)
    if grade is not None and windows.stride != windows.context:
        raise ValueError(f"grade takes disjoint windows; the stride is {windows.stride} of {windows.context}")
    chunks = group_chunks(plan_windows(num_targets, windows.context, windows.stride), chunk_tokens)
    batch_size = windows.batch_tokens // windows.context
    if grade is None:
        batch_size = min(batch_size, max(map(len, chunks)))
    num_chunks = len(chunks)
    if scoring.max_tokens is not None:
        chunks = _cut_chunks(chunks, scoring.max_tokens)
    num_graded = chunks[-1][-1].end
    nats_N = np.zeros(num_graded, dtype=np.float32)
    ledger = Ledger(num_targets)
    total = Tally(0.0, 0, 0)
    with (scoring.log or RunLog(quiet=True)).progress("score", num_graded, "tokens") as bar:
        for index, chunk in enumerate(chunks):
            first, end = chunk[0].end - chunk[0].num_graded, chunk[-1].end
            check_tokens(tokens[chunk[0].start : end + 1], vocabulary.size)
            ledger.grade(first, end, f"chunk {index}")
            if index % world.size != world.rank:
                continue
            nats_N[first:end] = _grade_chunk(model, tokens, chunk, windows, batch_size, observe, grade)
            tally = tally_targets(nats_N[first:end], tokens[first : end + 1], vocabulary)
            total += tally
            if adapt is not None and index + 1 < len(chunks):
                event = f"adapting to chunk {index}"
                adapt(release_chunk(ledger, tokens, nats_N, (first, end), (index, num_chunks), event))
            bar.advance(end - first, f"{total.bits_per_byte:.4f} bpb" if total.num_bytes else None)
    ledger.close(num_graded)
    total = sum_tallies(total, world)
    world.sum(torch.from_numpy(nats_N))()
    return ScoreResult(total, nats_N, num_graded < num_targets, windows, ledger)


def sum_tallies(own: Tally, world: World) -> Tally:
    """The tally of what all processes graded."""
    sums = torch.tensor([own.nats, own.num_tokens, own.num_bytes], dtype=torch.float64)
    world.sum(sums)()
    return Tally(float(sums[0]), int(sums[1]), int(sums[2]))


def release_chunk(
    ledger: Ledger,
    tokens: np.ndarray,
    nats_N: np.ndarray,
    targets: tuple[int, int],
    place: tuple[int, int],
    event: str,
) -> ScoredChunk:
    """Targets (half-open) as what may be learned from: the one way to a ScoredChunk.

    `place` is the chunk's index among so many. LegalityError if the ledger has one of the targets not graded.
    """
    first, end = targets
    ledger.train(first, end, event)
    tokens_N1 = tokens[first : end + 1].astype(np.int64)
    return ScoredChunk(_SCORER_SEAL, *place, first, tokens_N1, nats_N[first:end].copy())


def check_tokens(tokens: np.ndarray, vocab_size: int) -> None:
    """Raises ValueError for a token outside the vocabulary."""
    if tokens.max() >= vocab_size:
        raise ValueError(f"token {tokens.max()} is to be scored; the vocabulary has {vocab_size}")


def tally_targets(nats_N: np.ndarray, tokens_N1: np.ndarray, vocabulary: Vocabulary) -> Tally:
    """The tally of consecutive targets and the token before them; ValueError unless all grades are finite."""
    nats = float(nats_N.sum(dtype=np.float64))
    if not math.isfinite(nats):
        raise ValueError(
            f"a token was graded {nats_N[~np.isfinite(nats_N)][0]} nats; expected a finite number"
        )
    return Tally(nats, len(nats_N), int(vocabulary.count_bytes(tokens_N1[:-1], tokens_N1[1:]).sum()))


def _cut_chunks(chunks: list[list[Window]], max_tokens: int) -> list[list[Window]]:
    kept = [[window for window in chunk if window.end <= max_tokens] for chunk in chunks]
    if not kept[0]:
        raise ValueError(f"max_tokens is {max_tokens:,}; the first window alone grades {chunks[0][0].end:,}")
    return [chunk for chunk in kept if chunk]


def _split_batches(chunk: list[Window], stride: int, size: int) -> Iterator[tuple[list[Window], int]]:
    """Windows to compute together, and the rows of that computation; a stream's first window goes alone."""
    rest = chunk
    if chunk[0].num_graded > stride:
        yield chunk[:1], 1
        rest = chunk[1:]
    for start in range(0, len(rest), size):
        yield rest[start : start + size], size


@torch.no_grad()
def _grade_chunk(
    model: GPT,
    tokens: np.ndarray,
    chunk: list[Window],
    config: ResolvedWindows,
    batch_size: int,
    observe: Observer | None,
    grade: Grade | None = None,
) -> np.ndarray:
    """Nats of the chunk's targets in order, float32; a short batch is filled up with its last window."""
    device = next(model.parameters()).device
    nats, graded = [], []
    for batch, size in _split_batches(chunk, config.stride, batch_size):
        ends_B1 = np.array([[window.end] for window in batch + batch[-1:] * (size - len(batch))])
        num_graded_B1 = np.array([[window.num_graded] for window in batch] + [[0]] * (size - len(batch)))
        num_last = max(config.stride, batch[0].num_graded)
        targets_BL = ends_B1 + np.arange(-num_last, 0)
        graded_BL = np.arange(num_last) >= num_last - num_graded_B1
        inputs_BT = token_tensor(tokens[ends_B1 + np.arange(-config.context, 0)], device)
        graded.append(graded_BL.ravel())
        read_BL = token_tensor(tokens[targets_BL + 1], device)
        if grade is not None:
            nats.append(grade(inputs_BT, read_BL).flatten())
            continue
        logits_BLV = model(inputs_BT, num_last)
        if observe is not None:
            observe(targets_BL[graded_BL], logits_BLV[torch.from_numpy(graded_BL).to(device)].log_softmax(-1))
        nats.append(token_nats(logits_BLV, read_BL).flatten())
    return torch.cat(nats).cpu().numpy()[np.concatenate(graded)]


def token_tensor(tokens: np.ndarray, device: torch.device) -> Tensor:
    """Tokens as the int64 that the network reads."""
    return torch.from_numpy(tokens.astype(np.int64)).to(device)
