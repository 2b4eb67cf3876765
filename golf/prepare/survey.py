"""What the shards of a folder hold, read from the files: counts, hashes, repeated and shared documents."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from golf.data.manifest import (
    DataError,
    ShardFile,
    byte_file_of,
    check_byte_file,
    read_byte_file,
    sha256_of_file,
)
from golf.data.shards import check_token_ids, read_shard
from golf.data.vocabulary import Vocabulary
from golf.system.log import RunLog

OVERLAP_DOCUMENTS = 4
"""So many validation documents in a row among the training documents are the same range, no repeats."""

_CHUNK_TOKENS = 4_000_000


@dataclass(frozen=True)
class Survey:
    """The measured part of a manifest."""

    files: tuple[ShardFile, ...]
    val_text_bytes: int
    train_text_bytes: int
    repeated_documents: int
    """Documents with the tokens of an earlier one, validation being first."""
    shared_documents: tuple[str, ...]
    """Training documents that are in validation too: number and first words."""


def survey_shards(
    val_paths: Sequence[Path], train_paths: Sequence[Path], vocabulary: Vocabulary, log: RunLog
) -> Survey:
    """Reads every shard once.

    Raises ShardError for a damaged shard or a token id outside the vocabulary; DataError if a split does not
    start with BOS or was encoded with another tokenizer, if a file is there twice, or if training repeats a
    range of validation documents.
    """
    hashes = {path: sha256_of_file(path) for path in [*val_paths, *train_paths]}
    _refuse_equal_files(hashes)
    reader = _ShardReader(vocabulary, log, hashes)
    seen: dict[bytes, int] = {}
    repeated, shared = 0, []
    for number, document in enumerate(reader.documents("val", val_paths)):
        first = seen.setdefault(token_digest(document), number)
        repeated += first != number
    num_val = reader.num_documents
    run = _Run(num_val)
    for number, document in enumerate(reader.documents("train", train_paths), start=num_val):
        first = seen.setdefault(token_digest(document), number)
        repeated += first != number
        if first < num_val:
            words = vocabulary.decode(document[1:40])[:60]
            shared.append(f"document {number} is document {first} of validation ({words!r})")
        run.add(number, first)
    return Survey(
        tuple(reader.files), reader.text_bytes["val"], reader.text_bytes["train"], repeated, tuple(shared)
    )


def iterate_documents(tokens: np.ndarray, bos_id: int) -> Iterator[np.ndarray]:
    """The documents of a token stream, each with its BOS; what stands before the first BOS is left out."""
    starts = np.flatnonzero(tokens == bos_id)
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        yield tokens[start:end]


def token_digest(document: np.ndarray) -> bytes:
    """16 bytes of blake2b over a document's tokens."""
    return hashlib.blake2b(np.ascontiguousarray(document, dtype="<u2").data, digest_size=16).digest()


def check_encoded_with(path: Path, vocabulary: Vocabulary) -> None:
    """DataError unless a shard starts with BOS and its documents survive decoding and encoding.

    With the right tokenizer nearly all of the first 20 do, with another of the same size none. Their last
    tokens are not compared, as the shard may cut a document.
    """
    tokens = read_shard(path)[:100_000]
    check_token_ids(tokens, vocabulary.size, str(path))
    if tokens[0] != vocabulary.bos_id:
        raise DataError(f"{path}: starts with token {tokens[0]}; expected BOS, {vocabulary.bos_id}")
    sample = [document[1:].tolist() for document in iterate_documents(tokens, vocabulary.bos_id)][:20]
    changed = 0
    for document in sample:
        compared = max(0, len(document) - 16)
        changed += vocabulary.encode(vocabulary.decode(document))[:compared] != document[:compared]
    if 2 * changed > len(sample):
        found = f"{changed} of its first {len(sample)} documents decode to text that encodes to other tokens"
        raise DataError(f"{path}: {found}; it was made with another tokenizer")


