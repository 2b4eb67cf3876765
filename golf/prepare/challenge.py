"""The challenge's published export: its shards and tokenizer, from the Hugging Face hub."""

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from golf.data.manifest import MANIFEST_NAME, DataError, Manifest
from golf.data.vocabulary import Vocabulary
from golf.prepare.adopt import survey_published
from golf.prepare.assemble import TextOrigin, full_disk_as_data_error
from golf.prepare.hub import HubCommit, RemoteFile, difference_from_hub
from golf.prepare.tokenizer import check_tokenizer
from golf.prepare.totals import DOCUMENTS_NAME, VALIDATION_DOCUMENTS
from golf.system.log import ProgressBar, RunLog

EXPORTS = {1024: "willdepueoai/parameter-golf", 8192: "kevclark/parameter-golf"}
"""Dataset repositories with prepared shards, by pieces: the challenge's own, which has no other variant
(openai/parameter-golf #899), and a participant's export of the same documents."""
DOCUMENT_BYTES = 3_021
"""Mean size of a validation document: 151.08 million bytes in 50,000."""
TOKEN_BYTES = {1024: 2.436, 8192: 3.727}
"""Bytes of the challenge's validation text for a token, by pieces."""
ENCODE_SECONDS_PER_MB = 0.7
"""Of one core for 8,192 pieces (Intel Xeon at 2.5 GHz, 10 MB of transcripts, n = 1)."""


@dataclass(frozen=True)
class ChallengeConfig:
    """What to fetch of the published export."""

    train_shards: int = 8
    """Training shards, the first ones, 100 million tokens each; validation is always fetched whole."""
    variant: str = "sp1024"
    """Tokenizer of the export: its dataset is called fineweb10B_<variant>."""
    with_documents: bool = False
    """Also fetch the selected documents as text, docs_selected.jsonl (tens of GB)."""
    repository: str = EXPORTS[1024]
    """Dataset repository on the hub."""
    revision: str = "main"
    """Branch, tag or commit of it; the commit is written into the manifest."""
    endpoint: str | None = None
    """Address of the hub, if it is not the usual one."""


@dataclass(frozen=True)
class Export:
    """The part of the published export that one download takes."""

    name: str
    val: tuple[RemoteFile, ...]
    train: tuple[RemoteFile, ...]
    tokenizer: RemoteFile
    documents: tuple[RemoteFile, ...]
    """The documents as text, if they were asked for."""
    stats: dict[str, Any]
    """Counts by the export's own manifest."""

    @property
    def files(self) -> tuple[RemoteFile, ...]:
        """All of it, small files first."""
        return (self.tokenizer, *self.val, *self.train, *self.documents)


def documents_for(vocab_size: int, train_shards: int) -> int:
    """Documents from the start that fill validation and so many training shards of 100 million tokens."""
    token_bytes = TOKEN_BYTES.get(vocab_size, max(TOKEN_BYTES.values()))
    return VALIDATION_DOCUMENTS + math.ceil(100e6 * train_shards * token_bytes / DOCUMENT_BYTES)


def fetch_challenge(folder: Path, config: ChallengeConfig, log: RunLog) -> Manifest:
    """Downloads into `folder`, or adds to it what an earlier and smaller download left out.

    Every file has the size and the hash that the hub states, or DataError. Interrupted, it goes on where it
    stopped: what there is so far stays in a folder beside `folder` until all is there.
    """
    folder = folder.absolute()
    staging = folder.with_name(folder.name + ".download")
    with full_disk_as_data_error(f"{folder}: no space left on the disk; what was fetched stays in {staging}"):
        hub = HubCommit(config.repository, config.revision, config.endpoint)
        staging.mkdir(parents=True, exist_ok=True)
        export = _read_export(hub, config, staging, log)
        present = _present_manifest(folder, export)
        if present and {file.name for file in export.files} <= {path.name for path in folder.iterdir()}:
            log.info(f"{folder}: already holds {config.train_shards} training shards and all of validation")
            shutil.rmtree(staging)
            return present
        with log.progress("downloading", sum(file.size_bytes for file in export.files) / 1e6, "MB") as bar:
            paths = {file: _fetch(hub, file, folder, staging, bar) for file in export.files}
        manifest = _survey_export(config, export, hub.sha, paths, log)
        if folder.exists():
            for path in paths.values():
                os.replace(path, folder / path.name)
            manifest.save(folder)
            shutil.rmtree(staging)
        else:
            manifest.save(staging)
            os.rename(staging, folder)
    return manifest


