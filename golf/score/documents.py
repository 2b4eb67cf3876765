"""A score by document: what the statistics compare.

Shapes: N graded targets, D documents.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from golf.data.vocabulary import Vocabulary
from golf.system.files import atomic_write

_BLOCK_TOKENS = 1 << 20


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a compressed .npz, whole or not at all."""
    with atomic_write(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


@dataclass(frozen=True)
class DocumentScores:
    """Sums over the targets of each document; a BOS token is a target of the document that it starts."""

    nats_D: np.ndarray
    """float64."""
    tokens_D: np.ndarray
    """int64."""
    bytes_D: np.ndarray
    """int64."""


def per_document(nats_N: np.ndarray, tokens: np.ndarray, vocabulary: Vocabulary) -> DocumentScores:
    """Splits the grades of the first N targets of `tokens` at BOS.

    Tokens before the first BOS count as document 0, as does a document whose BOS is the stream's first token.
    """
    num_targets = len(nats_N)
    num_documents = 1 + int((tokens[1 : num_targets + 1] == vocabulary.bos_id).sum())
    nats_D = np.zeros(num_documents)
    tokens_D, bytes_D = np.zeros((2, num_documents), dtype=np.int64)
    document = 0
    for start in range(0, num_targets, _BLOCK_TOKENS):
        end = min(start + _BLOCK_TOKENS, num_targets)
        targets_N = tokens[start + 1 : end + 1]
        documents_N = document + np.cumsum(targets_N == vocabulary.bos_id)
        counted_N = vocabulary.count_bytes(tokens[start:end], targets_N)
        nats_D += np.bincount(documents_N, weights=nats_N[start:end], minlength=num_documents)
        tokens_D += np.bincount(documents_N, minlength=num_documents)
        # Sums of integers below 2^53, exact in the float64 that bincount adds in.
        bytes_D += np.bincount(documents_N, weights=counted_N, minlength=num_documents).astype(np.int64)
        document = int(documents_N[-1])
    return DocumentScores(nats_D, tokens_D, bytes_D)
