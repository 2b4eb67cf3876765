"""Files of a dataset repository on the Hugging Face hub, fetched with resume and checked byte for byte."""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
)

from golf.data.manifest import DataError, sha256_of_file
from golf.system.log import ProgressBar


@dataclass(frozen=True)
class RemoteFile:
    """A file of a hub repository, with what the hub says about it."""

    path: str
    size_bytes: int
    sha256: str | None
    """Of a file in large storage."""
    git_sha1: str
    """Of a small file, as a git object."""

    @property
    def name(self) -> str:
        """Without its folders."""
        return PurePosixPath(self.path).name


class HubCommit:
    """One commit of a dataset repository."""

    def __init__(self, repository: str, revision: str, endpoint: str | None):
        """Asks the hub which commit `revision` is now; DataError if it cannot say."""
        self._repository = repository
        self._endpoint = endpoint
        self._api = HfApi(endpoint=endpoint)
        with _hub_errors(
            f"dataset {repository}: the hub does not answer; text of another source needs no network"
        ):
            info = self._api.dataset_info(repository, revision=revision, timeout=30)
        if info.sha is None:
            raise DataError(f"dataset {repository}: the hub names no commit for {revision!r}")
        self.sha: str = info.sha

    def find(self, paths: list[str]) -> list[RemoteFile]:
        """Those of the files that are there."""
        with _hub_errors(f"dataset {self._repository}"):
            infos = self._api.get_paths_info(self._repository, paths, repo_type="dataset", revision=self.sha)
        return [
            RemoteFile(info.path, info.size, info.lfs.sha256 if info.lfs else None, info.blob_id)
            for info in infos
            if isinstance(info, RepoFile)
        ]

    def find_all(self, paths: list[str]) -> tuple[RemoteFile, ...]:
        """All of the files, in order; DataError if one is not there."""
        found = {remote.path: remote for remote in self.find(paths)}
        for path in paths:
            if path not in found:
                raise DataError(f"dataset {self._repository}: has no {path}")
        return tuple(found[path] for path in paths)

    def download(self, remote: RemoteFile, path: Path, bar: ProgressBar) -> None:
        """Fetches a file, from where an earlier attempt stopped, beside its place; checks and renames it.

        `bar` advances by MB. DataError if the transfer stops (what came is kept) or the file is not the one
        that the hub describes (nothing is kept).
        """
        part = path.with_name(path.name + ".part")
        start = part.stat().st_size if part.exists() else 0
        url = hf_hub_url(
            self._repository, remote.path, repo_type="dataset", revision=self.sha, endpoint=self._endpoint
        )
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        bar.advance(start / 1e6)
        with _hub_errors(f"{remote.path}: the download stopped; the same command goes on with it"):
            with _PartFile(part, bar) as file, _quiet_hub():
                http_get(url, file, resume_size=start, headers=headers, expected_size=remote.size_bytes)
        found = difference_from_hub(part, remote)
        if found:
            part.unlink()
            raise DataError(f"{remote.path}: {found}; the download was thrown away, run the command again")
        os.replace(part, path)


def difference_from_hub(path: Path, remote: RemoteFile) -> str | None:
    """What tells a local file from the one that the hub describes; None if it is that one."""
    size_bytes = path.stat().st_size
    if size_bytes != remote.size_bytes:
        return f"{size_bytes} bytes; the hub says {remote.size_bytes}"
    if remote.sha256:
        found = sha256_of_file(path)
        return None if found == remote.sha256 else f"sha256 {found}; the hub says {remote.sha256}"
    found = hashlib.sha1(b"blob %d\0" % size_bytes + path.read_bytes()).hexdigest()
    return None if found == remote.git_sha1 else f"git object {found}; the hub says {remote.git_sha1}"


class _PartFile(io.BufferedWriter):
    """A file opened for appending that moves a progress bar by what is written."""

    def __init__(self, path: Path, bar: ProgressBar):
        super().__init__(io.FileIO(path, "ab"))
        self._bar = bar

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._bar.advance(len(data) / 1e6)
        return super().write(data)


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Turns what the hub's client raises for lack of network, permission or file into a DataError."""
    try:
        yield
    except (HTTPError, OSError) as error:
        if not isinstance(error, HTTPError) and error.errno is not None:
            raise
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise DataError(f"{what} ({reason})") from error


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Without the hub client's own progress bars."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
