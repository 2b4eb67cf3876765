"""Shards on disk, made here or published: read back, checked and counted for their manifest."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from golf.data.manifest import MANIFEST_NAME, Manifest, ShardFile, find_byte_file, sha256_of_file
from golf.data.reference import CANONICAL_BYTES, COUNT_TOLERANCE, SEQUENCE_TOKENS, published_tokens
from golf.data.shards import DataError, check_token_ids, read_shard, write_shard
from golf.data.vocabulary import Vocabulary
from golf.prepare.rows import require_file
from golf.prepare.staging import full_disk_as_data_error
from golf.prepare.tokenizer import FUSED_MARKS, check_tokenizer, load_tokenizer, unknown_id
from golf.system.files import atomic_write
from golf.system.log import ProgressBar, RunLog

OVERLAP_DOCUMENTS = 4
"""Consecutive validation documents among the training documents that count as an overlap, not as repeats."""

DOCUMENTS_NAME = "docs_selected.jsonl"
"""The challenge's published documents."""
VALIDATION_DOCUMENTS = 50_000
"""The first so many of them are validation; openai/parameter-golf #2127 trained on 40,000 of them."""

_CHUNK_TOKENS = 4_000_000


@dataclass(frozen=True)
class TextOrigin:
    """What a manifest says about its text."""

    name: str
    source: str
    licence: str
    revision: str
    notes: tuple[str, ...] = ()


def adopt_shards(folder: Path, tokenizer: Path | None, origin: TextOrigin, log: RunLog) -> Manifest:
    """Writes the manifest of a folder of fineweb_train_*.bin and fineweb_val_*.bin; copies the tokenizer.

    `tokenizer` defaults to the only .model file of the folder, else to that of the challenge's layout:
    ../../tokenizers/fineweb_1024_bpe.model of datasets/fineweb10B_sp1024. The shards are not changed.
    Documents in both splits are counted and logged; raises DataError for ranges in both splits, and as
    `check_shards` does.
    """
    val, train = (sorted(folder.glob(f"fineweb_{split}_[0-9]*.bin")) for split in ("val", "train"))
    if not val and not train:
        raise DataError(f"{folder}: has no fineweb_train_*.bin or fineweb_val_*.bin")
    if (folder / MANIFEST_NAME).exists():
        raise DataError(f"{folder / MANIFEST_NAME}: is there already; move it away to make another")
    if tokenizer is None:
        laid_out = f"../../tokenizers/fineweb_{folder.name.rpartition('_sp')[2]}_bpe.model"
        models = sorted(folder.glob("*.model")) or sorted(folder.glob(laid_out))
        if len(models) != 1:
            names = ", ".join(path.name for path in models) or "none"
            raise DataError(f"{folder}: expected one .model file, found {names}; name it with --tokenizer")
        tokenizer = models[0]
    for path in (*val, *train):
        require_file(path)
    manifest = manifest_of_published(val, train, tokenizer, origin, log)
    with full_disk_as_data_error(f"{folder}: no space left on the disk; no manifest was written"):
        if tokenizer.absolute() != (folder / tokenizer.name).absolute():
            with atomic_write(folder / tokenizer.name) as partial:
                shutil.copyfile(tokenizer, partial)
        manifest.save(folder)
    return manifest


def manifest_of_published(
    val: Sequence[Path], train: Sequence[Path], tokenizer: Path, origin: TextOrigin, log: RunLog
) -> Manifest:
    """The manifest of shards that somebody else encoded; the log and the notes report repeated documents."""
    vocabulary = load_tokenizer(tokenizer)
    check_tokenizer(vocabulary, str(tokenizer))
    byte_notes = adopt_byte_files(val, vocabulary) if vocabulary.case_ops else ()
    manifest, shared = check_shards(val, train, vocabulary, tokenizer.name, origin, log)
    repeats = f"{manifest.repeated_documents} documents are exact repeats"
    repeats += f", {len(shared)} of them of validation documents"
    for line in (*byte_notes, repeats, *(f"in training: {line}" for line in shared[:3])):
        log.info(line)
    note = f"{len(shared)} training documents are exact repeats of validation documents, as published"
    return replace(manifest, notes=(*manifest.notes, note, *byte_notes))


