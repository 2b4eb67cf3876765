"""From documents to a dataset folder: tokenizer, split, shards, manifest; complete, or absent."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from golf.data.manifest import Manifest
from golf.data.shards import DataError
from golf.data.vocabulary import Vocabulary
from golf.prepare.encode import encode_documents, text_digest
from golf.prepare.shards import (
    VALIDATION_DOCUMENTS,
    TextOrigin,
    check_shards,
    compare_with_published,
    write_byte_files,
)
from golf.prepare.split import GivenValidation, SplitConfig, Splitter
from golf.prepare.staging import staged_folder
from golf.prepare.text import TextStream
from golf.prepare.tokenizer import TokenizerChoice, train_tokenizer
from golf.system.log import RunLog


def build_dataset(
    folder: Path,
    origin: TextOrigin,
    stream: TextStream,
    tokenizer: TokenizerChoice,
    split: SplitConfig,
    log: RunLog,
    given: GivenValidation | None = None,
    num_threads: int | None = None,
) -> Manifest:
    """Writes a dataset folder, which must be absent or empty, whole or not at all.

    With a `given` validation split all other documents are for training. A document is dropped if an earlier
    document or one of the given validation split has the same normalized text. Raises DataError, and the
    errors of reading shards and tokenizers.
    """
    given = given or GivenValidation()
    split.check()
    with staged_folder(folder) as staging:
        texts = iter(stream)
        val_texts = given.texts(texts)
        model = staging / tokenizer.file_name(origin.name)
        if tokenizer.model is None:
            sample = _take_sample(texts, tokenizer.sample_bytes / (1 - split.val_fraction))
            texts = chain(sample, texts)
            excluded = set(map(text_digest, val_texts))
            digests = [text_digest(text) for text in sample]
            if not val_texts and not given.shards:
                # Validation of a text too small for its share is the document of smallest hash.
                excluded |= set(filter(split.is_val, digests)) or {min(digests, default=b"")}
            trained = [text for text, digest in zip(sample, digests, strict=True) if digest not in excluded]
            if not trained:
                raise DataError(
                    f"the text has {len(set(digests))} documents, none of them left to train a tokenizer on; "
                    "training and validation need at least one each: give more text"
                )
            choice = (tokenizer.vocab_size, tokenizer.case_ops, tokenizer.sample_bytes)
            model.write_bytes(train_tokenizer(trained, *choice))
        else:
            model.write_bytes(tokenizer.read(tokenizer.model))
        vocabulary = Vocabulary.load(model)
        splitter = Splitter(staging, split, vocabulary, val_texts, given.shards, num_threads)
        with log.progress("encoding", stream.total, stream.unit) as bar:
            for document in encode_documents(texts, vocabulary, num_threads):
                splitter.add(document)
                bar.move_to(stream.position)
        splitter.close()
        if vocabulary.case_ops:
            write_byte_files(splitter.val_paths, vocabulary)
        train_paths = splitter.train_writer.paths
        manifest, shared = check_shards(splitter.val_paths, train_paths, vocabulary, model.name, origin, log)
        if shared:
            raise DataError(f"one document in training and validation: {shared[0]}")
        notes = [splitter.describe(given, manifest.val_text_bytes)]
        if given.first_documents == VALIDATION_DOCUMENTS:
            notes += compare_with_published(manifest, vocabulary)
        manifest = replace(
            manifest, repeated_documents=splitter.num_repeated, notes=(*origin.notes, *stream.notes(), *notes)
        )
        manifest.save(staging)
    return manifest


def _take_sample(texts: Iterator[str], size: float) -> list[str]:
    """The first documents that are not blank, of at least `size` characters."""
    sample, taken = [], 0
    for text in filter(str.strip, texts):
        sample.append(text)
        taken += len(text)
        if taken >= size:
            break
    return sample
