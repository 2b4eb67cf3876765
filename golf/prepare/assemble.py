"""From documents to a dataset folder: tokenizer, split, shards, manifest; whole, or not there at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from golf.data.bytefiles import write_byte_files
from golf.data.manifest import MANIFEST_NAME, DataError, Manifest
from golf.data.vocabulary import Vocabulary
from golf.prepare.encode import encode_documents, text_digest
from golf.prepare.split import Division, GivenValidation, SplitConfig
from golf.prepare.survey import Survey, survey_shards
from golf.prepare.tokenizer import TokenizerChoice
from golf.prepare.totals import VALIDATION_DOCUMENTS, compare_with_published
from golf.system.log import RunLog


@dataclass(frozen=True)
class TextOrigin:
    """What a manifest says of its text."""

    name: str
    source: str
    licence: str
    revision: str
    notes: tuple[str, ...] = ()


class TextStream:
    """Documents one after the other, and how far along the source they are."""

    def __init__(self, texts: Iterator[tuple[str, float]], total: float, unit: str):
        """Each text comes with the position behind it, of `total` `unit`s."""
        self._texts = texts
        self.total = total
        self.unit = unit
        self.position = 0.0

    def __iter__(self) -> Iterator[str]:
        for text, position in self._texts:
            self.position = position
            yield text


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
    """Writes a dataset folder, which must not hold anything yet, in one move at the end.

    With a `given` validation split all other documents are for training. A document with the normalised text
    of an earlier one is dropped, as is one with that of a given validation document. Raises DataError and
    what reading shards and tokenizers raises.
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
            val_digests = set(map(text_digest, val_texts))
            model.write_bytes(tokenizer.train(_not_validation(sample, val_digests, given, split)))
        else:
            model.write_bytes(tokenizer.read())
        vocabulary = Vocabulary.load(model)
        division = Division(staging, split, vocabulary)
        if val_texts:
            division.take_validation(val_texts, num_threads)
        else:
            for path in given.shards:
                division.take_shard(path)
        with log.progress("encoding", stream.total, stream.unit) as bar:
            for document in encode_documents(texts, vocabulary, num_threads):
                division.add(document)
                bar.move_to(stream.position)
        division.close()
        if vocabulary.case_ops:
            write_byte_files(division.val_paths, vocabulary)
        survey = survey_shards(division.val_paths, division.train_writer.paths, vocabulary, log)
        if survey.shared_documents:
            raise DataError(f"one document in training and validation: {survey.shared_documents[0]}")
        notes = (division.describe(given, survey.val_text_bytes),)
        manifest = make_manifest(origin, model.name, vocabulary, survey, division.num_repeated, notes)
        if given.first_documents == VALIDATION_DOCUMENTS:
            notes += compare_with_published(manifest, vocabulary)
            manifest = replace(manifest, notes=(*origin.notes, *notes))
        manifest.save(staging)
    return manifest


def make_manifest(
    origin: TextOrigin,
    tokenizer: str,
    vocabulary: Vocabulary,
    survey: Survey,
    repeated_documents: int,
    notes: tuple[str, ...],
) -> Manifest:
    """The manifest of surveyed shards."""
    return Manifest(
        name=origin.name,
        source=origin.source,
        licence=origin.licence,
        revision=origin.revision,
        tokenizer=tokenizer,
        tokenizer_sha256=vocabulary.sha256,
        vocab_size=vocabulary.size,
        files=survey.files,
        val_text_bytes=survey.val_text_bytes,
        train_text_bytes=survey.train_text_bytes,
        repeated_documents=repeated_documents,
        notes=(*origin.notes, *notes),
        case_ops=vocabulary.case_ops,
    )


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place when the block ends well, and vanishes when it does not.

    Raises DataError if `folder` holds something already, and when the disk is full.
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
            if folder.exists():
                folder.rmdir()
            os.rename(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def full_disk_as_data_error(message: str) -> Iterator[None]:
    """Turns the errors of a full disk or an exhausted quota into a DataError that says `message`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(message) from error
        raise


def require_empty(folder: Path) -> None:
    """DataError if there is anything at `folder` but an empty folder."""
    if (folder / MANIFEST_NAME).exists():
        raise DataError(f"{folder}: already holds a dataset; remove it or name another folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is not an empty folder; name another one")


def _take_sample(texts: Iterator[str], size: float) -> list[str]:
    """The first `size` characters or so of the stream."""
    sample, taken = [], 0
    for text in texts:
        sample.append(text)
        taken += len(text)
        if taken >= size:
            break
    return sample


def _not_validation(
    sample: list[str], val_digests: set[bytes], given: GivenValidation, split: SplitConfig
) -> Iterator[str]:
    """What of the sample may be trained on."""
    is_drawn = not val_digests and not given.shards
    for text in sample:
        digest = text_digest(text)
        if digest not in val_digests and not (is_drawn and split.is_val(digest)):
            yield text
