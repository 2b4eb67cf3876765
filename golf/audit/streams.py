"""On what text, and where in it, the probes of an audit look."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from golf.score.windows import ResolvedWindows
from golf.ttt.documents import plan_documents, split_documents

MIN_TARGETS = 2
"""Targets that an audit looks at however little time it has."""
REPLAYS_PER_TARGET = 3
"""Of the stream: two for causality, one for normalisation."""


@dataclass(frozen=True)
class AuditConfig:
    """How hard the probes look."""

    seed: int = 0
    """Of the stream's place in the text, of the targets and of what replaces them."""
    targets: int = 6
    """Targets that each probe looks at: half of them where windows, chunks and documents meet."""
    chunks: int = 3
    """Chunks of the stream that is replayed."""
    max_seconds: float | None = None
    """Where it is known how long a replay takes, look at fewer targets, MIN_TARGETS at the least, to keep to
    about so many seconds."""
    chunk_tokens: int | None = None
    """Size of these chunks; by default the artifact's own on a GPU, and two windows elsewhere."""


def choose_stream(tokens: np.ndarray, length: int, bos_id: int, seed: int) -> np.ndarray:
    """`length` tokens in a row from the start of a short document, drawn by `seed`; else the first ones."""
    starts = np.flatnonzero(tokens == bos_id)
    ends = np.append(starts[1:], len(tokens))
    fits = starts + length <= len(tokens)
    good = starts[fits & (ends - starts < length)]
    start = int(np.random.default_rng(seed).choice(good)) if len(good) else 0
    return tokens[start : start + length]


def choose_documents(tokens: np.ndarray, bos_id: int, context: int, how: AuditConfig) -> np.ndarray:
    """Some documents drawn by seed, cut to a window and less, as a stream in the order of their grading.

    The probes take a stream to be graded from its start to its end. The first may be longer than a
    window, so that windows slide; of a text with fewer than five documents all are taken.
    """
    spans = split_documents(tokens, len(tokens), bos_id)
    draw = np.random.default_rng(how.seed)
    chosen = draw.permutation(len(spans))[:5]
    longest = [context + context // 4, context, context // 2, context // 4, context // 8]
    pieces = [
        tokens[spans[place].start : min(spans[place].end, spans[place].start + max(2, most))]
        for place, most in zip(chosen, longest, strict=False)
    ]
    stream = np.concatenate(pieces)
    batches = plan_documents(split_documents(stream, len(stream), bos_id), (1,), (), 1)
    return np.concatenate([stream[start:end] for batch in batches for start, end in batch.documents])


def affordable_targets(
    targets: Sequence[int], replay_seconds: float, left_seconds: float | None
) -> list[int]:
    """As many of the targets, evenly taken, as can be probed in the seconds that are left."""
    if left_seconds is None:
        return list(targets)
    most = int(left_seconds / (REPLAYS_PER_TARGET * max(replay_seconds, 1e-9)))
    count = min(len(targets), max(MIN_TARGETS, most))
    return [targets[place * len(targets) // count] for place in range(count)]


def choose_targets(
    stream: np.ndarray, windows: ResolvedWindows, chunk_tokens: int, bos_id: int, how: AuditConfig
) -> list[int]:
    """Targets to probe: some where documents, windows or chunks meet, the others anywhere."""
    num_targets = len(stream) - 1
    draw = np.random.default_rng(how.seed)
    documents = np.flatnonzero(stream[1:] == bos_id)
    edges = {
        windows.context,
        windows.context + windows.stride,
        *range(chunk_tokens, num_targets, chunk_tokens),
    }
    meeting = [*edges, *(edge - 1 for edge in edges)]
    meeting = [target for target in meeting if 0 < target < num_targets]
    chosen = set(draw.permutation(meeting)[: how.targets // 2].tolist())
    chosen |= set(draw.permutation(documents)[:1].tolist())
    anywhere = draw.permutation(num_targets)[: how.targets].tolist()
    return sorted([*chosen, *[target for target in anywhere if target not in chosen]][: how.targets])
