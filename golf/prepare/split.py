"""The division of documents into training and validation, and the shard files of both."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from golf.data.shards import DataError, check_token_ids, read_shard, write_shard
from golf.data.vocabulary import Vocabulary
from golf.prepare.encode import EncodedDocument, encode_documents, text_digest
from golf.prepare.shards import check_encoded_with, iterate_documents
from golf.prepare.tokenizer import load_tokenizer

MAX_SHARD_TOKENS = 2**30


@dataclass(frozen=True)
class SplitConfig:
    """The division into training and validation by the hash of each document's own text.

    A text without a document in the validation fraction has the one of smallest hash as validation.
    """

    val_fraction: float = 0.05
    """Fraction of documents, by the hash of their normalized text, that are not trained on."""
    val_max_bytes: int = 5_000_000
    """Maximum bytes of validation text, smallest hashes first; the rest of that fraction is unused."""
    shard_tokens: int = 100_000_000
    """Number of tokens after which a shard is closed."""

    def check(self) -> None:
        """Raises DataError for a value out of range."""
        if not 0 < self.val_fraction < 1:
            raise DataError(f"validation share is {self.val_fraction}; expected a number between 0 and 1")
        if self.val_max_bytes < 1:
            raise DataError(f"the most bytes of validation are {self.val_max_bytes}; expected at least 1")
        if not 0 < self.shard_tokens <= MAX_SHARD_TOKENS:
            raise DataError(f"a shard of {self.shard_tokens} tokens; expected 1 to {MAX_SHARD_TOKENS}")

    def is_val(self, digest: bytes) -> bool:
        """Whether the document with this `text_digest` belongs to the validation fraction."""
        return int.from_bytes(digest[:8], "big") < self.val_fraction * 2**64


@dataclass(frozen=True)
class GivenValidation:
    """A validation split that is given instead of drawn by hash; the default is none."""

    shards: tuple[Path, ...] = ()
    """Shards that are the split."""
    tokenizer: Path | None = None
    """The tokenizer of `shards`, if their documents are to be decoded and encoded again."""
    first_documents: int = 0
    """Number of documents at the start of the text that are the split."""

    def texts(self, stream: Iterator[str]) -> list[str]:
        """The texts of the split, taken from `stream` or decoded; none if its shards are copied unchanged.

        Raises DataError if the stream is too short or a shard was encoded with another tokenizer.
        """
        if self.tokenizer is not None:
            vocabulary = load_tokenizer(self.tokenizer)
            return [vocabulary.decode_tokens(document[1:]) for document in self._documents(vocabulary)]
        taken = list(islice(stream, self.first_documents))
        if len(taken) < self.first_documents:
            found = f"the text has {len(taken)}"
            raise DataError(f"{self.first_documents} documents are to be validation; {found}")
        return taken

    def describe(self, num_documents: int, num_bytes: int, num_left_out: int) -> str:
        """The note for the manifest; `num_bytes` is the size of the split as encoded here."""
        left_out = (
            f"{num_left_out} documents with the text of a validation document were left out of training"
        )
        if self.first_documents:
            return f"validation is the first {num_documents} documents of the text; {left_out}"
        if self.tokenizer is None:
            return f"validation is given as shards; {left_out}"
        vocabulary = load_tokenizer(self.tokenizer)
        stream = np.concatenate(list(self._documents(vocabulary)))
        given = int(vocabulary.count_bytes(stream[:-1], stream[1:]).sum())
        same = f"{given} bytes" if given == num_bytes else f"MISMATCH: {given} bytes before, {num_bytes} now"
        return (
            f"validation is given as shards of {self.tokenizer.name}, {num_documents} documents, decoded and "
            f"encoded again: {same}; {left_out}"
        )

    def _documents(self, vocabulary: Vocabulary) -> Iterator[np.ndarray]:
        check_encoded_with(self.shards[0], vocabulary)
        stream = np.concatenate([np.array(read_shard(path)) for path in self.shards])
        check_token_ids(stream, vocabulary.size, str(self.shards[-1]))
        return iterate_documents(stream, vocabulary.bos_id)


class ShardWriter:
    """Writes documents to `folder`/fineweb_<split>_NNNNNN.bin, sorted by digest within a shard.

    The sort mixes texts that are sorted by topic, so that the last documents of a shard are a fair sample;
    `keeps_order` turns it off. The document that brings a shard to `shard_tokens` is its last.
    """

    def __init__(self, folder: Path, split: str, shard_tokens: int, keeps_order: bool = False):
        self._stem, self._shard_tokens = str(folder / f"fineweb_{split}"), shard_tokens
        self._keeps_order = keeps_order
        self._documents: list[EncodedDocument] = []
        self._num_tokens = 0
        self.paths: list[Path] = []

    def add(self, document: EncodedDocument) -> None:
        """Takes a document; writes a shard if it is full."""
        self._documents.append(document)
        self._num_tokens += len(document.tokens)
        if self._num_tokens >= self._shard_tokens:
            self.close()

    def take_smallest(self) -> list[EncodedDocument]:
        """Takes out the document of smallest digest, if no shard is written yet and another one is left."""
        if self.paths or len(self._documents) < 2:
            return []
        smallest = min(self._documents, key=lambda document: document.digest)
        self._documents.remove(smallest)
        return [smallest]

    def close(self) -> None:
        """Writes the remaining documents as the last shard."""
        if self._documents:
            path = Path(f"{self._stem}_{len(self.paths):06d}.bin")
            if not self._keeps_order:
                self._documents.sort(key=lambda document: document.digest)
            write_shard(path, np.concatenate([document.tokens for document in self._documents]))
            self.paths.append(path)
        self._documents, self._num_tokens = [], 0


class Splitter:
    """Writes each new document to the training shards or keeps it as a candidate for validation.

    A validation split that is given, as `texts` or else as `shards`, is written at once, in its order.
    """

    def __init__(
        self,
        staging: Path,
        split: SplitConfig,
        vocabulary: Vocabulary,
        texts: list[str],
        shards: tuple[Path, ...],
        num_threads: int | None,
    ):
        self._staging, self._split = staging, split
        self._seen: set[bytes] = set()
        self._given: set[bytes] = set()
        self._candidates: list[EncodedDocument] = []
        self._candidate_bytes = self._num_unused = self._num_in_validation = self._num_given = 0
        self.num_repeated = 0
        self.val_paths: list[Path] = []
        self.train_writer = ShardWriter(staging, "train", split.shard_tokens)
        if texts:
            documents = list(encode_documents(texts, vocabulary, num_threads))
            self._given, self._num_given = {document.digest for document in documents}, len(documents)
            self._write_validation(documents, keeps_order=True)
            return
        for index, path in enumerate(shards):
            check_encoded_with(path, vocabulary)
            self.val_paths.append(staging / f"fineweb_val_{index:06d}.bin")
            shutil.copyfile(path, self.val_paths[-1])
            for document in iterate_documents(read_shard(path), vocabulary.bos_id):
                self._given.add(text_digest(vocabulary.decode_tokens(document[1:])))

    def add(self, document: EncodedDocument) -> None:
        """Takes a document, unless it is a repeat."""
        if document.digest in self._given:
            self._num_in_validation += 1
        elif document.digest in self._seen:
            self.num_repeated += 1
        else:
            self._seen.add(document.digest)
            if self._given or not self._split.is_val(document.digest):
                self.train_writer.add(document)
                return
            self._candidates.append(document)
            self._candidate_bytes += document.text_bytes
            if self._candidate_bytes > 2 * self._split.val_max_bytes:
                self._keep_smallest_hashes()

    def close(self) -> None:
        """Writes the validation shards and the last training shard; DataError if a split is empty."""
        self._keep_smallest_hashes()
        if not self._given:
            self._candidates = self._candidates or self.train_writer.take_smallest()
            self._write_validation(self._candidates)
        self.train_writer.close()
        found = f"of {len(self._seen)} different documents"
        if not self.train_writer.paths:
            raise DataError(f"{found} none is left for training")
        if not self.val_paths:
            share = f"the validation share of {self._split.val_fraction:g}"
            raise DataError(f"{found} {share} gets none; give more text, of at least two documents")

    def describe(self, given: GivenValidation, val_bytes: int) -> str:
        """The note on the validation split, of `val_bytes`, for the manifest."""
        if self._given:
            return given.describe(self._num_given, val_bytes, self._num_in_validation)
        share = f"the validation share of {self._split.val_fraction:g}"
        chosen = (
            f"{len(self._candidates)} documents of smallest hash, at most {self._split.val_max_bytes} bytes"
        )
        return f"validation: the {chosen}; {self._num_unused} more documents of {share} are unused"

    def _write_validation(self, documents: list[EncodedDocument], keeps_order: bool = False) -> None:
        writer = ShardWriter(self._staging, "val", self._split.shard_tokens, keeps_order)
        for document in documents:
            writer.add(document)
        writer.close()
        self.val_paths = writer.paths

    def _keep_smallest_hashes(self) -> None:
        """Drops candidates beyond `val_max_bytes`; the smallest hash stays whatever its size."""
        self._candidates.sort(key=lambda document: document.digest)
        sizes = np.cumsum([document.text_bytes for document in self._candidates])
        kept = max(1, int(np.searchsorted(sizes, self._split.val_max_bytes, side="right")))
        self._num_unused += len(self._candidates[kept:])
        del self._candidates[kept:]
        self._candidate_bytes = int(sizes[len(self._candidates) - 1]) if self._candidates else 0
