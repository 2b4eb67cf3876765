"""Shards that are there already: surveyed, and given the manifest they lack."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from golf.data.bytefiles import adopt_byte_files
from golf.data.manifest import MANIFEST_NAME, DataError, Manifest
from golf.data.vocabulary import Vocabulary
from golf.prepare.assemble import TextOrigin, full_disk_as_data_error, make_manifest
from golf.prepare.survey import survey_shards
from golf.prepare.tokenizer import check_tokenizer
from golf.system.log import RunLog


def adopt_shards(folder: Path, tokenizer: Path | None, origin: TextOrigin, log: RunLog) -> Manifest:
    """Writes the manifest of a folder of fineweb_train_*.bin and fineweb_val_*.bin; takes in the tokenizer.

    Without `tokenizer` the folder's only .model file is taken. Shards stay as they are: documents in both
    splits are counted and reported; DataError if whole ranges are in both, or as `survey_shards` raises.
    """
    val, train = (sorted(folder.glob(f"fineweb_{split}_[0-9]*.bin")) for split in ("val", "train"))
    if not val and not train:
        raise DataError(f"{folder}: has no fineweb_train_*.bin or fineweb_val_*.bin")
    if (folder / MANIFEST_NAME).exists():
        raise DataError(f"{folder / MANIFEST_NAME}: is there already; move it away to make another")
    source = tokenizer or _only_model(folder)
    vocabulary = Vocabulary.load(source)
    check_tokenizer(vocabulary, str(source))
    manifest = survey_published(val, train, vocabulary, source.name, origin, log)
    with full_disk_as_data_error(f"{folder}: no space left on the disk; no manifest was written"):
        if source.absolute() != (folder / source.name).absolute():
            part = folder / (source.name + ".part")
            try:
                shutil.copyfile(source, part)
                os.replace(part, folder / source.name)
            finally:
                part.unlink(missing_ok=True)
        manifest.save(folder)
    return manifest


def survey_published(
    val: Sequence[Path],
    train: Sequence[Path],
    vocabulary: Vocabulary,
    tokenizer: str,
    origin: TextOrigin,
    log: RunLog,
) -> Manifest:
    """The manifest of shards that somebody else encoded; repeats are said in the log and in its notes."""
    byte_notes = adopt_byte_files(val, vocabulary) if vocabulary.case_ops else ()
    for line in byte_notes:
        log.info(line)
    survey = survey_shards(val, train, vocabulary, log)
    shared = len(survey.shared_documents)
    log.info(
        f"{survey.repeated_documents} documents are exact repeats, {shared} of them of validation documents"
    )
    for line in survey.shared_documents[:3]:
        log.info(f"in training: {line}")
    notes = (f"{shared} training documents are exact repeats of validation documents, as published",)
    notes += byte_notes
    return make_manifest(origin, tokenizer, vocabulary, survey, survey.repeated_documents, notes)


def _only_model(folder: Path) -> Path:
    models = sorted(folder.glob("*.model"))
    if len(models) != 1:
        names = ", ".join(path.name for path in models) or "none"
        raise DataError(f"{folder}: expected one .model file, found {names}; name it with --tokenizer")
    return models[0]
