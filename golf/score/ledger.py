"""Who touched which target when: graded once, and trained on only after that.

Ranges are half-open, in targets: target i is token i + 1 of the stream. Shapes: N targets, B documents graded
together, L targets of a chunk.
"""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass

import numpy as np
from torch import Tensor

_SEAL = object()


class LegalityError(ValueError):
    """A score would break the rules: graded twice or never, or trained on before it was graded."""


@dataclass(frozen=True)
class Graded:
    """What may be learned from. Only a ledger hands it out to the scorer: LegalityError for anybody else."""

    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise LegalityError("only the scorer hands out what may be learned from, once it is graded")


@dataclass(frozen=True)
class ScoredChunk(Graded):
    """Consecutive targets that have been graded."""

    tokens_N1: np.ndarray
    """int64: the token before the first target, then the targets."""


@dataclass(frozen=True)
class ScoredDocuments(Graded):
    """The chunk that some documents were just graded on."""

    nats_BL: Tensor
    """The very grades that count, with the graph that leads back to what gave them. In recorded steps some
    rows are documents that have ended, or none: they do not learn."""


class Ledger:
    """Keeps, for each target of a stream, the event that graded it; refuses what the rules refuse."""

    def __init__(self, num_targets: int):
        self._graded_by = np.zeros(num_targets, dtype=np.int32)
        self.events = ["never graded"]

    def grade(self, start: int, end: int, event: str) -> None:
        """Books targets as graded; LegalityError if one of them was before."""
        range_ = self._graded_by[start:end]
        if len(range_) != end - start:
            raise LegalityError(f"{event} grades targets {start} to {end}; there are {len(self._graded_by)}")
        if range_.any():
            first = start + int(range_.argmax())
            raise LegalityError(
                f"targets {start} to {end} were to be graded by {event!r}, but target {first} was already "
                f"graded by {self.events[range_[first - start]]!r}"
            )
        self._note(event)
        range_[:] = len(self.events) - 1

    def train(self, start: int, end: int, event: str) -> None:
        """Books targets as trained on; LegalityError if one of them has not been graded yet."""
        range_ = self._graded_by[start:end]
        if len(range_) != end - start or not range_.all():
            first = start + (int(range_.argmin()) if len(range_) else 0)
            raise LegalityError(
                f"targets {start} to {end} were to be trained on by {event!r}, "
                f"but target {first} had not been graded"
            )
        self._note(event)

    def release_chunk(self, tokens: np.ndarray, targets: tuple[int, int], event: str) -> ScoredChunk:
        """Books targets of the stream as trained on and hands them out."""
        start, end = targets
        self.train(start, end, event)
        return ScoredChunk(_SEAL, tokens[start : end + 1].astype(np.int64))

    def release_documents(
        self, nats_BL: Tensor, targets: Sequence[tuple[int, int]], event: str
    ) -> ScoredDocuments:
        """Books the targets of each document as trained on and hands out their grades."""
        for start, end in targets:
            self.train(start, end, event)
        return ScoredDocuments(_SEAL, nats_BL)

    def close(self, num_targets: int) -> None:
        """Ends the scoring of the first `num_targets` targets; LegalityError if one of them was left out."""
        missing = np.flatnonzero(self._graded_by[:num_targets] == 0)
        if len(missing):
            raise LegalityError(
                f"{len(missing):,} of {num_targets:,} targets were never graded, the first is {missing[0]}"
            )

    def _note(self, event: str) -> None:
        # Documents graded side by side share an event: one entry, not one for each of millions of ranges.
        if self.events[-1] != event:
            self.events.append(event)
