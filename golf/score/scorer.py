"""Grades a stream of tokens, chunk by chunk; what is graded may be handed on to be learned from.

Shapes: B windows of a batch, T context, L positions computed, N targets graded, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golf.data.vocabulary import Vocabulary
from golf.model.gpt import GPT
from golf.model.loss import token_nats
from golf.score.ledger import Ledger, ScoredChunk
from golf.score.tally import Tally
from golf.score.windows import ResolvedWindows, Window, WindowConfig, group_chunks, plan_windows
from golf.system.distributed import World
from golf.system.log import RunLog

CHUNK_TOKENS = 32_768

Observer = Callable[[np.ndarray, Tensor], None]
"""Takes the numbers of some targets (N,) and their log probabilities (N, V), before the targets are read."""
Grade = Callable[[Tensor, Tensor], Tensor]
"""Nats (B, T) of targets (B, T) by inputs (B, T), for batches of one shape."""
Adapt = Callable[[ScoredChunk, float], None]
"""Learns from a chunk; 0 is the first, 1 the last one of the stream."""


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
    log: RunLog = field(default_factory=lambda: RunLog(quiet=True))
    world: World = field(default_factory=World)
    """The processes that share the work."""

    @property
    def device(self) -> torch.device:
        """The model's."""
        return next(self.model.parameters()).device

    def resolved_windows(self) -> ResolvedWindows:
        """The windows with the model's and the device's defaults; ValueError as `WindowConfig.resolve`."""
        return self.windows.resolve(self.model.config.context, self.device.type)

    def show(self, logits_BLV: Tensor | None, targets_BL: np.ndarray, graded_BL: np.ndarray) -> None:
        """Lets the observer, if there is one, see the distributions of the targets that are graded."""
        if self.observe is not None:
            assert logits_BLV is not None, "logits are kept for an observer"
            log_probs_NV = logits_BLV.detach()[torch.from_numpy(graded_BL).to(self.device)].log_softmax(-1)
            self.observe(targets_BL[graded_BL], log_probs_NV)


def score(
    scoring: Scoring, chunk_tokens: int = CHUNK_TOKENS, adapt: Adapt | None = None, grade: Grade | None = None
) -> ScoreResult:
    """Grades every target of a stream once, under sliding windows, in chunks of about `chunk_tokens`.

    With `adapt`, each chunk is handed to it after it was graded; what it changes in the model counts from
    the next chunk on. Without it the same forward passes are made, so that an adapter that changes nothing
    changes no digit. `max_tokens` grades the windows that end within so many targets, with the nats they
    have in the whole stream. In a `world` of several each process grades its share of the chunks and all have
    the whole result; with `adapt` every chunk waits for the one before, so there is no share to take.
    `grade` stands for the model's own forward pass where windows are disjoint and nothing observes.
    ValueError for `adapt` in several processes, a stream or `max_tokens` shorter than one window, a token
    outside the vocabulary, and a loss that is not finite.
    """
    tokens, vocabulary, world = scoring.tokens, scoring.vocabulary, scoring.world
    if adapt is not None and world.size > 1:
        raise ValueError(f"what is learned chunk by chunk is scored in one process; these are {world.size}")
    num_targets = len(tokens) - 1
    windows = scoring.resolved_windows()
    assert grade is None or windows.stride == windows.context, "grade takes disjoint windows"
    chunks = group_chunks(plan_windows(num_targets, windows.context, windows.stride), chunk_tokens)
    batch_size = windows.batch_tokens // windows.context
    if grade is None:
        batch_size = min(batch_size, max(map(len, chunks)))
    num_chunks = len(chunks)
    if scoring.max_tokens is not None:
        kept = [[window for window in chunk if window.end <= scoring.max_tokens] for chunk in chunks]
        if not kept[0]:
            first_end = chunks[0][0].end
            raise ValueError(
                f"max_tokens is {scoring.max_tokens:,}; the first window alone grades {first_end:,}"
            )
        chunks = [chunk for chunk in kept if chunk]
    num_graded = chunks[-1][-1].end
    nats_N = np.zeros(num_graded, dtype=np.float32)
    ledger = Ledger(num_targets)
    total = Tally(0.0, 0, 0)
    with scoring.log.progress("score", num_graded, "tokens") as bar:
        for index, chunk in enumerate(chunks):
            first, end = chunk[0].end - chunk[0].num_graded, chunk[-1].end
            check_tokens(tokens[chunk[0].start : end + 1], vocabulary.size)
            ledger.grade(first, end, f"chunk {index}")
            if index % world.size != world.rank:
                continue
            nats_N[first:end] = _grade_chunk(scoring, chunk, windows, batch_size, grade)
            total += tally_targets(nats_N[first:end], tokens[first : end + 1], vocabulary)
            if adapt is not None and index + 1 < len(chunks):
                scored = ledger.release_chunk(tokens, (first, end), f"adapting to chunk {index}")
                adapt(scored, index / max(1, num_chunks - 1))
            bar.advance(end - first, f"{total.bits_per_byte:.4f} bpb" if total.num_bytes else None)
    ledger.close(num_graded)
    sums = torch.tensor([total.nats, total.num_tokens, total.num_bytes], dtype=torch.float64)
    world.sum(sums)()
    total = Tally(float(sums[0]), int(sums[1]), int(sums[2]))
    world.sum(torch.from_numpy(nats_N))()
    return ScoreResult(total, nats_N, num_graded < num_targets, windows, ledger)


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


@torch.no_grad()
def _grade_chunk(
    scoring: Scoring, chunk: list[Window], windows: ResolvedWindows, batch_size: int, grade: Grade | None
) -> np.ndarray:
    """Nats of the chunk's targets in order, float32; a short batch is filled up with its last window."""
    tokens, device = scoring.tokens, scoring.device
    # A stream's first window grades more than the others and goes alone.
    num_first = int(chunk[0].num_graded > windows.stride)
    batches = [(chunk[:1], 1)] * num_first
    batches += [(chunk[i : i + batch_size], batch_size) for i in range(num_first, len(chunk), batch_size)]
    nats, graded = [], []
    for batch, rows in batches:
        filling = rows - len(batch)
        ends_B1 = np.array([[window.end] for window in batch + batch[-1:] * filling])
        num_graded_B1 = np.array([[window.num_graded] for window in batch] + [[0]] * filling)
        num_last = max(windows.stride, batch[0].num_graded)
        targets_BL = ends_B1 + np.arange(-num_last, 0)
        graded_BL = np.arange(num_last) >= num_last - num_graded_B1
        inputs_BT = token_tensor(tokens[ends_B1 + np.arange(-windows.context, 0)], device)
        graded.append(graded_BL.ravel())
        read_BL = token_tensor(tokens[targets_BL + 1], device)
        if grade is not None:
            nats.append(grade(inputs_BT, read_BL).flatten())
            continue
        logits_BLV = scoring.model(inputs_BT, num_last)
        scoring.show(logits_BLV, targets_BL, graded_BL)
        nats.append(token_nats(logits_BLV, read_BL).flatten())
    return torch.cat(nats).cpu().numpy()[np.concatenate(graded)]


def token_tensor(tokens: np.ndarray, device: torch.device) -> Tensor:
    """Tokens as the int64 that the network reads."""
    return torch.from_numpy(tokens.astype(np.int64)).to(device)