def check_shards(
    val: Sequence[Path],
    train: Sequence[Path],
    vocabulary: Vocabulary,
    tokenizer: str,
    origin: TextOrigin,
    log: RunLog,
) -> tuple[Manifest, list[str]]:
    """The manifest of shards, all of which are read; and a line for each training document in validation.

    `tokenizer` is the file name for the manifest. Raises DataError for a damaged shard, a token id outside
    the vocabulary, a split that does not start with BOS or was encoded with another tokenizer, two equal
    files, and training that repeats a range of validation documents.
    """
    files: list[ShardFile] = []
    path_of_hash: dict[str, Path] = {}
    text_bytes = {"val": 0, "train": 0}
    repeats = _Repeats(vocabulary)
    for split, paths in (("val", val), ("train", train)):
        if paths:
            check_encoded_with(paths[0], vocabulary)
        token_before = vocabulary.bos_id
        unfinished = np.zeros(0, dtype=np.uint16)
        total = sum(len(read_shard(path)) for path in paths)
        with log.progress(f"checking {split}", total / 1e6, "M tokens") as bar:
            for path in paths:
                sha256 = sha256_of_file(path)
                if sha256 in path_of_hash:
                    same = f"{path} and {path_of_hash[sha256].name} are the same file"
                    raise DataError(f"{same}: the document ranges overlap")
                path_of_hash[sha256] = path
                tokens = np.asarray(read_shard(path))
                text_bytes[split] += _count_text(tokens, token_before, vocabulary, str(path), bar)
                if split == "val":
                    require_known(tokens, vocabulary, path.name)
                has_bytes = split == "val" and vocabulary.case_ops
                bytes_sha256 = check_byte_file(path, vocabulary, token_before) if has_bytes else ""
                token_before = int(tokens[-1])
                starts = np.flatnonzero(tokens == vocabulary.bos_id)
                first = files[-1].last_document + 1 if files else 0
                last, is_cut = first + len(starts) - 1, tokens[0] != vocabulary.bos_id
                counts = len(tokens), len(starts)
                files.append(
                    ShardFile(path.name, split, sha256, *counts, first - int(is_cut), last, bytes_sha256)
                )
                pieces = np.split(tokens, starts)
                pieces[0] = np.concatenate([unfinished, pieces[0]])
                *documents, unfinished = pieces
                for document in documents:
                    repeats.add(document, split)
            repeats.add(unfinished, split)
    manifest = Manifest(
        **vars(origin),
        tokenizer=tokenizer,
        tokenizer_sha256=vocabulary.sha256,
        vocab_size=vocabulary.size,
        files=tuple(files),
        val_text_bytes=text_bytes["val"],
        train_text_bytes=text_bytes["train"],
        repeated_documents=repeats.num_repeated,
        case_ops=vocabulary.case_ops,
    )
    return manifest, repeats.shared


def require_known(tokens: np.ndarray, vocabulary: Vocabulary, name: str) -> None:
    """Raises DataError for validation that its tokens do not restore: the audit of every run would fail."""
    unknown = unknown_id(vocabulary)
    places = np.flatnonzero(tokens == (-1 if unknown is None else unknown))
    if len(places):
        around = vocabulary.decode_tokens(tokens[max(0, places[0] - 20) : places[0] + 5])
        raise DataError(
            f"{name}: {len(places)} tokens stand for characters that the tokenizer has no piece for, and it "
            f"has no byte fallback (first: {around!r:.80}): no score on this text passes an audit. Train a "
            "tokenizer by --vocab-size N, or name one with byte fallback"
        )


