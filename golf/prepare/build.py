"""From documents to a dataset folder: tokenizer, split, shards, manifest; complete, or absent."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

from golf.data.manifest import MANIFEST_NAME, Manifest
from golf.data.shards import DataError
from golf.data.vocabulary import Vocabulary
from golf.prepare.encode import encode_documents, text_digest
from golf.prepare.shards import (
    VALIDATION_DOCUMENTS,
    TextOrigin,
    check_shards,
    compare_with_published,
    full_disk_as_data_error,
    move_into,
    write_byte_files,
)
from golf.prepare.split import GivenValidation, SplitConfig, Splitter
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
    """Writes a dataset folder, which must be absent or empty; renames it into place at the end.

    With a `given` validation split all other documents are for training. A document is dropped if an earlier
    document or one of the given validation split has the same normalized text. Raises DataError, and the
    errors of reading shards and tokenizers.
    """
    given = given or GivenValidation()
    if not 0 < split.val_fraction < 1:
        raise DataError(f"validation share is {split.val_fraction}; expected a number between 0 and 1")
    with staged_folder(folder) as staging:
        texts = iter(stream)
        val_texts = given.texts(texts)
        model = staging / tokenizer.file_name(origin.name)
        if tokenizer.model is None:
            sample = _take_sample(texts, tokenizer.sample_bytes / (1 - split.val_fraction))
            texts = chain(sample, texts)
            excluded = set(map(text_digest, val_texts))
            is_drawn = not val_texts and not given.shards
            digests = ((text, text_digest(text)) for text in sample)
            trained = (t for t, d in digests if d not in excluded and not (is_drawn and split.is_val(d)))
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
        manifest = replace(manifest, repeated_documents=splitter.num_repeated, notes=(*origin.notes, *notes))
        manifest.save(staging)
    return manifest


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """Yields `<folder>.preparing`; at the end of the block renames it to `folder`, on an error deletes it.

    Raises DataError if `folder` is not empty, and if the disk is full.
    """
    folder = folder.absolute()
    require_empty(folder)
    staging = folder.with_name(folder.name + ".preparing")
    with full_disk_as_data_error(f"{folder}: no space left on the disk; nothing was kept"):
        try:
            if staging.exists():
                shutil.rmtree(staging)
            staging.mkdir(parents=True)
            yield staging
            move_into(folder, staging)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def require_empty(folder: Path) -> None:
    """Raises DataError unless `folder` is absent or an empty folder."""
    if (folder / MANIFEST_NAME).exists():
        raise DataError(f"{folder}: already holds a dataset; remove it or name another folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is not an empty folder; name another one")


def _take_sample(texts: Iterator[str], size: float) -> list[str]:
    """The first documents, of at least `size` characters."""
    sample, taken = [], 0
    for text in texts:
        sample.append(text)
        taken += len(text)
        if taken >= size:
            break
    return sample
