"""Documents to tokens on all cores, in order; and a split's tokens to shard files."""

import hashlib
import os
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from golf.data.shards import write_shard
from golf.data.vocabulary import Vocabulary

_BATCH_CHARACTERS = 500_000


@dataclass(frozen=True)
class EncodedDocument:
    """One document; `tokens` starts with BOS."""

    digest: bytes
    """Of the normalised text: equal digests are repeats."""
    text_bytes: int
    """UTF-8 length of the text as it came."""
    tokens: np.ndarray
    """uint16."""


def text_digest(text: str) -> bytes:
    """16 bytes of blake2b over the normalised text: NFKC, case folded, each run of white space one space."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    words = " ".join(text.casefold().split())
    return hashlib.blake2b(words.encode("utf-8", "replace"), digest_size=16).digest()


def encode_documents(
    texts: Iterable[str], vocabulary: Vocabulary, num_threads: int | None = None
) -> Iterator[EncodedDocument]:
    """Encodes the texts in their order, on all cores unless told otherwise; empty texts are left out.

    Threads suffice, as SentencePiece works without the interpreter's lock. A few batches are under way at a
    time, so the texts may be a stream longer than memory.
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


class ShardWriter:
    """Writes a split's documents into `folder`, fineweb_<split>_NNNNNN.bin, in order of digests.

    The order mixes texts that came sorted by topic, so that a shard's last documents are a fair sample; with
    `keeps_order` they stay as they come. A shard is closed by the document that brings it to `shard_tokens`.
    """

    def __init__(self, folder: Path, split: str, shard_tokens: int, keeps_order: bool = False):
        self._keeps_order = keeps_order
        self._folder = folder
        self._split = split
        self._shard_tokens = shard_tokens
        self._documents: list[EncodedDocument] = []
        self._num_tokens = 0
        self.paths: list[Path] = []

    def add(self, document: EncodedDocument) -> None:
        """Takes one document; may write a shard."""
        self._documents.append(document)
        self._num_tokens += len(document.tokens)
        if self._num_tokens >= self._shard_tokens:
            self.close()

    def close(self) -> None:
        """Writes what is left as the last shard."""
        if self._documents:
            path = self._folder / f"fineweb_{self._split}_{len(self.paths):06d}.bin"
            if not self._keeps_order:
                self._documents.sort(key=lambda document: document.digest)
            write_shard(path, np.concatenate([document.tokens for document in self._documents]))
            self.paths.append(path)
        self._documents, self._num_tokens = [], 0


def _encode_document(text: str, vocabulary: Vocabulary) -> EncodedDocument:
    text = text.strip()
    tokens = np.array([vocabulary.bos_id, *vocabulary.encode(text)], dtype=np.uint16)
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
