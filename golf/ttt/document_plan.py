"""Which documents are graded together, in what order, and how far at a time."""

from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np

DOCUMENT_ORDER = "documents by length in tokens, the longest first, equal ones as they stand in the text"
"""The one order that grading and everything that adapts follow; it takes the documents' lengths as known."""


class DocumentSpan(NamedTuple):
    """Targets `start` to `end` of the stream (half-open); target i is token i + 1, the next BOS included."""

    start: int
    end: int

    @property
    def num_targets(self) -> int:
        """At least 1."""
        return self.end - self.start


class DocumentBatch(NamedTuple):
    """Documents that are graded side by side, each `chunk_tokens` at a time, the longest first."""

    chunk_tokens: int
    documents: tuple[DocumentSpan, ...]


def split_documents(tokens: np.ndarray, num_targets: int, bos_id: int) -> list[DocumentSpan]:
    """The documents of the first `num_targets` targets, as they stand; without a BOS all is one document.

    Tokens before the first BOS are a document; a BOS that ends the stream predicts nothing and is none.
    """
    starts = np.flatnonzero(tokens[:num_targets] == bos_id).tolist()
    edges = sorted({0, *starts, num_targets})
    return [DocumentSpan(*pair) for pair in pairwise(edges)]


def plan_documents(
    documents: list[DocumentSpan],
    chunk_tokens: tuple[int, ...],
    chunk_lengths: tuple[int, ...],
    batch_documents: int,
) -> list[DocumentBatch]:
    """Batches in the order of grading, DOCUMENT_ORDER.

    A document of up to chunk_lengths[0] tokens is graded chunk_tokens[0] at a time, and so on; one
    longer than all of `chunk_lengths` the last of `chunk_tokens`. Documents of one batch have the same chunk.
    """

    def chunk_of(document: DocumentSpan) -> int:
        return chunk_tokens[int(np.searchsorted(chunk_lengths, document.num_targets))]

    ordered = sorted(documents, key=lambda document: (-document.num_targets, document.start))
    batches = []
    for chunk, group in groupby(ordered, chunk_of):
        alike = tuple(group)
        for first in range(0, len(alike), batch_documents):
            batches.append(DocumentBatch(chunk, alike[first : first + batch_documents]))
    return batches
