"""The challenge's published export, from the Hugging Face hub: resumed between runs, checked byte for byte.

`hf_hub_download` of huggingface_hub 2 deletes a partial file when it fails (its pull request #4228), which
here may be tens of GB; so files are fetched by its `http_get`, which resumes and retries.
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers

from golf.data.manifest import MANIFEST_NAME, Manifest, sha256_of_file
from golf.data.shards import DataError
from golf.prepare.rows import first_line
from golf.prepare.shards import (
    DOCUMENTS_NAME,
    VALIDATION_DOCUMENTS,
    TextOrigin,
    manifest_of_published,
)
from golf.prepare.staging import DOWNLOAD_NAME, claimed, full_disk_as_data_error, made_folder, move_into
from golf.system.log import ProgressBar, RunLog

EXPORTS = {1024: "willdepueoai/parameter-golf", 8192: "kevclark/parameter-golf"}
"""Dataset repositories with prepared shards, by vocabulary size: the challenge's own, which has no other
(openai/parameter-golf #899), and a participant's export of the same documents."""
DOCUMENT_BYTES = 3_021
"""Mean size of a validation document: 151.08 million bytes in 50,000."""
TOKEN_BYTES = {1024: 2.436, 8192: 3.727}
"""Bytes per token of the challenge's validation text, by vocabulary size."""
MAX_VALIDATION_SHARDS = 1_000
ENCODE_SECONDS_PER_MB = 0.7
"""Of one core for 8,192 pieces (Intel Xeon at 2.5 GHz, 10 MB of transcripts, n = 1)."""


@dataclass(frozen=True)
class ChallengeConfig:
    """The part of the published export to fetch."""

    train_shards: int = 8
    """Number of training shards, of 100 million tokens each; validation is always complete."""
    variant: str = "sp1024"
    """Tokenizer of the export, whose dataset is fineweb10B_<variant>."""
    with_documents: bool = False
    """Also fetch the selected documents as text, docs_selected.jsonl (tens of GB)."""
    repository: str = EXPORTS[1024]
    """Dataset repository on the hub."""
    revision: str = "main"
    """Branch, tag or commit of the repository; the manifest contains the commit."""
    endpoint: str | None = None
    """Address of the hub, if not huggingface.co."""


def documents_for(vocab_size: int, train_shards: int) -> int:
    """Number of documents that fill validation and `train_shards` of 100 million tokens."""
    token_bytes = TOKEN_BYTES.get(vocab_size, max(TOKEN_BYTES.values()))
    return VALIDATION_DOCUMENTS + math.ceil(100e6 * train_shards * token_bytes / DOCUMENT_BYTES)


def fetch_challenge(folder: Path, config: ChallengeConfig, log: RunLog) -> Manifest:
    """Downloads into `folder`, or adds the files that an earlier and smaller download left out.

    Raises DataError unless every file has the size and the hash that the hub states. `folder`/.download
    holds the files until all are there; after an interruption the next call continues with it.
    """
    if config.train_shards < 1:
        raise DataError(f"--train-shards is {config.train_shards}; expected at least 1")
    folder = folder.resolve()
    staging = folder / DOWNLOAD_NAME
    hub = HubCommit(config)
    with (
        full_disk_as_data_error(f"{folder}: no space left on the disk; what was fetched stays in {staging}"),
        made_folder(staging),
        claimed(staging, folder),
    ):
        name, stats, wanted = _read_export(hub, config, staging, log)
        present = Manifest.load(folder) if (folder / MANIFEST_NAME).exists() else None
        if present and present.name != name:
            raise DataError(f"{folder}: holds the dataset {present.name}; name another folder for {name}")
        if present and all((folder / PurePosixPath(path).name).exists() for path in wanted):
            log.info(f"{folder}: already holds {config.train_shards} training shards and all of validation")
            shutil.rmtree(staging)
            return present
        remotes = hub.find(wanted)
        if missing := set(wanted) - {remote.path for remote in remotes}:
            raise DataError(f"dataset {config.repository}: has no {min(missing)}")
        with log.progress("downloading", sum(remote.size for remote in remotes) / 1e6, "MB") as bar:
            paths = [_fetch(hub, remote, folder, staging, bar) for remote in remotes]
        val, train = ([path for path in paths if f"fineweb_{s}_" in path.name] for s in ("val", "train"))
        source = "FineWeb documents, selected and tokenized for the Parameter Golf challenge: dataset "
        source += f"{config.repository} on the Hugging Face hub"
        origin = TextOrigin(name, source, "ODC-By 1.0", hub.sha)
        manifest = manifest_of_published(val, train, paths[0], origin, log)
        counted, stated = manifest.num_tokens("val"), stats.get("tokens_val")
        if stated not in (None, counted):
            raise DataError(f"{name}: {counted} tokens of validation; the export's manifest says {stated}")
        manifest.save(staging)
        move_into(folder, staging)
    return manifest


class HubCommit:
    """One commit of a dataset repository; its methods raise DataError for every failure of the hub."""

    def __init__(self, config: ChallengeConfig):
        """Asks the hub for the commit of `config.revision`."""
        self._repository, self._endpoint = config.repository, config.endpoint
        self._api = HfApi(endpoint=config.endpoint)
        source = f"dataset {config.repository}"
        with _hub_errors(f"{source}: the hub does not answer; text of another source needs no network"):
            info = self._api.dataset_info(config.repository, revision=config.revision, timeout=30)
        if info.sha is None:
            raise DataError(f"{source}: the hub names no commit for {config.revision!r}")
        self.sha: str = info.sha

    def find(self, paths: list[str]) -> list[RepoFile]:
        """Those of `paths` that exist, in order, with the size and the hash that the hub states."""
        with _hub_errors(f"dataset {self._repository}"):
            infos = self._api.get_paths_info(self._repository, paths, repo_type="dataset", revision=self.sha)
        found = {info.path: info for info in infos if isinstance(info, RepoFile)}
        return [found[path] for path in paths if path in found]

    def download(self, remote: RepoFile, path: Path, bar: ProgressBar) -> None:
        """Fetches a file to `<path>.part`, from where an earlier attempt stopped, checks and renames it.

        `bar` advances by MB. A transfer that stops keeps the part; a file that differs from the hub's is
        deleted.
        """
        part = path.with_name(path.name + ".part")
        url = hf_hub_url(
            self._repository, remote.path, repo_type="dataset", revision=self.sha, endpoint=self._endpoint
        )
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}

        def progress(**options: Any) -> Any:
            return nullcontext(SimpleNamespace(update=lambda size: bar.advance(size / 1e6)))

        with _hub_errors(f"{remote.path}: the download stopped; the same command goes on with it"):
            with open(part, "ab") as file:
                start = file.tell()
                bar.advance(start / 1e6)
                http_get(
                    url,
                    file,
                    resume_size=start,
                    headers=headers,
                    expected_size=remote.size,
                    tqdm_class=progress,  # type: ignore[arg-type]
                )
        if found := difference_from_hub(part, remote):
            part.unlink()
            raise DataError(f"{remote.path}: {found}; the download was thrown away, run the command again")
        os.replace(part, path)


