"""Documents to tokens, on all cores and in order."""

import hashlib
import os
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np

from golf.data.vocabulary import Vocabulary

_BATCH_CHARACTERS = 500_000


class EncodedDocument(NamedTuple):
    """The tokens (N) of one document, uint16, starting with BOS."""

    digest: bytes
    """`text_digest` of the text; documents with equal digests are repeats."""
    text_bytes: int
    """UTF-8 length of the text before normalization."""
    tokens: np.ndarray


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

    def encode(batch: list[str]) -> list[EncodedDocument]:
        documents = []
        for text in map(str.strip, batch):
            tokens = np.array([vocabulary.bos_id, *vocabulary.encode_text(text)], dtype=np.uint16)
            documents.append(EncodedDocument(text_digest(text), len(text.encode("utf-8", "replace")), tokens))
        return documents

    batches = _batched(text for text in texts if text.strip())
    workers = num_threads or os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        pending = deque(pool.submit(encode, batch) for batch in islice(batches, 2 * workers))
        try:
            while pending:
                done = pending.popleft().result()
                pending.extend(pool.submit(encode, batch) for batch in islice(batches, 1))
                yield from done
        finally:
            for future in pending:
                future.cancel()


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
