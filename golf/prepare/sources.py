"""Datasets by source: docs, challenge, text and shards, and the options of each."""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from golf.data.manifest import MANIFEST_NAME, Manifest, sha256_of_file
from golf.data.shards import DataError
from golf.prepare.build import build_dataset
from golf.prepare.challenge import (
    DOCUMENT_BYTES,
    ENCODE_SECONDS_PER_MB,
    EXPORTS,
    ChallengeConfig,
    documents_for,
    fetch_challenge,
)
from golf.prepare.common_docs import (
    DOCS_SPLIT,
    DOCS_VOCAB_SIZE,
    common_tokenizer,
    fingerprint,
    load_common,
)
from golf.prepare.docs import read_docs
from golf.prepare.rows import require_file
from golf.prepare.shards import (
    DOCUMENTS_NAME,
    VALIDATION_DOCUMENTS,
    TextOrigin,
    adopt_shards,
    require_as_stated,
)
from golf.prepare.split import GivenValidation, SplitConfig
from golf.prepare.staging import require_empty
from golf.prepare.text import FINEWEB, BadRows, TextStream, stream_dataset, stream_files
from golf.prepare.tokenizer import SAMPLE_BYTES, MarkPieces, TokenizerChoice, load_tokenizer
from golf.system.lock import owned_folder
from golf.system.log import RunLog

MAX_VOCAB_SIZE = 2**16
"""Tokens are stored in 16 bits."""
CHALLENGE_SAMPLE_BYTES = 200_000_000
"""Bytes of text that a tokenizer for the challenge's documents is trained on."""