def require_as_stated(shard: Path) -> None:
    """Raises DataError if a manifest beside a shard states another sha256 for it."""
    if (shard.parent / MANIFEST_NAME).is_file():
        for file in Manifest.load(shard.parent).files:
            if file.name == shard.name and (found := sha256_of_file(shard)) != file.sha256:
                raise DataError(f"{shard}: sha256 {found}; the manifest beside it says {file.sha256}")


def iterate_documents(tokens: np.ndarray, bos_id: int) -> Iterator[np.ndarray]:
    """The documents of a token stream, each with its BOS; tokens before the first BOS are left out."""
    yield from np.split(tokens, np.flatnonzero(tokens == bos_id))[1:]


def check_encoded_with(path: Path, vocabulary: Vocabulary) -> None:
    """Raises DataError unless a shard starts with BOS and its documents survive decoding and encoding.

    With the right tokenizer nearly all of the first 20 do, with another of the same size none. Their last 16
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
        changed += (
            vocabulary.encode_text(vocabulary.decode_tokens(document))[:compared] != document[:compared]
        )
    if 2 * changed > len(sample):
        found = f"{changed} of its first {len(sample)} documents decode to text that encodes to other tokens"
        raise DataError(f"{path}: {found}; it was made with another tokenizer")


def write_byte_files(shards: Sequence[Path], vocabulary: Vocabulary) -> None:
    """Writes the byte file of each CaseOps shard; DataError if a document's count is not its decoded size.

    A document decodes to its normalized text, so the bytes counted are those of the original.
    """
    before = vocabulary.bos_id
    for shard in shards:
        tokens = np.array(read_shard(shard))
        counts = _count_bytes(tokens, before, vocabulary)
        before = int(tokens[-1])
        edges = [*np.flatnonzero(tokens == vocabulary.bos_id).tolist(), len(tokens)]
        for start, end in pairwise(edges):
            text = vocabulary.decode_tokens(tokens[start + 1 : end])
            counted, size = int(counts[start:end].sum()), len(text.encode())
            is_cut = end == len(tokens) and text.endswith("\ufffd")
            if counted != size and not is_cut:
                raise DataError(
                    f"{shard}: a document of {size} bytes is counted as {counted} ({text[:60]!r})"
                )
        write_shard(shard.with_suffix(".bytes"), counts)


def adopt_byte_files(shards: Sequence[Path], vocabulary: Vocabulary) -> tuple[str, ...]:
    """Writes the byte files that published shards lack; returns a note for each export that counts otherwise.

    An export has fineweb_val_bytes_NNNNNN.bin, which is compared with the counts of the vocabulary. Raises
    DataError for a shard without either file.
    """
    notes = []
    for shard in shards:
        published = shard.with_name(shard.name.replace("_val_", "_val_bytes_"))
        if shard.with_suffix(".bytes").is_file() or not published.is_file():
            find_byte_file(shard)
            continue
        stated = int(read_shard(published).sum(dtype=np.int64))
        write_byte_files([shard], vocabulary)
        counted = int(read_shard(find_byte_file(shard)).sum(dtype=np.int64))
        if stated != counted:
            notes.append(f"{published.name} says {stated} bytes; the decoded text has {counted}, which count")
    return tuple(notes)


def check_byte_file(shard: Path, vocabulary: Vocabulary, before: int) -> str:
    """The sha256 of the byte file of a shard after token `before`; DataError if its counts are wrong."""
    path, tokens = find_byte_file(shard), np.array(read_shard(shard))
    stated, counted = read_shard(path), _count_bytes(tokens, before, vocabulary)
    if len(stated) != len(tokens):
        raise DataError(f"{path}: has {len(stated)} counts; {shard.name} has {len(tokens)} tokens")
    if not np.array_equal(stated, counted):
        place = int(np.argmax(stated != counted))
        raise DataError(
            f"{path}: token {place} of {shard.name} is {stated[place]} bytes there; it stands for "
            f"{counted[place]}. In all {int(stated.sum())} and {int(counted.sum())}"
        )
    return sha256_of_file(path)


def _count_bytes(tokens: np.ndarray, before: int, vocabulary: Vocabulary) -> np.ndarray:
    """Bytes of text of each token (N), of which the first follows token `before`."""
    return vocabulary.count_bytes(np.concatenate([[before], tokens[:-1]]), tokens)


def compare_with_published(manifest: Manifest, vocabulary: Vocabulary) -> tuple[str, ...]:
    """A line on the tokens and one on the bytes of the challenge's validation split, agreeing or not."""
    scored = (manifest.num_tokens("val") - 1) // SEQUENCE_TOKENS * SEQUENCE_TOKENS
    found = f"validation: {scored:,} tokens in whole sequences of {SEQUENCE_TOKENS:,}"
    published = published_tokens(vocabulary.size, manifest.case_ops)
    fused = any(vocabulary.piece(token) == FUSED_MARKS[0] for token in range(vocabulary.size))
    kind = f"{vocabulary.size:,} pieces{' with CaseOps' if manifest.case_ops else ''}"
    if published is None or fused:
        tokens = f"{found}; no total is published for {kind}{', fused' if fused else ''}"
    elif scored == published:
        tokens = f"{found}, as published for {kind}"
    else:
        tokens = f"MISMATCH: {found}; {published:,} are published for {kind}: another tokenizer or other text"
    size = f"validation: {manifest.val_text_bytes:,} bytes"
    if abs(manifest.val_text_bytes - CANONICAL_BYTES) <= COUNT_TOLERANCE:
        return tokens, f"{size}, the published 151.08 million"
    return tokens, f"MISMATCH: {size}; the published total is 151.08 million: other documents"