def difference_from_hub(path: Path, remote: RepoFile) -> str | None:
    """How a local file differs from the size and the hash that the hub states; None if it does not."""
    size = path.stat().st_size
    if size != remote.size:
        return f"{size} bytes; the hub says {remote.size}"
    if remote.lfs:
        found, kind, stated = sha256_of_file(path), "sha256", remote.lfs.sha256
    else:
        found = hashlib.sha1(b"blob %d\0" % size + path.read_bytes()).hexdigest()
        kind, stated = "git object", remote.blob_id
    return None if found == stated else f"{kind} {found}; the hub says {stated}"


def _read_export(
    hub: HubCommit, config: ChallengeConfig, staging: Path, log: RunLog
) -> tuple[str, dict[str, Any], list[str]]:
    """Name, counts and wanted files, the tokenizer first, from the export's own manifest."""
    found = hub.find([f"datasets/{MANIFEST_NAME}", MANIFEST_NAME])
    if not found:
        raise DataError(f"dataset {config.repository}: has no {MANIFEST_NAME}")
    remote, path = found[0], staging / "export_manifest.json"
    with log.progress("reading the export's manifest", remote.size / 1e6, "MB") as bar:
        hub.download(remote, path, bar)
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
    except DataError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{remote.path} of {config.repository}: not as expected ({error!r})") from error
    finally:
        path.unlink()
    if not 0 < config.train_shards <= num_train:
        raise DataError(f"{config.train_shards} training shards were asked for; {name} has {num_train}")
    if not 0 < num_val <= MAX_VALIDATION_SHARDS or not isinstance(model_path, str):
        raise DataError(
            f"{remote.path} of {config.repository}: {num_val} validation shards; expected 1 or more"
        )
    wanted = [model_path]
    for split, count in (("val", num_val), ("train", config.train_shards)):
        wanted += [f"datasets/{name}/fineweb_{split}_{index:06d}.bin" for index in range(count)]
    if config.with_documents:
        wanted.append(DOCUMENTS_NAME)
    root = PurePosixPath(remote.path).parent
    return name, stats, [str(root / path) for path in wanted]


def _fetch(hub: HubCommit, remote: RepoFile, folder: Path, staging: Path, bar: ProgressBar) -> Path:
    """The checked file: from `folder` or `staging` if it is there already, else downloaded."""
    name = PurePosixPath(remote.path).name
    present, path = folder / name, staging / name
    if present.exists():
        if found := difference_from_hub(present, remote):
            raise DataError(f"{present}: {found}; remove it to have the published file instead")
        path = present
    elif not path.exists() or difference_from_hub(path, remote):
        hub.download(remote, path, bar)
        return path
    bar.advance(remote.size / 1e6)
    return path


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Turns what the hub's client raises for lack of network, permission or file into a DataError."""
    try:
        yield
    except (HTTPError, OSError) as error:
        if not isinstance(error, HTTPError) and error.errno is not None:
            raise
        reason = re.sub(r"\[Errno -?\d+\] ", "", first_line(error))
        raise DataError(f"{what} ({reason})") from error
