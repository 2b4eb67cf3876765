"""Documents of a stream: which are graded together, in what order, how far at a time, by which process."""

from bisect import bisect_right
from collections import Counter
from itertools import groupby, pairwise
from math import ceil, lgamma, log
from typing import NamedTuple

import numpy as np

LENGTH_ORDER = "documents by length in tokens, the longest first, equal ones as they stand in the text"
"""The order that grading and all that adapts follow; it takes the documents' lengths as known."""
STREAM_ORDER = "documents as they stand in the text"
"""Likewise; which documents go together, and how far at a time, follows from the text before."""


class DocumentSpan(NamedTuple):
    """Targets `start` to `end` of the stream (half-open); target i is token i + 1, the next BOS included."""

    start: int
    end: int

    @property
    def num_targets(self) -> int:
        """At least 1."""
        return self.end - self.start


class DocumentBatch(NamedTuple):
    """Documents that are graded side by side, some tokens of each at a time."""

    chunk_tokens: tuple[int, ...]
    documents: tuple[DocumentSpan, ...]
    chunk_ends: tuple[int, ...] = ()
    """Up to chunk_ends[0] targets of a document are graded chunk_tokens[0] at a time, and so on."""

    def chunk_at(self, first: int) -> int:
        """Targets of the chunk that begins with target `first` of each document."""
        return self.chunk_tokens[bisect_right(self.chunk_ends, first)]


class DocumentGroup(NamedTuple):
    """Documents of a batch that share their forward passes."""

    process: int
    """Which of several processes grades them."""
    place: int
    """The first one's place among those that this process has in each batch."""
    documents: tuple[DocumentSpan, ...]


def split_documents(tokens: np.ndarray, num_targets: int, bos_id: int) -> list[DocumentSpan]:
    """The documents of the first `num_targets` targets, as they stand; without a BOS all is one document.

    Tokens before the first BOS are a document; a BOS that ends the stream predicts nothing and is none.
    """
    starts = np.flatnonzero(tokens[:num_targets] == bos_id).tolist()
    edges = sorted({0, *starts, num_targets})
    return [DocumentSpan(*pair) for pair in pairwise(edges)]


def order_bytes(documents: list[DocumentSpan]) -> int:
    """Bytes that tell a decoder the documents' lengths in targets.

    Each is its number of bits, out of 33, under the counts so far of those numbers, and these bits but the
    first (golf.audit.range_coder.code_integers).
    """
    widths = [document.num_targets.bit_length() for document in documents]
    nats = lgamma(33 + len(widths)) - lgamma(33) - sum(lgamma(1 + n) for n in Counter(widths).values())
    return ceil((nats / log(2) + sum(widths) - len(widths)) / 8)


def plan_documents(
    documents: list[DocumentSpan],
    chunk_tokens: tuple[int, ...],
    chunk_lengths: tuple[int, ...],
    batch_documents: int,
    by_length: bool = True,
) -> list[DocumentBatch]:
    """Batches in the order of grading, LENGTH_ORDER or STREAM_ORDER.

    By length, a document of up to chunk_lengths[0] tokens is graded chunk_tokens[0] at a time, and so on; one
    longer than all of `chunk_lengths` the last of `chunk_tokens`. Documents of one batch have the same chunk.
    In the order of the stream each document's first chunk_lengths[0] tokens are, and so on.
    """
    if not by_length:
        firsts = range(0, len(documents), batch_documents)
        alike = (tuple(documents[first : first + batch_documents]) for first in firsts)
        return [DocumentBatch(chunk_tokens, group, chunk_lengths) for group in alike]

    def chunk_of(document: DocumentSpan) -> int:
        return chunk_tokens[int(np.searchsorted(chunk_lengths, document.num_targets))]

    ordered = sorted(documents, key=lambda document: (-document.num_targets, document.start))
    batches = []
    for chunk, group in groupby(ordered, chunk_of):
        alike = tuple(group)
        for first in range(0, len(alike), batch_documents):
            batches.append(DocumentBatch((chunk,), alike[first : first + batch_documents]))
    return batches


def deal_batch(batch: DocumentBatch, at_once: int, num_processes: int = 1) -> list[DocumentGroup]:
    """Groups of `at_once` documents in the batch's order, dealt out in turn.

    The same places of every batch go to the same process, because adapters pass from a document to the next
    one in its place. A group takes as long as its longest document, and in LENGTH_ORDER none has a longer
    one than the group before it. Where full batches then have equally many groups for each process, none
    therefore has more to do than another by more than the longest document, for each of the sizes of chunks.
    """
    groups = []
    for first in range(0, len(batch.documents), at_once):
        turn, process = divmod(first // at_once, num_processes)
        groups.append(DocumentGroup(process, turn * at_once, batch.documents[first : first + at_once]))
    return groups


def count_shares(batches: list[DocumentBatch], at_once: int, num_processes: int) -> list[int]:
    """The targets that each process grades."""
    shares = [0] * num_processes
    for batch in batches:
        for process, _, documents in deal_batch(batch, at_once, num_processes):
            shares[process] += sum(document.num_targets for document in documents)
    return shares