class _ShardReader:
    """Streams documents, those that a shard's end cuts in one piece, and keeps the shards' figures."""

    def __init__(self, vocabulary: Vocabulary, log: RunLog, hashes: dict[Path, str]):
        self._vocabulary = vocabulary
        self._log = log
        self._hashes = hashes
        self.num_documents = 0
        self.files: list[ShardFile] = []
        self.text_bytes = {"val": 0, "train": 0}

    def documents(self, split: str, paths: Sequence[Path]) -> Iterator[np.ndarray]:
        """The documents of a split's shards in order, BOS included."""
        bos_id = self._vocabulary.bos_id
        pieces: list[np.ndarray] = []
        previous = np.array([bos_id], dtype=np.uint16)
        total = sum(len(read_shard(path)) for path in paths)
        with self._log.progress(f"checking {split}", total / 1e6, "M tokens") as bar:
            for path in paths:
                if path == paths[0]:
                    check_encoded_with(path, self._vocabulary)
                before, token_before = self.num_documents, int(previous[0])
                for chunk in self._chunks(path):
                    stream = np.concatenate([previous, chunk])
                    self.text_bytes[split] += int(self._vocabulary.count_bytes(stream[:-1], chunk).sum())
                    previous = chunk[-1:]
                    edges = [*np.flatnonzero(chunk == bos_id).tolist(), len(chunk)]
                    if edges[0] > 0:
                        pieces.append(chunk[: edges[0]])
                    for start, end in pairwise(edges):
                        if pieces:
                            yield np.concatenate(pieces)
                        self.num_documents += 1
                        pieces = [chunk[start:end]]
                    bar.advance(len(chunk) / 1e6)
                self._add_file(path, split, before, token_before)
        if pieces:
            yield np.concatenate(pieces)

    def _chunks(self, path: Path) -> Iterator[np.ndarray]:
        shard = read_shard(path)
        for start in range(0, len(shard), _CHUNK_TOKENS):
            chunk = np.array(shard[start : start + _CHUNK_TOKENS])
            check_token_ids(chunk, self._vocabulary.size, str(path), start)
            yield chunk

    def _add_file(self, path: Path, split: str, before: int, token_before: int) -> None:
        """`before` documents had started when this shard began, after `token_before`."""
        bytes_sha256 = ""
        if split == "val" and self._vocabulary.case_ops:
            read_byte_file(path)
            bytes_sha256 = sha256_of_file(byte_file_of(path))
            check_byte_file(path, self._vocabulary, token_before, bytes_sha256)
        shard = read_shard(path)
        first = before if shard[0] == self._vocabulary.bos_id else before - 1
        started = self.num_documents - before
        last = self.num_documents - 1
        sha256 = self._hashes[path]
        self.files.append(ShardFile(path.name, split, sha256, len(shard), started, first, last, bytes_sha256))


class _Run:
    """Raises DataError once training documents follow each other as validation documents do."""

    def __init__(self, num_val: int):
        self._num_val = num_val
        self._limit = min(OVERLAP_DOCUMENTS, num_val)
        self._length = 0
        self._last = -2

    def add(self, number: int, first: int) -> None:
        """Takes training document `number`, whose tokens were first seen in document `first`."""
        in_validation = first < self._num_val
        follows = in_validation and first == self._last + 1
        self._length = self._length + 1 if follows else int(in_validation)
        self._last = first if in_validation else -2
        if in_validation and self._length >= self._limit:
            raise DataError(
                f"training documents {number - self._length + 1} to {number} are validation documents "
                f"{first - self._length + 1} to {first}: the document ranges overlap"
            )


def _refuse_equal_files(hashes: dict[Path, str]) -> None:
    by_hash: dict[str, Path] = {}
    for path, found in hashes.items():
        if found in by_hash:
            raise DataError(
                f"{path} and {by_hash[found].name} are the same file: the document ranges overlap"
            )
        by_hash[found] = path