def _read_export(hub: HubCommit, config: ChallengeConfig, staging: Path, log: RunLog) -> Export:
    """What to download, by the export's own manifest; DataError if it does not offer it."""
    found = hub.find([f"datasets/{MANIFEST_NAME}", MANIFEST_NAME])
    if not found:
        raise DataError(f"dataset {config.repository}: has no {MANIFEST_NAME}")
    path = staging / "export_manifest.json"
    with log.progress("reading the export's manifest", found[0].size_bytes / 1e6, "MB") as bar:
        hub.download(found[0], path, bar)
    name = f"fineweb10B_{config.variant}"
    try:
        listed = json.loads(path.read_bytes())
        by_name = {entry["name"]: entry for entry in listed["datasets"]}
        if name not in by_name:
            raise DataError(f"dataset {config.repository}: has no {name}; it has {', '.join(by_name)}")
        stats = by_name[name]["stats"]
        num_val, num_train = int(stats["files_val"]), int(stats["files_train"])
        tokenizers = {entry["name"]: entry for entry in listed["tokenizers"]}
        model_path = tokenizers[by_name[name]["tokenizer_name"]]["model_path"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f"{found[0].path} of {config.repository}: not as expected ({error!r})") from error
    finally:
        path.unlink()
    if not 0 < config.train_shards <= num_train:
        raise DataError(f"{config.train_shards} training shards were asked for; {name} has {num_train}")
    root = PurePosixPath(found[0].path).parent
    shards = root / "datasets" / name
    return Export(
        name,
        hub.find_all([str(shards / f"fineweb_val_{index:06d}.bin") for index in range(num_val)]),
        hub.find_all(
            [str(shards / f"fineweb_train_{index:06d}.bin") for index in range(config.train_shards)]
        ),
        hub.find_all([str(root / model_path)])[0],
        hub.find_all([str(root / DOCUMENTS_NAME)]) if config.with_documents else (),
        stats,
    )


def _fetch(hub: HubCommit, remote: RemoteFile, folder: Path, staging: Path, bar: ProgressBar) -> Path:
    """A file, checked: as it lies in `folder` or in the staging folder already, or downloaded."""
    present, path = folder / remote.name, staging / remote.name
    if present.exists():
        found = difference_from_hub(present, remote)
        if found:
            raise DataError(f"{present}: {found}; remove it to have the published file instead")
        bar.advance(remote.size_bytes / 1e6)
        return present
    if path.exists() and difference_from_hub(path, remote) is None:
        bar.advance(remote.size_bytes / 1e6)
    else:
        hub.download(remote, path, bar)
    return path


def _survey_export(
    config: ChallengeConfig, export: Export, commit: str, paths: dict[RemoteFile, Path], log: RunLog
) -> Manifest:
    vocabulary = Vocabulary.load(paths[export.tokenizer])
    check_tokenizer(vocabulary, export.tokenizer.name)
    origin = TextOrigin(
        export.name,
        "FineWeb documents, selected and tokenized for the Parameter Golf challenge: dataset "
        f"{config.repository} on the Hugging Face hub",
        "ODC-By 1.0",
        commit,
    )
    val, train = ([paths[file] for file in files] for files in (export.val, export.train))
    manifest = survey_published(val, train, vocabulary, export.tokenizer.name, origin, log)
    counted = manifest.num_tokens("val")
    if counted != export.stats.get("tokens_val", counted):
        stated = export.stats["tokens_val"]
        raise DataError(f"{export.name}: {counted} tokens of validation; the export's manifest says {stated}")
    return manifest


def _present_manifest(folder: Path, export: Export) -> Manifest | None:
    """The manifest in `folder`, if it is there; DataError if it is another dataset's."""
    if not (folder / MANIFEST_NAME).exists():
        return None
    manifest = Manifest.load(folder)
    if manifest.name != export.name:
        raise DataError(f"{folder}: holds the dataset {manifest.name}; name another folder for {export.name}")
    return manifest
