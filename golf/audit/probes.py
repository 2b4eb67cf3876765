"""Probes that every legal scorer passes and the illegal ones of the record fail.

They ask any scorer: a function that grades a stream from a fresh start, as often as it is asked. Targets are
numbered as everywhere: target i is token i + 1 of the stream. Shapes: N targets, V vocabulary, T tokens,
D channels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from golf.score.ledger import Ledger, LegalityError

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
class Probing:
    """A stream, and what is asked about it."""

    tokens: np.ndarray
    targets: Sequence[int]
    vocab_size: int
    bos_id: int
    seed: int = 0
    """Of what replaces tokens."""
    tolerance_nats: float = 0.0
    """How far nats may move that must not move."""
    before: Replay | None = None
    """A replay of the stream with these targets, if there is one."""

    def replay(self, scorer: ProbedScorer) -> Replay:
        """The stream as it is."""
        return scorer(self.tokens, self.targets) if self.before is None else self.before

    def replaced(self, start: int, end: int, draw: np.random.Generator) -> np.ndarray:
        """A copy of the stream in which tokens [start, end) are other ones, none BOS; BOS tokens stay."""
        others = np.delete(np.arange(self.vocab_size), self.bos_id)
        changed = self.tokens.copy()
        old = self.tokens[start:end].astype(np.int64)
        shifts = draw.integers(1, len(others), len(old))
        new = others[(old - (old > self.bos_id) + shifts) % len(others)]
        changed[start:end] = np.where(old == self.bos_id, old, new)
        return changed


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


def probe_causality(scorer: ProbedScorer, asked: Probing) -> ProbeReport:
    """Replaces what comes at and after each target, and the target alone: nothing before it may move.

    Compares all earlier grades and the whole distribution at the target. BOS tokens stay where they are.
    """
    draw, before, tolerance = np.random.default_rng(asked.seed), asked.replay(scorer), asked.tolerance_nats
    violations = []
    for target in asked.targets:
        for what, end in (("everything from it on", len(asked.tokens)), ("it alone", target + 2)):
            changed = asked.replaced(target + 1, end, draw)
            if np.array_equal(changed, asked.tokens):
                continue
            after = scorer(changed, [target])
            moved = ~(np.abs(after.nats_N[:target] - before.nats_N[:target]) <= tolerance)
            if moved.any():
                first = int(moved.argmax())
                violations.append(
                    f"replacing target {target} ({what}) moved the grade of target {first} "
                    f"from {before.nats_N[first]:.6g} to {after.nats_N[first]:.6g} nats"
                )
            here = largest_difference(before.log_probs[target], after.log_probs[target])
            if not here <= tolerance:
                violations.append(
                    f"replacing target {target} ({what}) moved the distribution at it by {here:.3g} nats"
                )
    amount = f"to {tolerance:g} nats" if tolerance else "to the bit"
    return ProbeReport("causality", f"{_listed(asked.targets)}, {amount}", violations)


def probe_normalization(scorer: ProbedScorer, asked: Probing) -> ProbeReport:
    """Requires at each target a distribution over the whole vocabulary that adds up to 1 and is what grades.

    The target is graded, and so is another token put in its place: each must get the probability that the
    distribution gave it before, to GRADE_TOLERANCE_NATS or the tolerance asked for, whichever is more.
    """
    draw, before = np.random.default_rng(asked.seed), asked.replay(scorer)
    tolerance = max(asked.tolerance_nats, GRADE_TOLERANCE_NATS)
    violations = []
    for target in asked.targets:
        log_probs_V = before.log_probs[target].astype(np.float64)
        if log_probs_V.shape != (asked.vocab_size,):
            violations.append(f"the distribution at target {target} has shape {log_probs_V.shape}")
            continue
        total = float(np.exp(log_probs_V).sum())
        if not abs(total - 1.0) <= SUM_TOLERANCE:
            violations.append(f"the probabilities at target {target} add up to {total:.6g}")
        changed = asked.replaced(target + 1, target + 2, draw)
        grades = {int(asked.tokens[target + 1]): float(before.nats_N[target])}
        grades[int(changed[target + 1])] = float(scorer(changed, [target]).nats_N[target])
        for token, nats in grades.items():
            if not abs(nats + log_probs_V[token]) <= tolerance:
                violations.append(
                    f"target {target}, were it token {token}, is graded {nats:.6g} nats; the distribution "
                    f"gives it {-log_probs_V[token]:.6g}"
                )
    checked = f"the sum within {SUM_TOLERANCE:g}, 1 other token(s) in each place"
    return ProbeReport("normalisation", f"{_listed(asked.targets)}, {checked}", violations)


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

    def wrong_documents() -> Iterator[str]:
        for number, (start, end) in enumerate(pairwise(starts)):
            text = decode(tokens[start + 1 : end].tolist())
            counted, actual = int(counted_N[start : end - 1].sum()), len(text.encode())
            is_cut = end == len(tokens) and text.endswith("�")
            if counted != actual and not is_cut:
                yield f"document {number} is counted as {counted:,} bytes; its decoded text has {actual:,}"

    violations = list(wrong_documents())
    if len(violations) > _MOST_TOLD:
        more = len(violations) - _MOST_TOLD
        violations[_MOST_TOLD:] = [f"{more:,} more documents are counted wrong"]
    if (total := int(counted_N.sum())) != stated_bytes:
        violations.append(f"{total:,} bytes are counted; the manifest says {stated_bytes:,}")
    return ProbeReport("bytes", f"{len(starts) - 1:,} documents against their decoded text", violations)


def probe_document_start(features: Callable[[np.ndarray], np.ndarray], asked: Probing) -> ProbeReport:
    """Requires what enters the network (T, D) at a BOS and after it not to see the document before.

    The targets are the BOS tokens to look at; `features` maps a stream to what its attention reads.
    """
    draw, before_TD = np.random.default_rng(asked.seed), features(asked.tokens)
    violations = []
    for target in asked.targets:
        start = target + 1
        after_TD = features(asked.replaced(0, start, draw))
        if not np.array_equal(after_TD[start:], before_TD[start:]):
            violations.append(
                f"replacing the document before target {target}, a BOS, moved what enters the network there"
            )
    return ProbeReport("document start", _listed(asked.targets), violations)


def largest_difference(left_V: np.ndarray, right_V: np.ndarray) -> float:
    """Between two arrays of log probabilities; infinities of one sign in the same place are alike."""
    same_infinities = np.isinf(left_V) & (left_V == right_V)
    return float(np.where(same_infinities, 0.0, np.abs(left_V - right_V)).max())


def _listed(targets: Sequence[int]) -> str:
    return f"targets {', '.join(str(target) for target in targets)}"
