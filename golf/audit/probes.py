"""Probes that every legal scorer passes and the illegal ones of the record fail.

They ask any scorer: a function that grades a stream from a fresh start, as often as it is asked. Targets are
numbered as everywhere: target i is token i + 1 of the stream. Shapes: N targets, V vocabulary, T tokens,
D channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from golf.score.ledger import Ledger, LegalityError
from golf.score.windows import ResolvedWindows
from golf.ttt.documents import plan_documents, split_documents

SUM_TOLERANCE = 1e-4
"""How far the probabilities of a distribution may add up to something else than 1."""
GRADE_TOLERANCE_NATS = 1e-4
"""How far a grade may lie from the distribution that was fixed before the target was read."""
_MOST_TOLD = 5


@dataclass(frozen=True)
class Replay:
    """What a scorer did with a stream."""

    nats_N: np.ndarray
    """The grade of each target; it may end after the last one asked about."""
    log_probs: dict[int, np.ndarray]
    """For each target asked about, the log probability of every token (V,), fixed before it is read."""
    ledger: Ledger
    """What was graded and trained on, when."""


ProbedScorer = Callable[[np.ndarray, Sequence[int]], Replay]
"""Takes a stream and the targets whose distributions are wanted."""


@dataclass(frozen=True)
class ProbeReport:
    """What a probe looked at and what it found."""

    probe: str
    checked: str
    violations: list[str]

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.violations


def probe_causality(
    scorer: ProbedScorer,
    tokens: np.ndarray,
    targets: Sequence[int],
    vocab_size: int,
    bos_id: int,
    seed: int,
    before: Replay | None = None,
    tolerance_nats: float = 0.0,
) -> ProbeReport:
    """Replaces what comes at and after each target, and the target alone: nothing before it may move.

    Compares all earlier grades and the whole distribution at the target. BOS tokens stay where they are.
    `before` is a replay of the stream with these targets, if there is one.
    """
    draw = np.random.default_rng(seed)
    before = scorer(tokens, targets) if before is None else before
    violations = []
    for target in targets:
        for what, end in (("everything from it on", len(tokens)), ("it alone", target + 2)):
            changed = replace_tokens(tokens, target + 1, end, vocab_size, bos_id, draw)
            if np.array_equal(changed, tokens):
                continue
            after = scorer(changed, [target])
            moved = ~(np.abs(after.nats_N[:target] - before.nats_N[:target]) <= tolerance_nats)
            if moved.any():
                first = int(moved.argmax())
                violations.append(
                    f"replacing target {target} ({what}) moved the grade of target {first} "
                    f"from {before.nats_N[first]:.6g} to {after.nats_N[first]:.6g} nats"
                )
            here = largest_difference(before.log_probs[target], after.log_probs[target])
            if not here <= tolerance_nats:
                violations.append(
                    f"replacing target {target} ({what}) moved the distribution at it by {here:.3g} nats"
                )
    return ProbeReport("causality", f"{_listed(targets)}, {_amount(tolerance_nats)}", violations)


def probe_normalisation(
    scorer: ProbedScorer,
    tokens: np.ndarray,
    targets: Sequence[int],
    vocab_size: int,
    bos_id: int,
    seed: int,
    before: Replay | None = None,
    tolerance_nats: float = 0.0,
    candidates: int = 1,
) -> ProbeReport:
    """Requires at each target a distribution over the whole vocabulary that adds up to 1 and is what grades.

    The target is graded, and so are some `candidates` put in its place: each must get the probability that
    the distribution gave it before, to GRADE_TOLERANCE_NATS or `tolerance_nats`, whichever is more. `before`
    as in `probe_causality`.
    """
    draw = np.random.default_rng(seed)
    before = scorer(tokens, targets) if before is None else before
    tolerance_nats = max(tolerance_nats, GRADE_TOLERANCE_NATS)
    violations = []
    for target in targets:
        log_probs_V = before.log_probs[target].astype(np.float64)
        if log_probs_V.shape != (vocab_size,):
            violations.append(f"the distribution at target {target} has shape {log_probs_V.shape}")
            continue
        total = float(np.exp(log_probs_V).sum())
        if not abs(total - 1.0) <= SUM_TOLERANCE:
            violations.append(f"the probabilities at target {target} add up to {total:.6g}")
        grades = {int(tokens[target + 1]): float(before.nats_N[target])}
        for _ in range(candidates):
            changed = replace_tokens(tokens, target + 1, target + 2, vocab_size, bos_id, draw)
            grades[int(changed[target + 1])] = float(scorer(changed, [target]).nats_N[target])
        for token, nats in grades.items():
            if not abs(nats + log_probs_V[token]) <= tolerance_nats:
                violations.append(
                    f"target {target}, were it token {token}, is graded {nats:.6g} nats; the distribution "
                    f"gives it {-log_probs_V[token]:.6g}"
                )
    checked = (
        f"{_listed(targets)}, the sum within {SUM_TOLERANCE:g}, {candidates} other token(s) in each place"
    )
    return ProbeReport("normalisation", checked, violations)


def probe_ledger(scorer: ProbedScorer, tokens: np.ndarray) -> ProbeReport:
    """Requires every target to be graded once, and to be trained on only after that, warm-up included."""
    violations = []
    try:
        replay = scorer(tokens, [])
        replay.ledger.close(len(tokens) - 1)
        if len(replay.nats_N) != len(tokens) - 1:
            violations.append(f"{len(replay.nats_N):,} grades were given for {len(tokens) - 1:,} targets")
        elif not np.isfinite(replay.nats_N).all():
            violations.append(f"target {int((~np.isfinite(replay.nats_N)).argmax())} has no finite grade")
    except LegalityError as error:
        violations.append(str(error))
    return ProbeReport("ledger", f"{len(tokens) - 1:,} targets", violations)


def probe_bytes(
    count_bytes: Callable[[np.ndarray, np.ndarray], np.ndarray],
    decode: Callable[[Sequence[int]], str],
    tokens: np.ndarray,
    bos_id: int,
    stated_bytes: int,
) -> ProbeReport:
    """Requires each document's tokens to count as many bytes as its decoded text has, and so the stream's.

    A last document that was cut inside a character is left out of the comparison by document.
    """
    counted_N = count_bytes(tokens[:-1], tokens[1:])
    starts = [*np.flatnonzero(tokens == bos_id).tolist(), len(tokens)]
    violations, differing = [], 0
    for number, (start, end) in enumerate(pairwise(starts)):
        text = decode(tokens[start + 1 : end].tolist())
        counted = int(counted_N[start : end - 1].sum())
        is_cut = end == len(tokens) and text.endswith("�")
        if counted != len(text.encode()) and not is_cut:
            differing += 1
            if differing <= _MOST_TOLD:
                found = f"counted as {counted:,} bytes; its decoded text has {len(text.encode()):,}"
                violations.append(f"document {number} is {found}")
    if differing > _MOST_TOLD:
        violations.append(f"{differing - _MOST_TOLD:,} more documents are counted wrong")
    if (total := int(counted_N.sum())) != stated_bytes:
        violations.append(f"{total:,} bytes are counted; the manifest says {stated_bytes:,}")
    return ProbeReport("bytes", f"{len(starts) - 1:,} documents against their decoded text", violations)


def probe_document_start(
    features: Callable[[np.ndarray], np.ndarray],
    tokens: np.ndarray,
    targets: Sequence[int],
    vocab_size: int,
    bos_id: int,
    seed: int,
) -> ProbeReport:
    """Requires what enters the network (T, D) at a BOS and after it not to see the document before.

    `targets` are the BOS tokens to look at; `features` maps a stream to what its attention reads.
    """
    draw = np.random.default_rng(seed)
    before_TD = features(tokens)
    violations = []
    for target in targets:
        start = target + 1
        after_TD = features(replace_tokens(tokens, 0, start, vocab_size, bos_id, draw))
        moved = np.abs(after_TD[start:] - before_TD[start:]).max(axis=1)
        if not (moved == 0.0).all():
            violations.append(
                f"replacing the document before target {target}, a BOS, moved what enters the network there"
            )
    return ProbeReport("document start", _listed(targets), violations)


def replace_tokens(
    tokens: np.ndarray, start: int, end: int, vocab_size: int, bos_id: int, draw: np.random.Generator
) -> np.ndarray:
    """A copy in which tokens [start, end) are other ones, none BOS; BOS tokens stay."""
    others = np.delete(np.arange(vocab_size), bos_id)
    changed = tokens.copy()
    old = tokens[start:end].astype(np.int64)
    shifts = draw.integers(1, len(others), len(old))
    new = others[(old - (old > bos_id) + shifts) % len(others)]
    changed[start:end] = np.where(old == bos_id, old, new)
    return changed


def largest_difference(left_V: np.ndarray, right_V: np.ndarray) -> float:
    """Between two arrays of log probabilities; infinities of one sign in the same place are alike."""
    same_infinities = np.isinf(left_V) & (left_V == right_V)
    return float(np.where(same_infinities, 0.0, np.abs(left_V - right_V)).max())


def _listed(targets: Sequence[int]) -> str:
    return f"targets {', '.join(str(target) for target in targets)}"


def _amount(tolerance_nats: float) -> str:
    return f"to {tolerance_nats:g} nats" if tolerance_nats else "to the bit"


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
