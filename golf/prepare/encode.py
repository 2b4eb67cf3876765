"""Documents to tokens, on all cores and in order."""

import hashlib
import os
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from golf.data.vocabulary import Vocabulary

_BATCH_CHARACTERS = 500_000


@dataclass(frozen=True)
class EncodedDocument:
    """The tokens of one document."""

    digest: bytes
    """`text_digest` of the text; documents with equal digests are repeats."""
    text_bytes: int
    """UTF-8 length of the text before normalization."""
    tokens: np.ndarray
    """(N) uint16, starting with BOS."""


def text_digest(text: str) -> bytes:
    """16 bytes of blake2b over the text in NFKC, case folded, with one space for each run of white space."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    words = " ".join(text.casefold().split())
    return hashlib.blake2b(words.encode("utf-8", "replace"), digest_size=16).digest()


def encode_documents(
    texts: Iterable[str], vocabulary: Vocabulary, num_threads: int | None = None
) -> Iterator[EncodedDocument]:
    """Encodes texts in order with `num_threads` (default: one per core); leaves out empty texts.

    Threads suffice because SentencePiece releases the interpreter's lock. At most 2 batches per thread are in
    memory, so the texts may be a stream longer than memory.
    """

    def encode_batch(batch: list[str]) -> list[EncodedDocument]:
        return [_encode_document(text, vocabulary) for text in batch]

    batches = _batched(text for text in texts if text.strip())
    workers = num_threads or os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[list[EncodedDocument]]] = deque()
        try:
            for batch in islice(batches, 2 * workers):
                pending.append(pool.submit(encode_batch, batch))
            while pending:
                done = pending.popleft().result()
                for batch in islice(batches, 1):
                    pending.append(pool.submit(encode_batch, batch))
                yield from done
        finally:
            for future in pending:
                future.cancel()


def _encode_document(text: str, vocabulary: Vocabulary) -> EncodedDocument:
    text = text.strip()
    tokens = np.array([vocabulary.bos_id, *vocabulary.encode_text(text)], dtype=np.uint16)
    return EncodedDocument(text_digest(text), len(text.encode("utf-8", "replace")), tokens)


def _batched(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