def _count_text(tokens: np.ndarray, before: int, vocabulary: Vocabulary, name: str, bar: ProgressBar) -> int:
    """Bytes of text of a shard after token `before`; chunks bound the memory of the int64 intermediates."""
    num_bytes = 0
    for start in range(0, len(tokens), _CHUNK_TOKENS):
        chunk = tokens[start : start + _CHUNK_TOKENS]
        check_token_ids(chunk, vocabulary.size, name, start)
        num_bytes += int(_count_bytes(chunk, before, vocabulary).sum())
        before = int(chunk[-1])
        bar.advance(len(chunk) / 1e6)
    return num_bytes


class _Repeats:
    """Documents with the tokens of an earlier one, and training documents that validation has too."""

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self._number_of_digest: dict[bytes, int] = {}
        self._num_documents = self._num_val = self.num_repeated = 0
        self._run: list[int] = []
        """Consecutive validation documents that the last training documents are."""
        self.shared: list[str] = []

    def add(self, document: np.ndarray, split: str) -> None:
        """Takes the next document; empty ones are no documents. DataError for a range of validation."""
        if not len(document):
            return
        data = np.ascontiguousarray(document, dtype="<u2").data
        number = self._num_documents
        first = self._number_of_digest.setdefault(hashlib.blake2b(data, digest_size=16).digest(), number)
        self._num_documents += 1
        self.num_repeated += first != number
        if split == "val":
            self._num_val += 1
            return
        follows = self._run and first == self._run[-1] + 1
        self._run = [*(self._run if follows else []), first] if first < self._num_val else []
        if not self._run:
            return
        words = self._vocabulary.decode_tokens(document[1:40])[:60]
        self.shared.append(f"document {number} is document {first} of validation ({words!r})")
        if len(self._run) >= min(OVERLAP_DOCUMENTS, self._num_val):
            raise DataError(
                f"training documents {number - len(self._run) + 1} to {number} are validation documents "
                f"{self._run[0]} to {first}: the document ranges overlap"
            )