@dataclass(frozen=True)
class TextConfig:
    """The text of the source `text`, its tokenizer and its split."""

    files: tuple[Path, ...] = ()
    """.txt, .jsonl, .ndjson, .json or .parquet files, plain or .gz, .zst, .xz or .bz2; without files,
    `dataset` is streamed."""
    dataset: str = FINEWEB[0]
    """A dataset on the Hugging Face hub, or a folder that the `datasets` library can read."""
    configuration: str | None = None
    """Configuration of the dataset; the default for FineWeb is sample-10BT."""
    text_field: str = "text"
    """Field or column of the text."""
    max_docs: int | None = None
    """Maximum number of documents to read."""
    skip_bad_rows: bool = False
    """Leave out rows without text (null, a number, no such field, not JSON, not UTF-8) and count them; the
    first is an error otherwise."""
    val_shard: tuple[Path, ...] = ()
    """Shards that are the validation split; all other text is then for training."""
    val_tokenizer: Path | None = None
    """The tokenizer of `val_shard`, if it is another one: documents are decoded and encoded again, so that
    scores in bits per byte can be compared."""
    val_docs: int | None = None
    """Number of documents at the start of the text that are the validation split; the default for
    docs_selected.jsonl is 50,000."""
    case_ops: MarkPieces | None = None
    """Marks of CaseOps to train the tokenizer with: marks, or marks and marks fused with the space before
    them. With --tokenizer, fused fuses the marks that it has; without this its marks are used as they are."""
    sample_bytes: int = SAMPLE_BYTES
    """Bytes at the start of the text that a tokenizer is trained on."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """The division into training and validation, if no validation split is given."""


@dataclass(frozen=True)
class PrepareOptions:
    """Turns text into a dataset: shards of tokens, a tokenizer and a manifest."""

    source: Literal["docs", "challenge", "text", "shards"]
    """docs: the common text, documentation of Python and packages. challenge: the export on the hub.
    text: files, or a dataset by name. shards: shards that are in the folder already, which get a manifest."""
    data: Annotated[Path, tyro.conf.arg(aliases=["--out"])]
    """The dataset folder."""
    tokenizer: Path | None = None
    """A SentencePiece .model file (text, shards)."""
    vocab_size: int | None = None
    """Train a tokenizer of this number of pieces instead (docs, text); the default for docs is 512."""
    name: str | None = None
    """Name of the dataset in the manifest (text, shards)."""
    origin: str | None = None
    """Origin of the text in the manifest (text, shards)."""
    licence: str | None = None
    """Licence of the text in the manifest (text, shards)."""
    text: Annotated[TextConfig, tyro.conf.arg(name="")] = field(default_factory=TextConfig)
    challenge: Annotated[ChallengeConfig, tyro.conf.arg(name="")] = field(default_factory=ChallengeConfig)


def prepare_default(
    source: Literal["docs", "challenge"], folder: Path, vocab_size: int, log: RunLog, train_shards: int = 8
) -> Manifest:
    """The dataset of a preset, made unless it is there; `train_shards` is how many shards the run will read.

    Of several processes one makes it, and the others wait.
    """
    with owned_folder(folder, log.info):
        if (folder / MANIFEST_NAME).is_file():
            return Manifest.load(folder)
        if source == "docs":
            return prepare_docs(folder, vocab_size, log)
        return prepare_challenge(folder, vocab_size, log, train_shards)


def prepare_challenge(
    folder: Path, vocab_size: int, log: RunLog, train_shards: int, endpoint: str | None = None
) -> Manifest:
    """The challenge's text in `vocab_size` pieces: published shards if the hub has them, else made here.

    If shards other than the challenge's own cannot be fetched, the log says why, and they are made from the
    challenge's documents, with a tokenizer trained on the training part. Raises DataError without documents.
    """
    own = EXPORTS[1024]
    repository = EXPORTS.get(vocab_size)
    config = ChallengeConfig(train_shards, f"sp{vocab_size}", False, repository or own, endpoint=endpoint)
    if repository is not None:
        try:
            return fetch_challenge(folder, config, log)
        except DataError as error:
            if repository == own:
                raise
            log.info(f"no prepared shards of {vocab_size:,} pieces: {error}")
    num_documents = documents_for(vocab_size, train_shards)
    text_mb = num_documents * DOCUMENT_BYTES / 1e6
    minutes = text_mb * ENCODE_SECONDS_PER_MB / (os.cpu_count() or 1) / 60
    log.info(
        f"making shards of {vocab_size:,} pieces from the challenge's documents: a download of tens of GB, a "
        f"tokenizer trained on {CHALLENGE_SAMPLE_BYTES / 1e6:,.0f} MB, and {text_mb:,.0f} MB of text to "
        f"encode, about {minutes:.0f} minutes of {os.cpu_count()} cores"
    )
    documents = folder.with_name("challenge_documents")
    fetch_challenge(documents, ChallengeConfig(1, "sp1024", True, own, endpoint=endpoint), log)
    files = (documents / DOCUMENTS_NAME,)
    text = TextConfig(files=files, max_docs=num_documents, sample_bytes=CHALLENGE_SAMPLE_BYTES)
    options = PrepareOptions("text", folder, vocab_size=vocab_size, name=f"fineweb_sp{vocab_size}", text=text)
    return prepare_text(options, log)


def prepare_docs(folder: Path, vocab_size: int, log: RunLog) -> Manifest:
    """The common text, as far as it is installed with Python and the dependencies.

    Validation is shipped; so is the tokenizer of DOCS_VOCAB_SIZE pieces, another one is trained. A dataset
    without some of the training documents is named docs_<vocab_size>_partial.
    """
    require_empty(folder)
    log.info("reading the documentation of the installed Python and packages")
    docs, common = read_docs(min(8, os.cpu_count() or 1)), load_common()
    training = common.select(docs.documents)
    log.info(
        f"{len(docs.documents)} documents from {docs.num_files} files ({docs.num_unreadable} not readable)"
    )
    found = common.describe(len(set(training)), docs.revision)
    name = f"docs_{vocab_size}" + ("" if len(set(training)) == len(common.training) else "_partial")
    origin = TextOrigin(name, common.source, common.licence, docs.revision, (found,))
    texts = [*common.validation, *training]
    stream = TextStream(((text, place) for place, text in enumerate(texts, 1)), len(texts), "documents")
    choice = TokenizerChoice(vocab_size=vocab_size)
    if vocab_size == DOCS_VOCAB_SIZE:
        choice = TokenizerChoice(common_tokenizer())
    given = GivenValidation(first_documents=len(common.validation))
    manifest = build_dataset(folder, origin, stream, choice, DOCS_SPLIT, log, given)
    log.info(found)
    if vocab_size == DOCS_VOCAB_SIZE:
        same = fingerprint(manifest) == common.fingerprint
        log.info(f"fingerprint {fingerprint(manifest)}, {'that' if same else 'NOT that'} of the common text")
    return manifest


def prepare_text(options: PrepareOptions, log: RunLog) -> Manifest:
    """Files or a named dataset, with a given tokenizer or one trained on the text."""
    config = options.text
    if (options.tokenizer is None) == (options.vocab_size is None):
        raise DataError("source text needs either --tokenizer FILE.model or --vocab-size N")
    for option, value in (("max-docs", config.max_docs), ("sample-bytes", config.sample_bytes)):
        if value is not None and value < 1:
            raise DataError(f"--{option} is {value}; expected at least 1")
    given, bad_rows = given_validation(config), BadRows(config.skip_bad_rows)
    for file in config.val_shard:
        require_file(file)
        require_as_stated(file)
    config.split.check()
    if options.tokenizer is not None:
        load_tokenizer(options.tokenizer)
    require_empty(options.data)
    if config.files:
        stream = stream_files(config.files, config.text_field, config.max_docs, bad_rows)
        names = ", ".join(path.name for path in config.files)
        source, licence, name = f"files {names}", "not stated", config.files[0].name.split(".")[0]
        revision = ", ".join(f"sha256 {sha256_of_file(path)}" for path in config.files)
    else:
        is_fineweb = config.dataset == FINEWEB[0]
        configuration = config.configuration or (FINEWEB[1] if is_fineweb else None)
        stream = stream_dataset(config.dataset, configuration, config.text_field, config.max_docs, bad_rows)
        source = f"dataset {config.dataset} {configuration or ''}".strip()
        licence = "ODC-By 1.0" if is_fineweb else "not stated"
        name, revision = config.dataset.split("/")[-1], "as streamed"
    if config.max_docs is not None:
        revision += f", first {config.max_docs} documents"
    origin = TextOrigin(options.name or name, options.origin or source, options.licence or licence, revision)
    tokenizer = TokenizerChoice(
        options.tokenizer, options.vocab_size or 0, config.case_ops, config.sample_bytes
    )
    return build_dataset(options.data, origin, stream, tokenizer, config.split, log, given)


def given_validation(config: TextConfig) -> GivenValidation:
    """The validation split that the options name, if any.

    Raises DataError for options that contradict each other, and for a part of the challenge's validation
    documents, because training would read the others.
    """
    if config.val_tokenizer and not config.val_shard:
        raise DataError("--val-tokenizer says how --val-shard was encoded; no shard is given")
    if config.val_docs is not None and (config.val_shard or config.val_docs < 1):
        raise DataError(f"--val-docs is {config.val_docs}; expected at least 1, and no --val-shard beside it")
    is_challenge = any(file.name.startswith(DOCUMENTS_NAME) for file in config.files) and not config.val_shard
    first = VALIDATION_DOCUMENTS if is_challenge else 0
    first = first if config.val_docs is None else config.val_docs
    if is_challenge and first < VALIDATION_DOCUMENTS:
        raise DataError(
            f"the challenge's validation is the first {VALIDATION_DOCUMENTS} documents of {DOCUMENTS_NAME}; "
            f"--val-docs {first} would train on the others (openai/parameter-golf #2127)"
        )
    return GivenValidation(config.val_shard, config.val_tokenizer, first)


def prepare(options: PrepareOptions, log: RunLog) -> Manifest:
    """Makes the dataset of the options, once no other process works in its folder; DataError if it fails."""
    _refuse_foreign_options(options)
    with owned_folder(options.data, log.info, keep_empty=options.data.is_dir()):
        return _prepare_owned(options, log)


def _prepare_owned(options: PrepareOptions, log: RunLog) -> Manifest:
    if options.vocab_size is not None and not 0 < options.vocab_size <= MAX_VOCAB_SIZE:
        raise DataError(f"--vocab-size is {options.vocab_size}; expected 1 to {MAX_VOCAB_SIZE}")
    if options.source == "docs":
        return prepare_docs(options.data, options.vocab_size or DOCS_VOCAB_SIZE, log)
    if options.source == "challenge":
        return fetch_challenge(options.data, options.challenge, log)
    if options.source == "text":
        return prepare_text(options, log)
    origin = TextOrigin(
        options.name or options.data.absolute().name,
        options.origin or "shards found in the folder",
        options.licence or "not stated",
        "as found",
    )
    return adopt_shards(options.data, options.tokenizer, origin, log)


def _refuse_foreign_options(options: PrepareOptions) -> None:
    """Raises DataError for an option that the source does not use."""
    readers = {
        **dict.fromkeys(("tokenizer", "name", "origin", "licence"), ("text", "shards")),
        "vocab_size": ("docs", "text"),
        "text": ("text",),
        "challenge": ("challenge",),
    }
    defaults = vars(PrepareOptions(options.source, options.data))
    for option, sources in readers.items():
        given, default = vars(options)[option], defaults[option]
        if options.source not in sources and given != default:
            if dataclasses.is_dataclass(given):
                option = next(name for name, value in vars(given).items() if value != vars(default)[name])
            flag = "--" + option.replace("_", "-")
            raise DataError(f"{flag} is for source {' or '.join(sources)}; the source is {options.source}")
